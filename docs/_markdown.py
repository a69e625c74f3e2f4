"""Markdown made from plain text."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tpg.figures.shown import LABEL


def prose(text: str) -> str:
    """Plain text as Markdown: nothing in it is markup but ``code`` and the labels of claims, which become links."""
    pieces = re.split(r"(`+[^`]+`+)", " ".join(text.split()))
    return "".join(piece.replace("|", r"\|") if piece.startswith("`") else _linked(piece) for piece in pieces)


def _linked(text: str) -> str:
    ends, out = 0, ""
    for found in LABEL.finditer(text):
        out += _escaped(text[ends : found.start()]) + link(found[0])
        ends = found.end()
    return out + _escaped(text[ends:])


def _escaped(text: str) -> str:
    return re.sub(r"([][\\`*_{}<>()#+%$|~&^@-])", r"\\\1", text)


def link(label: str) -> str:
    """A claim's entry in the paper map."""
    return f"[{label}](#{anchor(label)})"


def anchor(label: str) -> str:
    """The label as the target of links."""
    return label.replace(":", "-")


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table of cells that are Markdown already."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def page(*blocks: str, orphan: bool = False) -> str:
    """Blocks with empty lines between; an orphan is reached by links alone."""
    return "\n\n".join(["---\norphan: true\n---"] * orphan + list(blocks)) + "\n"
