"""Literal credits of tpg.estimators.kl, by row name."""

from __future__ import annotations

import math
from fractions import Fraction
from functools import partial
from typing import Any

from tests.references import CLIP, PPO_LAMBDA, Credit, Prefix, Twin, length, steps, total, z_score

BETA = Fraction(1, 10)


def target(twin: Twin) -> dict[Prefix, list[Fraction]]:
    assert twin.reference is not None
    return twin.reference


def k1(twin: Twin, response: Prefix) -> list[float]:
    """log π − log π_ref of every token."""
    return [math.log(twin.policy[s][a]) - math.log(target(twin)[s][a]) for s, a in steps(response)]


def k1_of_all(twin: Twin, response: Prefix) -> float:
    """log π(W) − log π_ref(W)."""
    ours = sum(math.log(twin.policy[s][a]) for s, a in steps(response))
    return ours - sum(math.log(target(twin)[s][a]) for s, a in steps(response))


def k2(twin: Twin, response: Prefix) -> list[float]:
    return [x**2 / 2 for x in k1(twin, response)]


def k3(twin: Twin, response: Prefix) -> list[float]:
    """π_ref/π − log(π_ref/π) − 1."""
    return [float(q / p - 1) - math.log(q / p) for p, q in both(twin, response)]


def both(twin: Twin, response: Prefix) -> list[tuple[Fraction, Fraction]]:
    """π and π_ref of every token."""
    return [(twin.policy[s][a], target(twin)[s][a]) for s, a in steps(response)]


def ratios(twin: Twin, response: Prefix) -> list[Fraction]:
    """π/μ of every token."""
    return [twin.policy[s][a] / twin.behaviour[s][a] for s, a in steps(response)]


# In the loss


def k1_loss(twin: Twin, group: list[Prefix], i: int) -> list[Any]:
    return [-BETA / len(group) for _ in steps(group[i])]


def k2_loss(twin: Twin, group: list[Prefix], i: int, beta: Fraction = BETA) -> list[Any]:
    return [-float(beta) * x / len(group) for x in k1(twin, group[i])]


def k3_loss(twin: Twin, group: list[Prefix], i: int) -> list[Any]:
    return [BETA * (q / p - 1) / len(group) for p, q in both(twin, group[i])]


def k3_ratio_loss(twin: Twin, group: list[Prefix], i: int) -> list[Any]:
    weighed = zip(ratios(twin, group[i]), k1(twin, group[i]), strict=True)
    return [-float(BETA * r) * x / len(group) for r, x in weighed]


def k3_sequence_loss(twin: Twin, group: list[Prefix], i: int) -> list[Any]:
    whole = math.prod((q / p for p, q in both(twin, group[i])), start=Fraction(1))
    return [BETA * (whole - 1) / len(group) for _ in steps(group[i])]


# In the reward


def to_go(twin: Twin, group: list[Prefix], i: int, kind: Any, beta: Fraction = BETA) -> list[Any]:
    paid = kind(twin, group[i])
    return [-float(beta) * sum(paid[t:]) / len(group) for t in range(len(paid))]


def full_return(twin: Twin, group: list[Prefix], i: int) -> list[Any]:
    return [-float(BETA) * k1_of_all(twin, group[i]) / len(group) for _ in steps(group[i])]


# With rewards


def shaped(twin: Twin, response: Prefix) -> float:
    return float(total(twin, response)) - float(BETA) * k1_of_all(twin, response)


def reinforce_kl(twin: Twin, group: list[Prefix], i: int) -> list[Any]:
    return [shaped(twin, group[i]) / len(group) for _ in steps(group[i])]


def rloo_kl(twin: Twin, group: list[Prefix], i: int) -> list[Any]:
    if len({shaped(twin, w) for w in group}) == 1:
        return [0.0 for _ in steps(group[i])]
    others = [shaped(twin, w) for j, w in enumerate(group) if j != i]
    return [(shaped(twin, group[i]) - sum(others) / len(others)) / len(group) for _ in steps(group[i])]


def clipped(ratio: Fraction, advantage: float) -> float:
    """−∂/∂log π of −min(r A, clip(r) A): r A where that is the smaller one, or both are; else 0."""
    inside = min(max(ratio, 1 - CLIP), 1 + CLIP)
    kept = ratio == inside or (ratio > inside) == (advantage < 0)
    return float(ratio) * advantage if kept else 0.0


def grpo_kl(twin: Twin, group: list[Prefix], i: int) -> list[Any]:
    score, many = z_score(twin, group, i), len(group) * length(group[i])
    rows = zip(ratios(twin, group[i]), both(twin, group[i]), strict=True)
    return [(clipped(r, score) + float(BETA * (q / p - 1))) / many for r, (p, q) in rows]


def worth(twin: Twin, prefix: Prefix) -> float:
    """E[RM − β Σ log(μ/π_ref) over the tokens after the prefix], under the policy that generates."""
    if prefix not in twin.policy:
        return float(total(twin, prefix))
    out = 0.0
    for a, p in enumerate(twin.behaviour[prefix]):
        if p > 0:
            nats = math.log(p) - math.log(target(twin)[prefix][a])
            out += float(p) * (worth(twin, (*prefix, a)) - float(BETA) * nats)
    return out


def ppo_kl(twin: Twin, group: list[Prefix], i: int) -> list[Any]:
    delta = []
    for s, a in steps(group[i]):
        nats = math.log(twin.behaviour[s][a]) - math.log(target(twin)[s][a])
        delta.append(worth(twin, (*s, a)) - worth(twin, s) - float(BETA) * nats)
    lam, steps_left = float(PPO_LAMBDA), range(len(delta))
    advantage = [sum(lam ** (k - t) * delta[k] for k in steps_left if k >= t) for t in steps_left]
    return [clipped(r, a) / len(group) for r, a in zip(ratios(twin, group[i]), advantage, strict=True)]


CREDITS: dict[str, Credit] = {
    "kl_k1_loss": k1_loss,
    "kl_k2_loss": k2_loss,
    "kl_k3_loss": k3_loss,
    "kl_k3_ratio_loss": k3_ratio_loss,
    "kl_k3_straight_through": partial(k2_loss),
    "kl_k1_reward": partial(to_go, kind=k1),
    "kl_k1_reward_full": full_return,
    "kl_k2_reward": partial(to_go, kind=k2),
    "kl_k3_reward": partial(to_go, kind=k3),
    "kl_k2_sequence_loss": partial(full_return),
    "kl_k3_sequence_loss": k3_sequence_loss,
    "grpo_kl": grpo_kl,
    "rloo_kl": rloo_kl,
    "ppo_kl": ppo_kl,
    "reinforce_kl": reinforce_kl,
    "distill_myopic": partial(k2_loss, beta=Fraction(1)),
    "distill_return": partial(to_go, kind=k1, beta=Fraction(1)),
}
