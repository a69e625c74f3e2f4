"""Dense rewards d_t made from a response reward or a process reward model, and the three returns made of them.

A dense reward is a part rollouts → d [..., G, T], in rewards, 0 after the end; ``process_reward`` [..., G, T] is what
the row's own model says of each token, ``prompt_constant`` [..., 1] what it says of the prompt.  Three facts
(tests/test_redistribution.py proves them in rationals):

- (I1) d causal, a function of W_{0,t} alone: full sum and reward-to-go both estimate ∇E[Σ_t d_t], d frozen.
- (I2) d_t = Φ(W_{0,t}) − Φ(W_{0,t−1}): that is ∇E[Φ(W)].  It leaves g alone if Φ ends as a constant, or as R.
- (I3) d reads the future: the full sum is as before, reward-to-go is off by −E Σ_t (Σ_{k<t} d_k) S_t.

GAE with V(s) = E[Σ_{k≥t} d_k | s] has the expectation of reward-to-go for every λ, d causal or not: each
δ_k = d_k + V_{k+1} − V_k has mean 0 given W_{0,k−1}, so that only δ_t is left beside S_t.
"""

from __future__ import annotations

import inspect
from fractions import Fraction
from typing import Any

import numpy as np

from tpg.errors import EstimatorError
from tpg.estimators.advantages import rloo
from tpg.estimators.parts import Part, parameters, peers
from tpg.numbers import Array, parse, to_float

# Returns


def full(dense: Array) -> Array:
    """Full sum at every token: A_t = Σ_k d_k.

    >>> full(np.array([1, 2, 4]))
    array([7, 7, 7])
    """
    return np.broadcast_to(dense.sum(-1, keepdims=True), dense.shape)


def to_go(dense: Array) -> Array:
    """Reward-to-go: A_t = Σ_{k≥t} d_k.

    >>> to_go(np.array([1, 2, 4]))
    array([7, 6, 4])
    """
    return np.flip(np.add.accumulate(np.flip(dense, -1), axis=-1), -1)


def gae(dense: Array, mask: Array, value: Array, *, lam: Any = 0.95) -> Array:
    """GAE(λ) on dense rewards, γ = 1: A_t = Σ_k λ^k δ_{t+k}, δ_t = d_t + V_{t+1} − V_t.

    [..., G, T], [..., G, T], [..., G, T+1] → [..., G, T].

    >>> gae(np.array([[1.0, 2.0]]), np.ones((1, 2), bool), np.array([[3.0, 1.0, 0.0]]), lam=0)
    array([[-1.,  1.]])
    """
    rate = parse(lam)
    guess = value if dense.dtype == object else to_float(value)
    delta = masked(dense + guess[..., 1:] - guess[..., :-1], mask)
    out, carry = delta.copy(), delta[..., 0] * 0
    for t in reversed(range(mask.shape[-1])):
        carry = out[..., t] = delta[..., t] + scaled(carry, rate)
    return out


def composed(dense: Part, how: Part) -> Part:
    """The part rollouts → ``how``(``dense``(rollouts)), which reads what both read.

    >>> composed(spa_residual, to_go)(process_reward=np.array([[1, 2]]), reward=np.array([5]), length=np.array([2]))
    array([[5, 4]])
    """
    mine, more = parameters(dense), parameters(how)[1:]

    def part(**fields: Array) -> Array:
        return how(dense(**{name: fields[name] for name in mine}), **{name: fields[name] for name in more})

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    names = [inspect.Parameter(name, kind) for name in dict.fromkeys((*mine, *more))]
    part.__signature__ = inspect.Signature(names)  # type: ignore[attr-defined]
    part.__name__ = f"{dense.__name__}_{how.__name__}"
    part.__doc__ = dense.__doc__
    return part


# Potentials


def red(process_reward: Array, prompt_constant: Array, mask: Array) -> Array:
    """RED/R3HF (arXiv 2411.08302): d_t = RM(W_{0,t}) − RM(W_{0,t−1}), the reward model read on prefixes.

    E ĝ = g: Σ_t d_t = R − RM(prompt).  The same numbers as potential shaping (Ng et al. 1999) of a reward at the end,
    R·1{t=L} + Φ_t − Φ_{t−1} with Φ = RM on unfinished prefixes and Φ = 0 at the end.

    >>> red(np.array([[0.5, 2.0]]), np.array([1.0]), np.ones((1, 2), bool))
    array([[-0.5,  1.5]])
    """
    return masked(increments(process_reward, prompt_constant[..., None]), mask)


