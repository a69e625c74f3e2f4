"""Three reward values: how far σ-normalisation turns the gradient, and whether what it follows is one."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from tpg import truth
from tpg.audit import error_bound
from tpg.estimators import advantages
from tpg.estimators.estimator import Estimator
from tpg.figures.style import DARK, MIDDLE, figure
from tpg.moments import collapse, report_of
from tpg.moments.curl import curl
from tpg.numbers import FLOAT64
from tpg.problem.problem import Problem, make
from tpg.problem.tree import grow

CLAIMS = ("prop:sigma-turns",)
CAPTION = (
    "One prompt, one token, rewards 0, m and 1 (σ with G − 1 and ε = 10⁻⁶, sum over tokens, so no effect of length): "
    "as soon as the middle value m leaves 0 or 1, E ĝ of the z-score has curl, so it is the gradient of no objective, "
    "and it points away from g but for one m at each G; the leave-one-out credit does neither.  At m = 0 and m = 1 "
    "there are two values, and both numbers are 0 (filled dots; open ones: the curves close to the ends)."
)
PROBS = (0.5, 0.3, 0.2)  # of the tokens with rewards 0, m, 1
SIZES = (2, 4, 8)
ENDS = 0.002  # how close to two values the middle reward comes
Z_SCORE = Estimator("z-score", advantages.z_score, numbers="float64")
LEAVE_ONE_OUT = Estimator("rloo", advantages.rloo)


def bandit(middle: float) -> Problem:
    """One prompt, one token of three."""
    return make(grow(3, 1), [list(PROBS)], [[0, middle, 1]], field=FLOAT64, name=f"middle-{middle:g}")


def compute(smoke: bool) -> dict[str, Any]:
    """Direction bias and relative curl on a grid of middle rewards, and at its two-valued ends."""
    inner = np.array([0.25, 0.75]) if smoke else np.concatenate([[ENDS], np.linspace(0.02, 0.98, 33), [1 - ENDS]])
    curves: list[dict[str, Any]] = []
    for row, sizes in ((Z_SCORE, SIZES), (LEAVE_ONE_OUT, SIZES[1:2])):
        for size in sizes:
            found = [_one(bandit(m), row, size) for m in inner]
            ends = [_one(bandit(m), row, size) for m in (0.0, 1.0)]
            assert all(number == 0 for pair in ends for number in pair.values())
            curves.append({"row": row.name, "size": size, "ends": _columns(ends), **_columns(found)})
    return {"middle": inner, "probs": PROBS, "curves": curves}


def _one(problem: Problem, row: Estimator, size: int) -> dict[str, float]:
    """Both numbers, 0 where they do not exceed their rounding error."""
    found = collapse(problem, row, size)
    report, field = report_of(found, truth.gradient(problem)), curl(problem, row, size)
    turned, spun = report.direction_bias or 0.0, field.relative or 0.0
    bound = error_bound(found, row) / report.gradient_norm
    return {"turn": turned if turned > bound else 0.0, "curl": 0.0 if field.conservative else spun}


def _columns(rows: list[dict[str, float]]) -> dict[str, list[float]]:
    return {key: [row[key] for row in rows] for key in rows[0]}


def draw(data: dict[str, Any]) -> Figure:
    """Direction bias and curl against the middle reward."""
    out = figure(7.2, 2.6)
    panels = dict(zip(("turn", "curl"), out.subplots(1, 2), strict=True))
    shades, styles = (DARK, DARK, MIDDLE, "black"), ("-", "--", "-.", ":")
    for curve, shade, style in zip(data["curves"], shades, styles, strict=True):
        label = f"z-score, G = {curve['size']}" if curve["row"] != "rloo" else "leave-one-out, any G"
        for key, axes in panels.items():
            axes.plot(
                data["middle"], curve[key], style, color=shade, label=label if key == "turn" else None, clip_on=False
            )
            axes.plot([0, 1], curve["ends"][key], "o", color=DARK, ms=4, clip_on=False, zorder=4)
            if curve["row"] != "rloo":
                limits = [curve[key][0], curve[key][-1]]
                axes.plot([0, 1], limits, "o", color=shade, mfc="white", ms=4, clip_on=False, zorder=4)
    for axes in panels.values():
        axes.set_xlim(0, 1)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("middle reward m [rewards]")
    panels["turn"].set_ylabel("direction bias\n|E ĝ − scale·g| / |scale·g|")
    panels["curl"].set_ylabel("relative curl  ‖J − Jᵀ‖ / ‖J‖")
    out.legend(frameon=False, loc="outside right center")
    return out
