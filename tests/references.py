"""Slow, literal references: the definitions of theory.md and algorithms.md as loops over dictionaries of fractions.

No code is shared with tpg: ``read`` copies a Problem's tables once, the rest is Python.  A prefix is a tuple
(prompt, w₁, …, w_t); a response is such a tuple that is no prefix of the tree.  A parameter is (prefix, token), the
logit of a tabular policy, or the number of a shared one.  Only the z-score leaves the fractions, for floats.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, partial
from typing import Any

Prefix = tuple[int, ...]
Vector = dict[Any, Any]  # parameter → number
Critic = Callable[["Twin", Prefix], Fraction]
Credit = Callable[["Twin", list[Prefix], int], list[Any]]  # (problem, group, i) → credit of every token of response i

PPO_LAMBDA, CLIP, EPS = Fraction(95, 100), Fraction(1, 5), 1e-6


# The problem


@dataclass(frozen=True, eq=False)
class Twin:
    """A problem as dictionaries: prefix → one number per token."""

    prompts: int
    horizon: int
    discount: Fraction
    weight: list[Fraction]
    policy: dict[Prefix, list[Fraction]]
    behaviour: dict[Prefix, list[Fraction]]
    reference: dict[Prefix, list[Fraction]] | None
    reward: dict[Prefix, list[Fraction]]
    feature: dict[Prefix, list[list[Fraction]]] | None

    @cached_property
    def parameters(self) -> list[Any]:
        if self.feature is not None:
            return list(range(len(next(iter(self.feature.values()))[0])))
        return [(prefix, token) for prefix, row in self.policy.items() for token in range(len(row))]

    @cached_property
    def value(self) -> dict[Prefix, Fraction]:
        """M: the expected response reward under the current policy, given a prefix or a whole response."""
        out: dict[Prefix, Fraction] = {}
        for prefix in reversed(list(self.policy)):
            for token in range(len(self.policy[prefix])):
                after = (*prefix, token)
                if after not in self.policy:
                    out[after] = total(self, after)
            out[prefix] = sum((p * out[(*prefix, a)] for a, p in enumerate(self.policy[prefix])), Fraction(0))
        return out


def exact(number: Any) -> Fraction:
    """A scalar of tpg (a flint rational, an int or a float) as a fraction."""
    if isinstance(number, int | float):
        return Fraction(number)
    return Fraction(int(number.p), int(number.q))


def fractions(array: Any) -> list[Any]:
    """An array of tpg as nested lists of fractions."""
    return [nested(row) for row in array.tolist()]


def nested(row: Any) -> Any:
    return [nested(entry) for entry in row] if isinstance(row, list) else exact(row)


def read(problem: Any) -> Twin:
    """The tables of a rational Problem; prefixes are numbered breadth-first, prompts first."""
    inner = problem.tree.inner.tolist()
    prefixes: list[Prefix] = [(x,) for x in range(problem.tree.prompts)]
    for i, leads in enumerate(inner):
        prefixes += [(*prefixes[i], token) for token, on in enumerate(leads) if on]

    def table(array: Any) -> dict[Prefix, list[Any]]:
        return dict(zip(prefixes, fractions(array), strict=True))

    return Twin(
        prompts=problem.tree.prompts,
        horizon=max(len(prefix) for prefix in prefixes),
        discount=exact(problem.discount),
        weight=fractions(problem.weights),
        policy=table(problem.probs),
        behaviour=table(problem.probs if problem.behaviour is None else problem.behaviour),
        reference=None if problem.reference is None else table(problem.reference),
        reward=table(problem.rewards),
        feature=None if problem.features is None else table(problem.features),
    )


def steps(response: Prefix) -> list[tuple[Prefix, int]]:
    """(prefix, token) of every token of a response."""
    return [(response[:t], response[t]) for t in range(1, len(response))]


def length(response: Prefix) -> int:
    return len(response) - 1


def total(twin: Twin, response: Prefix) -> Fraction:
    """RM(W) = Σ_t γ^{t−1} r_t."""
    paid = [twin.discount**t * twin.reward[prefix][token] for t, (prefix, token) in enumerate(steps(response))]
    return sum(paid, Fraction(0))


def responses(twin: Twin, prompt: int, policy: dict[Prefix, list[Fraction]] | None = None) -> dict[Prefix, Fraction]:
    """Every response of positive probability under ``policy`` (the one that generates), with its probability."""
    policy = twin.behaviour if policy is None else policy
    out, todo = {}, [((prompt,), Fraction(1))]
    while todo:
        prefix, chance = todo.pop()
        if prefix not in policy:
            out[prefix] = chance
        else:
            todo += [((*prefix, a), chance * p) for a, p in enumerate(policy[prefix]) if p > 0]
    return out


# The truth


def softmax_slope(twin: Twin, prefix: Prefix, token: int) -> Vector:
    """∂π(token | prefix)/∂θ: quotient rule of the softmax, π_a ([a = b] − π_b); chain rule if parameters are shared."""
    policy = twin.policy[prefix]
    by_logit = [policy[token] * ((token == b) - policy[b]) for b in range(len(policy))]
    if twin.feature is None:
        return {(prefix, b): slope for b, slope in enumerate(by_logit)}
    phi = twin.feature[prefix]
    return {j: sum(slope * phi[b][j] for b, slope in enumerate(by_logit)) for j in twin.parameters}


def score(twin: Twin, prefix: Prefix, token: int) -> Vector:
    """∂ log π(token | prefix)/∂θ, also where the token is forbidden under π but generated by another policy."""
    policy = twin.policy[prefix]
    if twin.feature is None:
        return {(prefix, b): (token == b) - p for b, p in enumerate(policy)}
    phi = twin.feature[prefix]
    return {j: phi[token][j] - sum(p * phi[b][j] for b, p in enumerate(policy)) for j in twin.parameters}


def objective(twin: Twin) -> Fraction:
    """J = Σ_x weight(x) Σ_W P(W) RM(W)."""
    return sum(
        (
            twin.weight[x] * p * total(twin, w)
            for x in range(twin.prompts)
            for w, p in responses(twin, x, twin.policy).items()
        ),
        Fraction(0),
    )


def derivative(twin: Twin, prompt: int, worth: Callable[[Prefix], Fraction]) -> Vector:
    """∇ Σ_W P(W) worth(W) of one prompt: the product P(W) = Π_t π(w_t | …) differentiated factor by factor."""
    out: Vector = dict.fromkeys(twin.parameters, Fraction(0))
    for response in responses(twin, prompt, twin.policy):
        chances = [twin.policy[prefix][token] for prefix, token in steps(response)]
        for t, (prefix, token) in enumerate(steps(response)):
            others = math.prod(chances[:t] + chances[t + 1 :], start=Fraction(1))
            for parameter, slope in softmax_slope(twin, prefix, token).items():
                out[parameter] += worth(response) * others * slope
    return out


def gradient_of(twin: Twin, prompt: int) -> Vector:
    """∇E[RM | prompt]."""
    return derivative(twin, prompt, partial(total, twin))


def gradient(twin: Twin) -> list[Fraction]:
    """g = ∇J, one number per parameter."""
    return mixed(twin, [gradient_of(twin, x) for x in range(twin.prompts)])


def mixed(twin: Twin, parts: list[Vector]) -> list[Any]:
    """Σ_x weight(x) · part_x, one number per parameter."""
    return [sum(w * part.get(p, 0) for w, part in zip(twin.weight, parts, strict=True)) for p in twin.parameters]


# Critics: V(prefix)


def exact_critic(twin: Twin, prefix: Prefix) -> Fraction:
    return twin.value[prefix]


def position_critic(twin: Twin, prefix: Prefix) -> Fraction:
    """Mean of M over the prefixes of this length, as often as they are generated."""
    top = bottom = Fraction(0)
    for other in twin.policy:
        if len(other) == len(prefix):
            chance = twin.weight[other[0]]
            for before, token in steps(other):
                chance *= twin.behaviour[before][token]
            top, bottom = top + chance * twin.value[other], bottom + chance
    return top / bottom


def wrong_critic(twin: Twin, prefix: Prefix) -> Fraction:
    return twin.value[prefix] / 2 + length(prefix)


# Credits, row by row of the table


def reinforce(twin: Twin, group: list[Prefix], i: int) -> list[Any]:
    return [total(twin, group[i]) / len(group) for _ in steps(group[i])]


def reinforce_baseline(twin: Twin, group: list[Prefix], i: int) -> list[Any]:
    return [(total(twin, group[i]) - twin.value[group[i][:1]]) / len(group) for _ in steps(group[i])]


def reward_to_go(twin: Twin, group: list[Prefix], i: int) -> list[Any]:
    paid = [twin.discount**k * twin.reward[prefix][token] for k, (prefix, token) in enumerate(steps(group[i]))]
    return [sum(paid[t:]) / len(group) for t in range(len(paid))]


def trajectory_pg(twin: Twin, group: list[Prefix], i: int) -> list[Any]:
    return [twin.value[(*prefix, token)] / len(group) for prefix, token in steps(group[i])]


def exact_advantage(twin: Twin, group: list[Prefix], i: int) -> list[Any]:
    return [(twin.value[(*prefix, token)] - twin.value[prefix]) / len(group) for prefix, token in steps(group[i])]


def zra_discounted(twin: Twin, group: list[Prefix], i: int) -> list[Any]:
    long, reward = length(group[i]), total(twin, group[i])
    return [twin.discount ** (long - t) * reward / len(group) for t in range(1, long + 1)]


def zra_discounted_start(twin: Twin, group: list[Prefix], i: int) -> list[Any]:
    long, reward = length(group[i]), total(twin, group[i])
    return [twin.discount ** (t - 1) * twin.discount ** (long - t) * reward / len(group) for t in range(1, long + 1)]


def rloo(twin: Twin, group: list[Prefix], i: int) -> list[Any]:
    others = [total(twin, w) for j, w in enumerate(group) if j != i]
    return [(total(twin, group[i]) - sum(others) / len(others)) / len(group) for _ in steps(group[i])]


def centred(twin: Twin, group: list[Prefix], i: int) -> Fraction:
    return total(twin, group[i]) - sum(total(twin, w) for w in group) / len(group)


def group_mean(twin: Twin, group: list[Prefix], i: int) -> list[Any]:
    return [centred(twin, group, i) / len(group) for _ in steps(group[i])]


def dr_grpo(twin: Twin, group: list[Prefix], i: int) -> list[Any]:
    return [centred(twin, group, i) / (len(group) * twin.horizon) for _ in steps(group[i])]


def remax(twin: Twin, group: list[Prefix], i: int) -> list[Any]:
    best = group[i][:1]
    while best in twin.policy:
        best = (*best, twin.policy[best].index(max(twin.policy[best])))
    return [(total(twin, group[i]) - total(twin, best)) / len(group) for _ in steps(group[i])]


def z_score(twin: Twin, group: list[Prefix], i: int, ddof: int = 1, eps: float = EPS) -> float:
    variance = sum(centred(twin, group, j) ** 2 for j in range(len(group))) / (len(group) - ddof)
    return float(centred(twin, group, i)) / (math.sqrt(variance) + eps) if variance else 0.0


def grpo(twin: Twin, group: list[Prefix], i: int) -> list[Any]:
    return [z_score(twin, group, i) / (len(group) * length(group[i])) for _ in steps(group[i])]


def dapo(twin: Twin, group: list[Prefix], i: int) -> list[Any]:
    return [z_score(twin, group, i) / sum(length(w) for w in group) for _ in steps(group[i])]


def gae_advantage(twin: Twin, response: Prefix, critic: Critic, lam: Fraction) -> list[Fraction]:
    """A_t = Σ_{k≥t} λ^{k−t} δ_k, δ_k = r_k + V(W_{0,k}) − V(W_{0,k−1}), r = RM on the last token, V(W) = 0."""
    delta = []
    for prefix, token in steps(response):
        after = (*prefix, token)
        ended = after == response
        delta.append((total(twin, response) if ended else critic(twin, after)) - critic(twin, prefix))
    return [sum(lam ** (k - t) * delta[k] for k in range(t, len(delta))) for t in range(len(delta))]


def gae(twin: Twin, group: list[Prefix], i: int, critic: Critic) -> list[Any]:
    return [a / len(group) for a in gae_advantage(twin, group[i], critic, PPO_LAMBDA)]


def ppo(twin: Twin, group: list[Prefix], i: int, critic: Critic) -> list[Any]:
    """−∂loss/∂log π of min(r A, clip(r) A): r A where that is the smaller one (or both are), else 0."""
    out = []
    advantage = gae_advantage(twin, group[i], critic, PPO_LAMBDA)
    for a, (prefix, token) in zip(advantage, steps(group[i]), strict=True):
        ratio = twin.policy[prefix][token] / twin.behaviour[prefix][token]
        clipped = min(max(ratio, 1 - CLIP), 1 + CLIP)
        out.append(ratio * a / len(group) if ratio * a <= clipped * a else Fraction(0))
    return out


OPTIONAL: dict[str, set[str]] = {}  # fields that a row can do without
CREDITS: dict[str, Credit] = {
    "reinforce": reinforce,
    "reinforce_baseline": reinforce_baseline,
    "reward_to_go": reward_to_go,
    "trajectory_pg": trajectory_pg,
    "exact_advantage": exact_advantage,
    "zra_discounted": zra_discounted,
    "zra_discounted_start": zra_discounted_start,
    "rloo": rloo,
    "group_mean": group_mean,
    "remax": remax,
    "grpo": grpo,
    "dr_grpo": dr_grpo,
    "dapo": dapo,
    "gae": partial(gae, critic=exact_critic),
    "gae_position_critic": partial(gae, critic=position_critic),
    "gae_wrong_critic": partial(gae, critic=wrong_critic),
    "ppo": partial(ppo, critic=exact_critic),
    "ppo_position_critic": partial(ppo, critic=position_critic),
    "ppo_wrong_critic": partial(ppo, critic=wrong_critic),
}


# Moments, group by group


KEEP: dict[Credit, Callable[[Twin, list[Prefix]], bool]] = {}  # credits whose other groups are drawn again


def estimates(twin: Twin, prompt: int, credit: Credit, group_size: int) -> Iterator[tuple[Fraction, Vector]]:
    """ĝ of every ordered group of a prompt that is kept, with the group's probability among those."""
    chances = responses(twin, prompt)
    scores = {w: [score(twin, prefix, token) for prefix, token in steps(w)] for w in chances}
    groups = list(itertools.product(chances, repeat=group_size))
    share = Fraction(1)
    if credit in KEEP:
        groups = [group for group in groups if KEEP[credit](twin, list(group))]
        share = sum((math.prod((chances[w] for w in group), start=Fraction(1)) for group in groups), Fraction(0))
    for group in groups:
        ghat: Vector = defaultdict(Fraction)
        for i, response in enumerate(group):
            for c, s in zip(credit(twin, list(group), i), scores[response], strict=True):
                for parameter, entry in s.items():
                    ghat[parameter] += c * entry
        yield math.prod((chances[w] for w in group), start=Fraction(1)) / share, ghat


