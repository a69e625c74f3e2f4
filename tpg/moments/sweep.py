"""Classes from one sweep over the tree: for credits that are the same on all tokens of a response.

No response is ever listed and, for tabular policies, no score stored.  On the way down every prefix learns its past
reward and ‖Z‖² (scores of different prefixes are orthogonal, so it adds up), or Z for shared parameters.  On the way up
X_k(s) = E[w 1_k | s] gives m_k[s, b] = ρ(s) (μ_b X_k(s, b) − π_b X_k(s)), one level at a time, in cache-sized blocks.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from tpg.errors import TooLarge
from tpg.estimators.parts import peers_of, reads
from tpg.estimators.table import Estimator
from tpg.moments.paths import class_fields
from tpg.numbers import Array
from tpg.problem.problem import Problem
from tpg.rollouts import Rollouts, per_prompt

BLOCK = 1 << 15  # table entries per block: a handful of such tables stay in a core's cache
MAX_VALUES = 4096  # distinct rewards; more cannot be composed into groups anyway


class Block(NamedTuple):
    """Some rows of one level, all of one prompt; their children are ``below`` among the nodes of the next level.

    Inside a block tables are read as [V, n]: tokens first, so that sums over tokens run along memory.
    """

    t: int
    prompt: int
    rows: slice
    below: slice


class Sweep:
    """The classes of all responses, by dynamic programming on the tree.  Memory: a few numbers per prefix."""

    def __init__(self, problem: Problem, estimator: Estimator, group_size: int) -> None:
        self.problem, self.estimator, self.group_size = problem, estimator, group_size
        self.levels = [list(_blocks(problem, t)) for t in range(problem.horizon)]
        self.past, self.path = _go_down(problem, self.levels)
        names = class_fields(estimator)
        self.own_needs = frozenset().union(*(reads(part) for part in estimator.parts if not peers_of(part)))
        self.given = per_prompt(problem, self.own_needs)
        rewards, self.code = self._classify("reward" in names, "length" in names)
        lengths = range(1, problem.horizon + 1) if "length" in names else [0]
        self.kinds = list(itertools.product(rewards, lengths))
        self.fields = {name: _column([kind[name == "length"] for kind in self.kinds]) for name in names}
        self.mass, self.square, self.parts = self._tally()
        self.gram = self._gram() if self.parts is None else np.stack([m @ m.T for m in self.parts])

    def _totals(self, block: Block) -> Array:
        """[V, n] RM(W) of responses that end here."""
        return self.past[block.rows] + self.problem.powers[block.t] * self.problem.rewards[block.rows].T

    def _chance(self, block: Block) -> Array:
        """[V, n] probability of generating the prefix and the token."""
        return self.problem.sampling_reach[block.rows] * self.problem.sampling[block.rows].T

    def _classify(self, by_reward: bool, by_length: bool) -> tuple[list[Any], Array]:
        """The distinct rewards, and the class [N, V] of the responses that end there, −1 where none does."""
        problem, known = self.problem, {} if by_reward else {0: 0}
        code = np.full(problem.probs.shape, -1, dtype=np.int16, order="F")
        for block in itertools.chain(*self.levels):
            if problem.tree.full[block.t]:
                continue
            kind = self._reward_index(block, known) if by_reward else 0
            stride, shift = (problem.horizon, block.t) if by_length else (1, 0)
            code[block.rows] = np.where(problem.ends_at(block.rows).T, kind * stride + shift, -1).T
        return list(known), code

    def _reward_index(self, block: Block, known: dict[Any, int]) -> Array:
        """[V, n] the place of each response reward in ``known``, which grows as new ones turn up."""
        totals = self._totals(block)
        index = np.full(totals.shape, -1, dtype=np.int16)
        for value, place in known.items():
            index[totals == value] = place
        rest = self.problem.ends_at(block.rows).T & (index < 0)
        if rest.any():
            for value in dict.fromkeys(totals[rest].tolist()):
                index[totals == value] = known.setdefault(value, len(known))
                TooLarge.check(f"{self.problem.name}: distinct rewards", len(known), MAX_VALUES, "sample instead")
        return index

    def _members(self, block: Block) -> Array:
        """1_k [K, V, n] bool: which class ends where."""
        code = self.code[block.rows].T
        return code == np.arange(len(self.kinds), dtype=np.int16)[:, None, None]

    def _weight(self, block: Block) -> Array:
        """Own weight w of the responses that end here, [V, n] or [1, 1]."""
        problem = self.problem
        fields: dict[str, Any] = {name: table[block.prompt] for name, table in self.given.items()}
        if "reward" in self.own_needs:
            fields["reward"] = self._totals(block)[..., None]
        fields["length"] = np.full((1, 1, 1), block.t + 1)
        alone = Rollouts(self.group_size, problem.horizon, problem.discount, **fields)
        return self.estimator.product(alone, coupled=False)[..., 0, 0]

    def _tally(self) -> tuple[Array, Array, Array | None]:
        """q_k, n_k [P, K] and, for shared parameters, m_k [P, K, d]."""
        problem, shape = self.problem, (self.problem.prompts, len(self.kinds))
        mass, square = problem.field.zeros(shape), problem.field.zeros(shape)
        parts = None if problem.features is None else problem.field.zeros((*shape, problem.parameters))
        for block in itertools.chain(*self.levels):
            if problem.tree.full[block.t]:
                continue
            member, weight, chance = self._members(block), self._weight(block), self._chance(block)
            flat = member.reshape(len(member), -1).astype(chance.dtype)
            mass[block.prompt] += flat @ chance.ravel()
            norm2, scores = self._scores(block)
            square[block.prompt] += flat @ (chance * (weight * weight) * norm2).ravel()
            if parts is not None:
                parts[block.prompt] += (flat * (chance * weight).ravel()) @ scores
        return mass, square, parts

    def _scores(self, block: Block) -> tuple[Array, Array]:
        """‖Z‖² [V, n] of responses that end here, and Z [V·n, d] itself for shared parameters."""
        problem = self.problem
        if problem.features is None:
            return self.path[block.rows] + _norm2(problem, block.rows), self.past[:0]
        whole = self.path[block.rows] + problem.scores[block.rows].transpose(1, 0, 2)
        return (whole * whole).sum(-1), whole.reshape(-1, problem.parameters)

    def _gram(self) -> Array:
        """⟨m_k, m_l⟩ [P, K, K]."""
        size = len(self.kinds)
        out = self.problem.field.zeros((self.problem.prompts, size, size))

        def add(block: Block, part: Array) -> None:
            flat = part.reshape(size, -1)
            out[block.prompt] += flat @ flat.T

        self._go_up(lambda member, block: member, size, add)
        return out

    def mean(self, alpha: Array) -> Array:
        if self.parts is not None:
            return (alpha[:, :, None] * self.parts).sum(1)
        out = np.empty_like(self.problem.probs)

        def put(block: Block, part: Array) -> None:
            out[block.rows] = part[0].T

        self._go_up(lambda member, block: _mix(alpha[block.prompt], member), 1, put)
        return out

    def _go_up(self, mix: Callable[[Array, Block], Array], size: int, visit: Callable[[Block, Array], None]) -> None:
        """X(s) = E[w · mix of classes | s] from the leaves up; ``visit`` gets m [size, V, n] of every block."""
        problem, below = self.problem, self.problem.field.zeros((size, 0))
        for level in reversed(self.levels):
            here = np.empty((size, level[-1].rows.stop - level[0].rows.start), dtype=below.dtype)
            for block in level:
                after = self._after(block, below[:, block.below], mix, size)
                sampling, probs = problem.sampling[block.rows].T, problem.probs[block.rows].T
                start = block.rows.start - level[0].rows.start
                mine = here[:, start : start + after.shape[2]] = (sampling * after).sum(1)
                same = problem.behaviour is None
                part = probs * (after - mine[:, None]) if same else sampling * after - probs * mine[:, None]
                visit(block, problem.sampling_reach[block.rows] * part)
            below = here

    def _after(self, block: Block, below: Array, mix: Callable[[Array, Block], Array], size: int) -> Array:
        """X(s, b) [size, V, n] after each token of a block."""
        tree = self.problem.tree
        rows = block.rows.stop - block.rows.start
        if tree.full[block.t]:
            return below.reshape(size, rows, tree.vocab).transpose(0, 2, 1)
        out = mix(self._members(block), block) * self._weight(block)
        if below.shape[1]:
            out.transpose(0, 2, 1)[:, tree.inner[block.rows]] = below
        return out


def _mix(alpha: Array, member: Array) -> Array:
    """Σ_k α_k 1_k as [1, V, n]."""
    return sum(a * mine for a, mine in zip(alpha, member, strict=True))[None]


def _column(values: list[Any]) -> Array:
    return np.array(values, dtype=None if isinstance(values[0], (int, float)) else object)


def _blocks(problem: Problem, t: int) -> Iterator[Block]:
    """The nodes of level ``t`` in pieces of about ``BLOCK`` table entries, each of one prompt."""
    tree, step, done = problem.tree, max(1, BLOCK // problem.vocab), 0
    for prompt in range(problem.prompts):
        for start in range(tree.bounds[t, prompt], tree.bounds[t, prompt + 1], step):
            rows = slice(start, min(start + step, int(tree.bounds[t, prompt + 1])))
            lead = (rows.stop - start) * tree.vocab if tree.full[t] else int(np.count_nonzero(tree.inner[rows]))
            yield Block(t, prompt, rows, slice(done, done + lead))
            done += lead


def _norm2(problem: Problem, rows: slice) -> Array:
    """‖score‖² = 1 − 2π_b + Σπ² [V, n] of a tabular softmax."""
    probs = problem.probs[rows].T
    return 1 - 2 * probs + (probs * probs).sum(0)


def _go_down(problem: Problem, levels: list[list[Block]]) -> tuple[Array, Array]:
    """Past reward [N], and ‖Z‖² [N] (tabular) or Z [N, d] (shared), of every prefix."""
    tree, shared = problem.tree, problem.features is not None
    past = problem.field.zeros(tree.nodes)
    path = problem.field.zeros((tree.nodes, problem.parameters) if shared else tree.nodes)
    for level, start in zip(levels[:-1], tree.level[1:-1], strict=True):
        for block in level:
            to = slice(start + block.below.start, start + block.below.stop)
            leads, rows = tree.inner[block.rows], block.rows
            past[to] = (past[rows, None] + problem.powers[block.t] * problem.rewards[rows])[leads]
            if shared:
                path[to] = (path[rows, None, :] + problem.scores[rows])[leads]
            else:
                path[to] = (path[rows] + _norm2(problem, rows)).T[leads]
    return past, path
