"""Pairs and targets: the DPO family, REBEL, CoPG, TPO, SFT."""

from __future__ import annotations

from tpg.estimators.estimator import Estimator

ROWS: list[Estimator] = []
