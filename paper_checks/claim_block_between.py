"""claim:block-between: is the variance of block-telescoped credit between that of its two limits?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from paper_checks.common import both
from paper_checks.continued import always, row, sets
from paper_checks.variances import Walks, variance
from tpg.claims import Claim, Finding, positive, zero
from tpg.claims.record import Check
from tpg.estimators import continuations
from tpg.estimators.table import ESTIMATORS
from tpg.numbers import RATIONAL, Array, dot
from tpg.problem import zoo
from tpg.problem.problem import Problem, make
from tpg.problem.tree import grow

BLOCK, NONE, ALL = (ESTIMATORS[name] for name in ("trepo_block", "reinforce_baseline", "exact_advantage"))


def at(problem: Problem, *places: int) -> Array:
    """[P] Var with anchors at these positions, for every response."""
    pattern = np.isin(np.arange(problem.horizon + 1), places)
    return always(problem, pattern).variance(row(continuations.block))


def mixture(problem: Problem) -> Sequence[Finding]:
    """Anchors by coins: the mean over all sets of anchors, from none to all, whose E ĝ is the same."""
    every = [at(problem, *np.flatnonzero(pattern)) for pattern in sets(problem.horizon)]
    return [
        zero("no anchor: REINFORCE with V(s_0)", every[0] - variance(problem, NONE)),
        zero("anchors everywhere: the exact advantage", every[-1] - variance(problem, ALL)),
        zero("coins: the mean over all sets", variance(problem, BLOCK) - sum(every) / len(every)),
    ]


def midway(problem: Problem) -> Sequence[Finding]:
    """Two tokens: coins are half way between the limits."""
    if problem.horizon != 2:
        return []
    return [
        zero("two tokens: half way", 2 * variance(problem, BLOCK) - variance(problem, NONE) - variance(problem, ALL))
    ]


def one_anchor(factor: int = 2, everywhere: bool = False) -> Check:
    """Tabular: what one anchor at u takes from no anchor, two squares and a product of either sign.

    E[(RM − M_u)² ‖Z_u‖²] + E[(M_u − M_0)² ‖Z − Z_u‖²] + ``factor`` · E[(M_u − M_0)(RM − M_u) ‖Z − Z_u‖²].
    """

    def check(problem: Problem) -> Sequence[Finding]:
        if not problem.tabular and not everywhere:
            return []
        walks, out = Walks(problem), []
        for place in range(1, problem.horizon):
            value = np.where(walks.paths.mask, walks.along(problem.values[0]), walks.reward)[:, place - 1]
            first, rest = value - walks.paths.expected_reward, walks.paths.reward - value
            before, after = walks.upto[:, place - 1], walks.whole - walks.upto[:, place - 1]
            squares = rest**2 * dot(before, before) + first**2 * dot(after, after)
            saved = walks.mean(squares + factor * first * rest * dot(after, after))
            out.append(at(problem) - at(problem, place) - saved)
        return [zero("tabular: Var(no anchor) − Var(one), every place", np.concatenate(out))]

    return check


def between(problem: Problem) -> Sequence[Finding]:
    """Neither above nor below both limits, with the rewards at hand, and on small problems of the same shape."""
    out = []
    for task in (problem, *(small for small in (dearer(), cheaper()) if same_shape(problem, small))):
        block, *limits = (variance(task, r) for r in (BLOCK, NONE, ALL))
        low, high = np.minimum(*limits), np.maximum(*limits)
        inside = bool(((low <= block) & (block <= high)).all())
        out.append(Finding("Var between its limits", inside, f"{block} in {low} … {high}", len(block)))
    return out


def same_shape(one: Problem, other: Problem) -> bool:
    """The same tree of as many prompts, tabular or not."""
    shapes = [(p.tabular, p.prompts, p.tree.inner.tolist()) for p in (one, other)]
    return shapes[0] == shapes[1]


def chain(policy: Sequence[Any], right: str, name: str) -> Problem:
    """Token 1 ends: responses 1, 01, 001, 000, one of them right; ``policy``: the chance of 0 after 0, 1, 2 tokens."""
    chances = [[p, 1 - p] for p in (RATIONAL.scalar(x) for x in policy)]
    rewards = [[0, int(right == "1")], [0, int(right == "01")], [int(right == "000"), int(right == "001")]]
    return make(grow(2, 3, 1, end_token=1), chances, rewards, end_token=1, field=RATIONAL, name=name)


def dearer() -> Problem:
    """Blocks above both limits."""
    return chain(["1/2", "1/4", "1/2"], "01", "dearer")


def cheaper() -> Problem:
    """Blocks below both limits."""
    return chain(["1/2", "3/4", "1/4"], "001", "cheaper")


def weighted(problem: Problem) -> Sequence[Finding]:
    """Mutant: the mean of the limits, whatever the length."""
    gap = 2 * variance(problem, BLOCK) - variance(problem, NONE) - variance(problem, ALL)
    longer = dearer()
    more = 2 * variance(longer, BLOCK) - variance(longer, NONE) - variance(longer, ALL)
    return [zero("half way", [*gap, *more])]


def by_share(problem: Problem) -> Sequence[Finding]:
    """Mutant: sets of anchors weighed by how many they hold."""
    every = [at(problem, *np.flatnonzero(pattern)) * int(pattern.sum()) for pattern in sets(problem.horizon)]
    total = problem.horizon * 2 ** (problem.horizon - 1)
    return [zero("weighed by number", variance(problem, BLOCK) - sum(every) / total)]


def example() -> Sequence[Finding]:
    """E‖ĝ‖² by hand, in units of 1/4096.  ``dearer``: M = 3/8, 3/4 after 0, 0 after 00; ‖S‖² = 1/2; 9/8, 1/8; 1/2.

    No anchor: 1/2 · 9/64 · 1/2 + 3/8 · 25/64 · 5/8 + 1/8 · 9/64 · 17/8 = 144 + 375 + 153 = 672.  At 1: 144 + 144, then
    1/4 on the second token of 01, −3/4 on both of 00·: 12 + 468, so 768.  At 2: 144 + 375 + 117 = 636.  At both: 288 +
    12 + 324 = 624.  Coins: 675, 3 above the dearer limit.  Anchors at 1 give the third token noise of the second.

    ``cheaper``, in units of 1/131072 above anchors everywhere: 1386 without, −1656 and 216 with one, −54/4 with coins.
    """
    above, below = dearer(), cheaper()
    seeded = {seed: zoo.random(seed, vocab=2, horizon=3, prompts=1, shared=1) for seed in (2, 59)}
    parts = {
        p.name: np.array([at(p, *places)[0] - at(p, 1, 2)[0] for places in ((), (1,), (2,))]) for p in (above, below)
    }
    return [
        zero("tabular: 48, 144, 12 units above anchors everywhere", 4096 * parts["dearer"] - np.array([48, 144, 12])),
        zero("tabular: blocks 3 units above both limits", 4096 * excess(above) - 3),
        zero("tabular: 1386, −1656, 216 units", 131072 * parts["cheaper"] - np.array([1386, -1656, 216])),
        zero("tabular: blocks 54/4 units below both limits", 131072 * shortfall(below) * 4 - 54),
        positive("one shared parameter: above both limits", excess(seeded[2])),
        positive("one shared parameter: below both limits", shortfall(seeded[59])),
    ]


def excess(problem: Problem) -> Any:
    """Var of blocks less that of the dearer limit."""
    return (variance(problem, BLOCK) - np.maximum(variance(problem, NONE), variance(problem, ALL)))[0]


def shortfall(problem: Problem) -> Any:
    """Var of the cheaper limit less that of blocks."""
    return (np.minimum(variance(problem, NONE), variance(problem, ALL)) - variance(problem, BLOCK))[0]


CLAIM = Claim(
    label="claim:block-between",
    statement="the variance of block-telescoped credit is its mean over the sets of anchors, from REINFORCE with "
    "V(s_0) (none) to the exact advantage (all): between these limits for responses of up to two tokens, from three "
    "tokens on it may be above both or below both, for tabular policies too",
    source="ours: derived after arXiv 2506.02553",
    hypotheses=(
        "anchors are blind to the response, one half at every position",
        "values exact",
        "per response: G Var ĝ",
    ),
    check=both(mixture, midway, one_anchor()),
    example=example,
    mutants={
        "half way whatever the length": weighted,
        "sets weighed by their size": by_share,
        "squares alone": one_anchor(0),
        "the product counted once": one_anchor(1),
        "the tabular form for every policy": one_anchor(everywhere=True),
    },
    needs=("prop:trepo-block",),
    wording="block-telescoped credit always lies between REINFORCE with V(s_0) and the exact advantage in variance, "
    "for tabular policies at least",
    as_worded=between,
)
