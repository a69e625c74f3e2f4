"""How tokens are weighted: verl's ``loss_agg_mode`` as the divisor of each response's credits.

Divisors are whole numbers [..., G], 1/G included, so that they stay exact in every number type.  All raise
EstimatorError when a response has no token.
"""

from __future__ import annotations

import numpy as np

from tpg.errors import EstimatorError
from tpg.estimators.parts import peers
from tpg.numbers import Array


def seq_mean_token_sum(length: Array, group_size: int) -> Array:
    """``seq-mean-token-sum``: divide by G.  Keeps the expectation of the advantage.

    >>> seq_mean_token_sum(np.array([2, 3]), 2)
    array([2, 2])
    """
    return np.full_like(_tokens(length), group_size)


def seq_mean_token_mean(length: Array, group_size: int) -> Array:
    """``seq-mean-token-mean`` (GRPO, arXiv 2402.03300): divide by G·L_i, L_i tokens.

    Biased when lengths vary: with a mean baseline E ĝ = (G−1)/G (E[1/L] ∇J + ∇Cov(R, 1/L)) (prop:length).

    >>> seq_mean_token_mean(np.array([2, 4]), 2)
    array([4, 8])
    """
    return group_size * _tokens(length)


@peers("length")
def token_mean(length: Array) -> Array:
    """``token-mean`` (DAPO, arXiv 2503.14476): divide by Σ_j L_j, the tokens of the group.

    Biased when lengths vary: a random divisor (prop:length).

    >>> token_mean(np.array([1, 3]))
    array([4, 4])
    """
    return np.broadcast_to(_tokens(length).sum(-1, keepdims=True), length.shape)


def seq_mean_token_sum_norm(length: Array, group_size: int, horizon: int) -> Array:
    """``seq-mean-token-sum-norm`` (Dr. GRPO, arXiv 2503.20783): divide by G·T, T = ``horizon`` tokens, a constant.

    >>> seq_mean_token_sum_norm(np.array([1, 2]), 2, 4)
    array([8, 8])
    """
    return np.full_like(_tokens(length), group_size * horizon)


def _tokens(length: Array) -> Array:
    if (length <= 0).any():
        where = tuple(int(i) for i in np.argwhere(length <= 0)[0])
        raise EstimatorError(f"response {where} has an empty mask: every response needs at least one token")
    return length
