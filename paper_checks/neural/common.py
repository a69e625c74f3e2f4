"""What the checks on networks share: E ĝ of a row against the streamed gradient, and how much rounding may do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tpg.claims import Finding
from tpg.estimators.estimator import Estimator
from tpg.moments import moments
from tpg.neural.case import Case
from tpg.numbers import Array

GROUP = 4  # responses per prompt
ROUNDINGS = 2.0**12  # that may add up: 9·10⁻¹³ in float64, 5·10⁻⁴ in float32
Check = Callable[[Case], Sequence[Finding]]


def near(case: Case, what: str, value: Any, size: float) -> Finding:
    """``value`` vanishes but for rounding in the network's number type, its terms being of that ``size``."""
    array, bound = np.asarray(value, dtype=np.float64), ROUNDINGS * case.eps * size
    worst = float(np.abs(array).max())
    return Finding(what, worst <= bound, f"at most {worst:.1e}, rounding explains {bound:.1e}", array.size)


def off(case: Case, what: str, value: Any, size: float) -> Finding:
    """``value`` is too large for rounding: over ten times what that explains; between one and ten, nothing is said."""
    array, bound = np.asarray(value, dtype=np.float64), ROUNDINGS * case.eps * size
    worst = float(np.abs(array).max())
    decided = not bound < worst <= 10 * bound
    return Finding(what, worst > bound, f"{worst:.3g}, rounding explains {bound:.1e}", array.size if decided else 0)


def expectation(case: Case, estimator: Estimator, group_size: int = GROUP) -> tuple[Array, float]:
    """⟨E ĝ, v_i⟩ [m] on the network as a Problem, and the root mean square of ĝ: the size of what was averaged."""
    found = moments(case.problem, estimator, group_size)
    mean = case.problem.combine(found.mean)
    return mean, float(np.sqrt(mean @ mean + float(found.total_variance)))


def unbiased(estimator: Estimator, group_size: int = GROUP, factor: float = 1.0) -> Check:
    """E ĝ = factor · g, g from the streamed backward pass."""

    def check(case: Case) -> Sequence[Finding]:
        mean, size = expectation(case, estimator, group_size)
        times = "" if factor == 1 else f"{factor:g}·"
        return [near(case, f"E ĝ = {times}g for {estimator.name}, G = {group_size}", mean - factor * case.g, size)]

    return check


def biased(estimator: Estimator, group_size: int = GROUP) -> Check:
    """E ĝ is not g, nor any multiple of it: the part across g is no rounding."""

    def check(case: Case) -> Sequence[Finding]:
        mean, size = expectation(case, estimator, group_size)
        across = mean - (mean @ case.g) / (case.g @ case.g) * case.g
        return [off(case, f"E ĝ is not along g for {estimator.name}, G = {group_size}", across, size)]

    return check


def all_of(*checks: Check) -> Check:
    """All findings of several checks."""

    def check(case: Case) -> Sequence[Finding]:
        return [found for each in checks for found in each(case)]

    return check
