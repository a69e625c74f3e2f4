"""What shows a claim: the figures and the notebooks that name its label.  Files are read and not run."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tpg.figures import run

LABEL = re.compile(r"(?<![\w:-])(?:lem|thm|prop|alg|claim|neural):[a-z0-9]+(?:-[a-z0-9]+)*")
TOLD = re.compile(r"^Claims: (.*?)(?:\n\n|\Z)", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Shown:
    """Names of figures, those chiefly about the claim first, and of notebooks."""

    figures: tuple[str, ...] = ()
    notebooks: tuple[str, ...] = ()


def shown(root: Path) -> dict[str, Shown]:
    """Label → what shows it, from ``root``/figures, where there is a picture, and ``root``/notebooks."""
    drawn = [path for path in run.sources(root / "figures") if path.with_suffix(".png").exists()]
    ranked = sorted((rank, path.stem, label) for path in drawn for rank, label in enumerate(said(path)[0]))
    named = [(path.stem, label) for path in sorted(root.glob("notebooks/*.ipynb")) for label in told(path) or ()]
    labels = dict.fromkeys([*(label for *_, label in ranked), *(label for _, label in named)])
    return {
        label: Shown(
            tuple(name for _, name, other in ranked if other == label),
            tuple(name for name, other in named if other == label),
        )
        for label in labels
    }


def said(figure: Path) -> tuple[tuple[str, ...], str]:
    """``CLAIMS`` and ``CAPTION`` of a figure file; empty if they are not a plain tuple and a plain string."""
    found = dict(_assigned(figure.read_text(encoding="utf-8")))
    claims, caption = found.get("CLAIMS"), found.get("CAPTION")
    labels = claims if isinstance(claims, tuple) and all(isinstance(label, str) for label in claims) else ()
    return labels, caption if isinstance(caption, str) else ""


def _assigned(source: str) -> Iterator[tuple[str, Any]]:
    """What a file assigns that can be read off."""
    for line in ast.parse(source).body:
        if isinstance(line, ast.Assign) and isinstance(line.value, ast.Constant | ast.Tuple):
            try:
                value = ast.literal_eval(line.value)
            except ValueError:  # made of other names
                continue
            yield from ((target.id, value) for target in line.targets if isinstance(target, ast.Name))


def told(notebook: Path) -> tuple[str, ...] | None:
    """What "Claims: `prop:length`, …" in the first cell names, "Claims: none" nothing; None without such a line."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    line = TOLD.search("".join(cells[0]["source"])) if cells and cells[0]["cell_type"] == "markdown" else None
    return None if line is None else tuple(re.findall(r"`([^`]*)`", line[1]))
