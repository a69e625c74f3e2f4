"""Closed forms of E ĝ for credit from continuations and prefix trees; on-policy, without the formulas of the rows."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np

from tpg.estimators.expectations import Expectation, Extra
from tpg.numbers import Array, parse
from tpg.problem.problem import Problem
from tpg.problem.tree import Tree
from tpg.rollouts import responses


def at_rate(rate: Any) -> Expectation:
    """Σ_t ρ_t E[A_t S_t] for anchors that come with the same chance ρ everywhere; what is interpolated adds nothing."""
    chance = parse(rate)
    text = f"E ĝ = {chance} · g, the chance of an anchor; interpolated tokens add noise only"
    return Expectation(text, lambda problem, group_size: chance)


def value_interpolation(rate: Any) -> Expectation:
    """Σ_t Σ_s P(s opens the block of token t) E[(M_u − M_s)/(u − s) S_t], u the next anchor or the end."""
    return Expectation(
        "biased: E ĝ = Σ_t E[S_t (M_u − M_s)/(u − s)]; for fixed lengths Σ_t E[1/block length at t] E[A_t S_t]",
        lambda problem, group_size: Fraction(0),
        _by_block_length(rate),
    )


def _by_block_length(rate: Any) -> Extra:
    def extra(problem: Problem, group_size: int) -> Array:
        tree, rho = problem.tree, problem.field.scalar(parse(rate))
        credit = problem.field.zeros(problem.probs.shape)
        for s in range(problem.horizon):
            before = _carried(tree, problem.values[1][tree.at(s)], s)  # M_s below the prefixes of s tokens
            gain = over = problem.field.zeros(0)  # E[M_u/(u − s) | W_{0,t}] and E[1/(u − s) | W_{0,t}]
            for t in reversed(range(s, problem.horizon)):
                rows, held = tree.at(t), t + 1 - s
                gains = tree.lift(gain, t, problem.totals[rows] / held)
                overs = tree.lift(over, t, problem.field.ones(gains.shape) / held)
                opens = (1 - rho) ** (t - s) * (rho if s else 1)
                credit[rows] += opens * (gains - before[t - s][:, None] * overs)
                if t > s:  # closed by an anchor here, or not
                    probs, closed = problem.probs[rows], rho / (t - s)
                    gain = closed * problem.values[1][rows] + (1 - rho) * (probs * gains).sum(-1)
                    over = closed + (1 - rho) * (probs * overs).sum(-1)
        return problem.pull(problem.reach[:, None] * problem.probs * credit)

    return extra


def _carried(tree: Tree, values: Array, start: int) -> list[Array]:
    """Numbers of the nodes of level ``start`` as numbers of those below them, level by level."""
    out = [values]
    for t in range(start, tree.depths - 1):
        out.append(tree.descend(np.broadcast_to(out[-1][:, None], (len(out[-1]), tree.vocab)), t))
    return out


def _one_of_length(problem: Problem, group_size: int) -> Array:
    """Mean credit of token t when a is uniform on 1 … L: (1/L) (Σ_{a≥t} (M_a − M_0) + Σ_{a<t} (RM − M_a))."""
    paths = responses(problem)
    rows, t = np.nonzero(paths.mask)
    value = np.where(paths.mask, problem.values[0][paths.node, paths.token], problem.field.scalar(0))  # M_1 … M_L, 0 …
    upto = np.add.accumulate(value, axis=1)
    before, length = (upto - value)[rows, t], paths.length[rows]
    later = upto[rows, -1] - before - (length - t) * problem.values[1][paths.prompt[rows]]
    credit = (later + t * paths.reward[rows] - before) / length
    table = problem.field.zeros(problem.probs.shape)
    np.add.at(table, (paths.node[rows, t], paths.token[rows, t]), paths.probability[rows] * credit)
    return problem.pull(table)


def _tree_difference(problem: Problem, group_size: int) -> Array:
    """Σ_s d w_G(d) g(s), d w_G(d) = d − (1 − (1 − d)^G)/G, d(s) the chance of a prefix, g(s) = Σ_a ∇π(a|s) M(s a)."""
    reach = problem.reach
    weight = reach - (1 - (1 - reach) ** group_size) / group_size
    return problem.pull(weight[:, None] * problem.probs * problem.values[0])


ONE_OF_LENGTH = Expectation(
    "biased: E ĝ = g + what an anchor below L tells of the rest, (1/L) Σ_a E[M_{u(a)} − M_{s(a)} | W] summed over W",
    lambda problem, group_size: Fraction(0),
    _one_of_length,
)
TREE = Expectation(
    "biased: E ĝ = (G−1)/G · g + Σ_s d(s) w_G(d(s)) g(s), w_G(d) = 1 − (1 − (1−d)^G)/(G d), d the chance of prefix s",
    lambda problem, group_size: Fraction(group_size - 1, group_size),
    _tree_difference,
)
TREE_STD = Expectation("biased: tree values over a random standard deviation, no closed form", known=False)
