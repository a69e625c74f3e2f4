"""prop:trepo-value-interpolation, reading (b) of TRePO: values interpolated, a block shares out its gain."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from paper_checks.common import PAPER, both, expectation, gradient, unbiased
from paper_checks.continued import always, at_positions, blocks, climbed, held, row, sets
from paper_checks.laws import turned
from tpg.claims import Claim, Finding, nonzero, zero
from tpg.claims.record import Check
from tpg.estimators import continuations
from tpg.estimators.parts import Part
from tpg.estimators.table import ESTIMATORS
from tpg.numbers import RATIONAL, Array
from tpg.problem import zoo
from tpg.problem.problem import Problem, make
from tpg.problem.tree import grow

ROW = ESTIMATORS["trepo_value_interp"]


def to_the_drawn_end(anchor: Array, length: Array, continuation_value: Array) -> Array:
    """(M_u − M_s)/(u − s) with blocks as they were drawn, whether or not the response ends before u."""
    drawn = 0 * length + anchor.shape[-1] - 1
    return continuations.value_interpolation(anchor, drawn, continuation_value)


def gain_per_token(problem: Problem, pattern: Array, part: str = "gain/length") -> Array:
    """[D] Σ over blocks (s, u] of the gradient of E[(M_u − M_s)/(u − s)] in the tokens of the block, u at most L."""
    depth, out = problem.tree.depth[:, None], problem.field.zeros(problem.parameters)
    for start, end in blocks(pattern):
        length = problem.field.array(np.maximum(depth + 1 - start, 1))
        gain = problem.values[0] - held(problem, start)[:, None]
        worth = {"gain/length": gain / length, "gain": gain / (end - start)}[part]
        out = out + climbed(problem, start, end, worth)
    return out


def every_set(part: str = "gain/length") -> Check:
    """For every set of anchors each block climbs its gain per token."""

    def check(problem: Problem) -> Sequence[Finding]:
        credit = row(continuations.value_interpolation)
        gaps = [always(problem, p).mean(credit) - gain_per_token(problem, p, part) for p in sets(problem.horizon)]
        return [zero("E ĝ = Σ ∇E[(M_u − M_s)/(u − s)] over the blocks, every set", np.concatenate(gaps))]

    return check


def shares(pattern: Array) -> list[Fraction]:
    """1/ℓ_t of the blocks of a pattern, by position."""
    return [Fraction(1, end - start) for start, end in blocks(pattern) for _ in range(start, end)]


def position_weights(part: Part) -> Check:
    """For every set of anchors E ĝ = Σ_t E[D_t S_t]/ℓ_t, ℓ_t the length of the block as drawn."""

    def check(problem: Problem) -> Sequence[Finding]:
        gaps = [
            always(problem, pattern).mean(row(part)) - at_positions(problem, shares(pattern))
            for pattern in sets(problem.horizon)
        ]
        return [zero("E ĝ = Σ E[D_t S_t]/ℓ_t, every set", np.concatenate(gaps))]

    return check


def chances(horizon: int) -> list[Fraction]:
    """E[1/ℓ_t] with a coin at every position, by position."""
    every = [shares(pattern) for pattern in sets(horizon)]
    return [sum(column, Fraction(0)) / len(every) for column in zip(*every, strict=True)]


def table_row(problem: Problem) -> Sequence[Finding]:
    """The row, anchors by coins: the mean over all sets; for fixed lengths Σ_t E[1/ℓ_t] E[D_t S_t]."""
    every = [gain_per_token(problem, pattern) for pattern in sets(problem.horizon)]
    found = expectation(problem, ROW)
    out = [zero("the row is the mean over all sets", found - sum(every) / len(every))]
    if problem.end_token is None:
        gap = found - at_positions(problem, chances(problem.horizon))
        out.append(zero("fixed length: E ĝ = Σ E[1/ℓ_t] E[D_t S_t]", gap))
    return out


def by_mean_length(problem: Problem) -> Sequence[Finding]:
    """Mutant: 1/E[ℓ_t] in place of E[1/ℓ_t]."""
    every = [shares(pattern) for pattern in sets(problem.horizon)]
    weight = [len(every) / sum((1 / x for x in column), Fraction(0)) for column in zip(*every, strict=True)]
    return [zero("E ĝ", expectation(problem, ROW) - at_positions(problem, weight))]


def keeps_direction(problem: Problem) -> Sequence[Finding]:
    """A learning rate would mend it."""
    return [zero("turned", turned(expectation(problem, ROW), gradient(problem)))]


def two_lengths() -> Problem:
    """Coins; token 1 ends: responses 1, 00, 01 pay 0, 1, 0."""
    fair = [["1/2", "1/2"]] * 2
    return make(grow(2, 2, 1, end_token=1), fair, [[0, 0], [1, 0]], end_token=1, field=RATIONAL, name="two-lengths")


def example() -> Sequence[Finding]:
    """By hand.  Three tokens, coins at 1 and 2: token 1 is in a block of 1, 2, 3 with chance 1/2, 1/4, 1/4, as is token
    3: 17/24; token 2 with 1/4, 1/2, 1/4: 14/24.  Two tokens: 3/4 each, though blocks differ.

    ``two-lengths``, one block of two: M_0 = 1/4, M_1 = 0 or 1/2.  First token: 0 is worth (1/2 − 1/4)/2 and 1, which
    ends a block of one, −1/4: the contrast is 3/8 in place of 1/2.  Second token: half.
    """
    three, two = (zoo.random(3, vocab=2, horizon=t, prompts=1, variable=False) for t in (3, 2))
    small = two_lengths()
    one_block = always(small, np.array([False] * 3)).mean(row(continuations.value_interpolation))
    thirds = ["17/24", "7/12", "17/24"]
    return [
        zero(
            "fixed length 3, coins: weights 17/24, 14/24, 17/24", expectation(three, ROW) - at_positions(three, thirds)
        ),
        nonzero("which turns g", turned(expectation(three, ROW), gradient(three))),
        zero(
            "fixed length 2, coins: 3/4 g, though blocks are unequal",
            expectation(two, ROW) - at_positions(two, ["3/4"] * 2),
        ),
        zero("two lengths, one block for all: weights 3/4, 1/2", one_block - at_positions(small, ["3/4", "1/2"])),
        nonzero("which turns g, though blocks are equal", turned(one_block, gradient(small))),
        nonzero(
            "three-valued: the row turns g", turned(expectation(zoo.three_valued(), ROW), gradient(zoo.three_valued()))
        ),
    ]


CLAIM = Claim(
    label="prop:trepo-value-interpolation",
    statement="values interpolated, (M_u − M_s)/(u − s) in the block (s, u], make every block climb its gain per "
    "token, in general biased; for fixed lengths E ĝ = Σ_t E[1/ℓ_t] E[D_t S_t], ℓ_t the length of the block of t: a "
    "scale only where E[1/ℓ_t] is the same at all t (equal blocks, or two tokens); where responses end inside a "
    "block, equal blocks may turn g too",
    source=f"ours, on {PAPER}",
    hypotheses=("anchors are blind to the response", "values exact or from K fresh continuations"),
    check=both(every_set(), position_weights(to_the_drawn_end), table_row),
    example=example,
    mutants={
        "unbiased": unbiased(ROW),
        "direction kept": keeps_direction,
        "position weights alone": position_weights(continuations.value_interpolation),
        "gain per token of the drawn block": every_set("gain"),
        "1/E[ℓ_t]": by_mean_length,
        "blocks not divided": position_weights(continuations.block),
    },
    needs=("thm:advantage",),
)
