"""Exact mean and variance of ĝ: brute force as the reference, class collapse as the engine."""

from tpg.errors import EstimatorError
from tpg.estimators.estimator import Estimator
from tpg.moments.batch import brute_force_batch, by_class, collapse_batch
from tpg.moments.brute import brute_force
from tpg.moments.collapse import collapse
from tpg.moments.result import Moments, Report, report, report_by_prompt, report_of
from tpg.problem.problem import Problem, Progress

MAX_GROUP = 10**6
__all__ = [
    "Moments",
    "Report",
    "brute_force",
    "brute_force_batch",
    "collapse",
    "collapse_batch",
    "moments",
    "report",
    "report_by_prompt",
    "report_of",
]


def moments(
    problem: Problem,
    estimator: Estimator,
    group_size: int,
    covariance: bool = False,
    progress: Progress | None = None,
) -> Moments:
    """Exact moments by the fastest engine that applies: class collapse, else brute force."""
    if not 1 <= group_size <= MAX_GROUP:
        raise EstimatorError(f"group_size={group_size} given, needed 1 … {MAX_GROUP} responses per prompt")
    engine = collapse if estimator.collapsible else brute_force
    if estimator.batch:
        engine = collapse_batch if by_class(estimator) else brute_force_batch
    return engine(problem, estimator, group_size, covariance, progress)
