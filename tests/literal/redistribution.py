"""Literal credits of tpg.estimators.redistribution, by row name.

A dense reward is a list of numbers per response.  Critics are what they should be: the mean of what is still to come,
over every way in which the response can go on.  Soft values sum e^{worth} over every response of the reference policy.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache, partial
from itertools import pairwise
from typing import Any

from tests.references import Credit, Prefix, Twin, length, responses, steps, total

Dense = Callable[[Twin, Prefix], list[Any]]
Score = Callable[[Twin, Prefix], Any]
LAM, PROVER_WEIGHT, ABC_SHARE, CLIP, TEMPERATURE, KL = Fraction(19, 20), 3, Fraction(1, 2), Fraction(1, 2), 0.1, 0.5


def prefixes(response: Prefix) -> list[Prefix]:
    """The prompt, then the response after every token."""
    return [response[:t] for t in range(1, len(response) + 1)]


def summed(numbers: list[Any]) -> Any:
    """Σ from the right, so that a sum is its first term plus the sum of the others in floats too."""
    return numbers[0] if len(numbers) == 1 else numbers[0] + summed(numbers[1:]) if numbers else Fraction(0)


def mean(numbers: list[Any], chances: list[Fraction]) -> Any:
    """A mean as one of the numbers and the mean distance from it: equal numbers have exactly themselves."""
    apart = [p * (n - numbers[0]) for n, p in zip(numbers, chances, strict=True)]
    return numbers[0] + summed(apart) / sum(chances)


# Models


def judge(twin: Twin, prefix: Prefix) -> Fraction:
    """The expected reward over one more than the tokens so far, and 1 when their number is even."""
    return twin.value[prefix] / (length(prefix) + 1) + (1 if length(prefix) % 2 == 0 else 0)


def reward_model(twin: Twin, prefix: Prefix) -> Fraction:
    return judge(twin, prefix) if prefix in twin.policy else total(twin, prefix)


def prover(twin: Twin, prefix: Prefix) -> Fraction:
    """Expected reward when every token is drawn twice from π until both draws agree."""
    if prefix not in twin.policy:
        return total(twin, prefix)
    odds = [p * p for p in twin.policy[prefix]]
    return sum((o / sum(odds) * prover(twin, (*prefix, a)) for a, o in enumerate(odds) if o), Fraction(0))


def length_lover(twin: Twin, response: Prefix) -> Fraction:
    return Fraction(3, 8) * total(twin, response) ** 2 + length(response)


@lru_cache(maxsize=4096)
def soft_value(twin: Twin, prefix: Prefix, worth: Score) -> float:
    """log Σ_W π_ref(W | prefix) e^{worth(W)}, written around one of the terms so that equal ones stay equal."""
    assert twin.reference is not None
    odds = {
        w: math.prod((twin.reference[s][a] for s, a in steps(w)[length(prefix) :]), start=Fraction(1))
        for w in responses(twin, prefix[0], twin.reference)
        if w[: len(prefix)] == prefix
    }
    top = max(worth(twin, w) for w in odds)
    return float(top) + math.log1p(math.fsum(p * math.expm1(worth(twin, w) - top) for w, p in odds.items()))


def log_of_policy(twin: Twin, table: dict[Prefix, list[Fraction]], response: Prefix) -> list[float]:
    return [math.log(table[prefix][token]) for prefix, token in steps(response)]


# Dense rewards


def paid_at_end(twin: Twin, response: Prefix) -> list[Fraction]:
    return [Fraction(0)] * (length(response) - 1) + [total(twin, response)]


def differences(twin: Twin, response: Prefix, score: Score) -> list[Any]:
    said = [score(twin, prefix) for prefix in prefixes(response)]
    return [after - before for before, after in pairwise(said)]


def add(*lists: list[Any]) -> list[Any]:
    return [summed(list(column)) for column in zip(*lists, strict=True)]


def judged(twin: Twin, response: Prefix) -> list[Fraction]:
    return [judge(twin, prefix) for prefix in prefixes(response)[1:]]


def red(twin: Twin, response: Prefix) -> list[Any]:
    return differences(twin, response, reward_model)


def igpo(twin: Twin, response: Prefix) -> list[Any]:
    return add(differences(twin, response, judge), paid_at_end(twin, response))


def prover_step(twin: Twin, response: Prefix) -> list[Any]:
    return [PROVER_WEIGHT * d for d in differences(twin, response, prover)]


def pav(twin: Twin, response: Prefix) -> list[Any]:
    return add(prover_step(twin, response), paid_at_end(twin, response))


def endogenous(twin: Twin, response: Prefix) -> list[Any]:
    def logsumexp(twin: Twin, prefix: Prefix) -> Fraction:
        return twin.value[prefix] / 2 if prefix in twin.policy else Fraction(0)

    assert twin.reference is not None
    falls = differences(twin, response, logsumexp)
    return [a - float(b) for a, b in zip(log_of_policy(twin, twin.reference, response), falls, strict=True)]


def implicit(twin: Twin, response: Prefix, worth: Score) -> list[float]:
    """log π_φ/π_ref of every token, π_φ(a|s) = π_ref(a|s) e^{V(s,a) − V(s)}."""

    def soft(twin: Twin, prefix: Prefix) -> float:
        return soft_value(twin, prefix, worth) if prefix in twin.policy else float(worth(twin, prefix))

    return differences(twin, response, soft)


def rto(twin: Twin, response: Prefix) -> list[Any]:
    assert twin.reference is not None
    now, base = (log_of_policy(twin, table, response) for table in (twin.policy, twin.reference))
    kl = [-KL * (a - b) for a, b in zip(now, base, strict=True)]
    return add(implicit(twin, response, total), kl, [float(r) for r in paid_at_end(twin, response)])


def spa_residual(twin: Twin, response: Prefix) -> list[Fraction]:
    shares = judged(twin, response)
    return [*shares[:-1], total(twin, response) - summed(shares[:-1])]


def clip(twin: Twin, response: Prefix) -> list[Any]:
    return add([min(pr - CLIP, Fraction(0)) for pr in judged(twin, response)], paid_at_end(twin, response))


def delta(twin: Twin, response: Prefix) -> list[Any]:
    said = [*judged(twin, response), Fraction(0)]
    return add([said[t] - said[t + 1] for t in range(len(said) - 1)], paid_at_end(twin, response))


def abc(twin: Twin, response: Prefix) -> list[Any]:
    attention = [1 + twin.value[prefix] ** 2 for prefix in prefixes(response)[1:]]
    share = [ABC_SHARE * a / sum(attention) * total(twin, response) for a in attention]
    return add(share, [(1 - ABC_SHARE) * r for r in paid_at_end(twin, response)])


def pure(twin: Twin, response: Prefix) -> list[float]:
    said = judged(twin, response)
    odds = [math.exp(float(min(said) - pr) / TEMPERATURE) for pr in said]
    return [o / math.fsum(odds) * float(pr) for o, pr in zip(odds, said, strict=True)]


def pure_repaired(twin: Twin, response: Prefix) -> list[Fraction]:
    said = judged(twin, response)
    least = [min(said[: t + 1]) for t in range(len(said))]
    return [least[0], *(after - before for before, after in pairwise(least))]


# Returns


def full(twin: Twin, response: Prefix, dense: Dense) -> list[Any]:
    paid = dense(twin, response)
    return [summed(paid) for _ in paid]


def to_go(twin: Twin, response: Prefix, dense: Dense) -> list[Any]:
    paid = dense(twin, response)
    return [summed(paid[t:]) for t in range(len(paid))]


@lru_cache(maxsize=4096)
def to_come(twin: Twin, prefix: Prefix, dense: Dense) -> Any:
    """E[Σ_{k≥t} d_k | prefix] under π."""
    ways = {w: p for w, p in responses(twin, prefix[0], twin.policy).items() if w[: len(prefix)] == prefix}
    return mean([summed(dense(twin, w)[length(prefix) :]) for w in ways], list(ways.values()))


def gae(twin: Twin, response: Prefix, dense: Dense) -> list[Any]:
    paid = dense(twin, response)
    value = [to_come(twin, prefix, dense) for prefix in prefixes(response)[:-1]] + [Fraction(0)]
    delta = [(paid[t] + value[t + 1]) - value[t] for t in range(len(paid))]
    return [summed([LAM ** (k - t) * delta[k] for k in range(t, len(paid))]) for t in range(len(paid))]


# Credits


def alone(twin: Twin, group: list[Prefix], i: int, how: Any, dense: Dense) -> list[Any]:
    return [a / len(group) for a in how(twin, group[i], dense)]


def leave_one_out(numbers: list[Any], i: int) -> Any:
    others = [n for j, n in enumerate(numbers) if j != i]
    return numbers[i] - summed(others) / len(others)


def outcome(twin: Twin, group: list[Prefix], i: int) -> Fraction:
    return leave_one_out([total(twin, w) for w in group], i)


def with_outcome(twin: Twin, group: list[Prefix], i: int, how: Any, dense: Dense) -> list[Any]:
    mine = outcome(twin, group, i)
    return [(a + mine) / len(group) for a in how(twin, group[i], dense)]


by_length, by_dpo = partial(implicit, worth=length_lover), partial(implicit, worth=total)


def prime(twin: Twin, group: list[Prefix], i: int) -> list[Any]:
    means = [summed(by_length(twin, w)) / length(w) for j, w in enumerate(group) if j != i]
    paid = [d - summed(means) / len(means) for d in by_length(twin, group[i])]
    mine = outcome(twin, group, i)
    return [(mine + summed(paid[t:])) / len(group) for t in range(len(paid))]


def oprl(twin: Twin, group: list[Prefix], i: int) -> list[Any]:
    mine = outcome(twin, group, i)
    return [(mine + d) / len(group) for d in by_dpo(twin, group[i])]


def slate(twin: Twin, group: list[Prefix], i: int) -> list[Any]:
    out = []
    for prefix, token in steps(group[i]):
        mean = sum((p * judge(twin, (*prefix, a)) for a, p in enumerate(twin.policy[prefix])), Fraction(0))
        out.append((judge(twin, (*prefix, token)) - mean) / len(group))
    return out


def pav_myopic(twin: Twin, group: list[Prefix], i: int) -> list[Any]:
    q = [twin.value[prefix] for prefix in prefixes(group[i])[1:]]
    return [a / len(group) for a in add(q, prover_step(twin, group[i]))]


DENSE: dict[str, Dense] = {
    "red": red,
    "igpo": igpo,
    "pav": pav,
    "endogenous": endogenous,
    "rto": rto,
    "spa": judged,
    "spa_residual": spa_residual,
    "clip": clip,
    "delta": delta,
    "abc": abc,
    "pure": pure,
    "pure_repaired": pure_repaired,
}
RETURNS = {"full": full, "to_go": to_go, "gae": gae}
REPEATED = ("abc_full", "spa_residual_full", "spa_residual_gae", "red_gae")  # reinforce, or gae: no rows of their own
CREDITS: dict[str, Credit] = {
    f"{name}_{way}": partial(alone, how=how, dense=dense)
    for name, dense in DENSE.items()
    for way, how in RETURNS.items()
    if f"{name}_{way}" not in REPEATED
}
CREDITS |= {f"prime_{way}": partial(with_outcome, how=how, dense=by_length) for way, how in RETURNS.items()}
CREDITS |= {"prime": prime, "oprl": oprl, "slate": slate, "pav_myopic": pav_myopic}
