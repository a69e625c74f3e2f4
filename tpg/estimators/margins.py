"""Arithmetic of pairs: differences within a group, log ratios to a reference, and zeros that stay zero."""

from __future__ import annotations

import numpy as np
from scipy.special import expit

from tpg.errors import EstimatorError, TooLarge
from tpg.estimators.parts import too_small
from tpg.numbers import Array, to_float

ROUNDING = 64 * np.finfo(np.float64).eps
MAX_PAIRS = 3 * 10**7  # pairs held at once


def settle(value: Array, size: Array) -> Array:
    """``value``, exactly 0 where it is no more than the rounding of terms of ``size``.

    >>> settle(np.array([0.1 + 0.2 - 0.3, 0.1]), np.array([0.3, 0.3]))
    array([0. , 0.1])
    """
    return np.where(np.abs(value) <= ROUNDING * size, 0.0, value)


def group_of(name: str, reward: Array) -> int:
    """The size of the group, at least 2."""
    size = reward.shape[-1]
    if size < 2:
        raise too_small(name, size, 2)
    return size


def check_logs(name: str, *logs: Array) -> None:
    """EstimatorError where a logarithm is infinite."""
    if not all(np.isfinite(log).all() for log in logs):
        raise EstimatorError(f"{name} takes log-probabilities, a response of probability 0 has none: give full support")


def log_of(name: str, ratio: Array) -> Array:
    """log of a ratio, positive."""
    if not (to_float(ratio) > 0).all():
        raise EstimatorError(f"{name} takes the log of π/μ, a response of probability 0 has none: give full support")
    return np.log(to_float(ratio))


def log_ratio(name: str, logp: Array, ref_logp: Array) -> Array:
    """log π/ref [..., G] of whole responses."""
    check_logs(name, logp, ref_logp)
    return logp - ref_logp


def differences(name: str, values: Array) -> Array:
    """[..., G, G] value_i − value_j."""
    size = group_of(name, values)
    TooLarge.check(f"{name}: every pair of every group", values.size * size, MAX_PAIRS, "lower the group size")
    return values[..., :, None] - values[..., None, :]


def margins(name: str, logp: Array, ref_logp: Array) -> Array:
    """[..., G, G] log π/ref(W_i) − log π/ref(W_j)."""
    size = np.abs(logp) + np.abs(ref_logp)
    margin = differences(name, log_ratio(name, logp, ref_logp))
    return settle(margin, size[..., :, None] + size[..., None, :])


def push_of(name: str, better: Array, logp: Array, ref_logp: Array, beta: float) -> Array:
    """[..., G, G] β σ(−β d) of each labelled pair, 0 where there is no label."""
    return np.where(better == 0, 0.0, beta * expit(-beta * better * margins(name, logp, ref_logp)))


def mean_of_pairs(pair: Array) -> Array:
    """[..., G] 2 · mean_{j≠i} f(i, j)."""
    return 2 * settle(pair.sum(-1), np.abs(pair).sum(-1)) / (pair.shape[-1] - 1)


def off_peers(name: str, score: Array, size: Array) -> Array:
    """[..., G] S_i − mean_{j≠i} S_j: the mean over pairs where f is linear."""
    group = group_of(name, score)
    gap = (group * score - score.sum(-1, keepdims=True)) / (group - 1)
    return settle(gap, size.max(-1, keepdims=True))
