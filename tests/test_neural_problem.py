"""The transformer as a Problem: every table against the network run prefix by prefix, traces against the whole."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from tests import neural_references as ref
from tpg.errors import TooLarge, TpgError
from tpg.estimators.table import ESTIMATORS
from tpg.moments import moments
from tpg.neural import exact
from tpg.neural import problem as room
from tpg.neural.gpt import GPT, make
from tpg.neural.problem import full_problem, problem, project, random_directions, rotated, tabular, trace
from tpg.neural.rewards import ArithmeticReward, HashReward
from tpg.neural.task import Task
from tpg.problem.problem import Problem

CASES: dict[str, tuple[dict[str, Any], dict[str, int]]] = {  # task, network
    "plain": ({"kind": "hash", "weights": (0.25, 0.75)}, {"heads": 1}),
    "end token": (
        {"kind": "table", "vocab": 3, "horizon": 4, "weights": (0.25, 0.75), "end_token": 1, "discount": 0.5},
        {"layers": 1},
    ),
    "horizon 1": ({"kind": "hash", "horizon": 1, "weights": (0.2, 0.3, 0.5)}, {"layers": 3, "heads": 4}),
}
SMALL = {"layers": 1, "width": 2, "heads": 1}


@cache
def case(name: str) -> tuple[GPT, Task, ref.Twin]:
    given, sizes = CASES[name]
    task, twin = ref.pair(**given)
    return ref.crooked(21, vocab=task.vocab, horizon=task.horizon, prompts=task.prompts, **sizes), task, twin


@cache
def small() -> tuple[GPT, Task, Problem]:
    """Few parameters, so that a whole basis of directions fits."""
    task, _ = ref.pair("hash", 2, 3, (0.25, 0.75), 1, 0.5)
    net = ref.crooked(5, vocab=2, horizon=3, prompts=2, **SMALL)
    return net, task, full_problem(net, task)


@cache
def slopes(name: str) -> np.ndarray:
    """[N, V, D] ∇ logit of every token after every prefix: one backward pass for each."""
    net, _, twin = case(name)
    moved, out = ref.leaf(net), []
    for prompt, tokens in twin.prefixes():
        row = moved.forward(torch.tensor([prompt]), torch.tensor([tokens], dtype=torch.long))[0, -1]
        for value in row:
            found = torch.autograd.grad(value, list(moved.params.values()), retain_graph=True, allow_unused=True)
            out.append(torch.cat([g.reshape(-1) for g in found if g is not None]))
    return torch.stack(out).reshape(len(twin.prefixes()), twin.vocab, -1).numpy()


def right_tables(found: Problem, name: str) -> None:
    net, task, twin = case(name)
    prefixes = twin.prefixes()
    probs = [ref.softmax(ref.logits(net, x, w)[-1].tolist()) for x, w in prefixes]
    paid = [[twin.rule(x, (*w, a))[-1] for a in range(twin.vocab)] for x, w in prefixes]
    assert ref.apart(found.probs, np.array(probs)) < ref.EXACT
    assert found.rewards.tolist() == paid
    assert (found.weights.tolist(), found.discount, found.end_token) == (
        list(twin.weights),
        twin.discount,
        twin.end_token,
    )
    assert np.array_equal(found.tree.inner, task.tree().inner)
    assert found.behaviour is None
    assert found.reference is None


@pytest.mark.parametrize("name", CASES)
def test_the_tables_are_those_of_the_network_prefix_by_prefix(name: str) -> None:
    net, task, _ = case(name)
    along = random_directions(net, 3, seed=2)
    right_tables(problem(net, task, along), name)
    right_tables(full_problem(net, task), name)
    right_tables(replace(problem(net, task, along), probs=tabular(net, task).probs), name)


@pytest.mark.parametrize("name", CASES)
def test_features_are_the_slopes_of_the_logits(name: str) -> None:
    net, task, _ = case(name)
    along, full = random_directions(net, 3, seed=2), full_problem(net, task)
    assert ref.apart(full.features, slopes(name)) < ref.EXACT
    few = problem(net, task, along)
    assert ref.apart(few.features, slopes(name) @ along.numpy().T) < ref.EXACT
    assert ref.apart(few.features, full.features @ along.numpy().T) < ref.EXACT
    assert (full.parameters, few.parameters) == (net.size, 3)


def test_features_are_differences_of_the_logits() -> None:
    # (f(h) − f(−h)) / 2h twice extrapolated, as in test_neural_exact: the last correction bounds what is left; logits
    # of a size of at most 10 err by 10 · width · layers · ε of it, over the smallest step, times 3.
    net, task, twin = case("end token")
    h = 1e-3
    v = random_directions(net, 1, seed=4) / net.size**0.5
    found = problem(net, task, v)
    assert found.features is not None

    def logits(step: float) -> np.ndarray:
        moved = ref.shifted(net, v[0], step)
        return np.array([ref.logits(moved, x, w)[-1] for x, w in twin.prefixes()])

    plain = [(logits(h / 2**k) - logits(-h / 2**k)) / (2 * h / 2**k) for k in range(3)]
    once = [(4 * plain[k + 1] - plain[k]) / 3 for k in (0, 1)]
    twice = (16 * once[1] - once[0]) / 15
    assert np.abs(logits(0)).max() < 10
    rounding = 3 * 10 * net.width * net.layers * np.finfo(float).eps * 10 / (h / 4)
    bound = np.abs(twice - once[1]) + rounding
    assert bound.max() < 1e-6
    assert (np.abs(found.features[..., 0] - twice) < bound).all()


@pytest.mark.parametrize("chunk", [6, 12, 100])
def test_pieces_change_nothing(chunk: int) -> None:
    net, task, _ = case("end token")
    along = random_directions(net, 9)
    seen: list[tuple[int, int]] = []
    found = problem(net, task, along, chunk, lambda done, total: seen.append((done, total)))
    whole = problem(net, task, along)
    assert ref.apart(found.features, whole.features) < 1e-13
    assert ref.apart(found.probs, whole.probs) < 1e-13
    assert ref.apart(tabular(net, task, chunk).probs, whole.probs) < 1e-13
    assert seen == [(k + 1, len(seen)) for k in range(len(seen))]


def test_float32_networks_give_nearly_the_same_problem() -> None:
    # Its logits are rounded: test_neural_rounding bounds them; here only that the tables come out of the same places.
    net, task, _ = case("end token")
    narrow = net.at({name: p.float() for name, p in net.params.items()})
    along = random_directions(net, 2)
    wide, found = problem(net, task, along), problem(narrow, task, along.float())
    assert found.features is not None
    assert found.features.dtype == np.float64
    assert ref.apart(found.probs, wide.probs) < 1e-4
    assert ref.apart(found.features, wide.features) < 1e-3


# Directions and traces


def test_directions_come_from_their_seed() -> None:
    net, _, _ = case("plain")
    drawn = random_directions(net, 50, seed=3)
    assert (drawn.shape, drawn.dtype) == ((50, net.size), net.dtype)
    assert torch.equal(drawn, random_directions(net, 50, seed=3))
    assert not torch.equal(drawn, random_directions(net, 50, seed=4))
    # n standard normal numbers: mean within 6/√n of 0 and mean square within 6 √(2/n) of 1, but for 4e-9 of all seeds
    n = drawn.numel()
    assert abs(float(drawn.mean())) < 6 / n**0.5
    assert abs(float((drawn**2).mean()) - 1) < 6 * (2 / n) ** 0.5


def test_a_projection_is_an_inner_product() -> None:
    net, task, _ = case("plain")
    found, along = exact.gradient(net, task), random_directions(net, 2)
    right = [sum(float(a) * float(b) for a, b in zip(found.flat, v, strict=True)) for v in along]
    assert ref.apart(project(found.gradient, along), np.array(right)) < ref.EXACT


@pytest.mark.parametrize("name", ["rloo", "reinforce", "exact_advantage"])
def test_a_basis_of_directions_has_exactly_the_trace(name: str) -> None:
    # Σ_i q_iᵀ C q_i = tr C for any orthonormal basis; directions √D q_i therefore have tr C as their plain average.
    net, task, full = small()
    random = torch.Generator().manual_seed(1)
    basis, _ = torch.linalg.qr(torch.randn(net.size, net.size, generator=random, dtype=torch.float64))
    found = trace(problem(net, task, net.size**0.5 * basis.T), ESTIMATORS[name], 2)
    whole = moments(full, ESTIMATORS[name], 2, covariance=True)
    assert whole.covariance is not None
    assert found.estimate == pytest.approx(float(whole.total_variance), rel=ref.EXACT)
    assert float(np.trace(whole.covariance)) == pytest.approx(float(whole.total_variance), rel=ref.EXACT)
    along = net.size * np.einsum("pi,pq,qi->i", basis.numpy(), whole.covariance, basis.numpy())
    middle = sum(along) / net.size
    error = (sum((a - middle) ** 2 for a in along) / (net.size - 1) / net.size) ** 0.5
    assert found.standard_error == pytest.approx(error, rel=1e-9)


def test_random_directions_estimate_the_trace() -> None:
    # vᵀCv of normal v has mean tr C and variance 2 tr C² ≤ 2 (tr C)²: the mean of m lies within √(2/(mδ)) tr C but for
    # a share δ of all seeds (Chebyshev), here δ = 1/1000 with the exact tr C².
    net, task, full = small()
    whole = moments(full, ESTIMATORS["rloo"], 2, covariance=True)
    assert whole.covariance is not None
    found = trace(problem(net, task, random_directions(net, 200, seed=1)), ESTIMATORS["rloo"], 2)
    variance = 2 * float((whole.covariance**2).sum()) / 200
    assert abs(found.estimate - float(np.trace(whole.covariance))) < (1000 * variance) ** 0.5


@pytest.mark.parametrize("name", ["rloo", "reinforce"])
def test_rotating_scores_keeps_every_length(name: str) -> None:
    _, _, full = small()
    few = rotated(full)
    assert few.parameters == full.probs.size < full.parameters
    assert few.features is not None
    assert full.features is not None
    flat_few, flat_full = (p.features.reshape(p.probs.size, -1) for p in (few, full))  # type: ignore[union-attr]
    assert ref.apart(flat_few @ flat_few.T, flat_full @ flat_full.T) < ref.EXACT
    here, there = (moments(p, ESTIMATORS[name], 2).total_variance for p in (few, full))
    assert float(here) == pytest.approx(float(there), rel=ref.EXACT)
    assert rotated(few) is few


# What is refused


@pytest.mark.parametrize("shape", [(0, 0), (3,), (2, 2, 2), (2, 5)])
def test_directions_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    net, task, _ = case("plain")
    given = ", ".join(map(str, shape)) + ("," if len(shape) == 1 else "")
    with pytest.raises(
        TpgError, match=rf"^directions \({given}\) given, needed \[m, {net.size}\]: one number per param"
    ):
        problem(net, task, torch.zeros(shape, dtype=torch.float64))


def test_no_directions_are_refused() -> None:
    net, task, _ = case("plain")
    with pytest.raises(TpgError, match=rf"^directions \(0, {net.size}\) given, needed"):
        problem(net, task, torch.zeros(0, net.size, dtype=torch.float64))


def test_directions_take_the_number_type_of_the_network() -> None:
    net, task, _ = case("plain")
    given = random_directions(net, 2).float()
    found, right = problem(net, task, given), problem(net, task, given.double())
    assert ref.apart(found.features, right.features) < ref.EXACT


def test_tables_that_cannot_fit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    net, task, _ = case("plain")  # 2 (1 + 3 + 9) = 26 prefixes of 3 tokens
    monkeypatch.setattr(room, "MAX_TABLE", 26 * 3 * 2)
    problem(net, task, random_directions(net, 2))
    with pytest.raises(TooLarge, match=r"^scores of 26 prefixes along 3 directions would need 234 entries.*: fewer"):
        problem(net, task, random_directions(net, 3))
    with pytest.raises(TooLarge, match=rf"^scores of 26 prefixes along {net.size} directions .*: random directions"):
        full_problem(net, task)


@pytest.mark.parametrize("make", [lambda n, t: problem(n, t, random_directions(n, 1)), full_problem, tabular])
def test_sizes_are_checked_first(make: Any) -> None:
    net, _, _ = case("plain")
    with pytest.raises(TpgError, match=r"^a network of vocab, horizon, prompts"):
        make(net, Task(4, 3, HashReward()))
    deep = ref.crooked(1, vocab=32, horizon=10, layers=1)
    with pytest.raises(TooLarge, match=r"operations, the limit on cpu"):
        make(deep, Task(32, 10, HashReward()))


# The checks can fail


def test_faults_in_the_tables_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    net, task, _ = case("end token")
    along = random_directions(net, 3, seed=2)
    full = full_problem(net, task)
    right = slopes("end token") @ along.numpy().T
    assert ref.apart(problem(net, task, along, 6).features, right) < ref.EXACT

    def one_late(*given: Any) -> Any:
        piece = compute(*given)
        return replace(piece, logits=[x.roll(1, 0) for x in piece.logits])

    compute, unflat = room.compute, room.unflat
    with monkeypatch.context() as patch:
        patch.setattr(room, "compute", one_late)  # prefixes of one level in another order
        assert ref.apart(problem(net, task, along, 6).features, right) > 1e-2
    with monkeypatch.context() as patch:
        patch.setattr(room, "unflat", lambda v, like: unflat(v.flip(0), like))  # parameters in another order
        assert ref.apart(problem(net, task, along, 6).features, right) > 1e-2
    last = torch.arange(net.size) < net.size - net.vocab * net.width  # all but the head
    held = full.features @ (along * last).numpy().T  # type: ignore[operator]
    assert ref.apart(held, right) > 1e-2


@pytest.mark.parametrize("name", ["rloo", "grpo", "exact_advantage"])
def test_random_directions_agree_with_all_parameters(name: str) -> None:
    # Laurent and Massart (Ann. Statist. 2000, lemma 1): the mean over m normal directions of vᵀCv leaves
    # tr C by more than 2‖C‖_F √(x/m) + 2‖C‖ x/m with probability at most 2e^{−x}.
    network, task = make(3, 3, 2, layers=1, width=8, heads=2), Task(3, 3, ArithmeticReward(3, 3, 1), (0.25, 0.75), 1)
    exact_moments = moments(rotated(full_problem(network, task)), ESTIMATORS[name], 2, covariance=True)
    covariance, count, x = exact_moments.covariance, 512, np.log(2 / 1e-9)
    size, largest = np.linalg.norm(covariance), np.linalg.norm(covariance, 2)
    allowed = 2 * size * np.sqrt(x / count) + 2 * largest * x / count
    total = float(exact_moments.total_variance)
    assert allowed < total  # the test can fail
    drawn = problem(network, task, random_directions(network, count, seed=1))
    assert abs(trace(drawn, ESTIMATORS[name], 2).estimate - total) < allowed
    # the planted mistake: directions of variance 1/2
    half = problem(network, task, random_directions(network, count, seed=1) / np.sqrt(2))
    assert abs(trace(half, ESTIMATORS[name], 2).estimate - total) > allowed
