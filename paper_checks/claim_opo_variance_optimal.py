"""claim:opo-variance-optimal: OPO's baseline is the best one where ‖Z‖² ∝ L, and only then for certain."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction

import numpy as np

from paper_checks.claim_mean_does_not_change_variance import optimum, with_constant
from paper_checks.common import both, expectation, gradient, unbiased
from paper_checks.laws import turned
from paper_checks.variances import Walks, variance
from tpg.claims import Claim, Finding, nonzero, positive, zero
from tpg.claims.record import Check
from tpg.estimators.estimator import Estimator
from tpg.estimators.table import ESTIMATORS
from tpg.numbers import Array
from tpg.problem import zoo
from tpg.problem.problem import Problem, make
from tpg.problem.tree import grow

OPO, LOO, MEAN, BEST = (
    ESTIMATORS[name] for name in ("opo", "opo_loo", "reinforce_baseline", "optimal_baseline_global")
)


def by_length(walks: Walks) -> Array:
    """[P] b_L = E[L R] / E[L], what OPO's baseline tends to."""
    length = walks.problem.field.array(walks.paths.mask.sum(1))
    return walks.mean(length * walks.paths.reward) / walks.mean(length)


def price(moved: int = 0) -> Check:
    """Var(b_L) − Var(b*) = (b_L − b*)² E‖Z‖², one response per prompt."""

    def check(problem: Problem) -> Sequence[Finding]:
        walks = Walks(problem)
        best, length = optimum(walks), by_length(walks) + moved
        least, found = (variance(problem, with_constant(b)) for b in (best, by_length(walks)))
        gap = found - least - (length - best) ** 2 * walks.mean(walks.whole_norm2)
        return [zero("Var(b_L) − Var(b*) = (b_L − b*)² E‖Z‖²", gap)]

    return check


def even(problem: Problem) -> Problem:
    """The same tree with a tabular policy that chooses uniformly: ‖S‖² = 1 − 1/V at every token, ‖Z‖² = (1 − 1/V) L."""
    probs = problem.field.ones(problem.probs.shape) / problem.vocab
    return replace(problem, probs=probs, features=None)


def optimal_where_proportional(problem: Problem) -> Sequence[Finding]:
    """‖Z‖² ∝ L gives b_L = b*."""
    walks = Walks(even(problem))
    length = problem.field.array(walks.paths.mask.sum(1))
    share = problem.field.scalar(Fraction(problem.vocab - 1, problem.vocab))
    return [
        zero("uniform tabular policy: ‖Z‖² = (1 − 1/V) L on every response", walks.whole_norm2 - share * length),
        zero("there b_L = b*", by_length(walks) - optimum(walks)),
    ]


def optimal(problem: Problem) -> Sequence[Finding]:
    """Least variance whatever the policy."""
    walks = Walks(problem)
    gap = variance(problem, with_constant(by_length(walks))) - variance(problem, with_constant(optimum(walks)))
    return [zero("Var(b_L) = Var(b*)", gap)]


def same_length(problem: Problem) -> Sequence[Finding]:
    """Responses of one length: OPO is the group mean, (G−1)/G · g; with the own response left out g."""
    if problem.end_token is not None:
        return []
    gap = expectation(problem, OPO, 2) - gradient(problem) / 2
    return [zero("fixed length: E ĝ of opo = (G−1)/G · g, G = 2", gap)]


