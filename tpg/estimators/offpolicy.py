"""Responses of another policy: token, prefix, geometric and sequence ratios, truncated, masked and clipped.

On-policy every ratio is 1, so that what is left is advantage × aggregation; off-policy they all differ.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from tpg.errors import EstimatorError
from tpg.estimators import advantages, aggregation, critics, expectations, offpolicy_expected, ratios
from tpg.estimators.aggregation import _tokens
from tpg.estimators.core import PPO_LAMBDA
from tpg.estimators.estimator import Estimator
from tpg.estimators.parts import peers
from tpg.numbers import Array, parse
from tpg.problem.problem import Problem

Pair = tuple[float, float]

GSPO_LOW, GSPO_HIGH = 3e-4, 4e-4  # GSPO v2, section 5.1
GMPO_LOG = 0.4  # GMPO: e^{±0.4}
CTPO_LOW, CTPO_HIGH, CTPO_DUAL = 0.025, 0.05, 0.05  # per √t, in nats
TIS_CAP, MIS_LOW = 2, "1/2"  # verl: rollout_is_threshold, and its reciprocal
ICEPOP_LOW, ICEPOP_HIGH = 0.5, 5
ALOL_EPS = 0.9
CISPO_TRL_HIGH = 5  # TRL clamps at ε_high itself; its default 0.2 would scale every on-policy credit by 0.2


# Advantages


@peers("reward", "length")
def z_score_per_token(reward: Array, length: Array, *, ddof: int = 1, eps: float = 1e-6) -> Array:
    """TIC-GRPO (arXiv 2508.02833): A_i = (x_i − mean_j x_j) / (std_j x_j + eps), x_i = R_i / L_i.

    Biased as ``advantages.z_score`` is, and by rewarding short responses.  No full text was at hand: ddof and eps are
    verl's.  [..., G], [..., G] → [..., G].  float64 only.  EstimatorError for a group of one.

    >>> z_score_per_token(np.array([2.0, 0.0]), np.array([2, 1]), ddof=0, eps=0.0)
    array([ 1., -1.])
    """
    return advantages.z_score(reward / _tokens(length), ddof=ddof, eps=eps)


def positive_advantage(reward: Array, prompt_constant: Array) -> Array:
    """A-LoL (Baheti et al., arXiv 2305.14718): A_i = max(0, R_i − V_μ(x)), V_μ the value of the data's policy.

    On-policy E ĝ = ∇E[(R − V)₊] with V frozen: another objective than E[R].  [..., G], [..., 1] → [..., G], in rewards.

    >>> positive_advantage(np.array([1.0, 0.0]), np.array([0.25]))
    array([0.75, 0.  ])
    """
    gain = reward - prompt_constant
    return np.where(gain > 0, gain, gain - gain)


def generated_value(problem: Problem, group_size: int) -> Array:
    """[P] E_μ[R]: the value of the policy that generated the data."""
    return problem.expected_reward


# Ratios that need roots and exponentials


def gspo(sequence_ratio: Array, length: Array, sign: Array, *, low: float = GSPO_LOW, high: float = GSPO_HIGH) -> Array:
    """GSPO (Zheng et al., arXiv 2507.18071): min(s A, clip(s, 1−ε, 1+ε) A), s = (Π_t π/μ)^{1/L}, differentiated.

    ∂s/∂log π_t = s/L for every token: with 1/G this is divided by G·L.  0 where π forbids the response.
    [..., G], [..., G] → [..., G, 1].

    >>> gspo(np.array([1.0, 4.0, 4.0]), np.array([1, 2, 2]), np.array([[1], [1], [-1]]))
    array([[1.],
           [0.],
           [2.]])
    """
    return ratios.clipped(geometric(sequence_ratio, length)[..., None], sign, 1 - parse(low), 1 + parse(high))


def gspo_token(sequence_ratio: Array, length: Array, mask: Array, sign: Array) -> Array:
    """GSPO-token (arXiv 2507.18071): s_t = sg(s) π_t / sg(π_t), each token clipped by the sign of its own advantage.

    s_t has the value s and the slope s along log π_t, and 1/L comes from the mean over tokens: the credits of
    ``gspo`` when A_{i,t} = A_i.  [..., G], [..., G, T] → [..., G, T].

    >>> gspo_token(np.array([4.0]), np.array([2]), np.ones((1, 2), bool), np.array([[1, -1]]))
    array([[0., 2.]])
    """
    each = np.broadcast_to(geometric(sequence_ratio, length)[..., None], mask.shape)
    return ratios.clipped(each, sign, 1 - parse(GSPO_LOW), 1 + parse(GSPO_HIGH))


def geometric_truncated(sequence_ratio: Array, length: Array, *, cap: float = TIS_CAP) -> Array:
    """ms-swift's ``sequence_truncate``: min(s, C), s = (Π_t π/μ)^{1/L}, the geometric mean and not the product.

    No length of response makes it an importance weight, but L = 1.  [..., G], [..., G] → [..., G].

    >>> geometric_truncated(np.array([4.0, 64.0]), np.array([4, 2])).round(3)
    array([1.414, 2.   ])
    """
    return np.minimum(geometric(sequence_ratio, length), cap)


def gmpo(ratio: Array, length: Array, sign: Array, *, log_clip: float = GMPO_LOG) -> Array:
    """GMPO (Zhao et al., arXiv 2507.20673): (Π_t m_t)^{1/L} A, m_t = r_t clipped at e^{±ε} in the direction of A.

    m_t = min(r_t, e^ε) for A > 0, max(r_t, e^{−ε}) for A < 0.  Differentiated: the geometric mean of all m at tokens
    where m_t = r_t, 0 at clipped ones.  ε = 0.4 as in the paper (verl reads its own clip ranges as logarithms).
    [..., G, T] → [..., G, T].

    >>> gmpo(np.array([[4.0, 1.0]]), np.array([2]), np.array([[1]]), log_clip=np.log(4))
    array([[2., 2.]])
    """
    high, low = np.exp(log_clip), np.exp(-log_clip)
    inside = np.where(sign < 0, np.maximum(ratio, low), np.minimum(ratio, high))
    mean = geometric(np.multiply.reduce(inside, axis=-1), length)[..., None]
    return np.where(inside == ratio, mean, 0)


def sapo(ratio: Array, sign: Array, *, tau_pos: float = 1.0, tau_neg: float = 1.05) -> Array:
    """SAPO (arXiv 2511.20347): gate (4/τ) σ(τ(r−1)) A, differentiated: 4 σ(1−σ) r.

    τ depends on the sign of A.  1 at r = 1, decreasing away from there as fast as the sigmoid flattens.
    [..., G, T] → [..., G, T].

    >>> sapo(np.array([[0.0, 1.0]]), np.array([[1]]))
    array([[0., 1.]])
    """
    fading = np.exp(np.where(sign > 0, tau_pos, tau_neg) * (1 - ratio))
    return 4 * ratio * fading / (1 + fading) ** 2


def vespo(sequence_ratio: Array, sign: Array, *, positive: Pair = (2, 3), negative: Pair = (3, 2)) -> Array:
    """VESPO (arXiv 2602.10693): sg(W^k e^{λ(1−W)}) A log π, W = Π_t π/μ, (k, λ) by the sign of A.

    TRL's defaults: (2, 3) for A ≥ 0 and (3, 2) for A < 0.  1 at W = 1, its maximum at W = k/λ.  TRL's numerical guards
    (log-ratios within ±20) are left out.  [..., G] → [..., G, 1].

    >>> vespo(np.array([1.0, 0.0]), np.array([[1], [-1]]))
    array([[1.],
           [0.]])
    """
    whole = sequence_ratio[..., None]
    k, rate = (np.where(sign < 0, n, p) for p, n in zip(positive, negative, strict=True))
    return whole**k * np.exp(rate * (1 - whole))


def dhpo(ratio: Array, sequence_ratio: Array, length: Array, sign: Array, *, share: float = 0.5) -> Array:
    """DHPO (arXiv 2601.05607), the averaged form: w · clip(r_t) + (1−w) · clip(s_t), each clipped in its own region.

    s_t is GSPO-token's.  The published entropy weight was not available: w = 1/2, the form described.  w = 1 is GRPO,
    w = 0 is GSPO.  [..., G, T], [..., G] → [..., G, T].

    >>> dhpo(np.array([[2.0, 0.5]]), np.array([1.0]), np.array([2]), np.array([[1]]))
    array([[0.5 , 0.75]])
    """
    return share * ratios.ppo_clip(ratio, sign) + (1 - share) * gspo(sequence_ratio, length, sign)


def ctpo(ratio: Array, sign: Array) -> Array:
    """CTPO as released (arXiv 2605.07331): ρ_{1:t} = Π_{k≤t} π/μ, clipped at e^{∓ε√t}; slope along log π_t alone.

    0 where (A > 0, ρ > e^{0.05√t}), (A < 0, ρ < e^{−0.025√t}) or, by the dual clip, (A < 0, ρ > e^{0.05√t}).
    [..., G, T] → [..., G, T].

    >>> ctpo(np.array([[1.0, 1.06, 1.06]]), np.array([[1]])).round(4)
    array([[1.  , 1.06, 0.  ]])
    """
    prefix = ratios.prefix_is(ratio)
    out = ratios.clipped(prefix, sign, *_cone(ratio))
    return np.where((sign < 0) & ratios.above(prefix, np.exp(CTPO_DUAL * _root(ratio))), 0, out)


def ctpo_printed(ratio: Array, mask: Array, sign: Array) -> Array:
    """CTPO as printed (arXiv 2605.07331): Σ_t min(ρ_{1:t} A, clip(ρ_{1:t}) A), all of it differentiated.

    Σ_{k≥t} ρ_{1:k} over the unclipped k: log π_t is in every later prefix: on-policy the factor is L−t+1, not 1.
    [..., G, T] → [..., G, T].

    >>> ctpo_printed(np.array([[1.0, 1.0, 1.0]]), np.array([[True, True, False]]), np.array([[1]]))
    array([[2., 1., 0.]])
    """
    alive = np.where(mask, ratios.clipped(ratios.prefix_is(ratio), sign, *_cone(ratio)), 0)
    return np.flip(np.add.accumulate(np.flip(alive, -1), axis=-1), -1)


def geometric(sequence_ratio: Array, length: Array) -> Array:
    """s = (Π_t π/μ)^{1/L}; 0 where π forbids the response.  [..., G] → [..., G].  EstimatorError for exact numbers."""
    if sequence_ratio.dtype == object:
        raise EstimatorError("a geometric mean takes a root, exact numbers have none: use a float64 problem")
    return np.power(sequence_ratio, 1 / length)


def _root(ratio: Array) -> Array:
    """√t [T], t = 1, 2, …"""
    return np.sqrt(np.arange(1, ratio.shape[-1] + 1))


def _cone(ratio: Array) -> tuple[Array, Array]:
    """CTPO's bounds e^{−ε_low √t} and e^{ε_high √t} [T]."""
    return np.exp(-CTPO_LOW * _root(ratio)), np.exp(CTPO_HIGH * _root(ratio))


