"""prop:trepo-inverse-probability, reading (d) of TRePO: advantages at anchors over the chance of an anchor there."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from paper_checks.common import PAPER, both, expectation, gradient, unbiased
from paper_checks.continued import Listing, at_positions, draws, inclusion, row, wherever
from paper_checks.laws import turned
from paper_checks.variances import arbitrary
from tpg.claims import Claim, Finding, nonzero, zero
from tpg.claims.record import Check
from tpg.estimators import anchors, continuations
from tpg.estimators.estimator import Estimator
from tpg.estimators.parts import Part
from tpg.estimators.table import ESTIMATORS
from tpg.numbers import Array
from tpg.problem import zoo
from tpg.problem.problem import Problem
from tpg.rollouts import responses

ROW = ESTIMATORS["trepo_ipw"]
ONE = partial(anchors.subset, size=1)
ONE_OF_LENGTH = partial(anchors.subset_of_length, size=1)


def over_chance(anchor: Array, continuation_value: Array, process_reward: Array, mask: Array) -> Array:
    """D_t at anchors over the chance of an anchor there, which the model brings."""
    gain = continuations.anchors_only(anchor, continuation_value)
    return gain / np.where(mask, process_reward, 1 + 0 * process_reward)


def chance(problem: Problem) -> Array:
    """[N, V] a chance for every token to be an anchor, anything but 0."""
    drawn = arbitrary(problem, problem.probs.shape)
    return (drawn + 5) / 11 if problem.field.ordered else drawn  # −4 … 6 as 1/11 … 1


def any_chance(part: Part = over_chance) -> Check:
    """E ĝ = g when every token is an anchor with a chance of its own, that of the prefix and the token itself."""

    def check(problem: Problem) -> Sequence[Finding]:
        found = wherever(problem, chance(problem)).mean(row(part, model=chance))
        return [zero("E ĝ = g, every token with its own chance", found - gradient(problem))]

    return check


def of_length(power: int = 1) -> Check:
    """E ĝ = g for one anchor among the tokens of the response, credit times L: the chance may even look ahead."""

    def times_length(anchor: Array, length: Array, continuation_value: Array) -> Array:
        return continuations.anchors_only(anchor, continuation_value) * length[..., None] ** power

    def check(problem: Problem) -> Sequence[Finding]:
        estimator = Estimator("one of L", times_length, anchors=ONE_OF_LENGTH)
        return [zero("E ĝ = g, one anchor of L, credit times L", expectation(problem, estimator) - gradient(problem))]

    return check


def subset(size: int) -> Check:
    """E ĝ = g for ``size`` of the positions 1 … T over the chance min(1, size/T)."""

    def check(problem: Problem) -> Sequence[Finding]:
        law = partial(anchors.subset, size=size)
        share = inclusion(law, problem.horizon)[0]
        estimator = Estimator("subset", partial(continuations.anchors_only, inclusion=share), anchors=law)
        return [zero(f"E ĝ = g for {size} of T positions", expectation(problem, estimator) - gradient(problem))]

    return check


def one_draw(problem: Problem) -> Sequence[Finding]:
    """One drawn continuation per prefix, every draw listed, anchor at 1: D_1 S_1 over 1/2 has mean 2 E[D_1 S_1]."""
    pattern = np.arange(problem.horizon + 1) == 1
    gap = draws(problem, 1, pattern).mean(ROW) - 2 * at_positions(problem, pattern[1:].astype(int))
    return [zero("one continuation, anchor at 1: E ĝ = 2 E[D_1 S_1]", gap)]


def times_chance(anchor: Array, continuation_value: Array, process_reward: Array) -> Array:
    """Mutant: times the chance."""
    return continuations.anchors_only(anchor, continuation_value) * process_reward


def unweighted(anchor: Array, continuation_value: Array) -> Array:
    """Mutant: not divided at all."""
    return continuations.anchors_only(anchor, continuation_value)


def average_chance(problem: Problem) -> Sequence[Finding]:
    """Mutant: over the chance of an anchor at position t on average, where it differs from response to response."""
    listing = listed(problem)
    likely = problem.field.zeros((problem.prompts, problem.horizon))
    paths = responses(problem)
    weight = paths.probability[listing.which] * listing.chance
    assert listing.anchor is not None
    np.add.at(likely, paths.prompt[listing.which], weight[:, None] * listing.anchor[:, 1:])
    alive = problem.field.zeros(likely.shape)
    np.add.at(alive, paths.prompt, paths.probability[:, None] * paths.mask)
    table = (likely / alive)[problem.tree.prompt, problem.tree.depth]
    everywhere = np.broadcast_to(table[:, None], problem.probs.shape)
    found = listing.mean(row(over_chance, model=lambda _: everywhere))
    return [zero("E ĝ = g over average chances", found - gradient(problem))]


def listed(problem: Problem) -> Listing:
    """Every token an anchor with a chance of its own."""
    return wherever(problem, chance(problem))


def example() -> Sequence[Finding]:
    """Existential: without the division unequal chances turn g."""
    problem = zoo.two_valued()
    found = listed(problem).mean(row(unweighted))
    rate = inclusion(ONE, problem.horizon)
    return [
        nonzero("chances that differ, not divided by: turns g", turned(found, gradient(problem))),
        zero("one of three positions: chance 1/3 each", rate * 3 - 1),
        *any_chance()(problem),
        *any_chance()(zoo.shared()),
        *of_length()(zoo.shared()),
    ]


CLAIM = Claim(
    label="prop:trepo-inverse-probability",
    statement="advantages at anchors alone, divided by the chance that this token of this response is an anchor: E ĝ "
    "= g exactly, for any positive chance, one that looks ahead included (one of L tokens, credit times L)",
    source=f"ours, on {PAPER}; inverse-probability weighting: Horvitz and Thompson 1952",
    hypotheses=(
        "the chance is that given the whole response, and positive",
        "values exact or from K fresh continuations",
    ),
    check=both(unbiased(ROW), subset(1), subset(2), any_chance(), of_length(), one_draw),
    example=example,
    mutants={
        "times the chance": any_chance(times_chance),
        "not divided": any_chance(unweighted),
        "over the average chance": average_chance,
        "over the square of the chance": of_length(2),
        "unbiased without the division": unbiased(ESTIMATORS["trepo_anchors"]),
    },
    needs=("thm:advantage",),
    # Denominators: the chances of all tokens, at most 60 of them in the shapes run.
    degree=lambda horizon: 60 + 16 * (horizon + 2),
)
