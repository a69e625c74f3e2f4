"""prop:reinforce-family, prop:group-mean, prop:sigma and prop:length on a transformer."""

from __future__ import annotations

from paper_checks.common import PAPER
from paper_checks.neural.common import GROUP, all_of, along, biased, declared, few_rewards, unbiased, where
from tpg.claims import Claim
from tpg.estimators.table import ESTIMATORS
from tpg.neural.case import Case


def unequal(case: Case) -> bool:
    """Responses differ in length, and groups can be counted."""
    return case.task.end_token is not None and few_rewards(case)


CLAIM = Claim(
    label="neural:reinforce-family",
    statement="on a transformer: REINFORCE, RLOO and ReMax are unbiased; the group mean is (G−1)/G · g; GRPO, Dr. GRPO "
    "and DAPO have the expectations their rows declare, and with unequal lengths neither GRPO nor DAPO is along g",
    source=PAPER,
    hypotheses=("responses of a group are independent", "z-scores: few distinct rewards, so that groups are counted"),
    check=all_of(
        *(unbiased(ESTIMATORS[name]) for name in ("reinforce", "rloo", "remax")),
        unbiased(ESTIMATORS["group_mean"], factor=(GROUP - 1) / GROUP),
        *(where(few_rewards, declared(ESTIMATORS[name])) for name in ("dr_grpo", "grpo", "dapo")),
        where(few_rewards, along(ESTIMATORS["dr_grpo"])),
        *(where(unequal, biased(ESTIMATORS[name])) for name in ("grpo", "dapo")),
    ),
    mutants={
        "the group mean is unbiased": unbiased(ESTIMATORS["group_mean"]),
        "GRPO is along g": where(few_rewards, along(ESTIMATORS["grpo"])),
        "DAPO is along g": where(few_rewards, along(ESTIMATORS["dapo"])),
    },
    needs=("neural:trajectory-pg",),
    algebraic=False,
    group_sizes=(GROUP,),
)
