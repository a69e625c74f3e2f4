"""What the rows of ``offpolicy`` say E ĝ is when μ generates: closed forms on the tree, whatever μ is.

A credit that is f(own reward and length) · (factor of the whole response) · (factor of the token) has
    E ĝ = Σ_s ρ_μ(s) Σ_a μ(a|s) · token factor(s, a) · E_μ[f · response factor | s, a] · ∇log π(a|s),
f = E[G · A / divisor | own response].  A clip depends on the sign of A: f is split into f⁺ and f⁻, A > 0 and A < 0.
Ratios are written once more here, as minima and products over prefixes, and not as the credits write them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from tpg.errors import TooLarge
from tpg.estimators.expectations import (
    MAX_PEERS,
    Expectation,
    Rule,
    _chances,
    _kinds,
    _none,
    _worth,
    effective,
    of_effective_reward,
)
from tpg.estimators.ratios import SLACK
from tpg.numbers import Array
from tpg.problem.problem import Problem
from tpg.problem.tree import expect, reach

Worth = Callable[[Problem, int], dict[int, Array]]  # sign of A (0: any) → f [N, V] where responses end
Factors = tuple[Any, Any]  # [N, V] of the response, where it ends; [N, V] of the token
EPS, CAP = 1e-6, 2  # of the z-score; of truncated weights


@dataclass(frozen=True)
class Ratios:
    """π/μ along the tree, 0 where μ never goes."""

    problem: Problem
    token: Array  # [N, V] π(a|s) / μ(a|s)
    prefix: Array  # [N, V] their product from the prompt to a: at an end, that of the whole response
    length: Array  # [N, 1] tokens of a prefix and one more

    def whole(self, factor: Array) -> Array:
        """[N, V] the product of ``factor`` along each path, that token included."""
        return reach(self.problem.tree, factor, self.problem.field)[:, None] * factor

    @property
    def geometric(self) -> Array:
        """[N, V] (Π π/μ)^{1/L} where responses end."""
        return self.prefix ** (1 / self.length)

    def least(self, ratio: Array, low: Any, high: Any, sign: int) -> Array:
        """w, or 0 where w·sign > clip(w)·sign: the slope of min(w A, clip(w) A) / A."""
        scalar = self.problem.field.scalar
        gap = ratio - (scalar(high) if sign > 0 else scalar(low))
        rounding = 0 if self.problem.field.exact else SLACK * ratio
        return np.where(gap * sign > rounding, ratio - ratio, ratio)


def ratios_of(problem: Problem) -> Ratios:
    """π/μ on the tree."""
    seen = problem.sampling != 0
    token = np.divide(problem.probs, problem.sampling, out=problem.field.zeros(problem.probs.shape), where=seen)
    made = Ratios(problem, token, token, problem.tree.depth[:, None] + 1)
    return replace(made, prefix=made.whole(token))


def expected(text: str, worth: Worth, factors: Callable[[Ratios, int], list[Factors]]) -> Expectation:
    """The closed form above: ``factors(ratios, sign)`` are products to be added up."""

    def extra(problem: Problem, size: int) -> Array:
        made, out = ratios_of(problem), problem.field.zeros(problem.probs.shape)
        for sign, ends in worth(problem, size).items():
            for of_response, of_token in factors(made, sign):
                out = out + expect(problem.tree, problem.sampling, ends * of_response)[0] * of_token
        return problem.pull(_chance(problem) * out)

    return Expectation(text, _none, extra)


def _chance(problem: Problem) -> Array:
    """[N, V] probability that μ generates the prefix and then the token."""
    return problem.sampling_reach[:, None] * problem.sampling


# f: what a response is worth to its own credits


def rewards(problem: Problem, size: int) -> dict[int, Array]:
    """A = R."""
    return {0: problem.totals}


def gains(problem: Problem, size: int) -> dict[int, Array]:
    """A = (R − E_μ R)₊."""
    gain = problem.totals - problem.expected_reward[problem.tree.prompt][:, None]
    return {0: np.where(gain > 0, gain, gain - gain)}


def z_scores(problem: Problem, size: int, *, divide_by: str) -> dict[int, Array]:
    """A = z-score of R, or of R/L ("per token"); divided by own length, the group's tokens or "nothing"."""

    def rule(reward: Array, tokens: Array) -> Array:
        score = _z(reward / tokens if divide_by == "per token" else reward)
        return score * size / tokens.sum(1) if divide_by == "tokens" else score

    ends = _by_peers(problem, size, rule, divide_by in ("tokens", "per token"))
    shrink = problem.tree.depth[:, None] + 1 if divide_by in ("length", "per token") else 1
    return {sign: table / shrink for sign, table in ends.items()}


