"""ESTIMATORS: one row per published algorithm = advantage × ratio / divisor, with its source and exact expectation."""

from __future__ import annotations

import difflib

from tpg.errors import EstimatorError
from tpg.estimators import (
    baselines,
    batch,
    continuations,
    core,
    counts,
    kl,
    offpolicy,
    pairs,
    ranks,
    redistribution,
)
from tpg.estimators.estimator import Estimator

FAMILIES = (core, counts, baselines, batch, offpolicy, kl, continuations, redistribution, pairs, ranks)
ESTIMATORS: dict[str, Estimator] = {row.name: row for family in FAMILIES for row in family.ROWS}
ALIASES: dict[str, str] = {alias: row.name for row in ESTIMATORS.values() for alias in row.aliases}


def get(name: str) -> Estimator:
    """A row by its name or alias; an unknown name lists near matches."""
    row = ESTIMATORS.get(ALIASES.get(name, name))
    if row is None:
        near = difflib.get_close_matches(name, [*ESTIMATORS, *ALIASES], n=3) or sorted(ESTIMATORS)
        raise EstimatorError(f"unknown estimator {name!r}: did you mean {', '.join(near)}? (`tpg list` shows all)")
    return row
