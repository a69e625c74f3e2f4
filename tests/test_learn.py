"""Ascent: steps against the softmax written out, first-order gains, continuations, tokens, many runs, refusals."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tpg import learn, rollouts, truth
from tpg.errors import EstimatorError
from tpg.estimators.continuations import block
from tpg.estimators.estimator import Estimator
from tpg.estimators.table import ESTIMATORS
from tpg.figures import run
from tpg.learn import Curve, ascend, ascend_exactly, ascend_together, policies, side_by_side, step
from tpg.moments.cost import generated_tokens
from tpg.montecarlo import eprocess
from tpg.montecarlo.streams import stream
from tpg.numbers import FLOAT64, Array
from tpg.problem import zoo
from tpg.problem.problem import Problem, make
from tpg.problem.tree import grow, walk
from tpg.rollouts import Responses

FIGURES = Path(__file__).resolve().parents[1] / "figures"
RLOO = ESTIMATORS["rloo"]


def softmax(logits: np.ndarray) -> np.ndarray:
    raised = np.exp(logits)
    return raised / raised.sum(-1, keepdims=True)


def test_a_step_moves_the_logits() -> None:
    # Tabular: logits log π + rate · u.  Shared: log π + rate · φu.  Wrong: probabilities moved, or not normalised.
    rng = np.random.default_rng(0)
    for problem in (zoo.three_valued(FLOAT64), zoo.shared().to(FLOAT64)):
        shape = problem.probs.shape if problem.tabular else problem.parameters
        update = rng.standard_normal(shape)
        change = update if problem.features is None else problem.features @ update
        wanted = softmax(np.log(problem.probs) + 0.3 * change)
        np.testing.assert_allclose(step(problem, update, 0.3).probs, wanted, rtol=1e-13)


@pytest.mark.parametrize("problem", ["three-valued", "shared"])
def test_small_steps_gain_what_the_gradient_promises(problem: str) -> None:
    # J(θ + ηg) − J(θ) = η|g|² + O(η²): halving η must quarter the error.
    made = zoo.get(problem).to(FLOAT64)
    g = made.combine(truth.gradient(made))
    gaps = []
    for rate in (1e-3, 5e-4):
        curve = ascend_exactly(made, RLOO, 2, 1, rate).objective[0]
        assert curve[0] == pytest.approx(float(truth.objective(made)), rel=1e-15)
        gaps.append(curve[1] - curve[0] - rate * float(g @ g))
    assert gaps[0] / gaps[1] == pytest.approx(4, rel=0.02)


def test_the_flow_climbs_and_knows_its_samples() -> None:
    curve = ascend_exactly(zoo.two_valued(), RLOO, 4, 20, 1.0)
    assert (np.diff(curve.objective[0]) > 0).all()
    assert (curve.responses, curve.objective.shape) == (80, (1, 21))


def test_runs_are_drawn_by_their_number_alone() -> None:
    # Wrong: one stream for all runs, so that the second depends on how many there are.
    made = zoo.three_valued()
    many, few = (ascend(made, RLOO, 2, 5, 0.5, runs=n).objective for n in (3, 2))
    assert (many[:2] == few).all()
    assert (many[0] != many[1]).any()
    assert (ascend(made, RLOO, 2, 5, 0.5, seed=1).objective[0] != many[0]).any()


@pytest.mark.parametrize("climb", [ascend, ascend_together])
def test_sampled_updates_average_to_the_exact_one(climb: Callable[..., Curve]) -> None:
    # One step of size η is linear in ĝ to first order: E J = J + η⟨E ĝ, g⟩; 4000 runs, six standard errors.
    made, rate = zoo.three_valued().to(FLOAT64), 1e-4
    gains = np.diff(climb(made, RLOO, 2, 1, rate, runs=4000).objective)[:, 0] / rate
    g = made.combine(truth.gradient(made))
    assert abs(gains.mean() - g @ g) < 6 * gains.std() / np.sqrt(len(gains)) + 1e-3 * (g @ g)


def recorded(problems: list[Problem]) -> Estimator:
    def ratio_seen(ratio: np.ndarray) -> np.ndarray:
        problems.append(ratio.copy())
        return np.ones_like(ratio)

    return replace(RLOO, ratio=ratio_seen)


def test_reused_responses_are_off_policy_from_the_second_update_on() -> None:
    seen: list[np.ndarray] = []
    ascend(zoo.three_valued(), recorded(seen), 4, 4, 1.0, reuse=2)
    assert [bool((ratio == 1).all()) for ratio in seen] == [True, False, True, False]


# Continuations


def turning() -> Problem:
    """Token 1 earns 1, token 0 what the next token makes of it: 0.88 at the start, 2.2 once that has been learned."""
    probs, rewards = [[0.5, 0.5], [0.4, 0.6], [0.5, 0.5]], [[0, 0], [2.2, 0], [1, 1]]
    return make(grow(2, 2, 1), probs, rewards, field=FLOAT64, name="turning")


def shadows(row: Estimator, runs: int = 8000, rate: float = 4.0) -> tuple[Array, float]:
    """⟨ĝ − g, v⟩ of the second update of every run, g at its own current policy, and what its size can never exceed.

    v = (1, −1)/√2 on the logits of the first token: |⟨ĝ, v⟩| ≤ max |c_1| |S_1| ≤ (max RM − min RM) √2, and so for g.
    """
    many = side_by_side(turning(), runs)
    _, first, second = policies(many, row, 8, 2, rate * runs, stream(3, "second updates", row.name))
    change, g = (np.log(second.probs / first.probs) / rate)[:runs], truth.gradient(first)[:runs]
    return (change[:, 0] - change[:, 1] - g[:, 0] + g[:, 1]) / np.sqrt(2), 2 * 2.2 * np.sqrt(2)


def refuted(row: Estimator) -> bool:
    """Betting against E[ĝ | current policy] = g, α = 1e-9."""
    found, bound = shadows(row)
    return eprocess.rejected(eprocess.update(eprocess.begin(0, -bound, bound, 1e-9), found))


K1 = ["trepo_block_k1", "exact_advantage_k1", "exact_advantage_k1_independent"]


@pytest.mark.parametrize("name", [*K1, "vineppo_k"])
def test_updates_with_continuations_average_to_the_gradient(name: str) -> None:
    assert not refuted(ESTIMATORS[name])


@pytest.mark.parametrize("name", K1)
def test_continuations_from_the_start_policy_are_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    start: list[Problem] = []

    def late(problem: Problem, *args: Any) -> tuple[Responses, Array]:
        start.append(problem)
        batch, members = rollouts.draw(problem, *args)
        rng, count = args[1], ESTIMATORS[name].continuations
        assert count is not None
        assert batch.estimates is not None
        old = replace(batch, problem=start[0], estimates=None)
        return replace(batch, estimates={f: rollouts._continued(old, count, rng) for f in batch.estimates}), members

    monkeypatch.setattr(learn, "draw", late)
    assert refuted(ESTIMATORS[name])


def watched(row: Estimator, seen: list[tuple[Array, Array]]) -> Estimator:
    def looked_at(anchor: Array, length: Array, continuation_value: Array) -> Array:
        seen.append((anchor.copy(), continuation_value.copy()))
        return block(anchor, length, continuation_value)

    return replace(row, advantage=looked_at)


def test_a_batch_keeps_its_continuations_and_anchors() -> None:
    # Wrong: exact values of the current policy in place of drawn ones from the second update on.
    seen: list[tuple[Array, Array]] = []
    made = zoo.three_valued()
    ascend(made, watched(ESTIMATORS["trepo_block_k1"], seen), 4, 4, 1.0, reuse=2)
    for kind in range(2):
        one, two, three, four = (each[kind] for each in seen)
        assert (one == two).all()
        assert (two != three).any()
        assert (three == four).all()
    rewards = set(made.to(FLOAT64).totals[made.ends].tolist())
    assert all(set(values.ravel().tolist()) <= rewards for _, values in seen)  # K = 1: each is some response's reward


def test_batches_come_from_the_current_policy_and_keep_what_they_should(monkeypatch: pytest.MonkeyPatch) -> None:
    # Wrong: the third update's responses from the policy of the first batch; groups of equal rewards not drawn again.
    seen: list[Array] = []

    def watching(problem: Problem, *args: Any) -> tuple[Responses, Array]:
        assert problem.on_policy
        seen.append(problem.probs)
        batch, members = rollouts.draw(problem, *args)
        assert np.ptp(batch.reward[members], axis=-1).min() > 0
        return batch, members

    monkeypatch.setattr(learn, "draw", watching)
    made, row = zoo.three_valued(), ESTIMATORS["dapo_same_prompt"]
    path = list(policies(made, row, 2, 5, 0.3, stream(0, "kept"), reuse=2))
    assert [any((each.probs == one).all() for one in seen) for each in path] == [True, False, True, False, True, False]


def test_exact_values_follow_the_current_policy() -> None:
    seen: list[tuple[Array, Array]] = []
    ascend(zoo.three_valued(), watched(ESTIMATORS["trepo_block"], seen), 4, 2, 1.0, reuse=2)
    (anchors, values), (same, later) = seen
    assert (anchors == same).all()
    assert (values != later).any()


# Tokens


@pytest.mark.parametrize("name", ["rloo", "remax", "trepo_block_k1", "exact_advantage_k1"])
def test_tokens_add_up_along_the_policies(name: str) -> None:
    made, row = zoo.three_valued().to(FLOAT64), ESTIMATORS[name]
    path = list(policies(made, row, 2, 3, 0.5, stream(0, "learn", made.digest, name, 2, 0)))
    spent = ascend(made, row, 2, 3, 0.5, tokens=True).tokens
    assert spent is not None
    costs = [float(generated_tokens(each, row, 2)) for each in path[:-1]]
    np.testing.assert_allclose(spent[0], np.cumsum([0, *costs]), rtol=1e-12)
    flow = ascend_exactly(made, row, 2, 1, 0.5, tokens=True).tokens
    assert flow is not None
    assert flow[0].tolist() == pytest.approx(spent[0, :2].tolist(), rel=1e-12)
    assert ascend(made, row, 2, 1, 0.5).tokens is None


@pytest.mark.parametrize("reuse", [1, 2])
@pytest.mark.parametrize("name", ["rloo", "remax", "exact_advantage_k1"])
def test_tokens_are_those_that_are_generated(name: str, reuse: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # Fixed length and values read everywhere: nothing is left to chance.  Wrong: reused batches paid for again.
    made, row, drawn = zoo.delayed_credit(), ESTIMATORS[name], 0

    def counting(*args: Any) -> tuple[Array, Array, Array]:
        nonlocal drawn
        found = walk(*args)
        drawn += int((found[2] >= 0).sum())
        return found

    curve = ascend(made, row, 2, 5, 0.5, reuse=reuse, tokens=True)
    monkeypatch.setattr(rollouts, "walk", counting)
    ascend(made, row, 2, 5, 0.5, reuse=reuse)
    assert curve.tokens is not None
    assert curve.tokens[0, -1] == drawn
    assert curve.responses == {1: 10, 2: 6}[reuse]


# Many runs at once


def test_copies_follow_the_flow_of_one() -> None:
    made, runs = zoo.three_valued().to(FLOAT64), 3
    many = ascend_exactly(side_by_side(made, runs), RLOO, 2, 4, runs * 0.5, tokens=True)
    one = ascend_exactly(made, RLOO, 2, 4, 0.5, tokens=True)
    assert many.tokens is not None
    assert one.tokens is not None
    np.testing.assert_allclose(many.objective, one.objective, rtol=1e-12)
    np.testing.assert_allclose(many.tokens, runs * one.tokens, rtol=1e-12)


def test_runs_at_once_are_runs_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    # A block of one run is that run; a run learns from its own samples, whatever the others draw.
    made = zoo.three_valued()
    found = ascend_together(made, ESTIMATORS["trepo_block_k1"], 2, 5, 0.5, runs=3, tokens=True)
    assert found.tokens is not None
    assert found.objective.shape == found.tokens.shape == (3, 6)
    assert len(np.unique(found.objective[:, -1])) == 3
    np.testing.assert_allclose(found.objective[:, 0], float(truth.objective(made)), rtol=1e-15)
    monkeypatch.setattr(learn, "TOGETHER", 1)
    monkeypatch.setattr(learn, "stream", lambda seed, kind, *key: stream(seed, "any", *key))
    once = ascend_together(made, RLOO, 2, 5, 0.5, runs=3, reuse=2).objective
    np.testing.assert_allclose(once, ascend(made, RLOO, 2, 5, 0.5, runs=3, reuse=2).objective, rtol=1e-13)


def test_progress_counts_every_update() -> None:
    seen: list[tuple[int, int]] = []
    for climb in (ascend, ascend_together):
        climb(zoo.two_valued(), RLOO, 2, 2, 0.1, runs=2, progress=lambda *at: seen.append(at))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4), (2, 4), (4, 4)]


@pytest.mark.parametrize(
    ("problem", "name"),
    [("shared", "rloo"), ("three-valued", "gae_position_critic"), ("three-valued", "reinforce_plus_plus")],
)
def test_runs_that_share_something_are_not_made_at_once(problem: str, name: str) -> None:
    message = rf"^{name} on {problem}: runs at once may share nothing: use ascend$"
    with pytest.raises(EstimatorError, match=message):
        ascend_together(zoo.get(problem), ESTIMATORS[name], 2, 1, 1.0, runs=2)


def test_groups_too_small_are_refused() -> None:
    for climb in (ascend_exactly, ascend, partial(ascend_together, runs=1)):
        with pytest.raises(EstimatorError, match=r"^group_size=1 given, rloo needs at least 2$"):
            climb(zoo.two_valued(), RLOO, 1, 1, 1.0)


# The figure


@pytest.fixture(scope="module")
def curves() -> dict[tuple[str, str, str], Any]:
    found = json.loads((FIGURES / "learning_curves.json").read_text(encoding="utf-8"))["curves"]
    return {(c["problem"], c["estimator"], c["pace"]): c for c in found}


Curves = dict[tuple[str, str, str], Any]
WORDS = {
    "dapo": "DAPO",
    "reinforce": "REINFORCE",
    "grpo": "GRPO",
    "trepo_block_k1": "TRePO",
    "remax": "ReMax",
    "rloo": "leave-one-out",
    "vineppo_k": "VinePPO",
}
CAPTION = run.load(FIGURES / "learning_curves.py").CAPTION
EACH_PANEL = [(problem, pace) for problem in ("three-valued", "delayed-credit") for pace in ("gentle", "bold")]


def test_the_caption_counts_the_runs_that_are_far_from_the_best(curves: Curves) -> None:
    far = {name: curves["three-valued", name, "bold"]["stuck"] for name in WORDS}
    assert sorted(far.values(), reverse=True) == list(far.values())
    first, *rest = (f"{far[name]} of {word}" for name, word in WORDS.items())
    assert ", ".join([first.replace(" of", " runs of"), *rest]) in CAPTION
    assert not any(curves["three-valued", n, "bold"]["stuck"] for n in ("exact_advantage", "gae_position_critic"))
    late = [curves["delayed-credit", n, "bold"]["afforded"]["stuck"] for n in ("trepo_block_k1", "vineppo_k", "rloo")]
    assert "are {} and {} runs of theirs, {} of leave-one-out's".format(*late) in CAPTION


def test_the_caption_says_that_noise_at_the_start_does_not_sort_them(curves: Curves) -> None:
    noise = {
        name: curves["three-valued", name, "bold"]["noise"] for name in ("grpo", "vineppo_k", "rloo", "trepo_block_k1")
    }
    assert ", ".join(f"{WORDS[name]} {n:.1f}" for name, n in noise.items()).replace("GRPO", "GRPO has") in CAPTION


def test_the_caption_compares_at_equal_tokens(curves: Curves) -> None:
    paid: dict[str, list[float]] = {name: [] for name in ("rloo", "trepo_block_k1", "vineppo_k")}
    for problem, pace in EACH_PANEL:
        plain, *drawn = (curves[problem, name, pace]["afforded"] for name in paid)
        assert min(each["median"] for each in drawn) > plain["median"]
        for name in paid:
            paid[name].append(curves[problem, name, pace]["afforded"]["updates"])
    spans = [f"{min(found):.0f} to {max(found):.0f}" for found in paid.values()]
    assert "for {} updates of leave-one-out, {} of TRePO and {} of VinePPO".format(*spans) in CAPTION


def test_the_caption_compares_at_equal_samples(curves: Curves) -> None:
    for problem in ("three-valued", "delayed-credit"):
        plain, *drawn = (
            curves[problem, name, "gentle"]["quartiles"][1][-1] for name in ("rloo", "trepo_block_k1", "vineppo_k")
        )
        assert max(abs(each / plain - 1) for each in drawn) < 1 / 5
        one, other = (curves[problem, name, "bold"] for name in ("rloo", "dr_grpo"))
        np.testing.assert_allclose(one["flow"], other["flow"], rtol=1e-3)
        assert one["noise"] == pytest.approx(other["noise"], rel=1e-9)
