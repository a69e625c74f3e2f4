"""claim:corpo-protective-bias: CoRPO never pays a failure, and in expectation is all but REINFORCE."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import product
from typing import Any

import numpy as np

from paper_checks.common import both, expectation, gradient, unbiased
from paper_checks.laws import Law, climbed, mean_reward, rated, two_valued
from paper_checks.prop_count_rules import corpo_rate
from paper_checks.variances import Walks
from tpg.claims import Claim, Finding, positive, zero
from tpg.claims.record import Check
from tpg.estimators.estimator import Estimator
from tpg.estimators.table import ESTIMATORS
from tpg.numbers import RATIONAL
from tpg.problem.problem import Problem, make
from tpg.problem.tree import grow
from tpg.rollouts import every

ROW, MEAN = ESTIMATORS["corpo"], ESTIMATORS["group_mean"]
FLOOR = RATIONAL.scalar("1/2")  # the row's threshold: the least reward of a correct response


def costs_its_gradient(size: int, share: Any = 1) -> Check:
    """E ĝ = g − ∇E[b]/G, b = max(c, mean): Σ_r (r − E[b | own reward r]) ∇P(r), peers enumerated."""

    def worth(law: Law) -> Any:
        out = []
        for own in law.reward:
            lost = own * 0
            for others in product(range(len(law.reward)), repeat=size - 1):
                mean = (own + law.reward[list(others)].sum()) / size
                chance = np.multiply.reduce(law.chance[list(others)])
                lost = lost + chance * (mean if mean > FLOOR else FLOOR)
            out.append(own - share * lost)
        return np.array(out)

    def check(problem: Problem) -> Sequence[Finding]:
        gap = expectation(problem, ROW, size) - climbed(problem, worth)
        return [zero(f"E ĝ = g − ∇E[max(c, mean)]/G, G = {size}", gap)]

    return check


def within_one_share(size: int) -> Check:
    """Rewards 0 and 1: E ĝ = h'(p) ∇p with 1 − 1/G ≤ h' ≤ 1, because the own reward moves the floor by 0 … 1/G."""

    def check(problem: Problem) -> Sequence[Finding]:
        tied = two_valued(problem)
        rate = np.array([corpo_rate(p, size) for p in mean_reward(tied)])
        inside = all(1 - Fraction(1, size) <= Fraction(int(h.p), int(h.q)) <= 1 for h in rate)
        return [
            zero(f"E ĝ = h'(p) ∇p, G = {size}", expectation(tied, ROW, size) - rated(tied, rate)),
            Finding(f"1 − 1/G ≤ h' ≤ 1, G = {size}", inside, ", ".join(map(str, rate)), len(rate)),
        ]

    return check


def never_paid(row: Estimator, size: int) -> Check:
    """In no group has a response below c a credit above 0."""

    def check(problem: Problem) -> Sequence[Finding]:
        worst = []
        for _, singles, index, _ in every(problem, size):
            credit = row(singles.group(index, row.needs))[:, :, 0]
            worst += [c for c in credit[singles.reward[index] < FLOOR] if c >= 0]
        return [zero(f"failures of {row.name} with a credit ≥ 0, G = {size}", [len(worst)])]

    return check


def gains(problem: Problem, row: Estimator, size: int) -> list[Any]:
    """How fast log P(W) grows along E ĝ, for every response W that fails."""
    walks, step = Walks(problem), expectation(problem, row, size)
    return [z @ step for z in walks.whole[walks.paths.reward < FLOOR]]


def protects(problem: Problem) -> Sequence[Finding]:
    """In expectation no failed response becomes more likely, G = 2."""
    return [zero("failed responses that gain along E ĝ, G = 2", [sum(gain > 0 for gain in gains(problem, ROW, 2))])]


def same(row: Estimator, than: Estimator) -> Check:
    """Two rows have the same E ĝ."""
    return lambda problem: [
        zero(f"E ĝ of {row.name} = {than.name}", expectation(problem, row, 2) - expectation(problem, than, 2))
    ]


# One token: wrong, partly right but failed, right with rewards 0, 1/4, 1 and chances 8/10, 1/10, 1/10; G = 2.  J = 1/8.
# E[b | r] = 1/2, 41/80, 9/16, so r − E[b | r] = −40/80, −21/80, 35/80 with mean −306/800: the partly right response is
# raised by (−210 + 306)/800 · 1/10 = 12/1000, by g 1/10 (1/4 − 1/8) = 12.5/1000 and by the group mean half of that.
def partial_credit() -> Problem:
    """A failure that beats the mean."""
    return make(grow(3, 1), [["8/10", "1/10", "1/10"]], [[0, "1/4", 1]], name="partial credit")


def example() -> Sequence[Finding]:
    """A failure that every sample pushes away from gains all the same, and more than under the group mean."""
    problem = partial_credit()
    floored, centred, g = expectation(problem, ROW, 2), expectation(problem, MEAN, 2), gradient(problem)
    wanted = RATIONAL.array(["12/1000", "25/4000", "25/2000"])
    return [
        *never_paid(ROW, 3)(problem),
        zero(
            "partial credit: what E ĝ of CoRPO, of the group mean and g do to it",
            [floored[1], centred[1], g[1]] - wanted,
        ),
        positive("CoRPO raises a failure", floored[1]),
        positive("by more than the group mean does", floored[1] - centred[1]),
    ]


CLAIM = Claim(
    label="claim:corpo-protective-bias",
    statement="CoRPO, R − max(c, mean), pays a response below c less than 0 in every group; but its baseline is the "
    "same for all of the group, so that E ĝ = g − ∇E[max(c, mean)]/G, for rewards 0 and 1 between (1 − 1/G)g and g on "
    "each prompt: in expectation a failure that beats E R may gain, and by more than under the group mean",
    source="arXiv 2511.04439 (no std; versions differ); the expectation is ours; ledger 26",
    hypotheses=("credits over G alone, no std", "on-policy, first step: no clip, no optimiser"),
    group_sizes=(2, 3),
    check=both(
        costs_its_gradient(2), costs_its_gradient(3), within_one_share(2), within_one_share(3), never_paid(ROW, 2)
    ),
    example=example,
    mutants={
        "unbiased": unbiased(ROW, 2),
        "the baseline costs its whole gradient": costs_its_gradient(2, 2),
        "the same as the group mean": same(ROW, MEAN),
        "the group mean never pays a failure": never_paid(MEAN, 2),
    },
    algebraic=False,
    needs=("thm:trajectory-pg", "lem:baseline", "prop:count-rules"),
    wording="the floor ensures that failed solutions are never reinforced (read of E ĝ: none becomes more likely)",
    as_worded=protects,
)
