"""claim:remax-against-no-baseline: the greedy reward as baseline is better than none exactly if it is nearer to b_g."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from paper_checks.common import both, unbiased
from paper_checks.variances import Walks, arbitrary, never_below, variance, with_table
from tpg.claims import Claim, Finding, positive, zero
from tpg.claims.record import Check
from tpg.estimators.table import ESTIMATORS
from tpg.numbers import RATIONAL, Array
from tpg.problem import zoo
from tpg.problem.problem import Problem, make
from tpg.problem.tree import grow
from tpg.rollouts import greedy

PLAIN, REMAX = ESTIMATORS["reinforce"], ESTIMATORS["remax"]


def gain(problem: Problem) -> Array:
    """[P] Var(no baseline) − Var(ReMax)."""
    return variance(problem, PLAIN) - variance(problem, REMAX)


def saving(weight: int = 2, mean: bool = False, first: bool = False) -> Check:
    """Var(0) − Var(b) = b (``weight`` b_g − b) E‖Z‖², b the greedy reward, or any number of time 0."""

    def check(problem: Problem) -> Sequence[Finding]:
        walks, chosen = Walks(problem), arbitrary(problem, (problem.prompts,))
        best = problem.values[1][: problem.prompts] if mean else walks.global_optimum
        z2 = walks.mean(walks.norm2[:, 0] if first else walks.whole_norm2)
        other = variance(problem, PLAIN) - variance(problem, with_table(chosen[problem.tree.prompt]))
        return [
            zero(f"Var(0) − Var({name})", found - b * (weight * best - b) * z2)
            for name, found, b in (
                ("the greedy reward", gain(problem), greedy(problem).reward),
                ("an arbitrary number", other, chosen),
            )
        ]

    return check


def decided(problem: Problem) -> Sequence[Finding]:
    """ReMax has less variance than no baseline exactly where |b − b_g| < |b_g|."""
    if not problem.field.ordered:
        return []
    walks = Walks(problem)
    nearer = np.abs(greedy(problem).reward - walks.global_optimum) < np.abs(walks.global_optimum)
    return [zero("who wins", [int((a > 0) != b) for a, b in zip(gain(problem), nearer, strict=True)])]


def two_arms(problem: Problem) -> Sequence[Finding]:
    """One token, two arms, tabular: b_g = (1 − p) r₁ + p r₂, the arms' chances exchanged."""
    chance, reward = problem.probs[0, 0], problem.rewards[0, :2]
    made = make(grow(2, 1, 1), [[chance, 1 - chance]], reward[None], field=problem.field)
    swapped = (1 - chance) * reward[0] + chance * reward[1]
    return [zero("two arms: b_g", Walks(made).global_optimum - swapped)]


def reduces(problem: Problem) -> Sequence[Finding]:
    """As published, without its condition."""
    return [never_below("Var(0) − Var(ReMax)", list(gain(problem)))]


def arms(chance: str, right: int, wrong: int) -> Problem:
    """One token: rewards ``right`` with probability ``chance`` and ``wrong``."""
    p = RATIONAL.scalar(chance)
    return make(grow(2, 1, 1), [[p, 1 - p]], [[right, wrong]], field=RATIONAL, name=f"arms {right}, {wrong}")


def example() -> Sequence[Finding]:
    """Two arms, greedy on r₁: ReMax wins iff p (r₁ − r₂) < (1 − p) r₁ + p r₂, that is p < 1/2 + r₂ / (2 (r₁ − r₂)).

    Right or wrong (r₂ = 0): never, since p > 1/2.  At p = 9/10, b_g = 1/10, E‖Z‖² = p(1−p) · 2 = 9/50 and
    Var(0) − Var(1) = 1 · (2/10 − 1) · 9/50 = −18/125, 81 times the variance.  r = 3, 2: the bound is 3/2 > p, always.
    """
    easy, shifted = zoo.hard_easy(), arms("9/10", 3, 2)
    plain, remax = variance(easy, PLAIN)[1], variance(easy, REMAX)[1]
    edge = [gain(arms(chance, 5, 1))[0] for chance in ("3/5", "5/8", "2/3")]  # the bound is 1/2 + 1/8
    return [
        zero("easy prompt: Var(0) − Var(ReMax) = −18/125", plain - remax + RATIONAL.scalar("18/125")),
        zero("easy prompt: 81 times the variance", remax - 81 * plain),
        zero("greedy response wrong: ReMax is REINFORCE", gain(easy)[0]),
        positive("a reward that is never near 0: ReMax wins", gain(shifted)[0]),
        positive("r = 5, 1 below p = 5/8: ReMax wins", edge[0]),
        zero("at p = 5/8: a tie", edge[1]),
        positive("above: it loses", -edge[2]),
    ]


CLAIM = Claim(
    label="claim:remax-against-no-baseline",
    statement="Var(no baseline) − Var(ReMax) = b (2 b_g − b) E‖Z‖² per prompt and response, b the greedy reward, "
    "b_g = E[RM ‖Z‖²]/E‖Z‖²: ReMax wins exactly if |b − b_g| < |b_g|; with one token, two arms and rewards 0 "
    "and 1 it never does",
    source="ours; Li et al., arXiv 2310.10505, promise less variance only while the best action does not dominate",
    hypotheses=("on-policy, independent responses", "per prompt and response: G Var ĝ"),
    check=both(saving(), decided, two_arms, unbiased(PLAIN), unbiased(REMAX)),
    example=example,
    mutants={
        "nearer to E RM": saving(mean=True),
        "b_g counted once": saving(weight=1),
        "weighed by the first token alone": saving(first=True),
        "always less variance": reduces,
    },
    needs=("thm:trajectory-pg", "prop:reinforce-family"),
    wording="the greedy baseline reduces the variance of REINFORCE",
    as_worded=reduces,
)
