"""What is drawn from a transformer held against what is exact, with declared error rates: means and variances of ĝ."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tpg.errors import TpgError
from tpg.estimators.estimator import Estimator
from tpg.moments import moments
from tpg.moments.batch import batch_bound
from tpg.moments.bound import credit_bound
from tpg.montecarlo import eprocess
from tpg.montecarlo.eprocess import EProcess
from tpg.montecarlo.streams import chunks, stream
from tpg.neural import exact
from tpg.neural.exact import Progress
from tpg.neural.gpt import GPT
from tpg.neural.montecarlo import shadows
from tpg.neural.problem import project
from tpg.neural.sample import credits, draw
from tpg.neural.task import Task
from tpg.numbers import FLOAT64, Array
from tpg.problem.problem import Problem

CHUNK = {"cpu": 1 << 20, "cuda": 1 << 22}  # drawn tokens at once: every distinct response among them is run once


@dataclass(frozen=True, eq=False)
class Held:
    """What was drawn against what is exact, along m directions: an e-process and its power.

    ``exact``, ``found`` [m]; ``standard_error`` [m] of ``found``; ``minimum_discrepancy`` [m]: a deviation of ``exact``
    from the truth of this size in one direction would have been rejected with probability ≥ power.
    """

    exact: Array
    found: Array
    standard_error: Array
    minimum_discrepancy: Array
    log_evalue: float
    rejected: bool

    @property
    def band(self) -> tuple[Array, Array]:
        """[m], [m] exact ± 3 standard errors, for drawing."""
        return self.exact - 3 * self.standard_error, self.exact + 3 * self.standard_error


@dataclass(frozen=True, eq=False)
class Check:
    """``mean``: ⟨ĝ, v⟩ against the declared E ĝ; ``variance``: (⟨ĝ, v⟩ − mean)² against the exact variance.

    ``alpha`` bounds the chance that either is rejected though both are right.  ``declared``: E ĝ comes from the row's
    own formula and the streamed g (False: from the moments of the Problem).
    """

    estimator: str
    group_size: int
    batches: int
    seed: int
    alpha: float
    power: float
    declared: bool
    mean: Held
    variance: Held

    @property
    def rejected(self) -> bool:
        """Something drawn contradicts something exact."""
        return self.mean.rejected or self.variance.rejected


def check(
    gpt: GPT,
    task: Task,
    problem: Problem,
    estimator: Estimator,
    group_size: int,
    batches: int,
    along: Tensor,
    seed: int = 0,
    *,
    alpha: float = 1e-9,
    power: float = 0.99,
    g: Array | None = None,
    progress: Progress | None = None,
) -> Check:
    """Draw ``batches`` from the network and hold ⟨ĝ_b, v_i⟩ against the ``problem`` along the same directions [m, D].

    ``g`` [m]: ⟨g, v_i⟩ of the streamed exact gradient, worked out here if not given.  EstimatorError where the range of
    the credits is not known; TpgError when Problem and directions differ.
    """
    problem = problem.to(FLOAT64)
    if problem.tabular or problem.parameters != len(along):
        raise TpgError(f"{len(along)} directions given, the Problem has {problem.parameters}: build it along the same")
    g = project(exact.gradient(gpt, task).gradient, along) if g is None else g
    mean, variance, declared = _exact(problem, estimator, group_size, g)
    reach = _reach(gpt, problem, estimator, group_size, mean)
    means = eprocess.begin(mean, mean - reach, mean + reach, alpha / 2)
    squares = eprocess.begin(variance, 0, reach**2, alpha / 2)
    sums = np.zeros((3, len(mean)))  # of x, (x − mean)² and ((x − mean)² − variance)²
    fresh = 1 + task.horizon * (estimator.continuations or 0)
    each = task.prompts * group_size * task.horizon * fresh
    for index, count in chunks(batches, max(1, CHUNK[gpt.device.type] // each)):
        number = int(stream(seed, "neural check", estimator.name, group_size, index).integers(2**62))
        drawn = draw(gpt, task, group_size, count, number, keep=estimator)
        x = shadows(gpt, drawn, credits(drawn, estimator, problem), along).double().cpu().numpy()
        square = (x - mean) ** 2
        means, squares = eprocess.update(means, x), eprocess.update(squares, square)
        sums += [x.sum(0), square.sum(0), ((square - variance) ** 2).sum(0)]
        if progress is not None:
            progress(means.count, batches)
    found, spread, fourth = sums / batches
    held = (
        _held(means, found, np.sqrt(variance / batches), spread, power),
        _held(squares, spread, np.sqrt(fourth / batches), fourth, power),
    )
    return Check(estimator.name, group_size, batches, seed, alpha, power, declared, *held)


def _exact(problem: Problem, estimator: Estimator, group_size: int, g: Array) -> tuple[Array, Array, bool]:
    """Declared E ĝ [m] and exact variance [m]; whether the former is declared, or counted as the variance is."""
    counted = moments(problem, estimator, group_size, covariance=True)
    assert counted.covariance is not None
    variance = np.maximum(np.diag(counted.covariance), 0)
    said = estimator.declares(problem)
    if said is None or not said.known:
        return problem.combine(counted.mean), variance, False
    alike = np.tile(g, (problem.prompts, 1))  # factor · g + extra is affine in g, and the weights add up to 1
    return problem.combine(said(problem, group_size, alike)), variance, True


def _reach(gpt: GPT, problem: Problem, estimator: Estimator, group_size: int, mean: Array) -> Array:
    """[m] what |⟨ĝ, v⟩ − mean| can never exceed."""
    bound = batch_bound if estimator.batch else credit_bound
    sides = [bound(problem, estimator, group_size, problem.scores[:, :, i]) for i in range(len(mean))]
    rounding = 1 + 1e3 * torch.finfo(gpt.dtype).eps  # of the network's own numbers
    return np.asarray(np.array(sides) * rounding + np.abs(mean))


def _held(process: EProcess, found: Array, error: Array, spread: Array, power: float) -> Held:
    """``spread`` [m]: the variance of what was observed, a plug-in estimate as in :mod:`tpg.montecarlo.sample`."""
    sides = np.maximum(process.hi - process.mean, process.mean - process.lo)
    least = [
        eprocess.minimum_discrepancy(process.count, v, b, process.alpha, power, len(found))
        for v, b in zip(spread.tolist(), sides.tolist(), strict=True)
    ]
    verdict = eprocess.log_evalue(process), eprocess.rejected(process)
    return Held(process.mean, found, error, np.array(least), *verdict)
