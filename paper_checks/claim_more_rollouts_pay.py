"""claim:more-rollouts-pay: variance × generated tokens of credit from continuations, against RLOO."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from paper_checks.prop_rollout_cost import (
    BLOCK,
    EVERY,
    ROWS,
    VINE,
    Frontier,
    Marks,
    Price,
    anchored_at,
    by_coins,
    everywhere,
    paid,
)
from tpg.claims import Claim, Finding, positive, zero
from tpg.claims.record import Check
from tpg.estimators.estimator import Estimator
from tpg.numbers import RATIONAL
from tpg.problem import zoo
from tpg.problem.problem import Problem, make
from tpg.problem.tree import grow


def dearer(estimator: Estimator, marks: Marks, factor: str, free: bool = False) -> Check:
    """Variance × tokens above ``factor`` times that of RLOO, whatever K (``free``, a mutant: continuations cost 0)."""

    def check(problem: Problem) -> Sequence[Finding]:
        found = Frontier(problem, marks)
        bar = problem.field.scalar(factor) * found.group()
        price = found.price(estimator)
        price = price._replace(d=0 * price.d) if free else price
        least = [price.at(count) for count in range(1, 40)]
        shown = np.min([(x / found.group()).astype(float) for x in least], axis=0).round(2)
        return [
            Finding(f"{estimator.name}: above {factor} × RLOO for every K", price.above(bar), f"{shown} × at K < 40")
        ]

    return check


def pays(problem: Problem) -> Sequence[Finding]:
    """As worded: for some K below 40 VinePPO or TRePO's blocks cost less than RLOO."""
    out = []
    for estimator, marks in ROWS[:2]:
        found = Frontier(problem, marks)
        price, bar = found.price(estimator), found.group()
        best = any(bool((price.at(count) < bar).all()) for count in range(1, 40))
        out.append(Finding(f"{estimator.name}: some K is cheaper than RLOO", best, f"{bar}"))
    return out


# Constructed problems


def coins(horizon: int, key: int) -> Problem:
    """Fair coins, one of which is the reward: the first (``key`` = 0) or the last (−1)."""
    tree = grow(2, horizon, 1)
    rewards = RATIONAL.zeros(tree.inner.shape)
    level = 0 if key == 0 else horizon - 1
    rewards[tree.at(level), 1] = RATIONAL.scalar(1)
    fair = np.full(tree.inner.shape, RATIONAL.scalar("1/2"))
    return make(tree, fair, rewards, field=RATIONAL, name=f"{horizon} coins, key {'first' if key == 0 else 'last'}")


class Line(NamedTuple):
    """A law of the cost on ``horizon`` coins."""

    what: str
    key: int
    row: Callable[[int], Estimator]
    law: Callable[[int], Price]  # horizon → a, b in units of 1/8, c, d


def priced(a: Any, b: Any, c: Any, d: Any) -> Price:
    """A price of one prompt in exact numbers."""
    return Price(*(np.array([Fraction(x)]) for x in (a, b, c, d)))


def lucky(horizon: int) -> Fraction:
    """The chance 2^{1−T} of the prefix before the last token."""
    return Fraction(2, 2**horizon)


LINES = [
    Line("key first, one anchor after it", 0, lambda t: anchored_at(1), lambda t: priced(0, 1, t, 2 * t - 1)),
    Line("key first, every token", 0, lambda t: EVERY, lambda t: priced(0, 1, t, Fraction(t * (t + 1), 2))),
    Line(
        "key last, anchor before it",
        -1,
        lambda t: anchored_at(t - 1),
        lambda t: priced(1 - lucky(t), 2 * t - 1, t, t + 1),
    ),
    Line(
        "key last, every token",
        -1,
        lambda t: EVERY,
        lambda t: priced(1 - lucky(t), 2 * t - 1, t, Fraction(t * (t + 1), 2)),
    ),
]


def rloo(key: int, horizon: int) -> Fraction:
    """What an endless group of RLOO pays on coins, in units of 1/8."""
    return horizon * (horizon - (Fraction(1) if key == 0 else lucky(horizon)))


def ratio(line: Line, horizon: int, count: int) -> Fraction:
    """Variance × tokens over that of RLOO."""
    return Fraction(line.law(horizon).at(count)[0] / rloo(line.key, horizon))


