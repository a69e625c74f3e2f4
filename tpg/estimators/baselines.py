"""Baselines: OPO, the optimal ones (global, per token, joint), and those that verl estimates."""

from __future__ import annotations

from tpg.estimators.estimator import Estimator

ROWS: list[Estimator] = []
