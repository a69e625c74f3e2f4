"""What fresh continuations add to the moments (algorithms.md §3(v)).

Entry u of a continuation field is M_u + ε_u, ε_u the mean of K independent errors: E ε_u = 0, Var ε_u = σ²(W_{0,u})/K
with σ²(s) = Var(RM | s).  Credits are affine in the fields, c = c(M) + Σ_u A[·,u] ε_u, so E ĝ stays what it is and
    tr Cov ĝ grows by (1/K) Σ_u E[σ²_u ‖Σ_t A[t,u] S_t‖²], for each field and each response.
A[·,u] is read off by giving the estimator unit vectors, and that nothing else depends on the fields is checked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from tpg.errors import EstimatorError
from tpg.estimators.estimator import Estimator
from tpg.estimators.parts import reads
from tpg.numbers import Array, powers
from tpg.problem.problem import Problem
from tpg.rollouts import Responses, Rollouts

FIELDS = ("continuation_value", "second_continuation_value")
TOLERANCE = 1e-9


class Slope(NamedTuple):
    """A = ``slope`` [n, ...]: what the credits change by per unit of ``field`` at response and position ``place``."""

    field: str
    place: tuple[int, int]  # response of the group, tokens held
    slope: Array


def fields_of(estimator: Estimator) -> list[str]:
    """The continuation fields that the credits read.  EstimatorError when they also decide which groups are kept."""
    if estimator.keep is not None and reads(estimator.keep) & frozenset(FIELDS):
        raise EstimatorError(f"{estimator.name}: groups are kept by their rewards, not by continuations: change keep")
    return [name for name in FIELDS if name in estimator.needs]


def to_draw(estimator: Estimator) -> dict[str, int]:
    """How many responses are drawn for each entry of the continuation fields."""
    return {} if estimator.continuations is None else dict.fromkeys(fields_of(estimator), estimator.continuations)


def variances(problem: Problem) -> Array:
    """σ²(s) [N] = Var(RM | s) under π, for every prefix: Σ_a π(a|s) (σ²(sa) + (M(sa) − M(s))²)."""
    after, here = problem.values
    out, below = problem.field.zeros(problem.tree.nodes), problem.field.zeros(0)
    for t in reversed(range(problem.horizon)):
        rows = problem.tree.at(t)
        gap = after[rows] - here[rows, None]
        onward = problem.tree.lift(below, t, problem.field.zeros(gap.shape))
        below = out[rows] = (problem.probs[rows] * (onward + gap * gap)).sum(-1)
    return out


def spread_of(singles: Responses, estimator: Estimator) -> Array:
    """Var ε_t [R, T+1] of every response: σ²(W_{0,t})/K, 0 at and after the end, where RM is known."""
    problem, rows = singles.problem, len(singles.node)
    if estimator.continuations is None:  # exact values
        return problem.field.zeros((rows, 1))
    inside = np.where(singles.mask, variances(problem)[singles.node], problem.field.scalar(0))
    return np.concatenate([inside, problem.field.zeros((rows, 1))], axis=1) / estimator.continuations


def slopes(name: str, run: Callable[[Rollouts], Array], rollouts: Rollouts, fields: Iterable[str]) -> Iterator[Slope]:
    """The derivatives of ``run`` (rollouts [n, G, …] → [n, …]) in the continuation fields, those that are not 0.

    EstimatorError when the credits are not affine in the fields, after the last of them.
    """
    zeros: dict[str, Any] = {field: 0 * getattr(rollouts, field) for field in fields}
    base = run(replace(rollouts, **zeros))
    probes = [{field: getattr(rollouts, field) for field in zeros}, {f: _crooked(z) for f, z in zeros.items()}]
    sums = [base, base]
    for field, zero in zeros.items():
        for place in np.ndindex(zero.shape[1:]):
            unit = zero.copy()
            unit[(slice(None), *place)] = powers(rollouts.discount, 1)[0]
            slope = run(replace(rollouts, **{**zeros, field: unit})) - base
            if (slope != 0).any():
                at = [probe[field][(slice(None), *place)] for probe in probes]
                sums = [s + slope * x.reshape(-1, *[1] * (slope.ndim - 1)) for s, x in zip(sums, at, strict=True)]
                yield Slope(field, place, slope)
    for probe, expected in zip(probes, sums, strict=True):
        _check_equal(name, run(replace(rollouts, **probe)), expected)


def _crooked(zero: Array) -> Array:
    """Numbers of both signs that no product and no absolute value leaves alone: 2, −3, 4, …"""
    count = np.arange(zero[0].size).reshape(zero.shape[1:])
    return zero + (count + 2) * (1 - 2 * (count % 2))


def _check_equal(name: str, found: Array, expected: Array) -> None:
    gap = found - expected
    if (gap != 0).any() if gap.dtype == object else np.abs(gap).max() > TOLERANCE * (1 + np.abs(expected).max()):
        raise EstimatorError(
            f"{name}: credits must be linear in the continuation values, or K draws would bias them: "
            f"declare exact values (continuations=None)"
        )


def of_groups(estimator: Estimator, rollouts: Rollouts, spread: Array) -> Iterator[tuple[Array, Array]]:
    """Credits [n, G, T] per unit of noise and variance [n] of that noise, for groups of ``spread`` [n, G, T+1]."""
    if estimator.continuations is not None:
        for found in slopes(estimator.name, estimator, rollouts, fields_of(estimator)):
            yield found.slope, spread[(slice(None), *found.place)]
