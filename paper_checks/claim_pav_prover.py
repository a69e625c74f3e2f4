"""claim:pav-prover: paid as rewards, a prover's advantages cancel; only a credit without return depends on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from paper_checks.common import both, expectation, gradient
from paper_checks.laws import turned
from paper_checks.spreads import Dense, any_constant, ending_as, left, met, spoken
from tpg.claims import Claim, Finding, nonzero, zero
from tpg.claims.record import Check
from tpg.estimators import dense
from tpg.estimators.estimator import Estimator
from tpg.numbers import Array, parse
from tpg.problem import zoo
from tpg.problem.problem import Problem
from tpg.problem.tree import expect
from tpg.rollouts import responses

Values = Callable[[Problem], tuple[Array, Array]]  # V^μ(s, a) [N, V] and V^μ(prompt) [P]


def any_prover(problem: Problem) -> tuple[Array, Array]:
    """Free numbers that end as R: the values of every prover are such a table."""
    return ending_as(lambda p: p.totals)(problem), any_constant(problem)


def without_outcome(problem: Problem) -> tuple[Array, Array]:
    """Free numbers that end as 0: a prover that is silent on whole responses."""
    return ending_as(lambda p: p.field.zeros(p.probs.shape))(problem), any_constant(problem)


def other_policy(problem: Problem) -> tuple[Array, Array]:
    """The expected reward under π mixed with its reverse."""
    after, here = expect(problem.tree, (problem.probs + problem.probs[:, ::-1]) / 2, problem.totals)
    return after, here[: problem.prompts]


def base_policy(problem: Problem) -> tuple[Array, Array]:
    """M, the values of π itself."""
    return problem.values[0], problem.values[1][: problem.prompts]


def pav(values: Values, alpha: Any) -> Dense:
    """d_t = R·1{t=L} + α A^μ_t."""

    def part(process_reward: Array, prompt_constant: Array, reward: Array, length: Array, mask: Array) -> Array:
        return dense.pav(process_reward, prompt_constant, reward, length, mask, alpha=alpha)

    return Dense(part, lambda p: values(p)[0], lambda p: values(p)[1])


def returned(values: Values, factor: Callable[[Any], Any]) -> Check:
    """E ĝ = ``factor``(α) g by every return; affine in α, so that two values decide."""

    def check(problem: Problem) -> Sequence[Finding]:
        out, g = [], gradient(problem)
        for alpha in ("3", "1/2"):
            paid, scale = pav(values, alpha), problem.field.scalar(factor(parse(alpha)))
            made = [paid.full(problem), paid.to_go(problem), paid.gae(problem, "1/2")]
            gap = np.concatenate([each - scale * g for each in made])
            out.append(zero(f"returns, {values.__name__}, α = {alpha}: E ĝ = {factor(parse(alpha))}·g", gap))
        return out

    return check


def used_without_return(problem: Problem, values: Values, alpha: Any = 3) -> Array:
    """[D] E ĝ of the credit Q^π + α A^μ."""

    def part(process_reward: Array, prompt_constant: Array, continuation_value: Array, mask: Array) -> Array:
        return dense.pav_myopic(process_reward, prompt_constant, continuation_value, mask, alpha=alpha)

    given = pav(values, alpha).given()
    return expectation(problem, Estimator("myopic", part, model=given.model, constant=given.constant))


def step(problem: Problem, values: Values) -> Array:
    """[R, T] A^μ_t = V^μ(W_{0,t}) − V^μ(W_{0,t−1})."""
    after, start = values(problem)
    path = spoken(problem, after)
    before = np.concatenate([start[responses(problem).prompt][:, None], path[:, :-1]], axis=1)
    return np.where(responses(problem).mask, path - before, 0)


def myopic(values: Values, kept: int = 1) -> Check:
    """E ĝ = g + α E Σ_t A^μ_t S_t."""

    def check(problem: Problem) -> Sequence[Finding]:
        wanted = gradient(problem) + 3 * kept * met(problem, step(problem, values))
        found = used_without_return(problem, values)
        return [zero(f"credit Q + αA, {values.__name__}: E ĝ = g + α E Σ_t A_t S_t", found - wanted)]

    return check


def myopic_with_the_base_policy(problem: Problem) -> Sequence[Finding]:
    """μ = π: (1+α) g without returns, too."""
    return [zero("credit Q + αA, μ = π: E ĝ = 4g", used_without_return(problem, base_policy) - 4 * gradient(problem))]


def depends_on_the_prover(problem: Problem) -> Sequence[Finding]:
    """A prover other than the base policy moves E ĝ elsewhere."""
    one, other = (pav(values, 3).to_go(problem) for values in (other_policy, base_policy))
    return [nonzero("returns: E ĝ of another prover less E ĝ of μ = π", one - other)]


def values_as_rewards(problem: Problem) -> Array:
    """[D] E ĝ of reward-to-go where every token is paid Q^π + α A^μ, α = 3, in place of R at the end."""
    paid = spoken(problem, problem.values[0]) + 3 * step(problem, other_policy)
    return met(problem, left(paid))


def literally(problem: Problem) -> Sequence[Finding]:
    """Mutant: Q^π + α A^μ paid on every token, with returns."""
    return [zero("E ĝ = 4g", values_as_rewards(problem) - 4 * gradient(problem))]


def example() -> Sequence[Finding]:
    """What is left of the prover without returns, and what becomes of the literal reading."""
    out = []
    for problem in (zoo.three_valued(), zoo.shared()):
        g = gradient(problem)
        found = used_without_return(problem, other_policy)
        out.append(nonzero(f"{problem.name}: credit Q + αA turns", turned(found, g)))
        out.append(nonzero(f"{problem.name}: Q + αA paid on every token turns", turned(values_as_rewards(problem), g)))
    return out


CLAIM = Claim(
    label="claim:pav-prover",
    statement="a prover's advantages A^μ paid on every token beside R at the end, and returned, give E ĝ = (1+α) g for "
    "every prover μ, because V^μ ends as R, and g if the prover is silent on whole responses; only the credit "
    "Q^π + α A^μ without a return depends on it: E ĝ = g + α E Σ_t A^μ_t S_t, with μ = π again (1+α) g",
    source="Setlur et al., arXiv 2410.08146; the cancellation is ours; ledger 23",
    hypotheses=(
        "V^μ is exact where a response ends, anything before",
        "the reward of a token is R·1{t=L} + α A^μ, not Q^π + α A^μ",
        "μ is held fixed when differentiated; γ = 1 in the advantage",
    ),
    check=both(
        returned(any_prover, lambda alpha: 1 + alpha),
        returned(without_outcome, lambda alpha: 1),
        returned(other_policy, lambda alpha: 1 + alpha),
        myopic(any_prover),
        myopic(other_policy),
        myopic_with_the_base_policy,
    ),
    example=example,
    mutants={
        "a prover that ends as R adds nothing": returned(any_prover, lambda alpha: 1),
        "a prover that is silent at the end adds α g": returned(without_outcome, lambda alpha: 1 + alpha),
        "without returns the prover cancels, too": myopic(other_policy, 0),
        "Q^π + α A^μ as reward, returned": literally,
    },
    needs=("thm:trajectory-pg", "lem:baseline", "claim:gae-of-any-redistribution"),
    wording="progress paid as a dense reward must be measured under a prover other than the policy that is trained: "
    "the prover changes what is climbed",
    as_worded=depends_on_the_prover,
)
