"""claim:grpo-rate: the rows that divide by σ, roots and all: their learning rate for rewards 0 and 1."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from functools import partial
from math import comb, fsum, sqrt

import numpy as np

from paper_checks.common import both, expectation, gradient
from paper_checks.laws import mean_reward, rated, turned, two_valued
from tpg.claims import Claim, Finding, apart, close, positive
from tpg.claims.record import Check
from tpg.estimators import counts
from tpg.estimators.advantages import z_score
from tpg.estimators.estimator import Estimator
from tpg.estimators.table import ESTIMATORS
from tpg.moments import moments
from tpg.numbers import FLOAT64, Array
from tpg.problem.problem import Problem, make
from tpg.problem.tree import grow

Slope = Callable[[float, int], float]  # (p, G) → h'_G(p)
POPULATION = Estimator("std over G", partial(z_score, ddof=0, eps=0.0), numbers="float64")
BESSEL = Estimator("std over G − 1", partial(z_score, ddof=1, eps=0.0), numbers="float64")
VERL = ESTIMATORS["grpo_no_length"]  # std over G − 1, ε = 10⁻⁶
DAPO = replace(POPULATION, name="DAPO's filter, same prompt", keep=counts.mixed_rewards)
LARGE = (4, 5, 8, 16, 64)


def slope(p: float, size: int) -> float:
    """h'_G(p) = Σ_{k=1}^{G−1} C(G, k) p^{k−1} (1−p)^{G−k−1} √(k(G−k))/G."""
    return fsum(
        comb(size, k) * p ** (k - 1) * (1 - p) ** (size - k - 1) * sqrt(k * (size - k)) / size for k in range(1, size)
    )


def over_kept(p: float, size: int) -> float:
    """h'_G over the share of groups that hold both rewards."""
    return slope(p, size) / (1 - p**size - (1 - p) ** size)


def climbs(of: Slope, size: int, factor: float = 1, estimator: Estimator = POPULATION) -> Check:
    """E ĝ of z-scores over G alone is Σ_x weight(x) of(p_x) ∇p_x; groups of two and three one by one."""

    def check(problem: Problem) -> Sequence[Finding]:
        tied = two_valued(problem).to(FLOAT64)
        rate = np.array([factor * of(p, size) for p in mean_reward(tied)])
        gap = mean_step(tied, estimator, size) - rated(tied, rate)
        return [close(f"{estimator.name}: E ĝ = h'(p) ∇p, G = {size}", gap, longest(tied) * size)]

    return check


def mean_step(problem: Problem, estimator: Estimator, size: int) -> Array:
    """[D] E ĝ: groups of two and three by enumeration, larger ones by class, as are those drawn again."""
    if size <= 3 and estimator.keep is None:
        return expectation(problem, estimator, size)
    return problem.combine(moments(problem, estimator, size).mean)


def longest(problem: Problem) -> float:
    """How long a vector of scores can be."""
    return problem.horizon * (1 if problem.features is None else 2 * float(np.abs(problem.features).max()))


def epsilon(problem: Problem) -> Sequence[Finding]:
    """verl's ε of 10⁻⁶ moves the slope by less than 10⁻⁵."""
    tied = two_valued(problem).to(FLOAT64)
    moved = np.abs(mean_step(tied, VERL, 3) - mean_step(tied, BESSEL, 3)).max()
    small = bool(moved < 1e-5 * longest(tied))
    return [Finding("ε = 10⁻⁶, G = 3", small, f"at most {moved:.1e}", exact=False)]


def two_prompts() -> Problem:
    """One token, right or wrong, two prompts: right with probability 1/10 and 1/2."""
    chance = [Fraction(1, 10), Fraction(1, 2)]
    policy = [[1 - p, p] for p in chance]
    return make(grow(2, 1, 2), policy, [[0, 1], [0, 1]], field=FLOAT64, name="success 1/10 and 1/2")


def between_prompts() -> Iterator[Finding]:
    """One constant for G ≤ 3, a turn for larger groups."""
    problem = two_prompts()
    g = gradient(problem)
    for size in (2, 3, *LARGE):
        for name, estimator in (("population std", POPULATION), ("verl's std, ε included", VERL)):
            off = turned(problem.combine(moments(problem, estimator, size).mean), g)
            if size <= 3:
                yield close(f"{name}: along g, G = {size}", off, 1)
            else:
                yield apart(f"{name}: turned between prompts, G = {size}", off, 1)


def of_the_slope() -> Iterator[Finding]:
    """h' itself: the constants for G ≤ 3, its ends, its middle."""
    yield close("h'_2 = 1 at p = 1/10, 1/2", [slope(p, 2) - 1 for p in (0.1, 0.5)], 1)
    yield close("h'_3 = √2 at p = 1/10, 1/2", [slope(p, 3) - 2**0.5 for p in (0.1, 0.5)], 1)
    yield close("h'_4 = √3 − (2√3 − 3) p(1−p)", slope(0.1, 4) - (3**0.5 - (2 * 3**0.5 - 3) * 0.09), 1)
    for size in LARGE:  # h'(1/2) = 4 E√(q(1−q)) < 2 ≤ √(G−1) = h'(0) for G ≥ 5, and 1.62 < √3 for G = 4
        yield close(f"h'_G(0) = √(G−1), G = {size}", slope(0.0, size) - (size - 1) ** 0.5, size)
        yield positive(f"h'_G(0) > h'_G(1/2), G = {size}", slope(0.0, size) - slope(0.5, size))


def example() -> Sequence[Finding]:
    """What is seen at chosen p and G."""
    return [*between_prompts(), *of_the_slope()]


CLAIM = Claim(
    label="claim:grpo-rate",
    statement="rewards 0 and 1, z-scores over G alone: E ĝ = h'_G(p)∇p on each prompt, h'_G(p) = Σ_k C(G,k) p^{k−1} "
    "(1−p)^{G−k−1} √(k(G−k))/G: 1 for G = 2, √2 for G = 3, falling from √(G−1) at p = 0 to less at 1/2 for larger G, "
    "which turns g between prompts; over 1 − p^G − (1−p)^G with DAPO's filter on the same prompt; verl's std over "
    "G − 1 gives √((G−1)/G) times as much, but for its ε of 10⁻⁶",
    source="arXiv 2402.03300 and verl; ours at finite G; ledger 3, 19",
    hypotheses=("rewards 0 and 1", "population std, ε = 0, unless said otherwise; no 1/|o|", "on-policy, first step"),
    group_sizes=(2, 3, 4, 5, 8),
    check=both(
        *(climbs(slope, size) for size in (2, 3, 5, 8)),
        *(climbs(over_kept, size, estimator=DAPO) for size in (2, 3, 4)),
        *(climbs(slope, size, ((size - 1) / size) ** 0.5, BESSEL) for size in (2, 3, 4)),
        epsilon,
    ),
    example=example,
    mutants={
        "the slope of the next G": climbs(lambda p, size: slope(p, size + 1), 5),
        "the filter without its share": climbs(slope, 3, estimator=DAPO),
        "the std over G − 1 as that over G": climbs(slope, 3, estimator=BESSEL),
        "√2 for G = 4": climbs(lambda p, size: 2**0.5, 4),
    },
    needs=("prop:sigma", "prop:count-rules"),
    algebraic=False,
)
