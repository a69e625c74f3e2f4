"""Literal credits of tpg.estimators.baselines, by row name."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from functools import lru_cache
from typing import Any

from tests.references import Credit, Prefix, Twin, Vector, length, score, steps, total


def endings(twin: Twin, prefix: Prefix) -> Iterator[tuple[Prefix, Fraction]]:
    """Every whole response that begins with ``prefix``, with its probability under π given the prefix."""
    todo = [(prefix, Fraction(1))]
    while todo:
        before, chance = todo.pop()
        if before not in twin.policy:
            yield before, chance
        else:
            todo += [((*before, a), chance * p) for a, p in enumerate(twin.policy[before]) if p > 0]


def product(u: Vector, v: Vector) -> Any:
    return sum(entry * v.get(parameter, 0) for parameter, entry in u.items())


def whole_score(twin: Twin, response: Prefix) -> Vector:
    """Z = Σ_t S_t."""
    out: Vector = {}
    for prefix, token in steps(response):
        for parameter, entry in score(twin, prefix, token).items():
            out[parameter] = out.get(parameter, 0) + entry
    return out


@lru_cache(maxsize=4096)
def global_optimum(twin: Twin, prompt: int) -> Fraction:
    """E[R‖Z‖²] / E‖Z‖²."""
    top = bottom = Fraction(0)
    for word, chance in endings(twin, (prompt,)):
        z = whole_score(twin, word)
        top, bottom = top + chance * total(twin, word) * product(z, z), bottom + chance * product(z, z)
    return top / bottom if bottom else twin.value[(prompt,)]


@lru_cache(maxsize=4096)
def token_optimum(twin: Twin, prefix: Prefix) -> Fraction:
    """E[R‖S_t‖² | s] / E[‖S_t‖² | s]."""
    top = bottom = Fraction(0)
    for word, chance in endings(twin, prefix):
        s = score(twin, prefix, word[len(prefix)])
        top, bottom = top + chance * total(twin, word) * product(s, s), bottom + chance * product(s, s)
    return top / bottom if bottom else twin.value[prefix]


@lru_cache(maxsize=4096)
def joint_optimum(twin: Twin, prefix: Prefix) -> Fraction:
    """E[R S_t·Z | s] / E[S_t·Z | s]: where the derivative of E‖Σ_u (R − b_u) S_u‖² by b_t(s) is 0."""
    top = bottom = Fraction(0)
    for word, chance in endings(twin, prefix):
        both = product(score(twin, prefix, word[len(prefix)]), whole_score(twin, word))
        top, bottom = top + chance * total(twin, word) * both, bottom + chance * both
    return top / bottom if bottom else twin.value[prefix]


def opo(twin: Twin, group: list[Prefix], i: int) -> list[Any]:
    baseline = sum(length(w) * total(twin, w) for w in group) / sum(length(w) for w in group)
    return [(total(twin, group[i]) - baseline) / len(group) for _ in steps(group[i])]


def opo_loo(twin: Twin, group: list[Prefix], i: int) -> list[Any]:
    others = [w for j, w in enumerate(group) if j != i]
    baseline = sum(length(w) * total(twin, w) for w in others) / sum(length(w) for w in others)
    return [(total(twin, group[i]) - baseline) / len(group) for _ in steps(group[i])]


def optimal_baseline_global(twin: Twin, group: list[Prefix], i: int) -> list[Any]:
    baseline = global_optimum(twin, group[i][0])
    return [(total(twin, group[i]) - baseline) / len(group) for _ in steps(group[i])]


def optimal_baseline_token(twin: Twin, group: list[Prefix], i: int) -> list[Any]:
    return [(total(twin, group[i]) - token_optimum(twin, prefix)) / len(group) for prefix, _ in steps(group[i])]


def optimal_baseline_joint(twin: Twin, group: list[Prefix], i: int) -> list[Any]:
    return [(total(twin, group[i]) - joint_optimum(twin, prefix)) / len(group) for prefix, _ in steps(group[i])]


def value_baseline(twin: Twin, group: list[Prefix], i: int) -> list[Any]:
    return [(total(twin, group[i]) - twin.value[prefix]) / len(group) for prefix, _ in steps(group[i])]


def optimal_token_baseline(twin: Twin, group: list[Prefix], i: int) -> list[Any]:
    """B_t = Σ_j R_j W_j,t / Σ_j W_j,t over the responses that have a token t."""
    out = []
    for t in range(length(group[i])):
        top = bottom = Fraction(0)
        for word in group:
            if length(word) > t:
                path = Fraction(0)
                for prefix, token in steps(word)[: t + 1]:
                    path += 1 - 2 * twin.policy[prefix][token] + sum(p * p for p in twin.policy[prefix])
                top, bottom = top + total(twin, word) * path, bottom + path
        out.append((total(twin, group[i]) - top / bottom) / len(group) if bottom else Fraction(0))
    return out


CREDITS: dict[str, Credit] = {
    "opo": opo,
    "opo_loo": opo_loo,
    "optimal_baseline_global": optimal_baseline_global,
    "optimal_baseline_token": optimal_baseline_token,
    "optimal_baseline_joint": optimal_baseline_joint,
    "value_baseline": value_baseline,
    "optimal_token_baseline": optimal_token_baseline,
}
