"""Regenerate the figures: each a file with ``compute(smoke) → data`` and ``draw(data) → Figure``, data beside pictures.

A figure file also states ``CLAIMS`` (the labels it illustrates, the one it is chiefly about first) and ``CAPTION``
(what it shows, as a sentence that could be false).  Numbers are rounded to ten digits before they are written, so that
the same code gives the same bytes.
"""

from __future__ import annotations

import difflib
import importlib.util
import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from tpg.errors import TpgError
from tpg.figures import style

DIGITS = 10
ENDINGS = (".json", ".png", ".pdf")


@dataclass(frozen=True)
class Made:
    """One figure: its files, and those that differ from the committed ones."""

    name: str
    caption: str
    claims: tuple[str, ...]
    files: tuple[Path, ...]
    differs: tuple[str, ...] = ()


def folder(given: str | None = None) -> Path:
    """The folder of figure files: the one given, ./figures, or the one of the checkout tpg was imported from."""
    places = [Path(given)] if given else [Path("figures"), Path(__file__).parents[2] / "figures"]
    for place in places:
        if list(sources(place)):
            return place
    raise TpgError(f"no figure files in {', '.join(map(str, places))}: run it in a checkout, or give --folder")


def sources(place: Path) -> Iterator[Path]:
    """The figure files of a folder, by name."""
    return (path for path in sorted(place.glob("*.py")) if not path.stem.startswith("_"))


def pick(place: Path, names: Sequence[str]) -> list[Path]:
    """Those named, or all.  TpgError for a name that is none."""
    known = {path.stem: path for path in sources(place)}
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3) or sorted(known)
            raise TpgError(f"unknown figure {name!r}: did you mean {', '.join(near)}?")
    return [known[name] for name in names] or list(known.values())


def load(path: Path) -> ModuleType:
    """A figure file as a module."""
    spec = importlib.util.spec_from_file_location(f"tpg_figure_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with _told(path.stem):
        spec.loader.exec_module(module)
    missing = [name for name in ("CLAIMS", "CAPTION", "compute", "draw") if not hasattr(module, name)]
    if missing:
        given = "a figure has CLAIMS, CAPTION, compute(smoke) and draw(data)"
        raise TpgError(f"{path} lacks {', '.join(missing)}: {given}")
    if not isinstance(module.CLAIMS, tuple) or not module.CLAIMS:
        raise TpgError(f"{path} has CLAIMS = {module.CLAIMS!r}: needed a tuple of one label or more")
    return module


@contextmanager
def _told(name: str) -> Iterator[None]:
    """A library that only some figures need, and that is not there, is one line."""
    try:
        yield
    except ModuleNotFoundError as error:
        remedy = "pip install 'tpg[neural]'" if error.name == "torch" else "install it"
        raise TpgError(
            f"figure {name} needs {error.name}, which is missing: {remedy}, or name other figures"
        ) from error


def make(path: Path, out: Path, smoke: bool = False) -> Made:
    """Compute and draw one figure into ``out``."""
    module = load(path)
    with _told(path.stem):
        data = rounded(module.compute(smoke))
    out.mkdir(parents=True, exist_ok=True)
    files = tuple(out / f"{path.stem}{ending}" for ending in ENDINGS)
    beside = files[0].with_suffix(".part")
    beside.write_text(json.dumps(data, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    beside.replace(files[0])
    drawn = module.draw(data)
    for target in files[1:]:
        style.save(drawn, target)
    return Made(path.stem, module.CAPTION, module.CLAIMS, files)


def check(path: Path) -> Made:
    """Make one figure aside and name the files that are not, byte for byte, the committed ones."""
    with tempfile.TemporaryDirectory() as aside:
        made = make(path, Path(aside))
        committed = [path.with_suffix(file.suffix) for file in made.files]
        pairs = zip(made.files, committed, strict=True)
        differs = tuple(old.name for new, old in pairs if not old.exists() or old.read_bytes() != new.read_bytes())
    return Made(made.name, made.caption, made.claims, tuple(committed), differs)


def rounded(data: Any) -> Any:
    """Plain JSON values: arrays as lists, floats with ``DIGITS`` significant digits."""
    if isinstance(data, dict):
        return {str(key): rounded(value) for key, value in data.items()}
    if isinstance(data, list | tuple | np.ndarray):
        return [rounded(value) for value in data]
    if isinstance(data, bool | int | str) or data is None:
        return data
    return float(f"{float(data):.{DIGITS - 1}e}")
