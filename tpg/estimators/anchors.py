"""Laws of anchors: at which positions 1 … T of a response values are worked out (TRePO, arXiv 2506.02553).

A law is a function horizon → (patterns [n, T+1] bool, chance [n, T+1]); column L of ``chance`` holds the chances of
patterns for responses of L tokens.  Position t is the place after t tokens: a token reading takes token t, a block
reading ends a block there.  Position 0 is never drawn, as the first block starts there anyway; positions after
the end of a response are drawn like any other, and a law that does so without looking at L is blind.
"""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from typing import Any

import numpy as np

from tpg.errors import EstimatorError, TooLarge
from tpg.numbers import Array, parse

MAX_PATTERNS = 1 << 20


def bernoulli(horizon: int, *, rate: Any) -> tuple[Array, Array]:
    """Every position is an anchor with probability ``rate``, independently.  Blind to the response.

    >>> patterns, chance = bernoulli(1, rate="1/4")
    >>> patterns[:, 1], chance[:, 1]
    (array([False,  True]), array([Fraction(3, 4), Fraction(1, 4)], dtype=object))
    """
    rho = parse(rate)
    if not 0 <= rho <= 1:
        raise EstimatorError(f"anchors at rate {rate} given: a probability between 0 and 1 is needed")
    _check(2.0**horizon)
    drawn = np.array(list(itertools.product([False, True], repeat=horizon)), dtype=bool).reshape(-1, horizon)
    hits = drawn.sum(1).tolist()
    return _table(drawn, [[rho**k * (1 - rho) ** (horizon - k)] * (horizon + 1) for k in hits])


def subset(horizon: int, *, size: int) -> tuple[Array, Array]:
    """``size`` of the positions 1 … T, all sets alike, T the horizon.  Blind to the response.

    >>> subset(3, size=2)[0][:, 1:].tolist()
    [[True, True, False], [True, False, True], [False, True, True]]
    """
    drawn = _subsets(horizon, horizon, size)
    return _table(drawn, [[Fraction(1, len(drawn))] * (horizon + 1)] * len(drawn))


def subset_of_length(horizon: int, *, size: int) -> tuple[Array, Array]:
    """``size`` of the positions 1 … L, all sets alike, L the final length: wrong, for it looks ahead.

    That a block ends here says that L is such and such: not a stopping time, and M_u − M_s is no fair credit any more.

    >>> patterns, chance = subset_of_length(2, size=1)
    >>> patterns[:, 1:].tolist(), chance[:, 1].tolist(), chance[:, 2].tolist()
    ([[True, False], [False, True]], [Fraction(1, 1), Fraction(0, 1)], [Fraction(1, 2), Fraction(1, 2)])
    """
    lists = [_subsets(horizon, length, size) for length in range(1, horizon + 1)]
    drawn = np.unique(np.concatenate(lists), axis=0)[::-1]
    chance = [[Fraction(0)] * (horizon + 1) for _ in drawn]
    for length, mine in enumerate(lists, start=1):
        for row in mine:
            chance[int(np.flatnonzero((drawn == row).all(1))[0])][length] = Fraction(1, len(mine))
    return _table(drawn, chance)


def _subsets(horizon: int, last: int, size: int) -> Array:
    """[n, T] the sets of ``size`` positions of 1 … ``last``; all of them where there are fewer."""
    _check(math.comb(last, min(size, last)))
    chosen = list(itertools.combinations(range(last), min(size, last)))
    out = np.zeros((len(chosen), horizon), dtype=bool)
    for row, positions in zip(out, chosen, strict=True):
        row[list(positions)] = True
    return out


def _table(drawn: Array, chance: list[list[Fraction]]) -> tuple[Array, Array]:
    """With position 0 in front; patterns that never come are left out."""
    rows = np.array(chance, dtype=object)
    likely = (rows != 0).any(1)
    return np.pad(drawn, ((0, 0), (1, 0)))[likely], rows[likely]


def _check(patterns: float) -> None:
    TooLarge.check("patterns of anchors", patterns, MAX_PATTERNS, "shorten the horizon or place fewer anchors")
