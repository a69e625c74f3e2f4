"""The engine: exact moments at any group size by class collapse (theory.md §4).

With U(W) = Σ_t w_t(W) S_t the part of ĝ that response W owns, m_k = E[U; class k], n_k = E[‖U‖²; class k]:
    E ĝ = Σ_k α_k m_k,     tr Cov ĝ = Σ_k β_k n_k + Σ_{k,l} (γ_kl − α_k α_l) ⟨m_k, m_l⟩,
α, β, γ from one representative group per composition of classes.  Cost: O(responses) + compositions, not responses^G.
Credits that are a sum of products (clips, penalties) repeat every index by term: k stands for (term, class).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tpg.errors import EstimatorError
from tpg.estimators.estimator import Estimator
from tpg.estimators.parts import peers_of, scale_of, too_small, worth_of
from tpg.moments.anchored import paths_of
from tpg.moments.coupling import Coupling, check_size, couple, couple_leave_one_out
from tpg.moments.paths import Paths, Powers, settings_of
from tpg.moments.result import Moments
from tpg.moments.sweep import Sweep
from tpg.problem.problem import Problem, Progress


def collapse(
    problem: Problem,
    estimator: Estimator,
    group_size: int,
    covariance: bool = False,
    progress: Progress | None = None,
) -> Moments:
    """Mean and total variance of ĝ, equal to :func:`tpg.moments.brute.brute_force`."""
    if not estimator.collapsible:
        raise EstimatorError(f"{estimator.name}: peers act on single tokens, classes cannot tell: use brute force")
    sweep = estimator.sweepable and len(estimator.terms) == 1 and not covariance
    scale, worth = scale_of(estimator.advantage), worth_of(estimator.advantage)
    if scale is not None and not covariance and (sweep or worth is not None) and _closed(estimator):
        if group_size < 2:
            raise too_small(estimator.name, group_size, 2)
        by_power = Powers(problem, estimator, group_size) if worth is not None else None
        classes: Sweep | Paths = by_power or Sweep(problem, estimator, group_size, by_power=True)
        factor = problem.field.scalar(scale(group_size))
        couplings = [couple_leave_one_out(factor, group_size, mass[2], problem.field) for mass in classes.mass]
    else:
        classes = (
            Sweep(problem, estimator, group_size) if sweep else paths_of(problem, estimator, group_size, covariance)
        )
        for mass in classes.mass:  # refuse before the work, not after it
            check_size(int(np.count_nonzero(mass)), group_size)
        couplings = [
            _couple(classes, problem, estimator, group_size, prompt, progress) for prompt in range(problem.prompts)
        ]
    alpha = np.stack([c.first for c in couplings])
    mean = classes.mean(alpha)
    full = classes.covariance(couplings) if covariance and isinstance(classes, Paths) else None
    variance = np.stack([_variance(c, classes, prompt) for prompt, c in enumerate(couplings)])
    return Moments(problem, group_size, mean, variance, full)


def _closed(estimator: Estimator) -> bool:
    """Peers meet in the advantage alone, and in one product."""
    return estimator.keep is None and len(estimator.terms) == 1 and not peers_of(estimator.aggregation)


def _variance(c: Coupling, classes: Sweep | Paths, prompt: int) -> Any:
    square = classes.square[prompt].reshape(c.square.shape)
    return (c.square * square).sum() + (c.spread * classes.gram[prompt]).sum()


def _couple(
    classes: Sweep | Paths,
    problem: Problem,
    estimator: Estimator,
    group_size: int,
    prompt: int,
    progress: Progress | None,
) -> Coupling:
    """α, β, γ over the classes that this prompt can produce, 0 for the others."""
    mass = classes.mass[prompt]
    here = np.flatnonzero(mass != 0)
    settings = settings_of(problem, estimator, group_size, prompt)
    fields = {name: values[prompt, here] for name, values in classes.fields.items()}
    small = couple(estimator, fields, mass[here], settings, problem.field, progress)
    terms, size = len(estimator.terms), len(mass)
    first, square = problem.field.zeros((terms, size)), problem.field.zeros((terms, terms, size))
    spread = problem.field.zeros((terms * size, terms * size))
    first[:, here], square[:, :, here] = small.first, small.square
    places = (np.arange(terms)[:, None] * size + here).ravel()
    spread[np.ix_(places, places)] = small.spread
    return Coupling(first, square, spread)
