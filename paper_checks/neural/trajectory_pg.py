"""thm:trajectory-pg and prop:modelling-power on a transformer: the response-level reward is all that enters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from paper_checks import thm_trajectory_pg as theorem
from paper_checks.common import PAPER, row
from paper_checks.neural.common import GROUP, all_of, near, unbiased
from tpg.claims import Claim, Finding
from tpg.estimators import advantages
from tpg.neural import exact
from tpg.neural.case import Case
from tpg.neural.task import Task


@dataclass(frozen=True)
class AtTheEnd:
    """The response-level twin of a task: all that its tokens earn is paid with the last one."""

    task: Task

    def __call__(self, prompt: Tensor, tokens: Tensor) -> Tensor:
        """[n, L] rewards."""
        paid = self.task.reward(prompt, tokens)
        position = torch.arange(tokens.shape[1], device=tokens.device, dtype=paid.dtype)
        power = self.task.discount**position
        last = position == self.task.horizon - 1
        if self.task.end_token is not None:
            last = last | (tokens == self.task.end_token)
        return torch.where(last, (paid * power).cumsum(1) / power, 0)


def same_for_the_twin(case: Case) -> Sequence[Finding]:
    """Token rewards and their response-level twin have one gradient: streamed, on all parameters."""
    twin = exact.gradient(case.network, replace(case.task, reward=AtTheEnd(case.task))).flat
    apart = (twin - case.exact.flat).norm().cpu()
    return [near(case, "∇J = ∇J of the response-level twin", apart, float(twin.norm()))]


CLAIM = Claim(
    label="neural:trajectory-pg",
    statement="on a transformer: credit M_t, or the sampled RM(W) at every token, is unbiased for any γ; token rewards "
    "and their response-level twin have one gradient",
    source=PAPER,
    hypotheses=("r_t is causal", "continuations come from the current policy", "RM is the discounted sum"),
    check=all_of(
        unbiased(row(advantages.trajectory_value)), unbiased(row(advantages.response_reward)), same_for_the_twin
    ),
    mutants={
        "continuations of another policy": unbiased(row(theorem.continued_by_another, theorem.other_policy)),
        "one token less shared": unbiased(row(theorem.one_token_late)),
        "RM without discount": unbiased(row(theorem.undiscounted_sum)),
        "token rewards that know the future": unbiased(row(theorem.clairvoyant)),
    },
    needs=("neural:exact-gradient",),
    algebraic=False,
    group_sizes=(GROUP,),
)
