"""prop:silent-group: a group of equal rewards teaches group-relative methods nothing; M_t − M_{t−1} still may."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from paper_checks.common import PAPER, both, row
from tpg.claims import Claim, Finding, nonzero, zero
from tpg.claims.record import Check
from tpg.estimators import advantages
from tpg.estimators.estimator import Estimator
from tpg.estimators.parts import peers
from tpg.estimators.table import ESTIMATORS
from tpg.numbers import FLOAT64, Array
from tpg.problem import zoo
from tpg.problem.problem import Problem
from tpg.rollouts import every


def silent_credits(problem: Problem, estimator: Estimator, group_size: int) -> Array:
    """The credits of every group whose rewards are all equal, flattened."""
    out = []
    for _, singles, index, _ in every(problem, group_size, estimator.given):
        reward = singles.reward[index]
        silent = index[(reward == reward[:, :1]).all(1)]
        if len(silent):
            out.append(estimator(singles.group(silent, estimator.needs)).ravel())
    return np.concatenate(out)


def right_or_wrong(problem: Problem) -> Problem:
    """The same policy with response rewards 0 and 1 in turn, so that different responses tie."""
    node, token = np.indices(problem.probs.shape)
    won = ~problem.tree.inner & ((node + token) % 2 == 0)
    return replace(problem, rewards=np.where(won, problem.field.scalar(1), problem.field.scalar(0)))


def vanish(estimator: Estimator, size: int = 2) -> Check:
    """No token of a silent group gets credit."""

    def check(problem: Problem) -> Sequence[Finding]:
        tied = right_or_wrong(problem)
        given = tied.to(FLOAT64) if estimator.numbers == "float64" else tied
        return [
            zero(f"credits of {estimator.name} in silent groups, G = {size}", silent_credits(given, estimator, size))
        ]

    return check


def raw_where_tied(reward: Array) -> Array:
    """Mutant: mean-centred, but a tie gets the raw reward, as some code treats a group without spread."""
    return np.where(advantages.tied(reward), reward + 1, advantages.rloo(reward))


@peers("reward", "length")
def scaled_anyhow(reward: Array, length: Array) -> Array:
    """(R_i − mean) times whatever the group may make of its rewards and lengths: the place of 1/σ and 1/|o|."""
    return advantages.group_mean(reward) * (1 + reward * reward).sum(-1, keepdims=True) * length


GROUP_RELATIVE = [*(ESTIMATORS[name] for name in ("rloo", "group_mean", "dr_grpo")), row(scaled_anyhow)]


def example() -> Sequence[Finding]:
    """The existential part."""
    problem = zoo.two_valued()
    exact = ESTIMATORS["exact_advantage"]
    return [nonzero("credits M_t − M_{t−1} in silent groups, G = 3", silent_credits(problem, exact, 3))]


CLAIM = Claim(
    label="prop:silent-group",
    statement="when all rewards of a group are equal, credits (R − mean) times any scale, leave-one-out ones among "
    "them, vanish, while M_t − M_{t−1} need not; rows with a std: claim:grpo-one-number",
    source=f"{PAPER}; ledger 7",
    hypotheses=("the baseline or scale is computed from the group alone", "the scale is finite where rewards tie"),
    group_sizes=(2, 3),
    check=both(*(vanish(estimator, size) for size in (2, 3) for estimator in GROUP_RELATIVE)),
    example=example,
    mutants={
        "REINFORCE": vanish(ESTIMATORS["reinforce"]),
        "ReMax": vanish(ESTIMATORS["remax"]),
        "exact advantages": vanish(ESTIMATORS["exact_advantage"]),
        "ties get the raw reward": vanish(row(raw_where_tied)),
    },
)
