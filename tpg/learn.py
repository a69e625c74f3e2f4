"""Policy-gradient ascent on a Problem, sampled or in expectation, with J exact at every step.

Learning curves therefore carry the noise of the updates and none of the evaluation.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from tpg import truth
from tpg.errors import EstimatorError
from tpg.estimators.estimator import Estimator
from tpg.moments import moments
from tpg.montecarlo.streams import stream
from tpg.numbers import FLOAT64, Array
from tpg.problem.problem import Problem, Progress
from tpg.rollouts import Responses, draw


@dataclass(frozen=True)
class Curve:
    """J after every step, [runs, steps + 1] in rewards; one row for an ascent along E ĝ."""

    estimator: str
    group_size: int
    rate: float
    objective: Array

    @property
    def responses(self) -> int:
        """Responses generated per prompt by the last step."""
        return self.group_size * (self.objective.shape[1] - 1)


def step(problem: Problem, update: Array, rate: float) -> Problem:
    """θ + rate · update: logits move by it (tabular [N, V]) or by φ · it (shared [d]), probabilities follow."""
    logits = update if problem.features is None else problem.features @ update
    probs = problem.probs * np.exp(rate * (logits - logits.max(-1, keepdims=True)))
    return replace(problem, probs=probs / probs.sum(-1, keepdims=True))


def ascend_exactly(
    problem: Problem, estimator: Estimator, group_size: int, steps: int, rate: float, progress: Progress | None = None
) -> Curve:
    """Follow E ĝ: what the estimator pursues, without its noise."""
    problem = _ready(problem, estimator, group_size)
    found = [truth.objective(problem)]
    for k in range(steps):
        mean = moments(problem, estimator, group_size).mean
        problem = step(problem, _update(problem, mean), rate)
        found.append(truth.objective(problem))
        if progress is not None:
            progress(k + 1, steps)
    return Curve(estimator.name, group_size, rate, np.array([found], dtype=np.float64))


def ascend(
    problem: Problem,
    estimator: Estimator,
    group_size: int,
    steps: int,
    rate: float,
    *,
    runs: int = 1,
    reuse: int = 1,
    seed: int = 0,
    progress: Progress | None = None,
) -> Curve:
    """Follow sampled ĝ; ``reuse`` updates are made from each batch of responses, off-policy from the second on."""
    problem = _ready(problem, estimator, group_size)
    found = np.empty((runs, steps + 1))
    for run in range(runs):
        rng = stream(seed, "learn", problem.digest, estimator.name, group_size, run)
        for k, value in enumerate(_run(problem, estimator, group_size, steps, rate, reuse, rng)):
            found[run, k] = value
            if progress is not None and k:
                progress(run * steps + k, runs * steps)
    return Curve(estimator.name, group_size, rate, found)


def _run(
    problem: Problem, estimator: Estimator, size: int, steps: int, rate: float, reuse: int, rng: np.random.Generator
) -> Iterator[float]:
    yield float(truth.objective(problem))
    for k in range(steps):
        if k % reuse == 0:
            problem = replace(problem, behaviour=None)
            singles, members = draw(problem, size, rng, given=estimator.given, keep=estimator.kept)
            generated_by = problem.probs
        if reuse > 1:
            problem = replace(problem, behaviour=generated_by)
        now = Responses(problem, singles.node, singles.token, singles.prompt, estimator.given, singles.anchor)
        credits = estimator(now.group(members, estimator.needs)).reshape(len(now.node), -1)
        rows, t = np.nonzero(now.mask)
        table = np.zeros(problem.probs.shape)
        np.add.at(table, (now.node[rows, t], now.token[rows, t]), credits[rows, t])
        problem = step(problem, _update(problem, problem.pull(table)), rate)
        yield float(truth.objective(problem))


def _update(problem: Problem, gradient: Array) -> Array:
    """Σ_x weight(x) · gradient_x, laid out as ``step`` wants it."""
    combined = problem.combine(gradient)
    return combined if problem.features is not None else combined.reshape(problem.probs.shape)


def _ready(problem: Problem, estimator: Estimator, group_size: int) -> Problem:
    if estimator.continuations is not None:
        raise EstimatorError(f"{estimator.name} needs fresh continuations: learning curves do not draw them yet")
    if group_size < estimator.min_group:
        raise EstimatorError(f"group_size={group_size} given, {estimator.name} needs at least {estimator.min_group}")
    return replace(problem.to(FLOAT64), behaviour=None)
