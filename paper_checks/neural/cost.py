"""alg:trepo on cost: "matches GRPO's memory", "simpler than PPO", weighed on one real update of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from paper_checks.common import PAPER
from paper_checks.neural.common import GROUP
from tpg.claims import Claim, Finding
from tpg.claims.record import Check
from tpg.neural import cost
from tpg.neural.case import Case
from tpg.neural.cost import Cost

CONTINUATIONS, ANCHORS = 2, 2
OURS = ("TRePO, blocks", "TRePO, advantages", "VinePPO, steps", "VinePPO, every token")
EACH = "VinePPO, every token"


def weigh(case: Case, method: str, at_once: bool = False) -> Cost:
    """One update; continuations in turns of as many sequences as there are responses, or all at once."""
    row = cost.methods(CONTINUATIONS, ANCHORS)[method]
    batch = None if at_once else case.task.prompts * GROUP
    return cost.measure(row, case.network, case.task, GROUP, batch=batch, seed=case.seed)


def as_grpo(method: str, other: str = "GRPO", at_once: bool = False) -> Check:
    """The memory of training is the same byte for byte, and the peak no higher."""

    def check(case: Case) -> Sequence[Finding]:
        mine, its = weigh(case, method, at_once), weigh(case, other)
        found = cost.matches_memory(mine, its)
        value = f"peak {mine.peak} bytes against {its.peak}; {mine.tokens} tokens against {its.tokens}"
        return [Finding(f"{method} holds what {other} holds", found.holds, value)]

    return check


def below_ppo(method: str) -> Check:
    """Fewer networks that learn, parameters, gradients and less optimiser state than PPO with a critic."""

    def check(case: Case) -> Sequence[Finding]:
        mine, its = weigh(case, method), weigh(case, "PPO")
        value = f"{mine.training} bytes in training against {its.training}"
        return [Finding(f"{method} learns less than PPO", cost.simpler(mine, its).holds, value)]

    return check


def dearer(method: str) -> Check:
    """It generates more tokens than GRPO."""

    def check(case: Case) -> Sequence[Finding]:
        mine, its = weigh(case, method).tokens, weigh(case, "GRPO").tokens
        return [Finding(f"{method} generates more tokens than GRPO", mine > its, f"{mine} against {its}")]

    return check


def all_of(case: Case) -> Sequence[Finding]:
    """Every method."""
    return [found for name in OURS for each in (as_grpo, below_ppo, dearer) for found in each(name)(case)]


def as_worded(case: Case) -> Sequence[Finding]:
    """The same without a condition on how continuations are generated, at the published nine per value."""
    row = replace(cost.methods(CONTINUATIONS, ANCHORS)[EACH], continuations=9)
    mine = cost.measure(row, case.network, case.task, GROUP, seed=case.seed)
    found = cost.matches_memory(mine, weigh(case, "GRPO"))
    return [
        Finding("credit for every token holds what GRPO holds, all at once", found.holds, f"{found.ratios['peak']}")
    ]


CLAIM = Claim(
    label="neural:cost",
    statement="one update of TRePO or VinePPO holds, byte for byte, what GRPO without a reference holds, if its "
    "continuations come in turns; fewer networks learn than in PPO; both generate more tokens than either",
    source=PAPER,
    hypotheses=("a critic is as large as the policy", "Adam, no recomputation, whole groups at once"),
    check=all_of,
    mutants={
        "PPO holds what GRPO holds": as_grpo("PPO"),
        "a reference network costs nothing": as_grpo("GRPO, reference"),
        "GRPO generates more than GRPO": dearer("GRPO"),
    },
    algebraic=False,
    group_sizes=(GROUP,),
    wording="token-level credit by Monte Carlo matches GRPO's memory, whatever is generated at once",
    as_worded=as_worded,
)
