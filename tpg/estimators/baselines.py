"""Baselines: OPO, the optimal ones (global, per token, joint), the value, and the one verl estimates per token.

An optimal baseline minimises the total variance of ĝ on-policy, ĝ = Σ_t (RM − b) S_t.  Those that are functions of the
prompt or of the prefix leave E ĝ = g (lem:baseline); one estimated from a group that holds the response does not.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tpg.estimators import baselines_expected as expected
from tpg.estimators import critics
from tpg.estimators.advantages import _group, tied
from tpg.estimators.aggregation import _tokens
from tpg.estimators.estimator import Estimator
from tpg.estimators.parts import peers
from tpg.numbers import Array, dot
from tpg.problem.problem import Problem

FLAT = 1e-28  # of the largest φ²: a squared shared score this small is the rounding of 0


@peers("reward", "length")
def opo(reward: Array, length: Array) -> Array:
    """OPO (Hao et al., arXiv 2505.23585): A_i = R_i − Σ_j L_j R_j / Σ_j L_j, own response included.

    The optimal baseline where ‖Z‖² ∝ L.  Biased for unequal lengths, by O(1/G) and off the direction of g; with equal
    ones it is the group mean, (G−1)/G · g.  [..., G], [..., G] → [..., G], in rewards.  Equal rewards give 0.
    EstimatorError for a group of one.

    >>> opo(np.array([1.0, 0.0]), np.array([1, 3]))
    array([ 0.75, -0.25])
    """
    _group("opo", reward)
    tokens = _tokens(length)
    mean = (tokens * reward).sum(-1, keepdims=True) / tokens.sum(-1, keepdims=True)
    return np.where(tied(reward), reward - reward, reward - mean)


@peers("reward", "length")
def opo_loo(reward: Array, length: Array) -> Array:
    """OPO with the own response left out (ours, after arXiv 2505.23585): A_i = R_i − Σ_{j≠i} L_j R_j / Σ_{j≠i} L_j.

    Unbiased: the others are independent of W_i.  [..., G], [..., G] → [..., G], in rewards.  Equal rewards give 0.
    EstimatorError for a group of one.

    >>> opo_loo(np.array([1.0, 0.0, 0.5]), np.array([1, 3, 1]))
    array([ 0.875, -0.75 ,  0.25 ])
    """
    _group("opo_loo", reward)
    tokens = _tokens(length)
    paid = tokens * reward
    others = (paid.sum(-1, keepdims=True) - paid) / (tokens.sum(-1, keepdims=True) - tokens)
    return np.where(tied(reward), reward - reward, reward - others)


def optimal_global(reward: Array, prompt_constant: Array) -> Array:
    """Optimal constant baseline (Weaver & Tao, arXiv 1301.2315): A_i = R_i − b*, b* = E[R‖Z‖²] / E‖Z‖² of the prompt.

    Unbiased: b* is a function of the prompt.  Var(b) = Var(b*) + (b − b*)² E‖Z‖² / G.  Z is the score of the whole
    response.  [..., G], [..., 1] → [..., G], in rewards.

    >>> optimal_global(np.array([1.0, 0.0]), np.array([0.25]))
    array([ 0.75, -0.25])
    """
    return reward - prompt_constant


def optimal_token(reward: Array, value: Array) -> Array:
    """Optimal baseline per token (Greensmith et al. 2004): A_t = R − b_t, b_t = E[R‖S_t‖² | s_t] / E[‖S_t‖² | s_t].

    Unbiased: b_t is a function of the prefix.  It minimises each token's own variance, not what the tokens share: that
    is ``optimal_joint``.  [..., G], [..., G, T+1] → [..., G, T], in rewards.

    >>> optimal_token(np.array([1.0]), np.array([[0.25, 0.5, 0.0]]))
    array([[0.75, 0.5 ]])
    """
    return reward[..., None] - value[..., :-1]


def optimal_joint(reward: Array, value: Array) -> Array:
    """Optimal baselines of all tokens together (ours): A_t = R − b_t, b_t = E[R S_t·Z | s_t] / E[‖S_t‖² | s_t].

    Unbiased: b_t is a function of the prefix.  Var(b) − Var(b*) = Σ_t E[(b_t − b*_t)² ‖S_t‖²] / G for every other table
    b of prefixes; equal to ``optimal_token`` for tabular policies.  [..., G], [..., G, T+1] → [..., G, T], in rewards.

    >>> optimal_joint(np.array([1.0]), np.array([[0.25, 0.5, 0.0]]))
    array([[0.75, 0.5 ]])
    """
    return reward[..., None] - value[..., :-1]


def value_baseline(reward: Array, value: Array) -> Array:
    """REINFORCE with the value of the prefix as baseline (Sutton et al. 2000): A_t = R − V(s_t), here V = M.

    Unbiased: V is a function of the prefix.  The optimum only where ‖S_t‖² and M_t are uncorrelated given s_t and the
    tokens share nothing.  GAE with λ = 1.  [..., G], [..., G, T+1] → [..., G, T], in rewards.

    >>> value_baseline(np.array([1.0]), np.array([[0.25, 0.5, 0.0]]))
    array([[0.75, 0.5 ]])
    """
    return reward[..., None] - value[..., :-1]


@peers("reward", "mask", "score_norm2")
def optimal_token_baseline(reward: Array, mask: Array, score_norm2: Array) -> Array:
    """OTB (verl ``optimal_token_baseline``): A_t = R_i − Σ_j W_jt R_j / Σ_j W_jt, W_t = Σ_{k≤t} (1 − 2π_k + Σπ²).

    The sums run over the responses of the group that still write at t, the own one included: biased, and 0 once a
    response is the last one.  Without verl's 10⁻⁸ in the divisor; 0 where no W is positive, since every score is 0
    there.  [..., G], [..., G, T], [..., G, T] → [..., G, T], in rewards.  EstimatorError for a group of one.

    >>> optimal_token_baseline(np.array([1.0, 0.0]), np.array([[True], [True]]), np.array([[0.5], [1.5]]))
    array([[ 0.75],
           [-0.25]])
    """
    _group("optimal_token_baseline", reward)
    weight = np.where(mask, np.add.accumulate(score_norm2, axis=-1), score_norm2 - score_norm2)
    ahead = reward[..., :, None] - reward[..., None, :]  # pairs, so that equal rewards cancel exactly
    top = (ahead[..., None] * weight[..., None, :, :]).sum(-2)
    whole = np.broadcast_to(weight.sum(-2, keepdims=True), top.shape)
    return np.divide(top, whole, out=top - top, where=whole != 0)


# What the optimal baselines are, on this problem


def global_optimum(problem: Problem, group_size: int) -> Array:
    """[P] b* = E[R‖Z‖²] / E‖Z‖² under π; M_0 where no score is ever positive and any number will do."""
    mass = np.where(problem.ends, problem.reach[:, None] * problem.probs, problem.field.scalar(0))
    weighed = mass * _path_norms(problem)
    top, bottom = problem.field.zeros(problem.prompts), problem.field.zeros(problem.prompts)
    np.add.at(top, problem.tree.prompt, (weighed * problem.totals).sum(1))
    np.add.at(bottom, problem.tree.prompt, weighed.sum(1))
    return _quotient(problem, top, bottom, problem.values[1][: problem.prompts])


def token_optimum(problem: Problem) -> Array:
    """[N] E[R‖S‖² | s] / E[‖S‖² | s] under π; M(s) where the next token is certain."""
    weighed = problem.probs * _norms(problem)
    top, bottom = dot(weighed, problem.values[0]), weighed.sum(1)
    return _quotient(problem, top, bottom, problem.values[1])


def joint_optimum(problem: Problem) -> Array:
    """[N] E[R S·Z | s] / E[‖S‖² | s] under π (algorithms.md §3(vi)); M(s) where the next token is certain.

    E[R S_t·Z | s_t] = E[R‖S_t‖² | s_t] + Z_{t−1}·g(s_t) + E[S_t·Σ_{u>t} g(s_u) | s_t], g(s) = E[R S | s].
    """
    if problem.features is None:  # scores of different prefixes are orthogonal
        return token_optimum(problem)
    tree, probs, scores = problem.tree, problem.probs, problem.scores
    weighed = probs * _norms(problem)
    slope = ((probs * problem.values[0])[:, :, None] * scores).sum(1)  # g(s) [N, d]
    top = dot(weighed, problem.values[0]) + dot(_path(problem), slope)
    below, onward = slope[:0], slope.copy()  # Σ_{u≥t} E[g(s_u) | s] [N, d]
    for t in reversed(range(problem.horizon)):
        rows = tree.at(t)
        after = problem.field.zeros(scores[rows].shape)
        after[tree.inner[rows]] = below
        after = probs[rows][:, :, None] * after
        top[rows] = top[rows] + (after * scores[rows]).sum((1, 2))
        below = onward[rows] = onward[rows] + after.sum(1)
    return _quotient(problem, top, weighed.sum(1), problem.values[1])


def _norms(problem: Problem) -> Array:
    """‖S‖² [N, V]."""
    return _logit_norms(problem) if problem.features is None else dot(problem.scores, problem.scores)


def _logit_norms(problem: Problem) -> Array:
    """‖∂log π/∂logits‖² [N, V]."""
    return 1 - 2 * problem.probs + dot(problem.probs, problem.probs)[:, None]


def _path(problem: Problem) -> Array:
    """Z [N, d] of the tokens before each prefix."""
    out = problem.field.zeros((problem.tree.nodes, problem.parameters))
    for t, rows in _levels(problem):
        out[problem.tree.at(t + 1)] = (out[rows, None] + problem.scores[rows])[problem.tree.inner[rows]]
    return out


def _path_norms(problem: Problem) -> Array:
    """‖Z‖² [N, V] of each prefix and one more token."""
    if problem.features is not None:
        whole = _path(problem)[:, None] + problem.scores
        return dot(whole, whole)
    return _summed(problem, _logit_norms(problem))


def _summed(problem: Problem, table: Array) -> Array:
    """[N, V] what ``table`` adds up to along the path to each token, that token included."""
    out = table.copy()
    for t, rows in _levels(problem):
        below = problem.tree.at(t + 1)
        out[below] = out[below] + problem.tree.descend(out[rows], t)[:, None]
    return out


def _levels(problem: Problem) -> Iterator[tuple[int, slice]]:
    """The levels that others follow."""
    return ((t, problem.tree.at(t)) for t in range(problem.horizon - 1))


def _quotient(problem: Problem, top: Array, bottom: Array, otherwise: Array) -> Array:
    """``top`` / ``bottom``, or ``otherwise`` where ``bottom`` is 0 (in float64: no more than rounding)."""
    floor = 0.0 if problem.features is None or problem.field.exact else FLAT * float((problem.features**2).max())
    return np.divide(top, bottom, out=otherwise.copy(), where=bottom > floor if floor else bottom != 0)


ROWS: list[Estimator] = [
    Estimator("opo", opo, expectation=expected.OPO, source="arXiv 2505.23585; verl"),
    Estimator("opo_loo", opo_loo, source="ours: arXiv 2505.23585 without the own response"),
    Estimator(
        "optimal_baseline_global", optimal_global, source="Weaver & Tao, arXiv 1301.2315", constant=global_optimum
    ),
    Estimator("optimal_baseline_token", optimal_token, source="Greensmith et al. 2004", critic=token_optimum),
    Estimator("optimal_baseline_joint", optimal_joint, source="ours: algorithms.md §3(vi)", critic=joint_optimum),
    Estimator("value_baseline", value_baseline, source="Sutton et al. 2000", critic=critics.exact_critic),
    Estimator("optimal_token_baseline", optimal_token_baseline, expectation=expected.OTB, source="verl"),
]
