"""V^{T−1} prefixes give ∇J over all V^T responses: theory.md §6, by four roads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from torch import Tensor

from paper_checks.neural.common import ROUNDINGS, near
from tpg import truth
from tpg.claims import Claim, Finding
from tpg.neural import enumeration, exact
from tpg.neural.case import Case
from tpg.neural.task import Task

STEP = 1e-4  # of the difference quotient
ENUMERABLE = 10**6  # responses: more are compared by difference quotients alone


def by_enumeration(case: Case) -> Sequence[Finding]:
    """Every response run from its start and J differentiated as it stands."""
    if case.task.responses > ENUMERABLE:
        return []
    objective, g = enumeration.gradient(case.network, case.task)
    size = float(g.norm())
    return [
        near(case, "streamed J = Σ_W P(W) RM(W)", case.exact.objective - objective, 1 + abs(objective)),
        near(case, "streamed g = differentiated sum over every response", (case.exact.flat - g).norm().cpu(), size),
    ]


def by_the_judge(case: Case) -> Sequence[Finding]:
    """The judge's recursion on the network as a Problem, whose scores come from forward mode."""
    judged = case.problem.combine(truth.gradient(case.problem))
    return [near(case, "⟨streamed g, v⟩ = ⟨the judge's g, v⟩ by forward mode", judged - case.g, np.abs(case.g).max())]


def by_differences(case: Case) -> Sequence[Finding]:
    """J moved along g: the quotient misses |g| by h² times a third derivative; two steps show that, and its size."""
    if case.task.responses > ENUMERABLE or case.eps > 1e-10:
        return []
    quotients = [enumeration.difference(case.network, case.task, case.along[0], h) for h in (STEP, 2 * STEP)]
    error = (quotients[1] - quotients[0]) / 3  # Richardson: what is left in the finer one
    left = quotients[0] - error - case.g[0]
    bound = ROUNDINGS * case.eps / STEP + abs(error) / 10
    return [Finding("(J(θ+hv) − J(θ−hv)) / 2h → |g| along g", abs(left) <= bound, f"{left:.1e}, allowed {bound:.1e}")]


def check(case: Case) -> Sequence[Finding]:
    """All roads."""
    return [*by_enumeration(case), *by_the_judge(case), *by_differences(case)]


def of(change: Callable[[Task], Task]) -> Callable[[Case], Sequence[Finding]]:
    """Mutant: the streamed gradient of another task, held against the judge."""

    def mutant(case: Case) -> Sequence[Finding]:
        judged = case.problem.combine(truth.gradient(case.problem))
        found = exact.gradient(case.network, change(case.task)).flat
        return [near(case, "g of another task", judged - (case.along @ found).cpu().numpy(), np.abs(judged).max())]

    return mutant


def late(task: Task) -> Task:
    """Every token is paid what the one before it was worth."""

    def reward(prompt: Tensor, tokens: Tensor) -> Tensor:
        return task.reward(prompt, tokens.roll(1, 1))

    return replace(task, reward=reward)


CLAIM = Claim(
    label="neural:exact-gradient",
    statement="one backward pass over V^(T−1) prefixes, in pieces, is ∇J over all V^T responses of a transformer",
    source="theory.md §6",
    hypotheses=("the transformer is causal", "rewards are causal and deterministic"),
    check=check,
    mutants={
        "another discount": of(lambda task: replace(task, discount=task.discount**2 * 0.99)),
        "prompts weighed the other way": of(lambda task: replace(task, weights=task.weights[::-1])),
        "rewards one token late": of(late),
    },
    algebraic=False,
)
