"""claim:std-turns: what a std in the denominator does to estimators that are along g without it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product

import numpy as np

from paper_checks.claim_tic_grpo_unbiased import along_g
from paper_checks.claim_tic_grpo_unbiased import row as with_full_ratio
from paper_checks.claim_vineppo_unbiased import centred
from paper_checks.common import both, expectation, gradient, row
from paper_checks.laws import climbed, three_valued, turned
from paper_checks.prop_sigma_turns import own_score, scale
from paper_checks.stale import stale
from tpg.claims import Claim, Finding, apart, close
from tpg.claims.record import Check
from tpg.estimators.advantages import rloo, z_score
from tpg.estimators.estimator import Estimator
from tpg.estimators.parts import Part, peers
from tpg.estimators.table import ESTIMATORS
from tpg.numbers import FLOAT64, Array
from tpg.problem import zoo
from tpg.problem.problem import Problem

RATIO = with_full_ratio(z_score)
OVER_STD = replace(ESTIMATORS["dr_grpo"], name="Dr. GRPO over the std", advantage=z_score, numbers="float64")


@peers("tokens", "length", "continuation_value", "mask")
def whitened(tokens: Array, length: Array, continuation_value: Array, mask: Array) -> Array:
    """Mean 0 and variance 1 over all tokens of the group."""
    step = centred(tokens, length, continuation_value, mask)
    spread = (np.where(mask, step * step, 0).sum((-1, -2)) / mask.sum((-1, -2)))[..., None, None]
    return step / np.sqrt(spread + 1e-8)


WHITENED = row(whitened)


def off_policy(problem: Problem) -> Problem:
    """Three reward values, responses of μ, in float64."""
    return stale(three_valued(problem)).to(FLOAT64)


def on_policy(problem: Problem) -> Problem:
    """Three reward values in float64."""
    return three_valued(problem).to(FLOAT64)


def own_form(size: int, ddof: int = 1, made: Callable[[Problem], Problem] = off_policy) -> Check:
    """The full ratio moves the scores to π, while peers stay with μ: E ĝ = Σ_r E_μ[z-score | own reward r] ∇P(r)."""

    def check(problem: Problem) -> Sequence[Finding]:
        given = made(problem)
        gap = expectation(given, RATIO, size) - climbed(given, own_score(size, ddof))
        return [close(f"full ratio: E ĝ = Σ_r E_μ[z-score | r] ∇P(r), G = {size}", gap, 10 * scale(given))]

    return check


def along(estimator: Estimator, made: Callable[[Problem], Problem], size: int = 2) -> Check:
    """Mutants: E ĝ is a multiple of g."""

    def check(problem: Problem) -> Sequence[Finding]:
        given = made(problem)
        found, g = expectation(given, estimator, size), gradient(given)
        return [close(f"{estimator.name} is along g, G = {size}", turned(found, g), g @ g * np.abs(found).max())]

    return check


def third_difference(part: Part) -> Array:
    """A statistic of pairs has none: credit(a, b, c) summed over two b and two c, signs alternating."""
    group = np.array(list(product([0.0, 1.0, 3.0], [1.0, 3.0], [0.0, 1.0])))
    sign = np.array([(-1) ** i for i in (0, 1, 1, 0)] * 3)
    return np.asarray((part(group)[:, 0] * sign).reshape(3, 4).sum(1))


def example() -> Sequence[Finding]:
    """Each on problems with three values and with shared parameters; two values and the full ratio do not turn."""
    out = [
        apart("z-scores of three values are no statistic of pairs: third difference", third_difference(z_score), 1),
        close("leave-one-out credits are", third_difference(rloo), 1),
        *(found for size in (2, 3) for found in along_g(RATIO, size)(zoo.two_valued())),
    ]
    for estimator, problem, size in (
        (RATIO, stale(zoo.three_valued()), 2),
        (OVER_STD, zoo.three_valued(), 4),
        (OVER_STD, zoo.shared(), 4),
        (WHITENED, zoo.two_valued(), 2),
    ):
        (found,) = along(estimator, lambda made: made.to(FLOAT64), size)(problem)
        turns = replace(found, what=f"{estimator.name} turns on {problem.name}, G = {size}", ok=not found.ok)
        out.append(turns)
    return out


CLAIM = Claim(
    label="claim:std-turns",
    statement="z-scores times the full ratio have E ĝ = Σ_r E_μ[z-score | own reward r]∇P(r) for every μ, which with "
    "three values need not be along g, nor need Dr. GRPO's credits over the group's std, nor VinePPO's steps whitened "
    "over the tokens of a group; and z-scores are no statistic of pairs, as leave-one-out credits are",
    source="arXiv 2508.02833, 2503.20783, 2410.01679, 2603.01162; the form is ours; ledger 9, 12, 15, 18",
    hypotheses=("std over G − 1, ε = 10⁻⁶", "μ generates every response that π can", "no clip"),
    group_sizes=(2, 3),
    check=both(own_form(2), own_form(3)),
    example=example,
    mutants={
        "population std": own_form(3, ddof=0),
        "the full ratio keeps z-scores along g": along(RATIO, off_policy),
        "Dr. GRPO over the std is along g": along(OVER_STD, on_policy, 3),
        "whitened steps are along g": along(WHITENED, on_policy),
        "z-scores are a statistic of pairs": lambda problem: [close("third difference", third_difference(z_score), 1)],
    },
    needs=("prop:sigma-turns", "claim:tic-grpo-unbiased", "claim:dr-grpo-unbiased", "claim:vineppo-unbiased"),
    algebraic=False,
)
