"""Literal credits of tpg.estimators.offpolicy, by row name."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from typing import Any

from tests.references import (
    PPO_LAMBDA,
    Credit,
    Prefix,
    Twin,
    exact_critic,
    gae_advantage,
    length,
    responses,
    steps,
    total,
    z_score,
)

Weigh = Callable[[Twin, Prefix, Any], list[Any]]  # a response and its advantage → factor of every token


# Ratios π/μ


def each(twin: Twin, word: Prefix) -> list[Fraction]:
    return [twin.policy[prefix][token] / twin.behaviour[prefix][token] for prefix, token in steps(word)]


def upto(twin: Twin, word: Prefix) -> list[Fraction]:
    out, product = [], Fraction(1)
    for ratio in each(twin, word):
        product *= ratio
        out.append(product)
    return out


def whole(twin: Twin, word: Prefix) -> Fraction:
    return upto(twin, word)[-1]


def geometric(twin: Twin, word: Prefix) -> float:
    ratio = whole(twin, word)
    return math.exp(math.log(ratio) / length(word)) if ratio else 0.0


def slope_of_minimum(ratio: Any, advantage: Any, low: Any, high: Any) -> Any:
    """d/dw of min(w A, clip(w) A), divided by A: w itself where w A is the smaller one or both are equal."""
    inside = min(max(ratio, low), high)
    return ratio if ratio * advantage <= inside * advantage else 0 * ratio


LOW, HIGH, HIGHER = Fraction(4, 5), Fraction(6, 5), Fraction(32, 25)


# Factors of every token


def token(twin: Twin, word: Prefix, advantage: Any) -> list[Any]:
    return each(twin, word)


def prefix(twin: Twin, word: Prefix, advantage: Any) -> list[Any]:
    return upto(twin, word)


def sequence(twin: Twin, word: Prefix, advantage: Any) -> list[Any]:
    return [whole(twin, word) for _ in steps(word)]


def bounded(twin: Twin, word: Prefix, advantage: Any, weigh: Weigh, low: Any, high: Any) -> list[Any]:
    return [min(max(ratio, low), high) for ratio in weigh(twin, word, advantage)]


def dropped(twin: Twin, word: Prefix, advantage: Any, weigh: Weigh, low: Any, high: Any) -> list[Any]:
    return [ratio if low <= ratio <= high else Fraction(0) for ratio in weigh(twin, word, advantage)]


def mean(twin: Twin, word: Prefix, advantage: Any) -> list[Any]:
    return [geometric(twin, word) for _ in steps(word)]


def clipped(twin: Twin, word: Prefix, advantage: Any, weigh: Weigh, low: Any = LOW, high: Any = HIGH) -> list[Any]:
    return [slope_of_minimum(ratio, advantage, low, high) for ratio in weigh(twin, word, advantage)]


def dual(twin: Twin, word: Prefix, advantage: list[Any]) -> list[Any]:
    out = []
    for ratio, a in zip(each(twin, word), advantage, strict=True):
        dead = a < 0 and ratio * a < 3 * a  # max(…, 3A) is flat
        out.append(Fraction(0) if dead else slope_of_minimum(ratio, a, LOW, HIGH))
    return out


def gmpo(twin: Twin, word: Prefix, advantage: float) -> list[Any]:
    used = [min(r, math.exp(0.4)) if advantage > 0 else max(r, math.exp(-0.4)) for r in each(twin, word)]
    mean = math.prod(float(u) for u in used) ** (1 / length(word))
    return [mean if u == r else 0.0 for u, r in zip(used, each(twin, word), strict=True)]


def sapo(twin: Twin, word: Prefix, advantage: float) -> list[Any]:
    out, tau = [], 1.0 if advantage > 0 else 1.05
    for ratio in each(twin, word):
        sigma = 1 / (1 + math.exp(-tau * (ratio - 1)))
        out.append(4 * sigma * (1 - sigma) * float(ratio))
    return out


def vespo(twin: Twin, word: Prefix, advantage: float) -> list[Any]:
    k, rate = (2, 3) if advantage >= 0 else (3, 2)
    weight = whole(twin, word)
    return [float(weight**k) * math.exp(rate * (1 - weight)) for _ in steps(word)]


def gspo(twin: Twin, word: Prefix, advantage: float) -> list[Any]:
    return clipped(twin, word, advantage, mean, 1 - 3e-4, 1 + 4e-4)


def dhpo(twin: Twin, word: Prefix, advantage: float) -> list[Any]:
    pairs = zip(clipped(twin, word, advantage, token), gspo(twin, word, advantage), strict=True)
    return [float(a) / 2 + b / 2 for a, b in pairs]


def in_cone(twin: Twin, word: Prefix, advantage: float) -> list[Any]:
    out = []
    for t, ratio in enumerate(upto(twin, word), start=1):
        low, high = math.exp(-0.025 * math.sqrt(t)), math.exp(0.05 * math.sqrt(t))
        out.append(slope_of_minimum(ratio, advantage, low, high))
    return out


def ctpo(twin: Twin, word: Prefix, advantage: float) -> list[Any]:
    kept = in_cone(twin, word, advantage)
    dead = [advantage < 0 and ratio > math.exp(0.05 * math.sqrt(t + 1)) for t, ratio in enumerate(upto(twin, word))]
    return [0 if off else ratio for ratio, off in zip(kept, dead, strict=True)]


def ctpo_printed(twin: Twin, word: Prefix, advantage: float) -> list[Any]:
    kept = in_cone(twin, word, advantage)
    return [sum(kept[t:]) for t in range(len(kept))]


def tic(twin: Twin, word: Prefix, advantage: float) -> list[Any]:
    return [ratio if ratio <= HIGH else Fraction(0) for ratio in sequence(twin, word, advantage)]


# Advantages and divisors


def by_token(twin: Twin, word: Prefix, advantage: list[Any], weigh: Any) -> list[Any]:
    return [a * w for a, w in zip(advantage, weigh(twin, word, advantage), strict=True)]


def credits(twin: Twin, group: list[Prefix], i: int, advantage: Any, weigh: Weigh, divisor: str = "group") -> list[Any]:
    a = advantage(twin, group, i)
    by = {
        "group": len(group),
        "length": len(group) * length(group[i]),
        "tokens": sum(length(w) for w in group),
    }[divisor]
    factors = weigh(twin, group[i], a) if a else [0 for _ in steps(group[i])]
    return [a * w / by if isinstance(a, Fraction) else a * float(w) / by for w in factors]


def reward(twin: Twin, group: list[Prefix], i: int) -> Fraction:
    return total(twin, group[i])


def gain(twin: Twin, group: list[Prefix], i: int) -> Fraction:
    expected = sum((p * total(twin, w) for w, p in responses(twin, group[i][0]).items()), Fraction(0))
    return max(Fraction(0), total(twin, group[i]) - expected)


def left_out(twin: Twin, group: list[Prefix], i: int) -> Fraction:
    others = [total(twin, w) for j, w in enumerate(group) if j != i]
    return total(twin, group[i]) - sum(others, Fraction(0)) / len(others)


def centred(twin: Twin, group: list[Prefix], i: int) -> Fraction:
    return total(twin, group[i]) - sum((total(twin, w) for w in group), Fraction(0)) / len(group)


def z_per_token(twin: Twin, group: list[Prefix], i: int) -> float:
    scaled = [total(twin, w) / length(w) for w in group]
    middle = sum(scaled, Fraction(0)) / len(group)
    variance = sum((x - middle) ** 2 for x in scaled) / (len(group) - 1)
    return float(scaled[i] - middle) / (math.sqrt(variance) + 1e-6) if variance else 0.0


def ppo_dual_clip(twin: Twin, group: list[Prefix], i: int) -> list[Any]:
    advantage = gae_advantage(twin, group[i], exact_critic, PPO_LAMBDA)
    return [c / len(group) for c in by_token(twin, group[i], advantage, dual)]


def plain(weigh: Weigh) -> Credit:
    return partial(credits, advantage=reward, weigh=weigh)


def scored(divisor: str, weigh: Weigh) -> Credit:
    return partial(credits, advantage=z_score, weigh=weigh, divisor=divisor)


HALF, FIVE, TENTH, NEAR = Fraction(1, 2), Fraction(5), Fraction(1, 10), Fraction(19, 10)
CREDITS: dict[str, Credit] = {
    "token_is": plain(token),
    "sequence_is": plain(sequence),
    "prefix_is": plain(prefix),
    "tis_token": plain(partial(bounded, weigh=token, low=Fraction(0), high=Fraction(2))),
    "tis_sequence": plain(partial(bounded, weigh=sequence, low=Fraction(0), high=Fraction(2))),
    "tis_geometric": plain(partial(bounded, weigh=mean, low=0.0, high=2.0)),
    "mis_token": plain(partial(dropped, weigh=token, low=HALF, high=Fraction(2))),
    "mis_sequence": plain(partial(dropped, weigh=sequence, low=HALF, high=Fraction(2))),
    "icepop": plain(partial(dropped, weigh=token, low=HALF, high=FIVE)),
    "a_lol": partial(credits, advantage=gain, weigh=partial(bounded, weigh=sequence, low=TENTH, high=NEAR)),
    "a_lol_token": partial(credits, advantage=gain, weigh=partial(bounded, weigh=token, low=TENTH, high=NEAR)),
    "grpo_clip": scored("length", partial(clipped, weigh=token)),
    "dapo_clip": scored("tokens", partial(clipped, weigh=token, high=HIGHER)),
    "gspo": scored("length", gspo),
    "gspo_token": scored("length", gspo),
    "luspo": scored("group", gspo),
    "gmpo": scored("length", gmpo),
    "sapo": scored("length", sapo),
    "vespo": scored("tokens", vespo),
    "dhpo": scored("length", dhpo),
    "cispo": scored("tokens", partial(bounded, weigh=token, low=LOW, high=HIGH)),
    "cispo_trl": scored("tokens", partial(bounded, weigh=token, low=Fraction(0), high=FIVE)),
    "ctpo": scored("tokens", ctpo),
    "ctpo_printed": scored("length", ctpo_printed),
    "tic_grpo": partial(credits, advantage=z_per_token, weigh=tic, divisor="length"),
    "tic_grpo_bare": partial(credits, advantage=centred, weigh=sequence),
    "rloo_sequence_clip": partial(credits, advantage=left_out, weigh=partial(clipped, weigh=sequence)),
    "ppo_dual_clip": ppo_dual_clip,
}
