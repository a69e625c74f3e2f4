"""Responses of another policy: token, prefix, geometric and sequence ratios, truncated, masked and clipped."""

from __future__ import annotations

from tpg.estimators.estimator import Estimator

ROWS: list[Estimator] = []
