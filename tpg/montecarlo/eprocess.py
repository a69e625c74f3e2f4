"""Anytime-valid test that an estimator has the mean it should have: look as often as you like, alpha still holds.

H0: E[X_i | past] = m in every direction, X_i in [lo, hi].  Waudby-Smith & Ramdas, "Estimating means of bounded random
variables by betting", JRSS-B 86 (2024): under H0 the wealth Π_i (1 + λ(x_i − m)) is a martingale that starts at 1 and,
since |λ| ≤ 1/(2B) with B = max(hi − m, m − lo), stays positive; so does an average over bets λ and over directions.
Ville: P(it ever reaches 1/α) ≤ α.  Bets are fixed in advance, so the order within a chunk does not matter.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tpg.errors import EstimatorError
from tpg.numbers import Array, to_float

BETS = np.array([sign / 2**j for sign in (1, -1) for j in range(1, 13)])  # λB: an ideal bet is within √2 of one of them
SLACK = 1e-9  # of B: forgives rounding at the bounds; a factor at |y| ≤ 1 + SLACK is still positive, so α still holds
SLAB = 2**14  # logarithms taken at once: bounds the memory, fits the cache


@dataclass(frozen=True, eq=False)
class EProcess:
    """State of the test for D directions: ``begin`` makes it, ``update`` and ``merge`` return the next one.

    ``mean``, ``lo``, ``hi`` [D]: H0 and the range, in units of X.  ``log_wealth`` [bets, D]: Σ_i log(1 + λ(x_i − m)).
    ``peak``: largest log e-value at the end of any chunk; Ville's inequality covers it, so a rejection stands.
    """

    mean: Array
    lo: Array
    hi: Array
    alpha: float
    log_wealth: Array
    count: int = 0
    peak: float = 0.0


def begin(mean: Any, lo: Any, hi: Any, alpha: float = 1e-9) -> EProcess:
    """A test that has seen nothing, for numbers or arrays [D] that broadcast.  Raises EstimatorError on a bad range."""
    m, low, high = np.broadcast_arrays(*(np.atleast_1d(to_float(v)) for v in (mean, lo, hi)))
    if m.ndim != 1 or not ((low <= m) & (m <= high) & (low < high) & np.isfinite(high - low)).all():
        raise EstimatorError(f"mean {mean} with range [{lo}, {hi}]: give finite lo < hi around the mean, shape [D]")
    if not 0 < alpha < 1:
        raise EstimatorError(f"alpha {alpha} is no error rate: give a number between 0 and 1")
    return EProcess(m, low, high, alpha, np.zeros((len(BETS), len(m))))


def update(process: EProcess, x: Any) -> EProcess:
    """The test after a chunk ``x`` [n, D] ([n] when D = 1).  Raises EstimatorError outside [lo, hi] and on NaN."""
    chunk = np.atleast_2d(to_float(x).T).T
    if chunk.ndim != 2 or chunk.shape[1] != len(process.mean):
        raise EstimatorError(f"observations have shape {np.shape(x)}, needed [n, {len(process.mean)}]")
    rows = max(1, SLAB // process.log_wealth.size)
    slabs = (_log_factors(process, chunk[i : i + rows]) for i in range(0, len(chunk), rows))
    return _advance(process, sum(slabs, start=np.zeros_like(process.log_wealth)), len(chunk))


def merge(process: EProcess, other: EProcess) -> EProcess:
    """``process`` after the observations of ``other``, another worker's test of the same H0, as one chunk."""
    if any(not np.array_equal(getattr(process, f), getattr(other, f)) for f in ("mean", "lo", "hi", "alpha")):
        raise EstimatorError("cannot merge tests with different mean, lo, hi or alpha: begin both with the same ones")
    return _advance(process, other.log_wealth, other.count)


def log_evalue(process: EProcess) -> float:
    """log of the evidence against H0: the average wealth over bets and directions, after everything seen so far."""
    return float(np.logaddexp.reduce(process.log_wealth, axis=None)) - math.log(process.log_wealth.size)


