"""What several checks share: E ĝ by brute enumeration, held against a gradient by dual numbers."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from tpg import truth
from tpg.claims import Finding, zero
from tpg.claims.record import Check
from tpg.estimators.estimator import Estimator
from tpg.estimators.parts import Part, apply, reads
from tpg.moments import brute_force
from tpg.numbers import Array
from tpg.problem.problem import Problem
from tpg.rollouts import Critic, Given, Responses, responses

PAPER = "He, Xia, Zhou, Wei, arXiv 2506.02553"


def row(advantage: Part, critic: Critic | None = None) -> Estimator:
    """An estimator for one check: ``advantage`` summed over tokens, averaged over the group."""
    return Estimator(getattr(advantage, "__name__", "credit"), advantage, critic=critic)


def expectation(problem: Problem, estimator: Estimator, group_size: int = 1) -> Array:
    """E ĝ by enumerating every group, as one vector [D]."""
    return problem.combine(brute_force(problem, estimator, group_size).mean)


def gradient(problem: Problem) -> Array:
    """g by dual numbers, as one vector [D]."""
    return problem.combine(truth.by_dual_numbers(problem))


def unbiased(estimator: Estimator, group_size: int = 1, factor: Any = 1) -> Check:
    """The check E ĝ = factor · g."""

    def check(problem: Problem) -> Sequence[Finding]:
        scale = problem.field.scalar(Fraction(factor))
        gap = expectation(problem, estimator, group_size) - scale * gradient(problem)
        return [zero(f"E ĝ = {'' if factor == 1 else f'{factor}·'}g for {estimator.name}, G = {group_size}", gap)]

    return check


def on_paths(problem: Problem, part: Part, critic: Critic | None = None) -> tuple[Responses, Array]:
    """``part`` on every single response: the responses, and its value [R] or [R, T]."""
    singles = responses(problem, Given(critic))
    alone = singles.group(np.arange(len(singles.node))[:, None], reads(part))
    return singles, apply(part, alone)[:, 0]


def both(*checks: Check) -> Check:
    """All findings of several checks."""

    def check(problem: Problem) -> Sequence[Finding]:
        return [found for each in checks for found in each(problem)]

    return check
