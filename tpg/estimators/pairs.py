"""Pairs and targets: SFT, the DPO family, REBEL, CoPG, A*-PO and TPO as credits.

A pair loss is taken over all pairs of a group, with the mean over pairs: A_i = 2 · mean_{j≠i} f(i, j) and c_i = A_i/G,
where f(i, j) = −f(j, i) is minus the slope of the loss of one pair in log π(y_i).  A group of two is the published
pair, and E ĝ = 2 E[f(W, W') Z] does not depend on G.  All logarithms are in nats, all rows but SFT run in float64 only.
Differences that are zero but for rounding are exactly 0 (``settle``), so that fixed points give no credit at all.
"""

from __future__ import annotations

from fractions import Fraction
from functools import partial

import numpy as np
from scipy.special import expit, softmax

from tpg.estimators import pairs_expected as expected
from tpg.estimators.advantages import z_score
from tpg.estimators.estimator import Estimator
from tpg.estimators.expectations import Expectation
from tpg.estimators.margins import (
    check_logs,
    differences,
    group_of,
    log_of,
    log_ratio,
    margins,
    mean_of_pairs,
    off_peers,
    push_of,
    settle,
)
from tpg.estimators.parts import Part, leave_one_out, peers
from tpg.numbers import Array, parse, powers, to_float
from tpg.rollouts import Model

BETA = 0.1  # TRL's default for DPO, IPO (there called τ), online DPO; here for CoPG and A*-PO, too
ETA = 1.0  # TPO's own; for REBEL ours
ALPHA = 0.5  # weight of the token rewards in T-REG and TGDPO: ours
LAMBDA, TAU = 0.1, 0.5  # weight and gate of TAB-PO: ours


float64 = partial(Estimator, numbers="float64")


# One response alone


def imitate(length: Array, discount: float) -> Array:
    """SFT: A_i = 1, the slope of log π(W_i): every response is a demonstration.

    E ĝ = E[Z] = 0 on-policy; of responses from μ, −∇ of the cross-entropy of π to μ.  [..., G] → [..., G], no unit.

    >>> imitate(np.array([2, 1]), 1.0)
    array([1., 1.])
    """
    return np.broadcast_to(powers(discount, 1), length.shape)


def a_star(
    reward: Array, sequence_logp: Array, sequence_ref_logp: Array, prompt_constant: Array, *, beta: float = BETA
) -> Array:
    """A*-PO (Brantley et al., arXiv 2505.20686): A_i = 2β (R_i − V* − β log π/ref(W_i)), V* = β log E_ref e^{R/β}.

    Minus the slope of (β log π/ref − (R − V*))².  On-policy V* is a baseline, E ĝ = 2β ∇(J − β KL(π‖ref)); whatever
    policy generates, all credits are 0 at π ∝ ref e^{R/β}.  The paper estimates V* from samples of ref.
    [..., G] → [..., G], in rewards; ``beta`` in rewards per nat.  EstimatorError where a probability is 0.

    >>> a_star(np.array([1.0]), np.array([-1.0]), np.array([-2.0]), np.array([0.5]), beta=0.25)
    array([0.125])
    """
    reward = to_float(reward)
    away = log_ratio("a_star", sequence_logp, sequence_ref_logp)
    size = np.abs(reward) + np.abs(prompt_constant) + beta * (1 + np.abs(sequence_logp) + np.abs(sequence_ref_logp))
    return 2 * beta * settle(reward - prompt_constant - beta * away, size)


def to_target(process_reward: Array) -> Array:
    """TPO with every response as a candidate (arXiv 2604.06159 §3): A_i = q(W_i)/π(W_i) − 1, q ∝ π e^{u/η}.

    Sampling W_i ~ π turns Σ_W (q − p)(W) Z into a mean: p = π here, so the base measure is π and not π².  The model
    (``target_log_weight``) pays log q/π on the last token.  [..., G, T] nats → [..., G, T].

    >>> to_target(np.log([[1.0, 2.0]]))
    array([[1., 1.]])
    """
    paid = to_float(process_reward)
    return np.broadcast_to(np.expm1(paid.sum(-1, keepdims=True)), paid.shape)


