"""What checks on rewards alone share: problems that pay something else, laws of rewards, counts of successes.

The truth side of these checks: nothing here reads an estimator.  Gradients come from the judge through
``common.gradient``, of a problem that pays what the statement says the estimator climbs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from math import comb
from typing import Any, NamedTuple

import numpy as np

from paper_checks import common
from tpg.numbers import Array
from tpg.problem.problem import Problem
from tpg.rollouts import Responses, responses


def paying(problem: Problem, worth: Array) -> Problem:
    """The same policy; its response reward is ``worth`` [N, V] where responses end, paid on the last token."""
    last = worth / problem.powers[problem.tree.depth][:, None]
    return replace(problem, rewards=np.where(problem.tree.inner, problem.field.scalar(0), last))


def two_valued(problem: Problem, low: int = 0, high: int = 1) -> Problem:
    """The same policy with response rewards ``low`` and ``high``, so that responses tie."""
    return _by_place(problem, [high, low])


def three_valued(problem: Problem, values: tuple[int, int, int] = (0, 1, 3)) -> Problem:
    """The same policy with three response rewards."""
    return _by_place(problem, list(values))


def _by_place(problem: Problem, values: list[int]) -> Problem:
    node, token = np.indices(problem.probs.shape)
    return paying(problem, problem.field.array(values)[(node + token) % len(values)])


def mean_reward(problem: Problem) -> Array:
    """[P] E[RM] of each prompt, response by response: the success probability where rewards are 0 and 1."""
    singles = responses(problem)
    return per_prompt(singles, singles.probability * singles.reward)


def per_prompt(singles: Responses, value: Array) -> Array:
    """[P, …] the sum of ``value`` [R, …] over the responses of each prompt."""
    out = singles.problem.field.zeros((singles.problem.prompts, *value.shape[1:]))
    np.add.at(out, singles.prompt, value)
    return out


def rated(problem: Problem, rate: Array) -> Array:
    """[D] Σ_x weight(x) rate_x ∇J_x, ``rate`` [P] a number per prompt that is not differentiated."""
    return common.gradient(replace(problem, rewards=rate[problem.tree.prompt][:, None] * problem.rewards))


def turned(found: Array, g: Array) -> Array:
    """(g·g) ``found`` − (g·``found``) g: 0 exactly when ``found`` is a multiple of g."""
    return (g @ g) * found - (g @ found) * g


# Laws of rewards


class Law(NamedTuple):
    """The rewards of one prompt: distinct ones with their probabilities [K], and which of them each response earns."""

    reward: Array
    chance: Array
    rows: Array  # [n] the responses of this prompt
    code: Array  # [n] which reward


def laws(singles: Responses) -> list[Law]:
    """The law of RM(W), prompt by prompt; rewards are told apart by equality alone, as in GF(p)."""
    out, key = [], singles.problem.field.key(singles.reward)
    for prompt in range(singles.problem.prompts):
        rows = np.flatnonzero(singles.prompt == prompt)
        _, first, code = np.unique(key[rows], return_index=True, return_inverse=True)
        chance = singles.problem.field.zeros(len(first))
        np.add.at(chance, code.ravel(), singles.probability[rows])
        out.append(Law(singles.reward[rows][first], chance, rows, code.ravel()))
    return out


def climbed(problem: Problem, worth: Callable[[Law], Array]) -> Array:
    """[D] Σ_x weight(x) Σ_r f(r) ∇P(r), f = ``worth`` [K] of each prompt's law, not differentiated; by the judge."""
    singles = responses(problem)
    ends = problem.field.zeros(problem.probs.shape)
    for law in laws(singles):
        node, token = (place[law.rows] for place in singles.last)
        ends[node, token] = worth(law)[law.code]
    return common.gradient(paying(problem, ends))


# Counts of successes


Rate = Callable[[Any, int], Any]  # (success probability p, group size G) → h'(p)
Weight = Callable[[int, int], Fraction]  # (successes k, group size G) → weight of a success, or of a failure


def bernstein(up: Array, down: Array, p: Any) -> Any:
    """h'(p) = Σ_s C(G−1, s) p^s (1−p)^{G−1−s} (u(s+1) + v(s)), from ``up`` = u(1 … G) and ``down`` = v(0 … G−1)."""
    size, out = len(up), p * 0
    for s in range(size):
        chance = p * 0 + comb(size - 1, s)
        for factor in [p] * s + [1 - p] * (size - 1 - s):
            chance = chance * factor
        out = out + chance * (up[s] + down[s])
    return out
