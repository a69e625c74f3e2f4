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
FEW = 4  # reward values up to which groups are counted by class
ROUNDINGS = 2.0**12  # that may add up: 9·10⁻¹³ in float64, 5·10⁻⁴ in float32
Check = Callable[[Case], Sequence[Finding]]


def near(case: Case, what: str, value: Any, size: float) -> Finding:
    """``value`` vanishes but for rounding in the network's number type, its terms being of that ``size``."""
    array, bound = np.asarray(value, dtype=np.float64), ROUNDINGS * case.eps * size
    worst = float(np.abs(array).max())
    return Finding(what, worst <= bound, f"at most {worst:.1e}, rounding explains {bound:.1e}", array.size, exact=False)


def off(case: Case, what: str, value: Any, size: float) -> Finding:
    """``value`` is too large for rounding: over ten times what that explains; between one and ten, nothing is said."""
    array, bound = np.asarray(value, dtype=np.float64), ROUNDINGS * case.eps * size
    worst = float(np.abs(array).max())
    numbers = 0 if bound < worst <= 10 * bound else array.size
    return Finding(what, worst > bound, f"{worst:.3g}, rounding explains {bound:.1e}", numbers, exact=False)


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
        across, size = _across(case, estimator, group_size)
        return [off(case, f"E ĝ is not along g for {estimator.name}, G = {group_size}", across, size)]

    return check


def _across(case: Case, estimator: Estimator, group_size: int) -> tuple[Array, float]:
    """The part of E ĝ across g, and the size of what was averaged."""
    mean, size = expectation(case, estimator, group_size)
    return mean - (mean @ case.g) / (case.g @ case.g) * case.g, size


def few_rewards(case: Case) -> bool:
    """Whether groups can be counted by their rewards."""
    return case.rewards <= FEW


def declared(estimator: Estimator, group_size: int = GROUP) -> Check:
    """E ĝ is the closed form that the row declares, evaluated with the streamed g."""

    def check(case: Case) -> Sequence[Finding]:
        mean, size = expectation(case, estimator, group_size)
        alike = case.g[None].repeat(case.task.prompts, 0)  # weights add up to 1
        said = case.problem.combine(estimator.expectation(case.problem, group_size, alike))
        what = f"E ĝ of {estimator.name} = what its row declares ({estimator.expectation.text})"
        return [near(case, what, mean - said, size)]

    return check


def along(estimator: Estimator, group_size: int = GROUP) -> Check:
    """E ĝ is a multiple of g."""

    def check(case: Case) -> Sequence[Finding]:
        across, size = _across(case, estimator, group_size)
        return [near(case, f"E ĝ is along g for {estimator.name}, G = {group_size}", across, size)]

    return check


def where(holds: Callable[[Case], bool], check: Check) -> Check:
    """``check`` on the cases that it speaks of."""
    return lambda case: check(case) if holds(case) else []


def all_of(*checks: Check) -> Check:
    """All findings of several checks."""

    def check(case: Case) -> Sequence[Finding]:
        return [found for each in checks for found in each(case)]

    return check
