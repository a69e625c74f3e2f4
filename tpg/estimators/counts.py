"""Group advantages that count or rank rewards: pass@k, RAFT, Reinforce-Rej, best-of-N, MaxRL, CoRPO, DAPO's filter."""

from __future__ import annotations

from tpg.estimators.estimator import Estimator

ROWS: list[Estimator] = []
