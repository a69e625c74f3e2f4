"""claim:grpo-arcsine: GRPO climbs h_G(p), a sum of incomplete betas; 2 arcsin √p is its limit."""

from __future__ import annotations

from collections.abc import Sequence
from math import asin, fsum, pi, sqrt

import numpy as np
from scipy.special import betainc

from paper_checks.claim_grpo_rate import Slope, climbs, slope
from paper_checks.common import both
from paper_checks.laws import mean_reward, two_valued
from tpg.claims import Claim, Finding, apart, close, positive
from tpg.claims.record import Check
from tpg.numbers import FLOAT64
from tpg.problem.problem import Problem

ZETA_HALF = -1.4603545088095868  # ζ(1/2)


def objective(p: float, size: int) -> float:
    """h_G(p) = Σ_{k=1}^{G−1} I_p(k, G−k)/√(k(G−k)), I the regularised incomplete beta function."""
    return fsum(float(betainc(k, size - k, p)) / sqrt(k * (size - k)) for k in range(1, size))


def arcsine(p: float, size: int) -> float:
    """The slope of 2 arcsin √p."""
    return 1 / sqrt(p * (1 - p))


def area(of: Slope) -> Check:
    """h_G(p) is the area below the slope, which is a polynomial of degree G − 2: Gauss–Legendre has no error."""

    def check(problem: Problem) -> Sequence[Finding]:
        gaps = []
        for size in range(2, 9):
            nodes, weights = np.polynomial.legendre.leggauss(size)
            for p in mean_reward(two_valued(problem).to(FLOAT64)):
                below = fsum(w * p / 2 * of(p / 2 * (1 + x), size) for x, w in zip(nodes, weights, strict=True))
                gaps.append(below - objective(p, size))
        return [close("h_G(p) = ∫₀^p h'_G, G = 2 … 8", gaps, 8)]

    return check


# Σ_{k=1}^{G−1} 1/√(k(G−k)) = π + 2ζ(1/2)/√G + O(G^{−3/2}), so at p = 1 the limit is slow.
def example() -> Sequence[Finding]:
    """How far the limit is."""
    out = []
    for size in (4, 16, 64, 256, 1024):
        out.append(positive(f"h_G(1) < π, G = {size}", pi - objective(1.0, size)))
        out.append(positive(f"h'_G(1/2) < 2, G = {size}", 2 - slope(0.5, size)))
        rest = objective(1.0, size) - pi - 2 * ZETA_HALF / sqrt(size)
        out.append(Finding(f"π − h_G(1) = 2.92/√G, G = {size}", abs(rest) * size < 1, f"but for {rest:.1e}"))
        inside = slope(0.5, size) - 2 * (1 - 1 / (2 * size))
        out.append(Finding(f"2 − h'_G(1/2) = 1/G, G = {size}", abs(inside) * size**2 < 3, f"but for {inside:.1e}"))
    gap = max(abs(objective(p, 1024) - 2 * asin(sqrt(p))) for p in np.linspace(0, 1, 21))
    out.append(Finding("G = 1024: within 0.1 of 2 arcsin √p on [0, 1]", gap < 0.1, f"{gap:.3f}"))
    out.append(apart("G = 8: not 2 arcsin √p", objective(0.5, 8) - 2 * asin(sqrt(0.5)), 1))
    return out


CLAIM = Claim(
    label="claim:grpo-arcsine",
    statement="two-valued rewards: GRPO's credits climb h_G(p) = Σ_{k=1}^{G−1} I_p(k, G−k)/√(k(G−k)); 2 arcsin √p is "
    "the limit of large G, reached like 1/G inside and like 1/√G at the ends; for G ≤ 3 h_G is linear",
    source="arXiv 2510.13651; h_G at finite G is ours; ledger 19",
    hypotheses=("rewards 0 and 1", "population std, ε = 0, no 1/|o|", "on-policy, first step"),
    group_sizes=(2, 3, 5),
    check=both(climbs(slope, 2), climbs(slope, 3), climbs(slope, 5), area(slope)),
    example=example,
    mutants={
        "2 arcsin √p at G = 3": climbs(arcsine, 3),
        "the slope of the next G": climbs(lambda p, size: slope(p, size + 1), 5),
        "arcsin √p": climbs(slope, 2, factor=0.5),
        "area below 2 arcsin √p": area(arcsine),
    },
    algebraic=False,
    needs=("claim:grpo-rate",),
    wording="GRPO climbs the arcsine of the square root of the success probability (read: at any group size)",
    as_worded=climbs(arcsine, 5),
)
