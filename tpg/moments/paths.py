"""Classes from enumerated responses: for credits that differ from token to token, and for full covariances."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np

from tpg.estimators.estimator import Estimator
from tpg.estimators.parts import RESPONSE_LEVEL, apply, lacking, peers_of, reads, worth_of
from tpg.moments import noise
from tpg.moments.brute import token_scores
from tpg.moments.coupling import Coupling
from tpg.numbers import Array, dot
from tpg.problem.problem import Problem
from tpg.rollouts import PER_PROMPT, Rollouts, per_prompt, responses


def class_fields(estimator: Estimator) -> list[str]:
    """What tells classes apart: every response-level field that a coupled factor reads."""
    coupled = [part for part in estimator.parts if peers_of(part)]
    names = frozenset().union(*(reads(part) for part in coupled))
    return sorted(names & RESPONSE_LEVEL - set(PER_PROMPT))


def settings_of(problem: Problem, estimator: Estimator, group_size: int, prompt: int) -> dict[str, Any]:
    """What every response of a prompt's group has in common, by Rollouts field."""
    table = per_prompt(problem, estimator.needs, estimator.given, group_size)
    given = {name: numbers[prompt : prompt + 1] for name, numbers in table.items()}
    return {"group_size": group_size, "horizon": problem.horizon, "discount": problem.discount, **given}


class Paths:
    """The classes of all responses, with every response held as a path.  Memory: responses × tokens."""

    def __init__(self, problem: Problem, estimator: Estimator, group_size: int) -> None:
        self.problem, self.estimator, self.group_size = problem, estimator, group_size
        self.singles = responses(problem, estimator.given)
        self.weight = self._weight(self._alone()).transpose(1, 0, 2)  # [F, R, T]
        self._classify(class_fields(estimator))

    def _alone(self) -> Rollouts:
        """Every response as a group of its own."""
        return self.singles.group(np.arange(len(self.singles.node))[:, None], self.estimator.needs, self.group_size)

    def _weight(self, alone: Rollouts) -> Array:
        """Own factors of the credits [R, F, T], one per term."""
        assert alone.mask is not None
        own = [np.broadcast_to(term.own(alone), alone.mask.shape)[:, 0] for term in self.estimator.terms]
        return np.where(alone.mask, np.stack(own, axis=1), self.problem.field.scalar(0))

    def slopes(self) -> Iterator[noise.Slope]:
        """The same per unit of each continuation value."""
        yield from noise.slopes(self.estimator.name, self._weight, self._alone(), noise.fields_of(self.estimator))

    def uses(self) -> Array:
        """[R, T+1] how many continuation values each response reads at each position."""
        out = np.zeros((len(self.singles.node), self.problem.horizon + 1), dtype=int)
        for found in self.slopes():
            out[:, found.place[1]] += (found.slope != 0).any((1, 2))
        return out

    def _noisy(self) -> Iterator[tuple[Array, Any]]:
        """Own factors [F, R, T], and those of the noise of each continuation value with its variance [R]."""
        yield self.weight, 1
        if self.estimator.continuations is not None:
            spread = noise.spread_of(self.singles, self.estimator)
            for found in self.slopes():
                yield found.slope.transpose(1, 0, 2), spread[:, found.place[1]]

    def _classify(self, names: list[str]) -> None:
        """``code`` [R] numbers the classes of each prompt from 0; ``fields`` [P, K] what peers see of them."""
        prompt, columns = self.singles.prompt, {name: getattr(self.singles, name) for name in names}
        for name, column in columns.items():
            if column is None:
                raise lacking(self.estimator.name, name)
        digits = [np.unique(self.problem.field.key(c), return_inverse=True)[1].ravel() for c in columns.values()]
        _, first, group = np.unique(np.stack([prompt, *digits]), axis=1, return_index=True, return_inverse=True)
        owner = prompt[first]  # classes come sorted by prompt
        place = np.arange(len(first)) - np.searchsorted(owner, owner)
        self.code, self.classes = place[group.ravel()], int(place.max()) + 1
        self.fields = {name: np.full((self.problem.prompts, self.classes), c[0]) for name, c in columns.items()}
        for name, column in columns.items():
            self.fields[name][owner, place] = column[first]

    def _tally(self, values: Array) -> Array:
        """Σ of ``values`` [R] by prompt and class: [P, K]."""
        out = self.problem.field.zeros((self.problem.prompts, self.classes))
        np.add.at(out, (self.singles.prompt, self.code), values)
        return out

    @cached_property
    def mass(self) -> Array:
        return self._tally(self.singles.probability)

    @cached_property
    def square(self) -> Array:
        """n = E[⟨U_f, U_g⟩; class k] [P, F, F, K]."""
        singles, terms = self.singles, range(len(self.weight))
        out = self.problem.field.zeros((self.problem.prompts, len(terms), len(terms), self.classes))
        for weight, variance in self._noisy():
            both = self._vectors(weight) if self.problem.features is not None else None
            for f, g in itertools.product(terms, terms):
                product = dot(weight[f] * weight[g], self._norm2) if both is None else dot(both[f], both[g])
                out[:, f, g] += self._tally(singles.probability * variance * product)
        return out

    @cached_property
    def _norm2(self) -> Array:
        """‖S_t‖² [R, T] of tabular scores, those of different prefixes orthogonal: ‖e_b − π‖²."""
        probs, singles = self.problem.probs, self.singles
        norm2 = 1 - 2 * probs + dot(probs, probs)[:, None]
        return np.where(singles.mask, norm2[singles.node, singles.token], self.problem.field.scalar(0))

    @cached_property
    def _scores(self) -> Array:
        return token_scores(self.singles)

    def _vectors(self, weight: Array) -> Array:
        """Σ_t w_t S_t [F, R, D] of every response: U for ``weight`` itself."""
        return np.stack([(own[:, :, None] * self._scores).sum(1) for own in weight])

    @cached_property
    def _parts(self) -> Array:
        """m, as ``Problem.pull`` lays it out, per term and class: [F·K, N, V] or [F·K, P, d]."""
        problem, singles = self.problem, self.singles
        table = problem.field.zeros((len(self.weight), self.classes, *problem.probs.shape))
        rows, t = np.nonzero(singles.mask)
        where = self.code[rows], singles.node[rows, t], singles.token[rows, t]
        for out, weight in zip(table, self.weight, strict=True):
            np.add.at(out, where, singles.probability[rows] * weight[rows, t])
        return np.stack([problem.pull(coefficient) for out in table for coefficient in out])

    @cached_property
    def gram(self) -> Array:
        """⟨m_j, m_l⟩ [P, F·K, F·K]."""
        problem, parts = self.problem, self._parts
        out = problem.field.zeros((problem.prompts, len(parts), len(parts)))
        for prompt in range(problem.prompts):
            own = parts[:, problem.tree.prompt == prompt] if problem.tabular else parts[:, prompt]
            flat = own.reshape(len(parts), -1)
            out[prompt] = flat @ flat.T
        return out

    def mean(self, alpha: Array) -> Array:
        """Σ α m for ``alpha`` [P, F, K], as ``Problem.pull`` lays it out."""
        owner = self.problem.tree.prompt if self.problem.tabular else np.arange(self.problem.prompts)
        flat = alpha.reshape(len(alpha), -1)
        return np.asarray((flat.T[:, owner, None] * self._parts).sum(0))

    def covariance(self, couplings: list[Coupling]) -> Array:
        """[D, D] covariance of Σ_x weight(x) ĝ_x."""
        size, weights, terms = self.problem.parameters, self.problem.weights, range(len(self.weight))
        out = self.problem.field.zeros((size, size))
        noisy = [(self._vectors(weight), variance) for weight, variance in self._noisy()]
        for prompt, c in enumerate(couplings):
            mine = self.singles.prompt == prompt
            chance, code = self.singles.probability[mine], self.code[mine]
            parts = self.problem.field.zeros((len(self.weight), self.classes, size))
            for f in terms:
                np.add.at(parts[f], code, chance[:, None] * noisy[0][0][f, mine])
            flat = parts.reshape(-1, size)
            each = flat.T @ c.spread @ flat
            for (vectors, variance), f, g in itertools.product(noisy, terms, terms):
                heavy = c.square[f, g][code] * (self.singles.probability * variance)[mine]
                each = each + (vectors[f, mine] * heavy[:, None]).T @ vectors[g, mine]
            out = out + weights[prompt] ** 2 * each
        return out


