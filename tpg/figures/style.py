"""One look for all pictures: readable in grey, text in the size of a paper, the same bytes every time."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tpg.errors import TpgError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DARK, MIDDLE, LIGHT = "#1b3a57", "#6f94b5", "#c9d8e6"
FORMATS = (".png", ".pdf", ".svg")
SETTINGS: dict[str, Any] = {
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e3e3e3",
    "grid.linewidth": 0.6,
    "figure.dpi": 150,
    "svg.hashsalt": "tpg",
    "pdf.fonttype": 42,
}


def figure(width: float, height: float) -> Figure:
    """An empty figure, in inches.  TpgError when matplotlib is not installed."""
    try:
        from matplotlib import rcParams
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise TpgError("pictures need matplotlib, which is not installed: pip install matplotlib") from None
    rcParams.update(SETTINGS)  # type: ignore[arg-type]
    return Figure(figsize=(width, height), layout="constrained")


def check(path: str) -> Path:
    """Where a picture is to go.  TpgError for an ending that is no picture, or a folder that is not there."""
    target = Path(path)
    if target.suffix.lower() not in FORMATS:
        raise TpgError(f"--figure {path!r} given: needed a file that ends in {', '.join(FORMATS)}")
    if not target.parent.is_dir():
        raise TpgError(f"--figure {path!r} given: there is no folder {str(target.parent)!r}: make it first")
    return target


def save(drawn: Figure, target: Path) -> None:
    """Write the whole picture or nothing; no dates, so that the same data give the same bytes."""
    dates = {".png": {"Software": None}, ".pdf": {"CreationDate": None}, ".svg": {"Date": None}}
    beside = target.with_name(f".{target.stem}.part{target.suffix}")
    try:
        drawn.savefig(beside, metadata=dates[target.suffix.lower()])
        beside.replace(target)
    except OSError as error:
        raise TpgError(f"{str(target)!r} cannot be written: {error.strerror}") from None
    finally:
        beside.unlink(missing_ok=True)
