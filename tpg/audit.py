"""An audit: exact moments of an estimator against its declared expectation and against g."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from tpg import truth
from tpg.errors import EstimatorError, TooLarge
from tpg.estimators.estimator import Estimator
from tpg.estimators.parts import peers_of, scale_of
from tpg.moments import Moments, Report, moments, report, report_by_prompt, report_of
from tpg.moments.paths import class_fields
from tpg.montecarlo.sample import Sampled, sample
from tpg.numbers import FLOAT64
from tpg.problem.problem import Problem, Progress

HOLDS, REFUTED, UNDECIDED = "holds", "refuted", "undecided"
EXACT_BUDGET = 300_000  # rational operations that stay a matter of seconds


@dataclass(frozen=True)
class Audit:
    """What was measured, and whether the row's declared expectation holds on this problem.

    ``discrepancy`` = |E ĝ − declared| (None: not evaluated); ``error_bound``: its rounding error (0 in rationals),
    or the standard error of a sampled E ĝ.
    """

    estimator: str
    problem: str
    group_size: int
    declared: str
    evidence: str  # MEASURED, or TESTED by sampling
    arithmetic: str  # rational or float64
    verdict: str
    why: str
    discrepancy: float | None
    error_bound: float
    overall: Report
    prompts: tuple[Report, ...]
    sampled: Sampled | None = None

    def to_json(self) -> dict[str, Any]:
        """Flat: the overall report beside the verdict, one object per prompt below."""
        out = dataclasses.asdict(self)
        overall, sampled = out.pop("overall"), out.pop("sampled") or {}
        if sampled:
            least = sampled.pop("discrepancy")
            sampled |= {"minimum_discrepancy": least if math.isfinite(least) else None, "overall": None}
        return {**out, **{k: v for k, v in sampled.items() if k != "overall"}, **overall}


def audit(problem: Problem, estimator: Estimator, group_size: int, progress: Progress | None = None) -> Audit:
    """Measure E ĝ and Cov ĝ exactly and test the declared expectation; rationals where they are affordable."""
    if not problem.field.ordered:
        raise EstimatorError(
            f"{problem.name} is in {problem.field.name}: an audit reports sizes, give rationals or float64"
        )
    chosen = arithmetic(problem, estimator, group_size)
    result, g = moments(chosen, estimator, group_size, progress=progress), truth.gradient(chosen)
    bound = 0.0 if chosen.field.exact else error_bound(result, estimator)
    said = estimator.declares(chosen) or estimator.expectation
    try:
        declared = said(chosen, group_size, g)
        off = chosen.combine(result.mean - declared)
        gap = report(off, 0, 0 * off).bias_norm
        verdict, why = _verdict(chosen, estimator, bool((off == 0).all()) if chosen.field.exact else gap <= bound, gap)
    except (TooLarge, EstimatorError) as refusal:  # the moments stand without it
        gap, verdict, why = math.nan, UNDECIDED, f"the declared expectation cannot be evaluated: {refusal}"
    return Audit(
        estimator=estimator.name,
        problem=problem.name,
        group_size=group_size,
        declared=said.text,
        evidence="MEASURED",
        arithmetic=chosen.field.name,
        verdict=verdict,
        why=why,
        discrepancy=None if math.isnan(gap) else gap,
        error_bound=bound,
        overall=report_of(result, g, bound),
        prompts=tuple(report_by_prompt(result, g, bound)),
    )


def audit_by_sampling(
    problem: Problem,
    estimator: Estimator,
    group_size: int,
    samples: int,
    seed: int = 0,
    progress: Progress | None = None,
) -> Audit:
    """The same by Monte Carlo, for groups that cannot be counted: evidence TESTED, with its error rates."""
    chosen = problem.to(FLOAT64)
    g = truth.gradient(chosen)
    said = estimator.declares(chosen) or estimator.expectation
    declared = said(chosen, group_size, g)
    found = sample(chosen, estimator, group_size, samples, declared, g, seed=seed, progress=progress)
    verdict, why = _verdict(chosen, estimator, not found.rejected, found.off_declared)
    if verdict == REFUTED:
        why = f"e-value e^{found.log_evalue:.3g}, a false alarm at most once in {1 / found.alpha:.0e} audits"
    elif verdict == HOLDS and math.isfinite(found.discrepancy):
        why = f"no deviation above {found.discrepancy:.3g} along {found.directions} directions (power {found.power})"
    elif verdict == HOLDS:  # silence says nothing where nothing could have been heard
        verdict, why = UNDECIDED, f"{samples} samples would not have shown a deviation of any size: give more"
    return Audit(
        estimator=estimator.name,
        problem=problem.name,
        group_size=group_size,
        declared=said.text,
        evidence="TESTED",
        arithmetic=chosen.field.name,
        verdict=verdict,
        why=why,
        discrepancy=found.off_declared,
        error_bound=found.standard_error,
        overall=found.overall,
        prompts=(),
        sampled=found,
    )


def _verdict(problem: Problem, estimator: Estimator, equal: bool, gap: float) -> tuple[str, str]:
    if estimator.declares(problem) is None:
        return UNDECIDED, "the declared expectation is on-policy, this problem's behaviour policy is another"
    if equal:
        return HOLDS, "measured expectation equals the declared one"
    return REFUTED, f"measured expectation is {gap:.3g} away from the declared one"


def arithmetic(problem: Problem, estimator: Estimator, group_size: int) -> Problem:
    """The problem in rationals if it came so and the audit stays cheap, else in float64."""
    if not problem.field.exact or estimator.numbers == "float64":
        return problem.to(FLOAT64)
    ends = int(problem.ends.sum())
    closed = scale_of(estimator.advantage) is not None and not peers_of(estimator.aggregation)
    coupled = not closed and any(peers_of(part) for part in estimator.parts)
    kinds = _kinds(problem, estimator, ends) if coupled else 1
    cost = 1.0 * math.comb(kinds + group_size - 1, group_size) * kinds**2 + ends * problem.horizon * problem.parameters
    if not estimator.collapsible:  # every group, one by one
        cost = float(ends) ** group_size * problem.horizon * problem.parameters
    return problem if cost <= EXACT_BUDGET else problem.to(FLOAT64)


def _kinds(problem: Problem, estimator: Estimator, ends: int) -> int:
    """An upper bound of the classes of one prompt."""
    names = set(class_fields(estimator))
    if not names <= {"reward", "length"}:
        return ends
    lengths = problem.horizon if "length" in names else 1
    return min(ends, lengths * _rewards(problem))


def _rewards(problem: Problem) -> int:
    """The distinct rewards of one prompt, at most."""
    return max(
        len({str(v) for v in problem.totals[(problem.tree.prompt == p)[:, None] & problem.ends]})
        for p in range(problem.prompts)
    )


def error_bound(result: Moments, estimator: Estimator) -> float:
    """A bound of the float64 rounding error of |E ĝ|.

    Each term of E ĝ passes through T nested sums of V products and a multinomial probability; the terms add up to at
    most √(G·T) times the root mean square of ĝ (Cauchy–Schwarz).  Rewards are rounded before a baseline cancels them,
    so their size counts too, and a standard deviation magnifies it by 1 over the smallest difference of two rewards.
    """
    problem, size = result.problem, result.group_size
    steps = problem.horizon * (problem.vocab + 4) + 4 * math.log(size + 1) + 16
    if estimator.numbers == "float64":
        steps += 4 * size * math.log(size + 1)  # log-gammas of the declared closed form
    mean = problem.combine(result.mean)
    rms = math.sqrt(float(mean @ mean) + float(result.total_variance))
    rewards = np.unique(problem.totals[problem.ends])
    largest = float(np.abs(rewards).max())
    if estimator.numbers == "float64" and len(rewards) > 1:
        largest /= float(np.diff(rewards).min())
    return float(np.finfo(np.float64).eps) * steps * math.sqrt(size * problem.horizon) * (rms + largest)
