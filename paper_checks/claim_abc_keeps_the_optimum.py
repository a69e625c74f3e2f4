"""claim:abc-keeps-the-optimum: attention shares keep every return, and may turn reward-to-go round."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from paper_checks.common import both, gradient
from paper_checks.spreads import Dense, free, met, past, spoken
from tpg.claims import Claim, Finding, zero
from tpg.claims.record import Check
from tpg.estimators import dense
from tpg.numbers import Array, parse
from tpg.problem.problem import Problem, make
from tpg.problem.tree import grow
from tpg.rollouts import responses


def attention(problem: Problem) -> Array:
    """[N, V] a_t: positive where there is an order, free in GF(p).

    Numbers that are free make each Σ_k a_k of degree 1: at most 32 denominators on the shapes of the checks.
    """
    return free(problem, "attention", *problem.probs.shape) + 5  # residues are −4 … 6 in the rationals


def abc(beta: Any) -> Dense:
    """d_t = β α_t R + (1−β) R·1{t=L}."""

    def part(process_reward: Array, reward: Array, length: Array) -> Array:
        return dense.abc(process_reward, reward, length, beta=beta)

    return Dense(part, attention)


def same_return(problem: Problem) -> Sequence[Finding]:
    """Σ_t d_t = R on every response: J, its optimum and the full sum stay."""
    shares = abc("1/2")
    return [
        zero("Σ_t d_t = R on every response", shares.numbers(problem).sum(1) - responses(problem).reward),
        zero("full sum: E ĝ = g", shares.full(problem) - gradient(problem)),
    ]


def past_share(problem: Problem) -> Array:
    """[R, T] R A_{<t}, A_{<t} = Σ_{k<t} α_k."""
    weight = spoken(problem, attention(problem))
    return responses(problem).reward[:, None] * past(weight) / weight.sum(1, keepdims=True)


def reward_to_go(beta: Any, sign: int = -1) -> Check:
    """E ĝ = g − β E Σ_t R A_{<t} S_t, and GAE(λ) the same."""

    def check(problem: Problem) -> Sequence[Finding]:
        shift = sign * problem.field.scalar(parse(beta)) * met(problem, past_share(problem))
        wanted, shares = gradient(problem) + shift, abc(beta)
        return [
            zero(f"reward-to-go, β = {beta}: E ĝ = g − β E Σ_t R A_(<t) S_t", shares.to_go(problem) - wanted),
            zero(f"GAE(1/2), β = {beta}: the same", shares.gae(problem, "1/2") - wanted),
        ]

    return check


def unbiased(problem: Problem) -> Sequence[Finding]:
    """The reward-to-go that is used climbs J."""
    return [zero("reward-to-go: E ĝ = g", abc("1/2").to_go(problem) - gradient(problem))]


def shares_of_the_own_token(problem: Problem) -> Sequence[Finding]:
    """Mutant: the own share is lost too, A_{≤t}."""
    weight = spoken(problem, attention(problem))
    upto = (past(weight) + weight) / weight.sum(1, keepdims=True)
    lost = met(problem, responses(problem).reward[:, None] * upto) / 2
    return [zero("E ĝ = g − β E Σ_t R A_(≤t) S_t", abc("1/2").to_go(problem) - gradient(problem) + lost)]


def turned_round() -> Sequence[Finding]:
    """Two tokens of two, π = 1/2; the second decides, R = 3 or 2; the better one lets the attention on the first grow.

    a₁ = 1, a₂ = 1/9 after the better token, 9 after the other: α₁ = 9/10 and 1/10.  With β = 1/2 the second token is
    paid 3 (1 − 9/20) = 33/20 or 2 (1 − 1/20) = 38/20: a difference of −1/4 in place of 1.
    """
    problem = make(grow(2, 2), [["1/2", "1/2"]] * 3, [[0, 0], [2, 3], [2, 3]], name="attention looks back")
    weight = problem.field.array([[1, 1], [9, "1/9"], [9, "1/9"]])
    found = Dense(dense.abc, lambda _: weight).to_go(problem)
    return [zero("E ĝ = −g/4: away from the optimum", np.append(4 * found + gradient(problem), 0))]


CLAIM = Claim(
    label="claim:abc-keeps-the-optimum",
    statement="paying β of R by attention shares α_t and the rest at the end keeps the return of every response, hence "
    "J, its optimum and the full sum; reward-to-go and GAE(λ) with their exact critic have "
    "E ĝ = g − β E Σ_t R A_{<t} S_t, A_{<t} = Σ_{k<t} α_k, which may point away from the optimum",
    source="Chan, Sun, Holt, van der Schaar, arXiv 2402.00782; the bias is ours; ledger 22",
    hypotheses=(
        "α is the attention over the whole response, normalised there, held fixed when differentiated",
        "γ = 1 in the advantage",
    ),
    check=both(same_return, reward_to_go("1/2"), reward_to_go("1")),
    example=turned_round,
    mutants={
        "reward-to-go is unbiased": unbiased,
        "the bias has the other sign": reward_to_go("1/2", +1),
        "β counts twice": reward_to_go("1/2", -2),
        "the own share is lost too": shares_of_the_own_token,
    },
    needs=("thm:trajectory-pg", "lem:baseline", "claim:gae-of-any-redistribution"),
    wording="spreading the reward over the tokens by attention is equivalent to potential-based shaping, so that the "
    "optimum, and with it what reward-to-go climbs, stays as it was",
    as_worded=unbiased,
)
