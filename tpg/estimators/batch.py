"""Advantages normalised over the batch: REINFORCE++, Lite PPO, GPG and relatives."""

from __future__ import annotations

from tpg.estimators.estimator import Estimator

ROWS: list[Estimator] = []
