"""thm:advantage: credit M_t − M_{t−1}, PPO's advantage under ZRA with an exact critic: unbiased, not optimal."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from paper_checks.common import PAPER, both, on_paths, row, unbiased
from tpg.claims import Claim, Finding, positive, zero
from tpg.claims.record import Check
from tpg.estimators import advantages, critics
from tpg.moments import brute_force
from tpg.numbers import Array
from tpg.problem import zoo
from tpg.problem.problem import Problem
from tpg.rollouts import Critic


def is_ppo_advantage(critic: Critic) -> Check:
    """GAE(0) on the reward paid at the end, with ``critic``, equals M_t − M_{t−1} on every path."""

    def check(problem: Problem) -> Sequence[Finding]:
        _, actor_critic = on_paths(problem, partial(critics.gae, lam=0), critic)
        _, exact = on_paths(problem, advantages.exact_advantage)
        return [zero("r^ZRA_t + V_{t+1} − V_t = M_t − M_{t−1} on every path", actor_critic - exact)]

    return check


def doubled(continuation_value: Array) -> Array:
    """Mutant: credit 2 M_t − M_{t−1}."""
    return 2 * continuation_value[..., 1:] - continuation_value[..., :-1]


def other_baseline(continuation_value: Array, value: Array) -> Array:
    """Credit M_t − b(W_{0,t−1})."""
    return continuation_value[..., 1:] - value[..., :-1]


def best_baseline(problem: Problem) -> Array:
    """[N] b*(s) = E[‖S‖² M | s] / E[‖S‖² | s], the variance optimum of a tabular policy (Greensmith et al. 2004)."""
    probs, after = problem.probs, problem.values[0]
    norm2 = 1 - 2 * probs + (probs * probs).sum(-1, keepdims=True)
    return (probs * norm2 * after).sum(-1) / (probs * norm2).sum(-1)


def example() -> Sequence[Finding]:
    """The existential part."""
    problem = zoo.two_valued()
    exact = brute_force(problem, row(advantages.exact_advantage), 1).total_variance
    better = brute_force(problem, row(other_baseline, best_baseline), 1).total_variance
    return [positive("variance above that of the best baseline: M_{t−1} is not optimal", exact - better)]


CLAIM = Claim(
    label="thm:advantage",
    statement="credit M_t − M_{t−1} is unbiased, and is PPO's advantage under ZRA with an exact critic; "
    "M_{t−1} need not be the baseline of least variance",
    source=f"{PAPER}; ledger 1",
    hypotheses=("the critic is exact: V(W_{0,t}) = M_t", "γ = 1 in the advantage, RM already discounted"),
    check=both(unbiased(row(advantages.exact_advantage)), is_ppo_advantage(critics.exact_critic)),
    example=example,
    mutants={
        "a critic of limited capacity": is_ppo_advantage(critics.position_critic),
        "that critic with λ = 0, unbiased": unbiased(row(partial(critics.gae, lam=0), critics.position_critic)),
        "twice M_t": unbiased(row(doubled)),
    },
    needs=("thm:trajectory-pg", "lem:baseline"),
)
