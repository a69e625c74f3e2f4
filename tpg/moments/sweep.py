"""Classes from one sweep over the tree: for credits that are the same on all tokens of a response.

No response is ever listed and, for tabular policies, no score stored.  On the way down every prefix learns its
probability ρ, its past reward, and ‖Z‖² (scores of different prefixes are orthogonal, so it adds up) or Z (shared
parameters).  On the way up X_k(s) = E[w 1_k | s] gives m_k[s, b] = ρ(s) (μ_b X_k(s, b) − π_b X_k(s)).  All of it runs
in blocks that fit a core's cache, read as [V, n]: tokens first, so that sums over tokens run along memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np

from tpg.errors import TooLarge
from tpg.estimators.parts import peers_of, reads
from tpg.estimators.table import Estimator
from tpg.moments.paths import class_fields
from tpg.numbers import Array
from tpg.problem.problem import Problem
from tpg.rollouts import Rollouts, per_prompt

BLOCK = 1 << 16  # table entries per block
ALL = np.array(True)
MAX_VALUES = 4096  # distinct rewards of a prompt; more cannot be composed into groups anyway


class Block(NamedTuple):
    """Some rows of one level, all of one prompt; their children are ``below`` among the nodes of the next level."""

    t: int
    prompt: int
    rows: slice
    below: slice


class Prefixes(NamedTuple):
    """What every prefix knows of its past."""

    reach: Array  # [N] ρ under the policy that generates
    past: Array  # [N] discounted reward so far
    path: Array  # [N] ‖Z‖² (tabular) or [N, d] Z (shared)


# What every estimator needs of a problem is worked out once, and forgotten with the problem.
PREFIXES: WeakKeyDictionary[Problem, Prefixes] = WeakKeyDictionary()
REWARDS: WeakKeyDictionary[Problem, list[list[Any]]] = WeakKeyDictionary()


class Sweep:
    """The classes of all responses, by dynamic programming on the tree.  Memory: a few numbers per prefix.

    ``fields`` [P, K] what peers see of a class; ``mass`` q_k, ``square`` n_k [P, K]; ``gram`` ⟨m_k, m_l⟩ [P, K, K].
    """

    def __init__(self, problem: Problem, estimator: Estimator, group_size: int, by_power: bool = False) -> None:
        self.problem, self.estimator, self.group_size = problem, estimator, group_size
        self.levels = [list(_blocks(problem, t)) for t in range(problem.horizon)]
        if problem not in PREFIXES:
            PREFIXES[problem] = _go_down(problem, self.levels)
        self.known = PREFIXES[problem]
        self.own_needs = frozenset().union(*(reads(part) for part in estimator.parts if not peers_of(part)))
        self.given = per_prompt(problem, self.own_needs)
        self.by_power = by_power  # functions 1, r, r² of r = R − E R in place of one indicator per class
        self.centre = problem.expected_reward if by_power else None
        names = () if by_power else class_fields(estimator)
        if "reward" in names and problem not in REWARDS:
            REWARDS[problem] = self._distinct_rewards()
        rewards = REWARDS[problem] if "reward" in names else [[None]] * problem.prompts
        lengths = range(1, problem.horizon + 1) if "length" in names else [None]
        self.kinds = [[(reward, length) for reward in values for length in lengths] for values in rewards]
        self.classes = 3 if by_power else max(len(kinds) for kinds in self.kinds)
        self.fields = {name: self._field(name == "length") for name in names}
        self.swept = self.classes - self._balanced()
        self._tally()

    def _balanced(self) -> bool:
        """On-policy and with one weight w for all, Σ_k m_k = w E[Z] = 0: the last class is what the others leave."""
        leaves = sum(not full for full in self.problem.tree.full)
        varies = self.own_needs - {"length"} if leaves == 1 else self.own_needs
        plain = self.problem.behaviour is None and self.problem.tabular
        return plain and not varies and not self.by_power and self.classes > 1

    def _field(self, place: int) -> Array:
        """[P, K] the reward (0) or length (1) of each class; unused places repeat the first."""
        padded = [kinds + kinds[:1] * (self.classes - len(kinds)) for kinds in self.kinds]
        values = [[kind[place] for kind in kinds] for kinds in padded]
        return np.array(values) if place else self.problem.field.array(values)

    # -- one block -----------------------------------------------------------------------------------------------------

    def _totals(self, block: Block) -> Array:
        """[V, n] RM(W) of responses that end here."""
        problem = self.problem
        if problem.merged_totals is not None:
            return problem.merged_totals[block.rows].T
        out = problem.powers[block.t] * problem.rewards[block.rows].T
        out += self.known.past[block.rows]
        return np.asarray(out)

    def _ends(self, block: Block) -> Array:
        """[V, n] bool: a response ends here; one True for all where every token does, which is cheaper to look at."""
        last = block.t == self.problem.horizon - 1
        return ALL if last and not self.problem.forbids else self.problem.ends_at(block.rows).T

    def _leaf_blocks(self) -> Iterator[Block]:
        """The blocks in which a response can end."""
        return (block for level in self.levels for block in level if not self.problem.tree.full[block.t])

    def _distinct_rewards(self) -> list[list[Any]]:
        """The response rewards that each prompt can produce, in order of appearance; cheap when there are few."""
        known: list[dict[Any, None]] = [{} for _ in range(self.problem.prompts)]
        for block in self._leaf_blocks():
            mine, totals, new = known[block.prompt], self._totals(block), self._ends(block)
            for value in mine:
                new = new & (totals != value)
            if new.any():
                mine |= dict.fromkeys(totals[np.broadcast_to(new, totals.shape)].tolist())
                TooLarge.check(
                    f"{self.problem.name}: distinct rewards", len(mine), MAX_VALUES, "sample them (--samples N)"
                )
        return [list(values) for values in known]

    def _chance(self, block: Block) -> Array:
        """[V, n] probability of generating the prefix and the token."""
        return self.known.reach[block.rows] * self.problem.sampling[block.rows].T

    def _members(self, block: Block) -> Array:
        """1_k [swept, V, n] in numbers: which class ends where; or 1, r, r² where responses end."""
        ends, totals = self._ends(block), self._totals(block)
        out = self.problem.field.zeros((self.swept, *totals.shape))
        if self.centre is not None:
            out[0], out[1] = ends, np.where(ends, totals - self.centre[block.prompt], out[1])
            np.multiply(out[1], out[1], out=out[2])
            return out
        for mine, (reward, length) in zip(out, self.kinds[block.prompt], strict=False):
            if length in (None, block.t + 1):
                mine[...] = ends if reward is None else ends & (totals == reward)
        return out

    def _weight(self, block: Block) -> Array:
        """Own weight w of the responses that end here, [V, n] or [1, 1]."""
        problem = self.problem
        fields: dict[str, Any] = {name: table[block.prompt] for name, table in self.given.items()}
        if "reward" in self.own_needs:
            fields["reward"] = self._totals(block)[..., None]
        fields["length"] = np.full((1, 1, 1), block.t + 1)
        alone = Rollouts(self.group_size, problem.horizon, problem.discount, **fields)
        return self.estimator.terms[0].own(alone)[..., 0, 0]

    def _scores(self, block: Block) -> tuple[Array, Array]:
        """‖Z‖² [V, n] of responses that end here, and Z [V·n, d] itself for shared parameters."""
        problem = self.problem
        if problem.features is None:
            norm2 = _norm2(problem, block.rows)
            norm2 += self.known.path[block.rows]
            return norm2, self.known.past[:0]
        whole = self.known.path[block.rows] + problem.scores[block.rows].transpose(1, 0, 2)
        return (whole * whole).sum(-1), whole.reshape(-1, problem.parameters)

    # -- whole tree ----------------------------------------------------------------------------------------------------

    def _tally(self) -> None:
        """Fill ``mass``, ``square``, ``gram`` and, for shared parameters, ``parts`` m_k [P, K, d]."""
        zeros, shape = self.problem.field.zeros, (self.problem.prompts, self.classes)
        self.mass, self.square, self.gram = zeros(shape), zeros(shape), zeros((*shape, self.classes))
        self.parts = None if self.problem.tabular else zeros((*shape, self.problem.parameters))
        self.kept = np.empty_like(self.problem.probs) if self.parts is None and self.swept == 1 else None
        if self.parts is None:
            self._go_up(self._ending, self.swept, self._add_gram)
        else:
            for block in self._leaf_blocks():
                self._ending(block)
            self.gram = np.stack([part @ part.T for part in self.parts])
        if self.swept < self.classes:
            self.mass[:, -1] -= self.mass[:, :-1].sum(1)
            self.square[:, -1] -= self.square[:, :-1].sum(1)
            self.gram[:, -1, :-1] = self.gram[:, :-1, -1] = -self.gram[:, :-1, :-1].sum(2)
            self.gram[:, -1, -1] = self.gram[:, :-1, :-1].sum((1, 2))

    def _ending(self, block: Block) -> Array:
        """w 1_k [swept, V, n] of a block; its mass and squares are added to the tallies on the way."""
        member, weight, chance = self._members(block), self._weight(block), self._chance(block)
        norm2, scores = self._scores(block)
        heavy = np.multiply(norm2, chance, out=norm2)
        heavy *= weight * weight
        flat = member.reshape(self.swept, -1)
        self.mass[block.prompt, : self.swept] += flat @ chance.ravel()
        self.square[block.prompt, : self.swept] += flat @ heavy.ravel()
        if self.swept < self.classes:  # all of them, from which the others are taken at the end
            ends = self._ends(block)
            self.mass[block.prompt, -1] += _sum(chance, ends)
            self.square[block.prompt, -1] += _sum(heavy, ends)
        if self.parts is not None:
            self.parts[block.prompt] += (flat * (chance * weight).ravel()) @ scores
        return np.multiply(member, weight, out=member) if member.dtype != object else member * weight

    def _add_gram(self, block: Block, part: Array) -> None:
        flat = part.reshape(self.swept, -1)
        self.gram[block.prompt, : self.swept, : self.swept] += flat @ flat.T
        if self.kept is not None:
            self.kept[block.rows] = part[0].T

    def mean(self, alpha: Array) -> Array:
        """Σ_k α_k m_k for ``alpha`` [P, 1, K], as ``Problem.pull`` lays it out."""
        alpha = alpha[:, 0]
        if self.parts is not None:
            return np.asarray((alpha[:, :, None] * self.parts).sum(1))
        if self.swept < self.classes:
            alpha = alpha[:, :-1] - alpha[:, -1:]
        if self.kept is not None:
            out, self.kept = self.kept, None  # given away, not copied
            out *= alpha[0, 0] if len(alpha) == 1 else alpha[self.problem.tree.prompt]
            return out
        out = np.empty_like(self.problem.probs)

        def mixed(block: Block) -> Array:
            parts = zip(alpha[block.prompt], self._members(block), strict=True)
            return np.asarray(sum(a * member for a, member in parts) * self._weight(block))[None]

        def put(block: Block, part: Array) -> None:
            out[block.rows] = part[0].T

        self._go_up(mixed, 1, put)
        return out

    def _go_up(self, ending: Callable[[Block], Array], size: int, visit: Callable[[Block, Array], None]) -> None:
        """X(s) = E[f(W) | s] for ``size`` functions f given where responses end; ``visit`` gets m [size, V, n]."""
        problem, below = self.problem, self.problem.field.zeros((size, 0))
        for level in reversed(self.levels):
            first = level[0].rows.start
            here = np.empty((size, level[-1].rows.stop - first), dtype=below.dtype)
            for block in level:
                after = self._after(block, below[:, block.below], ending, size)
                sampling, probs = problem.sampling[block.rows].T, problem.probs[block.rows].T
                part = sampling * after  # in place from here on
                mine = part.sum(1)
                here[:, block.rows.start - first : block.rows.stop - first] = mine
                part -= np.multiply(probs, mine[:, None], out=after)
                part *= self.known.reach[block.rows]
                visit(block, part)
            below = here

    def _after(self, block: Block, below: Array, ending: Callable[[Block], Array], size: int) -> Array:
        """X(s, b) [size, V, n] after each token of a block."""
        tree, rows = self.problem.tree, block.rows
        if tree.full[block.t]:
            return np.ascontiguousarray(below.reshape(size, rows.stop - rows.start, tree.vocab).transpose(0, 2, 1))
        out = ending(block)
        if below.shape[1]:
            out.transpose(0, 2, 1)[:, tree.inner[rows]] = below
        return out


def _sum(values: Array, where: Array) -> Any:
    return values.sum() if where.all() else (values * where).sum()


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
    """‖score‖² = 1 + Σπ² − 2π_b [V, n] of a tabular softmax."""
    probs = problem.probs[rows].T
    out = probs * probs
    total = out.sum(0)
    np.multiply(probs, -2, out=out)  # in place: fresh memory costs more than arithmetic
    out += 1 + total
    return out


def _leading(table: Array, leads: Array | None) -> Array:
    """The entries of ``table`` [V, n] that lead to another prefix, in the order of the children; None: all do."""
    return table.T.reshape(-1) if leads is None else table.T[leads]


def _go_down(problem: Problem, levels: list[list[Block]]) -> Prefixes:
    tree, shared = problem.tree, problem.features is not None
    dtype, roots = problem.rewards.dtype, slice(0, tree.prompts)
    reach, past = np.empty(tree.nodes, dtype=dtype), np.empty(tree.nodes, dtype=dtype)
    path = np.empty((tree.nodes, problem.parameters) if shared else tree.nodes, dtype=dtype)
    reach[roots], past[roots], path[roots] = problem.field.scalar(1), problem.field.scalar(0), problem.field.scalar(0)
    for level, start in zip(levels[:-1], tree.level[1:-1], strict=True):
        for t, _, rows, below in level:
            to, leads = slice(start + below.start, start + below.stop), None if tree.full[t] else tree.inner[rows]
            reach[to] = _leading(reach[rows] * problem.sampling[rows].T, leads)
            past[to] = _leading(past[rows] + problem.powers[t] * problem.rewards[rows].T, leads)
            if shared:
                path[to] = (path[rows, None, :] + problem.scores[rows])[tree.inner[rows]]
            else:
                path[to] = _leading(path[rows] + _norm2(problem, rows), leads)
    return Prefixes(reach, past, path)
