"""Several estimators on one problem, side by side: exact bias, variance, error and cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from tpg import truth
from tpg.audit import arithmetic, error_bound
from tpg.errors import TpgError
from tpg.estimators import table
from tpg.estimators.estimator import Estimator
from tpg.moments import Report, moments, report_of
from tpg.moments.cost import generated_tokens
from tpg.moments.split import Split, split
from tpg.numbers import FLOAT64
from tpg.problem.problem import Problem, Progress


@dataclass(frozen=True)
class Compared:
    """One estimator against g, per update of one group of ``group_size`` responses per prompt.

    - ``noise`` = total_variance / |scale·g|²: what one update must be averaged over, whatever the learning rate.
    - ``best_mse`` = min over step sizes λ of E|λĝ − g|² / |g|² = 1 − ⟨E ĝ, g⟩² / (|g|² E|ĝ|²): 0 perfect, 1 useless.
    - ``tokens``: expected number of generated tokens per update, continuations and greedy responses included.
    - ``split``: parts of the total variance (None where they cannot be told apart).
    """

    estimator: str
    group_size: int
    report: Report | None
    noise: float | None = None
    best_mse: float | None = None
    tokens: float | None = None
    split: Split | None = None
    error: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Flat, the report beside the rest."""
        own = asdict(self)
        report, parts = own.pop("report") or {}, own.pop("split")
        return own | report | {"split": parts and {name: float(value) for name, value in parts.items()}}


def rows(names: str) -> list[Estimator]:
    """The rows of a list of names with commas between, in its order, none twice; ``all``: the whole table."""
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    found = table.ESTIMATORS.values() if wanted == ["all"] else map(table.get, wanted)
    return list(dict.fromkeys(found))


def compare(
    problem: Problem, estimators: Sequence[Estimator], group_size: int, progress: Progress | None = None
) -> list[Compared]:
    """Exact comparison; an estimator that cannot run here says why instead of stopping the others."""
    out = []
    for done, estimator in enumerate(estimators):
        if progress is not None:
            progress(done, len(estimators))
        try:
            out.append(_one(problem, estimator, group_size))
        except TpgError as error:
            out.append(Compared(estimator.name, group_size, None, error=str(error)))
    return out


def _one(problem: Problem, estimator: Estimator, group_size: int) -> Compared:
    chosen = arithmetic(problem, estimator, group_size)
    result, g = moments(chosen, estimator, group_size), truth.gradient(chosen)
    found = report_of(result, g, 0.0 if chosen.field.exact else error_bound(result, estimator))
    noise, best = _steps(found)
    tokens = float(generated_tokens(chosen, estimator, group_size))
    return Compared(estimator.name, group_size, found, noise, best, tokens, _split(chosen, estimator, group_size))


def _split(problem: Problem, estimator: Estimator, group_size: int) -> Split | None:
    try:
        return split(problem.to(FLOAT64), estimator, group_size)  # shares are read, not proved
    except TpgError:
        return None


def _steps(found: Report) -> tuple[float | None, float | None]:
    """Noise to signal, and the error at the best learning rate."""
    if found.scale is None or found.cosine is None:
        return None, None
    mean2 = (found.scale * found.gradient_norm / found.cosine) ** 2 if found.cosine else 0.0  # |E ĝ|²
    signal = (found.scale * found.gradient_norm) ** 2
    if signal == 0:
        return None, 1.0
    return found.total_variance / signal, max(0.0, 1 - signal / (mean2 + found.total_variance))


def efficiency(found: Compared) -> float | None:
    """Tokens to generate per unit of noise to signal: noise × tokens, the smaller the better; None where undefined."""
    if found.noise is None or found.tokens is None or not math.isfinite(found.noise):
        return None
    return float(np.multiply(found.noise, found.tokens))
