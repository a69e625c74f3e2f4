"""Exact mean and variance of ĝ: brute force as the reference, class collapse as the engine."""

from tpg.estimators.table import Estimator
from tpg.moments.brute import brute_force
from tpg.moments.collapse import collapse
from tpg.moments.result import Moments, Report, report, report_by_prompt, report_of
from tpg.problem.problem import Problem, Progress

__all__ = ["Moments", "Report", "brute_force", "collapse", "moments", "report", "report_by_prompt", "report_of"]


def moments(
    problem: Problem,
    estimator: Estimator,
    group_size: int,
    covariance: bool = False,
    progress: Progress | None = None,
) -> Moments:
    """Exact moments by the fastest engine that applies: class collapse, else brute force."""
    engine = collapse if estimator.collapsible else brute_force
    return engine(problem, estimator, group_size, covariance, progress)
