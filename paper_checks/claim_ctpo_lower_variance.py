"""claim:ctpo-lower-variance: a prefix ratio is never noisier than the full one; the gradient made with it may be."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from paper_checks.common import on_paths
from paper_checks.stale import Paths, paying_twice_heads, stale
from tpg.claims import Claim, Finding, positive, zero
from tpg.claims.record import Check
from tpg.estimators import advantages, ratios
from tpg.estimators.estimator import Estimator
from tpg.estimators.parts import Part
from tpg.moments import brute_force
from tpg.numbers import RATIONAL, Array
from tpg.problem.problem import Problem

PREFIX, WHOLE = (
    Estimator(r.__name__, advantages.response_reward, ratio=r) for r in (ratios.prefix_is, ratios.sequence_is)
)


def excess(weight: Part, of_prefix: bool = True) -> Check:
    """Var ρ_{1:L} − Var w_t = E_μ(ρ_{1:L} − w_t)² for the weight w: a sum of squares, so never negative."""

    def check(problem: Problem) -> Sequence[Finding]:
        made = stale(problem)
        paths, mu = Paths(made), made.sampling
        _, part = on_paths(made, weight)
        _, whole = on_paths(made, ratios.sequence_is)
        gap = np.where(paths.mask, whole[:, None] ** 2 - part**2 - (whole[:, None] - part) ** 2, made.field.scalar(0))
        return [zero("Var ρ_{1:L} − Var w_t = E_μ(ρ_{1:L} − w_t)², at every t", paths.mean(gap, mu))]

    return check


def suffix(ratio: Array) -> Array:
    """Mutant: Π_{k≥t} π/μ."""
    return np.flip(np.multiply.accumulate(np.flip(ratio, -1), axis=-1), -1)


def squared(ratio: Array) -> Array:
    """Mutant: Π_{k≤t} (π/μ)²."""
    return np.asarray(ratios.prefix_is(ratio) ** 2)


def less_noisy(problem: Problem) -> Sequence[Finding]:
    """The published wording."""
    made = stale(problem)
    prefix, whole = (brute_force(made, row, 1).total_variance for row in (PREFIX, WHOLE))
    return [positive("Var ĝ with full ratios less that with prefix ratios", whole - prefix)]


def example() -> Sequence[Finding]:
    """Only W = HH pays: m = μ(W) = 1/3, ratios 1 and 3/4, both scores of square 1/2, Var ĝ = m (1 − m) Σ_t c_t²/2.

    Prefix ratios: 2/9 · (1 + 9/16)/2 = 25/144; the full one: 2/9 · (9/16 + 9/16)/2 = 18/144.
    """
    problem = paying_twice_heads()
    wanted = {"25/144": PREFIX, "18/144": WHOLE}
    found = {number: brute_force(problem, row, 1).total_variance for number, row in wanted.items()}
    return [zero(f"Var ĝ, {wanted[n].name}: {n}", value - RATIONAL.scalar(n)) for n, value in found.items()]


CLAIM = Claim(
    label="claim:ctpo-lower-variance",
    statement="Var ρ_{1:L} − Var ρ_{1:t} = E_μ(ρ_{1:L} − ρ_{1:t})² ≥ 0: the prefix ratio is the quieter weight; the "
    "gradient estimate made with it can be noisier than with full ratios (25/144 against 18/144 on two coins)",
    source="arXiv 2605.07331 (CTPO) for the weights; the counterexample is ours; ledger 16",
    hypotheses=("μ generates every response that π can", "no clip"),
    check=excess(ratios.prefix_is),
    example=example,
    mutants={
        "token ratios": excess(ratios.token_is),
        "ratios of the tokens to come": excess(suffix),
        "squared ratios": excess(squared),
    },
    degree=lambda horizon: 128,  # 1/μ of every edge of the tree is on the common denominator: at most 60 of them
    wording="prefix ratios give gradient estimates of lower variance than full-sequence ratios",
    as_worded=less_noisy,
)
