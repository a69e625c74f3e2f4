"""claim:dynamic-sampling: dropping groups without spread is harmless or not, by what takes their place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np

from paper_checks.common import both, expectation
from paper_checks.laws import laws, three_valued, turned, two_valued
from tpg.claims import Claim, Finding, apart, close, nonzero, zero
from tpg.claims.record import Check
from tpg.estimators import aggregation
from tpg.estimators.advantages import group_mean
from tpg.estimators.counts import mixed_rewards
from tpg.estimators.counts_expected import share_of_valid
from tpg.estimators.estimator import Estimator
from tpg.estimators.parts import peers
from tpg.estimators.table import ESTIMATORS
from tpg.moments import brute_force, moments
from tpg.numbers import FLOAT64, Array
from tpg.problem import zoo
from tpg.problem.problem import Problem, make
from tpg.problem.tree import grow
from tpg.rollouts import responses

# A stand-in for the z-score that needs no root: (R − mean)/σ², over the tokens of the group as DAPO does.  The
# identities hold for every credit that vanishes on groups without spread.


@peers("reward")
def over_variance(reward: Array) -> Array:
    """(R_i − mean)/σ², 0 where all are equal."""
    centred = group_mean(reward)
    spread = (centred * centred).sum(-1, keepdims=True)
    return np.where(spread == 0, centred, centred / np.where(spread == 0, spread + 1, spread))


@peers("reward")
def by_share(reward: Array, prompt_constant: Array) -> Array:
    """The same, in proportion to how often its prompt is trained on."""
    return prompt_constant * over_variance(reward)


@peers("reward")
def raw_by_share(reward: Array, prompt_constant: Array) -> Array:
    """Mutant: credit that does not vanish where there is no spread."""
    return prompt_constant * reward


PLAIN = Estimator("no filter", over_variance, aggregation.token_mean)
SAME = replace(PLAIN, name="same prompt again", keep=mixed_rewards)
STREAM = replace(SAME, name="next prompt", advantage=by_share, constant=share_of_valid)
RAW = Estimator("raw rewards", lambda reward: reward, aggregation.token_mean)


def valid(problem: Problem, size: int) -> Array:
    """[P] chance that the rewards of a group differ: 1 − Σ_r P(r)^G, response by response."""
    return np.array([1 - (law.chance**size).sum() for law in laws(responses(problem))])


def refilled(size: int, same: Estimator = SAME, other: Estimator = STREAM, plain: Estimator = PLAIN) -> Check:
    """Both ways to refill, against no filter; three response rewards; groups enumerated for G = 2, counted for more.

    The same prompt again: P_valid(x) E ĝ_x = E ĝ_x without filter, prompt by prompt.  The next prompt: Σ_x weight(x)
    P_valid(x) E ĝ = E ĝ without filter.
    """

    def check(problem: Problem) -> Sequence[Finding]:
        made = three_valued(problem)
        owner = made.tree.prompt if made.tabular else np.arange(made.prompts)
        kept, streamed, free = (
            (brute_force if size == 2 else moments)(made, row, size).mean for row in (same, other, plain)
        )
        share = valid(made, size)
        overall: Any = made.weights @ share
        return [
            zero(
                f"P_valid(x) E ĝ_x = E ĝ_x without filter, same prompt, G = {size}", share[owner][:, None] * kept - free
            ),
            zero(
                f"Σ_x weight(x) P_valid(x) E ĝ = E ĝ without filter, next prompt, G = {size}", overall * streamed - free
            ),
        ]

    return check


def only(which: int, check: Check) -> Check:
    """One of the findings, so that a mutant fails where it is wrong."""
    return lambda problem: [check(problem)[which]]


def no_turn(of: Estimator) -> Check:
    """The filter changes a learning rate, no direction."""

    def check(problem: Problem) -> Sequence[Finding]:
        made = two_valued(problem)
        found, plain = expectation(made, of, 2), expectation(made, PLAIN, 2)
        return [zero(f"E ĝ keeps its direction under the filter: {of.name}, G = 2", turned(found, plain))]

    return check


# One token, right or wrong, two prompts of equal weight, right with probability 1/10 and 1/2, G = 2: P_valid = 18/100
# and 1/2, so that drawing the same prompt again weighs the hard one up by 50/18.  With 1/10 and 9/10 nothing shows.
def bandits(*right: str) -> Problem:
    """One prompt per probability."""
    chance = [Fraction(p) for p in right]
    probs = [[1 - p, p] for p in chance]
    return make(grow(2, 1, len(right)), probs, [[0, 1]] * len(right), name=f"right with {', '.join(right)}")


def the_rows(problem: Problem, size: int) -> Sequence[Finding]:
    """The rows themselves, with their std, in float64."""
    made = problem.to(FLOAT64)
    unfiltered, same, refilled = (
        made.combine(moments(made, ESTIMATORS[name], size).mean) for name in ("dapo", "dapo_same_prompt", "dapo_stream")
    )
    share = valid(made, size)
    return [
        close(f"dapo_stream on {problem.name}, G = {size}", float(made.weights @ share) * refilled - unfiltered, size),
        apart(f"dapo_same_prompt turns on {problem.name}, G = {size}", turned(same, unfiltered), 1e-2),
    ]


def example() -> Sequence[Finding]:
    """What the same prompt again does to two prompts, and that filters alone keep unequal groups' credits."""
    hard = bandits("1/10", "1/2")
    found, plain = expectation(hard, SAME, 2), expectation(hard, PLAIN, 2)
    harder, even = slice(0, 2), slice(2, 4)
    mirrored = bandits("1/10", "9/10")
    same = turned(expectation(mirrored, SAME, 2), expectation(mirrored, PLAIN, 2))
    return [
        zero("hard prompt weighed up by 100/18", 18 * found[harder] - 100 * plain[harder]),
        zero("even prompt weighed up by 2", found[even] - 2 * plain[even]),
        nonzero("so the direction turns", turned(found, plain)),
        zero("success 1/10 and 9/10: the same share, no turn", same),
    ]


def beside() -> Sequence[Finding]:
    """The rows themselves, on two problems."""
    return [*the_rows(bandits("1/10", "1/2"), 4), *the_rows(zoo.three_valued(), 3)]


CLAIM = Claim(
    label="claim:dynamic-sampling",
    statement="DAPO drops groups of equal rewards: if another prompt takes the place, E ĝ is that without filter over "
    "Σ_x weight(x) P_valid(x), one learning rate; if the same prompt is drawn again, prompt x is weighed by "
    "1/P_valid(x), which may turn the direction; P_valid(x) = 1 − Σ_r P(r)^G",
    source="arXiv 2503.14476; verl filter_groups is the first kind; ledger 20",
    hypotheses=("credits vanish where all rewards of a group are equal", "prompts and groups are drawn independently"),
    group_sizes=(2, 3),
    check=both(refilled(2), refilled(3)),
    example=example,
    beside=beside,
    mutants={
        "raw rewards under the filter": only(0, refilled(2, same=replace(RAW, keep=mixed_rewards), plain=RAW)),
        "raw rewards, next prompt": only(1, refilled(2, other=replace(STREAM, advantage=raw_by_share), plain=RAW)),
        "same prompt, one constant": only(1, refilled(2, other=SAME)),
        "next prompt, a constant per prompt": only(0, refilled(2, same=STREAM)),
    },
    needs=("prop:silent-group",),
    wording="leaving out prompts whose answers are all right or all wrong changes no direction (read: the group is "
    "drawn again for the same prompt)",
    as_worded=no_turn(SAME),
)