def igpo(process_reward: Array, prompt_constant: Array, reward: Array, length: Array, mask: Array) -> Array:
    """IGPO (arXiv 2510.14967): d_t = p(answer | W_{0,t}) − p(answer | W_{0,t−1}) + R·1{t=L}.

    Another objective: E ĝ = ∇E[R + p(answer | W)], p frozen: a potential whose end is open.  Every token is a turn; the
    group mean that the paper subtracts per turn is left out.

    >>> igpo(np.array([[0.5, 2.0]]), np.array([1.0]), np.array([3.0]), np.array([2]), np.ones((1, 2), bool))
    array([[-0.5,  4.5]])
    """
    return red(process_reward, prompt_constant, mask) + at_end(process_reward, reward, length)


def pav(
    process_reward: Array, prompt_constant: Array, reward: Array, length: Array, mask: Array, *, alpha: Any = 3
) -> Array:
    """PAV (arXiv 2410.08146) as a per-step reward: d_t = R·1{t=L} + α A^μ_t, A^μ_t = V^μ(W_{0,t}) − V^μ(W_{0,t−1}).

    E ĝ = (1+α) g whatever the prover μ, because V^μ ends as R.

    >>> pav(np.array([[0.5, 3.0]]), np.array([1.0]), np.array([3.0]), np.array([2]), np.ones((1, 2), bool), alpha=2)
    array([[-1.,  8.]])
    """
    ahead = red(process_reward, prompt_constant, mask)
    return scaled(ahead, parse(alpha)) + at_end(process_reward, reward, length)


def endogenous(process_reward: Array, prompt_constant: Array, ref_logp: Array, mask: Array) -> Array:
    """Endogenous reward (arXiv 2506.23235), α = 1: d_t = log π_LM(w_t | s_t) + V(s_t) − V(s_{t+1}), V(end) = 0.

    V: log-sum-exp of the model's logits; the language model is the reference policy.  No outcome enters.  Another
    objective: E ĝ = ∇E[log π_LM(W)], V cancels.  In nats.

    >>> endogenous(np.array([[0.5, 0.0]]), np.array([1.0]), np.array([[-1.0, -2.0]]), np.ones((1, 2), bool))
    array([[-0.5, -1.5]])
    """
    return _positive(ref_logp) - red(to_float(process_reward), to_float(prompt_constant), mask)


# Log-ratios


def implicit(process_reward: Array, ref_logp: Array) -> Array:
    """Implicit process reward (arXiv 2412.01981), β = 1: d_t = log π_φ(w_t | s_t) − log π_ref(w_t | s_t), in nats.

    ``process_reward``: that log-ratio, from a model that was trained with this reference policy.  Causal; Σ_t d_t is
    the reward that φ was fitted to, less a number per prompt.  EstimatorError where the reference forbids the token.

    >>> implicit(np.array([[0.5, -1.0]]), np.array([[-3.0, -1.0]]))
    array([[ 0.5, -1. ]])
    """
    _positive(ref_logp)
    return to_float(process_reward)


def rto(process_reward: Array, logp: Array, ref_logp: Array, reward: Array, length: Array, *, kl: float = 0.5) -> Array:
    """RTO (arXiv 2404.18922): d_t = β₁ log(π_dpo/π_ref)_t − β₂ log(π/π_ref)_t + β₃ R·1{t=L}, β₁ = β₃ = 1, β₂ = ``kl``.

    ``process_reward``: log π_dpo/π_ref.  Where π_dpo ∝ π_ref e^R it is V_soft(s_{t+1}) − V_soft(s_t), and
    E ĝ = ∇(2J − β₂ KL(π‖π_ref)): another objective by the KL term alone.  EstimatorError as for ``implicit``.

    >>> score, now, base = np.array([[[1.0, 0.0]], [[-2.0, -2.0]], [[-3.0, -1.0]]])
    >>> rto(score, now, base, np.array([1.0]), np.array([2]))
    array([[0.5, 1.5]])
    """
    step = implicit(process_reward, ref_logp)
    return step - kl * (logp - ref_logp) + at_end(step, to_float(reward), length)


@peers("reward")
def prime_outcome(reward: Array) -> Array:
    """PRIME (arXiv 2502.01456): A_t = RLOO(R) + Σ_{k≥t} log(π_φ/π_ref)_k; this part is the outcome's, RLOO(R).

    Another objective: E ĝ = ∇E[R + R_φ], R_φ the reward that φ was fitted to.  Unless R_φ is a multiple of R (up to a
    number per prompt) it is no shaping.  [..., G] → [..., G], EstimatorError for G = 1.

    >>> prime_outcome(np.array([1, 3]))
    array([-2.,  2.])
    """
    return rloo(reward)


