"""Exact moments of ĝ, and what they say against the exact gradient."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from tpg.errors import EstimatorError
from tpg.numbers import Array
from tpg.problem.problem import Problem


@dataclass(frozen=True, eq=False)
class Moments:
    """Mean and spread of ĝ = Σ_x weight(x) ĝ_x with one independent group of ``group_size`` responses per prompt.

    - ``mean``: E ĝ_x of each prompt, laid out as ``Problem.pull`` does ([N, V] tabular, [P, d] shared).
    - ``variance`` [P]: total variance of each ĝ_x, the trace of its covariance, in reward².
    - ``covariance`` [D, D] of ĝ, on request.
    - ``between`` [P, P]: traces of Cov(ĝ_x, ĝ_y) where credits couple the groups of a batch (diagonal: ``variance``).
    """

    problem: Problem
    group_size: int
    mean: Array
    variance: Array
    covariance: Array | None = None
    between: Array | None = None

    @property
    def total_variance(self) -> Any:
        """Trace of Cov ĝ = Σ_x weight(x)² Var ĝ_x: groups of different prompts are independent, but for a batch row."""
        if self.between is not None:
            return self.problem.weights @ self.between @ self.problem.weights
        return (self.problem.weights**2 * self.variance).sum()


@dataclass(frozen=True)
class Report:
    """E ĝ against g: the squared quantities are exact in exact fields, their ratios are rounded at the very end.

    A ratio whose denominator is 0 (g = 0, or E ĝ = 0) is None.
    """

    gradient_norm: float  # |g|
    bias_norm: float  # |E ĝ − g|
    relative_bias: float | None  # |E ĝ − g| / |g|
    scale: float | None  # ⟨E ĝ, g⟩ / ⟨g, g⟩
    direction_bias: float | None  # |E ĝ − scale·g| / |scale·g|: what no learning rate mends
    cosine: float | None
    total_variance: float  # trace of Cov ĝ
    mse_over_g2: float | None  # (|E ĝ − g|² + total_variance) / |g|²


def report(mean: Array, variance: Any, g: Array, floor: float = 0.0) -> Report:
    """Compare an expected gradient ``mean`` [D] of total variance ``variance`` with the exact ``g`` [D].

    A gradient no longer than ``floor``, its rounding error, counts as 0.  EstimatorError when a number leaves float64.
    """
    try:
        with np.errstate(over="raise", invalid="raise"):
            return _report(mean, variance, g, floor)
    except (OverflowError, FloatingPointError):
        raise EstimatorError("the moments leave the range of float64: rescale the rewards") from None


def _report(mean: Array, variance: Any, g: Array, floor: float) -> Report:
    gg, mg, mm = _dot(g, g), _dot(mean, g), _dot(mean, mean)
    gg, mm = (0 if x != 0 and _root(x) <= floor else x for x in (gg, mm))
    mg = mg if gg != 0 and mm != 0 else 0
    bias = _dot(mean - g, mean - g)
    off = mean - mg / gg * g if gg != 0 else None
    return Report(
        gradient_norm=_root(gg),
        bias_norm=_root(bias),
        relative_bias=_root_ratio(bias, gg),
        scale=_ratio(mg, gg),
        direction_bias=None if off is None or mg == 0 else _root_ratio(_dot(off, off), mg * mg / gg),
        cosine=None if gg == 0 or mm == 0 else min(1.0, max(-1.0, _ratio_of_roots(mg, gg, mm))),
        total_variance=float(variance),
        mse_over_g2=_ratio(bias + variance, gg),
    )


def report_of(moments: Moments, g: Array, floor: float = 0.0) -> Report:
    """The report over all prompts; ``g`` as the judge lays it out."""
    problem = moments.problem
    return report(problem.combine(moments.mean), moments.total_variance, problem.combine(g), floor)


def report_by_prompt(moments: Moments, g: Array, floor: float = 0.0) -> list[Report]:
    """One report per prompt, unweighted."""
    problem, out = moments.problem, []
    for prompt in range(problem.prompts):
        rows = problem.tree.prompt == prompt if problem.tabular else slice(prompt, prompt + 1)
        out.append(report(moments.mean[rows].ravel(), moments.variance[prompt], g[rows].ravel(), floor))
    return out


def _dot(u: Array, v: Array) -> Any:
    return (u * v).sum() if u.dtype == object else math.fsum(u * v) if u.size < 10**6 else float(u @ v)


def _ratio(a: Any, b: Any) -> float | None:
    return None if b == 0 else float(a / b)


def _root(a: Any) -> float:
    return math.sqrt(float(a))


def _root_ratio(a: Any, b: Any) -> float | None:
    return None if b == 0 else _root(a / b)


def _ratio_of_roots(mg: Any, gg: Any, mm: Any) -> float:
    return float(mg / gg) * math.sqrt(float(gg / mm))
