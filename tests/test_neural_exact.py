"""∇J against the differentiated sum over all responses, against differences of J, and against the judge of tables."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import neural_references as ref
from tpg import truth
from tpg.errors import TooLarge, TpgError
from tpg.neural import enumeration, exact, subtrees
from tpg.neural.gpt import GPT, flat
from tpg.neural.problem import full_problem, problem, project, random_directions
from tpg.neural.rewards import HashReward
from tpg.neural.task import Task

ENDS: dict[str, Any] = {"weights": (0.25, 0.75), "end_token": 1, "discount": 0.5}
CASES: dict[str, tuple[dict[str, Any], dict[str, int]]] = {  # task, network
    "one prompt": ({"kind": "hash"}, {}),
    "three prompts": ({"kind": "hash", "weights": (0.2, 0.3, 0.5)}, {"layers": 1, "heads": 4}),
    "end token in the middle": ({"kind": "hash", "horizon": 4, **ENDS}, {}),
    "end token first, discounted": ({"kind": "table", **ENDS, "end_token": 0}, {"layers": 3, "heads": 1}),
    "horizon 1": ({"kind": "hash", "horizon": 1, "weights": (0.25, 0.75)}, {"heads": 4}),
    "horizon 1, end token": ({"kind": "table", "horizon": 1, **ENDS}, {"layers": 1}),
    "two tokens": ({"kind": "table", "vocab": 2, "horizon": 5, "weights": (0.4, 0.6), "discount": 0.9}, {}),
    "two tokens, one ends": ({"kind": "hash", "vocab": 2, "horizon": 5, **ENDS}, {"heads": 1}),
    "arithmetic": ({"kind": "arithmetic", "weights": (0.25, 0.75)}, {"layers": 1, "heads": 1}),
    "arithmetic with an end": ({"kind": "arithmetic", "vocab": 4, **ENDS, "end_token": 3}, {}),
    "key token": ({"kind": "key token", "weights": (0.25, 0.75), "discount": 0.9}, {"layers": 3}),
    "table": ({"kind": "table", "vocab": 4, "weights": (0.25, 0.75)}, {"heads": 4}),
}


@cache
def case(name: str) -> tuple[GPT, Task, ref.Twin]:
    given_task, sizes = CASES[name]
    task, twin = ref.pair(**given_task)
    return ref.crooked(11, vocab=task.vocab, horizon=task.horizon, prompts=task.prompts, **sizes), task, twin


@cache
def right(name: str) -> tuple[float, torch.Tensor]:
    net, _, twin = case(name)
    return ref.gradient(net, twin)


# J and ∇J


@pytest.mark.parametrize("name", CASES)
def test_the_gradient_is_that_of_the_sum_over_all_responses(name: str) -> None:
    net, task, _ = case(name)
    found, (objective, gradient) = exact.gradient(net, task), right(name)
    assert found.objective == pytest.approx(objective, rel=ref.EXACT)
    assert gradient.norm() > 1e-3  # there is something to compare
    assert ref.apart(found.flat, gradient) < ref.EXACT
    assert torch.equal(found.flat, flat(found.gradient))
    assert {n: g.shape for n, g in found.gradient.items()} == {n: p.shape for n, p in net.params.items()}
    assert found.prefixes == task.prefixes


@given(
    vocab=st.integers(2, 4),
    horizon=st.integers(1, 3),
    prompts=st.integers(1, 3),
    end=st.none() | st.integers(0, 3),
    discount=st.sampled_from([1.0, 0.7]),
    kind=st.sampled_from(["hash", "arithmetic", "key token", "table"]),
    layers=st.integers(1, 2),
    heads=st.sampled_from([1, 2, 4]),
    chunk=st.none() | st.integers(1, 40),
    seed=st.integers(0, 10**6),
)
@settings(max_examples=15)
def test_the_gradient_on_any_task(
    vocab: int,
    horizon: int,
    prompts: int,
    end: int | None,
    discount: float,
    kind: str,
    layers: int,
    heads: int,
    chunk: int | None,
    seed: int,
) -> None:
    end = None if end is None else min(end, vocab - 1)
    weights = tuple((x + 1) / sum(range(1, prompts + 1)) for x in range(prompts))
    task, twin = ref.pair(kind, vocab, horizon, weights, end, discount)
    net = ref.crooked(seed, vocab=vocab, horizon=horizon, prompts=prompts, layers=layers, heads=heads)
    chunk = None if chunk is None else max(chunk, min(ref.chunks(task)))
    found, (objective, gradient) = exact.gradient(net, task, chunk), ref.gradient(net, twin)
    # Where g nearly cancels, rounding is relative to what cancels: rewards of a size of 1.
    scale = max(1.0, float(gradient.norm()))
    assert abs(found.objective - objective) < ref.EXACT * scale
    assert float((found.flat - gradient).norm()) < ref.EXACT * scale


@pytest.mark.parametrize("name", ["end token in the middle", "table", "two tokens, one ends"])
def test_the_gradient_is_the_slope_of_the_objective(name: str) -> None:
    # J at θ ± h v: central differences D(h) = J′ + c₁h² + c₂h⁴ + …, extrapolated twice (Richardson) from h, h/2, h/4.
    # The last correction bounds what is left once corrections shrink, which is asserted.  Rounding: a probability
    # passes T softmaxes of logits that 10 · width · layers roundings made, so J errs by T · 10 · width · layers · ε
    # times the largest reward; it is divided by the smallest step and weighed by Σ|extrapolation weights| < 3.
    net, task, twin = case(name)
    found, h = exact.gradient(net, task), 0.001
    largest = max(abs(twin.total(x, w)) for x in range(task.prompts) for w in twin.words())
    rounding = 3 * task.horizon * 10 * net.width * net.layers * np.finfo(float).eps * largest / (h / 4)
    for v in [found.flat / found.flat.norm(), *random_directions(net, 2) / net.size**0.5]:
        with torch.no_grad():
            ahead, behind = (
                [float(ref.expected(ref.shifted(net, v, s * h / 2**k), twin)) for k in range(3)] for s in (1, -1)
            )
        plain = [(a - b) / (2 * h / 2**k) for k, (a, b) in enumerate(zip(ahead, behind, strict=True))]
        once = [(4 * plain[k + 1] - plain[k]) / 3 for k in (0, 1)]
        twice = (16 * once[1] - once[0]) / 15
        bound = abs(twice - once[1]) + rounding
        assert abs(twice - once[1]) < abs(once[1] - plain[2]) + rounding
        assert bound < 1e-6 * float(found.flat.norm())  # a bound that says something
        assert abs(float(found.flat @ v) - twice) < bound


@pytest.mark.parametrize("name", CASES)
def test_the_package_enumerates_the_same(name: str) -> None:
    net, task, _ = case(name)
    objective, gradient = enumeration.gradient(net, task)
    assert objective == pytest.approx(right(name)[0], rel=ref.EXACT)
    assert enumeration.objective(net, task) == pytest.approx(objective, rel=ref.EXACT)
    assert ref.apart(gradient, right(name)[1]) < ref.EXACT


@pytest.mark.parametrize("name", ["horizon 1, end token", "arithmetic with an end", "three prompts"])
def test_the_judge_of_tables_agrees(name: str) -> None:
    net, task, _ = case(name)
    found, full = exact.gradient(net, task), full_problem(net, task)
    assert float(truth.objective(full)) == pytest.approx(found.objective, rel=ref.EXACT)
    for route in truth.ROUTES.values():
        assert ref.apart(full.combine(route(full)), found.flat) < ref.EXACT
    along = random_directions(net, 3, seed=5)
    few = problem(net, task, along)
    assert float(truth.objective(few)) == pytest.approx(found.objective, rel=ref.EXACT)
    assert ref.apart(few.combine(truth.gradient(few)), project(found.gradient, along)) < ref.EXACT


def test_a_constant_reward_has_no_gradient_and_one_on_length_has() -> None:
    # Σ_t 1 is T whatever is said; with an end token it is the length, which the policy moves.
    def one(prompt: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        return torch.ones(tokens.shape, dtype=torch.float64)

    net, _, _ = case("end token in the middle")
    weights = (0.25, 0.75)
    fixed, variable = (exact.gradient(net, Task(3, 4, one, weights, end)) for end in (None, 1))
    assert fixed.objective == pytest.approx(4, rel=ref.EXACT)
    assert fixed.flat.norm() < ref.EXACT
    assert 1 < variable.objective < 4
    assert variable.flat.norm() > 1e-2


# Pieces


@pytest.mark.parametrize("name", CASES)
def test_any_chunk_gives_the_same_numbers(name: str) -> None:
    net, task, _ = case(name)
    whole = exact.gradient(net, task)
    for chunk in ref.chunks(task):
        found = exact.gradient(net, task, chunk)
        assert found.largest <= chunk
        assert abs(found.objective - whole.objective) <= 1e-13 * max(1, abs(whole.objective))
        assert ref.apart(found.flat, whole.flat) < 1e-13 * max(1, 1 / float(whole.flat.norm()))
    assert whole.largest == task.prefixes  # in one piece


@pytest.mark.parametrize("name", ["end token in the middle", "two tokens", "two tokens, one ends", "three prompts"])
def test_a_piece_holds_what_the_plan_says(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    net, task, _ = case(name)
    held: list[int] = []

    def counted(*given: Any) -> subtrees.Piece:
        piece = subtrees.compute(*given)
        held.append(sum(len(x) for x in piece.logits) + piece.path.numel())
        return piece

    monkeypatch.setattr(exact, "compute", counted)
    seen = set()
    for chunk in ref.chunks(task):
        held.clear()
        cut, found = subtrees.plan(task, chunk), exact.gradient(net, task, chunk)
        assert found.largest == cut.largest == max(held)
        roots = task.prompts * len(task.on) ** cut.split
        assert [r for first, last in cut.pieces for r in range(first, last)] == list(range(roots))
        assert len(held) == len(cut.pieces) + (cut.split > 0)
        seen.add((cut.split > 0, len(cut.pieces) > 1))
    assert (False, False) in seen  # whole
    assert (True, True) in seen or len(task.on) == 1  # cut; a chain has nothing to cut


def test_a_piece_is_the_network_on_its_prefixes() -> None:
    net, task, _ = case("end token in the middle")
    piece = subtrees.compute(net, task, 1, 3, 1, 3)  # roots 1 and 2 of (0, 0), (0, 2), (1, 0), (1, 2)
    assert (piece.prompt.tolist(), piece.path.tolist()) == ([0, 1], [[2], [0]])
    prompt, tokens = piece.prefixes(2)
    paths = [[2, 0, 0], [2, 0, 2], [2, 2, 0], [2, 2, 2], [0, 0, 0], [0, 0, 2], [0, 2, 0], [0, 2, 2]]
    assert (prompt.tolist(), tokens.tolist()) == ([0] * 4 + [1] * 4, paths)
    for k in range(3):
        assert ref.apart(piece.logits[k].detach(), net.forward(*piece.prefixes(k))[:, -1]) < ref.EXACT
    first = [ref.softmax(ref.logits(net, x, ())[0].tolist())[w] for x, w in ((0, 2), (1, 0))]
    assert ref.apart(piece.reach(), np.array(first)) < ref.EXACT


@pytest.mark.parametrize("chunk", [None, 12, 6])
def test_progress_goes_forward_to_the_end(chunk: int | None) -> None:
    net, task, _ = case("end token in the middle")
    seen: list[tuple[int, int]] = []
    exact.gradient(net, task, chunk, lambda done, total: seen.append((done, total)))
    done = [count for count, _ in seen]
    assert {total for _, total in seen} == {task.prefixes}
    assert done == sorted(done)
    assert (done[0] > 0, done[-1]) == (True, task.prefixes)
    assert len(seen) >= len(subtrees.plan(task, chunk or task.prefixes).pieces)


# What stays as it was


@pytest.mark.parametrize("wanted", [False, True])
def test_the_network_is_left_alone(wanted: bool) -> None:
    _, task, _ = case("end token in the middle")
    net = ref.crooked(2, vocab=3, horizon=4, prompts=2)
    net = net.at({name: p.clone().requires_grad_(wanted) for name, p in net.params.items()})
    before = {name: p.detach().clone() for name, p in net.params.items()}
    random = torch.get_rng_state()
    one, two = exact.gradient(net, task, 6), exact.gradient(net, task, 6)
    assert torch.equal(one.flat, two.flat)  # nothing adds up from call to call
    assert all(p.grad is None and p.requires_grad is wanted for p in net.params.values())
    assert all(torch.equal(p.detach(), before[name]) for name, p in net.params.items())
    assert not any(g.requires_grad for g in one.gradient.values())
    assert torch.equal(random, torch.get_rng_state())


def test_gradients_may_be_switched_off_outside() -> None:
    net, task, _ = case("one prompt")
    with torch.no_grad():
        assert torch.equal(exact.gradient(net, task).flat, exact.gradient(net, task).flat)


# What is refused


@pytest.mark.parametrize("sizes", [{"vocab": 4}, {"horizon": 4}, {"prompts": 2}])
def test_a_task_of_other_sizes_is_refused(sizes: dict[str, int]) -> None:
    net = ref.crooked(1, **{"vocab": 3, "horizon": 3, "prompts": 1, **sizes})
    message = (
        rf"^a network of vocab, horizon, prompts = \({net.vocab}, {net.horizon}, {net.prompts}\) given, the task has"
    )
    with pytest.raises(TpgError, match=message + r" \(3, 3, 1\): make both of the same sizes$"):
        exact.gradient(net, Task(3, 3, HashReward()))


@pytest.mark.parametrize("chunk", [0, -3])
def test_a_chunk_of_nothing_is_refused(chunk: int) -> None:
    net, task, _ = case("one prompt")
    with pytest.raises(TpgError, match=rf"^chunk={chunk} given: it must be at least 1 prefix$"):
        exact.gradient(net, task, chunk)


@pytest.mark.parametrize("name", CASES)
def test_a_chunk_below_the_smallest_cut_is_refused(name: str) -> None:
    net, task, _ = case(name)
    least = min(ref.chunks(task))
    exact.gradient(net, task, least)
    if least > 1:
        message = rf"^pieces of {least - 1} prefixes given, this tree cannot be cut below {least}: give as many$"
        with pytest.raises(TooLarge, match=message):
            exact.gradient(net, task, least - 1)


def never(*given: Any) -> Any:
    raise AssertionError("work was started")


@pytest.mark.parametrize(
    ("vocab", "horizon", "prefixes"), [(32, 10, "3.63e[+]13"), (64, 150, ".*"), (8, 400, ".*"), (8, 5000, ".*")]
)
def test_a_tree_that_cannot_fit_is_refused(
    vocab: int, horizon: int, prefixes: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # (32¹⁰ − 1)/31 = 3.63e13 prefixes; 8⁴⁰⁰ is beyond floats
    monkeypatch.setattr(exact, "compute", never)
    net = ref.crooked(1, vocab=vocab, horizon=horizon, layers=1)
    with pytest.raises(TooLarge, match=rf"^vocab={vocab}, horizon={horizon}: {prefixes} prefixes, {net.size} param"):
        exact.gradient(net, Task(vocab, horizon, HashReward()))


def test_the_count_of_operations_is_that_of_the_tree() -> None:
    # forward 2 and backward 4 per parameter and prefix; scores and mixing: 2 · 2 width per position of the past, and
    # twice as much backwards
    net, task, _ = case("end token in the middle")
    right = 30 * (6 * net.size + 2 * 12 * 4 * 4)
    assert exact.operations(net, task) == right


def test_pieces_beyond_the_memory_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    net, task, _ = case("end token in the middle")
    need = exact.footprint(net, 30, task)
    monkeypatch.setattr(exact, "available", lambda device: need)
    exact.gradient(net, task)
    monkeypatch.setattr(exact, "available", lambda device: need - 1)
    monkeypatch.setattr(exact, "compute", never)
    with pytest.raises(TooLarge, match=r"^pieces of 30 prefixes need about .* bytes, .* are free: give fewer$"):
        exact.gradient(net, task)
    assert exact.footprint(net, 6, task) < need / 4
    narrow = net.at({name: p.float() for name, p in net.params.items()})
    assert exact.footprint(narrow, 30, task) == need / 2


def test_the_machine_says_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    assert exact.available(torch.device("cpu")) > 2**20

    def missing(*given: Any, **more: Any) -> Any:
        raise FileNotFoundError

    monkeypatch.setattr("builtins.open", missing)
    assert exact.available(torch.device("cpu")) == float("inf")


@pytest.mark.gpu
@pytest.mark.parametrize("name", CASES)
def test_a_gpu_finds_the_same_gradient(name: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device on this machine")
    net, task, _ = case(name)
    there = net.at({n: p.cuda() for n, p in net.params.items()})
    for chunk in (None, min(ref.chunks(task))):
        found = exact.gradient(there, task, chunk)
        assert found.objective == pytest.approx(right(name)[0], rel=ref.EXACT)
        assert ref.apart(found.flat.cpu(), right(name)[1]) < ref.EXACT
