"""prop:reinforce-family, prop:group-mean, prop:sigma and prop:length on a transformer."""

from __future__ import annotations

from collections.abc import Sequence

from paper_checks.common import PAPER
from paper_checks.neural.common import GROUP, Check, all_of, expectation, near, off, unbiased
from tpg.claims import Claim, Finding
from tpg.estimators.table import ESTIMATORS
from tpg.neural.case import Case
from tpg.rollouts import responses

FEW = 4  # reward values up to which z-scores are counted


def few_rewards(case: Case) -> bool:
    """Whether groups can be counted by their rewards."""
    found = responses(case.problem)
    return len(set(found.reward.tolist())) <= FEW


def declared(name: str, along_g: bool | None = None) -> Check:
    """E ĝ is the closed form that the row declares, evaluated with the streamed g; and along g or not, if asked."""
    estimator = ESTIMATORS[name]

    def check(case: Case) -> Sequence[Finding]:
        if not few_rewards(case):
            return []
        mean, size = expectation(case, estimator)
        said = case.problem.combine(estimator.expectation(case.problem, GROUP, case.g[None].repeat(2, 0)))
        found = [near(case, f"E ĝ of {name} = what its row declares ({estimator.expectation.text})", mean - said, size)]
        if along_g is None:
            return found
        across = mean - (mean @ case.g) / (case.g @ case.g) * case.g
        verdict = near if along_g else off
        return [*found, verdict(case, f"E ĝ of {name} is {'' if along_g else 'not '}along g", across, size)]

    return check


def turned_by_length(name: str) -> Check:
    """Where responses differ in length, E ĝ is not along g."""

    def check(case: Case) -> Sequence[Finding]:
        return [] if case.task.end_token is None else declared(name, along_g=False)(case)

    return check


CLAIM = Claim(
    label="neural:reinforce-family",
    statement="on a transformer: REINFORCE, RLOO and ReMax are unbiased; the group mean is (G−1)/G · g; GRPO, Dr. GRPO "
    "and DAPO have the expectations their rows declare, and with unequal lengths neither GRPO nor DAPO is along g",
    source=PAPER,
    hypotheses=("responses of a group are independent", "z-scores: few distinct rewards, so that groups are counted"),
    check=all_of(
        *(unbiased(ESTIMATORS[name]) for name in ("reinforce", "rloo", "remax")),
        unbiased(ESTIMATORS["group_mean"], factor=(GROUP - 1) / GROUP),
        declared("dr_grpo", along_g=True),
        declared("grpo"),
        declared("dapo"),
        turned_by_length("grpo"),
        turned_by_length("dapo"),
    ),
    mutants={
        "the group mean is unbiased": unbiased(ESTIMATORS["group_mean"]),
        "GRPO is along g": declared("grpo", along_g=True),
        "DAPO is along g": declared("dapo", along_g=True),
    },
    needs=("neural:trajectory-pg",),
    algebraic=False,
    group_sizes=(GROUP,),
)
