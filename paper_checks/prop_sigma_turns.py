"""prop:sigma-turns: with three or more reward values, dividing by σ turns the direction and follows no objective."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import Any

import numpy as np

from paper_checks.common import both, expectation, gradient, row
from paper_checks.laws import Law, climbed, three_valued, turned
from paper_checks.variances import arbitrary
from tpg import truth
from tpg.claims import Claim, Finding, apart, close, nonzero, zero
from tpg.claims.record import Check
from tpg.estimators.parts import peers
from tpg.estimators.table import ESTIMATORS
from tpg.moments import brute_force, moments
from tpg.numbers import FLOAT64, Array
from tpg.problem.problem import Problem, make
from tpg.problem.tree import grow

ROW = ESTIMATORS["grpo_no_length"]  # (R − mean)/(std + ε) over G alone, std over G − 1, ε = 10⁻⁶


# G = 2: (R − R')/|R − R'|, which needs no root


@peers("reward")
def sign(reward: Array) -> Array:
    """The population z-score of two responses: 1 to the better one, −1 to the worse, 0 to equals."""
    plain = np.frompyfunc(lambda r: getattr(r, "value", r), 1, 1)(
        reward
    )  # dual numbers have no order; rewards no slope
    other = np.flip(plain, -1)
    return (plain > other).astype(int) - (plain < other) + (reward - reward)


def won_less_lost(law: Law) -> Array:
    """f(r) = P(R < r) − P(R > r): the chance to beat a frozen copy of the policy, less the chance to lose."""
    order = np.argsort(law.reward, kind="stable")
    below = law.chance - law.chance
    below[order] = np.add.accumulate(law.chance[order]) - law.chance[order]
    return below - (1 - below - law.chance)


def duel(factor: int = 1, ties: bool = False) -> Check:
    """G = 2: E ĝ = Σ_r (P(R < r) − P(R > r)) ∇P(r), exactly."""

    def check(problem: Problem) -> Sequence[Finding]:
        out = []
        for made in (problem, three_valued(problem)):
            found = expectation(made, row(sign), 2)
            said = climbed(made, lambda law: won_less_lost(law) + (law.chance if ties else 0))
            out.append(zero("G = 2: E ĝ is the gradient of the chance to beat a frozen copy", found - factor * said))
        return out

    return check


# Any G: E ĝ = Σ_r f(r) ∇P(r), f(r) = E[z-score | own reward r]


def own_score(size: int, ddof: int = 1) -> Callable[[Law], Array]:
    """f over every G − 1 peers; mean, std and ε written out."""

    def worth(law: Law) -> Array:
        out = []
        for own in law.reward:
            total = 0.0
            for others in product(range(len(law.reward)), repeat=size - 1):
                group = np.array([own, *law.reward[list(others)]])
                deviation = group - group.sum() / size
                std = ((deviation**2).sum() / (size - ddof)) ** 0.5
                chance = float(np.prod(law.chance[list(others)]))
                total += chance * deviation[0] / (std + 1e-6) if len(set(group.tolist())) > 1 else 0.0
            out.append(total)
        return np.array(out)

    return worth


def own_form(size: int, ddof: int = 1) -> Check:
    """E ĝ of the row by enumeration, against Σ_r f(r) ∇P(r) by the judge."""

    def check(problem: Problem) -> Sequence[Finding]:
        made = three_valued(problem).to(FLOAT64)
        gap = expectation(made, ROW, size) - climbed(made, own_score(size, ddof))
        return [close(f"E ĝ = Σ_r E[z-score | r] ∇P(r), G = {size}", gap, scale(made))]

    return check


def scale(problem: Problem) -> float:
    """How long a vector of scores can be."""
    return problem.horizon * (1 if problem.features is None else float(np.abs(problem.features).max()) * 2)


def keeps_direction(make_problem: Callable[[Problem], Problem], size: int) -> Check:
    """E ĝ of each prompt on its own is a multiple of its gradient: σ is a learning rate."""

    def check(problem: Problem) -> Sequence[Finding]:
        made = make_problem(problem).to(FLOAT64)
        each, g = brute_force(made, ROW, size).mean, truth.by_dual_numbers(made)
        out = []
        for x in range(made.prompts):
            mine = made.tree.prompt == x if made.tabular else np.arange(made.prompts) == x
            found, right = each[mine].ravel(), g[mine].ravel()
            size_of = float(np.abs(right).max() ** 2 * np.abs(found).max()) * len(right)
            out.append(close(f"E ĝ of prompt {x} is a multiple of g, G = {size}", turned(found, right), size_of))
        return out

    return check


# The smallest counterexamples


def arms(probs: Sequence[Any], rewards: Sequence[int]) -> Problem:
    """One prompt, one token."""
    return make(grow(len(probs), 1), [probs], [rewards], name=f"arms {', '.join(map(str, probs))}")


# Three tokens, G = 2.  π = 1/3 each, rewards 0, 1, 3: f = (−2/3, 0, 2/3), so E ĝ = (−2, 0, 2)/9, but with J = 4/3
# g = (−4, −1, 5)/9.  Equally spaced rewards 0, 1, 2 turn as soon as the policy is uneven: π = (1/2, 1/4, 1/4) has
# f = (−1/2, 1/4, 3/4), E ĝ = (−4, 1, 3)/16 and with J = 3/4 g = (−6, 1, 5)/16.  With both even, nothing turns.
UNEVEN_REWARDS = arms(["1/3", "1/3", "1/3"], [0, 1, 3])
UNEVEN_POLICY = arms(["1/2", "1/4", "1/4"], [0, 1, 2])
EVEN = arms(["1/3", "1/3", "1/3"], [0, 1, 2])
TWO_VALUES = arms(["1/2", "1/4", "1/4"], [0, 1, 1])


def duelled(problem: Problem) -> Array:
    """E ĝ of two sign credits as a vector field of the policy."""
    return brute_force(problem, row(sign), 2).mean


def round_and_round(factor: int = 2) -> Check:
    """Three tokens of ascending reward at any policy: ∂E ĝ₁/∂θ₂ − ∂E ĝ₂/∂θ₁ = −2 π₁π₂π₃, and so on around the circle.

    E ĝ = (−xy − xz, xy − yz, xz + yz) for π = (x, y, z); ∂₂ of the first is −xy(1 − 2y − 2z) = xy(1 − 2x), ∂₁ of the
    second xy(1 − 2x + 2z).
    """

    def check(problem: Problem) -> Sequence[Finding]:
        parts = arbitrary(problem, (3,)) + 5  # −4 … 6
        made = arms(parts / parts.sum(), [-1, 0, 7])
        circle = made.field.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]])
        return [zero("curl = ∓2 π₁π₂π₃", truth.curl(made, duelled) - factor * parts.prod() / parts.sum() ** 3 * circle)]

    return check


def smallest() -> Iterator[Finding]:
    """One prompt, one token, three tokens, two responses: all in rationals."""
    for problem, nine, wanted in (
        (UNEVEN_REWARDS, 9, (-2, 0, 2, -4, -1, 5)),
        (UNEVEN_POLICY, 16, (-4, 1, 3, -6, 1, 5)),
    ):
        found, g = expectation(problem, row(sign), 2), gradient(problem)
        numbers = problem.field.array(wanted)
        yield zero(f"{problem.name}: E ĝ and g as derived by hand", nine * np.concatenate([found, g]) - numbers)
        yield nonzero(f"{problem.name}: turned", turned(found, g))
        yield nonzero(f"{problem.name}: no gradient", truth.curl(problem, duelled))
    yield zero("even rewards and policy: not turned", turned(expectation(EVEN, row(sign), 2), gradient(EVEN)))
    yield nonzero("but no gradient either", truth.curl(EVEN, duelled))
    yield zero("two values among three tokens: no curl", truth.curl(TWO_VALUES, duelled))


def of_the_row() -> Iterator[Finding]:
    """The row itself, in float64, on the same problems and on larger groups."""
    for problem in (UNEVEN_REWARDS, UNEVEN_POLICY):
        made = problem.to(FLOAT64)
        for size in (2, 3, 4, 8):
            found = made.combine(moments(made, ROW, size).mean)
            yield apart(f"{problem.name}: z-scores turn, G = {size}", turned(found, gradient(made)), 1)


def example() -> Sequence[Finding]:
    """The existential part."""
    return [*smallest(), *of_the_row()]


CLAIM = Claim(
    label="prop:sigma-turns",
    statement="dividing by the group's σ gives E ĝ = Σ_r f(r)∇P(r), f(r) = E[z-score | own reward r]; for G = 2 that "
    "is the gradient of the chance to beat a frozen copy of the policy; with three reward values it need not be a "
    "multiple of g and is the gradient of no objective: one prompt and one token of three with G = 2 suffice, the "
    "curl is 2π₁π₂π₃ at every policy",
    source="ours; ledger 3",
    hypotheses=("three or more reward values", "responses of a group are independent draws from the current policy"),
    group_sizes=(2, 3),
    check=both(duel(), own_form(2), own_form(3), round_and_round()),
    example=example,
    mutants={
        "twice the chance to win": duel(2),
        "ties count as won": duel(ties=True),
        "population std at G = 3": own_form(3, ddof=0),
        "curl of π₁π₂π₃": round_and_round(1),
        "σ keeps the direction, G = 3": keeps_direction(three_valued, 3),
    },
    algebraic=False,
    wording="dividing by σ acts like a smaller learning rate (read: along each prompt's own gradient, three reward "
    "values)",
    as_worded=keeps_direction(three_valued, 2),
)
