"""prop:trepo-advantage-interpolation, reading (a) of TRePO: interpolated advantages add nothing in expectation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from paper_checks.common import PAPER, both, expectation, gradient, unbiased
from paper_checks.continued import always, at_positions, draws, inclusion, row, sets
from paper_checks.laws import turned
from tpg.claims import Claim, Finding, nonzero, zero
from tpg.claims.record import Check
from tpg.estimators import anchors, continuations
from tpg.estimators.estimator import Estimator
from tpg.estimators.parts import Part
from tpg.estimators.table import ESTIMATORS
from tpg.numbers import Array
from tpg.problem import zoo
from tpg.problem.problem import Problem

ROW, ALONE, ONE_DRAW = (ESTIMATORS[f"trepo_{name}"] for name in ("adv_interp", "anchors", "adv_interp_k1"))
PARTS = (continuations.advantage_interpolation, continuations.anchors_only)
LOOKING = partial(anchors.subset_of_length, size=1)
Weight = Callable[[Array], Array]  # anchors at positions 1 … T → how much of E[D_t S_t] is met, by position


def every_set(part: Part, weight: Weight = np.asarray) -> Check:
    """For every set τ of anchors E ĝ = Σ_t weight_t(τ) E[D_t S_t], by default those at the anchors."""

    def check(problem: Problem) -> Sequence[Finding]:
        gaps = [
            always(problem, pattern).mean(row(part)) - at_positions(problem, weight(pattern[1:]).astype(int))
            for pattern in sets(problem.horizon)
        ]
        return [zero(f"{part.__name__}: E ĝ = Σ E[D_t S_t] over the anchors, every set", np.concatenate(gaps))]

    return check


def blind(estimator: Estimator) -> Check:
    """E ĝ = Σ_t ρ_t E[D_t S_t], ρ_t the chance that t is an anchor."""

    def check(problem: Problem) -> Sequence[Finding]:
        assert estimator.anchors is not None
        chance = inclusion(estimator.anchors, problem.horizon)
        gap = expectation(problem, estimator) - at_positions(problem, chance)
        return [zero(f"{estimator.name}: E ĝ = Σ ρ_t E[D_t S_t]", gap)]

    return check


def one_draw(problem: Problem) -> Sequence[Finding]:
    """The same with one drawn continuation per prefix, every draw listed, anchors at 1, 3, …"""
    pattern = np.arange(problem.horizon + 1) % 2 == 1
    gap = draws(problem, 1, pattern).mean(ONE_DRAW) - at_positions(problem, pattern[1:].astype(int))
    return [zero("one continuation: E ĝ = Σ E[D_t S_t] over the anchors", gap)]


def all_tokens(pattern: Array) -> Array:
    """Mutant: wherever there is an anchor at all, every token is met."""
    return np.full(len(pattern), pattern.any())


def up_to_the_last(pattern: Array) -> Array:
    """Mutant: tokens between anchors are met, those before the first and after the last are not."""
    return np.maximum.accumulate(pattern) & np.flip(np.maximum.accumulate(np.flip(pattern)))


def without_padding(anchor: Array, continuation_value: Array, mask: Array) -> Array:
    """Mutant: anchors after the end are left out, so that the weights know where the response ends."""
    inside = np.concatenate([mask[..., :1], mask], axis=-1)
    return continuations.advantage_interpolation(anchor & inside, continuation_value)


def looks_at_length(problem: Problem) -> Array:
    """E ĝ with one anchor among the tokens of the response."""
    return expectation(problem, replace(ROW, anchors=LOOKING))


def example() -> Sequence[Finding]:
    """Existential: the interpolated tokens are not silent, and blindness is needed."""
    problem = zoo.two_valued()
    pattern = np.array([False, True, False, False])
    _, credit = always(problem, pattern).credits(row(PARTS[0]))
    off = turned(looks_at_length(problem), gradient(problem))
    return [
        nonzero("tokens that are no anchors do get credit", credit[:, 1:]),
        nonzero(
            "anchors at the first position alone turn g", turned(at_positions(problem, [1, 0, 0]), gradient(problem))
        ),
        nonzero("anchors that look at the length turn g on two-valued", off),
        *every_set(PARTS[0])(problem),
        *every_set(PARTS[0])(zoo.shared()),
    ]


CLAIM = Claim(
    label="prop:trepo-advantage-interpolation",
    statement="advantages at anchors, interpolated between them by position: for every set τ of anchors E ĝ = Σ_{t∈τ} "
    "E[D_t S_t], so Σ_t ρ_t E[D_t S_t] for anchors of chance ρ_t (ρ g for one ρ); interpolated tokens get credit and "
    "add exactly nothing in expectation",
    source=f"ours, on {PAPER}; ledger 8",
    hypotheses=(
        "anchors are blind to the response",
        "weights look at positions alone: anchors after the end count with A = 0",
        "advantages exact or from K fresh continuations",
    ),
    check=both(
        *(every_set(part) for part in PARTS), *(blind(r) for r in (ROW, ALONE)), one_draw, unbiased(ROW, 1, "1/2")
    ),
    example=example,
    mutants={
        "every token is met": every_set(PARTS[0], all_tokens),
        "every token between two anchors is met": lambda p: every_set(PARTS[0], up_to_the_last)(zoo.two_valued()),
        "unbiased": unbiased(ROW),
        "values interpolated instead": every_set(continuations.value_interpolation),
        "anchors after the end left out": lambda p: every_set(without_padding)(zoo.two_valued()),
    },
    needs=("thm:advantage",),
)
