"""Anchors without a list of their patterns: for credits that are linear in M and read of a response no more than where
it ends and what M it passes.

With c_t = Σ_u A[t,u] M_u, A a function of length and pattern, the pattern enters E ĝ through E A[t,u] and E‖U‖² through
E A[t,u] A[t',v] alone.  Those are worked out once per length; responses are listed once, not once per pattern.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import cached_property

import numpy as np

from tpg.estimators.estimator import Estimator
from tpg.moments import noise
from tpg.moments.paths import Paths, class_fields
from tpg.numbers import Array, dot
from tpg.problem.problem import Problem
from tpg.rollouts import Rollouts, responses

READABLE = frozenset({"mask", "length", "anchor", *noise.FIELDS})


class Patterns:
    """The law of A of all responses of one length: ``chance`` [n] and A [n, T, T+1] per continuation field.

    ``both`` [n, T, T+2] is their sum, M being the same for both, and beside it what the credits are without any value.
    """

    def __init__(self, paths: Anchored, length: int) -> None:
        problem, law = paths.problem, paths.estimator.given.anchors
        assert law is not None
        patterns, chance = law(problem.horizon)
        likely = chance[:, length] != 0
        self.chance = problem.field.array(chance[likely, length])
        alone = _representatives(paths, length, patterns[likely])
        shape = (len(self.chance), problem.horizon, problem.horizon + 1)
        self.fields = {field: problem.field.zeros(shape) for field in paths.fields_read}
        for field, (_, u), slope in noise.slopes(paths.estimator.name, paths.own_factors, alone, paths.fields_read):
            self.fields[field][:, :, u] = slope[:, 0]
        zeros = {field: 0 * getattr(alone, field) for field in paths.fields_read}
        constant = paths.own_factors(replace(alone, **zeros)).transpose(0, 2, 1)
        self.both = np.concatenate([sum(self.fields.values(), problem.field.zeros(shape)), constant], axis=2)

    @cached_property
    def mean(self) -> Array:
        """E A [T, T+2]."""
        return np.asarray((self.chance[:, None, None] * self.both).sum(0))

    def square(self, t: int, v: int) -> Array:
        """E A[t,·] A[v,·] [T+2, T+2]."""
        return np.asarray((self.both[:, t] * self.chance[:, None]).T @ self.both[:, v])

    def noise(self, t: int, v: int) -> Array:
        """E A[t,u] A[v,u] [T+1], summed over the continuation fields."""
        return sum((self.chance[:, None] * a[:, t] * a[:, v]).sum(0) for a in self.fields.values())

    def used(self) -> Array:
        """[T+1] how many continuation values are expected to be read at each position."""
        return sum((self.chance[:, None] * (a != 0).any(1)).sum(0) for a in self.fields.values())


def _representatives(paths: Anchored, length: int, patterns: Array) -> Rollouts:
    """One response of ``length`` tokens per pattern, each a group of its own, with made-up values."""
    count, steps = len(patterns), paths.problem.horizon
    values = np.broadcast_to(np.arange(1, steps + 2), (count, 1, steps + 1))
    return Rollouts(
        paths.group_size,
        steps,
        paths.problem.discount,
        mask=np.broadcast_to(np.arange(steps) < length, (count, 1, steps)),
        length=np.full((count, 1), length),
        anchor=patterns[:, None],
        **dict.fromkeys(paths.fields_read, paths.problem.field.array(values)),
    )


class Anchored(Paths):
    """The classes of all responses, their anchors averaged over.  No covariance matrix."""

    def __init__(self, problem: Problem, estimator: Estimator, group_size: int) -> None:
        self.problem, self.estimator, self.group_size = problem, estimator, group_size
        self.singles = responses(problem, estimator.given._replace(anchors=None))
        self.fields_read = noise.fields_of(estimator)
        self.laws = {n: Patterns(self, n) for n in np.unique(self.singles.length).tolist()}
        mean = problem.field.zeros(self.singles.mask.shape)
        for rows, values, law in self.by_length():
            mean[rows] = values @ law.mean.T
        self.weight = mean[None]
        self._classify(class_fields(estimator))

    def own_factors(self, alone: Rollouts) -> Array:
        """Own factors of the credits [n, 1, T] of representatives."""
        return self._weight(alone)

    def by_length(self) -> list[tuple[Array, Array, Patterns]]:
        """Rows, values M_0 … M_T, 1, and the law of A of the responses of each length."""
        values, length = self.singles.continuation_value, self.singles.length
        values = np.concatenate([values, self.problem.field.ones((len(values), 1))], axis=1)
        every = [(np.flatnonzero(length == n), law) for n, law in self.laws.items()]
        return [(rows, values[rows], law) for rows, law in every]

    @cached_property
    def square(self) -> Array:
        """E‖U‖² by class [P, 1, 1, K], noise of the continuations included."""
        steps, singles = range(self.problem.horizon), self.singles
        pairs = [(t, t) for t in steps] if self.problem.tabular else list(itertools.product(steps, steps))
        spread, out = noise.spread_of(singles, self.estimator), self.problem.field.zeros(len(singles.node))
        for rows, values, law in self.by_length():
            for t, v in pairs:
                both = ((values @ law.square(t, v)) * values).sum(-1)
                if self.estimator.continuations is not None and law.fields:
                    both = both + spread[rows] @ law.noise(t, v)
                out[rows] += both * self._along(t, v)[rows]
        return self._tally(singles.probability * out)[:, None, None]

    def _along(self, t: int, v: int) -> Array:
        """⟨S_t, S_v⟩ [R]."""
        return self._norm2[:, t] if self.problem.tabular else dot(self._scores[:, t], self._scores[:, v])

    def uses(self) -> Array:
        """[R, T+1] how many continuation values each response is expected to read at each position before its end."""
        out = self.problem.field.zeros((len(self.singles.node), self.problem.horizon + 1))
        for rows, _, law in self.by_length():
            out[rows] = law.used()
        return out


def paths_of(problem: Problem, estimator: Estimator, group_size: int, covariance: bool = False) -> Paths:
    """Listed responses, once per pattern of anchors only where that cannot be avoided."""
    plain = estimator.anchors is None or covariance or len(estimator.terms) > 1
    return (Paths if plain or not estimator.needs <= READABLE else Anchored)(problem, estimator, group_size)
