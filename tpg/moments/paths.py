"""Classes from enumerated responses: for credits that differ from token to token, and for full covariances."""

from __future__ import annotations

import itertools
from functools import cached_property
from typing import Any

import numpy as np

from tpg.estimators.estimator import Estimator
from tpg.estimators.parts import RESPONSE_LEVEL, peers_of, reads
from tpg.moments.brute import token_scores
from tpg.moments.coupling import Coupling
from tpg.numbers import Array, dot
from tpg.problem.problem import Problem
from tpg.rollouts import PER_PROMPT, per_prompt, responses


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
        self.problem = problem
        self.singles = responses(problem, estimator.given)
        alone = self.singles.group(np.arange(len(self.singles.node))[:, None], estimator.needs, group_size)
        own = [np.broadcast_to(term.own(alone)[:, 0], self.singles.mask.shape) for term in estimator.terms]
        self.weight = np.where(self.singles.mask, np.stack(own), problem.field.scalar(0))  # [F, R, T]
        self._classify(class_fields(estimator))

    def _classify(self, names: list[str]) -> None:
        """``code`` [R] numbers the classes of each prompt from 0; ``fields`` [P, K] what peers see of them."""
        prompt, columns = self.singles.prompt, {name: getattr(self.singles, name) for name in names}
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
        problem, singles, terms = self.problem, self.singles, range(len(self.weight))
        if problem.features is not None:
            products = [[dot(self._own[f], self._own[g]) for g in terms] for f in terms]
        else:
            norm2 = 1 - 2 * problem.probs + dot(problem.probs, problem.probs)[:, None]  # ‖e_b − π‖²
            along = np.where(singles.mask, norm2[singles.node, singles.token], problem.field.scalar(0))
            weight = self.weight  # scores of different prefixes are orthogonal
            products = [[dot(weight[f] * weight[g], along) for g in terms] for f in terms]
        tallies = [[self._tally(singles.probability * products[f][g]) for g in terms] for f in terms]
        return np.array(tallies, dtype=self.weight.dtype).transpose(2, 0, 1, 3)

    @cached_property
    def _own(self) -> Array:
        """U [F, R, D] of every response."""
        scores = token_scores(self.singles)
        return np.stack([(weight[:, :, None] * scores).sum(1) for weight in self.weight])

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
        for prompt, c in enumerate(couplings):
            mine = self.singles.prompt == prompt
            own, chance, code = self._own[:, mine], self.singles.probability[mine], self.code[mine]
            parts = self.problem.field.zeros((len(self.weight), self.classes, size))
            for f in terms:
                np.add.at(parts[f], code, chance[:, None] * own[f])
            flat = parts.reshape(-1, size)
            each = flat.T @ c.spread @ flat
            for f, g in itertools.product(terms, terms):
                each = each + (own[f] * (c.square[f, g][code] * chance)[:, None]).T @ own[g]
            out = out + weights[prompt] ** 2 * each
        return out
