"""claim:ctpo-unbiased: a prefix ratio corrects the past; with the reward of the response the future stays that of μ."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from paper_checks.common import both, expectation, gradient
from paper_checks.stale import Paths, free_numbers, paying_twice_heads, stale, turned
from tpg.claims import Claim, Finding, apart, nonzero, zero
from tpg.claims.record import Check
from tpg.estimators import advantages, ratios
from tpg.estimators.estimator import Estimator
from tpg.estimators.parts import Part
from tpg.estimators.table import ESTIMATORS
from tpg.numbers import FLOAT64, Array
from tpg.problem import zoo
from tpg.problem.problem import Problem
from tpg.rollouts import Critic


def row(advantage: Part, ratio: Part = ratios.prefix_is, critic: Critic | None = None) -> Estimator:
    """An advantage times a ratio, summed over tokens."""
    return Estimator(getattr(advantage, "__name__", "credit"), advantage, ratio=ratio, critic=critic)


def less_baseline(continuation_value: Array, value: Array) -> Array:
    """M_t − b(W_{0,t−1})."""
    return continuation_value[..., 1:] - value[..., :-1]


def any_baseline(problem: Problem) -> Array:
    """[N] a number for every prefix."""
    return free_numbers(problem, (problem.tree.nodes,))


def is_g(estimator: Estimator) -> Check:
    """E ĝ = g whatever μ is."""

    def check(problem: Problem) -> Sequence[Finding]:
        made = stale(problem)
        return [zero(f"{estimator.name} × ratio: E ĝ = g", expectation(made, estimator) - gradient(made))]

    return check


def continued_by_mu(estimator: Estimator, size: int, factor: Any = 1) -> Check:
    """E ĝ = factor · Σ_s ρ_π(s) Σ_a Q^μ(s, a) ∇π(a|s)."""

    def check(problem: Problem) -> Sequence[Finding]:
        made = stale(problem)
        paths = Paths(made)
        wanted = made.field.scalar(Fraction(factor)) * paths.moved(paths.reward, made.probs, made.sampling)
        gap = expectation(made, estimator, size) - wanted
        return [zero(f"{estimator.name} × ratio: E ĝ = {factor} Σ ρ_π Q^μ ∇π, G = {size}", gap)]

    return check


def follows_g(estimator: Estimator, size: int) -> Check:
    """The published wording, up to a factor: E ĝ has the direction of g."""

    def check(problem: Problem) -> Sequence[Finding]:
        made = stale(problem)
        found = expectation(made, estimator, size)
        return [zero(f"E ĝ of {estimator.name} × ratio is along g", turned(found, gradient(made)))]

    return check


OUTCOME, MEAN, LEFT_OUT = (row(a) for a in (advantages.response_reward, advantages.group_mean, advantages.rloo))


def example() -> Sequence[Finding]:
    """Two coins of which only HH pays: π tosses heads 1/2, μ 1/2 and 2/3 after heads.

    ∂J/∂logit of the first heads is 1/2 · 1/2 · Q^π(heads) = 1/8 with Q^π = 1/2; with Q^μ = 2/3 it becomes 1/6.
    """
    problem, out = paying_twice_heads(), []
    found, g = expectation(problem, OUTCOME), gradient(problem)
    out += [zero("the gradient is 1/8", g[0] - problem.field.scalar("1/8")), nonzero("biased", found - g)]
    out.append(zero("prefix ratios give 1/6", found[0] - problem.field.scalar("1/6")))
    for made in (zoo.stale(), stale(zoo.three_valued())):
        for estimator in (OUTCOME, LEFT_OUT):
            off = turned(expectation(made, estimator, estimator.min_group), gradient(made))
            out.append(nonzero(f"{estimator.name} turns on {made.name}", off))
    return out


def beside() -> Sequence[Finding]:
    """The released row."""
    made = zoo.stale().to(FLOAT64)
    off = turned(expectation(made, ESTIMATORS["ctpo"], 2), gradient(made))
    return [apart("the released row, clip and z-score included, turns", off, 1.0)]


CLAIM = Claim(
    label="claim:ctpo-unbiased",
    statement="with advantages known at the token (A^π, or M_t less any baseline) a prefix ratio is exactly "
    "unbiased for every μ; with the reward of the response, baseline or not, it targets Σ_s ρ_π(s) Σ_a Q^μ(s, a) "
    "∇π(a|s): Q^μ instead of Q^π",
    source="arXiv 2605.07331 (CTPO); the target with outcome rewards is ours; ledger 16",
    hypotheses=("μ generates every response that π can", "no clip", "M_t is that of π"),
    group_sizes=(1, 2),
    check=both(
        is_g(row(advantages.exact_advantage)),
        is_g(row(advantages.trajectory_value)),
        is_g(row(less_baseline, critic=any_baseline)),
        continued_by_mu(OUTCOME, 1),
        continued_by_mu(MEAN, 2, "1/2"),
        continued_by_mu(LEFT_OUT, 2),
    ),
    example=example,
    beside=beside,
    mutants={
        "outcome rewards are unbiased": is_g(OUTCOME),
        "Q^μ with token ratios": continued_by_mu(row(advantages.response_reward, ratios.token_is), 1),
        "Q^μ with full ratios": continued_by_mu(row(advantages.response_reward, ratios.sequence_is), 1),
        "the group mean costs nothing": continued_by_mu(MEAN, 2),
        "exact advantages need no past": is_g(row(advantages.exact_advantage, ratios.token_is)),
    },
    needs=("thm:advantage", "lem:baseline"),
    wording="the prefix ratio is an unbiased correction of the policy gradient, with group-relative outcome rewards",
    as_worded=follows_g(LEFT_OUT, 2),
)
