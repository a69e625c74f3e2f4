"""claim:prime-potential: implicit process rewards add what they were fitted to; PRIME's baseline pays by length."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from paper_checks.common import both, expectation, gradient
from paper_checks.laws import paying, per_prompt, turned
from paper_checks.spreads import any_constant, any_table, ending_as, met, spoken, summed
from tpg.claims import Claim, Finding, apart, close, zero
from tpg.claims.record import Check
from tpg.estimators import advantages, dense
from tpg.estimators.estimator import Estimator
from tpg.estimators.parts import Part, peers
from tpg.estimators.table import ESTIMATORS
from tpg.numbers import FLOAT64, Array, to_float
from tpg.problem import zoo
from tpg.problem.problem import Problem
from tpg.rollouts import responses

Table = Callable[[Problem], Array]  # d(s, a) [N, V]: log π_φ/π_ref, or any other function of W_{0,t}


def own_return(process_reward: Array) -> Array:
    """Σ_{k≥t} d_k."""
    return dense.to_go(process_reward)


def own_step(process_reward: Array) -> Array:
    """d_t alone: OPRL."""
    return process_reward


@peers("process_reward", "length")
def centred_return(process_reward: Array, length: Array, mask: Array) -> Array:
    """Σ_{k≥t} (d_k − mean_{j≠i} d̄_j), d̄_j the mean over the tokens of response j: PRIME as released."""
    mean = process_reward.sum(-1) / length.astype(object)
    others = (mean.sum(-1, keepdims=True) - mean) / (mean.shape[-1] - 1)
    return dense.to_go(np.where(mask, process_reward - others[..., None], process_reward * 0))


def estimate(problem: Problem, table: Table, paid: Part) -> Array:
    """[D] E ĝ of leave-one-out outcomes plus ``paid``, G = 2."""
    return expectation(problem, Estimator("implicit", advantages.rloo, penalty=paid, model=table), 2)


def told(problem: Problem) -> Array:
    """[N, V] R + Σ_t d_t."""
    return problem.totals + summed(problem, any_table(problem))


def returned(problem: Problem) -> Sequence[Finding]:
    """Without a baseline on process rewards: ∇E[R + R_φ], R_φ = Σ_t d_t."""
    wanted = gradient(paying(problem, told(problem)))
    return [zero("LOO(R) + Σ_{k≥t} d_k: E ĝ = ∇E[R + R_φ]", estimate(problem, any_table, own_return) - wanted)]


def mean_per_token(problem: Problem) -> Array:
    """[P] E[d̄] of each prompt."""
    singles = responses(problem)
    paid = spoken(problem, any_table(problem)).sum(1) / problem.field.array(singles.length)
    return per_prompt(singles, singles.probability * paid)


def released(factor: int = 1, length: Callable[[Problem], Any] = lambda p: p.tree.depth + 1) -> Check:
    """With the baseline of the released code: ∇E[R + R_φ] − E[d̄] ∇E[L]."""

    def check(problem: Problem) -> Sequence[Finding]:
        rate = factor * mean_per_token(problem)[problem.tree.prompt] * problem.field.array(length(problem))
        wanted = gradient(paying(problem, told(problem) - rate[:, None]))
        found = estimate(problem, any_table, centred_return)
        return [zero("released: E ĝ = ∇E[R + R_φ] − E[d̄] ∇E[L]", found - wanted)]

    return check


def potential(end: int) -> Table:
    """[N, V] Φ_t − Φ_{t−1}, Φ free on unfinished prefixes and ``end`` times R at the end."""

    def table(problem: Problem) -> Array:
        after = ending_as(lambda p: end * p.totals)(problem)
        here = np.concatenate([any_constant(problem), after[problem.tree.inner]])
        return after - here[:, None]

    return table


def equivalent(end: int, factor: int) -> Check:
    """R_φ = ``end``·R up to a number per prompt: returns give ``factor`` g."""

    def check(problem: Problem) -> Sequence[Finding]:
        gap = estimate(problem, potential(end), own_return) - factor * gradient(problem)
        return [zero(f"a potential that ends as {end}R: E ĝ = {factor}g", gap)]

    return check


def step_alone(table: Table, kept: int = 1) -> Check:
    """OPRL, a step's own reward and no return: E ĝ = g + E Σ_t d_t S_t."""

    def check(problem: Problem) -> Sequence[Finding]:
        wanted = gradient(problem) + kept * met(problem, spoken(problem, table(problem)))
        return [zero("LOO(R) + d_t: E ĝ = g + E Σ_t d_t S_t", estimate(problem, table, own_step) - wanted)]

    return check


