"""prop:off-policy-cut: a truncated, masked or clipped ratio of the response loses exactly what is cut off."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from paper_checks.common import both, expectation, gradient
from paper_checks.stale import Paths, stale, turned
from tpg.claims import Claim, Finding, nonzero, zero
from tpg.claims.record import Check
from tpg.estimators import advantages, ratios
from tpg.estimators.estimator import Estimator
from tpg.estimators.table import ESTIMATORS
from tpg.numbers import Array
from tpg.problem import zoo
from tpg.problem.problem import Problem

Lost = Callable[[Array, Array, Array], Array]  # π(W), μ(W), RM(W) → what the weight of the response lacks


def gradient_of(problem: Problem, worth: Lost) -> Array:
    """[D] Σ_W worth ∇log π(W), the worth of a response not differentiated."""
    paths = Paths(problem)
    chance = paths.chance(problem.probs)
    each = paths.weight * worth(chance, paths.chance(problem.sampling), paths.reward) / chance
    return np.asarray((each[:, None] * paths.moved_chance()).sum(0))


def near(problem: Problem, share: str) -> Problem:
    """μ = π + share · (another policy − π)."""
    other = stale(problem).sampling
    return replace(problem, behaviour=problem.probs + problem.field.scalar(share) * (other - problem.probs))


def loses(estimator: Estimator, worth: Lost) -> Check:
    """E ĝ of the row is g less what is cut, for distant and for near μ."""

    def check(problem: Problem) -> Sequence[Finding]:
        out = []
        for share in ("1", "1/3"):
            made = near(problem, share)
            lack = gradient(made) - expectation(made, estimator)
            out.append(zero(f"g − E ĝ of {estimator.name}, μ at {share}", lack - gradient_of(made, worth)))
        return out

    return check


def nothing_to_cut(estimator: Estimator, share: str = "1/200") -> Check:
    """No ratio of a response leaves 1/2 … 2: E ĝ = g."""

    def check(problem: Problem) -> Sequence[Finding]:
        made = near(problem, share)
        return [zero(f"{estimator.name} of a near μ: E ĝ = g", expectation(made, estimator) - gradient(made))]

    return check


def above(ours: Array, theirs: Array, reward: Array, cap: Any = 2) -> Array:
    """(π − C μ)₊ R: the mass of the responses that exceed the cap, beyond it."""
    return np.where(ours > cap * theirs, ours - cap * theirs, ours - ours) * reward


def outside(ours: Array, theirs: Array, reward: Array, low: bool = True) -> Array:
    """π R of the responses whose ratio is outside 1/2 … 2."""
    cut = ours > 2 * theirs
    return np.where(cut | (2 * ours < theirs) if low else cut, ours, ours - ours) * reward


def flat(ours: Array, theirs: Array, reward: Array) -> Array:
    """π R where PPO's clip at 1 ± 1/5 stops the gradient: R > 0 and ρ > 6/5, or R < 0 and ρ < 4/5."""
    up, down = (reward > 0) & (5 * ours > 6 * theirs), (reward < 0) & (5 * ours < 4 * theirs)
    return np.where(up | down, ours, ours - ours) * reward


def either_side(ours: Array, theirs: Array, reward: Array) -> Array:
    """Mutant: π R outside 4/5 … 6/5, whatever the sign."""
    return np.where((5 * ours > 6 * theirs) | (5 * ours < 4 * theirs), ours, ours - ours) * reward


TRUNCATED, MASKED = ESTIMATORS["tis_sequence"], ESTIMATORS["mis_sequence"]
CLIPPED = Estimator("clipped", advantages.response_reward, ratio=ratios.sequence_clip, numbers="ordered")
PER_TOKEN = [ESTIMATORS[name] for name in ("token_is", "tis_token", "mis_token")]


def example() -> Sequence[Finding]:
    """The existential part: what each cut does to a problem of its own, and tokens where there is nothing to cut."""
    problem, out = zoo.stale(), []
    for estimator in (TRUNCATED, MASKED, CLIPPED):
        found, g = expectation(problem, estimator), gradient(problem)
        out.append(nonzero(f"{estimator.name} turns the gradient on {problem.name}", turned(found, g)))
    close_by = near(zoo.three_valued(), "1/200")
    for estimator in PER_TOKEN:
        gap = expectation(close_by, estimator) - gradient(close_by)
        out.append(nonzero(f"{estimator.name} is biased where it cuts nothing", gap))
    return out


CLAIM = Claim(
    label="prop:off-policy-cut",
    statement="cutting the full-sequence ratio loses exactly what is cut: truncation at C costs Σ_W (π − Cμ)₊ RM "
    "∇log π(W), masking and PPO's clip cost Σ π RM ∇log π(W) over the responses cut; without any of those they are "
    "unbiased, while per-token ratios may be biased even then",
    source="ours; TIS and MIS as in verl, the clip of the whole ratio as in TRL's RLOOTrainer",
    hypotheses=("credit RM(W) times the ratio of the whole response", "μ generates every response that π can"),
    check=both(
        loses(TRUNCATED, above),
        loses(MASKED, outside),
        loses(CLIPPED, flat),
        *(nothing_to_cut(estimator) for estimator in (TRUNCATED, MASKED)),
    ),
    example=example,
    mutants={
        "truncation is unbiased": nothing_to_cut(TRUNCATED, "1"),
        "masking is unbiased": nothing_to_cut(MASKED, "1"),
        "truncation loses the whole response": loses(TRUNCATED, partial(outside, low=False)),
        "masking loses what exceeds the cap": loses(MASKED, above),
        "masking keeps the low ratios": loses(MASKED, partial(outside, low=False)),
        "the clip stops both sides": loses(CLIPPED, either_side),
        "token ratios need only be near": nothing_to_cut(PER_TOKEN[0]),
    },
    needs=("thm:trajectory-pg",),
    algebraic=False,
)
