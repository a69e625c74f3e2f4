"""Literal credits of tpg.estimators.continuations, by row name; and, for rows that draw, every draw with its chance.

``GIVEN[name](twin, response, values, others, anchors)`` → credits of a group of one: ``values[t]`` and ``others[t]``
are the estimates of M_t from two sets of continuations, ``anchors`` the set of positions.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import partial
from typing import Any

from tests import references as ref
from tests.references import Credit, Prefix, Twin, Vector

Numbers = list[Fraction]
Given = Callable[[Twin, Prefix, Numbers, Numbers, frozenset[int]], list[Any]]
Law = Callable[[int, int], dict[frozenset[int], Fraction]]  # horizon, length of the response → sets of positions


# Credits that are a function of the group


def vineppo(twin: Twin, group: list[Prefix], i: int) -> list[Any]:
    values = [twin.value[group[i][: t + 1]] for t in range(ref.length(group[i]) + 1)]
    return [c / len(group) for c in vine_steps(twin, group[i], values, values, frozenset())]


def passing(twin: Twin, members: list[Prefix], prefix: Prefix) -> list[Fraction]:
    """Rewards of the members that go through a prefix."""
    return [ref.total(twin, w) for w in members if w[: len(prefix)] == prefix]


def mean(numbers: list[Fraction]) -> Fraction:
    return sum(numbers, Fraction(0)) / len(numbers)


def tempo(twin: Twin, group: list[Prefix], i: int) -> list[Any]:
    word, out = group[i], []
    for t in range(1, len(word)):
        step = mean(passing(twin, group, word[: t + 1])) - mean(passing(twin, group, word[:t]))
        out.append((ref.centred(twin, group, i) + step) / len(group))
    return out


def tempo_std(twin: Twin, group: list[Prefix], i: int) -> list[Any]:
    variance = sum(ref.centred(twin, group, j) ** 2 for j in range(len(group))) / (len(group) - 1)
    return [float(c) / (math.sqrt(variance) + ref.EPS) if variance else 0.0 for c in tempo(twin, group, i)]


def tempo_unbiased(twin: Twin, group: list[Prefix], i: int) -> list[Any]:
    word, others, out = group[i], group[:i] + group[i + 1 :], []
    for t in range(1, len(word)):
        shared = max(k for k in range(1, t + 1) if passing(twin, others, word[:k]))
        out.append(
            (mean(passing(twin, group, word[: t + 1])) - mean(passing(twin, others, word[:shared]))) / len(group)
        )
    return out


CREDITS: dict[str, Credit] = {
    "vineppo": vineppo,
    "tempo": tempo,
    "tempo_std": tempo_std,
    "tempo_unbiased": tempo_unbiased,
}


# Credits that are a function of what is drawn


def telescoped(length: int, values: Numbers, ends: set[int]) -> list[Any]:
    """M_u − M_s for each token of each block, the ends of blocks given; the root and the end are always among them."""
    marks = sorted({0, length} | {t for t in ends if t < length})
    return [values[u] - values[s] for s, u in itertools.pairwise(marks) for _ in range(s, u)]


def vine_steps(twin: Twin, word: Prefix, values: Numbers, others: Numbers, anchors: frozenset[int]) -> list[Any]:
    return telescoped(ref.length(word), values, {t for t in range(1, len(word)) if word[t] == 0})


def trajectory(twin: Twin, word: Prefix, values: Numbers, others: Numbers, anchors: frozenset[int]) -> list[Any]:
    return values[1:]


def advantage(twin: Twin, word: Prefix, values: Numbers, others: Numbers, anchors: frozenset[int]) -> list[Any]:
    return [values[t] - values[t - 1] for t in range(1, len(word))]


def unshared(twin: Twin, word: Prefix, values: Numbers, others: Numbers, anchors: frozenset[int]) -> list[Any]:
    return [values[t] - others[t - 1] for t in range(1, len(word))]


def masked(
    twin: Twin, word: Prefix, values: Numbers, others: Numbers, anchors: frozenset[int], by: Fraction = Fraction(1)
) -> list[Any]:
    return [(values[t] - values[t - 1]) / by if t in anchors else Fraction(0) for t in range(1, len(word))]


def interpolated(twin: Twin, word: Prefix, values: Numbers, others: Numbers, anchors: frozenset[int]) -> list[Any]:
    """A straight line between the advantages of neighbouring anchors; 0 at anchors after the end."""
    known = {t: values[t] - values[t - 1] if t < len(word) else Fraction(0) for t in anchors}
    out = []
    for t in range(1, len(word)):
        before, after = [a for a in known if a <= t], [a for a in known if a >= t]
        if not known:
            out.append(Fraction(0))
        elif not before:
            out.append(known[min(after)])
        elif not after:
            out.append(known[max(before)])
        else:
            s, u = max(before), min(after)
            share = Fraction(t - s, u - s) if u > s else Fraction(0)
            out.append((1 - share) * known[s] + share * known[u])
    return out


def sloped(twin: Twin, word: Prefix, values: Numbers, others: Numbers, anchors: frozenset[int]) -> list[Any]:
    """The slope of the line between the values at the ends of the block."""
    marks = sorted({0, ref.length(word)} | {t for t in anchors if t < ref.length(word)})
    return [(values[u] - values[s]) / (u - s) for s, u in itertools.pairwise(marks) for _ in range(s, u)]


def blocks(twin: Twin, word: Prefix, values: Numbers, others: Numbers, anchors: frozenset[int]) -> list[Any]:
    return telescoped(ref.length(word), values, set(anchors))


def nowhere(horizon: int, length: int) -> dict[frozenset[int], Fraction]:
    return {frozenset(): Fraction(1)}


def coins(horizon: int, length: int, rate: Fraction = Fraction(1, 2)) -> dict[frozenset[int], Fraction]:
    """A coin for every position 1 … T."""
    out = {}
    for heads in itertools.product([False, True], repeat=horizon):
        chance = math.prod((rate if head else 1 - rate for head in heads), start=Fraction(1))
        out[frozenset(t for t, head in enumerate(heads, start=1) if head)] = chance
    return out


def one_of_all(horizon: int, length: int) -> dict[frozenset[int], Fraction]:
    return {frozenset({t}): Fraction(1, horizon) for t in range(1, horizon + 1)}


def one_of_length(horizon: int, length: int) -> dict[frozenset[int], Fraction]:
    return one_of_all(length, length)


GIVEN: dict[str, tuple[Given, Law, int | None]] = {
    "vineppo_k": (vine_steps, nowhere, 9),
    "trajectory_pg_k": (trajectory, nowhere, 4),
    "exact_advantage_k1": (advantage, nowhere, 1),
    "exact_advantage_k4": (advantage, nowhere, 4),
    "exact_advantage_k1_independent": (unshared, nowhere, 1),
    "trepo_anchors": (masked, coins, None),
    "trepo_ipw": (partial(masked, by=Fraction(1, 2)), coins, None),
    "trepo_adv_interp": (interpolated, coins, None),
    "trepo_adv_interp_k1": (interpolated, coins, 1),
    "trepo_value_interp": (sloped, coins, None),
    "trepo_block": (blocks, coins, None),
    "trepo_block_k1": (blocks, coins, 1),
    "trepo_block_subset": (blocks, one_of_all, None),
    "trepo_block_subset_len": (blocks, one_of_length, None),
}


# Every draw


def onward(twin: Twin, prefix: Prefix) -> dict[Prefix, Fraction]:
    """Every response that continues a prefix, under the current policy; the prefix itself if it is a whole response."""
    if prefix not in twin.policy:
        return {prefix: Fraction(1)}
    out: dict[Prefix, Fraction] = {}
    for token, p in enumerate(twin.policy[prefix]):
        if p:
            out |= {w: p * q for w, q in onward(twin, (*prefix, token)).items()}
    return out


def estimates_of(twin: Twin, prefix: Prefix, count: int | None) -> dict[Fraction, Fraction]:
    """Every mean reward of ``count`` fresh continuations with its chance: one continuation after the other."""
    if count is None:
        return {twin.value[prefix]: Fraction(1)}
    sums: dict[Fraction, Fraction] = {Fraction(0): Fraction(1)}
    for _ in range(count):
        more: dict[Fraction, Fraction] = defaultdict(Fraction)
        for (paid, p), (word, q) in itertools.product(sums.items(), onward(twin, prefix).items()):
            more[paid + ref.total(twin, word)] += p * q
        sums = more
    return {paid / count: p for paid, p in sums.items()}


def singles(
    twin: Twin, prompt: int, name: str, count: int | None, second: bool = False
) -> Iterator[tuple[Any, Vector]]:
    """Σ_t c_t S_t of every response, every set of anchors and every set of continuations, with its chance."""
    credit, law, _ = GIVEN[name]
    for word, p in ref.responses(twin, prompt).items():
        scores = [ref.score(twin, prefix, token) for prefix, token in ref.steps(word)]
        drawn = [estimates_of(twin, word[: t + 1], count) for t in range(len(word))]
        for anchors, q in law(twin.horizon, ref.length(word)).items():
            for values in itertools.product(*(d.items() for d in drawn)):
                for others in itertools.product(*(d.items() for d in drawn)) if second else [values]:
                    chance = p * q * math.prod((c for _, c in values), start=Fraction(1))
                    chance *= math.prod((c for _, c in others), start=Fraction(1)) if second else 1
                    given = credit(twin, word, [v for v, _ in values], [v for v, _ in others], anchors)
                    out: Vector = defaultdict(Fraction)
                    for c, s in zip(given, scores, strict=True):
                        for parameter, entry in s.items():
                            out[parameter] += c * entry
                    yield chance, out


def merged(vectors: Iterator[tuple[Any, Vector]]) -> list[tuple[Any, Vector]]:
    """The same vectors once each."""
    out: dict[tuple[Any, ...], Any] = defaultdict(Fraction)
    for chance, vector in vectors:
        out[tuple(sorted((k, v) for k, v in vector.items() if v))] += chance
    return [(chance, dict(vector)) for vector, chance in out.items()]


def estimates(
    twin: Twin, prompt: int, name: str, group_size: int, count: int | None = None
) -> Iterator[tuple[Any, Vector]]:
    """ĝ of every group, every member with every draw of its own, with its chance; ``count``: K, if not the row's."""
    second = name.endswith("independent")
    every = merged(singles(twin, prompt, name, GIVEN[name][2] if count is None else count, second))
    for group in itertools.product(every, repeat=group_size):
        ghat: Vector = defaultdict(Fraction)
        for _, vector in group:
            for parameter, entry in vector.items():
                ghat[parameter] += entry / group_size
        yield math.prod((p for p, _ in group), start=Fraction(1)), ghat
