"""claim:sigma-smaller: for rewards 0 and 1 dividing by σ makes steps longer, not shorter."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import comb
from typing import Any

import numpy as np

from paper_checks.common import PAPER, both, gradient
from paper_checks.laws import mean_reward, rated, two_valued
from paper_checks.prop_sigma import mean_step, scales
from paper_checks.variances import arbitrary
from tpg.claims import Claim, Finding, positive, zero
from tpg.claims.record import Check
from tpg.numbers import Array
from tpg.problem import zoo
from tpg.problem.problem import Problem


def average(z: Array, p: Any, of: int | None = None) -> Any:
    """E z(1 + S), S ~ Bin(``of``, p), by default G − 2: the mean over the counts of groups that hold both rewards."""
    n = len(z) - 3 if of is None else of
    return sum((comb(n, s) * p**s * (1 - p) ** (n - s) * z[1 + s] for s in range(n + 1)), p * 0)


def against_mean(size: int, far: int = 1, power: int = 1, of: int | None = None) -> Check:
    """E ĝ_x is that of R − mean times E[1/σ(1 + S)]; rewards ``far`` apart have σ as many times."""

    def check(problem: Problem) -> Sequence[Finding]:
        tied, z = two_valued(problem, high=far), scales(problem, size, False)
        unit = two_valued(problem)
        rate = np.array([average(z, p, of) for p in mean_reward(unit)]) / far**power
        plain = problem.field.scalar(Fraction(size - 1, size))
        gap = mean_step(tied, z / far) - plain * rated(tied, rate)
        return [zero(f"E ĝ = E[1/σ(1 + S)] · E ĝ of R − mean, rewards {far} apart, G = {size}", gap)]

    return check


def bound(problem: Problem, most: int = 4) -> Sequence[Finding]:
    """1/4 − k(G−k)/G² = (G − 2k)²/(4G²), a square, for free k and G: σ² is 1/4 at most."""
    k, size = arbitrary(problem, (2,)) + 1
    return [zero("1/4 − σ² = (G − 2k)²/(4G²)", [size**2 / most - k * (size - k) - (size - 2 * k) ** 2 / 4])]


def shorter(problem: Problem) -> Sequence[Finding]:
    """As worded: at G = 2, σ = 1/2 where the rewards differ, the step is shorter than that of R − mean."""
    tied = two_valued(problem)
    found, plain = mean_step(tied, tied.field.array([0, 2, 0])), gradient(tied) / 2
    return [positive("‖E ĝ of R − mean‖² − ‖E ĝ of (R − mean)/σ‖², G = 2", plain @ plain - found @ found)]


def example() -> Sequence[Finding]:
    """σ² over G, and over G − 1 (1/σ² = G(G−1)/(k(G−k)) ≥ 2), for every count of groups up to 64; and rewards far off.

    Rewards 0 and 3 at G = 2: 1/σ = 2/3.
    """
    counts = [(k, size) for size in range(2, 65) for k in range(1, size)]
    over = min(Fraction(size * size, k * (size - k)) for k, size in counts)
    over_less = min(Fraction(size * (size - 1), k * (size - k)) for k, size in counts)
    problem = two_valued(zoo.shared(), high=3)
    found, plain = mean_step(problem, problem.field.array([0, "2/3", 0])), gradient(problem) / 2
    return [
        zero("the least 1/σ² is 4, G = 2 … 64", [over - 4]),
        zero("of the std over G − 1: 2", [over_less - 2]),
        positive("rewards 0 and 3, G = 2: shorter", plain @ plain - found @ found),
    ]


CLAIM = Claim(
    label="claim:sigma-smaller",
    statement="two-valued rewards c apart: on each prompt (R − mean)/σ has E[1/σ(1 + S)]/c times the E ĝ of R − mean, "
    "S ~ Bin(G−2, p), σ(k) the std of k ones among G; as 1/4 − σ² = (G − 2k)²/(4G²) ≥ 0, for rewards 0 and 1 it is at "
    "least twice as long (√2 times with the std over G − 1): a larger learning rate, a smaller one only for c > 2",
    source=f"{PAPER}; the factor is ours; ledger 3",
    hypotheses=("two reward values", "credits over G alone, no 1/|o|", "compared with the mean baseline, ε = 0"),
    group_sizes=(2, 3, 4),
    check=both(*(against_mean(size) for size in (2, 3, 4)), against_mean(3, far=2), bound),
    example=example,
    mutants={
        "the own response is one of the peers": against_mean(3, of=2),
        "the distance of the rewards counts squared": against_mean(3, far=2, power=2),
        "the distance of the rewards does not count": against_mean(3, far=2, power=0),
        "σ² is 1/5 at most": lambda problem: bound(problem, 5),
    },
    needs=("prop:sigma", "prop:group-mean"),
    wording="dividing by σ acts like a smaller learning rate (read: shorter than with the mean baseline alone, rewards "
    "0 and 1)",
    as_worded=shorter,
)
