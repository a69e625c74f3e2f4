"""claim:interpolation-only-noise: what interpolated advantages do to the variance."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from paper_checks.common import both, expectation
from paper_checks.continued import Listing, always, row, sets
from paper_checks.variances import Walks, never_below, one_right_response, variance
from tpg.claims import Claim, Finding, positive, zero
from tpg.claims.record import Check
from tpg.estimators import continuations
from tpg.estimators.table import ESTIMATORS
from tpg.numbers import RATIONAL, Array, dot
from tpg.problem import zoo
from tpg.problem.problem import Problem, make
from tpg.problem.tree import grow

Amount = Callable[[Walks, Listing], Array]
INTERPOLATED, ALONE = ESTIMATORS["trepo_adv_interp"], ESTIMATORS["trepo_anchors"]


def added(problem: Problem) -> Array:
    """[P] Var with interpolation minus Var of the anchors alone."""
    return variance(problem, INTERPOLATED) - variance(problem, ALONE)


def vectors(walks: Walks, listing: Listing) -> tuple[Array, Array]:
    """[R, T, D] what the anchors and what the interpolated tokens hold: A_t S_t of each."""
    out = []
    for part in (continuations.anchors_only, continuations.advantage_interpolation):
        _, credit = listing.credits(row(part))
        out.append(credit[:, :, None] * walks.score)
    return out[0], out[1] - out[0]


def own(walks: Walks, listing: Listing) -> Array:
    """[P] E Σ A_t² ‖S_t‖² over the interpolated tokens."""
    _, between = vectors(walks, listing)
    return walks.mean(dot(between, between).sum(1))


def whole(walks: Walks, listing: Listing) -> Array:
    """[P] E‖N‖² + 2 E⟨N, anchors⟩, N = Σ A_t S_t over the interpolated tokens."""
    anchors, between = (part.sum(1) for part in vectors(walks, listing))
    return walks.mean(dot(between, between) + 2 * dot(between, anchors))


def cross_left_out(walks: Walks, listing: Listing) -> Array:
    """Mutant: E‖N‖², as if interpolated tokens and anchors were uncorrelated."""
    between = vectors(walks, listing)[1].sum(1)
    return walks.mean(dot(between, between))


def averaged(walks: Walks, amount: Amount) -> Array:
    """[P] the mean over all sets of anchors: coins."""
    every = [amount(walks, always(walks.problem, pattern)) for pattern in sets(walks.problem.horizon)]
    return np.asarray(sum(every) / len(every))


def exact(amount: Amount, factor: int = 1) -> Check:
    """Var with interpolation − Var of the anchors alone, coins at every position."""

    def check(problem: Problem) -> Sequence[Finding]:
        return [zero("Var added", added(problem) - factor * averaged(Walks(problem), amount))]

    return check


def tabular(problem: Problem) -> Sequence[Finding]:
    """Scores of different prefixes are orthogonal: E Σ A_t² ‖S_t‖² over the interpolated tokens, never negative."""
    if not problem.tabular:
        return []
    sign = [never_below("tabular: Var added", list(added(problem)))] if problem.field.ordered else []
    return [*exact(own)(problem), *sign]


def same_mean(problem: Problem) -> Sequence[Finding]:
    """Both estimate the same."""
    return [zero("E ĝ with and without", expectation(problem, INTERPOLATED) - expectation(problem, ALONE))]


def never_less(problem: Problem) -> Sequence[Finding]:
    """As worded: with the rewards at hand, and for every task with one right response."""
    return [never_below("Var added", list(added(task))) for task in (problem, *one_right_response(problem))]


def conflict() -> Problem:
    """One parameter, two prefixes; token 0 ends a response: 0 pays 3/4, 10 nothing, 11 pays 1."""
    policy, moves = [["1/2", "1/2"], ["1/4", "3/4"]], [[[0], [1]]] * 2
    rewards = [["3/4", 0], [0, 1]]
    return make(
        grow(2, 2, 1, end_token=0), policy, rewards, features=moves, end_token=0, field=RATIONAL, name="conflict"
    )


def example() -> Sequence[Finding]:
    """``conflict`` by hand: M_1 = 3/4 whatever comes first, so D_1 = 0 and only the anchor at 2 alone (chance 1/4)
    matters.

    It gives token 1 the D_2 of token 2: E[D_2² (S_1² + 2 S_1 S_2)] after token 1 of chance 1/2 and score 1/2, D_2 = S_2
    = 1/4 or −3/4: E D_2² = 3/16, E[D_2² S_2] = 3/4 · 1/64 − 1/4 · 27/64 = −3/32; 1/4 · 1/2 · (3/64 − 3/32) = −3/512.
    """
    seeded = zoo.random(8, vocab=2, horizon=2, prompts=1, shared=1)
    return [
        zero("one shared parameter, two prefixes: −3/512", added(conflict()) + RATIONAL.scalar("3/512")),
        positive("interpolation takes variance away on random-8", -added(seeded)[0]),
        positive("tabular: it adds", added(zoo.two_valued())[0]),
        positive("shared parameters: it may add too", added(zoo.shared())[0]),
        *exact(whole)(zoo.shared()),
    ]


CLAIM = Claim(
    label="claim:interpolation-only-noise",
    statement="interpolating advantages between anchors keeps the mean and adds E‖N‖² + 2 E⟨N, anchors' part⟩ to the "
    "variance, N = Σ A_t S_t over the interpolated tokens: E Σ A_t² ‖S_t‖² ≥ 0 for tabular policies, possibly "
    "negative with shared parameters",
    source="ours: what prop:trepo-advantage-interpolation leaves open; ledger 8",
    hypotheses=(
        "anchors are blind to the response, one half at every position",
        "values exact",
        "per response: G Var ĝ",
    ),
    check=both(same_mean, exact(whole), tabular),
    example=example,
    mutants={
        "the tabular form for every policy": exact(own),
        "anchors and the rest uncorrelated": exact(cross_left_out),
        "noise counted twice": exact(whole, 2),
        "nothing added": exact(whole, 0),
        "never less": never_less,
    },
    needs=("prop:trepo-advantage-interpolation",),
    wording="interpolation is pure added variance",
    as_worded=never_less,
)
