"""alg:trepo on a transformer: its readings and VinePPO, with exact values and with K drawn continuations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from paper_checks.common import PAPER
from paper_checks.neural.common import Check, all_of, biased, declared, near, unbiased, where
from tpg.claims import Claim, Finding
from tpg.estimators.estimator import Estimator
from tpg.estimators.table import ESTIMATORS
from tpg.moments import moments
from tpg.neural.case import Case
from tpg.neural.rewards import KeyTokenReward

UNBIASED = ("vineppo", "trepo_ipw", "trepo_block", "trepo_block_subset")
ALONE = 1  # response per prompt: these rows do not compare


def noise(estimator: Estimator) -> Check:
    """tr Cov with K continuations = tr Cov with exact values + C / K: twice the draws halve what they add."""

    def check(case: Case) -> Sequence[Finding]:
        def variance(count: int | None) -> float:
            row = replace(estimator, continuations=count)
            return float(moments(case.problem, row, ALONE).total_variance)

        exact, once, twice = variance(None), variance(1), variance(2)
        what = f"{estimator.name}: Var(K=1) − Var(∞) = 2 (Var(K=2) − Var(∞)) > 0"
        halved = near(case, what, once - exact - 2 * (twice - exact), once)
        return [halved, replace(halved, ok=once > exact, value=f"{once - exact:.3g} added by one draw")]

    return check


def several_paid(case: Case) -> bool:
    """More than one position is paid; interpolated values turn nothing else."""
    return not isinstance(case.task.reward, KeyTokenReward)


CLAIM = Claim(
    label="neural:trepo",
    statement="on a transformer: block telescoping, inverse-probability anchors and VinePPO are unbiased; anchors "
    "only and interpolated advantages are so up to the chance of an anchor; interpolated values turn it unless "
    "one token alone is paid; K continuations leave E ĝ alone and add C/K to the variance",
    source=PAPER,
    hypotheses=("anchors do not depend on the response", "continuations come from the current policy"),
    check=all_of(
        *(unbiased(ESTIMATORS[name], ALONE) for name in UNBIASED),
        *(unbiased(ESTIMATORS[name], ALONE, 1 / 2) for name in ("trepo_anchors", "trepo_adv_interp")),
        declared(ESTIMATORS["trepo_value_interp"], ALONE),
        where(several_paid, biased(ESTIMATORS["trepo_value_interp"], ALONE)),
        noise(ESTIMATORS["vineppo"]),
        noise(ESTIMATORS["trepo_block"]),
    ),
    mutants={
        "interpolated values are unbiased": unbiased(ESTIMATORS["trepo_value_interp"], ALONE),
        "interpolated advantages are unbiased": unbiased(ESTIMATORS["trepo_adv_interp"], ALONE),
        "anchors without their probability": unbiased(ESTIMATORS["trepo_anchors"], ALONE),
    },
    needs=("neural:advantage",),
    algebraic=False,
    group_sizes=(ALONE,),
)