# Pairs


@peers("reward", "sequence_logp", "sequence_ref_logp")
def dpo(reward: Array, sequence_logp: Array, sequence_ref_logp: Array, *, beta: float = BETA) -> Array:
    """DPO (Rafailov et al., arXiv 2305.18290): f = ±β σ(−β d), d = log π/ref(chosen) − log π/ref(rejected).

    Minus the slope of −log σ(β d); + for the chosen response.  The larger reward is chosen; equal rewards make no pair
    and give exactly 0.  Biased: no function of the rewards' size.  [..., G] → [..., G]; d in nats.
    EstimatorError for a group of one, and where a probability is 0.

    >>> dpo(np.array([1.0, 0.0, 0.0]), np.zeros(3), np.zeros(3), beta=1.0)
    array([ 1. , -0.5, -0.5])
    """
    better = np.sign(differences("dpo", to_float(reward)))
    return mean_of_pairs(better * push_of("dpo", better, sequence_logp, sequence_ref_logp, beta))


@peers("reward", "sequence_logp", "sequence_ref_logp")
def online_dpo(reward: Array, sequence_logp: Array, sequence_ref_logp: Array, *, beta: float = BETA) -> Array:
    """Online DPO (Guo et al., arXiv 2402.04792; TRL): f = β (σ(R_i − R_j) − σ(β d_ij)), the label in expectation.

    W_i beats W_j with the Bradley–Terry probability σ(R_i − R_j), and that label is averaged, not drawn: with a drawn
    one E ĝ is the same.  At π = ref E ĝ = 2β ∇_θ P(W ~ π_θ beats W' ~ π): the gradient of a win rate, not g.  Equal
    rewards are a draw, which still pulls log π/ref together.  [..., G] → [..., G]; rewards in nats of preference.
    EstimatorError for a group of one, and where a probability is 0.

    >>> online_dpo(np.array([np.log(3), 0.0]), np.zeros(2), np.zeros(2), beta=1.0)
    array([ 0.5, -0.5])
    """
    margin = margins("online_dpo", sequence_logp, sequence_ref_logp)
    label = expit(differences("online_dpo", to_float(reward)))
    return mean_of_pairs(beta * (label - expit(beta * margin)))


@peers("reward", "sequence_logp", "sequence_ref_logp")
def ipo(reward: Array, sequence_logp: Array, sequence_ref_logp: Array, *, tau: float = BETA) -> Array:
    """IPO (Azar et al., arXiv 2310.12036): f = ±2 (1/(2τ) − d), d = log π/ref(chosen) − log π/ref(rejected).

    Minus the slope of (d − 1/(2τ))².  Labels as in ``dpo``.  (2/τ) times CoPG at β = τ with rewards ±1/4.
    [..., G] → [..., G]; d and 1/τ in nats.  EstimatorError for a group of one, and where a probability is 0.

    >>> ipo(np.array([1.0, 0.0]), np.zeros(2), np.zeros(2), tau=0.5)
    array([ 4., -4.])
    """
    better = np.sign(differences("ipo", to_float(reward)))
    margin = margins("ipo", sequence_logp, sequence_ref_logp)
    return mean_of_pairs(2 * (better / (2 * tau) - np.abs(better) * margin))


def rebel_worth(reward: Array, sequence_ratio: Array, *, eta: float = ETA) -> Array:
    """(4/η) S of ``rebel``, S = R − log(π/μ)/η.  [..., G] → [..., G]."""
    return 4 / eta * (to_float(reward) - log_of("rebel", sequence_ratio) / eta)


