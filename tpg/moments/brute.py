"""The reference: every group of every prompt, one by one.  Cost responses^G; nothing is assumed about the credits."""

from __future__ import annotations

import itertools

import numpy as np

from tpg.errors import EstimatorError, TooLarge
from tpg.estimators.estimator import Estimator
from tpg.moments import noise
from tpg.moments.coupling import check_kept, kept_groups
from tpg.moments.result import Moments
from tpg.numbers import Array
from tpg.problem.problem import Problem, Progress
from tpg.rollouts import Responses, every

MAX_CELLS = 2 * 10**9  # groups × parameters
BLOCK = 1 << 22


def brute_force(
    problem: Problem,
    estimator: Estimator,
    group_size: int,
    covariance: bool = False,
    progress: Progress | None = None,
) -> Moments:
    """Mean and total variance of ĝ by enumerating every group with its exact probability."""
    if estimator.batch:
        raise EstimatorError(f"{estimator.name} reads the whole batch: use brute_force_batch")
    size = problem.parameters
    first = problem.field.zeros((problem.prompts, size))
    second = problem.field.zeros((problem.prompts, size, size) if covariance else (problem.prompts, size))
    known: tuple[Array, Array] | None = None
    kept, done = problem.field.zeros(problem.prompts), 0
    for prompt, singles, index, probability in every(problem, group_size, estimator.given):
        done += len(index)
        if progress is not None:
            progress(done, int((np.bincount(singles.prompt) ** group_size).sum()))
        scores, spread = known = known or (token_scores(singles), noise.spread_of(singles, estimator))
        step = max(1, BLOCK // (group_size * size))
        for i in range(0, len(index), step):
            block, chance = index[i : i + step], probability[i : i + step, None]
            rollouts = singles.group(block, estimator.needs)
            credits = estimator(rollouts)
            chance = np.where(kept_groups(estimator, rollouts, len(block))[:, None], chance, problem.field.scalar(0))
            kept[prompt] += chance.sum()
            ghat = _estimates(credits, scores, block)
            first[prompt] += (chance * ghat).sum(0)
            noisy = noise.of_groups(estimator, rollouts, spread[block])  # and what fresh continuations add
            more = ((chance * v[:, None], _estimates(slope, scores, block)) for slope, v in noisy)
            for weight, along in itertools.chain([(chance, ghat)], more):
                second[prompt] += (weight * along).T @ along if covariance else (weight * along * along).sum(0)
    if estimator.keep is not None:  # groups that are not kept are drawn again
        for share in kept:
            check_kept(share)
        first, second = first / kept[:, None], second / (kept[:, None, None] if covariance else kept[:, None])
    return _moments(problem, group_size, first, second, covariance)


def token_scores(singles: Responses) -> Array:
    """[R, T, D] score of every token of every response, 0 after its end; D all parameters."""
    problem = singles.problem
    rows, t = np.nonzero(singles.mask)
    TooLarge.check("storing every score", singles.mask.size * problem.parameters, 10**8, "use class collapse")
    out = problem.field.zeros((*singles.mask.shape, problem.parameters))
    node, token = singles.node[rows, t], singles.token[rows, t]
    if problem.features is not None:
        out[rows, t] = problem.scores[node, token]
        return out
    table = out.reshape(*singles.mask.shape, *problem.probs.shape)
    table[rows, t, node] = -problem.probs[node]
    table[rows, t, node, token] += 1
    return out


def _estimates(credits: Array, scores: Array, index: Array) -> Array:
    """ĝ [n, D] of groups ``index`` [n, G]."""
    out = 0
    for i in range(index.shape[1]):
        for t in range(credits.shape[2]):
            out = out + credits[:, i, t, None] * scores[index[:, i], t]
    return np.asarray(out)


def _moments(problem: Problem, group_size: int, first: Array, second: Array, covariance: bool) -> Moments:
    if problem.features is not None:
        mean = first
    else:
        mean = first.sum(0).reshape(problem.probs.shape)  # every prompt moves only its own rows
    if not covariance:
        return Moments(problem, group_size, mean, (second - first * first).sum(-1))
    each = second - first[:, :, None] * first[:, None, :]
    whole = (problem.weights[:, None, None] ** 2 * each).sum(0)
    return Moments(problem, group_size, mean, np.trace(each, axis1=1, axis2=2), whole)