@peers("reward", "process_reward", "ref_logp", "length")
def prime(reward: Array, process_reward: Array, ref_logp: Array, length: Array, mask: Array) -> Array:
    """PRIME as released (arXiv 2502.01456): A_t = RLOO(R) + Σ_{k≥t} (d_k − mean_{j≠i} d̄_j), d̄_j the mean over tokens.

    A number is taken off every token that is left, which pays by length: E ĝ = ∇E[R + R_φ] − E[d̄] ∇E[L].  The
    whitening that follows in the code is left out.  EstimatorError for G = 1.

    >>> step, zero = np.array([[0.0], [4.0]]), np.zeros((2, 1))
    >>> prime(np.array([1.0, 1.0]), step, zero, np.array([1, 1]), np.ones((2, 1), bool))
    array([[-4.],
           [ 4.]])
    """
    outcome = to_float(rloo(reward))[..., None]
    step = implicit(process_reward, ref_logp)
    mine = step.sum(-1) / length
    apart = (mine[..., None, :] - mine[..., :, None]).sum(-1)  # summed as differences: a tie stays a tie
    centred = masked(step - (mine + apart / (mine.shape[-1] - 1))[..., None], mask)
    return outcome + to_go(centred)


# Process rewards as they come


def spa(process_reward: Array) -> Array:
    """SPA-RL (arXiv 2505.20732): d_t = c_t, a prefix model's share of the reward.

    Another objective unless Σ_t c_t = R on every response: E ĝ = ∇E[Σ_t c_t].  The bonus for executable actions is left
    out.

    >>> spa(np.array([[1, 2]]))
    array([[1, 2]])
    """
    return process_reward


def spa_residual(process_reward: Array, reward: Array, length: Array) -> Array:
    """SPA-RL repaired (ours): d_t = c_t + 1{t=L} (R − Σ_k c_k).  Causal with Σ_t d_t = R: E ĝ = g.

    >>> spa_residual(np.array([[1, 2]]), np.array([5]), np.array([2]))
    array([[1, 4]])
    """
    return process_reward + at_end(process_reward, reward - process_reward.sum(-1), length)


def clip(process_reward: Array, reward: Array, length: Array, mask: Array, *, threshold: Any = 0.5) -> Array:
    """Clip (arXiv 2410.15115): d_t = min(PR_t − η, 0) + R·1{t=L}, η = ``threshold``.

    Another objective: E ĝ = ∇E[R + Σ_t min(PR_t − η, 0)].  The constants are ours.

    >>> clip(np.array([[0.0, 2.0]]), np.array([1.0]), np.array([2]), np.ones((1, 2), bool))
    array([[-0.5,  1. ]])
    """
    limit = parse(threshold)
    short = (process_reward * limit.denominator - limit.numerator) / limit.denominator
    return masked(short, mask & (short < 0)) + at_end(process_reward, reward, length)


def delta(process_reward: Array, reward: Array, length: Array) -> Array:
    """Delta (arXiv 2410.15115): d_t = PR_t − PR_{t+1} + R·1{t=L}, PR_{L+1} = 0; our reading: PR_t is said of W_{0,t}.

    It telescopes to Σ_{k≥t} d_k = PR_t + R, but PR_{t+1} reads the next token, so that it is no potential: full sum
    E ĝ = ∇E[R + PR_1], another objective; reward-to-go E ĝ = g + E Σ_t PR_t S_t, biased.

    >>> delta(np.array([[3, 1]]), np.array([5]), np.array([2]))
    array([[2, 6]])
    """
    after = np.concatenate([process_reward[..., 1:], process_reward[..., :1] * 0], axis=-1)
    return process_reward - after + at_end(process_reward, reward, length)


# Weights over the whole response


def abc(process_reward: Array, reward: Array, length: Array, *, beta: Any = 0.5) -> Array:
    """ABC (arXiv 2402.00782): d_t = β α_t R + (1−β) R·1{t=L}, α_t = a_t/Σ_k a_k attention over the whole response.

    Not causal.  Full sum: R, as REINFORCE.  Reward-to-go biased: E ĝ = g − β E Σ_t R A_{<t} S_t, A_{<t} = Σ_{k<t} α_k.

    >>> abc(np.array([[1.0, 3.0]]), np.array([8.0]), np.array([2]), beta=1)
    array([[2., 6.]])
    """
    rate, share = parse(beta), process_reward / process_reward.sum(-1, keepdims=True)
    return scaled(share * reward[..., None], rate) + at_end(process_reward, scaled(reward, 1 - rate), length)


