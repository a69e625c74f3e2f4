"""Literal references of the families of rows: importing this fills ``references.CREDITS`` and its siblings."""

from __future__ import annotations

from importlib import import_module

from tests import references

FAMILIES = ("counts", "baselines", "batch", "offpolicy", "kl", "continuations", "redistribution", "pairs", "ranks")

for _family in FAMILIES:
    references.CREDITS.update(import_module(f"tests.literal.{_family}").CREDITS)
