"""Ascent: steps against the softmax written out, first-order gains, randomness, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tpg import truth
from tpg.errors import EstimatorError
from tpg.estimators import advantages
from tpg.estimators.estimator import Estimator
from tpg.estimators.table import ESTIMATORS
from tpg.learn import ascend, ascend_exactly, step
from tpg.numbers import FLOAT64
from tpg.problem import zoo
from tpg.problem.problem import Problem

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


def test_sampled_updates_average_to_the_exact_one() -> None:
    # One step of size η is linear in ĝ to first order: E J = J + η⟨E ĝ, g⟩; 4000 runs, six standard errors.
    made, rate = zoo.three_valued().to(FLOAT64), 1e-4
    gains = np.diff(ascend(made, RLOO, 2, 1, rate, runs=4000).objective)[:, 0] / rate
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


def test_what_cannot_be_learned_is_refused() -> None:
    noisy = Estimator("noisy", advantages.exact_advantage, continuations=1)
    with pytest.raises(EstimatorError, match=r"^noisy needs fresh continuations: learning curves do not draw"):
        ascend_exactly(zoo.two_valued(), noisy, 1, 1, 1.0)
    with pytest.raises(EstimatorError, match=r"^group_size=1 given, rloo needs at least 2$"):
        ascend(zoo.two_valued(), RLOO, 1, 1, 1.0)
