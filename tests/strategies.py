"""Hypothesis strategies for problems: rational, small enough to enumerate, and as crooked as the real ones.

One to three prompts of unequal weight, unequal lengths, forbidden tokens, tabular or shared parameters, discounts,
rewards that no symmetry makes cancel, and, on request, responses from another policy.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
from hypothesis import assume
from hypothesis import strategies as st

import tests.literal  # noqa: F401  fills the references of every row
from tpg.estimators.critics import exact_critic, wrong_critic
from tpg.estimators.estimator import Estimator
from tpg.estimators.table import ESTIMATORS
from tpg.problem.problem import Problem, make
from tpg.problem.tree import Tree
from tpg.rollouts import responses

TINY = ((2, 1), (3, 1), (2, 2))  # (V, T): at most 4 responses a prompt
SMALL = ((3, 1), (2, 2), (3, 2), (2, 3))  # at most 9
MEDIUM = (*SMALL, (3, 3))  # at most 27

REWARDS = [Fraction(n, 2) for n in (-3, 0, 1, 2, 5)]
DISCOUNTS = (Fraction(1), Fraction(9, 10), Fraction(1, 2))
DYADIC = (Fraction(1), Fraction(1, 2))  # with ``REWARDS``, float64 adds up response rewards without rounding


# Rows whose credits are a function of the group alone; the others (batches, own randomness) have tests of their own.
PLAIN = [n for n, row in ESTIMATORS.items() if not row.batch and row.anchors is None and row.continuations is None]
LOGS = {"logp", "old_logp", "ref_logp", "sequence_logp", "sequence_ref_logp"}


def fit(row: Estimator) -> dict[str, Any]:
    """Problems that suit a row.

    Those in float64 want sums of rewards that do not round, or ties come apart; a critic may ask for prefixes that are
    reached, and a logarithm for positive probabilities.
    """
    plain = row.critic in (None, exact_critic, wrong_critic) and row.model is None and row.constant is None
    dead = plain and not row.needs & (LOGS | {"prob"})
    discounts = DYADIC if row.numbers == "float64" else DISCOUNTS
    reference = any("ref_" in field for field in row.needs)
    return {"discounts": discounts, "dead": dead, "reference": reference, "mixed": row.keep is not None}


@st.composite
def trees(draw: st.DrawFn, shape: tuple[int, int], prompts: int, end_token: int | None) -> tuple[Tree, np.ndarray]:
    """A tree in which any token may be forbidden at any prefix, and [N, V] which tokens are not."""
    vocab, horizon = shape
    every = st.just(2**vocab - 1)
    masks = every | st.integers(1, 2**vocab - 1) if draw(st.booleans()) else every
    inner, allowed, level = [], [], prompts
    for t in range(horizon):
        below = 0
        for _ in range(level):
            mask = draw(masks)
            may = [bool(mask >> token & 1) for token in range(vocab)]
            leads = [on and t < horizon - 1 and token != end_token for token, on in enumerate(may)]
            allowed.append(may)
            inner.append(leads)
            below += sum(leads)
        level = below
        if not level:
            break
    return Tree(np.array(inner), prompts), np.array(allowed)


@st.composite
def policies(draw: st.DrawFn, allowed: np.ndarray, dead: bool = False) -> list[list[Fraction]]:
    """Small ratios on the allowed tokens; ``dead``: some of those have probability 0 all the same, prefix or not."""
    out = []
    for row in allowed.tolist():
        size = sum(row)
        least = 0 if dead else 1
        parts = draw(st.lists(st.integers(least, 4), min_size=size, max_size=size).filter(any))
        weight = iter(parts)
        out.append([Fraction(next(weight), sum(parts)) if on else Fraction(0) for on in row])
    return out


@st.composite
def quarters(draw: st.DrawFn, allowed: np.ndarray) -> list[list[Fraction]]:
    """Probabilities 0, 1/4, … 1: float64 holds them, and their sums, exactly."""
    tokens = [[token for token, on in enumerate(row) if on] for row in allowed.tolist()]
    picked = [draw(st.lists(st.sampled_from(row), min_size=4, max_size=4)) for row in tokens]
    return [[Fraction(row.count(token), 4) for token in range(allowed.shape[1])] for row in picked]


@st.composite
def problems(
    draw: st.DrawFn,
    shapes: tuple[tuple[int, int], ...] = SMALL,
    prompts: int = 2,
    shared: bool | None = None,
    variable: bool | None = None,
    off_policy: bool | None = False,
    dead: bool = False,
    in_quarters: bool = False,
    values: tuple[int, ...] = (),
    discounts: tuple[Fraction, ...] = DISCOUNTS,
    reference: bool = False,
    mixed: bool = False,
) -> Problem:
    """A rational Problem of one of the ``shapes`` (V, T) with up to ``prompts`` prompts.

    ``shared``, ``variable``, ``off_policy``: None draws either kind.  ``dead``: some prefixes are never reached.
    ``mixed``: every prompt has responses of different rewards.  ``reference``: with a positive reference policy.
    ``in_quarters``: π in multiples of 1/4.  ``values``: response rewards to draw from, paid on the last token
    (discounted back, so that RM(W) is one of them); none: dense token rewards.
    """
    vocab, horizon = draw(st.sampled_from(shapes))
    count = draw(st.integers(1, prompts))
    ends = draw(st.booleans()) if variable is None else variable
    end_token = draw(st.integers(0, vocab - 1)) if ends else None
    tree, allowed = draw(trees((vocab, horizon), count, end_token))
    discount = draw(st.sampled_from(discounts))
    entries = st.lists(st.sampled_from(values or REWARDS), min_size=allowed.size, max_size=allowed.size)
    rewards = np.array(draw(entries), dtype=object).reshape(allowed.shape)
    if values:
        back = np.array([(1 / discount) ** int(depth) for depth in tree.depth], dtype=object)
        rewards = np.where(tree.inner, Fraction(0), rewards * back[:, None])
    features = None
    if draw(st.booleans()) if shared is None else shared:
        width = draw(st.integers(1, 3))
        size = allowed.size * width
        flat = draw(st.lists(st.integers(-2, 3), min_size=size, max_size=size))
        features = np.array(flat, dtype=object).reshape(*allowed.shape, width)
    other = draw(st.booleans()) if off_policy is None else off_policy
    made = make(
        tree,
        draw(quarters(allowed) if in_quarters else policies(allowed, dead)),
        rewards,
        weights=draw(st.lists(st.integers(1, 3), min_size=count, max_size=count)),
        discount=discount,
        behaviour=draw(policies(allowed, dead)) if other else None,
        reference=draw(policies(allowed)) if reference else None,
        features=features,
        end_token=end_token,
    )
    assume(not mixed or _mixed(made))
    return made


def _mixed(problem: Problem) -> bool:
    """Every prompt has responses of different rewards."""
    found = responses(problem)
    return all(len({str(r) for r in found.reward[found.prompt == x]}) > 1 for x in range(problem.prompts))