def left_out(problem: Problem, size: int) -> dict[int, Array]:
    """A = R − mean of the others: f^± from the distribution of the others' sum, exact in any ordered numbers."""
    ends = {sign: problem.field.zeros(problem.probs.shape) for sign in (1, -1)}
    chance = np.where(problem.ends, _chance(problem), problem.field.scalar(0))
    for prompt in range(problem.prompts):
        mine = (problem.tree.prompt == prompt)[:, None] & problem.ends
        own, code = np.unique(problem.totals[mine], return_inverse=True)
        mass = problem.field.zeros(len(own))
        np.add.at(mass, code.ravel(), chance[mine])
        many = math.comb(len(own) + size - 2, size - 1) * len(own)
        TooLarge.check("the closed form by peers", many, MAX_PEERS / 100, "lower the group size")
        total, weight = _sums(own, mass, size - 1)
        ahead = own[:, None] - total / (size - 1)
        for sign, table in ends.items():
            table[mine] = (np.where(ahead * sign > 0, ahead, ahead - ahead) * weight).sum(1)[code.ravel()]
    return ends


def _sums(values: Array, mass: Array, times: int) -> tuple[Array, Array]:
    """The sum of ``times`` draws from ``values``: what it may be, and how probable that is."""
    total, weight = values, mass
    for _ in range(times - 1):
        total, code = np.unique(np.add.outer(total, values).ravel(), return_inverse=True)
        joint, weight = np.multiply.outer(weight, mass).ravel(), np.full(len(total), mass[0] * 0)
        np.add.at(weight, code.ravel(), joint)
    return total, weight


def _z(score: Array) -> Array:
    """z-score of the first of each group [n, G], ddof 1; 0 in ties."""
    spread = score.std(axis=1, ddof=1) + EPS
    return np.where((score == score[:, :1]).all(1), 0, (score[:, 0] - score.mean(1)) / spread)


def _by_peers(problem: Problem, size: int, rule: Rule, with_length: bool) -> dict[int, Array]:
    """E[rule⁺] and E[rule⁻] of each response [N, V], its peers drawn from μ and enumerated as multisets."""
    drawn = replace(problem, probs=problem.sampling, behaviour=None)
    kinds, code = _kinds(drawn, with_length)
    ends = {sign: np.zeros(problem.probs.shape) for sign in (1, -1)}
    for prompt, chances in enumerate(_chances(drawn, len(kinds), code)):
        mine = (problem.tree.prompt == prompt)[:, None] & drawn.ends
        for sign, table in ends.items():
            table[mine] = _worth(kinds, chances, size, partial(_part, rule, sign))[code[mine]]
    return ends


def _part(rule: Rule, sign: int, reward: Array, tokens: Array) -> Array:
    return sign * np.maximum(sign * rule(reward, tokens), 0)


# Ratios, as (factor of the response, factor of the token)


def clip_token(r: Ratios, sign: int, *, high: Any = "6/5") -> list[Factors]:
    """PPO's clip."""
    return [(1, r.least(r.token, "4/5", high, sign))]


def clip_response(r: Ratios, sign: int) -> list[Factors]:
    """The same of the whole response."""
    return [(r.least(r.prefix, "4/5", "6/5", sign), 1)]


def clip_geometric(r: Ratios, sign: int) -> list[Factors]:
    """GSPO."""
    return [(r.least(r.geometric, "0.9997", "1.0004", sign), 1)]


def clip_both(r: Ratios, sign: int) -> list[Factors]:
    """DHPO: half of each."""
    return [(a * 0.5, b) for a, b in clip_token(r, sign) + clip_geometric(r, sign)]


def clip_above(r: Ratios, sign: int) -> list[Factors]:
    """TIC-GRPO: min(ρ, 6/5) whatever the sign."""
    return [(r.least(r.prefix, 0, "6/5", 1), 1)]


def clip_prefix(r: Ratios, sign: int) -> list[Factors]:
    """CTPO, released: for A < 0 both sides are flat."""
    return [(1, _in_cone(r, sign) if sign > 0 else np.minimum(_in_cone(r, 1), _in_cone(r, -1)))]


def clip_inside_mean(r: Ratios, sign: int) -> list[Factors]:
    """GMPO: the mean of clipped ratios where the token is not."""
    inside = sign * np.minimum(sign * r.token, sign * np.exp(sign * 0.4))
    return [(r.whole(inside) ** (1 / r.length), (inside == r.token).astype(float))]


