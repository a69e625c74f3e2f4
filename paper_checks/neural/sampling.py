"""Sampled responses and one surrogate loss against the exact mean and variance, with declared error rates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from paper_checks.common import PAPER
from paper_checks.neural.common import GROUP, Check, few_rewards
from tpg.claims import Claim, Finding
from tpg.errors import TooLarge
from tpg.estimators.estimator import Estimator
from tpg.estimators.expectations import UNBIASED
from tpg.estimators.parts import peers_of
from tpg.estimators.table import ESTIMATORS
from tpg.neural import check as room
from tpg.neural.case import Case

ROWS = ("reinforce", "rloo", "remax", "grpo", "dr_grpo", "exact_advantage", "vineppo", "trepo_block_k1")
BATCHES, ALPHA, POWER = 20_000, 1e-9, 0.99


def held(case: Case, estimator: Estimator) -> Sequence[Finding]:
    """Mean and variance of ĝ along every direction; deviations that would have been noticed are said."""
    if any(peers_of(part) for part in estimator.parts) and not few_rewards(case):
        return []  # covariances along directions want groups counted by class
    try:
        found = _checked(case, estimator)
    except TooLarge as refusal:  # of the exact variance, by the engine
        return [Finding(f"{estimator.name}, drawn from the network", True, str(refusal), 0)]
    mean, variance = found.mean, found.variance
    return [
        _finding(f"mean of ĝ, {estimator.name}", mean, float(np.abs(case.g[0]))),
        _finding(f"variance of ĝ, {estimator.name}", variance, float(variance.exact[0])),
    ]


def _checked(case: Case, estimator: Estimator) -> room.Check:
    return room.check(
        case.network,
        case.task,
        case.problem,
        estimator,
        GROUP,
        BATCHES,
        case.along,
        case.seed,
        alpha=ALPHA,
        power=POWER,
        g=case.g,
    )


def _finding(what: str, found: room.Held, size: float) -> Finding:
    """About nothing where a deviation along g as large as what is tested would have gone unnoticed."""
    least = float(found.minimum_discrepancy[0]) / size
    value = f"log e-value {found.log_evalue:.2f}; along g {least:.2g} of it would have been noticed"
    return Finding(f"{what}, drawn from the network", not found.rejected, value, int(least < 1), ALPHA / 2)


def every(case: Case) -> Sequence[Finding]:
    """All rows."""
    return [found for name in ROWS for found in held(case, ESTIMATORS[name])]


def wrongly(name: str, **change: object) -> Check:
    """Mutant: a row that is, or says, something else."""
    return lambda case: held(case, replace(ESTIMATORS[name], **change))  # type: ignore[arg-type]


CLAIM = Claim(
    label="neural:sampling",
    statement="responses drawn from a transformer with cached keys and values, and one surrogate loss, have the mean "
    "and the variance that the exact engine says, for every row tried",
    source=PAPER,
    hypotheses=("responses are drawn on-policy", f"{BATCHES} groups of {GROUP} per prompt"),
    check=every,
    mutants={
        "the group mean is RLOO": wrongly("group_mean", expectation=UNBIASED),
        "GRPO is unbiased": wrongly("grpo", expectation=UNBIASED),
    },
    needs=("neural:exact-gradient",),
    algebraic=False,
    group_sizes=(GROUP,),
)
