"""prop:optimal-baseline: the best table of per-prefix baselines in closed form, and what every other one costs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from paper_checks.common import both
from paper_checks.variances import Walks, arbitrary, variance, with_table
from tpg import truth
from tpg.claims import Claim, Finding, positive, zero
from tpg.claims.record import Check
from tpg.estimators import baselines
from tpg.estimators.table import ESTIMATORS
from tpg.moments import brute_force
from tpg.numbers import RATIONAL, Array, dot
from tpg.problem import zoo
from tpg.problem.problem import Problem, make
from tpg.problem.tree import grow

Table = Callable[[Walks], Array]  # [N] a number per prefix
JOINT = ESTIMATORS["optimal_baseline_joint"]
PUBLISHED: dict[str, Table] = {  # rows, and what they subtract at each prefix
    "reinforce": lambda w: w.problem.field.zeros(w.problem.tree.nodes),
    "reinforce_baseline": lambda w: w.everywhere(w.problem.values[1]),
    "value_baseline": lambda w: w.problem.values[1],
    "optimal_baseline_global": lambda w: w.everywhere(w.global_optimum),
    "optimal_baseline_token": lambda w: w.token_optimum,
}


def optimum(walks: Walks) -> Array:
    """b*(s) = E[RM S_t·Z | s] / E[‖S_t‖² | s] from enumerated responses."""
    return walks.joint_optimum


def gap(best: Table, size: int = 1) -> Check:
    """Var(b) − Var(``best``) = Σ_t E[(b_t − best_t)² ‖S_t‖²] / G for an arbitrary table b."""

    def check(problem: Problem) -> Sequence[Finding]:
        walks, table = Walks(problem), arbitrary(problem, (problem.tree.nodes,))
        more, least = (variance(problem, with_table(b), size) for b in (table, best(walks)))
        price = walks.price(table, best(walks)) / size
        return [zero(f"Var(b) − Var(b*) of an arbitrary table, G = {size}", more - least - price)]

    return check


def published(problem: Problem) -> Sequence[Finding]:
    """The gap of the rows that have a baseline."""
    walks, least = Walks(problem), variance(problem, JOINT)
    return [
        zero(f"Var({name}) − Var(b*)", variance(problem, ESTIMATORS[name]) - least - walks.price(table(walks), best))
        for best in (optimum(walks),)
        for name, table in PUBLISHED.items()
    ]


def row_is_the_optimum(problem: Problem) -> Sequence[Finding]:
    """The row's own table is b* wherever a score is positive, and its E ĝ is g."""
    walks = Walks(problem)
    off = (baselines.joint_optimum(problem) - optimum(walks)) * walks.at_prefix(walks.norm2)
    mean = brute_force(problem, JOINT, 1).mean
    return [zero("the row subtracts b*", off), zero("E ĝ = g with b*", mean - truth.by_dual_numbers(problem))]


def three_terms(problem: Problem) -> Sequence[Finding]:
    """E[RM S_t·Z | s] = E[RM ‖S_t‖² | s] + Z_{t−1}·g(s) + E[S_t·Σ_{u>t} g(s_u) | s]; none but the first if tabular."""
    walks = Walks(problem)
    slope = np.where(walks.paths.mask[:, :, None], walks.slope[walks.paths.node], problem.field.scalar(0))
    later = slope.sum(1, keepdims=True) - np.add.accumulate(slope, axis=1)
    own, before, after = walks.reward * walks.norm2, dot(walks.earlier, slope), dot(walks.score, later)
    shared = walks.reward * dot(walks.score, walks.whole[:, None])
    out = [zero("the three terms of b*", walks.at_prefix(shared - own - before - after))]
    if problem.tabular:
        out.append(zero("no cross-token terms", walks.joint_optimum - walks.token_optimum))
    return out


def so_far(walks: Walks) -> Array:
    """Mutant: E[RM S_t·Z_t | s], what later tokens share with this one left out."""
    along = dot(walks.score, walks.upto)
    return walks.quotient(walks.at_prefix(walks.reward * along), walks.at_prefix(walks.norm2))


