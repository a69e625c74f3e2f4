"""Literal credits of tpg.estimators.batch, by row name."""

from __future__ import annotations

from tests.references import Credit

CREDITS: dict[str, Credit] = {}
