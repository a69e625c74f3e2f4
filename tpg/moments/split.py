"""Where the variance of ĝ comes from: states, actions, continuations, tokens together, and the rest of the group.

With c_t the credit of a response of its own, averaged over its group, ĝ = (1/G) Σ_i U(W_i) + (what the group adds), and
U = Σ_t c_t S_t.  Per token, by the law of total variance with s the prefix and a its token,
    Var c_t S_t = Var_s E[c_t S_t | s] + E Var_a(E[c_t | s, a] S_t) + E[‖S_t‖² Var(c_t | s, a)];
what Var U has beyond the sum over tokens is the covariance of tokens (algorithms.md §3(v)).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tpg.errors import EstimatorError
from tpg.estimators.estimator import Estimator
from tpg.estimators.parts import peers_of, scale_of, worth_of
from tpg.moments.collapse import _couple, collapse
from tpg.moments.paths import Paths
from tpg.numbers import Array, dot
from tpg.problem.problem import Problem


@dataclass(frozen=True)
class Split:
    """Parts of the total variance of ĝ [reward²], which they add up to; ``tokens`` and ``group`` may be negative."""

    state: Any  # which prefix was reached
    action: Any  # which token was chosen there
    continuation: Any  # what came after that token
    tokens: Any  # covariance of the tokens of one response
    group: Any  # what the other responses of the group add


def split(problem: Problem, estimator: Estimator, group_size: int) -> Split:
    """Parts of Σ_x weight(x)² Var ĝ_x, exactly.  EstimatorError for rows that cannot be counted by class."""
    if (
        not estimator.collapsible
        or estimator.keep is not None
        or estimator.continuations is not None
        or estimator.anchors is not None
    ):
        raise EstimatorError(f"{estimator.name}: the split needs credits that are a function of reward and path alone")
    paths = Paths(problem, estimator, group_size)
    parts = _per_token(
        problem, paths, (_coupled(paths, problem, estimator, group_size)[:, :, None] * paths.weight).sum(0)
    )
    state, action, after, tokens = ((problem.weights**2 * part).sum() / group_size for part in parts)
    whole = collapse(problem, estimator, group_size).total_variance
    return Split(state, action, after, tokens, whole - state - action - after - tokens)


def _coupled(paths: Paths, problem: Problem, estimator: Estimator, group_size: int) -> Array:
    """[F, R] coupled factor of each response, times G, averaged over its peers."""
    prompt, scale = paths.singles.prompt, scale_of(estimator.advantage)
    if (
        scale is not None
        and worth_of(estimator.advantage) is None
        and not peers_of(estimator.aggregation)
        and len(estimator.terms) == 1
    ):
        factor = problem.field.scalar(scale(group_size) * group_size)  # κ (R − E R): peers are independent of it
        return np.asarray(factor * (paths.singles.reward - problem.expected_reward[prompt]))[None]
    each = [_couple(paths, problem, estimator, group_size, x, None).first for x in range(problem.prompts)]
    return np.stack(each)[prompt, :, paths.code].T


def _per_token(problem: Problem, paths: Paths, credit: Array) -> tuple[Array, Array, Array, Array]:
    """State, action, continuation and token parts of Var U [P], for ``credit`` [R, T] on single responses."""
    singles, tree = paths.singles, problem.tree
    credit = np.where(singles.mask, credit, problem.field.scalar(0))
    rows, t = np.nonzero(singles.mask)
    where, chance = (singles.node[rows, t], singles.token[rows, t]), singles.probability[rows]
    first, second = problem.field.zeros(problem.probs.shape), problem.field.zeros(problem.probs.shape)
    np.add.at(first, where, chance * credit[rows, t])
    np.add.at(second, where, chance * credit[rows, t] ** 2)
    mass = problem.sampling_reach[:, None] * problem.sampling
    expected = np.divide(first, mass, out=first * 0, where=mass != 0)  # E[c_t | s, a]
    norm2 = _norms(problem)
    by_node = problem.field.zeros((4, problem.prompts))
    np.add.at(by_node[0], tree.prompt, (norm2 * second).sum(1))  # E‖c_t S_t‖²
    np.add.at(by_node[1], tree.prompt, (norm2 * expected * first).sum(1))  # E‖E[c_t | s, a] S_t‖²
    mean = problem.field.zeros(problem.prompts)
    for level in range(problem.horizon):
        inside, outside = _means(problem, first, level)
        by_node[2] += inside
        mean += outside
    whole = _whole(problem, paths, credit, norm2, first)
    state, action, continuation = by_node[2] - mean, by_node[1] - by_node[2], by_node[0] - by_node[1]
    return state, action, continuation, whole - state - action - continuation


def _whole(problem: Problem, paths: Paths, credit: Array, norm2: Array, first: Array) -> Array:
    """Var U [P] of single responses."""
    singles, out = paths.singles, problem.field.zeros(problem.prompts)
    if problem.features is None:  # scores of different prefixes are orthogonal
        along = np.where(singles.mask, norm2[singles.node, singles.token], problem.field.scalar(0))
        square = dot(credit * credit, along)
    else:
        vectors = (credit[:, :, None] * problem.scores[singles.node, singles.token]).sum(1)  # credit 0 after the end
        square = dot(vectors, vectors)
    np.add.at(out, singles.prompt, singles.probability * square)
    mean = problem.pull(first)
    return np.asarray(out - problem.inner(mean, mean))


def _norms(problem: Problem) -> Array:
    """‖S‖² [N, V]."""
    if problem.features is not None:
        return dot(problem.scores, problem.scores)
    return 1 - 2 * problem.probs + dot(problem.probs, problem.probs)[:, None]


def _means(problem: Problem, first: Array, level: int) -> tuple[Array, Array]:
    """E_s‖E[c_t S_t | s]‖² and ‖E c_t S_t‖² [P] of one position; ``first`` [N, V] is E[c_t; s, a]."""
    rows, reach = problem.tree.at(level), problem.sampling_reach
    here = first[rows]
    prompt = problem.tree.prompt[rows]
    if problem.features is None:
        vectors = here - problem.probs[rows] * here.sum(1, keepdims=True)
    else:
        vectors = (here[:, :, None] * problem.scores[rows]).sum(1)
    square = dot(vectors, vectors)
    inside, outside = problem.field.zeros(problem.prompts), problem.field.zeros(problem.prompts)
    safe = np.divide(square, reach[rows], out=square * 0, where=reach[rows] != 0)
    np.add.at(inside, prompt, safe)
    if problem.features is None:  # every prefix moves its own logits
        np.add.at(outside, prompt, square)
        return inside, outside
    total = problem.field.zeros((problem.prompts, problem.parameters))
    np.add.at(total, prompt, vectors)
    return inside, dot(total, total)