def gate(r: Ratios, sign: int) -> list[Factors]:
    """SAPO: 4σ(1−σ) = 1 − tanh²."""
    return [(1, r.token * (1 - np.tanh((1 if sign > 0 else 1.05) * (r.token - 1) / 2) ** 2))]


def kernel(r: Ratios, sign: int) -> list[Factors]:
    """VESPO."""
    k, rate = (2, 3) if sign > 0 else (3, 2)
    return [(r.prefix**k * np.exp(rate - rate * r.prefix), 1)]


def limited(r: Ratios, sign: int, *, level: str, low: Any = 0, high: Any = CAP) -> list[Factors]:
    """A weight brought into [low, high], of the token, the response or its geometric mean."""
    bounds = [r.problem.field.scalar(bound) for bound in (low, high)]
    weight = np.minimum(np.maximum(getattr(r, level), bounds[0]), bounds[1])
    return [(1, weight)] if level == "token" else [(weight, 1)]


def dropped(r: Ratios, sign: int, *, level: str, low: Any = "1/2", high: Any = CAP) -> list[Factors]:
    """A weight that counts only within [low, high]: cut from above, and from below."""
    weight = r.least(r.least(getattr(r, level), low, high, 1), low, high, -1)
    return [(1, weight)] if level == "token" else [(weight, 1)]


def _in_cone(r: Ratios, sign: int) -> Array:
    """ρ_{1:t}, or 0 where CTPO's clip is flat."""
    bound = np.exp((0.05 if sign > 0 else -0.025) * np.sqrt(r.length))
    return np.where((r.prefix - bound) * sign > 0, 0, r.prefix)


# Closed forms that are not of that kind


def _of_token(problem: Problem, size: int) -> Array:
    """Σ_s ρ_μ(s) Σ_a π(a|s) Q^μ(s, a) ∇log π(a|s), over what μ can generate."""
    return _continued(problem, problem.sampling_reach)


def _of_prefix(problem: Problem, size: int) -> Array:
    """The same with ρ_π(s)."""
    return _continued(problem, problem.reach)


def _continued(problem: Problem, visits: Array) -> Array:
    value = expect(problem.tree, problem.sampling, problem.totals)[0]
    seen = _chance(problem) != 0
    return problem.pull(np.where(seen, visits[:, None] * problem.probs * value, problem.field.scalar(0)))


def _of_response(problem: Problem, size: int) -> Array:
    """∇E_π[R] over the responses that μ can generate."""
    return of_effective_reward(problem, np.where(_chance(problem) != 0, problem.totals, problem.field.scalar(0)))


def _of_centred_response(problem: Problem, size: int) -> Array:
    """(G−1)/G Σ_W π(W) (R − E_μ R) Z over the responses that μ can generate."""
    centred = problem.totals - problem.expected_reward[problem.tree.prompt][:, None]
    ends = np.where(_chance(problem) != 0, centred, problem.field.scalar(0))
    return of_effective_reward(problem, ends) * (size - 1) / size


def _prefix_sums(problem: Problem, size: int) -> Array:
    """Σ_t E[Σ_{k≥t} f ρ_{1:k} S_t]: what the token has earned, and what μ will earn after it."""
    made, tree, out = ratios_of(problem), problem.tree, problem.field.zeros(problem.probs.shape)
    for sign, ends in z_scores(problem, size, divide_by="length").items():
        earned = expect(tree, problem.sampling, ends)[0] * _in_cone(made, sign)
        below = earned[:0, 0]
        for t in reversed(range(problem.horizon)):
            rows = tree.at(t)
            earned[rows] = earned[rows] + tree.lift(below, t, np.zeros(earned[rows].shape))
            below = (problem.sampling[rows] * earned[rows]).sum(-1)
        out = out + earned
    return problem.pull(_chance(problem) * out)


def _positive_part(problem: Problem, size: int) -> Array:
    """∇E[(R − V)₊] on-policy, V = M_0 frozen."""
    gain = problem.totals - problem.values[1][problem.tree.prompt][:, None]
    return of_effective_reward(problem, np.where(gain > 0, gain, gain - gain))


