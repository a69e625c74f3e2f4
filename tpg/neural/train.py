"""Policy-gradient ascent of a transformer, along sampled ĝ or the exact g, with J exact at every step.

Learning curves therefore carry the noise of the updates and none of the evaluation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch

from tpg.errors import EstimatorError, TpgError
from tpg.estimators.estimator import Estimator
from tpg.montecarlo.streams import stream
from tpg.neural import exact, montecarlo, sample
from tpg.neural.gpt import GPT, Params
from tpg.neural.problem import tabular
from tpg.neural.task import Task
from tpg.numbers import Array
from tpg.problem.problem import Problem

OPTIMISERS = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}
Slope = Callable[[GPT, int], Params]  # the network and the number of the update → what to ascend along


@dataclass(frozen=True, eq=False)
class Curve:
    """J before the first update and after each, ``objective`` [runs, steps + 1] in rewards; one row along the exact g.

    ``group_size``: responses drawn per prompt and update, 0 along the exact g.
    """

    estimator: str
    group_size: int
    rate: float
    optimiser: str
    objective: Array

    @property
    def responses(self) -> int:
        """Responses generated per prompt by the last update, continuations not counted."""
        return self.group_size * (self.objective.shape[1] - 1)


def ascend_exactly(
    gpt: GPT, task: Task, steps: int, rate: float, optimiser: str = "sgd", progress: exact.Progress | None = None
) -> Curve:
    """θ ← θ + rate · g ("sgd"), or Adam's step along g: the curve that every unbiased estimator scatters around.

    ``gpt`` itself stays as it is.  Raises TpgError and TooLarge as :func:`ascend` does.
    """
    _check(gpt, task, steps, rate, optimiser)

    def slope(net: GPT, _: int) -> Params:
        return exact.gradient(net, task).gradient

    found = _followed(_ascend(gpt, task, slope, steps, rate, optimiser), steps, progress)
    return Curve("exact g", 0, rate, optimiser, found[None])


def ascend(
    gpt: GPT,
    task: Task,
    estimator: Estimator,
    group_size: int,
    steps: int,
    rate: float,
    *,
    runs: int = 1,
    seed: int = 0,
    optimiser: str = "sgd",
    progress: exact.Progress | None = None,
) -> Curve:
    """θ ← θ + rate · ĝ ("sgd"), or Adam's step along ĝ, from ``group_size`` fresh responses per prompt and update.

    Every run starts from ``gpt``, which stays as it is; run i is the same whatever ``runs`` is.  What drawn responses
    do not tell (exact values, a critic's) comes from the whole tree, computed anew at each update; a reference policy
    is the one at the start.

    Raises before work starts: TpgError on sizes, rates and rewards that cannot be, EstimatorError where the estimator
    cannot be computed, TooLarge on a tree too large to be summed over or, where the estimator asks for it, listed.
    Later: TpgError when an update leaves no finite J.
    """
    _check(gpt, task, steps, rate, optimiser)
    if runs < 1:
        raise TpgError(f"runs={runs} given: needed at least 1")
    if group_size < estimator.min_group:
        raise EstimatorError(f"group_size={group_size} given, {estimator.name} needs at least {estimator.min_group}")
    tables = _tables(gpt, task, estimator, group_size)
    found = np.empty((runs, steps + 1))
    for run in range(runs):
        seeds = stream(seed, "neural ascent", estimator.name, group_size, run).integers(2**62, size=steps).tolist()
        slope = partial(_sampled, task, estimator, group_size, tables, seeds)
        steady = _told(progress, run * steps, runs * steps)
        found[run] = _followed(_ascend(gpt, task, slope, steps, rate, optimiser), steps, steady)
    return Curve(estimator.name, group_size, rate, optimiser, found)


def _sampled(
    task: Task, estimator: Estimator, size: int, tables: Problem | None, seeds: list[int], net: GPT, k: int
) -> Params:
    """ĝ of update k."""
    now = None if tables is None else replace(tables, probs=tabular(net, task).probs)
    draws = sample.draw(net, task, size, seed=seeds[k], keep=estimator)
    return montecarlo.gradient(net, draws, sample.credits(draws, estimator, now))


def _tables(gpt: GPT, task: Task, estimator: Estimator, size: int) -> Problem | None:
    """The Problem of the network where the estimator reads what drawn responses do not tell.  Tries it out."""
    draws = sample.draw(gpt, task, size, keep=estimator)
    try:
        sample.rollouts(draws, estimator)
    except EstimatorError:
        known = tabular(gpt, task)
        known = replace(known, reference=known.probs)
        sample.credits(draws, estimator, known)
        return known
    return None


def _ascend(gpt: GPT, task: Task, slope: Slope, steps: int, rate: float, optimiser: str) -> Iterator[float]:
    """J before the first update and after each."""
    params = {name: p.detach().clone() for name, p in gpt.params.items()}
    net, rule = gpt.at(params), OPTIMISERS[optimiser](params.values(), lr=rate, maximize=True)
    yield exact.objective(net, task)
    for k in range(steps):
        for name, found in slope(net, k).items():
            params[name].grad = found
        rule.step()
        now = exact.objective(net, task)
        if not math.isfinite(now):
            raise TpgError(f"update {k + 1} of {steps} leaves J = {now}: rate={rate:g} is too large for these weights")
        yield now


def _followed(curve: Iterator[float], steps: int, progress: exact.Progress | None) -> Array:
    """[steps + 1] the whole curve."""
    found = np.empty(steps + 1)
    for k, value in enumerate(curve):
        found[k] = value
        if progress is not None and k:
            progress(k, steps)
    return found


def _told(progress: exact.Progress | None, before: int, total: int) -> exact.Progress | None:
    """Progress of one run as that of all."""
    return None if progress is None else lambda done, _: progress(before + done, total)


def _check(gpt: GPT, task: Task, steps: int, rate: float, optimiser: str) -> None:
    if steps < 1 or not 0 < rate < math.inf:
        raise TpgError(f"steps={steps}, rate={rate} given: needed 1 update or more and a finite rate above 0")
    if optimiser not in OPTIMISERS:
        raise TpgError(f"optimiser {optimiser!r} given, needed {' or '.join(OPTIMISERS)}")
    exact.ready(gpt, task, None)
    task.check(gpt.device)
