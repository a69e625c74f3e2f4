"""Classes from one sweep over the tree: for credits that are the same on all tokens of a response.

No response is ever listed and, for tabular policies, no score stored.  What every prefix knows of its past, and where
responses of which reward end, belongs to the problem (tpg.problem.blocks).  On the way up X_k(s) = E[w 1_k | s] gives
m_k[s, b] = ρ(s) (μ_b X_k(s, b) − π_b X_k(s)), with w the own factor of the credits.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tpg.estimators.estimator import Estimator
from tpg.estimators.parts import peers_of, reads
from tpg.moments.paths import class_fields
from tpg.numbers import Array
from tpg.problem.blocks import Block, ending_blocks, row_dot, totals_of
from tpg.problem.problem import Problem
from tpg.rollouts import Rollouts, per_prompt


class Sweep:
    """The classes of all responses, by dynamic programming on the tree.  Memory: a few numbers per prefix.

    ``fields`` [P, K] what peers see of a class; ``mass`` q_k [P, K].  ``by_power``: functions 1, r, r² of r = R − E R
    in place of one indicator per class, for leave-one-out credits; their ``mass`` is 1, 0, Var R.
    """

    def __init__(self, problem: Problem, estimator: Estimator, group_size: int, by_power: bool = False) -> None:
        self.problem, self.estimator, self.group_size = problem, estimator, group_size
        self.own_needs = frozenset().union(*(reads(part) for part in estimator.parts if not peers_of(part)))
        self.given = per_prompt(problem, self.own_needs, estimator.given, group_size)
        self.weights: dict[tuple[int, int], Any] = {}  # by level and prompt, where the same for all their responses
        self.centre = problem.expected_reward if by_power else None
        names = () if by_power else class_fields(estimator)
        self.ends = problem.endings if "reward" in names else problem.plain_endings
        lengths = range(1, problem.horizon + 1) if "length" in names else [None]
        self.kinds = [[(k, n) for k in range(len(mine)) for n in lengths] for mine in self.ends.rewards]
        self.classes = 3 if by_power else max(len(kinds) for kinds in self.kinds)
        self.fields = {name: self._field(name == "length") for name in names}
        self.mass = self._power_mass() if by_power else self._mass()
        self.swept = self.classes - self._balanced()

    def _field(self, length: bool) -> Array:
        """[P, K] the reward or the length of each class; unused places repeat the first."""
        both = zip(self.kinds, self.ends.rewards, strict=True)
        values = [[n if length else mine[k] for k, n in kinds] for kinds, mine in both]
        padded = [row + row[:1] * (self.classes - len(row)) for row in values]
        return np.array(padded) if length else self.problem.field.array(padded)

    def _mass(self) -> Array:
        out = self.problem.field.zeros((self.problem.prompts, self.classes))
        for mine, kinds, mass in zip(out, self.kinds, self.ends.mass, strict=True):
            mine[: len(kinds)] = [mass[k].sum() if n is None else mass[k, n - 1] for k, n in kinds]
        return out

    def _power_mass(self) -> Array:
        out = self.problem.field.zeros((self.problem.prompts, 3))
        for block in ending_blocks(self.problem):
            chance = self.problem.prefixes.reach[block.rows] * self.problem.sampling[block.rows].T
            out[block.prompt] += self._powers(block).reshape(3, -1) @ chance.ravel()
        return out

    def _balanced(self) -> bool:
        """On-policy and with one weight w for all, Σ_k m_k = w E[Z] = 0: the last class is what the others leave."""
        leaves = sum(not full for full in self.problem.tree.full)
        varies = self.own_needs - {"length"} if leaves == 1 else self.own_needs
        plain = self.problem.behaviour is None and self.problem.tabular
        return plain and not varies and self.centre is None and self.classes > 1

    # -- one block -----------------------------------------------------------------------------------------------------

    def _powers(self, block: Block) -> Array:
        """1, r, r² [3, V, n] where responses end."""
        ends, totals = self.ends.place[block.rows].T >= 0, totals_of(self.problem, block)
        out = self.problem.field.zeros((3, *totals.shape))
        assert self.centre is not None
        out[0], out[1] = ends, np.where(ends, totals - self.centre[block.prompt], out[1])
        np.multiply(out[1], out[1], out=out[2])
        return out

    def _ending(self, block: Block, weight: Any) -> Array:
        """w 1_k [swept, V, n] where responses end, 0 elsewhere."""
        if self.centre is not None:
            return self._powers(block) * weight
        place = self.ends.place[block.rows].T
        out, kinds = np.empty((self.swept, *place.shape), self.mass.dtype), self.kinds[block.prompt]
        for mine, (k, length) in zip(out, kinds, strict=False):
            here = place == k if length in (None, block.t + 1) else np.zeros(place.shape, bool)
            np.multiply(here, weight, out=mine)
        out[len(kinds) :] = self.problem.field.scalar(0)
        return out

    def _weight(self, block: Block) -> Any:
        """Own weight w of the responses that end here: a number, or [V, n] where they differ."""
        problem, place = self.problem, (block.t, block.prompt)
        if place in self.weights:
            return self.weights[place]
        fields: dict[str, Any] = {name: table[block.prompt] for name, table in self.given.items()}
        if "reward" in self.own_needs:
            fields["reward"] = totals_of(problem, block)[..., None]
        fields["length"] = np.full((1, 1, 1), block.t + 1)
        alone = Rollouts(self.group_size, problem.horizon, problem.discount, **fields)
        weight = self.estimator.terms[0].own(alone)[..., 0, 0]
        if weight.size == 1:  # a number, which multiplies tables faster than an array does
            weight = self.weights[place] = weight.item()
        return weight

    # -- whole tree ----------------------------------------------------------------------------------------------------

    def mean(self, alpha: Array) -> Array:
        """Σ_k α_k m_k for ``alpha`` [P, 1, K], as ``Problem.pull`` lays it out; ``square`` n_k [P, K] and ``gram``
        ⟨m_k, m_l⟩ [P, K, K] are filled on the way."""
        alpha, zeros = alpha[:, 0], self.problem.field.zeros
        self.square, self.gram = zeros(self.mass.shape), zeros((*self.mass.shape, self.classes))
        if not self.problem.tabular:
            return self._shared(alpha)
        if self.swept < self.classes:
            alpha = alpha[:, :-1] - alpha[:, -1:]
        out = self._go_up(alpha)
        if self.swept < self.classes:
            self.square[:, -1] -= self.square[:, :-1].sum(1)
            self.gram[:, -1, :-1] = self.gram[:, :-1, -1] = -self.gram[:, :-1, :-1].sum(2)
            self.gram[:, -1, -1] = self.gram[:, :-1, :-1].sum((1, 2))
        return out

    def _shared(self, alpha: Array) -> Array:
        """The same for shared parameters: Z of every response that ends in a block is at hand."""
        problem = self.problem
        parts = problem.field.zeros((*self.mass.shape, problem.parameters))
        for block in ending_blocks(problem):
            weight, rows, mine = self._weight(block), block.rows, block.prompt
            chance = (problem.prefixes.reach[rows] * problem.sampling[rows].T).ravel()
            member = self._ending(block, weight).reshape(self.classes, -1) * chance
            whole = (problem.prefixes.path[rows] + problem.scores[rows].transpose(1, 0, 2)).reshape(len(chance), -1)
            parts[mine] += member @ whole
            heavy = np.broadcast_to(weight, (problem.vocab, rows.stop - rows.start)).ravel() * (whole * whole).sum(-1)
            self.square[mine] += member @ heavy
        self.gram = parts @ parts.transpose(0, 2, 1)
        return np.asarray((alpha[:, :, None] * parts).sum(1))

    def _go_up(self, alpha: Array) -> Array:
        """X_k(s, b) and from it all of m, level by level; Σ_k α_k m_k is returned."""
        problem, below = self.problem, self.problem.field.zeros((self.swept, 0))
        out = np.empty_like(problem.probs)
        for level in reversed(problem.blocks):
            first = level[0].rows.start
            here = np.empty((self.swept, level[-1].rows.stop - first), dtype=below.dtype)
            for block in level:
                rows, probs = block.rows, problem.probs[block.rows].T
                part = self._onward(block, below[:, block.below])
                for k, mine in enumerate(part):  # in place: fresh memory costs more than arithmetic
                    total = here[k, rows.start - first : rows.stop - first] = mine.sum(0)
                    mine -= probs * total
                part *= problem.prefixes.reach[rows]
                flat = part.reshape(self.swept, -1)
                self.gram[block.prompt, : self.swept, : self.swept] += flat @ flat.T
                if self.swept == 1:
                    np.multiply(part[0], alpha[block.prompt, 0], out=out[rows].T)
                else:
                    out[rows] = np.tensordot(alpha[block.prompt], part, 1).T
            below = here
        return out

    def _onward(self, block: Block, below: Array) -> Array:
        """μ_b X(s, b) [swept, V, n] for each token of a block."""
        tree, rows = self.problem.tree, block.rows
        sampling = self.problem.sampling[rows].T
        if tree.full[block.t]:
            shape = (self.swept, rows.stop - rows.start, tree.vocab)
            return np.multiply(below.reshape(shape).transpose(0, 2, 1), sampling, order="C")
        weight = self._weight(block)
        out = self._ending(block, weight)
        out *= sampling
        self._add_square(block, weight, out)
        if below.shape[1]:
            leads = tree.inner[rows]
            out.transpose(0, 2, 1)[:, leads] = below * sampling.T[leads]
        return out

    def _add_square(self, block: Block, weight: Any, chance: Array) -> None:
        """n_k += Σ P(W) w² 1_k ‖Z‖² of the responses that end in a block; ``chance`` [swept, V, n] holds μ w 1_k."""
        problem, known = self.problem, self.problem.prefixes
        probs, reach = problem.probs[block.rows].T, known.reach[block.rows]
        same = row_dot(probs, probs)
        whole = known.path[block.rows] + 1 + same  # with token b: ‖Z‖² = whole − 2π_b
        for k, mine in enumerate(chance):
            heavy, factor = (mine * weight, 1) if np.ndim(weight) else (mine, weight)
            rows = whole * heavy.sum(0) - 2 * row_dot(probs, heavy)
            self.square[block.prompt, k] += factor * (reach @ rows)
        if self.swept < self.classes:  # all of them, from which the others are taken at the end
            if block.t < problem.horizon - 1:
                leads = np.where(problem.tree.inner[block.rows].T, probs, probs - probs)
                whole, same = whole * (1 - leads.sum(0)), same - row_dot(leads, leads)
            self.square[block.prompt, -1] += weight * weight * (reach @ (whole - 2 * same))
