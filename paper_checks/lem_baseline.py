"""lem:baseline: a baseline that depends on the prefix alone adds nothing in expectation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from paper_checks.common import PAPER, both, expectation, row
from tpg.claims import Claim, Finding, zero
from tpg.claims.record import Check
from tpg.estimators.estimator import Estimator
from tpg.numbers import Array
from tpg.problem.problem import Problem
from tpg.problem.zoo import residues


def any_function_of_the_prefix(problem: Problem) -> Array:
    """[N] an arbitrary b(prefix): independent random numbers."""
    return residues(np.random.Generator(np.random.Philox(7)), (problem.tree.nodes,), problem.field)


def before(value: Array) -> Array:
    """Credit b(W_{0,t−1})."""
    return value[..., :-1]


def after(value: Array) -> Array:
    """Mutant: b reads the token it is the baseline of, b(W_{0,t})."""
    return value[..., 1:]


def with_length(value: Array, length: Array) -> Array:
    """Mutant: b reads the length of the finished response."""
    return value[..., :-1] * length[..., None]


def vanishes(estimator: Estimator) -> Check:
    """E Σ_t b S_t = 0."""

    def check(problem: Problem) -> Sequence[Finding]:
        return [zero("E Σ_t b(W_{0,t−1}) S_t = 0 for an arbitrary b", expectation(problem, estimator))]

    return check


def every_prefix(problem: Problem) -> Sequence[Finding]:
    """E[S_t | prefix] = 0 at every single prefix, so for every b at once."""
    if problem.features is None:
        return [zero("E[S_t | prefix] = 0", problem.pull(problem.probs).ravel())]
    return [zero("E[S_t | prefix] = 0", (problem.probs[:, :, None] * problem.scores).sum(1))]


def free_coordinates(problem: Problem) -> Sequence[Finding]:
    """Mutant: probabilities differentiated as if they were free, score 1[a=b]/π_b."""
    return [zero("E[score] = 0 in free coordinates", problem.probs / problem.probs)]


CLAIM = Claim(
    label="lem:baseline",
    statement="E Σ_t b(W_{0,t−1}) S_t = 0 for every function b of the prefix",
    source=f"{PAPER}; ledger 1",
    hypotheses=("b does not look at w_t or later", "responses come from the current policy"),
    check=both(vanishes(row(before, any_function_of_the_prefix)), every_prefix),
    mutants={
        "b reads its own token": vanishes(row(after, any_function_of_the_prefix)),
        "b reads the final length": vanishes(row(with_length, any_function_of_the_prefix)),
        "free simplex coordinates": free_coordinates,
    },
)
