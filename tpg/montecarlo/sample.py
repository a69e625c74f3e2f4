"""The audit's report by sampling: estimates of E ĝ and Cov ĝ, and an e-process against the declared expectation.

For problems whose groups cannot be counted, and as a check of the exact engine by another road.  A chunk of groups is a
pure function of (problem, estimator, group size, seed, chunk index): order and workers do not matter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np

from tpg.estimators.estimator import Estimator
from tpg.moments.bound import credit_bound
from tpg.moments.noise import to_draw
from tpg.moments.result import Report, report
from tpg.montecarlo import eprocess
from tpg.montecarlo.streams import chunks, stream
from tpg.numbers import FLOAT64, Array
from tpg.problem.problem import Problem, Progress
from tpg.rollouts import draw

CHUNK = 1 << 18  # sampled tokens per chunk
RANDOM_DIRECTIONS = 4


@dataclass(frozen=True)
class Sampled:
    """What ``samples`` batches (one group per prompt each) say.

    ``discrepancy`` is the smallest deviation of E⟨ĝ, v⟩ from its declared value, along any of the ``directions`` unit
    vectors v, that would have been found with probability ≥ ``power``; ``alpha`` bounds the chance of a false alarm.
    ``overall`` holds plug-in estimates, ``off_declared`` that of |E ĝ − declared|; |E ĝ| and the bias are known to
    about ``standard_error`` = √(tr Cov ĝ / n).
    """

    samples: int
    seed: int
    alpha: float
    power: float
    discrepancy: float
    directions: int
    log_evalue: float
    rejected: bool
    standard_error: float
    off_declared: float
    overall: Report


@dataclass(frozen=True, eq=False)
class _Sums:
    """Sufficient statistics of one chunk."""

    count: int
    table: Array  # [N, V] Σ credits by node and token
    square: Array  # [P] Σ ‖ĝ_x‖²
    along: Array  # [count, D] ⟨ĝ, v⟩


def sample(
    problem: Problem,
    estimator: Estimator,
    group_size: int,
    samples: int,
    declared: Array,
    g: Array,
    *,
    seed: int = 0,
    alpha: float = 1e-9,
    power: float = 0.99,
    workers: int = 1,
    progress: Progress | None = None,
) -> Sampled:
    """Draw ``samples`` batches; compare with the ``declared`` E ĝ and the exact ``g`` (both as ``Problem.pull``)."""
    problem = problem.to(FLOAT64)
    directions = _directions(problem, declared, g, seed)
    means = np.array([problem.combine(declared) @ v for v in directions])
    bounds = _bounds(problem, estimator, group_size, directions)
    test = eprocess.begin(means, np.minimum(-bounds, means), np.maximum(bounds, means), alpha)
    fresh = 1 + problem.horizon * sum(to_draw(estimator).values())  # continuations of every token
    per_batch = problem.prompts * group_size * problem.horizon * fresh
    pieces = list(chunks(samples, max(1, CHUNK // per_batch)))
    work = partial(_chunk, problem, estimator, group_size, seed, [_along(problem, v) for v in directions])
    table, square, spread = np.zeros(problem.probs.shape), np.zeros(problem.prompts), np.zeros(len(directions))
    for sums in _in_order(work, pieces, workers):
        table, square = table + sums.table, square + sums.square
        spread += ((sums.along - means) ** 2).sum(0)
        test = eprocess.update(test, sums.along)
        if progress is not None:
            progress(test.count, samples)
    reach = np.maximum(bounds, np.abs(means)) + np.abs(means)
    found = [
        eprocess.minimum_discrepancy(samples, variance, bound, alpha, power, len(directions))
        for variance, bound in zip(spread / samples, reach, strict=True)
    ]
    overall = _report(problem, table / samples, square / samples, samples, g)
    return Sampled(
        samples=samples,
        seed=seed,
        alpha=alpha,
        power=power,
        discrepancy=max(found),
        directions=len(directions),
        log_evalue=eprocess.log_evalue(test),
        rejected=eprocess.rejected(test),
        standard_error=float(np.sqrt(overall.total_variance / samples)),
        off_declared=float(np.linalg.norm(problem.combine(problem.pull(table / samples) - declared))),
        overall=overall,
    )


def _in_order(work: Callable[[int, int], _Sums], pieces: list[tuple[int, int]], workers: int) -> Iterable[_Sums]:
    """Chunk results in the order of their index, whoever computed them."""
    if workers == 1:
        yield from (work(*piece) for piece in pieces)
        return
    with ThreadPoolExecutor(workers) as pool:
        yield from pool.map(lambda piece: work(*piece), pieces)


def _chunk(
    problem: Problem, estimator: Estimator, group_size: int, seed: int, along: list[Array], index: int, count: int
) -> _Sums:
    rng = stream(seed, problem.digest, estimator.name, group_size, index)
    singles, members = draw(problem, group_size, rng, count, estimator.given, to_draw(estimator), estimator.kept)
    credits = estimator(singles.group(members, estimator.needs))
    flat = credits.reshape(-1, problem.horizon)  # responses in the order they were drawn
    rows, t = np.nonzero(singles.mask)
    node, token, credit = singles.node[rows, t], singles.token[rows, t], flat[rows, t]
    owner = rows // group_size  # batch · P + prompt
    table = np.zeros(problem.probs.shape)
    np.add.at(table, (node, token), credit)
    batch, weight = owner // problem.prompts, problem.weights[singles.prompt[rows]]
    shadows = [np.bincount(batch, weight * credit * v[node, token], minlength=count) for v in along]
    square = _norms(problem, owner, node, token, credit, count * problem.prompts)
    return _Sums(count, table, square.reshape(count, problem.prompts).sum(0), np.stack(shadows, axis=1))


def _norms(problem: Problem, owner: Array, node: Array, token: Array, credit: Array, owners: int) -> Array:
    """‖ĝ_x‖² of every group: tabular gradients touch few prefixes, so only those are added up."""
    if problem.features is not None:
        ghat = np.zeros((owners, problem.parameters))
        np.add.at(ghat, owner, credit[:, None] * problem.scores[node, token])
        return np.asarray((ghat * ghat).sum(1))
    place, inverse = np.unique(owner * problem.tree.nodes + node, return_inverse=True)
    rows = np.zeros((len(place), problem.vocab))
    np.add.at(rows, (inverse, token), credit)
    rows -= problem.probs[place % problem.tree.nodes] * rows.sum(1, keepdims=True)
    return np.bincount(place // problem.tree.nodes, (rows * rows).sum(1), minlength=owners)


def _directions(problem: Problem, declared: Array, g: Array, seed: int) -> list[Array]:
    """Unit vectors [parameters]: along g, along the declared expectation, a few at random; zero ones left out."""
    rng = stream(seed, "directions")
    named = [problem.combine(np.asarray(v, dtype=np.float64)) for v in (g, declared)]
    drawn = [rng.standard_normal(problem.parameters) for _ in range(RANDOM_DIRECTIONS)]
    return [v / np.linalg.norm(v) for v in [*named, *drawn] if v.any()]


def _along(problem: Problem, direction: Array) -> Array:
    """[N, V] ⟨score(s, a), v⟩."""
    if problem.features is not None:
        return np.asarray(problem.scores @ direction)
    table = direction.reshape(problem.probs.shape)
    return table - (problem.probs * table).sum(1, keepdims=True)


def _bounds(problem: Problem, estimator: Estimator, group_size: int, directions: list[Array]) -> Array:
    """[D] what |⟨ĝ, v⟩| can never exceed."""
    return np.array([credit_bound(problem, estimator, group_size, _along(problem, v)) for v in directions])


def _report(problem: Problem, table: Array, square: Array, samples: int, g: Array) -> Report:
    mean = problem.pull(table)
    variance = (square - problem.inner(mean, mean)) * samples / max(1, samples - 1)
    total = float((problem.weights**2 * variance).sum())
    return report(problem.combine(mean), total, problem.combine(np.asarray(g, dtype=np.float64)))
