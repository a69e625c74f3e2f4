"""Credit from fresh continuations: VinePPO, the four readings of TRePO, tree estimates."""

from __future__ import annotations

from tpg.estimators.estimator import Estimator

ROWS: list[Estimator] = []
