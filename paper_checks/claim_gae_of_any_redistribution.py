"""claim:gae-of-any-redistribution: with its own exact critic GAE(λ) expects what reward-to-go expects."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from paper_checks.common import on_paths
from paper_checks.spreads import any_reward, at_prefix, bootstrapped, given, left, met, value_to_go
from tpg.claims import Claim, Finding, nonzero, zero
from tpg.claims.record import Check
from tpg.estimators import dense
from tpg.estimators.table import ESTIMATORS
from tpg.moments import brute_force
from tpg.numbers import Array
from tpg.problem import zoo
from tpg.problem.problem import Problem

Guess = Callable[[Problem, Array], Array]  # a problem and d [R, T] → critic [N]


def of_the_outcome(problem: Problem, numbers: Array) -> Array:
    """Mutant: M(s), the critic of the response reward."""
    return problem.values[1]


def of_the_whole(problem: Problem, numbers: Array) -> Array:
    """Mutant: E[Σ_k d_k | s], with what was paid before the prefix."""
    return at_prefix(problem, np.broadcast_to(numbers.sum(1, keepdims=True), numbers.shape))


def of_another_policy(problem: Problem, numbers: Array) -> Array:
    """Mutant: E[Σ_{k≥t} d_k | s] where the tokens follow another policy from s on."""
    other = (problem.probs + problem.probs[:, ::-1]) / 2
    return value_to_go(replace(problem, probs=other), numbers)


def same_expectation(guess: Guess = value_to_go) -> Check:
    """Equal at T values of λ: E ĝ is a polynomial of degree < T in λ, so equal for every λ."""

    def check(problem: Problem) -> Sequence[Finding]:
        numbers = any_reward(problem)
        paid, value, late = given(problem, numbers), guess(problem, numbers), met(problem, left(numbers))
        out = [zero("reward-to-go: E ĝ = E Σ_t (Σ_{k≥t} d_k) S_t", paid.to_go(problem) - late)]
        for lam in range(problem.horizon):
            out.append(zero(f"GAE({lam}): the same", paid.gae(problem, lam, lambda _: value) - late))
        return out

    return check


def on_every_path(problem: Problem) -> Sequence[Finding]:
    """Mutant: GAE(0) is reward-to-go less a baseline, on every response."""
    numbers = any_reward(problem)
    paid, value = given(problem, numbers), value_to_go(problem, numbers)
    singles, made = on_paths(problem, dense.composed(paid.part, bootstrapped(0)), lambda _: value)
    gap = made - (left(numbers) - value[singles.node])
    return [zero("GAE(0) = Σ_{k≥t} d_k − V(s_t)", np.where(singles.mask, gap, 0))]


def example() -> Sequence[Finding]:
    """Rows of the toolkit: ABC's attention reads the whole response, Delta's difference the next token."""
    out = []
    for problem in (zoo.three_valued(), zoo.shared()):
        for name in ("abc", "delta"):
            late, gae = (brute_force(problem, ESTIMATORS[f"{name}_{how}"], 1) for how in ("to_go", "gae"))
            out.append(zero(f"{name} on {problem.name}: the same E ĝ", late.mean - gae.mean))
            out.append(nonzero(f"{name} on {problem.name}: another variance", late.variance - gae.variance))
    return out


CLAIM = Claim(
    label="claim:gae-of-any-redistribution",
    statement="for every dense reward d, even one that reads the whole response, GAE(λ) with V(s) = E[Σ_{k≥t} d_k | s] "
    "has E ĝ = E Σ_t (Σ_{k≥t} d_k) S_t for every λ, as reward-to-go has: bootstrapping neither mends nor adds bias",
    source="ours",
    hypotheses=(
        "the critic is exact for d itself, under the current policy",
        "d is held fixed when differentiated",
        "γ = 1 in the advantage, d in units of RM",
    ),
    check=same_expectation(),
    example=example,
    mutants={
        "the critic of the outcome": same_expectation(of_the_outcome),
        "a critic that remembers what was paid": same_expectation(of_the_whole),
        "the critic of another policy": same_expectation(of_another_policy),
        "the same on every path": on_every_path,
    },
    needs=("lem:baseline",),
)
