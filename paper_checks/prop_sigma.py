"""prop:sigma: with two-valued rewards, dividing by the group's σ is a learning rate per prompt, the same for G ≤ 3."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import partial
from math import comb
from typing import Any

import numpy as np

from paper_checks.common import PAPER, both, expectation, gradient, row
from paper_checks.laws import mean_reward, rated, turned, two_valued
from paper_checks.variances import arbitrary
from tpg.claims import Claim, Finding, apart, close, positive, zero
from tpg.claims.record import Check
from tpg.estimators.advantages import z_score
from tpg.estimators.parts import peers
from tpg.estimators.table import ESTIMATORS
from tpg.moments import moments
from tpg.numbers import FLOAT64, Array
from tpg.problem.problem import Problem, make
from tpg.problem.tree import grow

LARGE = (4, 5, 8, 16, 64)


@peers("reward")
def scaled(reward: Array, *, inverse: Array) -> Array:
    """(R_i − mean) · z(k), k successes of G: ``inverse`` = z(0 … G), the place of 1/σ, 0 where there is no spread."""
    size = reward.shape[-1]
    centred = (size * reward - reward.sum(-1, keepdims=True)) / size
    return centred * inverse[(reward != 0).sum(-1, keepdims=True)]


def scales(problem: Problem, size: int, symmetric: bool) -> Array:
    """z(0 … G), arbitrary but for z(k) = z(G−k): σ is the same whether k succeed or k fail."""
    z = arbitrary(problem, (size + 1,))
    z[0] = z[-1] = problem.field.scalar(0)
    return np.array([z[min(k, size - k)] for k in range(size + 1)]) if symmetric else z


def rate_of(z: Array, p: Any) -> Any:
    """h'_G(p) = Σ_{k=1}^{G−1} C(G, k) p^{k−1} (1−p)^{G−k−1} k(G−k)/G² · z(k)."""
    size = len(z) - 1
    chance = [comb(size, k) * p ** (k - 1) * (1 - p) ** (size - k - 1) for k in range(1, size)]
    return sum((c * k * (size - k) * z[k] for k, c in enumerate(chance, 1)), p * 0) / size**2


def per_prompt(size: int, symmetric: bool = False) -> Check:
    """E ĝ = Σ_x weight(x) h'_G(p_x) ∇p_x, whatever the scale."""

    def check(problem: Problem) -> Sequence[Finding]:
        tied, z = two_valued(problem), scales(problem, size, symmetric)
        found = tied.combine(moments(tied, row(partial(scaled, inverse=z)), size).mean)
        rate = np.array([rate_of(z, p) for p in mean_reward(tied)])
        return [zero(f"E ĝ = h'_G(p) ∇p for any scale σ(k), G = {size}", found - rated(tied, rate))]

    return check


def one_rate(size: int, symmetric: bool = True, factor: Fraction | None = None) -> Check:
    """E ĝ = (G−1)/G · z(1) · g: one constant for all prompts, by enumerating every group."""

    def check(problem: Problem) -> Sequence[Finding]:
        tied, z = two_valued(problem), scales(problem, size, symmetric)
        constant = problem.field.scalar(Fraction(size - 1, size) if factor is None else factor) * z[1]
        gap = expectation(tied, row(partial(scaled, inverse=z)), size) - constant * gradient(tied)
        return [zero(f"E ĝ = (G−1)/G · z(1) · g for any σ(k) = σ(G−k), G = {size}", gap)]

    return check


def two_prompts(hard: str = "1/10", even: str = "1/2") -> Problem:
    """One token, right or wrong, one prompt of each success probability."""
    chance = [Fraction(hard), Fraction(even)]
    return make(
        grow(2, 1, 2), [[1 - p, p] for p in chance], [[0, 1], [0, 1]], field=FLOAT64, name=f"success {hard} and {even}"
    )


def grpo(size: int, p: float) -> float:
    """h'_G(p) at z(k) = 1/σ(k), σ² = k(G−k)/G² (population std)."""
    return float(rate_of(np.array([0.0, *(size / (k * (size - k)) ** 0.5 for k in range(1, size)), 0.0]), p))


