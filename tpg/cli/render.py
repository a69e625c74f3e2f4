"""How results look: quiet tables without lines, in colour on a terminal, plain and at most 100 columns elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import ROUND_CEILING, Context
from typing import Any, Literal, TextIO

from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from tpg.cli.output import reaching, write

PIPED_WIDTH, WIDEST = 100, 120
COLOURS = {"holds": "green", "refuted": "bold red", "undecided": "yellow"}
Cells = Sequence[str | Text]
CODES = {"holds": 0, "refuted": 1, "undecided": 3}


def console(stream: TextIO) -> Console:
    """A console on ``stream`` that takes text as it is: no markup, no guessed colours."""
    out = Console(file=stream, highlight=False, markup=False, emoji=False)
    out.width = min(out.width, WIDEST) if stream.isatty() else PIPED_WIDTH
    return out


def show(stream: TextIO, *parts: RenderableType) -> None:
    """Write ``parts`` below one another, without blanks at line ends."""
    out = console(stream)
    with reaching(stream), out.capture() as captured:
        for part in parts:
            out.print(part)
    write(stream, "".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))


def table(heads: Sequence[str], rows: Iterable[Cells], right: Sequence[str] = ()) -> Table:
    """Columns of text; those named in ``right`` are numbers.  Only one is ever broken into lines: the last, or if that
    holds numbers the first.
    """
    out = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    flexible = heads[0] if heads[-1] in right else heads[-1]
    for head in heads:
        justify: Literal["right", "left"] = "right" if head in right else "left"
        out.add_column(head, justify=justify, no_wrap=head != flexible, overflow="fold")
    for row in rows:
        out.add_row(*row)
    return out


def pairs(rows: Iterable[Cells]) -> Table:
    """Names and what there is to say, without a head."""
    out = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    out.add_column(no_wrap=True)
    for row in rows:
        out.add_row(*row)
    return out


def indented(text: str, by: int = 2, style: str = "") -> Padding:
    """A paragraph set in from the left."""
    return Padding(Text(text, style), (0, 0, 0, by))


def status(word: str) -> Text:
    """A status in its colour."""
    return Text(word, COLOURS.get(word, ""))


def number(value: float | None, undefined: str = "undefined") -> str:
    """Four digits.

    >>> number(0.1168634), number(-0.0), number(None)
    ('0.1169', '0', 'undefined')
    """
    return undefined if value is None else f"{value + 0.0:.4g}"


def bound(value: float) -> str:
    """An upper bound with one digit, rounded up.

    >>> bound(6.1e-33), bound(0.0)
    ('7e-33', '0')
    """
    return f"{Context(prec=1, rounding=ROUND_CEILING).create_decimal(value):e}" if value else "0"


def seconds(value: float) -> str:
    """A duration.

    >>> seconds(0.0312), seconds(75.2)
    ('0.03', '75')
    """
    return f"{value:.2f}" if value < 10 else f"{value:.0f}"


def plural(count: int, noun: str) -> str:
    """A count and its noun.

    >>> plural(1, "claim"), plural(10, "claim")
    ('1 claim', '10 claims')
    """
    return f"{count} {noun}{'' if count == 1 else 's'}"


def exit_code(statuses: Iterable[str]) -> int:
    """0 all hold, 1 some refuted, 3 some undecided and none refuted."""
    codes = {CODES[word] for word in statuses}
    return 1 if 1 in codes else max(codes, default=0)


def first_line(thing: Any) -> str:
    """The first line of a docstring, without its quotes for code."""
    return ((thing.__doc__ or "").strip().splitlines() or [""])[0].replace("``", "")
