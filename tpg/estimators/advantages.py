"""What a response, or a token, is worth.  Pure functions of Rollouts fields, named as in the literature.

Fields are read by naming them as parameters; ``@peers`` names those that are read of *other* responses of the group.
Every formula is plain arithmetic, so it runs in float64, in rationals and in GF(p), unless it says otherwise.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np

from tpg.errors import EstimatorError
from tpg.estimators.parts import leave_one_out, peers, too_small
from tpg.numbers import Array, powers


def response_reward(reward: Array) -> Array:
    """REINFORCE on the response reward (Williams 1992; thm:trajectory-pg, single sample): A_i = RM(W_i).

    E[A S_t] = E[M_t S_t] because E[RM | W_{0,t}] = M_t.  [..., G] → [..., G].

    >>> response_reward(np.array([1.0, 0.0]))
    array([1., 0.])
    """
    return reward


def prompt_baseline(reward: Array, expected_reward: Array) -> Array:
    """REINFORCE with the prompt's expected reward as baseline: A_i = RM(W_i) − M_0.

    Unbiased by lem:baseline: M_0 is a function of the prompt.  [..., G], [..., 1] → [..., G].

    >>> prompt_baseline(np.array([1.0, 0.0]), np.array([0.25]))
    array([ 0.75, -0.25])
    """
    return reward - expected_reward


def greedy(reward: Array, greedy_reward: Array) -> Array:
    """ReMax (Li et al., arXiv 2310.10505): A_i = R_i − R(greedy response).

    Unbiased by lem:baseline: the greedy reward is a function of the prompt.  [..., G], [..., 1] → [..., G].

    >>> greedy(np.array([1.0, 0.0]), np.array([1.0]))
    array([ 0., -1.])
    """
    return reward - greedy_reward


@leave_one_out(lambda size: Fraction(1))
@peers("reward")
def rloo(reward: Array) -> Array:
    """Leave-one-out (Kool et al. 2019; Ahmadian et al., arXiv 2402.14740): A_i = R_i − mean_{j≠i} R_j.

    Unbiased: the others are independent of W_i.  [..., G] → [..., G].  EstimatorError for a group of one.

    >>> rloo(np.array([1.0, 0.0, 0.0]))
    array([ 1. , -0.5, -0.5])
    """
    size = _group("rloo", reward)
    return np.where(tied(reward), reward - reward, (size * reward - reward.sum(-1, keepdims=True)) / (size - 1))


@leave_one_out(lambda size: Fraction(size - 1, size))
@peers("reward")
def group_mean(reward: Array) -> Array:
    """Group mean, own reward included (GRPO without std; Dr. GRPO, arXiv 2503.20783): A_i = R_i − mean_j R_j.

    E = (G−1)/G · g, since R_i − mean_j R_j = (G−1)/G · (R_i − mean_{j≠i} R_j) (prop:group-mean).
    [..., G] → [..., G].  EstimatorError for a group of one.

    >>> group_mean(np.array([1.0, 0.0]))
    array([ 0.5, -0.5])
    """
    size = _group("group_mean", reward)
    return np.where(tied(reward), reward - reward, reward - reward.sum(-1, keepdims=True) / size)


@peers("reward")
def z_score(reward: Array, *, ddof: int = 1, eps: float = 1e-6) -> Array:
    """GRPO (Shao et al., arXiv 2402.03300): A_i = (R_i − mean_j R_j) / (std_j R_j + eps), as verl computes it.

    std divides by G − ``ddof``; ``eps`` is in rewards.  Biased: for rewards in {0, 1} E ĝ = h'_G(p) ∇p with h' of
    prop:count-rules; with more values the direction turns (prop:sigma-turns).  Equal rewards give exactly 0, the
    published outcome.  float64 only: a square root leaves the rationals.  EstimatorError for a group of one.

    >>> z_score(np.array([1.0, 0.0]), ddof=0, eps=0.0)
    array([ 1., -1.])
    """
    if reward.dtype == object:
        raise EstimatorError("z_score takes a square root, exact numbers have none: use a float64 problem")
    size = _group("z_score", reward)
    centred = group_mean(reward)
    spread = np.sqrt((centred * centred).sum(-1, keepdims=True) / (size - ddof)) + eps
    return np.divide(centred, spread, out=np.zeros_like(centred), where=~tied(reward))


def reward_to_go(token_reward: Array, discount: Any) -> Array:
    """Reward-to-go with the true token rewards (lem:exact-gradient): A_t = Σ_{k≥t} γ^{k−1} r_k = γ^{t−1} G_t.

    Unbiased for causal r.  [..., G, T] → [..., G, T].

    >>> reward_to_go(np.array([[1.0, 2.0]]), 0.5)
    array([[2., 1.]])
    """
    paid = token_reward * powers(discount, token_reward.shape[-1])
    return np.flip(np.add.accumulate(np.flip(paid, -1), axis=-1), -1)


def trajectory_value(continuation_value: Array) -> Array:
    """thm:trajectory-pg (arXiv 2506.02553): A_t = M_t = E[RM(W^{(t+1)})], exact.

    Unbiased by lem:baseline with b = Σ_{k<t} γ^{k−1} r_k.  [..., G, T+1] → [..., G, T].

    >>> trajectory_value(np.array([[0.5, 0.75, 1.0]]))
    array([[0.75, 1.  ]])
    """
    return continuation_value[..., 1:]


def exact_advantage(continuation_value: Array) -> Array:
    """thm:advantage (arXiv 2506.02553): A_t = M_t − M_{t−1}, exact.

    Unbiased by lem:baseline with b = M_{t−1}.  [..., G, T+1] → [..., G, T].

    >>> exact_advantage(np.array([[0.5, 0.75, 1.0]]))
    array([[0.25, 0.25]])
    """
    return continuation_value[..., 1:] - continuation_value[..., :-1]


def zra_discounted(reward: Array, length: Array, mask: Array, discount: Any) -> Array:
    """prop:gamma-weight, as implemented: RM on the last token, discounted back: A_t = γ^{L−t} RM, no factor γ^{t−1}.

    Biased for γ ≠ 1: later tokens weigh more, by (1/γ)^{t−1}.  [..., G] → [..., G, T].

    >>> zra_discounted(np.array([1.0]), np.array([2]), np.ones((1, 2), bool), 0.5)
    array([[0.5, 1. ]])
    """
    steps = mask.shape[-1]
    left = np.maximum(length[..., None] - np.arange(1, steps + 1), 0)
    return powers(discount, steps + 1)[left] * reward[..., None]


def zra_discounted_start(reward: Array, length: Array, discount: Any, horizon: int) -> Array:
    """prop:gamma-weight with γ^{t−1} kept: A_t = γ^{t−1} γ^{L−t} RM = γ^{L−1} RM for every token.

    E ĝ = ∇E[γ^{L−1} RM] exactly: the gradient of a length-penalised objective, not g.  [..., G] → [..., G].

    >>> zra_discounted_start(np.array([1.0]), np.array([2]), 0.5, 2)
    array([0.5])
    """
    return powers(discount, horizon + 1)[length - 1] * reward


def tied(reward: Array) -> Array:
    """[..., 1] bool: all rewards of the group are equal, so that rounding of their mean must not become a credit."""
    return (reward == reward[..., :1]).all(-1, keepdims=True)


def _group(name: str, reward: Array) -> int:
    size = reward.shape[-1]
    if size < 2:
        raise too_small(name, size, 2)
    return size
