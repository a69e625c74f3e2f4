"""Literal credits of tpg.estimators.pairs, by row name.

Probabilities are multiplied as fractions and their logarithm is taken last, so that what is 0 is exactly 0.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache
from typing import Any

from tests.references import Credit, Prefix, Twin, responses, steps, total, z_score

BETA, ALPHA, LAMBDA, TAU = 0.1, 0.5, 0.1, Fraction(1, 2)
Pair = Callable[[Twin, Prefix, Prefix], list[Any]]  # (problem, own, other) → − slope of the loss in each own log π_t


def chance(policy: dict[Prefix, list[Fraction]], response: Prefix) -> Fraction:
    return math.prod((policy[prefix][token] for prefix, token in steps(response)), start=Fraction(1))


def ratio(twin: Twin, response: Prefix) -> Fraction:
    """π/ref of the whole response."""
    assert twin.reference is not None
    return chance(twin.policy, response) / chance(twin.reference, response)


def log(number: Fraction) -> float:
    return math.log(number.numerator / number.denominator)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def over_pairs(twin: Twin, group: list[Prefix], i: int, pair: Pair) -> list[Any]:
    """The mean of a pair loss over all pairs of the group, as far as response i has a part in them."""
    pairs = list(itertools.combinations(range(len(group)), 2))
    out: list[Any] = [0 for _ in steps(group[i])]
    for a, b in pairs:
        if i in (a, b):
            other = group[b] if i == a else group[a]
            out = [c + f for c, f in zip(out, pair(twin, group[i], other), strict=True)]
    return [c / len(pairs) for c in out]


def sft(twin: Twin, group: list[Prefix], i: int) -> list[Any]:
    return [Fraction(1, len(group)) for _ in steps(group[i])]


def push(twin: Twin, chosen: Prefix, rejected: Prefix) -> float:
    """β σ(−β d)."""
    return BETA * sigmoid(-BETA * log(ratio(twin, chosen) / ratio(twin, rejected)))


def dpo_pair(twin: Twin, own: Prefix, other: Prefix) -> list[Any]:
    if total(twin, own) == total(twin, other):
        return [0 for _ in steps(own)]
    won = total(twin, own) > total(twin, other)
    return [push(twin, own, other) if won else -push(twin, other, own) for _ in steps(own)]


def dpo(twin: Twin, group: list[Prefix], i: int) -> list[Any]:
    return over_pairs(twin, group, i, dpo_pair)


def online_dpo_pair(twin: Twin, own: Prefix, other: Prefix) -> list[Any]:
    """Both labels, each as likely as Bradley and Terry say."""
    wins = sigmoid(float(total(twin, own) - total(twin, other)))
    loses = sigmoid(float(total(twin, other) - total(twin, own)))
    return [wins * push(twin, own, other) - loses * push(twin, other, own) for _ in steps(own)]


def online_dpo(twin: Twin, group: list[Prefix], i: int) -> list[Any]:
    return over_pairs(twin, group, i, online_dpo_pair)


def ipo(twin: Twin, group: list[Prefix], i: int) -> list[Any]:
    """2 (1/(2τ) − d) if chosen, minus that if rejected; the margins of all pairs in one logarithm."""
    mine, labels, margin = total(twin, group[i]), 0, Fraction(1)
    for j, other in enumerate(group):
        if j != i and total(twin, other) != mine:
            labels += 1 if mine > total(twin, other) else -1
            margin *= ratio(twin, group[i]) / ratio(twin, other)
    pairs = len(group) * (len(group) - 1) / 2
    return [2 * (labels / (2 * BETA) - log(margin)) / pairs for _ in steps(group[i])]


def rebel(twin: Twin, group: list[Prefix], i: int) -> list[Any]:
    """2 (ΔR − Δ log π/μ) with every other response, η = 1."""
    gain, away = Fraction(0), Fraction(1)
    for j, other in enumerate(group):
        if j != i:
            gain += total(twin, group[i]) - total(twin, other)
            away *= chance(twin.policy, group[i]) / chance(twin.behaviour, group[i])
            away /= chance(twin.policy, other) / chance(twin.behaviour, other)
    pairs = len(group) * (len(group) - 1) / 2
    return [2 * (float(gain) - log(away)) / pairs for _ in steps(group[i])]


def copg(twin: Twin, group: list[Prefix], i: int) -> list[Any]:
    """S_i − S_j with every other response, S = R − β log π/ref."""
    gain, away = Fraction(0), Fraction(1)
    for j, other in enumerate(group):
        if j != i:
            gain += total(twin, group[i]) - total(twin, other)
            away *= ratio(twin, group[i]) / ratio(twin, other)
    pairs = len(group) * (len(group) - 1) / 2
    return [(float(gain) - BETA * log(away)) / pairs for _ in steps(group[i])]


def a_star_po(twin: Twin, group: list[Prefix], i: int) -> list[Any]:
    """2β (R − V* − β log π/ref), with R − V* = −β log E_ref e^{(R' − R)/β}."""
    mass: dict[Fraction, Fraction] = {}
    for other, p in responses(twin, group[i][0], twin.reference).items():
        above = total(twin, other) - total(twin, group[i])
        mass[above] = mass.get(above, Fraction(0)) + p
    below_best = -BETA * math.log(sum(p * math.exp(float(above) / BETA) for above, p in mass.items()))
    return [2 * BETA * (below_best - BETA * log(ratio(twin, group[i]))) / len(group) for _ in steps(group[i])]


def tilted(scores: list[float]) -> list[Any]:
    return [Fraction(1) if u == 0 else math.exp(u) for u in scores]


def tpo(twin: Twin, group: list[Prefix], i: int) -> list[Any]:
    """q_i − p_i, η = 1."""
    tilt = tilted([z_score(twin, group, j, ddof=0, eps=0) for j in range(len(group))])
    p = [chance(twin.policy, w) for w in group]
    q = [chance(twin.behaviour, w) * t for w, t in zip(group, tilt, strict=True)]
    return [q[i] / sum(q) - p[i] / sum(p) for _ in steps(group[i])]


def tpo_all_actions(twin: Twin, group: list[Prefix], i: int) -> list[Any]:
    """q/π − 1 of the target over every response that either policy can give."""
    prompt = group[i][0]
    every = list(responses(twin, prompt, twin.policy) | responses(twin, prompt, twin.behaviour))
    tilt = tilted([z_score(twin, every, j, ddof=0, eps=0) for j in range(len(every))])
    normal = sum(chance(twin.policy, w) * t for w, t in zip(every, tilt, strict=True))
    return [(tilt[every.index(group[i])] / normal - 1) / len(group) for _ in steps(group[i])]


def contrast(twin: Twin, prefix: Prefix, token: int) -> float:
    """σ(log π₊/π₋) − 1/2, π± ∝ ref e^{±(M(s,a) − M(s))}."""
    assert twin.reference is not None
    gains = [float(twin.value[(*prefix, a)] - twin.value[prefix]) for a in range(len(twin.policy[prefix]))]
    better = [p * math.exp(gain) for p, gain in zip(twin.reference[prefix], gains, strict=True)]
    worse = [p * math.exp(-gain) for p, gain in zip(twin.reference[prefix], gains, strict=True)]
    return sigmoid(math.log(better[token] / sum(better)) - math.log(worse[token] / sum(worse))) - 0.5


def t_reg_pair(twin: Twin, own: Prefix, other: Prefix) -> list[Any]:
    if total(twin, own) == total(twin, other):
        return [0 for _ in steps(own)]
    won = total(twin, own) > total(twin, other)
    weight = push(twin, own, other) if won else push(twin, other, own)
    return [weight * ((1 if won else -1) + ALPHA * contrast(twin, *step)) for step in steps(own)]


def t_reg(twin: Twin, group: list[Prefix], i: int) -> list[Any]:
    return over_pairs(twin, group, i, t_reg_pair)


@lru_cache(maxsize=65536)
def soft_value(twin: Twin, prefix: Prefix) -> float:
    """V* = β log E_ref e^{R/β} given a prefix or a whole response."""
    assert twin.reference is not None
    if prefix not in twin.policy:
        return float(total(twin, prefix))
    after = [(p, soft_value(twin, (*prefix, a))) for a, p in enumerate(twin.reference[prefix]) if p > 0]
    top = max(v for _, v in after)
    return top + BETA * math.log(math.fsum(p * math.exp((v - top) / BETA) for p, v in after))


def tgdpo_pair(twin: Twin, own: Prefix, other: Prefix) -> list[Any]:
    if total(twin, own) == total(twin, other):
        return [0 for _ in steps(own)]
    won = total(twin, own) > total(twin, other)
    chosen, rejected = (own, other) if won else (other, own)

    def weights(response: Prefix, sign: int) -> list[float]:
        found = [(soft_value(twin, (*s, a)) - soft_value(twin, s)) / BETA for s, a in steps(response)]
        return [1 + sign * ALPHA * BETA * r for r in found]

    def reward(response: Prefix, sign: int) -> float:
        assert twin.reference is not None
        logs = [log(twin.policy[s][a] / twin.reference[s][a]) for s, a in steps(response)]
        return sum(BETA * v * lr for v, lr in zip(weights(response, sign), logs, strict=True))

    slope = BETA * sigmoid(-(reward(chosen, 1) - reward(rejected, -1)))
    return [slope * v if won else -slope * v for v in weights(own, 1 if won else -1)]


def tgdpo(twin: Twin, group: list[Prefix], i: int) -> list[Any]:
    return over_pairs(twin, group, i, tgdpo_pair)


def tab_po_pair(twin: Twin, own: Prefix, other: Prefix) -> list[Any]:
    out = dpo_pair(twin, own, other)
    gate = [twin.policy[prefix][token] < TAU for prefix, token in steps(own)]
    if total(twin, own) > total(twin, other) and any(gate):
        out = [c + LAMBDA * on / sum(gate) for c, on in zip(out, gate, strict=True)]
    return out


def tab_po(twin: Twin, group: list[Prefix], i: int) -> list[Any]:
    return over_pairs(twin, group, i, tab_po_pair)


CREDITS: dict[str, Credit] = {
    "sft": sft,
    "dpo": dpo,
    "online_dpo": online_dpo,
    "ipo": ipo,
    "rebel": rebel,
    "copg": copg,
    "a_star_po": a_star_po,
    "tpo": tpo,
    "tpo_all_actions": tpo_all_actions,
    "t_reg": t_reg,
    "tgdpo": tgdpo,
    "tab_po": tab_po,
}
