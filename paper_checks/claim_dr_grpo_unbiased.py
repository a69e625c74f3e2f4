"""claim:dr-grpo-unbiased: Dr. GRPO is g up to the constant (G−1)/(G·T), and RLOO is g."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

from paper_checks.common import both, expectation, gradient, unbiased
from paper_checks.laws import turned
from tpg.claims import Claim, Finding, nonzero, zero
from tpg.claims.record import Check
from tpg.estimators import advantages, aggregation
from tpg.estimators.estimator import Estimator
from tpg.estimators.table import ESTIMATORS
from tpg.problem import zoo
from tpg.problem.problem import Problem

DR_GRPO, RLOO, MEAN = (ESTIMATORS[name] for name in ("dr_grpo", "rloo", "group_mean"))
MENDED = Estimator("leave-one-out over T", advantages.rloo, aggregation.seq_mean_token_sum_norm)


def scaled(row: Estimator, size: int, own: bool = True, horizon: bool = True) -> Check:
    """E ĝ = factor · g: (G−1)/G for the own reward in the mean, 1/T for the constant divisor."""

    def check(problem: Problem) -> Sequence[Finding]:
        factor = Fraction(size - 1 if own else size, size) / (problem.horizon if horizon else 1)
        gap = expectation(problem, row, size) - problem.field.scalar(factor) * gradient(problem)
        return [zero(f"E ĝ = {'(G−1)/G ' * own}{'/T ' * horizon}g for {row.name}, G = {size}", gap)]

    return check


def mean_length(problem: Problem) -> Sequence[Finding]:
    """Mutant: the constant is 1/E[L], as if the divisor were the mean length."""
    reach = problem.weights[problem.tree.prompt] * problem.reach
    tokens = reach.sum() * 2 * problem.field.scalar(1)
    return [zero("E ĝ = g/(2 E[L]), G = 2", tokens * expectation(problem, DR_GRPO, 2) - gradient(problem))]


def example() -> Sequence[Finding]:
    """What Dr. GRPO took out does turn the direction, and it puts nothing in that does."""
    out = []
    for problem in (zoo.three_valued(), zoo.shared()):
        g = gradient(problem)
        with_length = replace(DR_GRPO, aggregation=aggregation.seq_mean_token_mean)
        out += [
            zero(f"no direction changes on {problem.name}, G = 3", turned(expectation(problem, DR_GRPO, 3), g)),
            nonzero(f"with 1/|o| it turns on {problem.name}", turned(expectation(problem, with_length, 2), g)),
        ]
    return out


CLAIM = Claim(
    label="claim:dr-grpo-unbiased",
    statement="Dr. GRPO, R − mean over a constant divisor, has E ĝ = (G−1)/(G·T) g, T the constant (the longest "
    "response): unbiased up to a constant that depends on neither prompt nor policy; the leave-one-out mean removes "
    "(G−1)/G, RLOO is g itself",
    source="arXiv 2503.20783 and its code; arXiv 2402.14740 for RLOO; ledger 11, 12",
    hypotheses=(
        "responses of a group are independent draws from the current policy",
        "G ≥ 2",
        "the divisor is a constant, not the longest response of the batch",
    ),
    group_sizes=(2, 3),
    check=both(
        scaled(DR_GRPO, 2),
        scaled(DR_GRPO, 3),
        scaled(MENDED, 2, own=False),
        scaled(MEAN, 2, horizon=False),
        scaled(RLOO, 2, own=False, horizon=False),
    ),
    example=example,
    mutants={
        "1/T alone": scaled(DR_GRPO, 3, own=False),
        "(G−1)/G alone": scaled(DR_GRPO, 2, horizon=False),
        "1/E[L] in place of 1/T": mean_length,
        "the mean baseline is unbiased": unbiased(MEAN, 2),
        "a token count as divisor": scaled(replace(DR_GRPO, aggregation=aggregation.token_mean), 2),
    },
    needs=("prop:group-mean",),
    wording="without 1/|o| and without the std the gradient is unbiased (read: equal to g)",
    as_worded=unbiased(DR_GRPO, 2),
)
