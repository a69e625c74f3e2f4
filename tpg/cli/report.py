"""``tpg report``: the ledger as one HTML page."""

from __future__ import annotations

from pathlib import Path

from rich.text import Text

from tpg.claims import registry
from tpg.claims.run import run
from tpg.cli import render
from tpg.cli.listing import estimators
from tpg.cli.output import Destination, replace
from tpg.cli.verify import outcomes_of
from tpg.errors import TpgError
from tpg.figures import run as gallery
from tpg.report.page import page, pictures

NAME = "index.html"


def report(out: str, quick: bool, target: Destination) -> int:
    """Verify every claim and write the page into the folder ``out``; return the exit code of the verdicts."""
    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / NAME).touch()
    except OSError as error:
        raise TpgError(f"--out {out!r} cannot be written: {error.strerror}: name a folder you may write to") from None
    outcomes = outcomes_of(registry.choose([]), lambda claim, progress: run(claim, quick, progress=progress))
    shown = pictures(_figures())
    text = page(outcomes, shown, estimators(), _notebooks())
    replace(folder / NAME, text)
    target.write({"page": str(folder / NAME), "claims": len(outcomes), "figures": len(shown)})
    render.show(target.prose, Text(f"{folder / NAME}: {len(outcomes)} claims, {len(shown)} figures"))
    return render.exit_code(outcome.status for outcome in outcomes)


def _figures() -> Path:
    """Where the figures are, or a folder without any."""
    try:
        return gallery.folder()
    except TpgError:
        return Path("figures")


def _notebooks() -> list[str]:
    """The notebooks beside the figures."""
    return sorted(path.stem for path in (_figures().parent / "notebooks").glob("*.ipynb"))
