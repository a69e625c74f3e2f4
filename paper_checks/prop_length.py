"""prop:length: 1/|o| and token-mean divisors turn the gradient when lengths vary; constant divisors do not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

import numpy as np

from paper_checks.common import both, expectation, gradient
from tpg.claims import Claim, Finding, nonzero, zero
from tpg.claims.record import Check
from tpg.estimators import advantages, aggregation
from tpg.estimators.estimator import Estimator
from tpg.estimators.parts import Part
from tpg.numbers import Array
from tpg.problem import zoo
from tpg.problem.problem import Problem

MEAN, LOO = advantages.group_mean, advantages.rloo


def row(advantage: Part, divisor: Part) -> Estimator:
    """An advantage under a divisor."""
    return Estimator("divided", advantage, divisor)


def paid(problem: Problem, worth: Array) -> Problem:
    """The problem whose response reward is ``worth`` [N, V] where responses end, and nothing before."""
    rewards = np.where(problem.tree.inner, problem.field.scalar(0), worth)
    return replace(problem, rewards=rewards, discount=problem.field.scalar(1), features=problem.features)


def covariance_form(size: int, sign: int = 1) -> Check:
    """E ĝ of (R − mean)/(G·L) is (G−1)/G {E[1/L] ∇J + ∇Cov(R, 1/L)}; every gradient by dual numbers."""

    def check(problem: Problem) -> Sequence[Finding]:
        inverse = 1 / problem.field.array(problem.tree.depth + 1)[:, None]
        ones = problem.field.ones(problem.probs.shape)
        with_inverse, both_ways = paid(problem, inverse * ones), paid(problem, inverse * problem.totals)
        prompts = slice(0, problem.prompts)
        expected_inverse, expected = with_inverse.values[1][prompts], problem.values[1][prompts]
        per_prompt = problem.tree.prompt if problem.tabular else np.arange(problem.prompts)
        of = {name: _by_prompt(made) for name, made in (("J", problem), ("i", with_inverse), ("b", both_ways))}
        inverse_mean, mean = expected_inverse[per_prompt, None], expected[per_prompt, None]
        slope = of["b"] - inverse_mean * of["J"] - mean * of["i"]  # ∇Cov(R, 1/L)
        wanted = problem.field.scalar(Fraction(size - 1, size)) * (inverse_mean * of["J"] + sign * slope)
        found = expectation(problem, row(MEAN, aggregation.seq_mean_token_mean), size)
        return [zero(f"E ĝ = (G−1)/G (E[1/L]∇J + ∇Cov(R, 1/L)), G = {size}", found - problem.combine(wanted))]

    return check


def _by_prompt(problem: Problem) -> Array:
    from tpg import truth

    return truth.by_dual_numbers(problem)


def along(advantage: Part, divisor: Part, factor: str, size: int) -> Check:
    """E ĝ = factor · g."""

    def check(problem: Problem) -> Sequence[Finding]:
        scale = problem.field.scalar(Fraction(factor) / (problem.horizon if divisor is NORM else 1))
        gap = expectation(problem, row(advantage, divisor), size) - scale * gradient(problem)
        return [zero(f"E ĝ = {factor}·g, G = {size}", gap)]

    return check


NORM = aggregation.seq_mean_token_sum_norm


def example() -> Sequence[Finding]:
    """The existential part: unequal lengths, both policies."""
    out = []
    for problem in (zoo.three_valued(), zoo.shared()):
        g = gradient(problem)
        for name, divisor in (("1/|o|", aggregation.seq_mean_token_mean), ("token-mean", aggregation.token_mean)):
            found = expectation(problem, row(LOO, divisor), 2)
            turned = (g @ g) * found - (g @ found) * g
            out.append(nonzero(f"{name} turns leave-one-out credits on {problem.name}", turned))
    return out


CLAIM = Claim(
    label="prop:length",
    statement="dividing by the own length gives (G−1)/G {E[1/L]∇J + ∇Cov(R, 1/L)}, and a token count may turn even "
    "leave-one-out credits; sums and constant divisors keep the direction",
    source="ours; the covariance form sharpens arXiv 2503.20783",
    hypotheses=("lengths vary", "responses of a group are independent draws from the current policy"),
    group_sizes=(2, 3),
    check=both(
        covariance_form(2),
        covariance_form(3),
        along(LOO, aggregation.seq_mean_token_sum, "1", 2),
        along(LOO, NORM, "1", 2),
        along(MEAN, NORM, "1/2", 2),
    ),
    example=example,
    mutants={
        "the covariance with the other sign": covariance_form(2, -1),
        "1/|o| keeps the direction": along(LOO, aggregation.seq_mean_token_mean, "1/2", 2),
        "token-mean keeps g/E[L]": along(LOO, aggregation.token_mean, "1/2", 2),
        "a mean baseline under a constant divisor is unbiased": along(MEAN, NORM, "1", 2),
    },
    needs=("prop:group-mean",),
    wording="averaging each response over its tokens (1/|o|) keeps the direction of the gradient",
    as_worded=along(LOO, aggregation.seq_mean_token_mean, "1/2", 2),
)
