"""Rank-GRPO: answers that are lists, with one ratio for each item of the list."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from tpg.estimators import advantages, aggregation, ratios
from tpg.estimators.estimator import Estimator
from tpg.estimators.expectations import Expectation, worth_of_ends, z_rule
from tpg.numbers import Array, parse, to_float
from tpg.problem.problem import Problem
from tpg.problem.tree import fork, walk


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


def by_item(problem: Problem, group_size: int) -> Array:
    """E[f(R) Σ_t S_t/(n_k K)] over every response: f the z-score given the own reward, item by item."""
    _, node, token = walk(problem.tree, problem.probs, np.arange(problem.prompts), fork)
    there, rows = node >= 0, np.arange(len(node))
    last = there.sum(1) - 1
    worth = worth_of_ends(problem, group_size, z_rule)[node[rows, last], token[rows, last]]
    chance = np.where(there, problem.probs[node, token], 1.0).prod(1)
    table = np.zeros(problem.probs.shape)
    start = np.zeros(len(node), dtype=int)  # first token of the open item
    items = 1 + ((token == 0) & (np.arange(node.shape[1]) < last[:, None])).sum(1)
    for t in range(node.shape[1]):
        closed = there[:, t] & ((token[:, t] == 0) | (t == last))
        for back in range(t + 1):  # the tokens of the item that ends here
            mine = rows[closed & (start <= back)]
            share = chance[mine] * worth[mine] / ((t + 1 - start[mine]) * items[mine])
            np.add.at(table, (node[mine, back], token[mine, back]), share)
        start = np.where(closed, t + 1, start)
    return problem.pull(table)


ROWS = [
    Estimator(
        "rank_grpo",
        advantages.z_score,
        aggregation.seq_mean_token_sum,
        rank_clip,
        Expectation(
            "biased: E ĝ = E[f(R) Σ_t S_t/(n_k K)], item sizes known at the end",
            lambda problem, size: Fraction(0),
            by_item,
        ),
        "arXiv 2510.20150, rank-level geometric ratios",
        numbers="float64",
    )
]
