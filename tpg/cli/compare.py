"""``tpg compare``: estimators side by side, in numbers and in a picture."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import fields

from rich.console import RenderableType
from rich.text import Text

from tpg.cli import render
from tpg.cli.audit import CAVEAT, problem_of
from tpg.cli.output import Destination
from tpg.cli.progress import bar
from tpg.compare import Compared, rows
from tpg.compare import compare as measure
from tpg.errors import TpgError
from tpg.moments.split import Split

HEADS = ("estimator", "rel. bias", "scale", "dir. bias", "variance", "MSE/|g|²", "noise", "best MSE", "tokens")
LEGEND = (
    "rel. bias |E ĝ − g|/|g|; scale: the multiple of g in E ĝ; dir. bias: what no step size mends; "
    "noise: Var ĝ / |scale·g|²; best MSE: E|λĝ − g|²/|g|² at the best step size λ; tokens: generated per update."
)
WIDTH = 40


def compare(
    names: str, problem: str, group_size: int, sort: str | None, picture: str | None, target: Destination
) -> int:
    """Compare the rows ``names``; write JSON and a picture where asked; return the exit code."""
    from tpg.figures import style

    path = style.check(picture) if picture else None
    chosen, estimators = problem_of(problem), rows(names)
    if not estimators:
        raise TpgError(f"{names!r} given: name estimators with commas between, or `all` (`tpg list estimators`)")
    with bar(f"{len(estimators)} estimators on {chosen.name}") as progress:
        found = _sorted(measure(chosen, estimators, group_size, progress), sort)
    done = [each for each in found if each.report is not None]
    if not done:
        raise TpgError(f"none of them runs on {chosen.name}: {found[0].estimator}: {found[0].error}")
    target.write({"problem": chosen.name, "group_size": group_size, "estimators": [each.to_json() for each in found]})
    if path is not None:
        from tpg.figures.compare import draw

        style.save(draw(found, chosen.name), path)
    render.show(target.prose, *report(found, chosen.name, group_size))
    return 0


def _sorted(found: list[Compared], key: str | None) -> list[Compared]:
    """By a column, the undefined last; in the order given without one."""
    if key is None:
        return found

    def place(each: Compared) -> tuple[bool, float]:
        value = getattr(each, key, None) if hasattr(each, key) else getattr(each.report, key, None)
        return value is None, 0.0 if value is None else float(value)

    return sorted(found, key=place)


def report(found: Sequence[Compared], problem: str, group_size: int) -> Iterator[RenderableType]:
    """Numbers, a picture of the noise, where the variance comes from, and who could not take part."""
    done = [each for each in found if each.report is not None]
    yield Text(f"{problem}, group size {group_size}: exact moments, no sampling", "bold")
    yield ""
    yield render.table(HEADS, map(_numbers, done), right=HEADS[1:])
    yield Text(LEGEND, "dim")
    yield ""
    yield from _picture(done)
    yield from _parts(done)
    for each in found:
        if each.error is not None:
            yield Text.assemble((each.estimator, "yellow"), f" takes no part: {each.error}")
    yield Text(CAVEAT, "dim")


def _numbers(each: Compared) -> list[str | Text]:
    found = each.report
    assert found is not None
    numbers = (found.relative_bias, found.scale, found.direction_bias, found.total_variance, found.mse_over_g2)
    shown = [_short(value) for value in (*numbers, each.noise, each.best_mse)]
    return [Text(each.estimator, "bold"), *shown, "?" if each.tokens is None else f"{each.tokens:.4g}"]


def _short(value: float | None) -> str:
    """Three digits; below 10⁻⁹ it is rounding."""
    return "–" if value is None else "0" if abs(value) < 1e-9 else f"{value:.3g}"


def _picture(done: Sequence[Compared]) -> Iterator[RenderableType]:
    """Bars of the noise to signal on a logarithmic scale."""
    noises = [each.noise for each in done if each.noise]
    if not noises:
        return
    low, high = math.floor(math.log10(min(noises))), math.log10(max(noises))
    yield Text(f"noise to signal, logarithmic from 1e{low} (▒: the direction is biased)", "dim")
    lines = []
    for each in done:
        turned = each.report is not None and (each.report.direction_bias or 0) > 1e-9
        length = 0 if not each.noise else round(WIDTH * (math.log10(each.noise) - low) / max(1e-9, high - low))
        lines.append([each.estimator, ("▒" if turned else "█") * max(1, length) if each.noise else "undefined"])
    yield render.pairs(lines)
    yield ""


def _parts(done: Sequence[Compared]) -> Iterator[RenderableType]:
    """Shares of the total variance."""
    known = [each for each in done if each.split is not None and each.report is not None and each.report.total_variance]
    if not known:
        return
    names = [part.name for part in fields(Split)]
    yield Text("where the variance comes from, in % (tokens: their covariance in a response; group: its peers)", "dim")
    lines = []
    for each in known:
        assert each.split is not None
        assert each.report is not None
        shares = [100 * float(getattr(each.split, name)) / each.report.total_variance for name in names]
        lines.append([each.estimator, *(f"{round(share)}" for share in shares)])
    yield render.table(("estimator", *names), lines, right=names)
    yield ""
