"""What the checks on dense rewards share: rewards d_t in numbers, rows made of them, and what credits come to.

The truth side is :func:`met`, :func:`left` and :func:`value_to_go`, response by response, and the judge through
``common.gradient``; the accused are the parts of ``tpg.estimators.dense``, looked up when a check runs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np

from paper_checks.common import expectation
from tpg.estimators import dense
from tpg.estimators.estimator import Estimator
from tpg.estimators.parts import Part, apply, reads
from tpg.numbers import Array
from tpg.problem.problem import Problem
from tpg.problem.zoo import residues
from tpg.rollouts import Critic, Given, responses

Table = Callable[[Problem], Array]  # numbers of a problem


@dataclass(frozen=True, eq=False)
class Dense:
    """A dense reward: its part, and what it reads of a model [N, V] and says of the prompts [P]."""

    part: Part
    model: Table | None = None
    constant: Table | None = None

    def given(self, critic: Critic | None = None) -> Given:
        """The same for the rollouts."""
        said = self.constant
        return Given(critic, self.model, None if said is None else lambda problem, group_size: said(problem))

    def row(self, how: Part, critic: Critic | None = None) -> Estimator:
        """The estimator whose credit is ``how`` of it."""
        constant = self.given().constant
        part = dense.composed(self.part, how)
        return Estimator(part.__name__, part, critic=critic, model=self.model, constant=constant)

    def numbers(self, problem: Problem) -> Array:
        """[R, T] d_t on every response."""
        singles = responses(problem, self.given())
        return apply(self.part, singles.group(np.arange(len(singles.node))[:, None], reads(self.part)))[:, 0]

    def to_go(self, problem: Problem) -> Array:
        """[D] E ĝ of reward-to-go."""
        return expectation(problem, self.row(dense.to_go))

    def full(self, problem: Problem) -> Array:
        """[D] E ĝ of the full sum."""
        return expectation(problem, self.row(dense.full))

    def gae(self, problem: Problem, lam: Any, critic: Critic | None = None) -> Array:
        """[D] E ĝ of GAE(λ), by default with its own exact critic."""
        value = value_to_go(problem, self.numbers(problem)) if critic is None else critic(problem)
        return expectation(problem, self.row(bootstrapped(lam), lambda _: value))


def bootstrapped(lam: Any) -> Part:
    """GAE(λ) as a way to return."""

    def gae(paid: Array, mask: Array, value: Array) -> Array:
        return dense.gae(paid, mask, value, lam=lam)

    return gae


def given(problem: Problem, numbers: Array) -> Dense:
    """The dense reward that is ``numbers`` [R, T] and nothing else: whatever rule may have made them, causal or not."""
    singles = responses(problem)
    which = np.zeros(problem.probs.shape, dtype=np.int64)
    which[singles.last] = np.arange(len(singles.node))  # a response is told by its last prefix and token

    def part(prefix: Array, tokens: Array, length: Array) -> Array:
        last = length[..., None] - 1
        node, token = (np.take_along_axis(field, last, -1)[..., 0] for field in (prefix, tokens))
        return numbers[which[node, token]]

    return Dense(part)


def free(problem: Problem, name: str, *shape: int) -> Array:
    """Numbers that a statement holds for whatever they are; every name, and every point of GF(p), has its own."""
    seed = int(sha256((problem.digest + name).encode()).hexdigest()[:15], 16)
    return residues(np.random.Generator(np.random.Philox(seed)), shape, problem.field)


def any_reward(problem: Problem) -> Array:
    """[R, T] free numbers, 0 after the end."""
    mask = responses(problem).mask
    return np.where(mask, free(problem, "dense", *mask.shape), problem.field.scalar(0))


def any_split(problem: Problem) -> Array:
    """[R, T] free numbers that sum to RM(W) on every response."""
    singles, out = responses(problem), any_reward(problem)
    rows, last = np.arange(len(out)), singles.length - 1
    out[rows, last] = out[rows, last] + singles.reward - out.sum(1)
    return out


def any_table(problem: Problem) -> Array:
    """[N, V] free numbers: what a process reward model may say of W_{0,t}."""
    return free(problem, "model", *problem.probs.shape)


def any_constant(problem: Problem) -> Array:
    """[P] free numbers: what it may say of the prompts."""
    return free(problem, "prompt", problem.prompts)


def ending_as(end: Table) -> Table:
    """[N, V] free numbers on unfinished prefixes, ``end`` [N, V] on whole responses."""
    return lambda problem: np.where(problem.tree.inner, any_table(problem), end(problem))


def summed(problem: Problem, table: Array) -> Array:
    """[N, V] Σ of ``table`` over the tokens so far."""
    out, past_sum = table.copy(), problem.field.zeros(problem.prompts)
    for t in range(problem.horizon):
        rows = problem.tree.at(t)
        out[rows] = table[rows] + past_sum[:, None]
        past_sum = out[rows][problem.tree.inner[rows]]
    return out


def past(numbers: Array) -> Array:
    """[R, T] D_{<t} = Σ_{k<t} d_k."""
    return np.add.accumulate(numbers, axis=1) - numbers


def left(numbers: Array) -> Array:
    """[R, T] Σ_{k≥t} d_k."""
    return numbers.sum(1, keepdims=True) - past(numbers)


def at_prefix(problem: Problem, value: Array) -> Array:
    """[N] E[value_t | s_t = s] of numbers [R, T] along the responses."""
    singles, out = responses(problem), problem.field.zeros(problem.tree.nodes)
    rows, t = np.nonzero(singles.mask)
    chance = singles.probability[:, None] * value
    np.add.at(out, singles.node[rows, t], chance[rows, t])
    return out / problem.reach


def value_to_go(problem: Problem, numbers: Array) -> Array:
    """[N] V(s) = E[Σ_{k≥t} d_k | s]: the exact critic of a dense reward [R, T]."""
    return at_prefix(problem, left(numbers))


def met(problem: Problem, credit: Array) -> Array:
    """[D] Σ_W P(W) Σ_t credit_t S_t of credits [R, T], response by response."""
    singles, table = responses(problem), problem.field.zeros(problem.probs.shape)
    rows, t = np.nonzero(singles.mask)
    chance = singles.probability[:, None] * credit
    np.add.at(table, (singles.node[rows, t], singles.token[rows, t]), chance[rows, t])
    return problem.combine(problem.pull(table))


def spoken(problem: Problem, table: Array) -> Array:
    """[R, T] a table [N, V] read along the responses, 0 after the end."""
    singles = responses(problem)
    return np.where(singles.mask, table[singles.node, singles.token], problem.field.scalar(0))
