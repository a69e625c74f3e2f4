"""claim:reinforce-rej-objective: Reinforce-Rej climbs Σ_r r (P(r) − P(r)^G/G), not the expected reward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from paper_checks.common import both, expectation, gradient, row
from paper_checks.laws import Law, Rate, climbed, mean_reward, rated, three_valued, turned, two_valued
from tpg import truth
from tpg.claims import Claim, Finding, nonzero, positive, zero
from tpg.claims.record import Check
from tpg.estimators.estimator import Estimator
from tpg.estimators.parts import peers
from tpg.estimators.table import ESTIMATORS
from tpg.moments import brute_force, moments
from tpg.numbers import Array
from tpg.problem import zoo
from tpg.problem.problem import Problem, make
from tpg.problem.tree import grow

ROW = ESTIMATORS["reinforce_rej"]


@peers("reward")
def centred_where_mixed(reward: Array) -> Array:
    """The mean-centred credit, which needs no filter at all: the same filter on it changes nothing."""
    return reward - reward.sum(-1, keepdims=True) / reward.shape[-1]


def mean(problem: Problem, estimator: Estimator, size: int) -> Array:
    """E ĝ: two responses group by group, more by counting classes."""
    return expectation(problem, estimator, 2) if size == 2 else problem.combine(moments(problem, estimator, size).mean)


def objective(size: int, lost: int = 1, of: Estimator = ROW) -> Check:
    """E ĝ = ∇Σ_r r (P(r) − P(r)^G/G) = Σ_r r (1 − P(r)^{G−1}) ∇P(r), for any rewards."""

    def worth(law: Law) -> Array:
        alike = law.chance
        for _ in range(size - 1 - lost):
            alike = alike * law.chance
        return law.reward * (1 - alike)

    def check(problem: Problem) -> Sequence[Finding]:
        return [
            zero(f"E ĝ = ∇Σ_r r (P(r) − P(r)^G/G), {name}, G = {size}", mean(made, of, size) - climbed(made, worth))
            for name, made in (("rewards of the problem", problem), ("three values", three_valued(problem)))
        ]

    return check


def two_ended(size: int, low: int, rate: Rate, of: Estimator = ROW) -> Check:
    """Two values: h'(p) ∇p, p the chance of the higher one."""

    def check(problem: Problem) -> Sequence[Finding]:
        right = two_valued(problem)
        wanted = rated(right, np.array([rate(p, size) for p in mean_reward(right)]))
        gap = mean(two_valued(problem, low), of, size) - wanted
        return [zero(f"rewards {low} and 1: E ĝ = h'(p) ∇p, G = {size}", gap)]

    return check


def one_end(p: Any, size: int) -> Any:
    """1 − p^{G−1}: groups of successes are lost, groups of failures pay nothing anyway."""
    return 1 - p ** (size - 1)


def both_ends(p: Any, size: int) -> Any:
    """2 − p^{G−1} − (1−p)^{G−1}, of 2 without the filter."""
    return 2 - p ** (size - 1) - (1 - p) ** (size - 1)


def same_direction(make_problem: Any, size: int) -> Check:
    """The filter changes a learning rate, no direction."""

    def check(problem: Problem) -> Sequence[Finding]:
        made = make_problem(problem)
        return [zero(f"E ĝ is a multiple of g, G = {size}", turned(expectation(made, ROW, size), gradient(made)))]

    return check


def field(problem: Problem) -> Array:
    """E ĝ of two responses as a vector field of the policy."""
    return brute_force(problem, ROW, 2).mean


# Three tokens, rewards 0, 1, 2, G = 2: f(r) = r (1 − P(r)).  π = (1/4, 1/4, 1/2): f = (0, 3/4, 1), not (0, 1, 2).
# Near certainty the best token is pushed down: π = (1/18, 1/18, 16/18) has f = (0, 17, 4)/18 with mean 4.5/18 > 4/18.
def arms(*probs: str) -> Problem:
    """One prompt, one token."""
    return make(grow(3, 1), [probs], [[0, 1, 2]], name=f"rewards 0, 1, 2 at {', '.join(probs)}")


def example() -> Sequence[Finding]:
    """It is a gradient, of something else: with three values it may push the best response down."""
    even, certain = arms("1/4", "1/4", "1/2"), arms("1/18", "1/18", "8/9")
    best = expectation(certain, ROW, 2)[2]
    return [
        nonzero("three values: turned", turned(expectation(even, ROW, 2), gradient(even))),
        zero("but a gradient: curl", truth.curl(even, field)),
        positive("the best response at 8/9 is pushed down", -best),
        positive("where g pushes it up", gradient(certain)[2]),
        nonzero("two prompts, two values: turned", turned(expectation(MIXED, ROW, 2), gradient(MIXED))),
        nonzero("shared parameters: turned", turned(expectation(zoo.shared(), ROW, 2), gradient(zoo.shared()))),
    ]


MIXED = make(grow(2, 1, 2), [["1/2", "1/2"], ["1/10", "9/10"]], [[0, 1], [0, 1]], name="right with 1/2 and 9/10")

CLAIM = Claim(
    label="claim:reinforce-rej-objective",
    statement="Reinforce-Rej, the raw reward where the rewards of a group differ, has E ĝ = ∇Σ_r r (P(r) − P(r)^G/G): "
    "for {0, 1} (1 − p^{G−1})∇p, which neglects easy prompts, for {−1, 1} (2 − p^{G−1} − (1−p)^{G−1})∇p; "
    "with three values it is the gradient of another objective, which may push the best response down",
    source="Minimal-RL, arXiv 2504.11343, the code's reading: raw score, no baseline; the objective is ours; ledger 21",
    hypotheses=("responses of a group are independent draws from the current policy", "the divisor is G: no 1/|o|"),
    group_sizes=(2, 3),
    check=both(
        objective(2),
        objective(3),
        *(two_ended(G, low, h) for G in (2, 3) for low, h in ((0, one_end), (-1, both_ends))),
    ),
    example=example,
    mutants={
        "P(r)^{G−2}": objective(3, lost=2),
        "h' = 1 − p^G": two_ended(2, 0, lambda p, size: 1 - p**size),
        "{−1, 1} is twice {0, 1}": two_ended(2, -1, lambda p, size: 2 * one_end(p, size)),
        "centred credits under the filter": objective(2, of=row(centred_where_mixed)),
        "REINFORCE": objective(2, of=ESTIMATORS["reinforce"]),
    },
    needs=("thm:trajectory-pg",),
    wording="REINFORCE on groups that are neither all right nor all wrong keeps the direction of REINFORCE",
    as_worded=same_direction(two_valued, 2),
)