@leave_one_out(lambda size: Fraction(1), worth=rebel_worth)
@peers("reward", "sequence_ratio")
def rebel(reward: Array, sequence_ratio: Array, *, eta: float = ETA) -> Array:
    """REBEL (Gao et al., arXiv 2404.16767): f = (2/η) (S_i − S_j), S = R − log(π/μ)/η, μ the policy that generates.

    Minus the slope of ((1/η) [log π/μ(W_i) − log π/μ(W_j)] − [R_i − R_j])²; the repository's (Δlog − η ΔR)² is η² times
    that.  On the first step π = μ: 4/η times RLOO, E ĝ = (4/η) g.  [..., G] → [..., G], in rewards; 1/``eta`` in
    rewards per nat.  EstimatorError for a group of one, and for a response that π cannot give.

    >>> rebel(np.array([1.0, 0.0]), np.ones(2))
    array([ 4., -4.])
    """
    away = log_of("rebel", sequence_ratio)
    size = np.abs(to_float(reward)) + (1 + np.abs(away)) / eta
    return 4 / eta * off_peers("rebel", to_float(reward) - away / eta, size)


def copg_worth(reward: Array, sequence_logp: Array, sequence_ref_logp: Array, *, beta: float = BETA) -> Array:
    """2 S of ``copg``, S = R − β log π/ref.  [..., G] → [..., G]."""
    return 2 * (to_float(reward) - beta * log_ratio("copg", sequence_logp, sequence_ref_logp))


@leave_one_out(lambda size: Fraction(1), worth=copg_worth)
@peers("reward", "sequence_logp", "sequence_ref_logp")
def copg(reward: Array, sequence_logp: Array, sequence_ref_logp: Array, *, beta: float = BETA) -> Array:
    """CoPG (Flet-Berliac et al., arXiv 2406.19185): f = S_i − S_j, S = R − β log π/ref.

    Minus the slope of (S_i − S_j)²/(2β) in log π(W_i).  The k-sample form (1/(k−1)) Σ_{i>j} is k/2 times this mean over
    pairs.  On-policy RLOO of S, doubled: E ĝ = 2 ∇(J − β KL(π‖ref)); whatever policy generates, all credits are 0 at
    π ∝ ref e^{R/β}.  [..., G] → [..., G], in rewards; ``beta`` in rewards per nat.
    EstimatorError for a group of one, and where a probability is 0.

    >>> copg(np.array([1.0, 0.0]), np.array([-1.0, -1.0]), np.array([-3.0, -1.0]), beta=0.25)
    array([ 1., -1.])
    """
    away = log_ratio("copg", sequence_logp, sequence_ref_logp)
    size = np.abs(to_float(reward)) + beta * (np.abs(sequence_logp) + np.abs(sequence_ref_logp))
    return 2 * off_peers("copg", to_float(reward) - beta * away, size)


@peers("reward", "sequence_logp", "sequence_ratio")
def tpo(reward: Array, sequence_logp: Array, sequence_ratio: Array, *, eta: float = ETA) -> Array:
    """TPO (Kaddour, arXiv 2604.06159): A_i = G (q_i − p_i), p = softmax_i log π, q ∝ p^old e^{u/η}.

    Minus the slope of −Σ q_i log p_i.  u is the z-score of the rewards (std over G; 0 if all are equal), p^old is of
    the policy that generates.  Biased: candidates are drawn from π and weighed by p, so that for large groups E ĝ →
    Σ w(W) (e^u/E_w e^u − 1) Z with w ∝ π²; η → ∞ gives p_i (u_i − Σ p u)/η.  [..., G] → [..., G], no unit.
    EstimatorError for a group of one, and for a response that π cannot give.

    >>> tpo(np.array([1.0, 0.0]), np.log([0.25, 0.25]), np.ones(2)).round(3)
    array([ 0.762, -0.762])
    """
    size = group_of("tpo", reward)
    away = log_of("tpo", sequence_ratio)
    tilt = z_score(to_float(reward), ddof=0, eps=0.0) / eta - away
    tilt = settle(tilt - tilt[..., :1], 1 + np.abs(away).max(-1, keepdims=True))
    return size * (softmax(sequence_logp + tilt, axis=-1) - softmax(sequence_logp, axis=-1))


