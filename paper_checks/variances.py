"""What the checks on variance share: every response with its scores, what they average to, and Var ĝ by enumeration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from paper_checks.common import row
from tpg.claims import Finding
from tpg.estimators.estimator import Estimator
from tpg.moments import brute_force
from tpg.numbers import Array, dot
from tpg.problem.problem import Problem
from tpg.problem.zoo import residues
from tpg.rollouts import Responses, responses


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
    def earlier(self) -> Array:
        """[R, T, D] Z_{t−1}."""
        return self.upto - self.score

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
    def reward(self) -> Array:
        """[R, 1] RM(W), to stand beside tokens."""
        return self.paths.reward[:, None]

    @cached_property
    def step(self) -> Array:
        """[R, T] D_t = M_t − M_{t−1}, 0 after the end."""
        after, before = self.problem.values
        return self.along(after - before[:, None])

    @cached_property
    def slope(self) -> Array:
        """[N, D] g(s) = E[RM S | s]."""
        return self.at_prefix(self.reward[:, :, None] * self.score) / self.problem.reach[:, None]

    def along(self, table: Array) -> Array:
        """[R, T, …] a number per prefix [N], or per token [N, V], read along the responses; 0 after the end."""
        paths = self.paths
        read = table[paths.node] if table.ndim == 1 else table[paths.node, paths.token]
        return np.where(paths.mask, read, self.problem.field.scalar(0))

    def at_prefix(self, value: Array) -> Array:
        """[N, …] E[value_t; s_t = s] for numbers [R, T, …] along the responses."""
        rows, t = np.nonzero(self.paths.mask)
        out = self.problem.field.zeros((self.problem.tree.nodes, *value.shape[2:]))
        np.add.at(out, self.paths.node[rows, t], self._likely(value)[rows, t])
        return out

    def mean(self, value: Array) -> Array:
        """[P, …] E[value] of each prompt, for numbers [R, …] of whole responses."""
        out = self.problem.field.zeros((self.problem.prompts, *value.shape[1:]))
        np.add.at(out, self.paths.prompt, self._likely(value))
        return out

    def _likely(self, value: Array) -> Array:
        return self.paths.probability.reshape(-1, *[1] * (value.ndim - 1)) * value

    def price(self, table: Array, best: Array) -> Array:
        """[P] Σ_t E[(b_t − b*_t)² ‖S_t‖²] of baselines [N] against the best ones."""
        return self.mean((self.along((table - best) ** 2) * self.norm2).sum(1))

    @cached_property
    def joint_optimum(self) -> Array:
        """[N] b*(s) = E[RM S_t·Z | s] / E[‖S_t‖² | s]."""
        shared = dot(self.score, self.whole[:, None])
        return self.quotient(self.at_prefix(self.reward * shared), self.at_prefix(self.norm2))

    @cached_property
    def token_optimum(self) -> Array:
        """[N] E[RM ‖S_t‖² | s] / E[‖S_t‖² | s], each token on its own."""
        return self.quotient(self.at_prefix(self.reward * self.norm2), self.at_prefix(self.norm2))

    @cached_property
    def global_optimum(self) -> Array:
        """[P] b_g = E[RM ‖Z‖²] / E‖Z‖², the best single number of each prompt."""
        return self.quotient(self.mean(self.paths.reward * self.whole_norm2), self.mean(self.whole_norm2))

    def quotient(self, top: Array, bottom: Array) -> Array:
        """``top`` / ``bottom``; where no score is ever positive, ``bottom`` = 0, any number will do: M(s)."""
        return np.divide(top, bottom, out=self.problem.values[1][: len(top)].copy(), where=bottom != 0)

    def everywhere(self, number: Array) -> Array:
        """[N] a number per prompt [P] at every prefix of it."""
        return number[self.problem.tree.prompt]


def variance(problem: Problem, estimator: Estimator, group_size: int = 1) -> Array:
    """[P] total variance of ĝ of each prompt, by enumerating every group."""
    return brute_force(problem, estimator, group_size).variance


def return_less(reward: Array, value: Array) -> Array:
    """Credit RM − b(W_{0,t−1})."""
    return reward[..., None] - value[..., :-1]


def with_table(table: Array) -> Estimator:
    """RM less the baselines ``table`` [N]."""
    return row(return_less, lambda problem: table)


def arbitrary(problem: Problem, shape: tuple[int, ...]) -> Array:
    """Numbers drawn from all that defines the problem, so that every point of GF(p) brings its own."""
    return residues(np.random.Generator(np.random.Philox(int(problem.digest[:15], 16))), shape, problem.field)


def paying(problem: Problem, reward: Array) -> Problem:
    """The same policy paid ``reward`` [N, V] where responses end and nothing before, γ = 1."""
    paid = np.where(problem.tree.inner, problem.field.scalar(0), reward)
    return replace(problem, rewards=paid, discount=problem.field.scalar(1))


def one_right_response(problem: Problem) -> list[Problem]:
    """The same policy on every task with exactly one right response: reward 1 for it, 0 for all others."""
    out = []
    for node, token in np.argwhere(problem.ends):
        reward = problem.field.zeros(problem.probs.shape)
        reward[node, token] = problem.field.scalar(1)
        out.append(paying(problem, reward))
    return out


def never_below(what: str, values: Sequence[Any]) -> Finding:
    """No number of an ordered field is negative."""
    off = [value for value in values if value < 0]
    return Finding(what, not off, f"{len(off)} of {len(values)} negative" + (f": {off[0]}" if off else ""), len(values))