class Powers(Paths):
    """Functions 1, s, s² of s = S − E S in place of classes, for leave-one-out credits κ (S_i − mean of the others)."""

    def _classify(self, names: list[str]) -> None:
        worth = worth_of(self.estimator.advantage)
        assert worth is not None
        score = apply(worth, self._alone())[:, 0]
        chance, prompt = self.singles.probability, self.singles.prompt
        mean = self.problem.field.zeros(self.problem.prompts)
        np.add.at(mean, prompt, chance * score)
        off = score - mean[prompt]
        self.powers, self.classes = np.stack([off * 0 + 1, off, off * off]), 3
        self.fields: dict[str, Array] = {}

    def _tally(self, values: Array) -> Array:
        out = self.problem.field.zeros((self.problem.prompts, 3))
        for k, power in enumerate(self.powers):
            np.add.at(out[:, k], self.singles.prompt, values * power)
        return out

    @cached_property
    def _parts(self) -> Array:
        problem, singles = self.problem, self.singles
        rows, t = np.nonzero(singles.mask)
        where, chance = (singles.node[rows, t], singles.token[rows, t]), singles.probability[rows]
        out = []
        for power in self.powers:
            table = problem.field.zeros(problem.probs.shape)
            np.add.at(table, where, chance * power[rows] * self.weight[0, rows, t])
            out.append(problem.pull(table))
        return np.stack(out)
