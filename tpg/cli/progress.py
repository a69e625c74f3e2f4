"""A bar with the time left, for work of one kind; nothing where nobody watches."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tpg.cli import render
from tpg.problem.problem import Progress


@contextmanager
def bar(what: str) -> Iterator[Progress | None]:
    """A callback (done, total) that moves a bar on the standard error, or None when that is no terminal."""
    out = render.console(sys.stderr)
    if not sys.stderr.isatty() or out.is_dumb_terminal:
        yield None
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    times = [TimeElapsedColumn(), TextColumn("elapsed,"), TimeRemainingColumn(), TextColumn("left")]
    with Progress(TextColumn("{task.description}"), BarColumn(), *times, console=out, transient=True) as drawn:
        task = drawn.add_task(what, total=None)
        yield lambda done, total: drawn.update(task, completed=done, total=total)