def evalue(process: EProcess) -> float:
    """The average wealth: expectation 1 under H0.  ``inf`` when beyond float64."""
    return math.exp(log_evalue(process)) if log_evalue(process) < 709 else math.inf


def rejected(process: EProcess) -> bool:
    """Whether the wealth was ever ≥ 1/α at the end of a chunk; happens with probability ≤ α when H0 is true."""
    return process.peak >= -math.log(process.alpha)


def minimum_discrepancy(
    n: int, variance: float, bound: float, alpha: float = 1e-9, power: float = 0.99, directions: int = 1
) -> float:
    """The d, in units of X, such that any |E X − m| ≥ d in one direction is rejected after n draws w.p. ≥ ``power``.

    ``variance``: upper bound on Var X under the alternative; ``bound``: B.  ``inf`` when no d ≤ B will do.  Derivation
    (ours), y = (X − m)/B with mean δ ≥ 0 (the bets are symmetric) and variance at most v = min(variance/B², 1 − δ²):
    1. The average of K = bets·D wealths is at least any one of them over K, so H0 falls once Σ_i log(1 + b y_i) ≥ L
       = log(K/α) for one bet b.  Chernoff: P(miss) ≤ e^{sL} (E f)^n for every s > 0, with f(y) = (1 + b y)^{−s}.
    2. f'' > 0 > f''', so f lies below the parabola that meets it at −1 and touches it at y* = δ + v/(1 + δ) ≤ 1: the
       difference is f'''(ξ)/6·(y + 1)(y − y*)².  A parabola's expectation needs mean and variance only, and grows with
       the latter: E f ≤ M = w f(−1) + (1 − w) f(y*), w = v/(v + (1 + δ)²), with equality for Bennett's two-point law.
    3. As δ grows w falls and y* does not, so M falls: what detects δ detects all above it, and bisection finds it.  Any
       (b, s) is valid, the best of a grid is taken.  It detects only where M < 1, where a larger n detects as well.
    """
    if not (bound > 0 and variance >= 0 and 0 < alpha < 1 and 0 < power < 1 and directions >= 1):
        raise EstimatorError(f"{variance=}, {bound=}, {alpha=}, {power=}, {directions=}: give bound > 0, 0 < rates < 1")
    threshold, b, s = math.log(len(BETS) * directions / alpha), BETS[BETS > 0][:, None], np.geomspace(2**-6, 2**6, 73)

    def detects(delta: float) -> bool:
        v = min(variance / bound**2, 1 - delta**2)
        w = v / (v + (1 + delta) ** 2)
        top = np.expm1(-s * np.log1p(b * (delta + v / (1 + delta))))
        excess = w * np.expm1(-s * np.log1p(-b)) + (1 - w) * top  # M − 1, without cancellation
        return bool((n * np.log1p(excess) + s * threshold <= math.log1p(-power)).any())

    low, high = 0.0, 1.0
    for _ in range(60 if detects(high) else 0):
        middle = (low + high) / 2
        low, high = (low, middle) if detects(middle) else (middle, high)
    return high * bound if detects(high) else math.inf


def _advance(process: EProcess, log_factors: Array, count: int) -> EProcess:
    after = replace(process, log_wealth=process.log_wealth + log_factors, count=process.count + count)
    return replace(after, peak=max(process.peak, log_evalue(after)))


def _log_factors(process: EProcess, x: Array) -> Array:
    """Σ_i log(1 + b y_i) [bets, D] of ``x`` [n, D], y = (x − m)/B."""
    bound = np.maximum(process.hi - process.mean, process.mean - process.lo)
    outside = ~((x >= process.lo - SLACK * bound) & (x <= process.hi + SLACK * bound))
    for i, k in np.argwhere(outside)[:1]:
        span = f"[{process.lo[k]}, {process.hi[k]}] of direction {k}"
        raise EstimatorError(f"observation {x[i, k]} is outside {span}, so alpha is void: give bounds that always hold")
    return np.asarray(np.log1p(BETS[:, None, None] * np.ascontiguousarray(((x - process.mean) / bound).T)).sum(-1))
