"""Literal credits of tpg.estimators.counts, by row name."""

from __future__ import annotations

from tests.references import Credit

CREDITS: dict[str, Credit] = {}
