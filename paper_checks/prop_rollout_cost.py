"""prop:rollout-cost: variance × generated tokens of credit from K continuations, in closed form."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from functools import cached_property
from typing import NamedTuple

import numpy as np

from paper_checks.common import PAPER, both
from paper_checks.continued import reward_variance, sets, to_come
from paper_checks.variances import Walks
from tpg.claims import Claim, Finding, zero
from tpg.claims.record import Check
from tpg.estimators import continuations
from tpg.estimators.estimator import Estimator
from tpg.estimators.table import ESTIMATORS
from tpg.moments import moments
from tpg.moments.cost import tokens_by_prompt
from tpg.numbers import Array, dot
from tpg.problem.problem import Problem

BLOCK, VINE, EVERY = (ESTIMATORS[name] for name in ("trepo_block_k1", "vineppo_k", "exact_advantage_k1"))
RETURN = ESTIMATORS["reinforce_baseline"]  # RLOO of an endless group
Marks = Callable[[Walks], list[Array]]  # tables [R, T], equally likely: is a value drawn at the prefix of t tokens?


# The price in closed form


class Price(NamedTuple):
    """Per response, by prompt [P]: variance a + b/K, tokens c + d K."""

    a: Array
    b: Array
    c: Array
    d: Array

    def at(self, count: int) -> Array:
        """[P] variance × tokens with ``count`` continuations of every prefix where a block ends."""
        return (self.a + self.b / count) * (self.c + self.d * count)

    def above(self, bar: Array) -> bool:
        """Whether variance × tokens = ac + bd + ad K + bc/K ≥ ac + bd + 2 √(abcd) exceeds ``bar`` [P] for every K."""
        left = bar - self.a * self.c - self.b * self.d
        return bool(((left < 0) | (left * left < 4 * self.a * self.b * self.c * self.d)).all())


class Frontier:
    """What a row pays, worked out from the list of responses; ``marks``: where its blocks end."""

    def __init__(self, problem: Problem, marks: Marks) -> None:
        self.problem, self.walks, self.marks = problem, Walks(problem), marks

    @cached_property
    def length(self) -> Array:
        """[P] E L."""
        return self.walks.mean(self.problem.field.array(self.walks.paths.length))

    def noise(self, mark: Array) -> Array:
        """[R] Σ σ²(W_{0,u}) (‖Z before u‖² + ‖Z after u‖²) over the marks u."""
        walks, steps = self.walks, range(self.problem.horizon)
        spread = walks.along(reward_variance(self.problem))
        before, after = 0 * spread, 0 * spread
        back = ahead = 0 * walks.whole
        for t in steps:  # ``back``: scores since the last mark
            before[:, t] = dot(back, back)
            back = np.where(mark[:, t : t + 1], 0 * back, back) + walks.score[:, t]
        for t in reversed(steps):  # ``ahead``: scores up to the next mark
            ahead = ahead + walks.score[:, t]
            after[:, t] = dot(ahead, ahead)
            ahead = np.where(mark[:, t : t + 1], 0 * ahead, ahead)
        return (np.where(mark, spread, 0 * spread) * (before + after)).sum(1)

    def price(self, estimator: Estimator) -> Price:
        """Variance with exact values by enumeration, the rest by hand."""
        walks, left = self.walks, self.walks.along(to_come(self.problem))
        tables = self.marks(walks)
        noise = [walks.mean(self.noise(mark)) for mark in tables]
        tokens = [walks.mean(np.where(mark, left, 0 * left).sum(1)) for mark in tables]
        least = moments(self.problem, replace(estimator, continuations=None), 1).variance
        return Price(least, _mean(noise), self.length, _mean(tokens))

    def group(self) -> Array:
        """[P] variance × tokens per response of RLOO in an endless group, its least."""
        return moments(self.problem, RETURN, 1).variance * self.length


def _mean(tables: Sequence[Array]) -> Array:
    return np.asarray(sum(tables) / len(tables))


def by_coins(walks: Walks) -> list[Array]:
    """Every set of anchors, and the root."""
    patterns = [pattern[:-1] | (np.arange(len(pattern) - 1) == 0) for pattern in sets(walks.problem.horizon)]
    return [np.tile(pattern, (len(walks.score), 1)) for pattern in patterns]


def after_zeros(walks: Walks) -> list[Array]:
    """After every token 0, and the root."""
    token = walks.paths.token
    return [np.concatenate([token[:, :1] == token[:, :1], token[:, :-1] == 0], axis=1)]


def everywhere(walks: Walks) -> list[Array]:
    """At every prefix."""
    return [walks.paths.mask]


def after_one(walks: Walks) -> list[Array]:
    """After the first token, and the root."""
    return [np.tile(np.arange(walks.problem.horizon) < 2, (len(walks.score), 1))]


def anchored_at(*places: int) -> Estimator:
    """Blocks that end at these positions in every response."""

    def law(horizon: int) -> tuple[Array, Array]:
        pattern = np.isin(np.arange(horizon + 1), places)[None]
        return pattern, np.full((1, horizon + 1), Fraction(1), dtype=object)

    return Estimator("placed", continuations.block, anchors=law, continuations=1)


ROWS: list[tuple[Estimator, Marks]] = [
    (BLOCK, by_coins),
    (VINE, after_zeros),
    (EVERY, everywhere),
    (anchored_at(1), after_one),
]


# Checks


def paid(problem: Problem, estimator: Estimator, count: int) -> Array:
    """[P] variance × generated tokens, by the engine."""
    drawn = replace(estimator, continuations=count)
    return moments(problem, drawn, 1).variance * tokens_by_prompt(problem, drawn, 1)


def frontier(estimator: Estimator, marks: Marks, counts: tuple[int, ...] = (1, 3)) -> Check:
    """Variance × tokens is (a + b/K)(c + d K)."""

    def check(problem: Problem) -> Sequence[Finding]:
        price = Frontier(problem, marks).price(estimator)
        gaps = [paid(problem, estimator, count) - price.at(count) for count in counts]
        return [zero(f"{estimator.name}: variance × tokens = (a + b/K)(c + dK)", np.concatenate(gaps))]

    return check


def cost_left_out(problem: Problem) -> Sequence[Finding]:
    """Mutant: continuations are free."""
    price = Frontier(problem, everywhere).price(EVERY)
    return [zero("variance × tokens", paid(problem, EVERY, 1) - price._replace(d=0 * price.d).at(1))]


def root_for_free(walks: Walks) -> list[Array]:
    """Mutant: the value of the root is not paid for."""
    return [mark & (np.arange(mark.shape[1]) > 0) for mark in by_coins(walks)]


def root_alone(walks: Walks) -> list[Array]:
    """Mutant: only the root is paid for."""
    return [np.tile(np.arange(walks.problem.horizon) < 1, (len(walks.score), 1))]


CLAIM = Claim(
    label="prop:rollout-cost",
    statement="variance × generated tokens, per prompt and response, of credit from K continuations at every block end "
    "is (a + b/K)(c + dK): a the variance with exact values, b = E Σ_u σ²(W_{0,u}) (‖Z before u‖² + ‖Z after u‖²), the "
    "scores since the last and up to the next block end; c = E L, d = E Σ_u (tokens to come), u the root and the block "
    "ends: every prefix, after a delimiter, after one token, or by coins",
    source=f"ours, on {PAPER} and arXiv 2410.01679; ledger 30",
    hypotheses=(
        "continuations are shared between neighbouring blocks but not between responses",
        "sampled tokens are the whole cost",
        "per response: G Var ĝ",
    ),
    check=both(*(frontier(*each) for each in ROWS)),
    mutants={
        "continuations are free": cost_left_out,
        "the root is free": frontier(BLOCK, root_for_free),
        "only the root is paid for": frontier(BLOCK, root_alone),
        "every prefix is paid for": frontier(BLOCK, everywhere),
    },
    needs=("prop:rollout-variance", "prop:trepo-block"),
)
