"""What the checks on continuations and anchors share: every draw listed, sets of anchors, parts of g by position.

The truth side is :func:`at_prefixes` and :func:`climbed`, by the judge through ``common.gradient``.  A :class:`Listing`
is the estimator side: real credits on every response with everything drawn beside it, no engine for noise or anchors.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import Any

import numpy as np

from paper_checks import common
from paper_checks.laws import paying
from paper_checks.variances import Walks
from tpg.errors import TooLarge
from tpg.estimators.estimator import Estimator
from tpg.estimators.parts import Part
from tpg.numbers import Array
from tpg.problem.problem import Problem
from tpg.problem.tree import Tree
from tpg.rollouts import AnchorLaw, Responses, responses

LONGEST = 35_000  # draws in one list


def row(advantage: Part, model: Any = None) -> Estimator:
    """An estimator for one check, whose anchors and values a :class:`Listing` brings."""
    return Estimator(getattr(advantage, "__name__", "credit"), advantage, model=model)


# Truth


def at_prefixes(problem: Problem, weight: Array) -> Array:
    """[D] Σ_s weight(s) E[D_t S_t; s_t = s]: g with the scores at prefix s counted ``weight`` [N] times."""
    if problem.features is None:
        return np.repeat(weight, problem.vocab) * common.gradient(problem)
    return common.gradient(replace(problem, features=weight[:, None, None] * problem.features))


def at_positions(problem: Problem, weight: Any) -> Array:
    """[D] Σ_t weight_t E[D_t S_t], ``weight`` [T]."""
    return at_prefixes(problem, problem.field.array(weight)[problem.tree.depth])


def climbed(problem: Problem, start: int, end: int, worth: Array) -> Array:
    """[D] E[f Σ_{start < t ≤ end} S_t], f = ``worth`` [N, V] where a response ends or ``end`` tokens are held.

    The gradient of E[f] in those tokens, of the problem that stops there; f is not differentiated.
    """
    level, tree = problem.tree.level, problem.tree
    inner = tree.inner[: level[end]].copy()
    inner[level[end - 1] :] = False
    cut: dict[str, Any] = {name: table[: level[end]] for name, table in problem.policies().items()}
    features = None if problem.features is None else problem.features[: level[end]]
    short = Tree(inner, tree.prompts)
    stopped = replace(problem, tree=short, rewards=problem.rewards[: level[end]], features=features, **cut)
    found = at_positions(paying(stopped, worth[: level[end]]), np.arange(end) >= start)
    padded = problem.field.zeros(problem.parameters)
    padded[: len(found)] = found
    return padded


def held(problem: Problem, start: int) -> Array:
    """[N] M_start of the prefix that the first ``start`` tokens make; M of the prefix itself where it is shorter."""
    out = problem.values[1].copy()
    parent, _ = problem.tree.parent
    for t in range(start + 1, problem.horizon):
        rows = problem.tree.at(t)
        out[rows] = out[parent[rows]]
    return out


# Sets of anchors


def sets(horizon: int) -> Iterator[Array]:
    """Every set of positions 1 … T as a pattern [T+1]: what holds for each holds for every law that is blind."""
    for drawn in itertools.product([False, True], repeat=horizon):
        yield np.array([False, *drawn])


def blocks(pattern: Array) -> list[tuple[int, int]]:
    """The blocks (s, u] that a pattern [T+1] cuts positions 1 … T into."""
    marks = [0, *(t for t in range(1, len(pattern) - 1) if pattern[t]), len(pattern) - 1]
    return list(itertools.pairwise(marks))


def inclusion(law: AnchorLaw, horizon: int) -> Array:
    """[T] the chance that position 1 … T is an anchor, for a law that is blind."""
    patterns, chance = law(horizon)
    return np.asarray((patterns[:, 1:] * chance[:, -1:]).sum(0))


# Estimator


@dataclass(frozen=True, eq=False)
class Listing:
    """Single responses ``which`` [n], what was drawn beside each, and the ``chance`` [n] of that given the response."""

    problem: Problem
    which: Array
    chance: Array
    anchor: Array | None = None  # [n, T+1]
    estimates: dict[str, Array] | None = None  # continuation fields [n, T+1]

    @cached_property
    def paths(self) -> Responses:
        """Every response once."""
        return responses(self.problem)

    def credits(self, estimator: Estimator) -> tuple[Responses, Array]:
        """The listed responses, and the credits [n, T] of each."""
        node, token, prompt = (table[self.which] for table in (self.paths.node, self.paths.token, self.paths.prompt))
        listed = Responses(self.problem, node, token, prompt, estimator.given, self.anchor, self.chance, self.estimates)
        return listed, estimator(listed.group(np.arange(len(node))[:, None], estimator.needs))[:, 0]

    def _table(self, listed: Responses, credit: Array) -> Array:
        """E ĝ as ``Problem.pull`` lays it out."""
        table = self.problem.field.zeros(self.problem.probs.shape)
        rows, t = np.nonzero(listed.mask)
        np.add.at(table, (listed.node[rows, t], listed.token[rows, t]), listed.probability[rows] * credit[rows, t])
        return self.problem.pull(table)

    def mean(self, estimator: Estimator) -> Array:
        """[D] E ĝ."""
        return self.problem.combine(self._table(*self.credits(estimator)))

    def variance(self, estimator: Estimator) -> Array:
        """[P] total variance of ĝ for one response per prompt."""
        listed, credit = self.credits(estimator)
        first, score = self._table(listed, credit), Walks(self.problem).score
        gram = (score[:, :, None] * score[:, None]).sum(-1)[self.which]  # ⟨S_t, S_u⟩
        square = self.problem.field.zeros(self.problem.prompts)
        np.add.at(square, listed.prompt, listed.probability * (credit[:, :, None] * credit[:, None] * gram).sum((1, 2)))
        return square - self.problem.inner(first, first)


def always(problem: Problem, pattern: Array) -> Listing:
    """Every response with the same anchors ``pattern`` [T+1]."""
    count = len(responses(problem).node)
    return Listing(problem, np.arange(count), problem.field.ones(count), np.tile(pattern, (count, 1)))


def wherever(problem: Problem, place: Array) -> Listing:
    """Every response with every set of anchors: each token (s, a) is one with chance ``place`` [N, V], on its own."""
    paths = responses(problem)
    here = np.where(paths.mask, place[paths.node, paths.token], problem.field.scalar(0))
    which, anchor, chance = [], [], []
    for pattern in sets(problem.horizon):
        rows = np.flatnonzero((paths.mask | ~pattern[1:]).all(1))  # anchors up to the end
        which.append(rows)
        anchor.append(np.tile(pattern, (len(rows), 1)))
        chance.append(np.multiply.reduce(np.where(pattern[1:], here[rows], 1 - here[rows]), axis=1))
    return Listing(problem, np.concatenate(which), np.concatenate(chance), np.concatenate(anchor))


def length_of_list(problem: Problem, count: int, fields: int = 1) -> int:
    """How many lines :func:`draws` would list."""
    return sum(_sizes(responses(problem), _means(problem, count), fields))


def _sizes(paths: Responses, means: list[tuple[Array, Array]], fields: int) -> list[int]:
    return [prod(len(means[n][0]) for n in node[node >= 0].tolist()) ** fields for node in paths.node]


def draws(problem: Problem, count: int, pattern: Array | None = None, fields: int = 1) -> Listing:
    """Every response with every draw of ``count`` continuations of every prefix.  TooLarge for more than LONGEST lines.

    ``fields``: how many times that is done, for ``continuation_value`` and ``second_continuation_value``.
    """
    paths, means = responses(problem), _means(problem, count)
    sizes = _sizes(paths, means, fields)
    TooLarge.check(f"{problem.name}: every draw", sum(sizes), LONGEST, "draw fewer")
    which, chance = np.repeat(np.arange(len(sizes)), sizes), []
    drawn: list[list[Array]] = [[] for _ in range(fields)]
    for r, size in enumerate(sizes):
        own = paths.node[r, : paths.length[r]].tolist()
        index = np.indices([len(means[n][0]) for n in own] * fields).reshape(len(own) * fields, size)
        pick = [(means[n], i) for n, i in zip(own * fields, index, strict=True)]
        chance.append(np.multiply.reduce([law[1][i] for law, i in pick], axis=0))
        known = np.full((size, problem.horizon + 1 - len(own)), paths.reward[r])
        for f, out in enumerate(drawn):
            values = [law[0][i] for law, i in pick[f * len(own) : (f + 1) * len(own)]]
            out.append(np.concatenate([np.stack(values, axis=1), known], axis=1))
    names = ("continuation_value", "second_continuation_value")[:fields]
    estimates = {name: np.concatenate(values) for name, values in zip(names, drawn, strict=True)}
    anchor = None if pattern is None else np.tile(pattern, (len(which), 1))
    return Listing(problem, which, np.concatenate(chance), anchor, estimates)


def _means(problem: Problem, count: int) -> list[tuple[Array, Array]]:
    """Per prefix: the mean rewards of ``count`` continuations and their chances; equal first sums are merged."""
    paths, key, out = responses(problem), problem.field.key, []
    for node in range(problem.tree.nodes):
        at = problem.tree.depth[node]
        rows = np.flatnonzero(paths.node[:, at] == node)
        reward, chance = _merged(key, paths.reward[rows], paths.probability[rows] / problem.reach[node])
        total, weight = reward, chance
        for _ in range(count - 1):
            added, both = total[:, None] + reward, weight[:, None] * chance
            total, weight = _merged(key, added.ravel(), both.ravel())
        out.append((total / count, weight))
    return out


def _merged(key: Any, value: Array, chance: Array) -> tuple[Array, Array]:
    """Equal numbers once, with their chances added."""
    _, first, code = np.unique(key(value), return_index=True, return_inverse=True)
    total = np.full(len(first), chance[0] * 0)
    np.add.at(total, code.ravel(), chance)
    return value[first], total


def reward_variance(problem: Problem) -> Array:
    """[N] σ²(s) = Var(RM | s), response by response."""
    walks = Walks(problem)
    left = walks.reward - walks.along(problem.values[1])
    return walks.at_prefix(left**2) / problem.reach


def to_come(problem: Problem) -> Array:
    """[N] expected tokens after each prefix, response by response."""
    walks = Walks(problem)
    left = problem.field.array(walks.paths.length)[:, None] - problem.field.array(np.arange(problem.horizon))
    return walks.at_prefix(np.where(walks.paths.mask, left, problem.field.scalar(0))) / problem.reach