# Pairs with weights on tokens


@peers("reward", "sequence_logp", "sequence_ref_logp")
def t_reg(
    reward: Array,
    sequence_logp: Array,
    sequence_ref_logp: Array,
    process_reward: Array,
    *,
    beta: float = BETA,
    alpha: float = ALPHA,
) -> Array:
    """T-REG (Zhou et al., arXiv 2412.02685; summary only): f_t = β w (±1 + α r̂_t), w = σ(−β d), d as in ``dpo``.

    Minus the slope of L_DPO − α w Σ_t β r̂_t log π_t, summed over both responses, with w and r̂ held fixed.  α = 0 is
    DPO.  r̂ = σ(log π(·|better prompt)/π(·|worse prompt)) − 1/2 comes from the model (``contrast``).
    [..., G], [..., G, T] → [..., G, T], no unit.  EstimatorError for a group of one, and where a probability is 0.

    >>> t_reg(np.array([1.0, 0.0]), np.zeros(2), np.zeros(2), np.array([[0.25], [0.25]]), beta=1.0, alpha=1.0)
    array([[ 1.25],
           [-0.75]])
    """
    better = np.sign(differences("t_reg", to_float(reward)))
    push = push_of("t_reg", better, sequence_logp, sequence_ref_logp, beta)
    signed, plain = (better * push).sum(-1)[..., None], push.sum(-1)[..., None]
    paid = alpha * to_float(process_reward)
    return 2 * settle(signed + paid * plain, plain * (1 + np.abs(paid))) / (reward.shape[-1] - 1)


@peers("reward", "logp", "ref_logp", "process_reward")
def tgdpo(
    reward: Array,
    logp: Array,
    ref_logp: Array,
    process_reward: Array,
    *,
    beta: float = BETA,
    alpha: float = ALPHA,
) -> Array:
    """TGDPO (Zhu et al., arXiv 2506.14574): f_t = ±β v_t σ(−d), v = 1 ± αβ r̂, d = Σ_chosen β v lr − Σ_rejected β v lr.

    Minus the slope of −log σ(d), lr = log π/ref of a token; + for the chosen response, r̂ held fixed.  α = 0 is DPO.
    r̂ = log π_rm/ref of a DPO-trained policy comes from the model (``soft_advantage``).
    [..., G], [..., G, T] → [..., G, T], no unit.  EstimatorError for a group of one, and where a probability is 0.

    >>> logs = np.zeros((2, 1))
    >>> tgdpo(np.array([1.0, 0.0]), logs, logs, np.array([[0.5], [0.5]]), beta=1.0, alpha=1.0)
    array([[ 1.5],
           [-0.5]])
    """
    better = np.sign(differences("tgdpo", to_float(reward)))
    away, paid = log_ratio("tgdpo", logp, ref_logp), alpha * beta * to_float(process_reward)
    chosen, rejected = ((v * away).sum(-1) for v in (1 + paid, 1 - paid))
    gap = beta * (chosen[..., :, None] - rejected[..., None, :])  # [i, j]: i chosen, j rejected
    wins = ((better > 0) * beta * expit(-gap)).sum(-1)[..., None]
    losses = ((better < 0) * beta * expit(-np.swapaxes(gap, -1, -2))).sum(-1)[..., None]
    total = wins * (1 + paid) - losses * (1 - paid)
    return 2 * settle(total, (wins + losses) * (1 + np.abs(paid))) / (reward.shape[-1] - 1)


