"""Advantages normalised over the batch: REINFORCE++, Lite PPO, GPG, and DAPO with the tokens of all prompts.

A batch holds one group of G responses per prompt; fields have axes [..., P, G].  ĝ = Σ_x weight(x) ĝ_x as for every
row, and for equal weights 1/P it is the published mean over the batch.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tpg.errors import EstimatorError
from tpg.estimators import advantages, aggregation
from tpg.estimators import batch_expected as expected
from tpg.estimators.aggregation import _tokens
from tpg.estimators.estimator import Estimator
from tpg.estimators.parts import batch_peers
from tpg.numbers import Array, powers

WHITEN_EPS = 1e-8  # verl's masked_whiten: under the root, in rewards²
SCALE_EPS = 1e-4  # TRL's scale_rewards="batch": beside the std, in rewards
BOTH = (-2, -1)


@batch_peers("length")
def batch_token_mean(length: Array, discount: Any) -> Array:
    """``token-mean`` over the batch: divide by Σ_{x,j} L_xj / P, in the number type of ``discount``.

    With weights 1/P, Σ_x weight(x) ĝ_x is then Σ of all credits over the tokens of the whole batch.

    >>> batch_token_mean(np.array([[1, 3], [2, 2]]), 1.0)
    array([[4., 4.],
           [4., 4.]])
    """
    tokens = _tokens(length).sum(BOTH, keepdims=True)
    return np.broadcast_to(powers(discount, 1) * tokens / length.shape[-2], length.shape)


@batch_peers("reward", "length")
def token_whitened(reward: Array, length: Array) -> Array:
    """REINFORCE++ (Hu et al., arXiv 2501.03262): A_i = (R_i − m) / √(v + 10⁻⁸), m, v over the tokens of the batch.

    As verl computes it (``masked_whiten``), without the KL term in the reward and with γ = 1: every token of W_i has
    the return R_i, so m = Σ L R / n and v = Σ L (R − m)² / (n − 1), n = Σ L tokens.  Biased: m weighs by length and
    holds the response itself, v is random.  [..., P, G] → [..., P, G], no unit.  Equal rewards give 0.  EstimatorError
    for a batch of one response.

    >>> token_whitened(np.array([[1.0, 0.0]]), np.array([[1, 1]])).round(3)
    array([[ 0.707, -0.707]])
    """
    _batch("token_whitened", reward)
    return _whitened(reward, _tokens(length))


@batch_peers("reward")
def response_whitened(reward: Array) -> Array:
    """REINFORCE++, mean and variance over responses (arXiv 2501.03262): A_i = (R_i − m) / √(v + 10⁻⁸).

    m = mean and v = variance (N − 1) of the rewards of the batch, N = P·G.  Without 1/√v, E ĝ = (1 − 1/N) g exactly;
    the random v bends it.  [..., P, G] → [..., P, G], no unit.  Equal rewards give 0.  EstimatorError for a batch of
    one response.

    >>> response_whitened(np.array([[1.0], [0.0]])).round(3)
    array([[ 0.707],
           [-0.707]])
    """
    _batch("response_whitened", reward)
    return _whitened(reward, np.ones(reward.shape))


@batch_peers("reward", "length")
def group_then_tokens_whitened(reward: Array, length: Array) -> Array:
    """REINFORCE++-baseline (arXiv 2501.03262; verl): A_i = (C_i − m) / √(v + 10⁻⁸), C_i = R_i − mean of the group.

    m, v of C over the tokens of the batch, as in :func:`token_whitened`.  Biased: as there.  [..., P, G] → [..., P, G],
    no unit.  Equal rewards in every group give 0.  EstimatorError for a group of one.

    >>> group_then_tokens_whitened(np.array([[1.0, 0.0]]), np.array([[1, 1]])).round(3)
    array([[ 0.707, -0.707]])
    """
    _batch("group_then_tokens_whitened", reward)
    return _whitened(advantages.group_mean(reward), _tokens(length))


@batch_peers("reward")
def batch_scaled(reward: Array) -> Array:
    """Lite PPO (arXiv 2508.08221): A_i = (R_i − mean of the group) / (std of the batch + 10⁻⁴).

    std (N − 1) of all N = P·G rewards, as TRL's ``scale_rewards="batch"`` computes it; the paper names no ε.  Biased:
    the std is random and holds the response itself, though all responses share it.  [..., P, G] → [..., P, G], no
    unit.  Equal rewards in a group give 0.  EstimatorError for a group of one.

    >>> batch_scaled(np.array([[1.0, 0.0], [0.0, 0.0]])).round(3)
    array([[ 1., -1.],
           [ 0.,  0.]])
    """
    _batch("batch_scaled", reward)
    _floats("batch_scaled", reward)
    return advantages.group_mean(reward) / (reward.std(BOTH, ddof=1, keepdims=True) + SCALE_EPS)


@batch_peers("reward")
def gpg(reward: Array) -> Array:
    """GPG (Chu et al., arXiv 2504.02546): A_i = α (R_i − mean of the group), α = N / responses with A ≠ 0.

    N = P·G responses: those without signal do not dilute the batch.  No full text was at hand: F_norm = 1, and A ≠ 0 is
    read of the response (verl counts rewards ≠ 0 in its place).  Biased: α is random.  [..., P, G] → [..., P, G], in
    rewards.  0 where no response has a signal.  EstimatorError for a group of one.

    >>> gpg(np.array([[1.0, 0.0], [0.0, 0.0]]))
    array([[ 1., -1.],
           [ 0.,  0.]])
    """
    _batch("gpg", reward)
    centred = advantages.group_mean(reward)
    signal = np.count_nonzero(_not_zero(centred, reward), axis=BOTH, keepdims=True)
    return centred * (reward.shape[-2] * reward.shape[-1]) / np.maximum(signal, 1)


def _whitened(values: Array, weight: Array) -> Array:
    """(v − m) / √(var + ε) with the mean and the unbiased variance of ``values`` counted ``weight`` times."""
    _floats("whitening", values)
    count = weight.sum(BOTH, keepdims=True)
    centred = values - (weight * values).sum(BOTH, keepdims=True) / count
    variance = (weight * centred * centred).sum(BOTH, keepdims=True) / (count - 1)
    tied = (values == values[..., :1, :1]).all(BOTH, keepdims=True)
    return np.where(tied, 0.0, centred / np.sqrt(variance + WHITEN_EPS))


def _not_zero(centred: Array, reward: Array) -> Array:
    """Where R_i − mean is not 0, nor the rounding of 0."""
    if centred.dtype == object:
        return np.asarray(centred != 0)
    return np.asarray(np.abs(centred) > 4 * np.finfo(np.float64).eps * np.abs(reward).sum(-1, keepdims=True))


def _batch(name: str, reward: Array) -> None:
    if reward.ndim < 2:
        raise EstimatorError(f"{name} normalises over a batch: rewards of shape {reward.shape} given, [P, G] needed")
    if reward.shape[-2] * reward.shape[-1] < 2:
        raise EstimatorError(f"{name} compares the responses of a batch: 1 response given, at least 2 needed")


def _floats(name: str, values: Array) -> None:
    if values.dtype == object:
        raise EstimatorError(f"{name} takes a square root, exact numbers have none: use a float64 problem")


ROWS: list[Estimator] = [
    Estimator(
        "reinforce_plus_plus",
        token_whitened,
        batch_token_mean,
        expectation=expected.WHITENED,
        source="arXiv 2501.03262; verl, without KL",
        numbers="float64",
    ),
    Estimator(
        "reinforce_plus_plus_response",
        response_whitened,
        aggregation.seq_mean_token_sum,
        expectation=expected.WHITENED_RESPONSES,
        source="arXiv 2501.03262, over responses, without KL",
        numbers="float64",
    ),
    Estimator(
        "reinforce_plus_plus_baseline",
        group_then_tokens_whitened,
        batch_token_mean,
        expectation=expected.WHITENED_BASELINE,
        source="arXiv 2501.03262; verl, OpenRLHF reinforce_baseline",
        numbers="float64",
        smallest_group=2,
    ),
    Estimator(
        "lite_ppo",
        batch_scaled,
        batch_token_mean,
        expectation=expected.LITE_PPO,
        source="arXiv 2508.08221; TRL scale_rewards=batch",
        numbers="float64",
        smallest_group=2,
    ),
    Estimator(
        "gpg",
        gpg,
        batch_token_mean,
        expectation=expected.GPG,
        source="arXiv 2504.02546",
        smallest_group=2,
    ),
    Estimator(
        "dapo_batch",
        advantages.z_score,
        batch_token_mean,
        expectation=expected.DAPO,
        source="arXiv 2503.14476, first step, tokens of the whole batch",
        numbers="float64",
    ),
]
