"""KL terms in the loss and in the reward, and on-policy distillation.

k1 = log(π/π_ref), k2 = k1²/2, k3 = π_ref/π − 1 − log(π_ref/π) of a generated token (Schulman 2020), in nats; β in
rewards per nat.  A term in the loss is differentiated, so its credit is −β ∂k/∂log π; a term in the reward is a number,
so its credit is −β k, summed over the tokens that follow.  A row without a reward has its KL alone as advantage.

| placement                        | credit of token t             | E ĝ / (−β), on-policy                            |
|----------------------------------|-------------------------------|--------------------------------------------------|
| k1 in the loss                   | −β                            | 0                                                |
| k2 in the loss, verl's k3+       | −β k1_t                       | reverse KL(π‖π_ref), states frozen               |
| k3 in the loss                   | β (π_ref/π − 1)               | forward KL(π_ref‖π), states frozen               |
| k3 × ratio in the loss           | −β (π/μ) k1_t                 | reverse KL, states frozen, also off-policy       |
| k1 in the reward                 | −β Σ_{k≥t} k1_k               | reverse KL of whole responses                    |
| k2, k3 in the reward             | −β Σ_{k≥t} k2_k or k3_k       | 0 to first order in π − π_ref                    |
| k2, k3 of the response, in loss  | −β k1(W), β (π_ref/π(W) − 1)  | reverse, forward KL of whole responses           |
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np

from tpg.errors import EstimatorError
from tpg.estimators import advantages, aggregation, kl_expected
from tpg.estimators.core import PPO_LAMBDA
from tpg.estimators.estimator import Estimator
from tpg.estimators.expectations import Expectation
from tpg.estimators.parts import Part, leave_one_out, peers
from tpg.estimators.ratios import ppo_clip
from tpg.numbers import Array, parse, to_float
from tpg.problem.problem import Problem
from tpg.problem.tree import expect

BETA = 0.1  # rewards per nat


# In the loss


def k1_loss(ref_prob: Array, *, beta: Any = BETA) -> Array:
    """k1 in the loss (Schulman 2020; arXiv 2506.09477): c_t = −β ∂k1/∂log π = −β.

    E ĝ = 0 on-policy, as E S_t = 0: noise alone.  Off-policy it pushes away from what μ generates.  π_ref does not
    matter, but is asked for.  [..., G, T] → [..., G, T], rewards.

    >>> k1_loss(np.array([[0.5, 0.25]]))
    array([[-0.1, -0.1]])
    """
    return -_times(beta, ref_prob * 0 + 1)


def k2_loss(logp: Array, ref_logp: Array, *, beta: Any = BETA) -> Array:
    """k2 in the loss (Schulman 2020; arXiv 2510.01555): c_t = −β ∂(k1²/2)/∂log π = −β log(π/π_ref).

    E ĝ = −β × the reverse KL's gradient at every prefix, states frozen; not that of whole responses unless they hold
    one token.  [..., G, T] nats → [..., G, T] rewards.  EstimatorError for an infinite log ratio.

    >>> k2_loss(np.log([[0.5]]), np.log([[0.25]])).round(4)
    array([[-0.0693]])
    """
    return -_times(beta, _nats("k2_loss", logp, ref_logp))


def k3_loss(prob: Array, ref_prob: Array, *, beta: Any = BETA) -> Array:
    """k3 in the loss (GRPO, arXiv 2402.03300): c_t = −β ∂k3/∂log π = β (π_ref/π − 1).

    The value is an unbiased estimate of the reverse KL, the gradient is the forward KL's, states frozen.  verl's
    low_var_kl also clamps log π_ref/π to ±20 and the value to ±10 (not done here), without credit beyond.
    [..., G, T] → [..., G, T], rewards.  EstimatorError where π = 0.

    >>> k3_loss(np.array([[0.5]]), np.array([[0.25]]))
    array([[-0.05]])
    """
    return _times(beta, _inverse_ratio("k3_loss", prob, ref_prob) - 1)


def k3_ratio_loss(ratio: Array, logp: Array, ref_logp: Array, *, beta: Any = BETA) -> Array:
    """k3 × π/μ in the loss (DeepSeek-V3.2; TRL use_bias_correction_kl): c_t = −β (π/μ) log(π/π_ref).

    ∂(r k3)/∂log π = r (k3 + 1 − π_ref/π) = r log(π/π_ref), with r = π/μ.  The reverse KL's gradient at every prefix
    whoever generates, though at the prefixes that μ reaches.  Read from the description, without a clip of r.
    [..., G, T] → [..., G, T], rewards.  EstimatorError for an infinite log ratio.

    >>> k3_ratio_loss(np.array([[2.0]]), np.log([[0.5]]), np.log([[0.25]])).round(4)
    array([[-0.1386]])
    """
    return to_float(ratio) * -_times(beta, _nats("k3_ratio_loss", logp, ref_logp))


def k3_straight_through(logp: Array, ref_logp: Array, *, beta: Any = BETA) -> Array:
    """verl's k3+: the value of k3 with the gradient of k2, loss = k2 − sg(k2) + sg(k3): c_t = −β log(π/π_ref).

    The credits of :func:`k2_loss`; only the value that is logged differs.  [..., G, T] nats → [..., G, T] rewards.

    >>> k3_straight_through(np.log([[0.5]]), np.log([[0.25]])).round(4)
    array([[-0.0693]])
    """
    return k2_loss(logp, ref_logp, beta=beta)


def k2_sequence_loss(sequence_logp: Array, sequence_ref_logp: Array, *, beta: Any = BETA) -> Array:
    """k2 of the whole response in the loss (arXiv 2510.01555): c_t = −β ∂(k1(W)²/2)/∂log π = −β log(π/π_ref)(W).

    The credits of k1 in the reward at full return: ∇KL(π‖π_ref) of whole responses.  [..., G] nats → [..., G] rewards.

    >>> k2_sequence_loss(np.log([0.5]), np.log([0.25])).round(4)
    array([-0.0693])
    """
    return -_times(beta, _nats("k2_sequence_loss", sequence_logp, sequence_ref_logp))


def k3_sequence_loss(prob: Array, ref_prob: Array, *, beta: Any = BETA) -> Array:
    """k3 of the whole response in the loss (as DeepSeek-R1, arXiv 2501.12948, prints it): c_t = β (π_ref/π(W) − 1).

    E ĝ = −β ∇KL(π_ref‖π) of whole responses; π_ref(W)/π(W) is a product over tokens, so its variance grows with length.
    [..., G, T] → [..., G, T], rewards.  EstimatorError where π = 0.

    >>> k3_sequence_loss(np.array([[0.5, 0.5]]), np.array([[0.25, 0.75]]))
    array([[-0.025, -0.025]])
    """
    ours, theirs = (np.multiply.reduce(p, axis=-1)[..., None] for p in (prob, ref_prob))
    return np.broadcast_to(_times(beta, _inverse_ratio("k3_sequence_loss", ours, theirs) - 1), prob.shape)


# In the reward


def k1_reward(logp: Array, ref_logp: Array, *, beta: Any = BETA) -> Array:
    """k1 in the reward, reward-to-go (PPO, RLHF: arXiv 1909.08593, 2203.02155): A_t = −β Σ_{k≥t} log(π/π_ref)_k.

    E ĝ = −β ∇KL(π‖π_ref) of whole responses: the direct term E Σ_t ∇k1_t is 0.  [..., G, T] nats → [..., G, T] rewards.

    >>> k1_reward(np.log([[0.5, 0.5]]), np.log([[0.25, 0.5]])).round(4)
    array([[-0.0693, -0.    ]])
    """
    return -_times(beta, _from_here(_nats("k1_reward", logp, ref_logp)))


def k1_reward_full(sequence_logp: Array, sequence_ref_logp: Array, *, beta: Any = BETA) -> Array:
    """k1 in the reward, the full return at every token (arXiv 2402.14740): A_i = −β log(π/π_ref)(W_i).

    The expectation of :func:`k1_reward`: the tokens before t are a baseline of S_t.  [..., G] nats → [..., G] rewards.

    >>> k1_reward_full(np.log([0.5]), np.log([0.25])).round(4)
    array([-0.0693])
    """
    return -_times(beta, _nats("k1_reward_full", sequence_logp, sequence_ref_logp))


def k2_reward(logp: Array, ref_logp: Array, *, beta: Any = BETA) -> Array:
    """k2 in the reward, reward-to-go (verl kl_penalty="mse"): A_t = −β Σ_{k≥t} log²(π/π_ref)_k / 2.

    The reward is a number, so ∇E Σ_t k2 lacks its direct term E Σ_t ∇k2_t, which is all of it to first order: near
    π_ref no gradient is left.  [..., G, T] nats → [..., G, T] rewards.

    >>> k2_reward(np.log([[0.5]]), np.log([[0.25]])).round(4)
    array([[-0.024]])
    """
    return -_times(beta, _from_here(_nats("k2_reward", logp, ref_logp) ** 2 / 2))


def k3_reward(logp: Array, ref_logp: Array, *, beta: Any = BETA) -> Array:
    """k3 in the reward, reward-to-go (verl kl_penalty="low_var_kl"): A_t = −β Σ_{k≥t} (π_ref/π − 1 − log π_ref/π)_k.

    The return is an unbiased, positive estimate of KL(π‖π_ref); its gradient lacks the direct term, the forward KL's,
    and near π_ref nothing is left.  [..., G, T] nats → [..., G, T] rewards.

    >>> k3_reward(np.log([[0.5]]), np.log([[0.25]])).round(4)
    array([[-0.0193]])
    """
    nats = _nats("k3_reward", logp, ref_logp)
    return -_times(beta, _from_here(np.expm1(-nats) + nats))


# With rewards


def reinforce_kl(reward: Array, sequence_logp: Array, sequence_ref_logp: Array, *, beta: Any = BETA) -> Array:
    """REINFORCE on the regularised reward (arXiv 1909.08593): A_i = R_i − β log(π/π_ref)(W_i).

    E ĝ = ∇(J − β KL(π‖π_ref)).  [..., G] rewards, [..., G] nats → [..., G].

    >>> reinforce_kl(np.array([1.0]), np.log([0.5]), np.log([0.25])).round(4)
    array([0.9307])
    """
    return to_float(reward) - _times(beta, _nats("reinforce_kl", sequence_logp, sequence_ref_logp))


@leave_one_out(lambda size: Fraction(1), worth=reinforce_kl)
@peers("reward", "sequence_logp", "sequence_ref_logp")
def rloo_kl(reward: Array, sequence_logp: Array, sequence_ref_logp: Array, *, beta: Any = BETA) -> Array:
    """RLOO with KL (arXiv 2402.14740; TRL): A_i = R'_i − mean_{j≠i} R'_j, R' = R − β log(π/π_ref)(W).

    E ĝ = ∇(J − β KL(π‖π_ref)).  On the first step; afterwards TRL keeps log π of the policy that generated.
    [..., G] rewards, [..., G] nats → [..., G].  EstimatorError for a group of one.

    >>> rloo_kl(np.array([1.0, 0.0]), np.log([0.5, 0.5]), np.log([0.25, 0.5])).round(4)
    array([ 0.9307, -0.9307])
    """
    return advantages.rloo(reinforce_kl(reward, sequence_logp, sequence_ref_logp, beta=beta))


def gae_kl(
    reward: Array,
    length: Array,
    mask: Array,
    value: Array,
    old_logp: Array,
    ref_logp: Array,
    *,
    lam: Any = PPO_LAMBDA,
    beta: Any = BETA,
) -> Array:
    """PPO with KL in the reward (arXiv 1909.08593, 1707.06347): GAE(λ) of r_t = RM·1[last] − β log(μ/π_ref)_t, γ = 1.

    log μ is the one noted while generating.  With the exact critic of this reward E ĝ = ∇(J − β KL(π‖π_ref)) on-policy,
    for every λ.  No whitening.  [..., G], [..., G, T], [..., G, T+1] → [..., G, T], rewards.

    >>> v, half = np.array([[0.5, 0.75, 0.0]]), np.log([[0.5, 0.5]])
    >>> gae_kl(np.array([1.0]), np.array([2]), np.ones((1, 2), bool), v, half, half, lam=0)
    array([[0.25, 0.25]])
    """
    last = np.arange(mask.shape[-1]) == length[..., None] - 1
    paid = np.where(last, to_float(reward)[..., None], 0) - _times(beta, _nats("gae_kl", old_logp, ref_logp))
    guess, rate = to_float(value), float(parse(lam))
    delta = np.where(mask, paid + guess[..., 1:] - guess[..., :-1], 0)
    out, carry = delta.copy(), delta[..., 0] * 0
    for t in reversed(range(mask.shape[-1])):
        carry = out[..., t] = delta[..., t] + rate * carry
    return out


def regularised_critic(problem: Problem, *, beta: Any = BETA) -> Array:
    """V(s) = E[RM − β Σ_{k≥t} log(μ/π_ref)_k | s] under the policy μ that generates: what PPO's critic is fitted to.

    EstimatorError for an infinite log ratio.
    """
    plain = to_float(expect(problem.tree, problem.sampling, problem.totals)[1])
    given, there = to_float(problem.sampling), kl_expected.generated(problem)
    theirs = np.where(there, to_float(kl_expected.reference(problem)), 1)
    if (theirs == 0).any():
        raise EstimatorError(f"{problem.name}: {kl_expected.INFINITE}")
    nats = np.log(np.where(there, given, 1)) - np.log(theirs)
    ahead, below = np.zeros(problem.tree.nodes), np.zeros(0)
    for t in reversed(range(problem.horizon)):
        rows = problem.tree.at(t)
        later = problem.tree.lift(below, t, np.zeros(nats[rows].shape))
        below = ahead[rows] = (given[rows] * (nats[rows] + later)).sum(-1)
    return plain - _times(beta, ahead)


def clip(ratio: Array, sign: Array) -> Array:
    """PPO's clip (``ratios.ppo_clip``), in float64 like the logarithms it multiplies.  [..., G, T] → [..., G, T].

    >>> clip(np.array([1.1, 1.3]), np.array([1, 1]))
    array([1.1, 0. ])
    """
    return ppo_clip(to_float(ratio), sign)


# Distillation


def distill_myopic(logp: Array, ref_logp: Array, *, beta: Any = 1) -> Array:
    """On-policy distillation, as usually implemented (GKD, arXiv 2306.13649): A_t = −log(π/π_teacher)_t.

    The teacher is the reference policy.  Each token is blamed for its own divergence only: the gradient of the reverse
    KL at every prefix, states frozen (:func:`k2_loss` with β = 1).  GKD itself sums over all tokens of the vocabulary;
    this is the single-sample form of implementations, of which no paper was read.  [..., G, T] nats → [..., G, T].

    >>> distill_myopic(np.log([[0.5]]), np.log([[0.25]])).round(4)
    array([[-0.6931]])
    """
    return -_times(beta, _nats("distill_myopic", logp, ref_logp))


def distill_return(logp: Array, ref_logp: Array, *, beta: Any = 1) -> Array:
    """On-policy distillation with returns (MiniLLM, arXiv 2306.08543): A_t = −Σ_{k≥t} log(π/π_teacher)_k.

    The teacher is the reference policy.  E ĝ = −∇KL(π‖π_teacher) of whole responses: a token is also blamed for the
    prefixes it leads to.  MiniLLM's length normalisation is left out.  [..., G, T] nats → [..., G, T] rewards.

    >>> distill_return(np.log([[0.5, 0.5]]), np.log([[0.25, 0.25]])).round(4)
    array([[-1.3863, -0.6931]])
    """
    return -_times(beta, _from_here(_nats("distill_return", logp, ref_logp)))


# Small change


def _times(beta: Any, value: Array) -> Array:
    exact = parse(beta)
    return value * exact.numerator / exact.denominator


def _nats(name: str, logp: Array, ref_logp: Array) -> Array:
    """log(π/π_ref) in nats."""
    if not (np.isfinite(logp).all() and np.isfinite(ref_logp).all()):
        raise EstimatorError(f"{name}: {kl_expected.INFINITE}")
    return logp - ref_logp


def _inverse_ratio(name: str, prob: Array, ref_prob: Array) -> Array:
    """π_ref/π."""
    if (prob == 0).any():
        raise EstimatorError(f"{name}: a generated token has probability 0 under π, so π_ref/π is infinite")
    return ref_prob / prob


def _from_here(values: Array) -> Array:
    """Σ_{k≥t} over the last axis."""
    return np.flip(np.add.accumulate(np.flip(values, -1), axis=-1), -1)


# Rows

ALONE: dict[str, tuple[Part, str]] = {  # term → its credits, its source
    "k1_loss": (k1_loss, "Schulman 2020, differentiated; arXiv 2506.09477"),
    "k2_loss": (k2_loss, "Schulman 2020, differentiated; arXiv 2510.01555"),
    "k3_loss": (k3_loss, "arXiv 2402.03300 eq. 4, the KL alone; verl low_var_kl without its clamps"),
    "k3_ratio_loss": (k3_ratio_loss, "arXiv 2512.02556; TRL use_bias_correction_kl"),
    "k1_reward": (k1_reward, "arXiv 1909.08593, the KL alone"),
    "k1_reward_full": (k1_reward_full, "arXiv 2402.14740, the KL alone"),
    "k2_reward": (k2_reward, "verl kl_penalty=mse in the reward"),
    "k3_reward": (k3_reward, "verl kl_penalty=low_var_kl in the reward, without its clamps"),
    "k2_sequence_loss": (k2_sequence_loss, "arXiv 2510.01555 for whole responses"),
    "k3_sequence_loss": (k3_sequence_loss, "arXiv 2501.12948 eq. 2, the KL alone"),
}
EXACT = ("k1_loss", "k3_loss", "k3_sequence_loss")  # rational in π and π_ref
ALIASES = {"kl_k3_loss": ("low_var_kl",)}


def _alone(row: str, term: str, part: Part, beta: Any, source: str) -> Estimator:
    said, said_off = kl_expected.declared(term, beta)
    return Estimator(
        row,
        partial(part, beta=beta),
        expectation=said,
        off_policy=said_off,
        source=source,
        aliases=ALIASES.get(row, ()),
        numbers="any" if term in EXACT else "float64",
    )


def _with_reward(row: str, part: Part, beta: Any, source: str, off_policy: Expectation | None) -> Estimator:
    regularised = kl_expected.regularised(beta)
    out = Estimator(row, partial(part, beta=beta), expectation=regularised, source=source, numbers="float64")
    return replace(out, off_policy=off_policy)


def _grpo_kl(beta: Any) -> Estimator:
    return Estimator(
        "grpo_kl",
        advantages.z_score,
        aggregation.seq_mean_token_mean,
        clip,
        penalty=partial(k3_loss, beta=beta),
        expectation=kl_expected.grpo(beta),
        source="arXiv 2402.03300 eq. 3",
        numbers="float64",
    )


def rows(beta: Any = BETA) -> list[Estimator]:
    """The rows for another β: credits, critics and declared expectations together."""
    leaves = kl_expected.regularised_off_policy
    ppo = _with_reward("ppo_kl", gae_kl, beta, "arXiv 1909.08593, 2203.02155, no whitening", None)
    return [
        *(_alone(f"kl_{term}", term, part, beta, source) for term, (part, source) in ALONE.items()),
        _alone("kl_k3_straight_through", "k2_loss", k3_straight_through, beta, "verl kl_loss_type=k3+"),
        _grpo_kl(beta),
        _with_reward("rloo_kl", rloo_kl, beta, "arXiv 2402.14740; TRL RLOOTrainer, first step", leaves(beta, True)),
        replace(ppo, ratio=clip, critic=partial(regularised_critic, beta=beta)),
        _with_reward("reinforce_kl", reinforce_kl, beta, "arXiv 1909.08593; Williams 1992", leaves(beta, False)),
    ]


ROWS = [
    *rows(),
    _alone("distill_myopic", "k2_loss", distill_myopic, 1, "arXiv 2306.13649, single-sample form"),
    _alone("distill_return", "k1_reward", distill_return, 1, "arXiv 2306.08543 without length normalisation"),
]
