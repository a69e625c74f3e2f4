"""Literal credits of tpg.estimators.ranks, by row name."""

from __future__ import annotations

import math
from typing import Any

from tests.references import Credit, Prefix, Twin, steps, z_score


def items(word: Prefix) -> list[list[int]]:
    """Positions of the tokens of each item: token 0 ends one."""
    out: list[list[int]] = [[]]
    for t, token in enumerate(word[1:]):
        out[-1].append(t)
        if token == 0:
            out.append([])
    return [item for item in out if item]


def rank_grpo(twin: Twin, group: list[Prefix], i: int) -> list[Any]:
    advantage, word = z_score(twin, group, i), group[i]
    each = [twin.policy[p][a] / twin.behaviour[p][a] for p, a in steps(word)]
    out, found = [0.0] * len(each), items(word)
    for item in found:
        ratio = math.prod(float(each[t]) for t in item) ** (1 / len(item))
        high, low = ratio > 1.2 * (1 + 2**-40), ratio < 0.8 * (1 - 2**-40)
        kept = not (high if advantage > 0 else low)
        for t in item:
            out[t] = kept * ratio * advantage / (len(item) * len(found) * len(group))
    return out


CREDITS: dict[str, Credit] = {"rank_grpo": rank_grpo}
