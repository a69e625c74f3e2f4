"""Rank-GRPO: answers that are lists, with one ratio for each item of the list."""

from __future__ import annotations

import numpy as np

from tpg.estimators import advantages, aggregation, ratios
from tpg.estimators.estimator import Estimator
from tpg.estimators.expectations import Expectation
from tpg.numbers import Array, parse, to_float


def rank_clip(
    ratio: Array,
    tokens: Array,
    mask: Array,
    sign: Array,
    *,
    delimiter: int = 0,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
) -> Array:
    """Rank-GRPO (arXiv 2510.20150; described form): min(s_k A, clip(s_k) A), s_k the geometric mean over item k.

    An item ends with the token ``delimiter``; the last may be left open.  Items count alike: with n_k tokens in item k
    and K items, ∂/∂log π_t = s_k/(n_k K) where unclipped, 0 where clipped.  No full text was at hand: the response's
    z-score stands for the item's return.  [..., G, T] → [..., G, T].

    >>> rank_clip(np.ones(4), np.array([1, 0, 2, -1]), np.array([True, True, True, False]), np.ones(4))
    array([0.25, 0.25, 0.5 , 0.  ])
    """
    ends = (tokens == delimiter) & mask
    item = np.cumsum(ends, -1) - ends
    same = (item[..., :, None] == item[..., None, :]) & mask[..., :, None] & mask[..., None, :]
    size = np.maximum(same.sum(-1), 1)
    with np.errstate(divide="ignore"):  # a response that π forbids: its items have ratio 0
        logs = np.log(to_float(ratio))
    mean = np.exp(np.where(same, logs[..., None, :], 0.0).sum(-1) / size)
    items = np.where(mask, item, 0).max(-1, keepdims=True) + 1
    factor = ratios.clipped(mean, sign, 1 - parse(clip_low), 1 + parse(clip_high))
    return np.where(mask, factor / (size * items), 0.0)


ROWS = [
    Estimator(
        "rank_grpo",
        advantages.z_score,
        aggregation.seq_mean_token_sum,
        rank_clip,
        Expectation("biased: E ĝ = E[f(R) Σ_t S_t/(n_k K)], item sizes known at the end", known=False),
        "arXiv 2510.20150, rank-level geometric ratios",
        numbers="float64",
    )
]
