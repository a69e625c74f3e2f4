"""A comparison drawn: what no step size mends, what averaging mends, and what one update costs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tpg.compare import Compared
from tpg.figures.style import DARK, LIGHT, MIDDLE, figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PARTS = ("state", "action", "continuation", "tokens", "group")
FLOOR = 1e-3  # smaller bars cannot be seen


def draw(found: Sequence[Compared], problem: str) -> Figure:
    """Three panels that share their rows: direction bias, noise to signal (log), generated tokens."""
    shown = [each for each in found if each.report is not None]
    out = figure(7.2, 1.1 + 0.22 * max(4, len(shown)))
    left, middle, right = out.subplots(1, 3, sharey=True, width_ratios=(3, 4, 2))
    places = range(len(shown))
    _bias(left, shown)
    _noise(middle, shown)
    right.barh(places, [each.tokens or 0 for each in shown], color=LIGHT, edgecolor=DARK, linewidth=0.5)
    right.set_xlabel("generated tokens\nper update")
    left.set_yticks(list(places), [each.estimator for each in shown])
    left.invert_yaxis()
    for axes in (left, middle, right):
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0)
    size = shown[0].group_size if shown else 0
    out.suptitle(f"{problem}, group size {size}: exact, no sampling", fontsize=8, x=0.01, ha="left")
    return out


def _bias(axes: Axes, shown: Sequence[Compared]) -> None:
    """Direction bias as bars: |E ĝ − scale·g| / |scale·g|."""
    turns = [each.report.direction_bias if each.report is not None else None for each in shown]
    axes.barh(range(len(shown)), [turn or 0 for turn in turns], color=DARK)
    for place, (turn, each) in enumerate(zip(turns, shown, strict=True)):
        scale = each.report.scale if each.report is not None else None
        text = "undefined" if turn is None or scale is None else f"×{scale:.3g}"
        axes.annotate(text, (turn or 0, place), (3, 0), textcoords="offset points", va="center", fontsize=6)
    axes.margins(x=0.25)
    axes.set_xlim(left=0)
    axes.set_xlabel("direction bias (no step size mends it)\nbeside it: the multiple of g in E ĝ")


def _noise(axes: Axes, shown: Sequence[Compared]) -> None:
    """Noise to signal: dots on a logarithmic axis, open where the direction is biased."""
    for place, each in enumerate(shown):
        if each.noise is None:
            axes.annotate("undefined", (0.02, place), xycoords=("axes fraction", "data"), va="center", fontsize=6)
            continue
        turned = each.report is not None and (each.report.direction_bias or 0) > FLOOR
        axes.plot(each.noise, place, "o", color=MIDDLE if turned else DARK, mfc="white" if turned else DARK, ms=5)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("{x:g}")
    axes.tick_params(axis="x", which="both", labelrotation=30)
    axes.set_xlabel("noise to signal: Var ĝ / |scale·g|²\nfilled: along g; open: turned away from g")
