"""Literal credits of tpg.estimators.batch, by row name: functions of (problem, batch of groups, prompt, i).

``CREDITS`` is empty: these rows see the groups of all prompts, and tests/test_batch.py has the tests for them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

from tests.references import Credit, Prefix, Twin, Vector, length, responses, score, steps, total, z_score

CREDITS: dict[str, Credit] = {}

Batch = list[list[Prefix]]
BatchCredit = Callable[[Twin, Batch, int, int], list[Any]]


def token_mean(batch: Batch) -> Fraction:
    """The divisor of ĝ_x: with weights 1/P all credits are divided by the tokens of the batch."""
    return Fraction(sum(length(w) for group in batch for w in group), len(batch))


def centred(twin: Twin, group: list[Prefix], i: int) -> Fraction:
    return total(twin, group[i]) - sum(total(twin, w) for w in group) / len(group)


def whitened(value: Fraction, values: list[Fraction]) -> float:
    mean = sum(values) / len(values)
    variance = sum((v - mean) ** 2 for v in values) / (len(values) - 1)
    return float(value - mean) / math.sqrt(variance + Fraction(1, 10**8))


def reinforce_plus_plus(twin: Twin, batch: Batch, x: int, i: int) -> list[Any]:
    tokens = [total(twin, w) for group in batch for w in group for _ in steps(w)]  # the return of every token
    return [whitened(total(twin, batch[x][i]), tokens) / float(token_mean(batch)) for _ in steps(batch[x][i])]


def reinforce_plus_plus_response(twin: Twin, batch: Batch, x: int, i: int) -> list[Any]:
    rewards = [total(twin, w) for group in batch for w in group]
    return [whitened(total(twin, batch[x][i]), rewards) / len(batch[x]) for _ in steps(batch[x][i])]


def reinforce_plus_plus_baseline(twin: Twin, batch: Batch, x: int, i: int) -> list[Any]:
    tokens = [centred(twin, group, j) for group in batch for j, w in enumerate(group) for _ in steps(w)]
    return [whitened(centred(twin, batch[x], i), tokens) / float(token_mean(batch)) for _ in steps(batch[x][i])]


def lite_ppo(twin: Twin, batch: Batch, x: int, i: int) -> list[Any]:
    rewards = [total(twin, w) for group in batch for w in group]
    mean = sum(rewards) / len(rewards)
    std = math.sqrt(sum((r - mean) ** 2 for r in rewards) / (len(rewards) - 1))
    worth = float(centred(twin, batch[x], i)) / (std + 1e-4)
    return [worth / float(token_mean(batch)) for _ in steps(batch[x][i])]


def gpg(twin: Twin, batch: Batch, x: int, i: int) -> list[Any]:
    signal = sum(centred(twin, group, j) != 0 for group in batch for j in range(len(group)))
    alpha = Fraction(sum(len(group) for group in batch), signal) if signal else Fraction(0)
    return [alpha * centred(twin, batch[x], i) / token_mean(batch) for _ in steps(batch[x][i])]


def dapo_batch(twin: Twin, batch: Batch, x: int, i: int) -> list[Any]:
    return [z_score(twin, batch[x], i) / float(token_mean(batch)) for _ in steps(batch[x][i])]


BATCH: dict[str, BatchCredit] = {
    "reinforce_plus_plus": reinforce_plus_plus,
    "reinforce_plus_plus_response": reinforce_plus_plus_response,
    "reinforce_plus_plus_baseline": reinforce_plus_plus_baseline,
    "lite_ppo": lite_ppo,
    "gpg": gpg,
    "dapo_batch": dapo_batch,
}


# Moments, batch by batch


def batches(twin: Twin, group_size: int) -> Iterator[tuple[Fraction, Batch]]:
    """Every batch, one ordered group per prompt, with its probability."""
    chances = [responses(twin, x) for x in range(twin.prompts)]
    for batch in itertools.product(*(itertools.product(c, repeat=group_size) for c in chances)):
        chance = math.prod((chances[x][w] for x, group in enumerate(batch) for w in group), start=Fraction(1))
        yield chance, [list(group) for group in batch]


def estimate(twin: Twin, credit: BatchCredit, batch: Batch, x: int) -> Vector:
    """ĝ_x of one batch."""
    out: Vector = {}
    for i, word in enumerate(batch[x]):
        for c, (prefix, token) in zip(credit(twin, batch, x, i), steps(word), strict=True):
            for parameter, entry in score(twin, prefix, token).items():
                out[parameter] = out.get(parameter, 0) + c * entry
    return out


def moments_of(twin: Twin, credit: BatchCredit, group_size: int) -> tuple[list[Vector], list[list[Any]]]:
    """E ĝ_x of every prompt, and tr Cov(ĝ_x, ĝ_y) of every two, summed as it is written."""
    prompts = range(twin.prompts)
    found = [(p, [estimate(twin, credit, b, x) for x in prompts]) for p, b in batches(twin, group_size)]
    means = [{k: sum(p * each[x].get(k, 0) for p, each in found) for k in twin.parameters} for x in prompts]

    def apart(vector: Vector, x: int) -> list[Any]:
        return [vector.get(k, 0) - means[x][k] for k in twin.parameters]

    between = [[Fraction(0) for _ in prompts] for _ in prompts]
    for p, each in found:
        off = [apart(each[x], x) for x in prompts]
        for x, y in itertools.product(prompts, prompts):
            between[x][y] += p * sum(a * b for a, b in zip(off[x], off[y], strict=True))
    return means, between