def of_the_row() -> Iterator[Finding]:
    """The row: z-scores over G alone (verl's std, over G − 1), and with the population std."""
    problem = two_prompts()
    g = gradient(problem)
    for size in (2, 3, *LARGE):
        said = np.array([grpo(size, p) for p in (0.1, 0.5)])
        population = row(partial(z_score, ddof=0, eps=0.0))
        found = problem.combine(moments(problem, population, size).mean)
        yield close(f"E ĝ = h'_G(p) ∇p for z-scores, G = {size}", found - rated(problem, said), size)
        verl = problem.combine(moments(problem, ESTIMATORS["grpo_no_length"], size).mean)
        if size <= 3:
            yield close(f"z-scores keep the direction of g, G = {size}", turned(found, g), 1)
            yield close(f"so does verl's std with its ε, G = {size}", turned(verl, g), 1)
        else:
            yield apart(f"z-scores turn it between prompts, G = {size}", turned(found, g), 1)
            yield apart(f"so does verl's std, G = {size}", turned(verl, g), 1)


def of_the_rate() -> Iterator[Finding]:
    """h' itself: the constants for G ≤ 3, its ends, and that it is no smaller learning rate."""
    yield close("h'_2 = 1 at p = 1/10, 1/2", [grpo(2, p) - 1 for p in (0.1, 0.5)], 1)
    yield close("h'_3 = √2 at p = 1/10, 1/2", [grpo(3, p) - 2**0.5 for p in (0.1, 0.5)], 1)
    yield close("h'_4 = √3 − (2√3 − 3) p(1−p)", grpo(4, 0.1) - (3**0.5 - (2 * 3**0.5 - 3) * 0.09), 1)
    for size in LARGE:  # h'(1/2) = 4 E√(q(1−q)) < 2 ≤ √(G−1) = h'(0) for G ≥ 5, and 1.62 < √3 for G = 4
        yield close(f"h'_G(0) = √(G−1), G = {size}", grpo(size, 0.0) - (size - 1) ** 0.5, size)
        yield positive(f"h'_G(0) > h'_G(1/2), G = {size}", grpo(size, 0.0) - grpo(size, 0.5))
    least = min(grpo(size, p) * (size / (size - 1)) for size in (2, 3, *LARGE) for p in (0.0, 0.1, 0.5, 0.9, 1.0))
    yield positive("for rewards 0 and 1 σ makes steps larger, by more than 1 at every G and p tried", least - 1)


def example() -> Sequence[Finding]:
    """What holds of the square root."""
    return [*of_the_row(), *of_the_rate()]


def as_worded(problem: Problem) -> Sequence[Finding]:
    """One constant for all prompts, at G = 4."""
    tied = two_valued(problem).to(FLOAT64)
    found = tied.combine(moments(tied, ESTIMATORS["grpo_no_length"], 4).mean)
    g = gradient(tied)
    return [close("E ĝ is a multiple of g, G = 4", turned(found, g), float(g @ g) * 10)]


def per_prompt_of_first(problem: Problem) -> Sequence[Finding]:
    """Mutant: h' from z(1) alone."""
    tied, z = two_valued(problem), scales(problem, 4, False)
    first = np.array([z[0], z[1], z[1], z[1], z[0]])
    found = tied.combine(moments(tied, row(partial(scaled, inverse=z)), 4).mean)
    return [zero("h' from z(1)", found - rated(tied, np.array([rate_of(first, p) for p in mean_reward(tied)])))]


CLAIM = Claim(
    label="prop:sigma",
    statement="two-valued rewards: dividing by the group's σ multiplies each prompt's gradient by h'_G(p) = Σ_k C(G,k) "
    "p^{k−1} (1−p)^{G−k−1} k(G−k)/(G²σ_k), a learning rate per prompt; it is one constant for all prompts if and "
    "only if G ≤ 3 (1 and √2 for the population std), and for rewards 0 and 1 larger than without σ, not smaller",
    source=f"{PAPER}; h'_G is ours",
    hypotheses=(
        "two reward values",
        "credits (R − mean)/σ over G alone, no 1/|o|",
        "σ depends on the number of successes, the same for k and G − k",
    ),
    check=both(one_rate(2), one_rate(3), per_prompt(3), per_prompt(4), per_prompt(5, symmetric=True)),
    example=example,
    mutants={
        "one constant at G = 4": one_rate(4),
        "one constant at G = 3 for a scale that tells failures from successes": one_rate(3, symmetric=False),
        "without the own reward in the mean": one_rate(3, factor=Fraction(1)),
        "the first count's rate for all counts": per_prompt_of_first,
    },
    needs=("prop:count-rules",),
    wording="dividing by σ acts like a smaller learning rate (read: one constant for all prompts)",
    as_worded=as_worded,
)
