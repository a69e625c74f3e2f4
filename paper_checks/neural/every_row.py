"""Every row of the table on a transformer: measured against the expectation it declares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from paper_checks.neural.common import GROUP, Check, few_rewards
from tpg.audit import REFUTED, audit
from tpg.claims import Claim, Finding
from tpg.errors import TooLarge
from tpg.estimators import expectations
from tpg.estimators.estimator import Estimator
from tpg.estimators.parts import peers_of, scale_of
from tpg.estimators.table import ESTIMATORS
from tpg.neural.case import Case

SMALL = 2  # responses per prompt where batches are counted
ON, OFF = "on-policy", "stale responses"


def countable(case: Case, estimator: Estimator) -> bool:
    """Groups need no count, or can be counted by class in a moment: by rewards, if those are few."""
    alone = not any(peers_of(part) for part in estimator.parts)
    closed = scale_of(estimator.advantage) is not None and not peers_of(estimator.aggregation)
    return (not estimator.batch and (alone or closed)) or (few_rewards(case) and estimator.collapsible)


def measured(case: Case, estimator: Estimator, stale: bool) -> Finding:
    """Whether E ĝ is as declared on this network; where that is not said or cannot be counted, it decides nothing."""
    problem, where = (case.stale, OFF) if stale else (case.problem, ON)
    what = f"E ĝ of {estimator.name} is what its row declares, {where}"
    said = estimator.declares(problem)
    if said is None or not said.known or not countable(case, estimator):
        return Finding(what, True, "not said, or its groups are too many to list", 0)
    try:
        found = audit(problem, estimator, max(SMALL if estimator.batch else GROUP, estimator.min_group))
    except TooLarge as refusal:
        return Finding(what, True, str(refusal), 0)
    return Finding(what, found.verdict != REFUTED, found.why)


def every(case: Case) -> Sequence[Finding]:
    """All rows, on-policy and, where they speak of it, off-policy."""
    return [measured(case, row, stale) for row in ESTIMATORS.values() for stale in (False, True)]


def called_unbiased(name: str, stale: bool = False) -> Check:
    """Mutant: the row declares E ĝ = g."""
    row = replace(ESTIMATORS[name], expectation=expectations.UNBIASED, off_policy=expectations.UNBIASED)
    return lambda case: [measured(case, row, stale)]


CLAIM = Claim(
    label="neural:every-row",
    statement="on a transformer: every row of the table has the expectation it declares, on-policy and off-policy",
    source="the table of estimators",
    hypotheses=("groups that can be counted or listed", "behaviour and reference are nearby networks"),
    check=every,
    mutants={
        "GRPO is unbiased": called_unbiased("grpo"),
        "k3 in the loss is no bias": called_unbiased("kl_k3_loss"),
        "RLOO needs no ratio": called_unbiased("rloo", stale=True),
    },
    needs=("neural:exact-gradient",),
    algebraic=False,
    group_sizes=(SMALL, GROUP),
)
