"""What a row says its expectation is: E ĝ = factor · g + extra.  Closed forms, written without the moment engine.

g itself comes from the judge.  All hold on-policy; ``extra`` comes in the layout of ``Problem.pull``.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from scipy.special import gammaln, xlogy

from tpg.errors import EstimatorError, TooLarge
from tpg.numbers import Array, powers
from tpg.problem.problem import Problem
from tpg.problem.tree import expect

Extra = Callable[[Problem, int], Array]
MAX_PEERS = 10**9  # rewards looked at; a few seconds per 10⁸


@dataclass(frozen=True)
class Expectation:
    """E ĝ = ``factor(problem, G)`` · g + ``extra(problem, G)``, with ``text`` for people."""

    text: str
    factor: Callable[[Problem, int], Fraction] = lambda problem, group_size: Fraction(1)
    extra: Extra | None = None
    known: bool = True  # False: the text is all there is

    def __call__(self, problem: Problem, group_size: int, g: Array) -> Array:
        """The declared E ĝ, given the exact gradient ``g``."""
        if not self.known:
            raise EstimatorError(f"no closed form is declared ({self.text}): read the measured expectation")
        scaled = problem.field.scalar(self.factor(problem, group_size)) * g
        return scaled if self.extra is None else scaled + self.extra(problem, group_size)


def _none(problem: Problem, group_size: int) -> Fraction:
    return Fraction(0)


def of_effective_reward(problem: Problem, ends: Array) -> Array:
    """Σ_W P(W) f(W) ∇log P(W) for a function f of whole responses, given [N, V] where they end."""
    after, _ = expect(problem.tree, problem.probs, ends)
    return problem.pull(problem.reach[:, None] * problem.probs * after)


def _discounted_back(problem: Problem, group_size: int) -> Array:
    """Credit γ^{L−t} RM: H(s,a) = RM at the end, γ Σ_b π(b) H(sa, b) before."""
    after, below = problem.totals.copy(), problem.totals[:0, 0]
    for t in reversed(range(problem.horizon)):
        rows = problem.tree.at(t)
        after[rows] = problem.tree.lift(problem.discount * below, t, after[rows])
        below = (problem.probs[rows] * after[rows]).sum(-1)
    return problem.pull(problem.reach[:, None] * problem.probs * after)


def _discounted_start(problem: Problem, group_size: int) -> Array:
    """∇E[γ^{L−1} RM]."""
    length = problem.tree.depth + 1
    return of_effective_reward(
        problem, powers(problem.discount, problem.horizon + 1)[length - 1][:, None] * problem.totals
    )


def critic_bias(critic: Callable[[Problem], Array], lam: Any) -> Extra:
    """(1−λ) Σ_k λ^k E[e(s_{t+k+1}) S_t], e = V − M: the bias of GAE(λ) with critic V (γ = 1)."""

    def extra(problem: Problem, group_size: int) -> Array:
        rate = problem.field.scalar(lam)
        error = critic(problem) - problem.values[1]
        after, below = problem.field.zeros(problem.probs.shape), error[:0]
        for t in reversed(range(problem.horizon)):
            rows = problem.tree.at(t)
            after[rows] = problem.tree.lift(below, t, after[rows])
            below = error[rows] + rate * (problem.probs[rows] * after[rows]).sum(-1)
        return (1 - rate) * problem.pull(problem.reach[:, None] * problem.probs * after)

    return extra


Rule = Callable[[Array, Array], Array]  # rewards [n, G], lengths [n, G] → G · credit of the first response [n]


def effective(rule: Rule, *, with_length: bool = False, over_length: bool = False) -> Extra:
    """E ĝ = E[f(R, L) · Z] for credits that are the same on all tokens: f = E[G · credit | own (R, L)].

    Peers are enumerated as multisets of rewards, ``with_length`` of (reward, length); ``rule`` is the formula written
    down once more, for the first response of a group.  ``over_length``: the credit is divided by its own length.
    """

    def extra(problem: Problem, group_size: int) -> Array:
        ends = worth_of_ends(problem, group_size, rule, with_length)
        if over_length:
            ends /= (problem.tree.depth + 1)[:, None]
        return of_effective_reward(problem, ends)

    return extra


def worth_of_ends(problem: Problem, group_size: int, rule: Rule, with_length: bool = False) -> Array:
    """f [N, V] = E[G · credit | own (R, L)] where responses end, 0 elsewhere."""
    out = np.zeros(problem.probs.shape)
    kinds, code = _kinds(problem, with_length)
    for prompt, chances in enumerate(_chances(problem, len(kinds), code)):
        mine = (problem.tree.prompt == prompt)[:, None] & problem.ends
        out[mine] = _worth(kinds, chances, group_size, rule)[code[mine]]
    return out


def z_rule(reward: Array, tokens: Array, *, ddof: int = 1, eps: float = 1e-6) -> Array:
    """(R − mean)/(std + eps) of the first response of each group, 0 where all rewards are equal."""
    spread = reward.std(axis=1, ddof=ddof) + eps
    return np.where((reward == reward[:, :1]).all(1), 0, (reward[:, 0] - reward.mean(1)) / spread)


def z_scored(divide_by: str, *, ddof: int = 1, eps: float = 1e-6) -> Extra:
    """E ĝ of the z-score (R − mean)/(std + eps): ``divide_by`` "length" for 1/L_i, "tokens" for G/Σ_j L_j."""

    def rule(reward: Array, tokens: Array) -> Array:
        score = z_rule(reward, tokens, ddof=ddof, eps=eps)
        return score * reward.shape[1] / tokens.sum(1) if divide_by == "tokens" else score

    return effective(rule, with_length=True) if divide_by == "tokens" else effective(rule, over_length=True)


def _kinds(problem: Problem, with_length: bool) -> tuple[list[tuple[float, int]], Array]:
    """The distinct (reward, length) of responses, and which one ends at each [N, V]."""
    length = np.broadcast_to((problem.tree.depth + 1)[:, None], problem.probs.shape)
    pairs = np.stack([problem.totals, length if with_length else np.zeros_like(length)], axis=-1)[problem.ends]
    kinds, inverse = np.unique(pairs, axis=0, return_inverse=True)
    code = np.full(problem.probs.shape, -1)
    code[problem.ends] = inverse.ravel()
    return [(float(r), int(n)) for r, n in kinds], code


def _chances(problem: Problem, kinds: int, code: Array) -> Iterator[Array]:
    """Per prompt, the probability of each kind of response."""
    mass = problem.reach[:, None] * problem.probs
    for prompt in range(problem.prompts):
        mine = (problem.tree.prompt == prompt)[:, None] & problem.ends
        yield np.bincount(code[mine], weights=mass[mine], minlength=kinds)


def _worth(kinds: list[tuple[float, int]], chances: Array, size: int, rule: Rule) -> Array:
    """E[G · credit | kind of the first response] over every multiset of its G − 1 peers."""
    present = np.flatnonzero(chances > 0)
    many = math.comb(len(present) + size - 2, size - 1)
    TooLarge.check("the closed form by peers", many * len(present) * size, MAX_PEERS, "lower the group size")
    reward, tokens = (np.array(column) for column in zip(*kinds, strict=True))
    out = np.zeros(len(kinds))
    for others in _multisets(present, size - 1):
        counts = (others[:, :, None] == present).sum(1)
        chance = np.exp(gammaln(size) - gammaln(counts + 1).sum(1) + xlogy(counts, chances[present]).sum(1))
        for k in present:
            group = np.column_stack([np.full(len(others), k), others])
            out[k] += (chance * rule(reward[group], tokens[group])).sum()
    return out


def _multisets(kinds: Array, size: int) -> Iterator[Array]:
    """Every multiset of ``size`` kinds, in blocks [rows, size]."""
    every = itertools.combinations_with_replacement(kinds.tolist(), size)
    while block := list(itertools.islice(every, 1 << 14)):
        yield np.array(block, dtype=np.int64).reshape(len(block), size)


UNBIASED = Expectation("E ĝ = g")
GROUP_MEAN = Expectation("E ĝ = (G−1)/G · g", lambda problem, size: Fraction(size - 1, size))
DR_GRPO = Expectation(
    "E ĝ = (G−1)/(G·T) · g, T the horizon", lambda problem, size: Fraction(size - 1, size * problem.horizon)
)
DISCOUNTED_BACK = Expectation("biased for γ ≠ 1: E ĝ = E Σ_t γ^{L−t} RM S_t, no gradient", _none, _discounted_back)
DISCOUNTED_START = Expectation("E ĝ = ∇E[γ^{L−1} RM], another objective for γ ≠ 1", _none, _discounted_start)
GRPO = Expectation("biased: E ĝ = E[f(R)/L · Z], f(R) = E[z-score | R]", _none, z_scored("length"))
TOKEN_MEAN = Expectation("biased: E ĝ = E[f(R, L) · Z], f = E[z-score · G/Σ_j L_j | R, L]", _none, z_scored("tokens"))


def gae_with(critic: Callable[[Problem], Array], lam: Any) -> Expectation:
    """GAE(λ) with a critic that is not M."""
    return Expectation("biased: E ĝ = g + (1−λ) Σ_k λ^k E[(V−M)(s_{t+k+1}) S_t]", extra=critic_bias(critic, lam))