def same_objective(problem: Problem) -> Sequence[Finding]:
    """Mutant: a causal reward beside the outcome shapes it."""
    return [zero("E ĝ = g", estimate(problem, any_table, own_return) - gradient(problem))]


def fitted_to_the_outcome(problem: Problem) -> Sequence[Finding]:
    """As OPRL has it: φ fitted to R itself, steps without returns."""
    found = estimate(problem, potential(1), own_step)
    return [zero("LOO(R) + d_t, R_φ = R: E ĝ is a multiple of g", turned(found, gradient(problem)))]


def beside() -> Sequence[Finding]:
    """The rows themselves, in float64, with log-ratios: what they climb, and that it is neither g nor along g."""
    problem = zoo.referenced(FLOAT64)
    g, size = gradient(problem), float(np.abs(problem.totals).max()) ** 2
    length = np.broadcast_to((problem.tree.depth + 1)[:, None], problem.probs.shape)
    fitted = problem.totals + 3 / 8 * problem.totals**2 + length  # R + R_φ of the rows' φ, but for a number per prompt
    found = {name: expectation(problem, ESTIMATORS[name], 2) for name in ("prime_to_go", "prime", "oprl")}
    wanted = gradient(paying(problem, fitted))
    step = to_float(ESTIMATORS["prime"].model(problem))  # type: ignore[misc]
    singles = responses(problem)
    mean = per_prompt(singles, singles.probability * spoken(problem, step).sum(1) / singles.length)
    by_length = gradient(paying(problem, mean[problem.tree.prompt][:, None] * length))
    return [
        close("prime_to_go: ∇E[R + R_φ]", found["prime_to_go"] - wanted, size),
        close("prime: ∇E[R + R_φ] − E[d̄] ∇E[L]", found["prime"] - wanted + by_length, size),
        apart("E[d̄] ∇E[L] is not 0", by_length, 1),
        *(apart(f"{name} turns", turned(vector, g) / (g @ g), size) for name, vector in found.items()),
    ]


CLAIM = Claim(
    label="claim:prime-potential",
    statement="outcomes compared, plus returns of causal rewards d with Σ_t d_t = R_φ, give ∇E[R + R_φ]: (1+c) g where "
    "R_φ = cR up to a number per prompt, another objective in general; the released leave-one-out baseline of mean "
    "token rewards adds −E[d̄] ∇E[L]; a step's own d_t without a return gives g + E Σ_t d_t S_t",
    source="Cui et al., arXiv 2502.01456 (PRIME); arXiv 2509.19199 (OPRL); the expectations are ours; ledger 24",
    hypotheses=(
        "d_t = log π_φ/π_ref of W_{0,t}, or any other function of it, held fixed when differentiated",
        "responses of a group are independent draws from the current policy, G ≥ 2",
        "no whitening, no standard deviations",
    ),
    group_sizes=(2,),
    check=both(
        returned, released(), equivalent(0, 1), equivalent(1, 2), step_alone(any_table), step_alone(potential(1))
    ),
    beside=beside,
    mutants={
        "dense rewards beside the outcome only shape it": same_objective,
        "the released baseline is one": released(0),
        "the released baseline pays for length": released(-1),
        "it is paid on one token": released(1, lambda p: np.ones(p.tree.nodes, dtype=int)),
        "a potential that ends as R is closed": equivalent(1, 1),
        "without returns a potential that ends as R adds nothing": step_alone(potential(1), 0),
    },
    needs=("thm:trajectory-pg", "lem:baseline", "prop:group-mean"),
    wording="implicit step rewards act as potential-based shaping: beside the outcome they leave what is climbed as it "
    "is, but for its scale",
    as_worded=fitted_to_the_outcome,
)
