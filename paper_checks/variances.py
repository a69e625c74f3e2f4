"""What the checks on variance share: every response with its scores, what they average to, and Var ĝ by enumeration."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from paper_checks.common import row
from tpg.estimators.estimator import Estimator
from tpg.estimators.parts import Part
from tpg.moments import brute_force
from tpg.numbers import Array, dot
from tpg.problem.problem import Problem
from tpg.problem.zoo import residues
from tpg.rollouts import Critic, Responses, responses


@dataclass(frozen=True, eq=False)
class Walks:
    """Every response W of a problem, with its scores from their definition S = φ(s, a) − E_π φ(s, ·)."""

    problem: Problem

    @cached_property
    def paths(self) -> Responses:
        """The responses."""
        return responses(self.problem)

    @cached_property
    def score(self) -> Array:
        """[R, T, D] S_t, 0 after the end; D all parameters."""
        problem, paths = self.problem, self.paths
        moves = problem.features
        if moves is None:  # a logit of its own for every token of every prefix
            moves = problem.field.zeros((problem.parameters, problem.parameters))
            np.fill_diagonal(moves, problem.field.scalar(1))
            moves = moves.reshape(*problem.probs.shape, problem.parameters)
        score = moves - (problem.probs[:, :, None] * moves).sum(1, keepdims=True)
        return np.where(paths.mask[:, :, None], score[paths.node, paths.token], problem.field.scalar(0))

    @cached_property
    def upto(self) -> Array:
        """[R, T, D] Z_t = S_1 + … + S_t."""
        return np.add.accumulate(self.score, axis=1)

    @cached_property
    def whole(self) -> Array:
        """[R, D] Z."""
        return self.score.sum(1)

    @cached_property
    def norm2(self) -> Array:
        """[R, T] ‖S_t‖²."""
        return dot(self.score, self.score)

    @cached_property
    def whole_norm2(self) -> Array:
        """[R] ‖Z‖²."""
        return dot(self.whole, self.whole)

    @cached_property
    def after(self) -> Array:
        """[R, T] M_t = E[RM | W_{0,t}]; 0 after the end."""
        zero = self.problem.field.scalar(0)
        return np.where(self.paths.mask, self.problem.values[0][self.paths.node, self.paths.token], zero)

    @cached_property
    def before(self) -> Array:
        """[R, T] M_{t−1} = V(s_t); 0 after the end."""
        return self.of(self.problem.values[1])

    @property
    def step(self) -> Array:
        """[R, T] D_t = M_t − M_{t−1}."""
        return self.after - self.before

    @cached_property
    def slope(self) -> Array:
        """[R, T, D] g(s_t) = E[RM S_t | s_t]; 0 after the end."""
        problem = self.problem
        mine = self.sum_at((self.paths.reward[:, None] * self.paths.mask)[:, :, None] * self.score)
        here = mine / problem.reach[:, None]
        return np.where(self.paths.mask[:, :, None], here[self.paths.node], problem.field.scalar(0))

    def of(self, table: Array) -> Array:
        """[R, T] a number per prefix, read along the responses; 0 after the end."""
        return np.where(self.paths.mask, table[self.paths.node], self.problem.field.scalar(0))

    def sum_at(self, value: Array) -> Array:
        """[N, …] Σ_W P(W) value(W, t) over the responses that pass each prefix s = s_t."""
        rows, t = np.nonzero(self.paths.mask)
        out = self.problem.field.zeros((self.problem.tree.nodes, *value.shape[2:]))
        chance = self.paths.probability.reshape(-1, *[1] * (value.ndim - 1))
        np.add.at(out, self.paths.node[rows, t], np.broadcast_to(chance * value, value.shape)[rows, t])
        return out

    def mean(self, value: Array) -> Array:
        """[P, …] E[value] of each prompt, for a number per response [R, …]."""
        out = self.problem.field.zeros((self.problem.prompts, *value.shape[1:]))
        np.add.at(out, self.paths.prompt, self.paths.probability.reshape(-1, *[1] * (value.ndim - 1)) * value)
        return out

    def price(self, table: Array, best: Array) -> Array:
        """[P] Σ_t E[(b_t − b*_t)² ‖S_t‖²] of a table of baselines against the best one."""
        return self.mean((self.of((table - best) ** 2) * self.norm2).sum(1))

    def joint_optimum(self) -> Array:
        """[N] b*(s) = E[RM S_t·Z | s] / E[‖S_t‖² | s]; M(s) where no score is ever positive and any number will do."""
        along = dot(self.score, self.whole[:, None])
        return self.quotient(self.sum_at(self.paths.reward[:, None] * along), self.sum_at(self.norm2))

    def token_optimum(self) -> Array:
        """[N] E[RM ‖S_t‖² | s] / E[‖S_t‖² | s], each token on its own."""
        return self.quotient(self.sum_at(self.paths.reward[:, None] * self.norm2), self.sum_at(self.norm2))

    def global_optimum(self) -> Array:
        """[P] E[RM ‖Z‖²] / E‖Z‖², the best single number of each prompt."""
        return self.quotient(self.mean(self.paths.reward * self.whole_norm2), self.mean(self.whole_norm2))

    def quotient(self, top: Array, bottom: Array) -> Array:
        """``top`` / ``bottom``, M(s) where ``bottom`` is 0."""
        return np.divide(top, bottom, out=self.problem.values[1][: len(top)].copy(), where=bottom != 0)

    def spread(self, table: Array) -> Array:
        """[N] a number per prompt at every prefix of it."""
        return table[self.problem.tree.prompt]


def variance(problem: Problem, estimator: Estimator, group_size: int = 1) -> Array:
    """[P] total variance of ĝ of each prompt, by enumerating every group."""
    return brute_force(problem, estimator, group_size).variance


def return_less(reward: Array, value: Array) -> Array:
    """Credit RM − b(W_{0,t−1})."""
    return reward[..., None] - value[..., :-1]


def with_table(table: Array, advantage: Part = return_less) -> Estimator:
    """The row with ``table`` [N] as its baseline."""

    def given(problem: Problem) -> Array:
        return table

    critic: Critic = given
    return row(advantage, critic)


def arbitrary(problem: Problem, shape: tuple[int, ...]) -> Array:
    """Numbers drawn from what defines the problem, so that every point of GF(p) brings its own."""
    seed: Any = int(problem.digest[:15], 16)
    return residues(np.random.Generator(np.random.Philox(seed)), shape, problem.field)