def mean_of(twin: Twin, prompt: int, credit: Credit, group_size: int) -> Vector:
    """E ĝ_x of one prompt."""
    out: Vector = defaultdict(Fraction)
    for chance, ghat in estimates(twin, prompt, credit, group_size):
        for parameter, entry in ghat.items():
            out[parameter] += chance * entry
    return out


def moments_of(twin: Twin, prompt: int, credit: Credit, group_size: int) -> tuple[Vector, Any]:
    """E ĝ_x, and the total variance E‖ĝ_x − E ĝ_x‖², summed as it is written."""
    groups = list(estimates(twin, prompt, credit, group_size))
    mean: Vector = defaultdict(Fraction)
    for chance, ghat in groups:
        for parameter, entry in ghat.items():
            mean[parameter] += chance * entry
    variance = sum(chance * (ghat.get(p, 0) - m) ** 2 for chance, ghat in groups for p, m in mean.items())
    return mean, variance


def mean(twin: Twin, credit: Credit, group_size: int) -> list[Any]:
    """E ĝ = Σ_x weight(x) E ĝ_x."""
    return mixed(twin, [mean_of(twin, x, credit, group_size) for x in range(twin.prompts)])


def covariance(twin: Twin, credit: Credit, group_size: int) -> tuple[list[Any], list[list[Any]]]:
    """E ĝ and Cov ĝ over every batch: one group per prompt, drawn independently, ĝ = Σ_x weight(x) ĝ_x."""
    size = len(twin.parameters)
    first, second = [Fraction(0)] * size, [[Fraction(0)] * size for _ in range(size)]
    each = [list(estimates(twin, x, credit, group_size)) for x in range(twin.prompts)]
    for batch in itertools.product(*each):
        chance = math.prod((p for p, _ in batch), start=Fraction(1))
        ghat = mixed(twin, [vector for _, vector in batch])
        for i, a in enumerate(ghat):
            if a:
                first[i] += chance * a
                for j, b in enumerate(ghat):
                    second[i][j] += chance * a * b
    return first, [[second[i][j] - first[i] * first[j] for j in range(size)] for i in range(size)]


