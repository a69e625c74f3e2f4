"""Dense rewards made from a response reward or a process reward model."""

from __future__ import annotations

from tpg.estimators.estimator import Estimator

ROWS: list[Estimator] = []
