"""Group advantages that count or rank rewards: pass@k, RAFT, Reinforce-Rej, best-of-N, MaxRL, CoRPO, DAPO's filter.

For two-valued rewards with success probability p each of them is a count rule, and E ĝ = h'(p) ∇p (``slope`` in
counts_expected): a learning rate per prompt, never another direction within a prompt.  With more values the direction
may turn.  All rows but GRPO's and DAPO's divide by G alone (seq-mean-token-sum), so that the rule is seen without the
effect of lengths.  Rewards come in the units of the problem.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import partial
from math import comb
from typing import Any

import numpy as np

from tpg.errors import EstimatorError
from tpg.estimators import aggregation, ratios
from tpg.estimators import counts_expected as expected
from tpg.estimators.advantages import group_mean, tied, z_score
from tpg.estimators.estimator import Estimator
from tpg.estimators.parts import peers
from tpg.numbers import Array, parse

Weight = Callable[[int, int], Any]  # (successes k, group size G) → weight in units of rewards
ROUNDING = 1e-12  # of Σ|R|: below it a float64 sum of rewards is taken for 0


# Ranks


@peers("reward")
def best_margin(reward: Array) -> Array:
    """GRPO pass@k (Tang et al., arXiv 2503.19595; verl ``grpo_passk``): A_i = R_max − R_second on the best, else 0.

    A_i = (R_i − max_{j≠i} R_j)⁺ = max_j R_j − max_{j≠i} R_j, a leave-one-out baseline of the maximum: E ĝ =
    ∇E[max of G]/G for any rewards, h' = (1−p)^{G−1} for {0, 1}.  A tie at the top gives exactly 0.  This is verl with
    ``norm_adv_by_std_in_grpo`` off; its default divides by the std (``best_margin_over_std``).
    [..., G] → [..., G].  EstimatorError for a group of one.

    >>> best_margin(np.array([1.0, 3.0, 0.0]))
    array([0., 2., 0.])
    """
    _at_least(2, "best_margin", reward)
    top = np.sort(reward, axis=-1)[..., -2:]
    gap = top[..., 1:] - top[..., :1]
    return np.where(reward == top[..., 1:], gap, gap - gap)


@peers("reward")
def best_margin_over_std(reward: Array, *, eps: float = 1e-6) -> Array:
    """GRPO pass@k as verl's default has it (arXiv 2503.19595): A_i = (R_max − R_second)/(std + ε) on the best, else 0.

    std divides by G − 1; ``eps`` in rewards.  Biased: the std weighs groups, E ĝ = E[f(R) Z].  Equal rewards give 0.
    [..., G] → [..., G], float64 only.  EstimatorError for a group of one and for exact numbers.

    >>> best_margin_over_std(np.array([1.0, 3.0]), eps=0.0).round(3)
    array([0.   , 1.414])
    """
    if reward.dtype == object:
        raise EstimatorError("best_margin_over_std takes a square root, exact numbers have none: use a float64 problem")
    margin, centred = best_margin(reward), group_mean(reward)
    spread = np.sqrt((centred * centred).sum(-1, keepdims=True) / (reward.shape[-1] - 1)) + eps
    return np.divide(margin, spread, out=np.zeros_like(margin), where=~tied(reward))


@peers("reward")
def passk_loo(reward: Array, *, k: int = 2) -> Array:
    """pass@k, leave-one-out (PKPO, arXiv 2505.15201): A_i = G/C(G,k) Σ_{S∋i, |S|=k} (max_S R − max_{S∖i} R).

    The mean over all subsets of k of the maximum's gradient with its leave-one-out baseline (read as PKPO's "loo−1"):
    E ĝ = ∇E[max of k] for any rewards and any G ≥ k, h' = k (1−p)^{k−1} for {0, 1}.  In ascending order the sum is
    A_(r) = G/C(G,k) Σ_{s≤r} C(s,k−1) (R_(s) − R_(s−1)), which leaves ties exact.  k = G: G times ``best_margin``.
    [..., G] → [..., G].  EstimatorError for k < 2 (the leave-one-out mean does that, ``rloo``) and for G < k.

    >>> passk_loo(np.array([1.0, 3.0, 0.0]))
    array([1., 5., 0.])
    """
    if k < 2:
        raise EstimatorError(f"passk_loo: k={k} given, at least 2 needed: use rloo for k=1")
    size = _at_least(k, "passk_loo", reward)
    order = np.argsort(reward, axis=-1, kind="stable")
    ranked = np.take_along_axis(reward, order, axis=-1)
    share = _numbers([Fraction(k * comb(s, k - 1), comb(size - 1, k - 1)) for s in range(1, size)], reward)
    rises = np.concatenate([ranked[..., :1] - ranked[..., :1], np.diff(ranked, axis=-1) * share], axis=-1)
    return np.take_along_axis(np.add.accumulate(rises, axis=-1), np.argsort(order, axis=-1), axis=-1)


@peers("reward")
def best_of_n(reward: Array) -> Array:
    """Best-of-N as a target (Stiennon et al., arXiv 2009.01325): A_i = G/#maxima on the maxima, 0 elsewhere.

    ĝ is ∇log π of the best response, a tie at the top drawn at random written as its expected credit.  Biased:
    E ĝ = Σ_r (F(r)^G − F(r⁻)^G)/P(r) ∇P(r), towards the frozen best-of-N policy.  Groups without a success are kept,
    and equal rewards give 1 to all, as the rule says.  [..., G] → [..., G].  EstimatorError for a group of one.

    >>> best_of_n(np.array([1.0, 3.0, 3.0]))
    array([0. , 1.5, 1.5])
    """
    size = _at_least(2, "best_of_n", reward)
    best = reward == reward.max(-1, keepdims=True)
    return _divided(best * size, best.sum(-1, keepdims=True), reward)


# Counts


def raft(reward: Array) -> Array:
    """RAFT (Dong et al., arXiv 2304.06767; Minimal-RL, arXiv 2504.11343): A_i = max(R_i, 0), over G.

    The reading of the Minimal-RL code: negative scores are set to 0, no baseline.  E ĝ = ∇E[R⁺] for any rewards, g if
    none is negative.  [..., G] → [..., G].

    >>> raft(np.array([1.0, -1.0]))
    array([1., 0.])
    """
    return np.where(reward > 0, reward, reward - reward)


@peers("reward")
def mean_accepted(reward: Array) -> Array:
    """RAFT, mean over the accepted; MaxRL without centring (arXiv 2602.02710): A_i = G/k if R_i > 0, k of them, else 0.

    E ĝ = Σ_{j<G} (1−q)^j ∇q, q = P(R > 0): the gradient of log q truncated at order G.  No success: 0.
    [..., G] → [..., G].  EstimatorError for a group of one.

    >>> mean_accepted(np.array([1.0, 0.0, 2.0]))
    array([1.5, 0. , 1.5])
    """
    size = _at_least(2, "mean_accepted", reward)
    good = reward > 0
    return _divided(good * size, np.maximum(good.sum(-1, keepdims=True), 1), reward)


@peers("reward")
def informative_reward(reward: Array) -> Array:
    """Reinforce-Rej (Minimal-RL, arXiv 2504.11343): A_i = R_i where the rewards of the group differ, else 0.

    The raw score, no baseline, as in the code.  E ĝ = ∇Σ_r r (P(r) − P(r)^G/G): h' = 1 − p^{G−1} for {0, 1}, and
    2 − p^{G−1} − (1−p)^{G−1} for {−1, 1}.  [..., G] → [..., G].  EstimatorError for a group of one.

    >>> informative_reward(np.array([[1.0, -1.0], [1.0, 1.0]]))
    array([[ 1., -1.],
           [ 0.,  0.]])
    """
    _at_least(2, "informative_reward", reward)
    return np.where(tied(reward), reward - reward, reward)


@peers("reward")
def over_mean(reward: Array) -> Array:
    """MaxRL (Tajwar et al., arXiv 2602.02710): A_i = (R_i − mean_j R_j)/mean_j R_j, 0 where the mean is 0.

    E ĝ = Σ_{j≤G−2} (1−p)^j ∇p for {0, 1}: log p truncated at order G − 1, one below the form without centring.  With
    more values biased: E ĝ = E[f(R) Z], f(r) = E[G r/(r + Σ others)].  Meant for rewards ≥ 0; a mean that is 0 but for
    float64 rounding counts as 0.  [..., G] → [..., G].  EstimatorError for a group of one.

    >>> over_mean(np.array([[1.0, 0.0], [0.0, 0.0]]))
    array([[ 1., -1.],
           [ 0.,  0.]])
    """
    size = _at_least(2, "over_mean", reward)
    centred, total = group_mean(reward), reward.sum(-1, keepdims=True)
    none = total == 0 if reward.dtype == object else np.abs(total) <= ROUNDING * np.abs(reward).sum(-1, keepdims=True)
    return np.where(none, centred - centred, centred * size / np.where(none, total - total + 1, total))


@peers("reward")
def floored_mean(reward: Array, *, threshold: Any = 0.5) -> Array:
    """CoRPO (Garg & Venkatesh, arXiv 2511.04439): A_i = R_i − max(c, mean_j R_j), c the least reward of a correct one.

    Read from the abstracts and summaries: the group mean is clipped from below at ``threshold`` (rewards), and nothing
    is divided by a std (versions differ, not verified).  The baseline is the same for the whole group, so that only
    including the own reward shows: E ĝ = ∇(J − E[max(c, mean of the group)]/G), for {0, 1} between (1 − 1/G) g and g.
    Rewards below c are never reinforced.  Equal rewards r give r − max(c, r).
    [..., G] → [..., G].  EstimatorError for a group of one.

    >>> floored_mean(np.array([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])).round(3)
    array([[ 0.333,  0.333, -0.667],
           [-0.5  , -0.5  , -0.5  ]])
    """
    _at_least(2, "floored_mean", reward)
    centred, c = group_mean(reward), parse(threshold)
    above = (reward * c.denominator - c.numerator) / c.denominator
    return np.where(above < centred, above, centred)  # R − max(c, mean) = min(R − c, R − mean)


@peers("reward")
def count_rule(reward: Array, *, success: Weight, failure: Weight, above: Any = 0) -> Array:
    """Any count rule (RL2ML, arXiv 2605.30154): A_i = u(k, G) if R_i > ``above``, else −v(k, G), k successes of G.

    E ĝ = h'(q) ∇q, q = P(R > above), h'(q) = Σ_s C(G−1,s) q^s (1−q)^{G−1−s} (u(s+1, G) + v(s, G)).  The paper's own
    parametrisation was not available: any member can be given.  Weights are Fractions, or floats in float64.
    [..., G] → [..., G].  EstimatorError for a group of one.

    >>> count_rule(np.array([1.0, 0.0]), success=lambda k, size: 3 - k, failure=lambda k, size: 0)
    array([ 2., -0.])
    """
    size = _at_least(2, "count_rule", reward)
    bar = parse(above)
    good = reward * bar.denominator > bar.numerator
    many = good.sum(-1, keepdims=True)
    up = _numbers([success(k, size) if k else Fraction(0) for k in range(size + 1)], reward)
    down = _numbers([failure(k, size) if k < size else Fraction(0) for k in range(size + 1)], reward)
    return np.where(good, up[many], -down[many])


def log_success(k: int, size: int, *, order: int = 2) -> Fraction:
    """u(k) = w(k−1) (1 − (k−1)/(G−1)), w(s) = Σ_{j<order} C(G−1−s,j)/C(G−1,j): E w = Σ_{j<order} (1−q)^j.

    w(s) estimates the chance that j peers all fail, from the s peers that did not: ∇log q truncated at ``order``
    (1: RLOO, G: maximum likelihood), with the leave-one-out baseline s/(G−1).
    """
    return _log_weight(k - 1, size, order) * Fraction(size - k, size - 1)


def log_failure(k: int, size: int, *, order: int = 2) -> Fraction:
    """v(k) = w(k) k/(G−1), the other half of ``log_success``; no credit where all succeed or all fail."""
    return _log_weight(k, size, order) * Fraction(k, size - 1)


def _log_weight(others: int, size: int, order: int) -> Fraction:
    if not 1 <= order <= size:
        raise EstimatorError(f"order={order} given for group_size={size}, needed 1 … {size}")
    return sum((Fraction(comb(size - 1 - others, j), comb(size - 1, j)) for j in range(order)), Fraction(0))


# DAPO's dynamic sampling


@peers("reward")
def mixed_rewards(reward: Array) -> Array:
    """DAPO's dynamic sampling (arXiv 2503.14476): a group is kept where its rewards are not all equal.

    [..., G] → [..., 1] bool.  EstimatorError for a group of one.

    >>> mixed_rewards(np.array([[1.0, 0.0], [1.0, 1.0]])).ravel()
    array([ True, False])
    """
    _at_least(2, "mixed_rewards", reward)
    return ~tied(reward)


@peers("reward")
def streamed_z_score(reward: Array, prompt_constant: Array, *, ddof: int = 1, eps: float = 1e-6) -> Array:
    """DAPO, refilled from the stream (arXiv 2503.14476; verl ``filter_groups``): A_i = w(x) (R_i − mean)/(std + ε).

    Where a group is dropped another prompt takes its place, so that a prompt is trained on in proportion to
    w(x) = P_valid(x)/Σ_y weight(y) P_valid(y), ``prompt_constant``.  E ĝ = E ĝ(unfiltered)/Σ_y weight(y) P_valid(y).
    [..., G], [..., 1] → [..., G], float64 only.  EstimatorError for a group of one and for exact numbers.

    >>> streamed_z_score(np.array([1.0, 0.0]), np.array([2.0]), ddof=0, eps=0.0)
    array([ 2., -2.])
    """
    return prompt_constant * z_score(reward, ddof=ddof, eps=eps)


def _at_least(needed: int, name: str, reward: Array) -> int:
    size = reward.shape[-1]
    if size < needed:
        raise EstimatorError(
            f"{name} compares the responses of a group: group_size={size} given, at least {needed} needed"
        )
    return size


def _numbers(values: Sequence[Any], like: Array) -> Array:
    """``values`` in the number type of ``like``."""
    if like.dtype != object:
        return np.array([float(value) for value in values])
    one = like.flat[0] * 0 + 1
    return np.array([one * value.numerator / value.denominator for value in values], dtype=object)


def _divided(whole: Array, by: Array, like: Array) -> Array:
    """Whole numbers divided in the number type of ``like``."""
    return (like - like + whole.astype(like.dtype)) / by


def _rows() -> list[Estimator]:
    w, x = aggregation, expected
    log_weights: dict[str, Weight] = {"success": log_success, "failure": log_failure}
    tang, minimal, dapo = "arXiv 2503.19595; verl grpo_passk", "arXiv 2504.11343", "arXiv 2503.14476, first step"
    return [
        Estimator("grpo_passk", best_margin, expectation=x.BEST_OF_GROUP, source=tang, numbers="ordered"),
        Estimator("grpo_passk_std", best_margin_over_std, expectation=x.BEST_OVER_STD, source=tang, numbers="float64"),
        Estimator("passk_loo", passk_loo, expectation=x.max_of(2), source="arXiv 2505.15201, k = 2", numbers="ordered"),
        Estimator("best_of_n", best_of_n, expectation=x.BEST_OF_N, source="arXiv 2009.01325", numbers="ordered"),
        Estimator("raft", raft, expectation=x.POSITIVE_PART, source=f"arXiv 2304.06767; {minimal}", numbers="ordered"),
        Estimator(
            "raft_plus_plus",
            raft,
            ratio=ratios.ppo_clip,
            expectation=x.POSITIVE_PART,
            source=minimal,
            numbers="ordered",
        ),
        Estimator(
            "raft_mean_accepted",
            mean_accepted,
            expectation=x.MEAN_ACCEPTED,
            source="arXiv 2304.06767; arXiv 2602.02710 without centring",
            numbers="ordered",
        ),
        Estimator("reinforce_rej", informative_reward, expectation=x.INFORMATIVE, source=minimal),
        Estimator("maxrl", over_mean, expectation=x.OVER_MEAN, source="arXiv 2602.02710"),
        Estimator("corpo", floored_mean, expectation=x.floored(0.5), source="arXiv 2511.04439", numbers="ordered"),
        Estimator(
            "rl2ml",
            partial(count_rule, **log_weights),
            expectation=x.TRUNCATED_LOG,
            source="arXiv 2605.30154, a member of the family: log q to order 2",
            numbers="ordered",
        ),
        Estimator(
            "grpo_no_length",
            z_score,
            expectation=x.Z_SCORE,
            source="arXiv 2501.12948 as printed, first step",
            numbers="float64",
        ),
        Estimator(
            "grpo_ddof0",
            partial(z_score, ddof=0),
            w.seq_mean_token_mean,
            expectation=x.GRPO_DDOF0,
            source="arXiv 2402.03300, population std",
            numbers="float64",
        ),
        Estimator(
            "dapo_same_prompt",
            z_score,
            w.token_mean,
            expectation=x.DAPO_SAME_PROMPT,
            source=f"{dapo}; a dropped group is drawn again for the same prompt",
            numbers="float64",
            keep=mixed_rewards,
        ),
        Estimator(
            "dapo_stream",
            streamed_z_score,
            w.token_mean,
            expectation=x.DAPO_STREAM,
            source=f"{dapo}; a dropped group is replaced by another prompt's",
            numbers="float64",
            constant=x.share_of_valid,
            keep=mixed_rewards,
        ),
    ]


ROWS = _rows()
