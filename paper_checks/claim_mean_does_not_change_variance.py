"""claim:mean-does-not-change-variance: a baseline moves the variance of ĝ along a parabola."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from paper_checks.common import PAPER, both, expectation, gradient
from paper_checks.laws import mean_reward
from paper_checks.variances import Walks, arbitrary, variance
from tpg.claims import Claim, Finding, positive, zero
from tpg.claims.record import Check
from tpg.estimators.baselines import optimal_global
from tpg.estimators.estimator import Estimator
from tpg.estimators.table import ESTIMATORS
from tpg.numbers import Array
from tpg.problem.problem import Problem, make
from tpg.problem.tree import grow

REINFORCE, CENTRED = ESTIMATORS["reinforce"], ESTIMATORS["reinforce_baseline"]  # b = 0 and b = E R


def with_constant(baseline: Array) -> Estimator:
    """Credit R − b, b = ``baseline`` [P] a number per prompt."""

    def given(problem: Problem, group_size: int) -> Array:
        return baseline

    return Estimator("constant", optimal_global, constant=given)


def optimum(walks: Walks) -> Array:
    """[P] b* = E[R‖Z‖²] / E‖Z‖², response by response."""
    return walks.mean(walks.paths.reward * walks.whole_norm2) / walks.mean(walks.whole_norm2)


def parabola(size: int, moved: Any = 0, power: int = 2) -> Check:
    """Var(b) − Var(b*) = (b − b*)² E‖Z‖² / G on every prompt, for b = 0, E R and any other number."""

    def check(problem: Problem) -> Sequence[Finding]:
        walks = Walks(problem)
        best, z2 = optimum(walks) + moved, walks.mean(walks.whole_norm2)
        other = arbitrary(problem, (problem.prompts,))
        least = variance(problem, with_constant(best), size)
        rows = {
            "b = 0": (REINFORCE, best - best),
            "b = E R": (CENTRED, mean_reward(problem)),
            "any b": (with_constant(other), other),
        }
        return [
            zero(f"{name}: Var(b) − Var(b*) = (b − b*)² E‖Z‖²/G, G = {size}", _gap(problem, row, b, best, z2, least))
            for name, (row, b) in rows.items()
        ]

    def _gap(problem: Problem, row: Estimator, b: Array, best: Array, z2: Array, least: Array) -> Array:
        return variance(problem, row, size) - least - (b - best) ** power * z2 / size

    return check


def same_mean(problem: Problem) -> Sequence[Finding]:
    """What a baseline does leave alone: E ĝ."""
    other = with_constant(arbitrary(problem, (problem.prompts,)))
    return [zero(f"E ĝ = g for {row.name}", expectation(problem, row) - gradient(problem)) for row in (CENTRED, other)]


def the_row(problem: Problem) -> Sequence[Finding]:
    """The row ``optimal_baseline_global`` has the least variance of all."""
    best = with_constant(optimum(Walks(problem)))
    row = ESTIMATORS["optimal_baseline_global"]
    return [zero("Var of optimal_baseline_global = Var(b*)", variance(problem, row) - variance(problem, best))]


def unchanged(row: Estimator, than: Estimator, size: int = 1) -> Check:
    """The variance of ``row`` is that of ``than``."""

    def check(problem: Problem) -> Sequence[Finding]:
        gap = variance(problem, row, size) - variance(problem, than, size)
        return [zero(f"Var of {row.name} = Var of {than.name}, G = {size}", gap)]

    return check


# Two tokens, rewards 1 with probability p and 0 else: ‖Z‖² is 2(1−p)² on success and 2p² on failure, so E‖Z‖² =
# 2p(1−p) and b* = 1 − p.  Without baseline (1−p)², with b = E R = p (1−2p)²: the mean helps for p < 2/3, does nothing
# at p = 2/3 and harms above it.
def bandit(p: str) -> Problem:
    """One prompt, one token, right with probability p."""
    made = make(grow(2, 1), [["1/2", "1/2"]], [[0, 1]], name=f"right with probability {p}")
    right = made.field.scalar(p)
    return replace(made, probs=np.array([[1 - right, right]]))


def saved(p: str) -> Any:
    """By how much the mean lowers the variance."""
    return (variance(bandit(p), REINFORCE) - variance(bandit(p), CENTRED))[0]


def example() -> Sequence[Finding]:
    """It can go either way."""
    group = [variance(bandit("4/5"), ESTIMATORS[name], 2)[0] for name in ("rloo", "reinforce")]
    return [
        positive("p = 1/2: the mean lowers the variance", saved("1/2")),
        zero("p = 2/3: it leaves it alone", [saved("2/3")]),
        positive("p = 3/4: it raises it", -saved("3/4")),
        zero("at p = 3/4 by 2p(1−p) ((1−2p)² − (1−p)²) = 9/128", [128 * saved("3/4") + 9]),
        positive("p = 4/5, leave-one-out mean of two: above no baseline", group[0] - group[1]),
    ]


CLAIM = Claim(
    label="claim:mean-does-not-change-variance",
    statement="subtracting a constant b leaves E ĝ alone and moves the variance along a parabola, Var(b) = Var(b*) + "
    "(b − b*)² E‖Z‖²/G with b* = E[R‖Z‖²]/E‖Z‖²: the mean reward may lower it, leave it or raise it",
    source=f"{PAPER}, authors' note; the parabola is known (Weaver & Tao, arXiv 1301.2315); ledger 4",
    hypotheses=("b is a function of the prompt", "responses are independent draws from the current policy"),
    group_sizes=(1, 2),
    check=both(parabola(1), parabola(2), same_mean, the_row),
    example=example,
    mutants={
        "the vertex at b* + 1": parabola(1, moved=1),
        "a straight line": parabola(1, power=1),
        "the group's mean, G = 2": unchanged(ESTIMATORS["rloo"], REINFORCE, 2),
        "the mean is the best baseline": unchanged(CENTRED, ESTIMATORS["optimal_baseline_global"]),
    },
    needs=("thm:trajectory-pg", "lem:baseline"),
    wording="subtracting the mean reward does not affect the variance of the gradient",
    as_worded=unchanged(CENTRED, REINFORCE),
)
