"""prop:gae-pathwise: with an exact critic GAE(λ) does not care where the reward is paid, path by path, for every λ."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from paper_checks.common import on_paths, unbiased
from tpg import truth
from tpg.claims import Claim, Finding, zero
from tpg.claims.record import Check
from tpg.estimators import critics
from tpg.estimators.table import ESTIMATORS
from tpg.numbers import Array
from tpg.problem.problem import Problem
from tpg.rollouts import Critic


def from_token_rewards(problem: Problem, node: Array, token: Array, mask: Array, lam: int) -> Array:
    """GAE(λ), γ = 1, on true token rewards and value-to-go V'(s) = Σ_a π Q, written out literally."""
    to_go = (problem.probs * truth.q_values(problem)).sum(-1)
    out = problem.field.zeros(node.shape)
    for i, length in enumerate(mask.sum(1)):
        for t in range(length):
            for k in range(t, length):
                after = to_go[node[i, k + 1]] if k + 1 < length else 0
                delta = problem.rewards[node[i, k], token[i, k]] + after - to_go[node[i, k]]
                out[i, t] += lam ** (k - t) * delta
    return out


def pathwise(critic: Critic) -> Check:
    """Equal at T + 1 values of λ: both sides are polynomials of degree < T in λ, so equal for every λ."""

    def check(problem: Problem) -> Sequence[Finding]:
        out = []
        for lam in range(problem.horizon + 1):
            singles, late = on_paths(problem, partial(critics.gae, lam=lam), critic)
            true = from_token_rewards(problem, singles.node, singles.token, singles.mask, lam)
            out.append(zero(f"GAE({lam}) on every path", late - true))
        return out

    return check


CLAIM = Claim(
    label="prop:gae-pathwise",
    statement="exact critic, γ = 1: GAE(λ) under ZRA (critic M_t) equals GAE(λ) under the true token rewards, "
    "on every path and for every λ",
    source="ours",
    hypotheses=("the critic is exact", "γ = 1"),
    check=pathwise(critics.exact_critic),
    mutants={
        "a critic of limited capacity": pathwise(critics.position_critic),
        "a wrong critic": pathwise(critics.wrong_critic),
        "limited critic, λ = 0.95, unbiased": unbiased(ESTIMATORS["gae_position_critic"]),
    },
    needs=("thm:advantage",),
    discounts=("1",),
)
