"""Off-policy corrections and clips: a factor of the credits, 1 when π = μ."""

from __future__ import annotations

import numpy as np

from tpg.numbers import Array, parse


def on_policy(group_size: int) -> Array:
    """No correction: 1.  The estimator is meant for responses of the current policy."""
    return np.array([1])


def ppo_clip(ratio: Array, sign: Array, *, clip_low: float = 0.2, clip_high: float = 0.2) -> Array:
    """PPO (Schulman et al., arXiv 1707.06347): −∂loss/∂log π of min(r A, clip(r, 1−ε, 1+ε) A), divided by A.

    r where the objective is unclipped, 0 where (A > 0, r > 1 + ``clip_high``) or (A < 0, r < 1 − ``clip_low``).  On the
    first step r = 1: no correction, no clip.  ``sign`` is that of the advantage.  [..., G, T] → [..., G, T].

    >>> ppo_clip(np.array([1.0, 1.5, 1.5]), np.array([1, 1, -1]))
    array([1. , 0. , 1.5])
    """
    low, high = parse(clip_low), parse(clip_high)  # as fractions, to compare exact ratios with whole numbers
    above = (ratio - 1) * high.denominator > high.numerator
    below = (ratio - 1) * low.denominator < -low.numerator
    return np.where(((sign > 0) & above) | ((sign < 0) & below), ratio - ratio, ratio)
