"""Literal credits of tpg.estimators.counts, by row name."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from functools import partial
from typing import Any

from tests import references as ref
from tests.references import Credit, Prefix, Twin, length, steps, total


def rewards(twin: Twin, group: list[Prefix]) -> list[Fraction]:
    return [total(twin, w) for w in group]


def best(twin: Twin, group: list[Prefix], i: int) -> Fraction:
    """The highest reward minus the second highest, for the one response that has the highest."""
    ranked = sorted(rewards(twin, group), reverse=True)
    return ranked[0] - ranked[1] if total(twin, group[i]) == ranked[0] else Fraction(0)


def grpo_passk(twin: Twin, group: list[Prefix], i: int) -> list[Any]:
    return [best(twin, group, i) / len(group) for _ in steps(group[i])]


def grpo_passk_std(twin: Twin, group: list[Prefix], i: int) -> list[Any]:
    paid = rewards(twin, group)
    mean = sum(paid) / len(paid)
    variance = sum((r - mean) ** 2 for r in paid) / (len(paid) - 1)
    credit = float(best(twin, group, i)) / (math.sqrt(variance) + 1e-6) / len(group)
    return [credit for _ in steps(group[i])]


def passk_loo(twin: Twin, group: list[Prefix], i: int, k: int = 2) -> list[Any]:
    """Every subset of k with i in it: what i adds to the maximum of the others."""
    paid, gain = rewards(twin, group), Fraction(0)
    subsets = list(itertools.combinations(range(len(group)), k))
    for subset in subsets:
        if i in subset:
            gain += max(paid[j] for j in subset) - max(paid[j] for j in subset if j != i)
    return [gain / len(subsets) for _ in steps(group[i])]


def best_of_n(twin: Twin, group: list[Prefix], i: int) -> list[Any]:
    """One of the best is drawn: ĝ = Σ_t ∇log π of that one."""
    paid = rewards(twin, group)
    winners = [j for j, r in enumerate(paid) if r == max(paid)]
    return [Fraction(1, len(winners)) if i in winners else Fraction(0) for _ in steps(group[i])]


def raft(twin: Twin, group: list[Prefix], i: int) -> list[Any]:
    return [max(total(twin, group[i]), Fraction(0)) / len(group) for _ in steps(group[i])]


def raft_plus_plus(twin: Twin, group: list[Prefix], i: int) -> list[Any]:
    """Derivative of min(r A, clip(r) A), A ≥ 0: r A until r passes 1 + ε."""
    advantage, out = max(total(twin, group[i]), Fraction(0)), []
    for prefix, token in steps(group[i]):
        ratio = twin.policy[prefix][token] / twin.behaviour[prefix][token]
        out.append(ratio * advantage / len(group) if ratio <= 1 + ref.CLIP else Fraction(0))
    return out


def raft_mean_accepted(twin: Twin, group: list[Prefix], i: int) -> list[Any]:
    accepted = [j for j, r in enumerate(rewards(twin, group)) if r > 0]
    return [Fraction(1, len(accepted)) if i in accepted else Fraction(0) for _ in steps(group[i])]


def reinforce_rej(twin: Twin, group: list[Prefix], i: int) -> list[Any]:
    credit = total(twin, group[i]) / len(group) if mixed(twin, group) else Fraction(0)
    return [credit for _ in steps(group[i])]


def maxrl(twin: Twin, group: list[Prefix], i: int) -> list[Any]:
    mean = sum(rewards(twin, group), Fraction(0)) / len(group)
    credit = (total(twin, group[i]) - mean) / mean if mean else Fraction(0)
    return [credit / len(group) for _ in steps(group[i])]


def corpo(twin: Twin, group: list[Prefix], i: int, threshold: Fraction = Fraction(1, 2)) -> list[Any]:
    baseline = max(threshold, sum(rewards(twin, group), Fraction(0)) / len(group))
    return [(total(twin, group[i]) - baseline) / len(group) for _ in steps(group[i])]


def rl2ml(twin: Twin, group: list[Prefix], i: int) -> list[Any]:
    """Order 2: (1 + share of the peers that fail) · (success of i − share of the peers that succeed)."""
    peers = [r > 0 for j, r in enumerate(rewards(twin, group)) if j != i]
    good, bad = Fraction(peers.count(True), len(peers)), Fraction(peers.count(False), len(peers))
    return [(1 + bad) * ((total(twin, group[i]) > 0) - good) / len(group) for _ in steps(group[i])]


def grpo_no_length(twin: Twin, group: list[Prefix], i: int) -> list[Any]:
    return [ref.z_score(twin, group, i) / len(group) for _ in steps(group[i])]


def grpo_ddof0(twin: Twin, group: list[Prefix], i: int) -> list[Any]:
    return [ref.z_score(twin, group, i, ddof=0) / (len(group) * length(group[i])) for _ in steps(group[i])]


def dapo_same_prompt(twin: Twin, group: list[Prefix], i: int) -> list[Any]:
    return [ref.z_score(twin, group, i) / sum(length(w) for w in group) for _ in steps(group[i])]


def chance_mixed(twin: Twin, prompt: int, size: int) -> Fraction:
    """How often a group has unequal rewards, group by group."""
    chances, out = ref.responses(twin, prompt), Fraction(0)
    for group in itertools.product(chances, repeat=size):
        if mixed(twin, list(group)):
            out += math.prod((chances[w] for w in group), start=Fraction(1))
    return out


SHARES: dict[tuple[int, int], tuple[Twin, list[Fraction]]] = {}  # of the last problem, which is asked many times


def share_of_valid(twin: Twin, prompt: int, size: int) -> Fraction:
    """Of the groups that are kept, how many come from this prompt, over its weight."""
    known = SHARES.get((id(twin), size))
    if known is None or known[0] is not twin:
        SHARES.clear()
        each = [chance_mixed(twin, x, size) for x in range(twin.prompts)]
        overall = sum((w * c for w, c in zip(twin.weight, each, strict=True)), Fraction(0))
        known = SHARES[id(twin), size] = twin, [c / overall for c in each]
    return known[1][prompt]


def dapo_stream(twin: Twin, group: list[Prefix], i: int) -> list[Any]:
    share = share_of_valid(twin, group[i][0], len(group))
    return [float(share) * c for c in dapo_same_prompt(twin, group, i)]


def mixed(twin: Twin, group: list[Prefix]) -> bool:
    return len(set(rewards(twin, group))) > 1


ref.KEEP |= {dapo_same_prompt: mixed, dapo_stream: mixed}

CREDITS: dict[str, Credit] = {
    "grpo_passk": grpo_passk,
    "grpo_passk_std": grpo_passk_std,
    "passk_loo": partial(passk_loo, k=2),
    "best_of_n": best_of_n,
    "raft": raft,
    "raft_plus_plus": raft_plus_plus,
    "raft_mean_accepted": raft_mean_accepted,
    "reinforce_rej": reinforce_rej,
    "maxrl": maxrl,
    "corpo": corpo,
    "rl2ml": rl2ml,
    "grpo_no_length": grpo_no_length,
    "grpo_ddof0": grpo_ddof0,
    "dapo_same_prompt": dapo_same_prompt,
    "dapo_stream": dapo_stream,
}