POSITIVE_PART = Expectation("E ĝ = ∇E[(R − V)₊], V frozen: another objective", _none, _positive_part)
PREFIX_SUMS = Expectation("biased: E ĝ = E[f(R)/L Σ_t Σ_{k≥t} ρ_{1:k} S_t], ρ unclipped", _none, _prefix_sums)
Z_SCORE = Expectation(
    "biased: E ĝ = E[f(R) · Z], f(R) = E[z-score | R]", _none, effective(lambda reward, tokens: _z(reward))
)
Z_SCORE_PER_TOKEN = Expectation(
    "biased: E ĝ = E[f(R/L)/L · Z], f = E[z-score of R/L | R/L]",
    _none,
    effective(lambda reward, tokens: _z(reward / tokens), with_length=True, over_length=True),
)

_BY_LENGTH, _BY_TOKENS = partial(z_scores, divide_by="length"), partial(z_scores, divide_by="tokens")
_UNDIVIDED, _PER_TOKEN = partial(z_scores, divide_by="nothing"), partial(z_scores, divide_by="per token")
_NEAR = partial(limited, low="1/10", high="19/10")  # A-LoL: 1 ± 0.9
_TEXT = "biased off-policy: E ĝ = Σ_s ρ_μ(s) Σ_a μ(a|s) E_μ[f · w | s, a] ∇log π(a|s), w the ratio of {}"
_TOKEN, _WHOLE, _MEAN = (_TEXT.format(what) for what in ("the token", "the response", "the response, to the 1/L"))

OF_ROW: dict[str, Expectation] = {
    "token_is": Expectation("biased off-policy: Σ_s ρ_μ(s) Σ_a π(a|s) Q^μ(s, a) ∇log π(a|s)", _none, _of_token),
    "prefix_is": Expectation("biased off-policy: Σ_s ρ_π(s) Σ_a π(a|s) Q^μ(s, a) ∇log π(a|s)", _none, _of_prefix),
    "sequence_is": Expectation("E ĝ = g, for all responses that μ can generate", _none, _of_response),
    "tic_grpo_bare": Expectation("E ĝ = (G−1)/G · g, if μ can generate all responses", _none, _of_centred_response),
    "rloo_sequence_clip": expected(_WHOLE + ", clipped", left_out, clip_response),
    "tis_token": expected(_TOKEN + ", at most C", rewards, partial(limited, level="token")),
    "tis_sequence": expected(_WHOLE + ", at most C", rewards, partial(limited, level="prefix")),
    "tis_geometric": expected(_MEAN + ", at most C", rewards, partial(limited, level="geometric")),
    "mis_token": expected(_TOKEN + ", 0 outside bounds", rewards, partial(dropped, level="token")),
    "mis_sequence": expected(_WHOLE + ", 0 outside bounds", rewards, partial(dropped, level="prefix")),
    "icepop": expected(_TOKEN + ", 0 outside bounds", rewards, partial(dropped, level="token", high=5)),
    "a_lol": expected(_WHOLE + ", clamped", gains, partial(_NEAR, level="prefix")),
    "a_lol_token": expected(_TOKEN + ", clamped", gains, partial(_NEAR, level="token")),
    "grpo_clip": expected(_TOKEN + ", clipped", _BY_LENGTH, clip_token),
    "dapo_clip": expected(_TOKEN + ", clipped", _BY_TOKENS, partial(clip_token, high="1.28")),
    "gspo": expected(_MEAN + ", clipped", _BY_LENGTH, clip_geometric),
    "gspo_token": expected(_MEAN + ", clipped", _BY_LENGTH, clip_geometric),
    "luspo": expected(_MEAN + ", clipped", _UNDIVIDED, clip_geometric),
    "gmpo": expected(_MEAN + ", its factors clipped", _BY_LENGTH, clip_inside_mean),
    "sapo": expected(_TOKEN + ", gated", _BY_LENGTH, gate),
    "vespo": expected(_WHOLE + ", W^k e^{λ(1−W)}", _BY_TOKENS, kernel),
    "dhpo": expected(_TOKEN + " and of the response to the 1/L, clipped, half of each", _BY_LENGTH, clip_both),
    "cispo": expected(_TOKEN + ", clamped", _BY_TOKENS, partial(limited, level="token", low="4/5", high="6/5")),
    "cispo_trl": expected(_TOKEN + ", at most ε_high", _BY_TOKENS, partial(limited, level="token", high=5)),
    "ctpo": expected(_TEXT.format("the prefix") + ", clipped", _BY_TOKENS, clip_prefix),
    "ctpo_printed": PREFIX_SUMS,
    "tic_grpo": expected(_WHOLE + ", 0 above 1+ε", _PER_TOKEN, clip_above),
}
