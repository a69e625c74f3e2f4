"""prop:group-mean: a mean that includes the own reward shrinks the gradient by (G−1)/G; leave-one-out does not."""

from __future__ import annotations

from paper_checks.common import both, row, unbiased
from tpg.claims import Claim
from tpg.estimators import advantages
from tpg.estimators.parts import peers
from tpg.numbers import Array

MEAN, RLOO = row(advantages.group_mean), row(advantages.rloo)


@peers("reward")
def leave_one_out_over_g(reward: Array) -> Array:
    """Mutant: the sum over the others divided by G instead of G − 1."""
    return reward - (reward.sum(-1, keepdims=True) - reward) / reward.shape[-1]


@peers("reward")
def wrong_sign(reward: Array) -> Array:
    """Mutant: mean of the others minus own reward."""
    return -advantages.rloo(reward)


@peers("reward")
def times_group(reward: Array) -> Array:
    """Mutant: own reward times the sum of the group's."""
    return reward * reward.sum(-1, keepdims=True)


CLAIM = Claim(
    label="prop:group-mean",
    statement="self-inclusive mean baseline: E ĝ = (G−1)/G · g exactly; leave-one-out: E ĝ = g exactly",
    source="ours; the factor is known for RLOO (arXiv 2402.14740); ledger 11",
    hypotheses=("responses of a group are independent draws from the current policy", "G ≥ 2"),
    group_sizes=(2, 3),
    check=both(unbiased(MEAN, 2, "1/2"), unbiased(MEAN, 3, "2/3"), unbiased(RLOO, 2), unbiased(RLOO, 3)),
    mutants={
        "the mean baseline is unbiased": unbiased(MEAN, 3),
        "factor G/(G−1)": unbiased(MEAN, 2, "2"),
        "own reward included, called leave-one-out": unbiased(MEAN, 2),
        "sign of the leave-one-out credit": unbiased(row(wrong_sign), 2),
        "credit times the group's reward": unbiased(row(times_group), 2),
    },
    needs=("thm:trajectory-pg", "lem:baseline"),
)
