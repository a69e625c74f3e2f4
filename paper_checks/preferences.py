"""What the checks on pairs and targets share: problems in float64 with a reference policy, its optimum, and KL.

The truth side: probabilities and logarithms of whole responses, without the code of ``tpg.estimators``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from paper_checks.spreads import met
from tpg.estimators.estimator import Estimator
from tpg.estimators.parts import Part
from tpg.numbers import FLOAT64, Array
from tpg.problem.problem import Problem
from tpg.rollouts import responses

STEP = 1e-20  # of complex steps: their error is its square


def mixed(probs: Array) -> Array:
    """[N, V] another policy of full support: π with its reverse."""
    return (probs + probs[:, ::-1]) / 2


def with_reference(problem: Problem) -> Problem:
    """The problem in float64 with a reference policy other than π."""
    given = problem.to(FLOAT64)
    return replace(given, reference=mixed(given.probs))


def at_reference(problem: Problem) -> Problem:
    """The problem in float64 with π for its reference policy."""
    given = problem.to(FLOAT64)
    return replace(given, reference=given.probs)


def optimum(problem: Problem, beta: float) -> Problem:
    """The same with π ∝ ref e^{RM/β} over whole responses, which the old π generates."""
    given = with_reference(problem)
    reference, tree, worth = given.reference, given.tree, given.totals.copy()
    assert reference is not None
    probs, below = np.empty_like(reference), worth[:0, 0]
    for t in reversed(range(given.horizon)):
        rows = tree.at(t)
        worth[rows] = tree.lift(below, t, worth[rows])
        odds = reference[rows] * np.exp(worth[rows] / beta)
        probs[rows] = odds / odds.sum(-1, keepdims=True)
        below = beta * np.log(odds.sum(-1))
    return replace(given, probs=probs, behaviour=given.probs)


def float_row(part: Part, **more: Part) -> Estimator:
    """A row that runs in float64 alone."""
    return Estimator(getattr(part, "__name__", "part"), part, numbers="float64", **more)  # type: ignore[arg-type]


def size(problem: Problem) -> float:
    """How large the terms of E ĝ are: rewards times scores."""
    moved = 1.0 if problem.features is None else float(np.abs(problem.features).max())
    return 10 * problem.horizon * (1 + moved) * (1 + float(np.abs(problem.totals).max()))


def kl_slope(problem: Problem) -> Array:
    """[D] ∇ Σ_x weight(x) KL(π‖ref | x) by complex steps: P (log P − log P_ref) itself, nothing held fixed."""
    singles, reference, out = responses(problem), problem.reference, np.zeros(problem.parameters)
    assert reference is not None
    moves = np.eye(problem.parameters).reshape(*problem.probs.shape, -1) if problem.tabular else problem.features
    assert moves is not None
    base = np.where(singles.mask, reference[singles.node, singles.token], 1).prod(1)
    for j in range(problem.parameters):
        odds = problem.probs * np.exp(1j * STEP * moves[:, :, j])
        taken = (odds / odds.sum(-1, keepdims=True))[singles.node, singles.token]
        chance = np.where(singles.mask, taken, 1).prod(1)
        out[j] = (problem.weights[singles.prompt] * chance * np.log(chance / base)).sum().imag / STEP
    return out


def scored(problem: Problem, rule: Callable[[Array, Array], Array]) -> Array:
    """[D] E[f(W) Z], f = ``rule``(P, RM) [n] from the probabilities and rewards of all responses of a prompt."""
    singles = responses(problem)
    worth = np.zeros(len(singles.node))
    for prompt in range(problem.prompts):
        mine = singles.prompt == prompt
        worth[mine] = rule(singles.probability[mine], singles.reward[mine])
    return met(problem, np.broadcast_to(worth[:, None], singles.mask.shape))


def last_of(problem: Problem, value: Array) -> Array:
    """[N, V] numbers [R] of whole responses where they end, 0 elsewhere."""
    out = np.zeros(problem.probs.shape)
    out[responses(problem).last] = value
    return out
