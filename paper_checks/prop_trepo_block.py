"""prop:trepo-block, reading (c) of TRePO: M_u − M_s for every token of a block, and what may end a block."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from paper_checks.common import PAPER, both, expectation, gradient, unbiased
from paper_checks.continued import Listing, always, at_prefixes, draws, row, sets, wherever
from paper_checks.laws import turned
from paper_checks.variances import arbitrary
from tpg.claims import Claim, Finding, nonzero, zero
from tpg.claims.record import Check
from tpg.estimators import continuations
from tpg.estimators.estimator import Estimator
from tpg.estimators.parts import Part
from tpg.estimators.table import ESTIMATORS
from tpg.numbers import RATIONAL, Array
from tpg.problem import zoo
from tpg.problem.problem import Problem, make
from tpg.problem.tree import grow
from tpg.rollouts import responses

BLOCK, ONE_DRAW, SUBSET, LOOKING = (
    ESTIMATORS[f"trepo_{name}"] for name in ("block", "block_k1", "block_subset", "block_subset_len")
)


def every_set(part: Part) -> Check:
    """E ĝ = g for every set of anchors."""

    def check(problem: Problem) -> Sequence[Finding]:
        g = gradient(problem)
        gaps = [always(problem, pattern).mean(row(part)) - g for pattern in sets(problem.horizon)]
        return [zero("E ĝ = g for every set of anchors", np.concatenate(gaps))]

    return check


def stopping(part: Part, ahead: bool = False) -> Check:
    """E ĝ = g when a block ends after W_{0,t} with any chance that W_{0,t} decides (``ahead``: W_{0,t+1})."""

    def check(problem: Problem) -> Sequence[Finding]:
        place = arbitrary(problem, problem.probs.shape)
        place = (place + 4) / 10 if problem.field.ordered else place  # −4 … 6 as 0 … 1
        listing = (looking if ahead else wherever)(problem, place)
        return [zero("E ĝ = g, blocks end with any chance of the prefix", listing.mean(row(part)) - gradient(problem))]

    return check


def looking(problem: Problem, place: Array) -> Listing:
    """Mutant: whether a block ends after token t is decided by token t + 1."""
    paths = responses(problem)
    onward = np.where(paths.mask, place[paths.node, paths.token], problem.field.scalar(0))
    ends = np.concatenate([onward[:, 1:], onward[:, :1] * 0], axis=1)
    patterns = np.array(list(sets(problem.horizon)))
    which, drawn = np.repeat(np.arange(len(ends)), len(patterns)), np.tile(patterns, (len(ends), 1))
    chance = np.multiply.reduce(np.where(drawn[:, 1:], ends[which], 1 - ends[which]), axis=1)
    return Listing(problem, which, chance, drawn)


def delimiters(problem: Problem) -> Sequence[Finding]:
    """E ĝ = g when a block ends with a token, whichever."""
    steps = [Estimator("steps", partial(continuations.vine_step, delimiter=a)) for a in range(problem.vocab)]
    gaps = [expectation(problem, step) - gradient(problem) for step in steps]
    return [zero("E ĝ = g for every delimiter", np.concatenate(gaps))]


def one_draw(problem: Problem) -> Sequence[Finding]:
    """The same with one drawn continuation per prefix, every draw listed, anchors at 1, 3, …"""
    pattern = np.arange(problem.horizon + 1) % 2 == 1
    return [zero("one continuation: E ĝ = g", draws(problem, 1, pattern).mean(ONE_DRAW) - gradient(problem))]


def own_return(anchor: Array, length: Array, continuation_value: Array, reward: Array) -> Array:
    """Mutant: the own return is one of two continuations, M_s moves half way to RM."""
    place = np.arange(continuation_value.shape[-1])
    mixed = (continuation_value + reward[..., None]) / 2
    return continuations.block(anchor, length, np.where(place < length[..., None], mixed, continuation_value))


def unfinished(anchor: Array, length: Array, continuation_value: Array) -> Array:
    """Mutant: the end of the response closes no block."""
    place = np.arange(anchor.shape[-1])
    last = np.where(anchor & (place <= length[..., None]), place, 0).max(-1, keepdims=True)
    whole = continuations.block(anchor, length, continuation_value)
    return np.where(place[1:] <= last, whole, 0 * whole)


def three_lengths() -> Problem:
    """Coins; token 1 ends: responses 1, 01, 001, 000, and 000 pays 8."""
    fair = [["1/2", "1/2"]] * 3
    rewards = [[0, 0], [0, 0], [8, 0]]
    return make(grow(2, 3, 1, end_token=1), fair, rewards, end_token=1, field=RATIONAL, name="three-lengths")


def example() -> Sequence[Finding]:
    """One anchor among the L tokens of the response, by hand: M = 1, 2, 4, 8 along 000, all else 0.

    First token 0: M_1, M_2 or RM, weighed 1/2 : 1/2 if L = 2 and 1/3 : 2/3 if L = 3, so its worth is 2 + ½·½(0 − 2) +
    ½·⅔(4 − 2) = 13/6 in place of 2.  Second: the baseline is (M_0 + M_1)/2 = 3/2 if it ends the response and (2M_0 +
    M_1)/3 = 4/3 if not, so its contrast is 4 + 1/6.  Third: L is known.  E ĝ = (13/12, 25/24, 1) · g by position. With
    two tokens the first says what L is: the fewest for which length looks ahead is three.
    """
    small, three = three_lengths(), zoo.three_valued()
    found, weight = expectation(small, LOOKING), RATIONAL.array(["13/12", "25/24", 1])
    two = zoo.random(5, vocab=3, horizon=2, prompts=1)
    return [
        zero("three lengths: weights 13/12, 25/24, 1", found - at_prefixes(small, weight)),
        nonzero("which turns g", turned(found, gradient(small))),
        nonzero("three-valued: anchors that look at L turn g", turned(expectation(three, LOOKING), gradient(three))),
        zero("two tokens: L is known with the first, no bias", expectation(two, LOOKING) - gradient(two)),
    ]


CLAIM = Claim(
    label="prop:trepo-block",
    statement="block-telescoped credit M_u − M_s for every token of (s, u]: E ĝ = g exactly whenever block ends are "
    "stopping times (any set of positions, any chance that is a function of the prefix, any delimiter token), with "
    "exact values or K fresh continuations; an anchor drawn among the tokens of the response looks at its length and "
    "may turn g",
    source=f"ours, on {PAPER}",
    hypotheses=(
        "that a block ends after W_{0,t} is decided by W_{0,t} and independent draws",
        "continuations are fresh",
    ),
    check=both(
        every_set(continuations.block),
        stopping(continuations.block),
        delimiters,
        one_draw,
        unbiased(BLOCK),
        unbiased(SUBSET),
    ),
    example=example,
    mutants={
        "that a block ends is known one token early": stopping(continuations.block, ahead=True),
        "anchors that look at the length": lambda problem: unbiased(LOOKING)(zoo.three_valued()),
        "the own return among the continuations": every_set(own_return),
        "the end of the response closes no block": every_set(unfinished),
        "gain per token": every_set(continuations.value_interpolation),
        "anchors alone": stopping(continuations.anchors_only),
    },
    needs=("thm:advantage",),
)
