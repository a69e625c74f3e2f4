"""``tpg report``: the ledger as one HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.text import Text

from tpg.claims import Claim, registry
from tpg.claims.run import Outcome, run, run_on
from tpg.cli import render
from tpg.cli.listing import estimators, on_networks
from tpg.cli.neural import QUICK, describe
from tpg.cli.output import Destination, replace
from tpg.cli.verify import outcomes_of
from tpg.errors import TpgError
from tpg.figures import run as gallery
from tpg.figures.shown import shown
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
    (on_nets, missing), figures = on_networks(), _figures()
    claims = registry.choose([])
    outcomes = outcomes_of(claims, lambda claim, progress: run(claim, quick, progress=progress))
    networks, on = ([], missing) if missing else _networks(on_nets, quick)
    supposed = {claim.label: claim.hypotheses for claim in [*claims, *on_nets]}
    drawn = pictures(figures)
    replace(folder / NAME, page(outcomes, drawn, estimators(), shown(figures.parent), supposed, networks, on))
    counts = {"claims": len(outcomes), "on networks": len(networks), "figures": len(drawn)}
    target.write({"page": str(folder / NAME), **{what.replace(" ", "_"): count for what, count in counts.items()}})
    said = ", ".join(f"{count} {what}" for what, count in counts.items())
    render.show(target.prose, Text(f"{folder / NAME}: {said}"), *([] if networks else [Text(on)]))
    return render.exit_code(outcome.status for outcome in [*outcomes, *networks])


def _networks(claims: Sequence[Claim], quick: bool) -> tuple[list[Outcome], str]:
    """The claims on networks, and which network that is."""
    from tpg.neural.case import Size, cases, spare_threads

    given: dict[str, Any] = QUICK if quick else {}
    subjects = cases(Size(**given))
    spare_threads(subjects[0])
    found = outcomes_of(claims, lambda claim, progress: run_on(claim, subjects, progress))
    return found, f"On {describe(subjects)}; against its exact gradient, as by tpg verify --neural."


def _figures() -> Path:
    """Where the figures are, or a folder without any."""
    try:
        return gallery.folder()
    except TpgError:
        return Path("figures")
