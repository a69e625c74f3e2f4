"""Values from the prefix tree of a group: TEMPO, and what it would take to make it unbiased.

V̂(s) is the mean reward of the responses of the group that pass through prefix s.  All formulas are written in
differences R_j − R_i, so that equal rewards give exactly 0.  Peers act on single tokens, for which brute force is the
only engine.
"""

from __future__ import annotations

import numpy as np

from tpg.errors import EstimatorError
from tpg.estimators.advantages import _group, tied
from tpg.estimators.parts import peers
from tpg.numbers import Array


@peers("reward", "prefix")
def tempo(reward: Array, prefix: Array) -> Array:
    """TEMPO, P2T (arXiv 2509.18314) without std: A_t = R_i − mean_j R_j + V̂(s_{t+1}) − V̂(s_t), V̂ over the group's tree.

    Biased: credit counts once through R_i and up to once more through the tree, more for early and for likely prefixes.
    V̂(parent) holds the response itself, which takes away 1/n of n.  [..., G], [..., G, T+1] → [..., G, T], in rewards.
    EstimatorError for a group of one.

    >>> tempo(np.array([1.0, 0.0]), np.array([[0, 1, -1], [0, 1, -1]]))
    array([[ 0.5,  1. ],
           [-0.5, -1. ]])
    """
    _group("tempo", reward)
    gap = _gap(reward)
    return _tree(reward, prefix) - (gap.sum(-1) / gap.shape[-1])[..., None]


@peers("reward", "prefix")
def tempo_std(reward: Array, prefix: Array, *, ddof: int = 1, eps: float = 1e-6) -> Array:
    """TEMPO (arXiv 2509.18314) as published: A_t = (R_i − mean_j R_j + V̂(s_{t+1}) − V̂(s_t)) / (std_j R_j + eps).

    Biased.  std divides by G − ``ddof``, as in verl; ``eps`` is in rewards; equal rewards give exactly 0.
    [..., G], [..., G, T+1] → [..., G, T], float64.  EstimatorError for a group of one and for exact numbers.

    >>> tempo_std(np.array([1.0, 0.0]), np.array([[0, 1, -1], [0, 1, -1]]), ddof=0, eps=0.0)
    array([[ 1.,  2.],
           [-1., -2.]])
    """
    if reward.dtype == object:
        raise EstimatorError("tempo_std takes a square root, exact numbers have none: use a float64 problem")
    size = _group("tempo_std", reward)
    centred = reward - reward.mean(-1, keepdims=True)
    spread = (np.sqrt((centred * centred).sum(-1, keepdims=True) / (size - ddof)) + eps)[..., None]
    credit = tempo(reward, prefix)
    return np.divide(credit, spread, out=np.zeros_like(credit), where=~tied(reward)[..., None])


@peers("reward", "prefix")
def tree_leave_one_out(reward: Array, prefix: Array) -> Array:
    """TEMPO (arXiv 2509.18314) repaired, ours: A_t = V̂(s_{t+1}) − V̂_{−i}(s_p), s_p the last prefix shared with another.

    E ĝ = g.  Given w_t, everyone in the child continues independently, so E V̂(s_{t+1}) = Q(s_t, w_t); the baseline is
    a function of s_t and the others alone (lem:baseline), and the root, at worst, is shared with all of them, which
    is leave-one-out.  [..., G], [..., G, T+1] → [..., G, T], in rewards.  EstimatorError for a group of one.

    >>> tree_leave_one_out(np.array([1.0, 0.0]), np.array([[0, 1, -1], [0, 1, -1]]))
    array([[ 0.5,  1. ],
           [-0.5, -1. ]])
    """
    _group("tree_leave_one_out", reward)
    total, count = _through(reward, prefix)
    place = np.arange(prefix.shape[-1])
    shared = np.maximum.accumulate(np.where(count > 1, place, 0), axis=-1)
    others = np.take_along_axis(total / np.maximum(count - 1, 1), shared, axis=-1)  # R_i − R_i = 0 is in the total
    return (total / np.maximum(count, 1))[..., 1:] - others[..., :-1]


def _tree(reward: Array, prefix: Array) -> Array:
    """V̂(s_{t+1}) − V̂(s_t) [..., G, T]."""
    total, count = _through(reward, prefix)
    value = total / np.maximum(count, 1)
    return value[..., 1:] - value[..., :-1]


def _through(reward: Array, prefix: Array) -> tuple[Array, Array]:
    """Σ_j (R_j − R_i) over the responses j that hold the prefix, and their number, [..., G, T+1]; 0 from the end on."""
    same = (prefix[..., :, None, :] == prefix[..., None, :, :]) & (prefix >= 0)[..., None, :]
    gap = _gap(reward)[..., None]
    return np.where(same, gap, gap - gap).sum(-2), same.sum(-2)


def _gap(reward: Array) -> Array:
    """R_j − R_i [..., G (i), G (j)]."""
    return reward[..., None, :] - reward[..., :, None]