def unweighted(walks: Walks) -> Array:
    """Mutant: E[RM | s], scores left out: the value."""
    return walks.problem.values[1]


def cheaper(power: int, weighted: bool) -> Check:
    """Mutants: another power of the distance, or no ‖S_t‖²."""

    def check(problem: Problem) -> Sequence[Finding]:
        walks, table = Walks(problem), arbitrary(problem, (problem.tree.nodes,))
        weight = walks.norm2 if weighted else problem.field.ones(walks.norm2.shape)
        price = walks.mean((walks.along((table - optimum(walks)) ** power) * weight).sum(1))
        return [zero("gap", variance(problem, with_table(table)) - variance(problem, JOINT) - price)]

    return check


def agree() -> Problem:
    """Two fair coins, one parameter, S = ±1; reward 1 if they agree."""
    moves = [[[0], [2]]] * 3
    return make(
        grow(2, 2, 1), [["1/2", "1/2"]] * 3, [[0, 0], [1, 0], [0, 1]], features=moves, field=RATIONAL, name="agree"
    )


def example() -> Sequence[Finding]:
    """Two coins: b* = E[R | s] + E[R S_1 S_2 | s] = 1/2 + 1/2 = 1, so (R − b*) Z = 0 always: Z = 0 if they differ.

    Each token on its own: E[R ‖S_t‖² | s] / E[‖S_t‖² | s] = V(s) = 1/2, Var = E[(R − 1/2)² Z²] = E[Z²]/4 = 1/2.
    """
    coins, shared, tabular = agree(), zoo.shared(), zoo.two_valued()
    least = {p.name: variance(p, JOINT).sum() for p in (coins, shared, tabular)}
    value, one, token = (ESTIMATORS[name] for name in list(PUBLISHED)[2:])
    half = coins.field.scalar("1/2")
    return [
        zero("two coins: Var(b*) = 0, and so is that of one constant", [least["agree"], *variance(coins, one)]),
        zero("two coins: Var(V) = 1/2", variance(coins, value) - half),
        zero("two coins: each token's own optimum costs the same 1/2", variance(coins, token) - half),
        positive(
            "shared parameters: b* beats each token's own optimum", variance(shared, token).sum() - least["shared"]
        ),
        positive("tabular: b* beats V(s)", variance(tabular, value).sum() - least["two-valued"]),
    ]


CLAIM = Claim(
    label="prop:optimal-baseline",
    statement="of all tables b of per-prefix baselines, b*(s) = E[RM S_t·Z | s]/E[‖S_t‖² | s] has the least total "
    "variance, cross-token terms included, and any other costs Var(b) − Var(b*) = Σ_t E[(b_t − b*_t)² ‖S_t‖²]/G more; "
    "for tabular policies b* is each token's own optimum, with shared parameters it need not be",
    source="ours; each token on its own: Greensmith et al. 2004",
    hypotheses=("on-policy, G independent responses", "b is a function of the prefix alone"),
    group_sizes=(1, 2),
    check=both(gap(optimum), gap(optimum, 2), published, row_is_the_optimum, three_terms),
    example=example,
    mutants={
        "each token on its own": gap(lambda walks: walks.token_optimum),
        "V(s) is the optimum": gap(unweighted),
        "one number is the optimum": gap(lambda walks: walks.everywhere(walks.global_optimum)),
        "later tokens left out": gap(so_far),
        "distance, not squared": cheaper(1, True),
        "no weight ‖S_t‖²": cheaper(2, False),
    },
    needs=("lem:baseline", "thm:trajectory-pg"),
    # At most 2^T + 1 prefixes of a prompt, each with a divisor of degree 5, squared; one of T + 4, squared; 5T + 2.
    degree=lambda horizon: 10 * (2**horizon + 1) + 7 * horizon + 10,
    wording="the baseline of least variance at a token is E[RM ‖S_t‖² | s]/E[‖S_t‖² | s]",
    as_worded=gap(lambda walks: walks.token_optimum),
)
