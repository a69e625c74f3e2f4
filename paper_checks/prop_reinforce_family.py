"""prop:reinforce-family: the sampled response reward instead of M_t, one baseline of time 0 for all tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from paper_checks.common import PAPER, both, row, unbiased
from tpg.claims import Claim, Finding, zero
from tpg.claims.record import Check
from tpg.estimators import advantages
from tpg.estimators.estimator import Estimator
from tpg.estimators.parts import Part, peers
from tpg.numbers import Array
from tpg.problem.problem import Problem
from tpg.rollouts import every

FAMILY: tuple[Part, ...] = (advantages.response_reward, advantages.rloo, advantages.greedy)
MEAN = row(advantages.group_mean)


def one_number(estimator: Estimator) -> Check:
    """Every token of a response gets the same credit (RM_i − b)/G."""

    def check(problem: Problem) -> Sequence[Finding]:
        out = []
        for _, singles, index, _ in every(problem, 2):
            credits = estimator(singles.group(index, estimator.needs))
            mask = singles.mask[index]
            out.append(zero("one credit for all tokens", np.where(mask, credits - credits[..., :1], 0)))
        return out

    return check


def baseline_ignores_own(estimator: Estimator) -> Check:
    """b = RM_i − G·c_i is the same whatever response i turns out to be, peers and prompt fixed."""

    def check(problem: Problem) -> Sequence[Finding]:
        out = []
        for _, singles, index, _ in every(problem, 2):
            credits = estimator(singles.group(index, estimator.needs))
            baseline = singles.reward[index[:, 0]] - 2 * credits[:, 0, 0]
            first = np.array([np.flatnonzero(index[:, 1] == peer)[0] for peer in index[:, 1]])  # same peer, other own
            out.append(zero("the baseline does not read the own response", baseline - baseline[first]))
        return out

    return check


@peers("reward")
def peers_per_token(reward: Array, continuation_value: Array) -> Array:
    """Mutant: a baseline that moves along the response."""
    return reward[..., None] - continuation_value[..., :-1]


CLAIM = Claim(
    label="prop:reinforce-family",
    statement="REINFORCE, RLOO, ReMax and the group mean give every token RM(W_i) − b with one b for all t; "
    "b of RLOO and ReMax ignores W_i, so they are unbiased; the group mean does not, so it is (G−1)/G · g; GRPO's row: "
    "claim:grpo-one-number",
    source=f"{PAPER}; ledger 5",
    hypotheses=("responses of a group are independent", "σ and 1/|o| left out (prop:sigma, prop:length)"),
    group_sizes=(2,),
    check=both(
        *(one_number(row(part)) for part in (*FAMILY, advantages.group_mean)),
        *(baseline_ignores_own(row(part)) for part in FAMILY),
        *(unbiased(row(part), 2) for part in FAMILY),
        unbiased(MEAN, 2, "1/2"),
    ),
    mutants={
        "a baseline per token": one_number(row(peers_per_token)),
        "the group mean ignores the own reward": baseline_ignores_own(MEAN),
        "the group mean is unbiased": unbiased(MEAN, 2),
    },
    needs=("thm:trajectory-pg",),
)
