"""Who is less noisy on a transformer: exact total variance, all parameters counted."""

from __future__ import annotations

from collections.abc import Sequence

from paper_checks.common import PAPER
from paper_checks.neural.common import Check
from tpg.claims import Claim, Finding
from tpg.estimators.table import ESTIMATORS
from tpg.moments import moments
from tpg.neural.case import Case

GROUP = 2
SLACK = 1e-9  # relative: two rows that agree differ by rounding


def quieter(quiet: str, noisy: str, strictly: bool = True) -> Check:
    """tr Cov ĝ of ``quiet`` < that of ``noisy``, same responses."""

    def check(case: Case) -> Sequence[Finding]:
        low, high = (float(moments(case.whole, ESTIMATORS[n], GROUP).total_variance) for n in (quiet, noisy))
        ok = low < high * (1 - SLACK) if strictly else low <= high * (1 + SLACK)
        what = f"tr Cov of {quiet} {'<' if strictly else '≤'} that of {noisy}, G = {GROUP}, {case.counted}"
        return [Finding(what, ok, f"{low:.4g}, {high:.4g}")]

    return check


def against_the_critic(case: Case) -> Sequence[Finding]:
    """Advantage against V(s): the same where only one token is paid and every response reaches it."""
    return quieter("exact_advantage", "value_baseline", strictly=case.task.end_token is not None)(case)


def check(case: Case) -> Sequence[Finding]:
    """All pairs."""
    return [
        *against_the_critic(case),
        *quieter("exact_advantage", "reinforce_baseline")(case),
        *quieter("reinforce_baseline", "rloo")(case),
    ]


def folklore(case: Case) -> Sequence[Finding]:
    """A baseline per prefix beats one per prompt, and a group of two beats no baseline."""
    return [*quieter("value_baseline", "reinforce_baseline")(case), *quieter("rloo", "reinforce")(case)]


CLAIM = Claim(
    label="neural:variance",
    statement="on these transformers, in total variance: exact advantages are quieter than RM − V(s) and RM − M_0; "
    "RM − M_0 is quieter than RLOO, whose limit of large groups it is",
    source=PAPER,
    hypotheses=("exact values", "the network, its task and its size are those listed: no theorem orders them all"),
    check=check,
    mutants={
        "RLOO is as quiet as its limit": quieter("rloo", "reinforce_baseline"),
        "REINFORCE is the quietest": quieter("reinforce", "exact_advantage"),
    },
    needs=("neural:reinforce-family", "neural:advantage"),
    algebraic=False,
    group_sizes=(GROUP,),
    wording="V(s) is a better baseline than a constant, and RLOO less noisy than REINFORCE",
    as_worded=folklore,
)