# Comparison: what a planted error must change, and a right engine must not


def disagreements(problem: Any, moments: Any, row: str, group_size: int) -> set[str]:
    """Which of "mean" and "variance" of ``moments`` differ from the literal ones of a row of the table.

    Exactly in rationals.  In float64, or for a z-score, by more than 1e-12 of the size of the terms, √E‖ĝ‖² or E‖ĝ‖².
    """
    twin, out = read(problem), set()
    for x in range(twin.prompts):
        rows = [(x,)] if twin.feature is not None else [p for p in twin.policy if p[0] == x]
        mean, variance = moments_of(twin, x, CREDITS[row], group_size)
        own = (
            twin.parameters if twin.feature is not None else [(p, b) for p in rows for b in range(len(twin.policy[p]))]
        )
        given = moments.mean[x] if twin.feature is not None else moments.mean[problem.tree.prompt == x].ravel()
        expected = [mean.get(p, 0) for p in own]
        largest = max(abs(total(twin, w)) for w in responses(twin, x))  # floats may cancel terms of this size
        size = float(sum(m * m for m in expected) + variance) + float(largest) ** 2
        if off(given, expected, math.sqrt(size)):
            out.add("mean")
        if off([moments.variance[x]], [variance], size):
            out.add("variance")
    return out


def off(given: Any, expected: list[Any], size: float) -> bool:
    """``given`` is not ``expected``: not equal, or, for floats, further away than 1e-12 · ``size``."""
    if all(isinstance(e, int | Fraction) for e in expected) and not any(isinstance(v, float) for v in given):
        return [exact(v) for v in given] != expected
    return not all(abs(float(v) - float(e)) <= 1e-12 * size for v, e in zip(given, expected, strict=True))  # NaN is off
