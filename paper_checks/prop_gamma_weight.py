"""prop:gamma-weight: a terminal reward with γ ≠ 1 weights later tokens more, and follows no objective at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from paper_checks.common import PAPER, both, expectation, gradient, on_paths, row, unbiased
from tpg import truth
from tpg.claims import Claim, Finding, nonzero, zero
from tpg.claims.record import Check
from tpg.estimators import advantages
from tpg.estimators.expectations import of_effective_reward
from tpg.numbers import Array, powers
from tpg.problem import zoo
from tpg.problem.problem import Problem
from tpg.problem.tree import expect


def late_weight(power: int) -> Check:
    """The credit γ^{L−t} RM, on every response: γ^{L−1} RM times (1/γ)^{t−1} (``power`` = −1; +1 is the mutant)."""

    def check(problem: Problem) -> Sequence[Finding]:
        singles, credit = on_paths(problem, advantages.zra_discounted)
        _, first = on_paths(problem, advantages.zra_discounted_start)
        steps = powers(problem.discount, problem.horizon)
        weight = 1 / steps if power < 0 else steps
        gap = np.where(singles.mask, credit - first[:, None] * weight, 0)
        return [zero("credit = (1/γ)^{t−1} · γ^{L−1} RM on every token", gap)]

    return check


def penalised(problem: Problem) -> Problem:
    """The problem whose response reward is γ^{L−1} RM(W), paid on the last token."""
    rewards = np.where(problem.tree.inner, problem.field.scalar(0), problem.totals)  # r_L = RM, discounted by γ^{L−1}
    return replace(problem, rewards=rewards)


def length_penalty(problem: Problem) -> Sequence[Finding]:
    """With γ^{t−1} kept, E ĝ = ∇E[γ^{L−1} RM]."""
    estimate = expectation(problem, row(advantages.zra_discounted_start))
    return [zero("E[Σ_t γ^{L−1} RM S_t] = ∇E[γ^{L−1} RM]", estimate - gradient(penalised(problem)))]


def implemented(problem: Problem) -> Array:
    """E Σ_t γ^{L−t} RM S_t as a vector field of the policy, from the tree: γ^{L−t} RM is γ^{−(t−1)} · γ^{L−1} RM."""
    after, _ = expect(problem.tree, problem.probs, problem.powers[problem.tree.depth][:, None] * problem.totals)
    weight = 1 / problem.powers[problem.tree.depth]
    return problem.pull((weight * problem.reach)[:, None] * problem.probs * after)


def example() -> Sequence[Finding]:
    """The existential part."""
    shared, tabular = zoo.shared(), zoo.delayed_credit()
    out = []
    for problem in (shared, tabular):
        gap = expectation(problem, row(advantages.zra_discounted)) - gradient(problem)
        out.append(nonzero(f"biased on {problem.name}", gap))
        field = problem.combine(implemented(problem)) - expectation(problem, row(advantages.zra_discounted))
        out.append(zero(f"the field below is E ĝ on {problem.name}", field))
    small = zoo.random(3, vocab=2, horizon=3, prompts=1, shared=2, discount="9/10")
    out.append(nonzero("its curl is not 0: it is the gradient of no objective", truth.curl(small, implemented)))
    out.append(zero("the curl of ∇J is 0 (the test is able to say so)", truth.curl(small, truth.by_recursion)))
    kept = truth.curl(small, lambda p: of_effective_reward(p, p.powers[p.tree.depth][:, None] * p.totals))
    out.append(zero("with γ^{t−1} kept the curl is 0", kept))
    undiscounted = replace(small, discount=small.field.scalar(1))
    out.append(
        zero("γ = 1: unbiased", expectation(undiscounted, row(advantages.zra_discounted)) - gradient(undiscounted))
    )
    return out


def forgets_length(reward: Array, discount: Any, length: Array) -> Array:
    """Mutant: γ^L instead of γ^{L−1}."""
    return advantages.zra_discounted_start(reward, length, discount, int(length.max()) + 1) * discount


CLAIM = Claim(
    label="prop:gamma-weight",
    statement="ZRA with γ ≠ 1 weights token t by (1/γ)^{t−1}: in general biased, and the gradient of no objective; "
    "with γ^{t−1} kept it is ∇E[γ^{L−1} RM]",
    source=f"{PAPER}; the curl and the length penalty are ours; ledger 2",
    hypotheses=("the whole RM is paid on the last token", "γ ≠ 1"),
    check=both(late_weight(-1), length_penalty),
    example=example,
    mutants={
        "earlier tokens weigh more": late_weight(+1),
        "as implemented, unbiased": unbiased(row(advantages.zra_discounted)),
        "with γ^{t−1} kept, unbiased": unbiased(row(advantages.zra_discounted_start)),
        "penalty γ^L": lambda problem: [
            zero("E ĝ = ∇E[γ^L RM]", expectation(problem, row(forgets_length)) - gradient(penalised(problem)))
        ],
    },
    needs=("lem:exact-gradient",),
)
