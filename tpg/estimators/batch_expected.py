"""What rows normalised over the batch say of E ĝ: every batch there is, seen from one response.

The formulas are written once more, for that response; nothing of the rows or of the engines is used.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from scipy.special import gammaln, xlogy

from tpg.errors import TooLarge
from tpg.estimators.expectations import MAX_PEERS, Expectation, Extra, _multisets, _none, of_effective_reward
from tpg.numbers import Array
from tpg.problem.problem import Problem

BLOCK = 1 << 16  # batches at once


class Seen(NamedTuple):
    """Batches with one response marked: ``reward``, ``tokens`` [n, P, G], the marked one being [:, ``prompt``, 0]."""

    reward: Array
    tokens: Array
    prompt: int

    def mine(self, values: Array) -> Array:
        """[n] of the marked response."""
        return np.asarray(values[:, self.prompt, 0])

    def flat(self, values: Array) -> Array:
        """[n, P·G]."""
        return values.reshape(len(values), -1)


Rule = Callable[[Seen], Array]  # G · credit of the marked response [n]


def over_batches(rule: Rule) -> Extra:
    """E ĝ_x = E[f_x(R, L) Z] for credits that are the same on all tokens: f_x = E[G · credit | own (R, L)].

    Enumerates the multisets of the G − 1 peers and of the groups of all other prompts.
    """

    def extra(problem: Problem, group_size: int) -> Array:
        ends = problem.field.zeros(problem.probs.shape)
        kinds = [_Kinds(problem, x) for x in range(problem.prompts)]
        for x, mine in enumerate(kinds):
            others = [k.multisets(group_size - (x == y)) for y, k in enumerate(kinds)]
            many = float(math.prod(len(chance) for _, chance in others)) * len(mine.chance) * group_size * len(kinds)
            TooLarge.check("the closed form by batches", many, MAX_PEERS / 10, "lower the group size")
            worth = np.array([_worth(kinds, others, x, k, rule) for k in range(len(mine.chance))])
            ends[mine.rows] = worth[mine.code]
        return of_effective_reward(problem, ends)

    return extra


class _Kinds:
    """The distinct (reward, length) of a prompt's responses, their ``chance``, and which of them ends at ``rows``."""

    def __init__(self, problem: Problem, prompt: int) -> None:
        mass = problem.reach[:, None] * problem.probs
        self.rows = (problem.tree.prompt == prompt)[:, None] & problem.ends & (mass != 0)
        reward, tokens = problem.totals[self.rows], np.nonzero(self.rows)[0]
        tokens = problem.tree.depth[tokens] + 1
        digit = np.unique(problem.field.key(reward), return_inverse=True)[1].ravel()
        pairs = digit * (problem.horizon + 1) + tokens
        _, first, self.code = np.unique(pairs, return_index=True, return_inverse=True)
        self.reward, self.tokens, self.field = reward[first], tokens[first], problem.field
        self.chance = problem.field.zeros(len(first))
        np.add.at(self.chance, self.code, mass[self.rows])

    def multisets(self, size: int) -> tuple[Array, Array]:
        """Every multiset of ``size`` kinds [n, size] and its probability [n]."""
        count = len(self.chance)
        TooLarge.check("the closed form by batches", math.comb(count + size - 1, size), 10**7, "lower the group size")
        if size == 0:
            return np.zeros((1, 0), dtype=np.int64), self.field.ones(1)
        rows = np.concatenate(list(_multisets(np.arange(count), size)))
        counts = (rows[:, :, None] == np.arange(count)).sum(1)
        if not self.field.exact:
            return rows, np.exp(gammaln(size + 1) - gammaln(counts + 1).sum(1) + xlogy(counts, self.chance).sum(1))
        ways = [math.factorial(size) // math.prod(math.factorial(n) for n in row) for row in counts.tolist()]
        return rows, self.field.array(ways) * np.multiply.reduce(self.chance[rows], axis=1)


def _worth(kinds: list[_Kinds], others: list[tuple[Array, Array]], x: int, k: int, rule: Rule) -> Any:
    """E[G · credit | the first response of prompt ``x`` is of its kind ``k``]."""
    out = kinds[x].field.scalar(0)
    for picked in _products([len(chance) for _, chance in others]):
        chance = np.multiply.reduce(np.stack([c[i] for (_, c), i in zip(others, picked, strict=True)]), axis=0)
        rows = [members[i] for (members, _), i in zip(others, picked, strict=True)]
        rows[x] = np.column_stack([np.full(len(chance), k), rows[x]])
        reward = np.stack([kind.reward[row] for kind, row in zip(kinds, rows, strict=True)], axis=1)
        tokens = np.stack([kind.tokens[row] for kind, row in zip(kinds, rows, strict=True)], axis=1)
        out = out + (chance * rule(Seen(reward, tokens, x))).sum()
    return out


def _products(sizes: list[int]) -> Iterator[tuple[Array, ...]]:
    """Every choice of one from each of ``sizes`` things, in blocks."""
    for start in range(0, math.prod(sizes), BLOCK):
        yield np.unravel_index(np.arange(start, min(start + BLOCK, math.prod(sizes))), sizes)


def _per_token(seen: Seen, score: Array) -> Array:
    """G · credit of a ``score`` [n] under token-mean over the batch."""
    return score * (seen.tokens.shape[1] * seen.tokens.shape[2]) / seen.flat(seen.tokens).sum(1)


def _standard(mine: Array, values: Array, times: Array, eps: float = 1e-8) -> Array:
    """``mine`` [n] whitened by ``values`` [n, N], each counted ``times``."""
    mean = (times * values).sum(1) / times.sum(1)
    variance = (times * (values - mean[:, None]) ** 2).sum(1) / (times.sum(1) - 1)
    return np.where((values == values[:, :1]).all(1), 0, (mine - mean) / np.sqrt(variance + eps))


def _less_group(seen: Seen) -> Array:
    """R − mean of the group [n, P, G], 0 in groups of equal rewards."""
    reward = seen.reward
    return np.where((reward == reward[:, :, :1]).all(2, keepdims=True), 0, reward - reward.mean(2, keepdims=True))


def _rule_tokens(seen: Seen) -> Array:
    score = _standard(seen.mine(seen.reward), seen.flat(seen.reward), seen.flat(seen.tokens))
    return _per_token(seen, score)


def _rule_responses(seen: Seen) -> Array:
    flat = seen.flat(seen.reward)
    return _standard(seen.mine(seen.reward), flat, np.ones_like(flat))


def _rule_baseline(seen: Seen) -> Array:
    centred = _less_group(seen)
    return _per_token(seen, _standard(seen.mine(centred), seen.flat(centred), seen.flat(seen.tokens)))


def _rule_lite(seen: Seen) -> Array:
    spread = seen.flat(seen.reward).std(1, ddof=1) + 1e-4
    return _per_token(seen, seen.mine(_less_group(seen)) / spread)


def _rule_gpg(seen: Seen) -> Array:
    size = seen.reward.shape[2]
    above = size * seen.reward - seen.reward.sum(2, keepdims=True)  # G (R − mean)
    least = 0 if above.dtype == object else 1e-14 * size * np.abs(seen.reward).sum(2, keepdims=True)
    signal = seen.flat(above != 0 if above.dtype == object else np.abs(above) > least).sum(1)
    alpha = np.where(signal > 0, signal, 1)
    mine = np.where(signal > 0, seen.mine(above), 0 * seen.mine(above))
    return _per_token(seen, mine * seen.reward.shape[1] / alpha)


def _rule_dapo(seen: Seen) -> Array:
    spread = seen.reward.std(2, ddof=1)[:, seen.prompt] + 1e-6
    return _per_token(seen, seen.mine(_less_group(seen)) / spread)


def _declared(score: str, rule: Rule) -> Expectation:
    text = f"biased: E ĝ = E[f(R, L) · Z] of each prompt, f = E[{score} | R, L] over all batches"
    return Expectation(text, _none, over_batches(rule))


WHITENED = _declared("whitened R · P·G/ΣL", _rule_tokens)
WHITENED_RESPONSES = _declared("whitened R", _rule_responses)
WHITENED_BASELINE = _declared("whitened (R − group mean) · P·G/ΣL", _rule_baseline)
LITE_PPO = _declared("(R − group mean)/batch std · P·G/ΣL", _rule_lite)
GPG = _declared("α (R − group mean) · P·G/ΣL", _rule_gpg)
DAPO = _declared("z-score · P·G/ΣL", _rule_dapo)
