"""Where results go: JSON that is whole or absent, streams that never choke, errors on one line."""

from __future__ import annotations

import codecs
import json
import os
import secrets
import stat
import sys
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from tpg.errors import TpgError

BROKEN_PIPE = 141  # what a shell reports for SIGPIPE

PLAIN = {"ĝ": "g^", "∇": "grad", "∂": "d", "Σ": "sum", "√": "sqrt ", "∞": "inf", "∈": " in ", "→": "->", "‖": "||"}
PLAIN |= {"−": "-", "·": "*", "×": "x", "±": "+-", "≤": "<=", "≥": ">=", "≠": "!=", "≈": "~", "⟨": "<", "⟩": ">"}
PLAIN |= {"–": "-", "—": "-", "’": "'", "‘": "'", "“": '"', "”": '"', "′": "'"}


def spelled(character: str) -> str:
    """A character in ASCII: γ is gamma, ² is 2.

    >>> "".join(map(spelled, "ĝ γ ²"))
    'g^ gamma 2'
    """
    if character.isascii() or character in PLAIN:
        return PLAIN.get(character, character)
    name = unicodedata.name(character, "")
    if name.startswith("GREEK"):
        word = name.split()[-1]
        return word.lower() if "SMALL" in name else word.title()
    plain = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
    return plain or "?" * (not unicodedata.combining(character))


def _spell_out(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(spelled, error.object[error.start : error.end])), error.end


codecs.register_error("tpg.spelled", _spell_out)


def careful(name: str) -> None:
    """Let ``sys.stdout`` or ``sys.stderr`` spell out what its encoding lacks, and swallow all if it is closed."""
    stream = getattr(sys, name)
    if stream is None:
        setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
    elif hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="tpg.spelled")


def one_line(text: str) -> str:
    """``text`` without line breaks and control characters.

    >>> one_line("a\\n  b\\x1b")
    'a b\\\\x1b'
    """
    text = " ".join(text.split())
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "replace").decode() for c in text)


def complain(text: str) -> None:
    """One line on the standard error."""
    with suppress(OSError):
        sys.stderr.write(f"{one_line(text)}\n")
        sys.stderr.flush()


def write(stream: TextIO, text: str) -> None:
    """Write and flush."""
    with reaching(stream):
        stream.write(text)
        stream.flush()


@contextmanager
def reaching(stream: TextIO) -> Iterator[None]:
    """A reader that has left ends the program quietly, a full disk is an error."""
    try:
        yield
    except OSError as error:
        with suppress(OSError, ValueError):  # what is left in the buffer must not fail again at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        if isinstance(error, BrokenPipeError):
            raise SystemExit(BROKEN_PIPE) from None
        raise TpgError(f"the output cannot be written: {error.strerror}") from None


class Destination:
    """Where ``--json`` leads: nowhere, the standard output (``-``), or a file."""

    def __init__(self, given: str | None) -> None:
        self.given = given

    @property
    def stdout(self) -> bool:
        """JSON owns the standard output; everything else goes to the standard error."""
        return self.given == "-"

    @property
    def prose(self) -> TextIO:
        """The stream for people."""
        return sys.stderr if self.stdout else sys.stdout

    def write(self, data: Any) -> None:
        """``data`` as JSON, atomically: readers and crashes meet the old file or the new one, never a part.

        Refuses NaN and infinity even where nothing is written, so that no report ever shows them.
        """
        utf8 = not self.stdout or (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
        try:
            text = json.dumps(data, indent=2, allow_nan=False, ensure_ascii=not utf8) + "\n"
        except ValueError:
            raise TpgError("the result holds NaN or infinity, not JSON numbers: rescale the rewards") from None
        if self.stdout:
            write(sys.stdout, text)
        elif self.given is not None:
            _to_file(self.given, lambda target: replace(target, text))


def destination(given: str | None) -> Destination:
    """The destination that ``--json`` names, tried out before any work is done."""
    if given not in (None, "-"):
        _to_file(str(given), _try)
    return Destination(given)


def _to_file(given: str, act: Callable[[Path], None]) -> None:
    try:
        act(Path(os.path.realpath(given)) if not _special(given) else Path(given))
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise TpgError(f"--json {given!r} cannot be written: {why}: name a file in a folder you may write to") from None


def _special(given: str) -> bool:
    """A device or a pipe: written directly, never replaced."""
    try:
        mode = os.stat(given).st_mode
    except FileNotFoundError:
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def _beside(target: Path) -> Path:
    return target.with_name(f".tpg-{secrets.token_hex(8)}.tmp")


def _try(target: Path) -> None:
    """Fail now as ``replace`` would fail later."""
    if target.is_dir():
        raise IsADirectoryError(0, "it is a folder")
    if target.exists() and not os.access(target, os.W_OK):
        raise PermissionError(0, "it is read-only")
    if not _special(str(target)):
        beside = _beside(target)
        beside.touch(exist_ok=False)
        beside.unlink()


def replace(target: Path, text: str) -> None:
    """Put ``text`` in ``target`` by way of a whole, synced file beside it."""
    if _special(str(target)):
        target.write_text(text, encoding="utf-8", errors="backslashreplace")
        return
    beside = _beside(target)
    try:
        with open(beside, "x", encoding="utf-8", errors="backslashreplace") as file:
            if target.exists():
                os.chmod(beside, stat.S_IMODE(target.stat().st_mode))
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, target)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
