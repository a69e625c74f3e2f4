"""``tpg figures``: every picture from its data, or proof that none has changed."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from tpg.cli import render
from tpg.cli.output import Destination
from tpg.cli.progress import bar
from tpg.figures import run


def figures(
    names: Sequence[str], smoke: bool, check: bool, place: str | None, out: str | None, target: Destination
) -> int:
    """Make or check the figures ``names``; return 1 when a check fails."""
    home = run.folder(place)
    chosen, found = run.pick(home, names), []
    with bar(f"{len(chosen)} figures") as progress, tempfile.TemporaryDirectory() as aside:
        goal = Path(out) if out else Path(aside) if smoke else home
        for done, path in enumerate(chosen):
            if progress is not None:
                progress(done, len(chosen))
            found.append(run.check(path) if check else run.make(path, goal, smoke))
    fields = ("name", "claims", "caption", "differs")
    target.write([{field: getattr(made, field) for field in fields} for made in found])
    word = "as committed" if check else "drawn" if smoke and not out else "written"
    render.show(target.prose, render.table(("figure", ""), [[made.name, _said(made, word)] for made in found]))
    if len(found) == 1:
        render.show(target.prose, "", found[0].caption)
    return int(any(made.differs for made in found))


def _said(made: run.Made, word: str) -> str:
    return f"differs: {', '.join(made.differs)}" if made.differs else word