def pure(process_reward: Array, mask: Array, *, temperature: float = 0.1) -> Array:
    """PURE (arXiv 2504.15275): d_t = w_t PR_t, w = softmax(−PR/T) over the response, T = ``temperature``.

    Not causal.  Full sum: ∇E[Σ_t w_t PR_t], near ∇E[min_t PR_t], another objective; reward-to-go is biased besides.

    >>> pure(np.array([[1.0, 1.0, 9.0]]), np.ones((1, 3), bool)).round(3)
    array([[0.5, 0.5, 0. ]])
    """
    score = to_float(process_reward)
    least = np.where(mask, score, np.inf).min(-1, keepdims=True)
    weight = np.where(mask, np.exp(np.where(mask, least - score, 0) / temperature), 0)
    return weight * score / weight.sum(-1, keepdims=True)


def pure_repaired(process_reward: Array, mask: Array) -> Array:
    """PURE repaired (ours): d_t = m_t − m_{t−1}, m_t = min_{k≤t} PR_k, m_0 = 0.  Causal, sums to min_t PR_t.

    E ĝ = ∇E[min_t PR_t], another objective, reached by reward-to-go too.

    >>> pure_repaired(np.array([[3, 4, 1]]), np.ones((1, 3), bool))
    array([[ 3,  0, -2]])
    """
    least = np.minimum.accumulate(process_reward, axis=-1)
    return masked(increments(least, least[..., :1] * 0), mask)


# Step by step, without a return


def slate(process_reward: Array, value: Array) -> Array:
    """SLATE, truncated step sampling: A_t = r(s_t, w_t) − mean_j r(s_t, a_j), with all tokens a_j ~ π as candidates.

    Myopic, biased: E ĝ = E Σ_t r_t S_t.

    >>> slate(np.array([[3.0]]), np.array([[1.0, 0.0]]))
    array([[2.]])
    """
    return process_reward - value[..., :-1]


def pav_myopic(
    process_reward: Array, prompt_constant: Array, continuation_value: Array, mask: Array, *, alpha: Any = 3
) -> Array:
    """PAV as used (arXiv 2410.08146): A_t = Q^π(s_t, w_t) + α A^μ(s_t, w_t), Q^π = M_t exact, no return.

    Biased: E ĝ = g + α E Σ_t A^μ_t S_t; with μ = π it is (1+α) g.

    >>> ahead, value = np.array([[0.5, 3.0]]), np.array([[1.0, 2.0, 3.0]])
    >>> pav_myopic(ahead, np.array([1.0]), value, np.ones((1, 2), bool), alpha=2)
    array([[1., 8.]])
    """
    ahead = red(process_reward, prompt_constant, mask)
    return continuation_value[..., 1:] + scaled(ahead, parse(alpha))


@peers("reward")
def oprl_outcome(reward: Array) -> Array:
    """OPRL/iStar (arXiv 2509.19199): A_t = RLOO(R) + log(π_φ/π_ref)_t, a step's own implicit reward; here RLOO(R).

    φ is the optimum of trajectory DPO.  Biased: E ĝ = g + E Σ_t log(π_φ/π_ref)_t S_t.  The normalisation by standard
    deviations is left out.  With returns it would be PRIME's form, and with this φ E ĝ = 2g (RTO without its KL term).

    >>> oprl_outcome(np.array([1, 3]))
    array([-2.,  2.])
    """
    return rloo(reward)


# Helpers


def at_end(like: Array, reward: Array, length: Array) -> Array:
    """``reward`` [..., G] on the last token: [..., G, T] as long as ``like``."""
    return masked(reward[..., None], np.arange(like.shape[-1]) == length[..., None] - 1)


def masked(values: Array, on: Array) -> Array:
    """``values`` where ``on``, else 0 in the number type of the first token: an integer 0 would divide to a float."""
    return np.where(on, values, values[..., :1] * 0)


def increments(score: Array, start: Array) -> Array:
    """score_t − score_{t−1}, score_0 = ``start`` [..., 1, 1] or [..., G, 1]."""
    first = np.broadcast_to(start, (*score.shape[:-1], 1))
    return score - np.concatenate([first, score[..., :-1]], axis=-1)


def scaled(values: Array, rate: Fraction) -> Array:
    """``values`` · rate, in any number type."""
    return values * rate.numerator / rate.denominator


def _positive(ref_logp: Array) -> Array:
    """``ref_logp``, none of them −∞."""
    if np.isneginf(ref_logp).any():
        raise EstimatorError(
            "dense rewards read log-ratios, and the reference policy forbids a generated token: "
            "give a reference policy that is positive wherever a response goes"
        )
    return ref_logp