@peers("reward", "sequence_logp", "sequence_ref_logp")
def tab_po(
    reward: Array,
    sequence_logp: Array,
    sequence_ref_logp: Array,
    prob: Array,
    *,
    beta: float = BETA,
    lam: float = LAMBDA,
    tau: float = TAU,
) -> Array:
    """TAB-PO (arXiv 2603.00025 v2, summary only): f_t of ``dpo``, plus λ 1[p_t < τ]/n on the chosen response.

    Minus the slope of L_DPO + λ · mean of −log π_t over the n tokens of the chosen response with π_t < τ (none: 0).
    λ = 0 is DPO.  The abstract's token-weighted advantages are not in this reading.
    [..., G], [..., G, T] → [..., G, T], no unit.  EstimatorError for a group of one, and where a probability is 0.

    >>> tab_po(np.array([1.0, 0.0]), np.zeros(2), np.zeros(2), np.array([[0.25, 0.75]] * 2), beta=1.0, lam=1.0)
    array([[ 3.,  1.],
           [-1., -1.]])
    """
    better = np.sign(differences("tab_po", to_float(reward)))
    push = push_of("tab_po", better, sequence_logp, sequence_ref_logp, beta)
    gate = to_float(prob) < tau  # never behind the end, where it reads 1
    extra = lam * (better > 0).sum(-1)[..., None] * gate / np.maximum(gate.sum(-1, keepdims=True), 1)
    total = (better * push).sum(-1)[..., None] + extra
    return 2 * settle(total, push.sum(-1)[..., None] + extra) / (reward.shape[-1] - 1)


def supported(sequence_logp: Array) -> Array:
    """No correction: 1; a response that π cannot give has no log ratio: EstimatorError.  [..., G] → [..., G].

    >>> supported(np.array([-1.0]))
    array([1.])
    """
    check_logs("supported", sequence_logp)
    return np.ones(sequence_logp.shape)


def _rows() -> list[Estimator]:
    e, b = expected, BETA
    contrast: Model = e.contrast
    optimum: Model = partial(e.soft_advantage, beta=BETA)
    best, target = partial(e.optimal_value, beta=BETA), partial(e.target_log_weight, eta=ETA)
    said: dict[str, tuple[Part, Expectation, Model | None, str]] = {
        "dpo": (dpo, e.dpo(b), None, "arXiv 2305.18290"),
        "online_dpo": (online_dpo, e.online_dpo(b), None, "arXiv 2402.04792; TRL OnlineDPOTrainer"),
        "ipo": (ipo, e.ipo(b), None, "arXiv 2310.12036; TRL loss_type ipo"),
        "tpo": (tpo, e.tpo(ETA), None, "arXiv 2604.06159"),
        "t_reg": (t_reg, e.t_reg(contrast, b, ALPHA), contrast, "arXiv 2412.02685, from a summary"),
        "tgdpo": (tgdpo, e.tgdpo(optimum, b, ALPHA), optimum, "arXiv 2506.14574"),
        "tab_po": (tab_po, e.tab_po(b, LAMBDA, TAU), None, "arXiv 2603.00025 v2, from a summary"),
    }
    same = [
        float64(name, part, expectation=form, off_policy=form, source=source, model=model)
        for name, (part, form, model, source) in said.items()
    ]
    linear, pulled = e.regularised(2, b), e.regularised(2 * parse(b), b)
    return [
        Estimator("sft", imitate, expectation=e.NOTHING, off_policy=e.CROSS_ENTROPY, source="maximum likelihood"),
        *same,
        float64(
            "rebel",
            rebel,
            ratio=supported,
            expectation=e.rebel(ETA),
            off_policy=e.rebel_off_policy(ETA),
            source="arXiv 2404.16767",
        ),
        float64("copg", copg, expectation=linear, off_policy=e.copg_off_policy(b), source="arXiv 2406.19185"),
        float64(
            "a_star_po",
            a_star,
            expectation=pulled,
            off_policy=e.a_star_off_policy(b),
            source="arXiv 2505.20686, with exact V*",
            constant=best,
        ),
        float64("tpo_all_actions", to_target, expectation=e.towards(ETA), source="arXiv 2604.06159 §3.2", model=target),
    ]


ROWS = _rows()
