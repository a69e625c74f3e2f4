"""KL terms in the loss and in the reward, and on-policy distillation."""

from __future__ import annotations

from tpg.estimators.estimator import Estimator

ROWS: list[Estimator] = []
