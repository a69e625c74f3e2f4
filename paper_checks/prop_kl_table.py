"""prop:kl-table: which gradient each KL term has, in the loss, in the reward and times the ratio, π or μ generating."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from paper_checks import divergences as v
from paper_checks.common import both, expectation, gradient
from paper_checks.divergences import Divergences, Value
from paper_checks.stale import referenced, size_of, stale
from tpg.claims import Claim, Finding, apart, close
from tpg.claims.record import Check
from tpg.estimators import ratios
from tpg.estimators.estimator import Estimator
from tpg.estimators.table import ESTIMATORS
from tpg.numbers import FLOAT64, Array
from tpg.problem import zoo
from tpg.problem.problem import Problem

BETA = 0.1  # of the rows


def nothing(d: Divergences, p: Array) -> Array:
    """0."""
    return 0 * p.sum((1, 2))


def less(one: Value, other: Value) -> Value:
    """The difference of two values."""
    return lambda d, p: one(d, p) - other(d, p)


def same(logs: Array) -> Array:
    """k1."""
    return logs


def square(logs: Array) -> Array:
    """k2."""
    return logs**2 / 2


def reverse_of_pi(d: Divergences, p: Array) -> Array:
    """Mutant: Σ_s ρ_π(s) KL(p‖π_ref)(s) where μ generates."""
    return v.reverse(Divergences(replace(d.problem, behaviour=None)), p)


ON_POLICY: dict[str, Value] = {
    "kl_k1_loss": nothing,
    "kl_k2_loss": v.reverse,
    "kl_k3_straight_through": v.reverse,
    "distill_myopic": v.reverse,
    "kl_k3_loss": v.forward,
    "kl_k3_ratio_loss": v.reverse,
    "kl_k1_reward": v.whole_reverse,
    "kl_k1_reward_full": v.whole_reverse,
    "distill_return": v.whole_reverse,
    "kl_k2_reward": v.earned(square),
    "kl_k3_reward": less(v.whole_reverse, v.forward),
    "kl_k2_sequence_loss": v.whole_reverse,
    "kl_k3_sequence_loss": v.whole_forward,
}
OFF_POLICY: dict[str, Value] = {
    "kl_k1_loss": v.log_likelihood,
    "kl_k2_loss": v.squares,
    "kl_k3_straight_through": v.squares,
    "distill_myopic": v.squares,
    "kl_k3_loss": v.k3s,
    "kl_k3_ratio_loss": v.reverse,
    "kl_k1_reward": v.earned_ahead(same),
    "kl_k2_reward": v.earned_ahead(square),
    "kl_k3_reward": v.earned_ahead(v.k3),
    "kl_k1_reward_full": v.whole_square,
    "kl_k2_sequence_loss": v.whole_square,
    "kl_k3_sequence_loss": v.whole_k3,
}
CORRECTED: dict[str, Value] = {  # times the ratio of the response
    "kl_k1_reward": v.whole_reverse,
    "kl_k1_reward_full": v.whole_reverse,
    "kl_k2_sequence_loss": v.whole_reverse,
}


def generated(problem: Problem, by_mu: bool) -> Problem:
    """With a reference policy, and responses of π or of μ."""
    return referenced(stale(problem) if by_mu else problem).to(FLOAT64)


def follows(estimator: Estimator, value: Value, by_mu: bool = False) -> Check:
    """E ĝ = −β ∇value."""

    def check(problem: Problem) -> Sequence[Finding]:
        made = generated(problem, by_mu)
        found, slope = expectation(made, estimator), Divergences(made).slope(value)
        beta = 1 if estimator.name.startswith("distill") else BETA
        what = f"{estimator.name}, responses of {'μ' if by_mu else 'π'}: E ĝ = −β ∇ {value.__name__}"
        return [close(what, found + beta * slope, size_of(slope))]

    return check


def of(name: str) -> Estimator:
    """A row of the table."""
    return ESTIMATORS[name]


def corrected(name: str) -> Estimator:
    """The row times the ratio of the response."""
    return replace(of(name), ratio=ratios.sequence_is)


def regularised(name: str, size: int) -> Check:
    """A row with rewards: E ĝ = ∇(J − β KL(π‖π_ref)) of responses, on-policy."""

    def check(problem: Problem) -> Sequence[Finding]:
        made = generated(problem, False)
        wanted = gradient(made) - BETA * Divergences(made).slope(v.whole_reverse)
        found = expectation(made, of(name), size)
        return [close(f"{name}: E ĝ = ∇(J − β KL(π‖π_ref))", found - wanted, size_of(wanted))]

    return check


def near(problem: Problem, share: str) -> Problem:
    """π_ref = π + share · (another policy − π)."""
    made = referenced(problem)
    assert made.reference is not None
    close_by = problem.probs + problem.field.scalar(share) * (made.reference - problem.probs)
    return replace(made, reference=close_by).to(FLOAT64)


def example() -> Sequence[Finding]:
    """The four gradients differ; k2 and k3 in the reward leave nothing of first order."""
    problem, out = zoo.referenced(FLOAT64), []
    kinds = {
        "frozen reverse": v.reverse,
        "frozen forward": v.forward,
        "reverse": v.whole_reverse,
        "forward": v.whole_forward,
    }
    slopes = {name: Divergences(problem).slope(value) for name, value in kinds.items()}
    names = list(slopes)
    for i, one in enumerate(names):
        for other in names[:i]:
            out.append(apart(f"{one} and {other} KL", slopes[one] - slopes[other], 1.0))
    for name in ("kl_k2_reward", "kl_k3_reward"):
        far, half = (expectation(near(zoo.two_valued(), share), of(name)) for share in ("1/1000", "1/2000"))
        halved = float(np.linalg.norm(far) / np.linalg.norm(half))
        out.append(Finding(f"{name}: half the distance, a quarter of E ĝ", abs(halved - 4) < 0.02, f"{halved:.3f}"))
    return out


CLAIM = Claim(
    label="prop:kl-table",
    statement="E ĝ/(−β) on-policy: k1 in loss 0; k2 in loss, k3 × ratio, k3+ reverse and k3 forward KL of prefixes "
    "that stand still; k1 in reward and k2 of the response ∇KL(π‖π_ref), k3 of the response ∇KL(π_ref‖π) of "
    "responses; k2, k3 in reward of second order in π − π_ref. Responses of μ: a loss has ∇E_μ of itself, k3 × ratio "
    "the reverse KL at prefixes of μ; k1 in reward needs the full ratio to stay ∇KL(π‖π_ref)",
    source="arXiv 2506.09477, 2510.01555, Schulman 2020; the rows in the reward, of responses and off-policy are ours",
    hypotheses=("π, μ and π_ref give every token a positive probability", "no clamp of log ratios"),
    group_sizes=(1, 2),
    check=both(
        *(follows(of(name), value) for name, value in ON_POLICY.items()),
        *(follows(of(name), value, by_mu=True) for name, value in OFF_POLICY.items()),
        *(follows(corrected(name), value, by_mu=True) for name, value in CORRECTED.items()),
        regularised("reinforce_kl", 1),
        regularised("rloo_kl", 2),
        regularised("ppo_kl", 1),
    ),
    example=example,
    mutants={
        "k1 in loss: the reverse KL, as its value": follows(of("kl_k1_loss"), v.reverse),
        "k2 in loss: the reverse KL of responses": follows(of("kl_k2_loss"), v.whole_reverse),
        "k3 in loss: the reverse KL, as its value": follows(of("kl_k3_loss"), v.reverse),
        "k3 × ratio: the prefixes of π whoever generates": follows(of("kl_k3_ratio_loss"), reverse_of_pi, by_mu=True),
        "k1 in reward: prefixes stand still": follows(of("kl_k1_reward"), v.reverse),
        "k1 in reward: the same whoever generates": follows(of("kl_k1_reward"), v.whole_reverse, by_mu=True),
        "k3 in reward: the reverse KL, as its value": follows(of("kl_k3_reward"), v.whole_reverse),
        "k3 of the response: the reverse KL": follows(of("kl_k3_sequence_loss"), v.whole_reverse),
    },
    needs=("claim:k3-forward-kl",),
    algebraic=False,
)
