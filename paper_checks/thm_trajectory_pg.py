"""thm:trajectory-pg: the response-level reward alone gives the policy gradient of unknown token rewards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from paper_checks.common import PAPER, both, expectation, gradient, row, unbiased
from tpg.claims import Claim, Finding, zero
from tpg.estimators import advantages
from tpg.numbers import Array
from tpg.problem.problem import Problem
from tpg.problem.tree import expect
from tpg.problem.zoo import simplex


def other_policy(problem: Problem) -> Array:
    """[N] M(s) when continuations come from another policy."""
    probs = simplex(np.random.Generator(np.random.Philox(5)), problem.probs.shape, problem.field)
    return expect(problem.tree, probs, problem.totals)[1]


def continued_by_another(value: Array, reward: Array, length: Array) -> Array:
    """Mutant: credit M_t with continuations of another policy; RM itself on the last token."""
    last = np.arange(1, value.shape[-1]) == length[..., None]
    return np.where(last, reward[..., None], value[..., 1:])


def one_token_late(continuation_value: Array) -> Array:
    """Mutant: the fresh response shares t − 1 tokens, not t: credit M_{t−1}."""
    return continuation_value[..., :-1]


def undiscounted_sum(token_reward: Array) -> Array:
    """Mutant: RM taken as the plain sum of token rewards."""
    return token_reward.sum(-1, keepdims=True) + 0 * token_reward


def clairvoyant(token_reward: Array, discount: Any, length: Array) -> Array:
    """Mutant: reward-to-go of a redistribution RM/L that knows the final length: not causal."""
    total = advantages.reward_to_go(token_reward, discount)[..., :1]
    left = np.maximum(length[..., None] - np.arange(token_reward.shape[-1]), 0)
    return total * left / length[..., None]


def same_for_every_split(problem: Problem) -> Sequence[Finding]:
    """RM is all that enters: moving every token reward onto the last token changes neither E ĝ nor g."""
    totals = problem.totals / problem.powers[problem.tree.depth][:, None]
    moved = replace(problem, rewards=np.where(problem.tree.inner, problem.field.scalar(0), totals))
    estimate = expectation(problem, row(advantages.response_reward))
    return [zero("E ĝ is ∇J of the response-level twin", estimate - gradient(moved))]


CLAIM = Claim(
    label="thm:trajectory-pg",
    statement="g = E Σ_t E[RM(W^{(t+1)})] S_t: credit M_t, or the sampled RM(W) at every token, is unbiased for any γ",
    source=f"{PAPER}; ledger 1",
    hypotheses=("r_t is causal", "continuations come from the current policy", "RM is the discounted sum"),
    check=both(
        unbiased(row(advantages.trajectory_value)), unbiased(row(advantages.response_reward)), same_for_every_split
    ),
    mutants={
        "continuations of another policy": unbiased(row(continued_by_another, other_policy)),
        "one token less shared": unbiased(row(one_token_late)),
        "RM without discount": unbiased(row(undiscounted_sum)),
        "token rewards that know the future": unbiased(row(clairvoyant)),
    },
    needs=("lem:exact-gradient", "lem:baseline"),
)
