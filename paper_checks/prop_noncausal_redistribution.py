"""prop:noncausal-redistribution: splitting RM by a rule that looks ahead costs reward-to-go its unbiasedness."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from paper_checks.common import both, gradient
from paper_checks.laws import paying, turned
from paper_checks.spreads import (
    Dense,
    any_constant,
    any_split,
    any_table,
    ending_as,
    given,
    met,
    past,
    value_to_go,
)
from tpg.claims import Claim, Finding, nonzero, zero
from tpg.claims.record import Check
from tpg.estimators import dense
from tpg.numbers import Array
from tpg.problem.problem import Problem, make
from tpg.problem.tree import grow
from tpg.rollouts import responses

HALF = "1/2"


def a_number(problem: Problem) -> Array:
    """[N, V] a free number per prompt."""
    return np.broadcast_to(any_constant(problem)[problem.tree.prompt, None] + 1, problem.probs.shape)


def full_sum(problem: Problem) -> Sequence[Finding]:
    """Σ_t d_t = RM at every token: REINFORCE, whatever the rule."""
    split = given(problem, any_split(problem))
    return [zero("full sum of any split of RM: E ĝ = g", split.full(problem) - gradient(problem))]


def late(missing: Callable[[Array], Array] = past) -> Check:
    """E ĝ = g − E Σ_t D_{<t} S_t for reward-to-go and GAE(λ) of any split: D_{<t} is what they no longer see."""

    def check(problem: Problem) -> Sequence[Finding]:
        numbers = any_split(problem)
        split, wanted = given(problem, numbers), gradient(problem) - met(problem, missing(numbers))
        return [
            zero("reward-to-go of any split of RM: E ĝ = g − E Σ_t D_{<t} S_t", split.to_go(problem) - wanted),
            zero("GAE(1/2) with its own critic: the same", split.gae(problem, HALF) - wanted),
        ]

    return check


def causal(problem: Problem) -> Sequence[Finding]:
    """Free numbers of W_{0,t}, and on the last token what is left of RM: D_{<t} is a baseline."""
    split = Dense(dense.spa_residual, any_table)
    gaps = [made(problem) - gradient(problem) for made in (split.full, split.to_go)]
    return [zero("a causal split of RM: E ĝ = g", np.concatenate(gaps))]


def potential(end: Callable[[Problem], Array], worth: Callable[[Problem, Array], Array]) -> Check:
    """R·1{t=L} + Φ(W_{0,t}) − Φ(W_{0,t−1}), Φ free but for its ``end``: E ĝ = ∇E[``worth``], by every return."""

    def check(problem: Problem) -> Sequence[Finding]:
        shaped = Dense(dense.igpo, ending_as(end), any_constant)
        wanted = gradient(paying(problem, worth(problem, end(problem))))
        made = [shaped.full(problem), shaped.to_go(problem), shaped.gae(problem, HALF)]
        return [zero("potential differences: E ĝ as their end says", np.concatenate([m - wanted for m in made]))]

    return check


def outcome(problem: Problem, end: Array) -> Array:
    """[N, V] R."""
    return problem.totals


def outcome_and_end(problem: Problem, end: Array) -> Array:
    """[N, V] R + Φ(W)."""
    return problem.totals + end


def equal_halves() -> Sequence[Finding]:
    """Two tokens of two, π = 1/2, RM = w₁ + w₂, paid half on each token: the smallest counterexample.

    One token leaves nothing to be lost.  g: 1/2·1/2·1 = 1/4 on the logit of 1 at the prompt, and 1/2 of that after each
    first token.  There reward-to-go has RM/2 in place of RM; at the prompt it is whole.
    """
    problem = make(grow(2, 2), [["1/2", "1/2"]] * 3, [[0, 1]] * 3, name="equal halves")
    numbers = np.repeat(responses(problem).reward[:, None] / 2, 2, axis=1)
    found, g = given(problem, numbers).to_go(problem), gradient(problem)
    return [
        zero("equal halves: E ĝ = g at the prompt", [found[1] - g[1], g[1] - problem.field.scalar("1/4")]),
        zero("equal halves: E ĝ = g/2 afterwards", 2 * found[2:] - g[2:]),
        nonzero("equal halves: reward-to-go turns", turned(found, g)),
        zero("equal halves: GAE(1/2) does the same", given(problem, numbers).gae(problem, HALF) - found),
    ]


def unbiased_anyway(problem: Problem) -> Sequence[Finding]:
    """Mutant: reward-to-go of any split is unbiased."""
    return [zero("E ĝ = g", given(problem, any_split(problem)).to_go(problem) - gradient(problem))]


def mended_by_a_critic(problem: Problem) -> Sequence[Finding]:
    """Mutant: an exact critic takes the bias away."""
    numbers = any_split(problem)
    made = given(problem, numbers).gae(problem, 0, lambda _: value_to_go(problem, numbers))
    return [zero("E ĝ = g", made - gradient(problem))]


CLAIM = Claim(
    label="prop:noncausal-redistribution",
    statement="a dense reward that sums to RM on every response keeps the full sum unbiased, whatever it looks at; "
    "reward-to-go, and GAE(λ) with the exact critic of that reward, have E ĝ = g − E Σ_t D_{<t} S_t with "
    "D_{<t} = Σ_{k<t} d_k: g for a causal reward, biased in general; R·1{t=L} + Φ_t − Φ_{t−1} with a potential of the "
    "prefix gives ∇E[R + Φ(W)] by every return, so g where Φ ends as a constant",
    source="ours; the potential is that of Ng et al. 1999",
    hypotheses=(
        "d and Φ are held fixed when differentiated",
        "the critic is exact for d itself, under the current policy",
        "γ = 1 in the advantage, d in units of RM",
    ),
    check=both(full_sum, late(), causal, potential(a_number, outcome), potential(any_table, outcome_and_end)),
    example=equal_halves,
    mutants={
        "reward-to-go of any split is unbiased": unbiased_anyway,
        "an exact critic mends it": mended_by_a_critic,
        "the bias has the other sign": late(lambda numbers: -past(numbers)),
        "the own token is lost too": late(lambda numbers: past(numbers) + numbers),
        "a potential may end as it likes": potential(any_table, outcome),
    },
    needs=("thm:trajectory-pg", "lem:baseline", "claim:gae-of-any-redistribution"),
)