def on_coins(line: Line) -> Finding:
    """The law of the cost, and RLOO's, against the engine."""
    gaps: list[Any] = []
    for horizon in (2, 3, 4, 6):
        problem = coins(horizon, line.key)
        gaps.append(8 * Frontier(problem, everywhere).group()[0] - RATIONAL.scalar(rloo(line.key, horizon)))
        for count in (1, 9):
            law = line.law(horizon).at(count)[0]
            gaps.append(8 * paid(problem, line.row(horizon), count)[0] - RATIONAL.scalar(law))
    return zero(f"{line.what}: variance × tokens with 2, 3, 4, 6 coins, K = 1, 9", gaps)


def loses(line: Line, factor: Callable[[int], int]) -> Finding:
    """Above ``factor`` times RLOO for every K, at 2 to 40 coins."""
    lost = [line.law(t).above(np.array([factor(t) * rloo(line.key, t)])) for t in range(2, 41)]
    return Finding(
        f"{line.what}: above {factor(2)} (T = 2) … {factor(40)} (T = 40) × RLOO for every K",
        all(lost),
        f"{sum(lost)} of 39",
        39,
    )


def chain() -> Problem:
    """A random chain of four tokens, two shared parameters, γ = 9/10."""
    return zoo.random(0, vocab=2, horizon=4, prompts=1, shared=2, discount="9/10")


def lead(problem: Problem, estimator: Estimator, count: int) -> Any:
    """What RLOO of an endless group costs more."""
    return (Frontier(problem, everywhere).group() - paid(problem, estimator, count))[0]


def example() -> Sequence[Finding]:
    """Coins by hand: ‖S_t‖² = 1/2, RLOO's variance is E[(w − 1/2)² ‖Z‖²] − ‖g‖² = T/8 − ‖g‖².

    Key first: ‖g‖² = 1/8; σ² = 1/4 at the root and 0 after.  An anchor after the key: Var = 1/(8K), of the root alone,
    for T tokens, K T from the root and K (T − 1) from the anchor.  Every token: the same, K T(T + 1)/2 tokens of
    continuations. Key last: ‖g‖² = 2^{1−T}/8, shared among the prefixes that come before it; σ² = 1/4 at all.  An
    anchor before the key: 1/8 − ‖g‖² + (T − 1)/(4K) + 1/(8K) for T + K (T + 1) tokens; every token: added noise
    (1/(4K)) (T/2 + (T − 1)/2), as much.
    """
    one, every, before, last = LINES
    return [
        *(on_coins(line) for line in LINES),
        zero("one anchor after the key, four coins, K = 1: 11/12 of RLOO", ratio(one, 4, 1) - Fraction(11, 12)),
        zero("and 23/56 with eight", ratio(one, 8, 1) - Fraction(23, 56)),
        positive("with three, K = 1, it loses", ratio(one, 3, 1) - 1),
        zero("every token, six coins, K = 1: 9/10 of RLOO", ratio(every, 6, 1) - Fraction(9, 10)),
        positive("with four, K = 1, it loses", ratio(every, 4, 1) - 1),
        loses(before, lambda t: 2),
        loses(last, lambda t: t),
        *(found for r, m in ROWS for found in dearer(r, m, "4")(zoo.key_last())),
        *(found for r, m in ROWS for found in dearer(r, m, "1")(zoo.key_first())),
        positive(
            "not every tree: VinePPO with K = 2 costs less than RLOO on a chain of four tokens", lead(chain(), VINE, 2)
        ),
    ]


CLAIM = Claim(
    label="claim:more-rollouts-pay",
    statement="against RLOO of an endless group, variance × generated tokens (prop:rollout-cost) of credit from K "
    "continuations is less where an early token decides and T is large (coins, key first, an anchor after it: (T/K "
    "+ 2T − 1)/(T(T − 1)) times, 11/12 at T = 4, K = 1), more where the last decides (coins: over 2 times, every "
    "token over T times), and over 3/2 times for TRePO's blocks on every random tree listed, whatever K",
    source="arXiv 2410.01679, 2506.02553 (that it pays); the frontier is ours; ledger 30",
    hypotheses=(
        "continuations are shared between neighbouring blocks but not between responses",
        "sampled tokens are the whole cost",
        "variance per response; RLOO at its least, G → ∞",
    ),
    check=dearer(BLOCK, by_coins, "3/2"),
    example=example,
    mutants={
        "continuations are free": dearer(BLOCK, by_coins, "3/2", free=True),
        "dearer by more than 9 times": dearer(BLOCK, by_coins, "9"),
    },
    needs=("prop:rollout-cost",),
    algebraic=False,
    wording="values from extra rollouts are worth their tokens",
    as_worded=pays,
)