# Rows


def _plain(name: str, ratio: Any, source: str, **more: Any) -> Estimator:
    """A = R: nothing but the ratio."""
    numbers = more.pop("numbers", "ordered")
    off = offpolicy_expected.OF_ROW[name]
    worth = advantages.response_reward
    return Estimator(name, worth, ratio=ratio, source=source, numbers=numbers, off_policy=off, **more)


def _selected(name: str, ratio: Any) -> Estimator:
    """A-LoL: rewards below the value of the data's policy are dropped."""
    return Estimator(
        name,
        positive_advantage,
        ratio=ratio,
        expectation=offpolicy_expected.POSITIVE_PART,
        off_policy=offpolicy_expected.OF_ROW[name],
        source="arXiv 2305.14718",
        constant=generated_value,
        numbers="ordered",
    )


def _scored(name: str, weigh: Any, ratio: Any, source: str, expectation: Any, advantage: Any = None) -> Estimator:
    """A z-score: what the method is published with."""
    off = offpolicy_expected.OF_ROW[name]
    return Estimator(
        name, advantage or advantages.z_score, weigh, ratio, expectation, source, numbers="float64", off_policy=off
    )


def _corrected() -> list[Estimator]:
    r = ratios
    low, high = 1 - parse(ALOL_EPS), 1 + parse(ALOL_EPS)
    return [
        _plain("token_is", r.token_is, "arXiv 2512.01374", aliases=("minirl",), numbers="any"),
        _plain("sequence_is", r.sequence_is, "arXiv 2512.01374, the exact objective", numbers="any"),
        _plain("prefix_is", r.prefix_is, "arXiv 2605.07331 without clip", numbers="any"),
        _plain("tis_token", partial(r.clamp_token, high=TIS_CAP), "verl rollout_is=token, threshold 2"),
        _plain("tis_sequence", partial(r.clamp_sequence, high=TIS_CAP), "verl rollout_is=sequence, threshold 2"),
        _plain("tis_geometric", geometric_truncated, "ms-swift sequence_truncate", numbers="float64"),
        _plain("mis_token", partial(r.mask_token, low=MIS_LOW, high=TIS_CAP), "verl rollout_rs=token"),
        _plain("mis_sequence", partial(r.mask_sequence, low=MIS_LOW, high=TIS_CAP), "verl rollout_rs=sequence"),
        _plain("icepop", partial(r.mask_token, low=ICEPOP_LOW, high=ICEPOP_HIGH), "IcePop, α = 0.5, β = 5"),
        _selected("a_lol", partial(r.clamp_sequence, low=low, high=high)),
        _selected("a_lol_token", partial(r.clamp_token, low=low, high=high)),
    ]


