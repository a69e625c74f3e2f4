"""prop:modelling-power: token-level and response-level rewards give one gradient, to REINFORCE and to actor-critics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from paper_checks.common import PAPER, both, expectation, gradient, row
from paper_checks.variances import arbitrary
from tpg import truth
from tpg.claims import Claim, Finding, nonzero, zero
from tpg.claims.record import Check
from tpg.estimators import advantages, critics
from tpg.estimators.estimator import Estimator
from tpg.estimators.parts import Part
from tpg.numbers import Array, powers
from tpg.problem.problem import Problem
from tpg.rollouts import Critic

Twin = Callable[[Problem], Problem]


def as_given(problem: Problem) -> Problem:
    """The true token rewards."""
    return problem


def at_the_end(problem: Problem) -> Problem:
    """Response-level: RM(W) paid on the last token, nothing before."""
    totals = problem.totals / problem.powers[problem.tree.depth][:, None]
    return replace(problem, rewards=np.where(problem.tree.inner, problem.field.scalar(0), totals))


def spread_out(problem: Problem) -> Problem:
    """Any causal token rewards with the same totals: an arbitrary number moved from each token to the one before it."""
    tree, lent = problem.tree, arbitrary(problem, (problem.tree.nodes,))
    lent[: problem.prompts] = problem.field.scalar(0)
    early = np.where(tree.inner, lent[tree.child], problem.field.scalar(0))
    return replace(problem, rewards=problem.rewards + problem.discount * early - lent[:, None])


def not_settled(problem: Problem) -> Problem:
    """Mutant: what was lent is never taken back, so that totals differ."""
    lent = arbitrary(problem, problem.probs.shape)
    return replace(problem, rewards=problem.rewards + np.where(problem.tree.inner, lent, problem.field.scalar(0)))


def token_gae(token_reward: Array, mask: Array, value: Array, discount: Any, *, lam: int) -> Array:
    """GAE(λ) on token rewards γ^{t−1} r_t and a critic of what is still to come, in the same units."""
    paid = token_reward * powers(discount, token_reward.shape[-1])
    out = np.where(mask, paid + value[..., 1:] - value[..., :-1], 0)
    for t in reversed(range(mask.shape[-1] - 1)):
        out[..., t] = out[..., t] + lam * out[..., t + 1]
    return out


def still_to_come(problem: Problem) -> Array:
    """[N] γ^{t−1} Σ_a π Q: the exact critic of token-level rewards."""
    return problem.powers[problem.tree.depth] * (problem.probs * truth.q_values(problem)).sum(1)


def forgets_discount(problem: Problem) -> Array:
    """Mutant: a critic of token-level rewards in units of its own time."""
    return (problem.probs * truth.q_values(problem)).sum(1)


def actor_critics(problem: Problem) -> list[tuple[str, Estimator]]:
    """Token-level and response-level GAE(λ) at T values of λ: E ĝ has degree < T in λ, so this is every λ."""
    out = []
    for lam in range(problem.horizon):
        out.append((f"token-level GAE({lam})", row(partial(token_gae, lam=lam), still_to_come)))
        out.append((f"response-level GAE({lam})", row(partial(critics.gae, lam=lam), critics.exact_critic)))
    return out


def reinforce(problem: Problem) -> list[tuple[str, Estimator]]:
    """Full return, reward-to-go, M_t and M_t − M_{t−1}."""
    parts: dict[str, Part] = {
        "full return": advantages.response_reward,
        "reward-to-go": advantages.reward_to_go,
        "M_t": advantages.trajectory_value,
        "M_t − M_{t−1}": advantages.exact_advantage,
    }
    return [(name, row(part)) for name, part in parts.items()]


def one_gradient(twin: Twin) -> Check:
    """Every row on the twin's rewards has the gradient of the problem's own."""

    def check(problem: Problem) -> Sequence[Finding]:
        other, g = twin(problem), gradient(problem)
        return [
            zero(f"E ĝ = g: {name}, {twin.__name__}", expectation(other, estimator) - g)
            for name, estimator in (*reinforce(problem), *actor_critics(problem))
        ]

    return check


def same_totals(problem: Problem) -> Sequence[Finding]:
    """The twins pay the same RM(W) for every response, and differ in token rewards."""
    twins = [twin(problem) for twin in (at_the_end, spread_out)]
    return [
        *(zero("same RM(W)", (other.totals - problem.totals)[problem.ends]) for other in twins),
        *(nonzero("other token rewards", other.rewards - problem.rewards) for other in twins),
    ]


def with_critic(part: Part, critic: Critic, lam: int) -> Check:
    """Mutants: token-level GAE(λ) with another critic or other rewards."""

    def check(problem: Problem) -> Sequence[Finding]:
        return [zero("E ĝ = g", expectation(problem, row(partial(part, lam=lam), critic)) - gradient(problem))]

    return check


def proportional(problem: Problem) -> Sequence[Finding]:
    """Mutant: the same gradient up to a factor."""
    return [zero("E ĝ = 2g", expectation(problem, row(advantages.response_reward)) - 2 * gradient(problem))]


def clairvoyant(token_reward: Array, discount: Any, length: Array) -> Array:
    """Mutant: reward-to-go of token rewards RM/L, which know the final length: equal totals, not causal."""
    total = advantages.reward_to_go(token_reward, discount)[..., :1]
    left = np.maximum(length[..., None] - np.arange(token_reward.shape[-1]), 0)
    return total * left / length[..., None]


def not_causal(problem: Problem) -> Sequence[Finding]:
    """Mutant: equal totals are enough."""
    return [zero("E ĝ = g", expectation(problem, row(clairvoyant)) - gradient(problem))]


CLAIM = Claim(
    label="prop:modelling-power",
    statement="causal token rewards with equal response totals give one and the same E ĝ = g to the full return, "
    "reward-to-go, M_t, M_t − M_{t−1} and GAE(λ) with the exact critic of either level, for every λ and γ",
    source=f"{PAPER} says equal modelling power",
    hypotheses=("token rewards are causal", "critics are exact", "responses come from the current policy"),
    check=both(same_totals, *(one_gradient(twin) for twin in (as_given, at_the_end, spread_out))),
    mutants={
        "totals differ": one_gradient(not_settled),
        "a token-level critic without its discount": with_critic(token_gae, forgets_discount, 0),
        "token-level rewards with the response-level critic": with_critic(token_gae, critics.exact_critic, 0),
        "the reward at the end with the token-level critic": with_critic(critics.gae, still_to_come, 0),
        "token rewards that know the future": not_causal,
        "equal up to a factor": proportional,
    },
    needs=("lem:exact-gradient", "thm:trajectory-pg", "thm:advantage", "prop:gae-pathwise", "prop:reward-class"),
    wording="RL on token-level and RL on response-level rewards have the same modelling power (the first third of the "
    "sentence; of PPO: claim:advantage-beats-the-family, of DPO: claim:dpo-at-their-level)",
    as_worded=both(one_gradient(as_given), one_gradient(at_the_end)),
)