def own_share(size: int, own: bool = True) -> Check:
    """E ĝ of ``opo`` = g − E[b Σ_i Z_i]/G: what the own response in the baseline costs, by enumerating the groups."""

    def check(problem: Problem) -> Sequence[Finding]:
        walks = Walks(problem)
        cost = problem.field.zeros((problem.prompts, problem.parameters))
        length = problem.field.array(walks.paths.mask.sum(1))
        for x in range(problem.prompts):
            mine = np.flatnonzero(walks.paths.prompt == x)
            index = mine[np.stack(np.unravel_index(np.arange(len(mine) ** size), (len(mine),) * size), axis=-1)]
            chance = np.multiply.reduce(walks.paths.probability[index], axis=1)
            baseline = (length * walks.paths.reward)[index].sum(1) / length[index].sum(1)
            score = walks.whole[index].sum(1) if own else walks.whole[index[:, 0]]
            cost[x] = ((chance * baseline)[:, None] * score).sum(0) / size
        gap = expectation(problem, OPO, size) - gradient(problem) + (problem.weights[:, None] * cost).sum(0)
        return [zero(f"E ĝ of opo = g − ∇E[b]/G, G = {size}", gap)]

    return check


# The smallest tree with two lengths: the second token ends the response, else one more follows.  π = (2/3, 1/3), then
# (3/4, 1/4), and only the response 00 is right.  Right: P = 1/2, ‖Z‖² = 2/9 + 2/16 = 25/72; long and wrong: 1/6, 97/72;
# short and wrong: 1/3, 64/72.  So E‖Z‖² = 25/36, b* = 1/4, but b_L = 1/(5/3) = 3/5, farther off than E R = 1/2:
# ((7/20)² − (1/4)²) · 25/36 = 1/24 more variance than the plain mean reward.
def smallest() -> Problem:
    """Two lengths, three responses."""
    probs, rewards = [["2/3", "1/3"], ["3/4", "1/4"]], [[0, 0], [1, 0]]
    return make(grow(2, 2, 1, end_token=1), probs, rewards, end_token=1, name="two lengths")


def lost(problem: Problem, than: Estimator) -> Array:
    """[P] Var(b_L) less the variance of ``than``."""
    return variance(problem, with_constant(by_length(Walks(problem)))) - variance(problem, than)


def existing() -> Iterator[Finding]:
    """Bias, and what is lost."""
    for problem in (smallest(), zoo.three_valued(), zoo.shared()):
        yield positive(f"Var(b_L) > Var(b*) on {problem.name}", lost(problem, BEST).sum())
        yield nonzero(f"opo turns on {problem.name}, G = 2", turned(expectation(problem, OPO, 2), gradient(problem)))
    yield zero("Var(b_L) = Var(E R) + 1/24 on two lengths", 24 * lost(smallest(), MEAN) - 1)
    yield positive("Var(b_L) < Var(E R) on three-valued", -lost(zoo.three_valued(), MEAN).sum())
    ideal = even(zoo.two_valued())
    sampled = variance(ideal, LOO, 2) - variance(ideal, BEST, 2)
    yield positive("even where ‖Z‖² ∝ L, the baseline from a group has more variance than b*", sampled.sum())


def example() -> Sequence[Finding]:
    """The existential part."""
    return list(existing())


CLAIM = Claim(
    label="claim:opo-variance-optimal",
    statement="OPO's baseline tends to b_L = E[LR]/E[L], whose variance exceeds the least by exactly "
    "(b_L − b*)² E‖Z‖²: nothing where ‖Z‖² ∝ L (a uniform tabular policy), elsewhere it may exceed even that "
    "of E R; taken from a group that holds the own response it costs ∇E[b]/G, in general off the direction of g when "
    "lengths vary; without it, unbiased",
    source="arXiv 2505.23585; verl; ledger 13",
    hypotheses=("one baseline per prompt", "responses are independent draws from the current policy"),
    group_sizes=(1, 2, 3),
    check=both(price(), optimal_where_proportional, same_length, own_share(2), unbiased(LOO, 2), unbiased(LOO, 3)),
    example=example,
    mutants={
        "another baseline's price": price(moved=1),
        "opo is unbiased": unbiased(OPO, 2),
        "the own response costs one share of G": own_share(2, own=False),
        "b_L is the best baseline": optimal,
    },
    needs=("thm:trajectory-pg", "lem:baseline"),
    wording="the length-weighted mean reward is the baseline that minimises gradient variance",
    as_worded=optimal,
)