def _clipped() -> list[Estimator]:
    r, by_length, by_tokens = ratios, aggregation.seq_mean_token_mean, aggregation.token_mean
    grpo, dapo, off = expectations.GRPO, expectations.TOKEN_MEAN, offpolicy_expected
    high = partial(r.ppo_clip, clip_high=0.28)
    verl, trl = partial(r.clamp_token, low="4/5", high="6/5"), partial(r.clamp_token, high=CISPO_TRL_HIGH)
    return [
        _scored("grpo_clip", by_length, r.ppo_clip, "arXiv 2402.03300, later steps", grpo),
        _scored("dapo_clip", by_tokens, high, "arXiv 2503.14476, later steps: clip-higher", dapo),
        _scored("gspo", by_length, gspo, "arXiv 2507.18071", grpo),
        _scored("gspo_token", by_length, gspo_token, "arXiv 2507.18071", grpo),
        _scored("luspo", aggregation.seq_mean_token_sum, gspo, "TRL loss_type=luspo: GSPO × L", off.Z_SCORE),
        _scored("gmpo", by_length, gmpo, "arXiv 2507.20673; verl geo_mean", grpo),
        _scored("sapo", by_length, sapo, "arXiv 2511.20347; TRL, verl", grpo),
        _scored("vespo", by_tokens, vespo, "arXiv 2602.10693; TRL", dapo),
        _scored("dhpo", by_length, dhpo, "arXiv 2601.05607, w = 1/2", grpo),
        _scored("cispo", by_tokens, verl, "arXiv 2506.13585 as in verl", dapo),
        _scored("cispo_trl", by_tokens, trl, "arXiv 2506.13585 as in TRL", dapo),
        _scored("ctpo", by_tokens, ctpo, "arXiv 2605.07331, released code", dapo),
        _scored("ctpo_printed", by_length, ctpo_printed, "arXiv 2605.07331, printed formula", off.PREFIX_SUMS),
        _scored("tic_grpo", by_length, r.upper_clip, "arXiv 2508.02833", off.Z_SCORE_PER_TOKEN, z_score_per_token),
        Estimator(
            "tic_grpo_bare",
            advantages.group_mean,
            ratio=r.sequence_is,
            expectation=expectations.GROUP_MEAN,
            off_policy=off.OF_ROW["tic_grpo_bare"],
            source="arXiv 2508.02833 without clip, std and lengths",
        ),
        Estimator(
            "rloo_sequence_clip",
            advantages.rloo,
            ratio=r.sequence_clip,
            off_policy=off.OF_ROW["rloo_sequence_clip"],
            source="TRL RLOOTrainer",
            numbers="ordered",
        ),
        Estimator(
            "ppo_dual_clip",
            partial(critics.gae, lam=PPO_LAMBDA),
            ratio=r.dual_clip,
            source="arXiv 1912.09729; verl clip_ratio_c = 3",
            critic=critics.exact_critic,
            numbers="ordered",
        ),
    ]


ROWS: list[Estimator] = _corrected() + _clipped()
