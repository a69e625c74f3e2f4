"""Is the expected gradient of an estimator a gradient at all?  Its Jacobian says: symmetric, or it has curl."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from tpg import truth
from tpg.errors import EstimatorError, TooLarge
from tpg.estimators.estimator import Estimator
from tpg.moments.brute import brute_force
from tpg.moments.collapse import collapse
from tpg.numbers import FLOAT64, Array, to_float
from tpg.problem.problem import Problem, Progress

MAX_PARAMETERS = 400
STEP = 1e-3  # in logits; the error of the extrapolated difference is of order STEP⁴
EXACT_WORK = 2 * 10**5  # responses^G · parameters that dual numbers take in seconds


@dataclass(frozen=True)
class Curl:
    """‖J − Jᵀ‖ / ‖J‖ of the field θ ↦ E ĝ(θ): 0 where it is the gradient of some objective, at most 2.

    ``error``: of the ratio, 0 where dual numbers over the rationals gave it.  None: the field does not move (J = 0).
    """

    relative: float | None
    error: float

    @property
    def conservative(self) -> bool:
        """No curl was seen, within the error."""
        return self.relative is None or self.relative <= self.error


def curl(problem: Problem, estimator: Estimator, group_size: int, progress: Progress | None = None) -> Curl:
    """The relative curl at this policy: exactly where all is rational and small, else by extrapolated differences.

    Everything that belongs to the estimator (critics, constants) moves with θ; a behaviour or reference policy stays.
    """
    TooLarge.check("the Jacobian of E ĝ", problem.parameters, MAX_PARAMETERS, "choose a smaller problem")
    if estimator.batch:
        raise EstimatorError(f"{estimator.name} reads the whole batch: the curl of such rows is not computed")
    responses = float(np.count_nonzero(problem.ends))
    small = responses**group_size * problem.parameters**2 <= EXACT_WORK
    if problem.field.exact and problem.on_policy and estimator.algebraic and small:
        slope = truth.jacobian(problem, lambda moved: brute_force(moved, estimator, group_size).mean)
        return Curl(_relative(to_float(slope)), 0.0)
    chosen = problem.to(FLOAT64)
    wide, narrow = (_jacobian(chosen, estimator, group_size, step, progress) for step in (2 * STEP, STEP))
    best = (4 * narrow - wide) / 3
    found, rough = _relative(best), _relative(narrow)
    if found is None or rough is None:
        return Curl(found, 0.0)
    return Curl(found, abs(found - rough) + 1e-8)


def _relative(slope: Array) -> float | None:
    size = float(np.linalg.norm(slope))
    return None if size < 1e-12 else float(np.linalg.norm(slope - slope.T)) / size


def _jacobian(problem: Problem, estimator: Estimator, group_size: int, step: float, progress: Progress | None) -> Array:
    """[D, D] central differences of E ĝ in every parameter."""
    engine = collapse if estimator.collapsible else brute_force
    columns = []
    for j in range(problem.parameters):
        if progress is not None:
            progress(j, problem.parameters)
        ends = [engine(_moved(problem, j, by), estimator, group_size) for by in (step, -step)]
        up, down = (problem.combine(each.mean) for each in ends)
        columns.append((up - down) / (2 * step))
    return np.stack(columns, axis=1)


def _moved(problem: Problem, parameter: int, by: float) -> Problem:
    """The same problem with one parameter changed: logits move, probabilities are normalised again."""
    if problem.features is None:
        logits = np.zeros(problem.probs.shape)
        logits[np.unravel_index(parameter, logits.shape)] = by
    else:
        logits = by * problem.features[:, :, parameter]
    probs = problem.probs * np.exp(logits)
    return replace(problem, probs=probs / probs.sum(-1, keepdims=True))
