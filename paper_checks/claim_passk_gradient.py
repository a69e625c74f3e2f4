"""claim:passk-gradient: the best response's margin and PKPO's subsets follow ∇E[max of k]; divided by the std, not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from paper_checks.common import both, expectation, gradient, row
from paper_checks.laws import mean_reward, rated, three_valued, turned, two_valued
from tpg.claims import Claim, Finding, apart, close, zero
from tpg.claims.record import Check
from tpg.estimators.counts import passk_loo
from tpg.estimators.estimator import Estimator
from tpg.estimators.parts import peers
from tpg.estimators.table import ESTIMATORS
from tpg.moments import moments
from tpg.numbers import DUAL, FLOAT64, Array, dual
from tpg.problem import zoo
from tpg.problem.problem import Problem
from tpg.rollouts import responses

MARGIN, OVER_STD, PAIRS = (ESTIMATORS[name] for name in ("grpo_passk", "grpo_passk_std", "passk_loo"))


def climb(problem: Problem, k: int) -> Array:
    """[D] ∇ Σ_x weight(x) E[max of k rewards | x], differentiated by dual numbers, no score in sight.

    E[max of k] = Σ_v v (F(v)^k − F(v⁻)^k), F the distribution of the reward: a product of k for independent responses.
    """
    paths = responses(problem)
    out = []
    for move in moves(problem):
        slope = problem.probs * (move - (problem.probs * move).sum(1, keepdims=True))
        table = np.where(paths.mask, dual(problem.probs, slope)[paths.node, paths.token], DUAL.scalar(1))
        chance = np.multiply.reduce(table, axis=1)
        total = sum(
            problem.weights[x] * best(paths.reward[mine], chance[mine], k).slope
            for x, mine in enumerate(paths.prompt == x for x in range(problem.prompts))
        )
        out.append(total)
    return np.array(out)


def best(reward: Array, chance: Array, k: int) -> Any:
    """E[max of k] for rewards with dual chances."""
    total = below = DUAL.scalar(0)
    for i in np.argsort(reward, kind="stable"):
        upto = below + chance[i]
        raised, lowered = DUAL.scalar(1), DUAL.scalar(1)
        for _ in range(k):
            raised, lowered = raised * upto, lowered * below
        total, below = total + DUAL.scalar(reward[i]) * (raised - lowered), upto
    return total


def moves(problem: Problem) -> Sequence[Array]:
    """[D] tables [N, V]: the change of every logit with each parameter."""
    if problem.features is not None:
        return [problem.features[:, :, j] for j in range(problem.parameters)]
    unit = problem.field.zeros((problem.parameters, problem.parameters))
    np.fill_diagonal(unit, problem.field.scalar(1))
    return list(unit.reshape(problem.parameters, *problem.probs.shape))


def follows(row: Estimator, size: int, k: int, factor: int = 1, ties: bool = False) -> Check:
    """factor · E ĝ = ∇E[max of k]; groups of two enumerated, larger ones counted by class."""

    def check(problem: Problem) -> Sequence[Finding]:
        made = three_valued(problem) if ties else problem
        found = expectation(made, row, 2) if size == 2 else made.combine(moments(made, row, size).mean)
        what = (
            f"{'' if factor == 1 else f'{factor} · '}E ĝ = ∇E[max of {k}] for {row.name}, G = {size}{', ties' * ties}"
        )
        return [zero(what, factor * found - climb(made, k))]

    return check


def subsets(k: int) -> Estimator:
    """PKPO over subsets of k."""
    return replace(row(partial(passk_loo, k=k)), name=f"passk_loo, k = {k}")


@peers("reward")
def winner_takes_all(reward: Array) -> Array:
    """Mutant: the best response earns its reward, not its margin."""
    return np.where(reward == reward.max(-1, keepdims=True), reward, reward - reward)


@peers("reward")
def over_all(reward: Array) -> Array:
    """Mutant: the margin over the mean of the others, not over the second best."""
    size = reward.shape[-1]
    margin = (size * reward - reward.sum(-1, keepdims=True)) / (size - 1)
    return np.where(reward == reward.max(-1, keepdims=True), margin, reward - reward)


def over_std_follows(size: int) -> Check:
    """The margin over the group's std, verl's default, is a multiple of ∇E[max of G]."""

    def check(problem: Problem) -> Sequence[Finding]:
        made = three_valued(problem)
        wanted = np.array(climb(made, size), dtype=float)
        found = moments_of(made, OVER_STD, size)
        scale = float(np.abs(wanted).max() ** 2 * np.abs(found).max()) * len(found)
        return [close(f"E ĝ is a multiple of ∇E[max of G], G = {size}", turned(found, wanted), scale)]

    return check


def moments_of(problem: Problem, row: Estimator, size: int) -> Array:
    """E ĝ in float64."""
    made = problem.to(FLOAT64)
    return made.combine(moments(made, row, size).mean)


# Two values: the margin is above 0 only where one of G succeeds, and there the std (over G − 1) is 1/√G.
def example() -> Sequence[Finding]:
    """What the std does: nothing but √G with two values, a turn with three."""
    out = []
    binary, ternary = two_valued(zoo.shared()).to(FLOAT64), zoo.three_valued()
    for size in (2, 3, 5):
        rate = np.array([(1 - p) ** (size - 1) / (size**-0.5 + 1e-6) for p in mean_reward(binary)])
        gap = binary.combine(moments(binary, OVER_STD, size).mean) - rated(binary, rate)
        scale = float(np.abs(gradient(binary)).max()) * size
        out.append(close(f"two values: over the std, √G times the margin, G = {size}", gap, scale))
        off = turned(moments_of(ternary, OVER_STD, size), np.array(climb(ternary, size), dtype=float))
        out.append(apart(f"three values: over the std, turned, G = {size}", off, 1))
    rloo = climb(ternary, 1) - expectation(ternary, ESTIMATORS["rloo"], 2)
    return [*out, zero("k = 1 is g, and RLOO", np.concatenate([rloo, climb(ternary, 1) - gradient(ternary)]))]


CLAIM = Claim(
    label="claim:passk-gradient",
    statement="grpo_passk, the margin of the best over the second best, has E ĝ = ∇E[max of G]/G, and PKPO's mean over "
    "subsets of k E ĝ = ∇E[max of k], for any rewards, ties included; over the group's std, verl's default, that is √G "
    "times as long for two reward values and turned for three",
    source="arXiv 2503.19595 and verl grpo_passk; arXiv 2505.15201",
    hypotheses=("responses of a group are independent draws from the current policy", "G ≥ k", "divisor G, no 1/|o|"),
    group_sizes=(2, 3, 4),
    check=both(
        follows(MARGIN, 2, 2, 2),
        follows(MARGIN, 3, 3, 3),
        follows(MARGIN, 3, 3, 3, ties=True),
        follows(PAIRS, 2, 2),
        follows(PAIRS, 4, 2, ties=True),
        follows(subsets(3), 3, 3),
        follows(subsets(3), 4, 3, ties=True),
    ),
    example=example,
    mutants={
        "the margin without G": follows(MARGIN, 2, 2),
        "pairs for triples": follows(PAIRS, 3, 3),
        "the best earns all": follows(row(winner_takes_all), 2, 2, 2),
        "the margin over the mean of the others": follows(row(over_all), 3, 3, 3),
        "the greatest is the mean": follows(ESTIMATORS["rloo"], 2, 2),
    },
    algebraic=False,
    needs=("thm:trajectory-pg", "lem:baseline"),
    wording="the best response's margin over the group's std follows the gradient of the best reward",
    as_worded=over_std_follows(3),
)
