"""claim:vineppo-unbiased: step advantages from fresh continuations, before the whitening that follows."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from paper_checks.common import both, expectation, gradient, unbiased
from paper_checks.continued import draws, row
from paper_checks.laws import turned
from tpg.claims import Claim, Finding, nonzero, zero
from tpg.claims.record import Check
from tpg.estimators import continuations
from tpg.estimators.parts import Part, peers
from tpg.estimators.table import ESTIMATORS
from tpg.numbers import Array
from tpg.problem import zoo
from tpg.problem.problem import Problem

ROW = ESTIMATORS["vineppo"]


def every_delimiter(part: Part, size: int = 1) -> Check:
    """E ĝ = g whichever token ends a step; one that never comes makes the whole response one step."""

    def check(problem: Problem) -> Sequence[Finding]:
        g = gradient(problem)
        gaps = [
            expectation(problem, row(partial(part, delimiter=token)), size) - g for token in range(problem.vocab + 1)
        ]
        return [zero(f"E ĝ = g for every delimiter, G = {size}", np.concatenate(gaps))]

    return check


def drawn(count: int, part: Part = continuations.vine_step) -> Check:
    """E ĝ = g with ``count`` continuations per prefix, every draw listed."""

    def check(problem: Problem) -> Sequence[Finding]:
        return [
            zero(
                f"E ĝ = g, {count} continuations, every draw", draws(problem, count).mean(row(part)) - gradient(problem)
            )
        ]

    return check


def step_before(tokens: Array, length: Array, continuation_value: Array, *, delimiter: int = 0) -> Array:
    """Mutant: the step ends before its delimiter."""
    ends = np.concatenate([tokens == delimiter, tokens[..., :1] < -1], axis=-1)
    return continuations.block(ends, length, continuation_value)


def own_return(tokens: Array, length: Array, continuation_value: Array, reward: Array, *, delimiter: int = 0) -> Array:
    """Mutant: the response itself is one of two continuations at every step boundary."""
    inside = np.arange(continuation_value.shape[-1]) < length[..., None]
    mixed = np.where(inside, (continuation_value + reward[..., None]) / 2, continuation_value)
    return continuations.vine_step(tokens, length, mixed, delimiter=delimiter)


def no_value_at_the_end(tokens: Array, length: Array, continuation_value: Array, *, delimiter: int = 0) -> Array:
    """Mutant: V = 0 at the end and no reward paid there."""
    inside = np.arange(continuation_value.shape[-1]) < length[..., None]
    return continuations.vine_step(
        tokens, length, np.where(inside, continuation_value, 0 * continuation_value), delimiter=delimiter
    )


@peers("tokens", "length", "continuation_value", "mask")
def centred(tokens: Array, length: Array, continuation_value: Array, mask: Array) -> Array:
    """Less the mean over all tokens of the group, without the division that whitening does as well."""
    step = np.where(mask, continuations.vine_step(tokens, length, continuation_value), 0 * continuation_value[..., 1:])
    return step - (step.sum((-1, -2)) / mask.sum((-1, -2)))[..., None, None]


def example() -> Sequence[Finding]:
    """Centring over the tokens of a group of two, as the released trainer does over those of its batch."""
    problem = zoo.two_valued()
    return [
        nonzero(
            "two-valued: centring over tokens turns g", turned(expectation(problem, row(centred), 2), gradient(problem))
        ),
        *unbiased(ROW)(problem),
        *unbiased(ROW)(zoo.shared()),
        *drawn(1)(zoo.delayed_credit()),
    ]


CLAIM = Claim(
    label="claim:vineppo-unbiased",
    statement="VinePPO's step advantage M_u − M_s, every value the mean of K fresh continuations, has E ĝ = g exactly "
    "for any delimiter token and any K, step ends being stopping times; centring over the tokens of a group may "
    "turn g (whitening: claim:std-turns)",
    source="arXiv 2410.01679 and its code; the stopping-time argument is ours; ledger 9",
    hypotheses=(
        "before whitening, first step (no clip)",
        "continuations are fresh and from the current policy",
        "RM known at the end",
    ),
    group_sizes=(1, 2),
    check=both(every_delimiter(continuations.vine_step), unbiased(ROW, 2), drawn(1)),
    example=example,
    mutants={
        "the step ends before its delimiter": every_delimiter(step_before),
        "the own return among the continuations": every_delimiter(own_return),
        "nothing paid at the end": every_delimiter(no_value_at_the_end),
        "centred over tokens": unbiased(row(centred), 2),
    },
    needs=("prop:trepo-block",),
    wording="unbiased Monte Carlo values make unbiased step advantages",
    as_worded=both(every_delimiter(continuations.vine_step), drawn(1)),
)
