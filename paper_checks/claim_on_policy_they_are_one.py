"""claim:on-policy-they-are-one: on the first step ratios and clips are 1; advantage × aggregation is left."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from paper_checks.common import both
from paper_checks.stale import free_policy
from tpg.claims import Claim, Finding, apart, close, zero
from tpg.claims.record import Check
from tpg.estimators import ratios
from tpg.estimators.estimator import Estimator
from tpg.estimators.parts import Part, apply, reads
from tpg.estimators.table import ESTIMATORS
from tpg.numbers import FLOAT64, Array
from tpg.problem import zoo
from tpg.problem.problem import Problem
from tpg.rollouts import every

Steps = Callable[[Problem], list[Problem]]
GRPO = ("grpo_clip", "gspo", "gspo_token", "gmpo", "sapo", "dhpo")
DAPO = ("dapo_clip", "cispo", "cispo_trl", "vespo", "ctpo")
MORE = ("ppo", "ppo_dual_clip", "raft_plus_plus", "luspo", "tic_grpo", "tic_grpo_bare", "rloo_sequence_clip")
WEIGHTS = ("token_is", "prefix_is", "sequence_is", "tis_token", "tis_sequence", "tis_geometric", "icepop")
SELECTED = ("mis_token", "mis_sequence", "a_lol", "a_lol_token")


def tied(problem: Problem) -> Problem:
    """The same policy with response rewards 0 and 1 in turn, so that groups tie and signs vanish."""
    node, token = np.indices(problem.probs.shape)
    won = ~problem.tree.inner & ((node + token) % 2 == 0)
    return replace(problem, rewards=np.where(won, problem.field.scalar(1), problem.field.scalar(0)))


def first_step(problem: Problem) -> list[Problem]:
    """μ = π, written out, in float64; with the rewards given and with two values."""
    made = problem.to(FLOAT64)
    return [replace(each, behaviour=made.probs.copy()) for each in (made, tied(made))]


def second_step(problem: Problem) -> list[Problem]:
    """μ is another policy."""
    return [replace(problem, behaviour=free_policy(problem)).to(FLOAT64)]


def once(group_size: int) -> Array:
    """1."""
    return np.array([1.0])


def gaps(problem: Problem, one: Estimator, other: Estimator, size: int, factor: Part = once) -> Array:
    """``one`` less ``factor`` times ``other``: all credits of all groups."""
    out = []
    for _, singles, index, _ in every(problem, size, one.given):
        rollouts = singles.group(index, one.needs | other.needs | reads(factor))
        out.append((one(rollouts) - apply(factor, rollouts) * other(rollouts)).ravel())
    return np.concatenate(out)


def equal(one: Estimator, other: Estimator, steps: Steps = first_step, sizes: Sequence[int] = (2, 3)) -> Check:
    """The credits are equal, bit for bit, on every group of these sizes."""

    def check(problem: Problem) -> Sequence[Finding]:
        found = [gaps(made, one, other, size) for made in steps(problem) for size in sizes]
        return [zero(f"credits of {one.name} less those of {other.name}", np.concatenate(found))]

    return check


def is_scaled(one: Estimator, other: Estimator, factor: Part) -> Check:
    """The same up to ``factor`` and rounding, on groups of two."""

    def check(problem: Problem) -> Sequence[Finding]:
        found = np.concatenate([gaps(made, one, other, 2, factor) for made in first_step(problem)])
        return [close(f"{one.name} = {factor.__name__} × {other.name}", found, 1.0)]

    return check


def uncorrected(name: str, steps: Steps = first_step) -> Check:
    """The row is what is left of it without any ratio, on groups of two."""
    return equal(ESTIMATORS[name], replace(ESTIMATORS[name], ratio=ratios.on_policy), steps, (2,))


def own_length(length: Array) -> Array:
    """L."""
    return length[..., None]


def tokens_to_come(length: Array, horizon: int) -> Array:
    """L − t + 1."""
    return np.maximum(length[..., None] - np.arange(horizon), 0)


def one_fifth(group_size: int) -> Array:
    """1/5."""
    return np.array([0.2])


CLAMPED = replace(ESTIMATORS["cispo_trl"], ratio=partial(ratios.clamp_token, high=0.2), name="cispo_trl at its default")
PRINTED = replace(ESTIMATORS["ctpo_printed"], ratio=ratios.on_policy, name="A / (G L)")
TABLE, ROWS = ESTIMATORS, (*GRPO, *DAPO, *MORE, *WEIGHTS, *SELECTED)


def example() -> Sequence[Finding]:
    """The exceptions are real, and so is what comes after the first step."""
    (made, _), (later,) = first_step(zoo.three_valued()), second_step(zoo.three_valued())
    printed = gaps(made, TABLE["ctpo_printed"], PRINTED, 2)
    off = [gaps(later, TABLE[name], TABLE["grpo"], 2) for name in GRPO]
    later_on = [apart(f"{name} is not GRPO on the next step", gap, 1.0) for name, gap in zip(GRPO, off, strict=True)]
    return [apart("CTPO as printed, on the first step", printed, 1.0), *later_on]


CLAIM = Claim(
    label="claim:on-policy-they-are-one",
    statement="when π = μ every group's credits of GSPO, GSPO-token, GMPO, SAPO, DHPO are GRPO's, those of CISPO, "
    "VESPO and released CTPO are DAPO's, LUSPO's are L times GRPO's, and TIC's, PPO's and all corrected, truncated, "
    "masked ones are theirs without ratio, bit for bit; CTPO as printed is L−t+1 times that, TRL's CISPO "
    "at its default clamp 1/5",
    source="ours for all rows at once; each publication says it of its own; ledger 14",
    hypotheses=("first step: π = μ", "DHPO and TIC-GRPO as described: no full text"),
    group_sizes=(2, 3),
    check=both(
        *(uncorrected(name) for name in ROWS),
        *(equal(TABLE[name], TABLE["grpo"]) for name in GRPO),
        *(equal(TABLE[name], TABLE["dapo"]) for name in DAPO),
        is_scaled(TABLE["luspo"], TABLE["grpo"], own_length),
        is_scaled(TABLE["ctpo_printed"], PRINTED, tokens_to_come),
        is_scaled(CLAMPED, TABLE["cispo_trl"], one_fifth),
    ),
    example=example,
    mutants={
        "CTPO as printed": uncorrected("ctpo_printed"),
        "TRL's default clamp": equal(CLAMPED, TABLE["dapo"]),
        "also one step later: GSPO": uncorrected("gspo", second_step),
        "also one step later: GSPO is GRPO": equal(TABLE["gspo"], TABLE["grpo_clip"], second_step),
        "LUSPO is GRPO": equal(TABLE["luspo"], TABLE["grpo"]),
        "CISPO is GRPO": equal(TABLE["cispo"], TABLE["grpo"]),
    },
    algebraic=False,
    wording="differentiated as printed, these objectives all reduce to advantage × aggregation when π = μ, CTPO's "
    "included",
    as_worded=both(*(uncorrected(name) for name in (*GRPO, *DAPO, "ctpo_printed"))),
)
