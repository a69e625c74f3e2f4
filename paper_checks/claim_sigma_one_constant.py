"""claim:sigma-one-constant: dividing by σ is one learning rate for all prompts up to G = 3, not for G = 4, 5."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from functools import partial

import numpy as np

from paper_checks.common import PAPER, both, expectation, gradient, row
from paper_checks.laws import mean_reward, rated, turned, two_valued
from paper_checks.prop_sigma import mean_step, scaled, scales
from tpg.claims import Claim, Finding, nonzero, zero
from tpg.claims.record import Check
from tpg.problem.problem import Problem, make
from tpg.problem.tree import grow

EXCESS = {2: "0", 3: "0", 4: "3/2", 5: "12/5"}  # what p(1−p) (z(2) − z(1)) counts for


def one_rate(size: int, symmetric: bool = True, factor: Fraction | None = None) -> Check:
    """E ĝ = (G−1)/G · z(1) · g: one constant for all prompts, by enumerating every group."""

    def check(problem: Problem) -> Sequence[Finding]:
        tied, z = two_valued(problem), scales(problem, size, symmetric)
        constant = problem.field.scalar(Fraction(size - 1, size) if factor is None else factor) * z[1]
        gap = expectation(tied, row(partial(scaled, inverse=z)), size) - constant * gradient(tied)
        return [zero(f"E ĝ = (G−1)/G · z(1) · g for any σ(k) = σ(G−k), G = {size}", gap)]

    return check


def by_difficulty(size: int, excess: str = "") -> Check:
    """E ĝ = (G−1)/G · z(1) · g + c (z(2) − z(1)) Σ_x weight(x) p(1−p) ∇p."""

    def check(problem: Problem) -> Sequence[Finding]:
        tied, z = two_valued(problem), scales(problem, size, True)
        p, count = mean_reward(tied), problem.field.scalar(excess or EXCESS[size])
        uneven = count * (z[2] - z[1]) * rated(tied, p * (1 - p))
        wanted = problem.field.scalar(Fraction(size - 1, size)) * z[1] * gradient(tied) + uneven
        return [zero(f"E ĝ = one constant + c (z(2) − z(1)) p(1−p) ∇p, G = {size}", mean_step(tied, z) - wanted)]

    return check


def example() -> Sequence[Finding]:
    """Success 1/10 and 1/2, one token: p(1−p) is 9/100 and 1/4, so that any σ(1) ≠ σ(2) turns the mean of the two.

    Of stds, σ² ∝ k(G−k): 3 against 4 for G = 4, 4 against 6 for G = 5; the z here are arbitrary, and unequal.
    """
    policy = [["9/10", "1/10"], ["1/2", "1/2"]]
    problem = make(grow(2, 1, 2), policy, [[0, 1], [0, 1]], name="success 1/10 and 1/2")
    out = []
    for size in (4, 5):
        z = scales(problem, size, True)
        out += [
            nonzero(f"k(G−k) at k = 1 and 2, G = {size}", [problem.field.scalar(size - 1 - 2 * (size - 2))]),
            nonzero(f"z(1) ≠ z(2), G = {size}", [z[1] - z[2]]),
            nonzero(f"turned between prompts, G = {size}", turned(mean_step(problem, z), gradient(problem))),
        ]
        alike = np.array([z[0], *[z[1]] * (size - 1), z[-1]])
        out.append(zero(f"σ(1) = σ(2): not turned, G = {size}", turned(mean_step(problem, alike), gradient(problem))))
    return out


CLAIM = Claim(
    label="claim:sigma-one-constant",
    statement="two-valued rewards, σ the same for k and G − k successes: for G = 2 and 3 E ĝ = (G−1)/(Gσ_1) g, one "
    "constant for all prompts; for G = 4 and 5 it is that and c(1/σ_2 − 1/σ_1) Σ_x weight(x) p(1−p)∇p more, c = 3/2 "
    "and 12/5: a constant only where σ_1 = σ_2, as in no std, and otherwise a turn between prompts",
    source=f"{PAPER}; the constants are ours; ledger 3",
    hypotheses=("two reward values", "credits over G alone, no 1/|o|", "a turn takes two prompts of unequal p(1−p)"),
    group_sizes=(2, 3, 4, 5),
    check=both(one_rate(2), one_rate(3), by_difficulty(4), by_difficulty(5)),
    example=example,
    mutants={
        "one constant at G = 4": one_rate(4),
        "one constant at G = 3 for a scale that tells failures from successes": one_rate(3, symmetric=False),
        "without the own reward in the mean": one_rate(3, factor=Fraction(1)),
        "G = 5 as G = 4": by_difficulty(5, "3/2"),
    },
    needs=("prop:sigma",),
    wording="dividing by σ acts like a smaller learning rate (read: one constant for all prompts, at G = 4)",
    as_worded=one_rate(4),
)
