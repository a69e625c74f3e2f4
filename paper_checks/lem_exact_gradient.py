"""lem:exact-gradient: the policy gradient theorem with token rewards and discount, as an equality."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from paper_checks.common import PAPER, both, expectation, gradient, row, unbiased
from tpg import truth
from tpg.claims import Claim, Finding, nonzero, zero
from tpg.estimators import advantages
from tpg.numbers import Array, powers
from tpg.problem import zoo
from tpg.problem.problem import Problem


def routes_agree(problem: Problem) -> Sequence[Finding]:
    """Backward recursion = enumeration = dual numbers."""
    g = gradient(problem)
    return [
        zero(f"∇J by {name} equals ∇J by dual numbers", problem.combine(route(problem)) - g)
        for name, route in truth.ROUTES.items()
    ]


def undiscounted(token_reward: Array, discount: Any) -> Array:
    """Mutant: γ^{t−1} dropped, A_t = Σ_{k≥t} γ^{k−t} r_k, what implementations do."""
    steps = powers(discount, token_reward.shape[-1])
    return advantages.reward_to_go(token_reward, discount) / steps


def later_rewards_only(token_reward: Array, discount: Any) -> Array:
    """Mutant: the token's own reward is left out."""
    own = token_reward * powers(discount, token_reward.shape[-1])
    return advantages.reward_to_go(token_reward, discount) - own


def rewards_so_far(token_reward: Array, discount: Any) -> Array:
    """Mutant: the sum runs backwards."""
    return np.add.accumulate(token_reward * powers(discount, token_reward.shape[-1]), axis=-1)


def example() -> Sequence[Finding]:
    """The existential part."""
    problem = zoo.shared()
    gap = expectation(problem, row(undiscounted)) - gradient(problem)
    return [nonzero("γ = 9/10: dropping γ^{t−1} gives another vector", gap)]


CLAIM = Claim(
    label="lem:exact-gradient",
    statement="g = E Σ_t γ^{t−1} Q(W_{0,t−1}, w_t) S_t, an equality, under the policy's own distribution",
    source=f"{PAPER}; ledger 1",
    hypotheses=("r_t is a function of W_{0,t} only", "responses come from the current policy"),
    check=both(routes_agree, unbiased(row(advantages.reward_to_go))),
    example=example,
    mutants={
        "γ^{t−1} dropped": unbiased(row(undiscounted)),
        "own reward left out": unbiased(row(later_rewards_only)),
        "rewards before instead of after": unbiased(row(rewards_so_far)),
        "proportional, not equal": unbiased(row(advantages.reward_to_go), factor=2),
    },
)
