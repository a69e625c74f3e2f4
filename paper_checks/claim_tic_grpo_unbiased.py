"""claim:tic-grpo-unbiased: the bare ratio of the response is; its clip, its σ, its R/L and its 1/L are not."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from paper_checks.common import both, expectation, gradient
from paper_checks.stale import Paths, paid, size_of, stale, turned
from tpg.claims import Claim, Finding, close, nonzero, zero
from tpg.claims.record import Check
from tpg.estimators import advantages, aggregation, ratios
from tpg.estimators.estimator import Estimator
from tpg.estimators.parts import Part, peers
from tpg.estimators.table import ESTIMATORS
from tpg.moments import moments
from tpg.numbers import FLOAT64, Array
from tpg.problem import zoo
from tpg.problem.problem import Problem, make
from tpg.problem.tree import Tree, grow

SUM, MEAN = aggregation.seq_mean_token_sum, aggregation.seq_mean_token_mean
PUBLISHED = ESTIMATORS["tic_grpo"]


@peers("reward", "length")
def centred_per_token(reward: Array, length: Array) -> Array:
    """x_i − mean_j x_j of x = R/L."""
    return advantages.group_mean(reward / length)


def row(advantage: Part = advantages.group_mean, divisor: Part = SUM, ratio: Part = ratios.sequence_is) -> Estimator:
    """The bare estimator with at most one thing added."""
    return Estimator(f"{advantage.__name__}, {divisor.__name__}, {ratio.__name__}", advantage, divisor, ratio)


def bare(size: int, factor: str, advantage: Part = advantages.group_mean) -> Check:
    """The full ratio alone: E ĝ = factor · g; groups of three by class, for speed."""

    def check(problem: Problem) -> Sequence[Finding]:
        made = stale(problem)
        found = (
            made.combine(moments(made, row(advantage), size).mean)
            if size > 2
            else expectation(made, row(advantage), size)
        )
        gap = found - made.field.scalar(Fraction(factor)) * gradient(made)
        return [zero(f"{advantage.__name__} × full ratio: E ĝ = {factor} g, G = {size}", gap)]

    return check


def by_length(per_token: bool, divided: bool, baseline_of_pi: bool = False) -> Check:
    """x = R or R/L, credits divided by 1 or L: (G−1)/G {∇E[x/d] − E_μ[x] ∇E[1/d]}, G = 2; all by the judge."""

    def check(problem: Problem) -> Sequence[Finding]:
        made = stale(problem)
        inverse = np.broadcast_to(1 / made.field.array(made.tree.depth + 1)[:, None], made.probs.shape)
        one = made.field.ones(made.probs.shape)
        worth, share = made.totals * (inverse if per_token else one), inverse if divided else one
        drawn_by = made.probs if baseline_of_pi else made.sampling
        mean = _mean(paid(made, worth), drawn_by)[made.tree.prompt][:, None]
        wanted = (gradient(paid(made, worth * share)) - gradient(paid(made, mean * share))) / 2
        chosen = row(centred_per_token if per_token else advantages.group_mean, MEAN if divided else SUM)
        gap = expectation(made, chosen, 2) - wanted
        return [zero(f"{chosen.name}: E ĝ = 1/2 (∇E[x/d] − E_μ[x] ∇E[1/d])", gap)]

    return check


def _mean(problem: Problem, policy: Array) -> Array:
    """[P] E[RM] of each prompt under ``policy``."""
    paths, out = Paths(problem), problem.field.zeros(problem.prompts)
    np.add.at(out, paths.found.prompt, paths.chance(policy) * paths.reward)
    return out


def along_g(estimator: Estimator, size: int) -> Check:
    """E ĝ has the direction of g."""

    def check(problem: Problem) -> Sequence[Finding]:
        made = stale(problem).to(FLOAT64)
        found, g = expectation(made, estimator, size), gradient(made)
        return [close(f"{estimator.name}: E ĝ along g, G = {size}", turned(found, g), size_of(g) ** 2 * size_of(found))]

    return check


def long_is_better() -> Problem:
    """Stop for reward 1, or write one more token for 3/2."""
    tree = Tree(np.array([[True, False], [False, False]]), 1)
    return make(tree, [["1/2", "1/2"]] * 2, [[0, 1], ["3/2", "3/2"]], end_token=1, name="long-is-better")


def one_coin() -> Problem:
    """Heads pays 1: heads 1/2 under π, 1/3 under μ."""
    return make(grow(2, 1), [["1/2", "1/2"]], [[1, 0]], behaviour=[["1/3", "2/3"]], name="one-coin")


def example() -> Sequence[Finding]:
    """What each ingredient does alone.

    One coin, G = 2: ∂J/∂logit = 1/4, so that 1/8 is expected; heads has ratio 3/2 > 6/5 and is clipped away, tails
    gives 1/2 · π · (0 − E_μ R) · S = 1/2 · 1/2 · (−1/3) · (−1/2) = 1/24.  Long is better: R/L is 1 for stopping and 3/4
    for going on, so that 1/2 · 1/4 · (3/4 − 1) = −1/32 for going on, where 1/2 · 1/4 · (3/2 − 1) = 1/16 is expected.
    """
    coin, long = one_coin(), long_is_better()
    clip, per_token, over_length = row(ratio=ratios.upper_clip), row(centred_per_token), row(divisor=MEAN)
    out = [zero(f"the {what}", found) for what, found in _numbers(coin, clip, long, per_token)]
    for made in (zoo.stale(), stale(zoo.shared())):
        for name, estimator in (("clip", clip), ("R/L", per_token), ("1/L", over_length)):
            out.append(nonzero(f"{name} turns on {made.name}", turned(expectation(made, estimator, 2), gradient(made))))
    return out


def _numbers(coin: Problem, clip: Estimator, long: Problem, per_token: Estimator) -> list[tuple[str, Array]]:
    def gap(problem: Problem, found: Array, number: str) -> Array:
        return found[:1] - problem.field.scalar(number)

    return [
        ("gradient of one coin is 1/4", gap(coin, gradient(coin), "1/4")),
        ("clip leaves 1/24 of 1/8", gap(coin, expectation(coin, clip, 2), "1/24")),
        ("gradient of going on is 1/8", gap(long, gradient(long), "1/8")),
        ("R/L gives −1/32 for 1/16", gap(long, expectation(long, per_token, 2), "-1/32")),
    ]


CLAIM = Claim(
    label="claim:tic-grpo-unbiased",
    statement="the bare full ratio with group-mean credits gives (G−1)/G · g for every μ, with leave-one-out ones "
    "g; the clip, R/L, which gives (G−1)/G ∇E[R/L] and may point the other way, and 1/L, published with it, each break "
    "that alone (so does σ: claim:std-turns)",
    source="arXiv 2508.02833 (TIC-GRPO), read from summaries; the closed forms are ours; ledger 15",
    hypotheses=("μ generates every response that π can", "no clip in the identities"),
    group_sizes=(1, 2, 3),
    check=both(
        bare(2, "1/2"),
        bare(3, "2/3"),
        bare(2, "1", advantages.rloo),
        by_length(True, False),
        by_length(False, True),
        by_length(True, True),
    ),
    example=example,
    mutants={
        "as published: clip, σ, R/L and 1/L": along_g(PUBLISHED, 2),
        "the group mean costs nothing": bare(2, "1"),
        "R/L changes nothing": lambda problem: [
            zero("E ĝ = g/2", expectation(stale(problem), row(centred_per_token), 2) - gradient(problem) / 2)
        ],
        "1/L with the baseline of π": by_length(False, True, baseline_of_pi=True),
    },
    needs=("prop:group-mean",),
    wording="the ratio of the whole trajectory makes GRPO's estimate of the current policy's gradient unbiased (the "
    "published estimator, up to a factor)",
    as_worded=along_g(PUBLISHED, 2),
)
