"""Bias in length, bias in direction and noise of eight estimators, exactly, as the group grows."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tpg import truth
from tpg.audit import error_bound
from tpg.errors import TooLarge
from tpg.estimators import core
from tpg.figures.style import DARK, MIDDLE, figure
from tpg.moments import moments, report, report_of
from tpg.numbers import FLOAT64, Array
from tpg.problem import zoo
from tpg.problem.problem import Problem

CLAIMS = ("prop:group-mean", "prop:reinforce-family", "claim:dr-grpo-unbiased")
CAPTION = (
    "On two prompts with three reward values and unequal lengths: leave-one-out and single-sample baselines have "
    "E ĝ = g at every group size G; the group mean falls short by exactly 1/G (Dr. GRPO by a further constant) and "
    "turns nothing, with leave-one-out's noise to signal at the same G; σ with 1/|o| (GRPO) or 1/Σ|o| (DAPO) turns the "
    "direction at every G and in the limit G → ∞ (bars), and is less noisy than leave-one-out.  DAPO's groups can be "
    "counted up to G = 32."
)
ROWS = {row.name: row for row in core.ROWS}
SHOWN = ("reinforce", "reinforce_baseline", "remax", "rloo", "group_mean", "dr_grpo", "grpo", "dapo")
NUMBERS = ("relative_bias", "direction_bias", "noise")
SIZES = (2, 4, 8, 16, 32, 64, 128, 256, 512)
LOOKS: dict[str, dict[str, Any]] = {
    "reinforce": {"color": MIDDLE, "ls": ":", "marker": "s"},
    "reinforce_baseline": {"color": MIDDLE, "ls": "--", "marker": "v"},
    "remax": {"color": MIDDLE, "ls": "-.", "marker": "^"},
    "rloo": {"color": DARK, "ls": "-", "marker": "o", "mfc": "white", "ms": 6.5},
    "group_mean": {"color": DARK, "ls": "--", "marker": "D", "mfc": "white", "ms": 4},
    "dr_grpo": {"color": DARK, "ls": ":", "marker": "."},
    "grpo": {"color": "black", "ls": "-", "marker": "x"},
    "dapo": {"color": "black", "ls": "--", "marker": "+"},
}
ZERO = 1e-3  # where 0 is drawn on a logarithmic axis


def compute(smoke: bool) -> dict[str, Any]:
    """Reports of every row at every group size that its engine can count; rationals wherever the row allows them."""
    sizes = SIZES[:2] if smoke else SIZES
    problem = zoo.three_valued()
    out: dict[str, Any] = {"problem": problem.name, "curves": {}, "limits": limits(problem.to(FLOAT64))}
    for name in SHOWN:
        found = [each for size in sizes if (each := _one(problem, name, size)) is not None]
        out["curves"][name] = {key: [each[key] for each in found] for key in ("size", *NUMBERS)}
    for size, short in zip(sizes, out["curves"]["group_mean"]["relative_bias"], strict=True):
        assert short == float(Fraction(1, size))  # rationals: no tolerance
    return out


def _one(problem: Problem, name: str, size: int) -> dict[str, Any] | None:
    """Nothing where the groups are too many to count."""
    row = ROWS[name]
    chosen = problem.to(FLOAT64) if row.numbers == "float64" else problem
    try:
        found = moments(chosen, row, size)
    except TooLarge:
        return None
    seen = report_of(found, truth.gradient(chosen), 0.0 if chosen.field.exact else error_bound(found, row))
    assert seen.scale is not None
    noise = size * seen.total_variance / (seen.scale * seen.gradient_norm) ** 2
    return {"size": size, "relative_bias": seen.relative_bias, "direction_bias": seen.direction_bias, "noise": noise}


def limits(problem: Problem) -> dict[str, dict[str, float | None]]:
    """G → ∞, where mean, σ and Σ|o| are constants of the prompt: E ĝ_x = (∇E[R/L] − J ∇E[1/L])/σ, or ∇J/(σ E L)."""
    length = (problem.tree.depth + 1)[:, None] + np.zeros(problem.probs.shape)
    own = problem.tree.prompt[:, None]
    mean, square, tokens = (_expected(problem, f) for f in (problem.totals, problem.totals**2, length))
    sigma, g = np.sqrt(square - mean**2), truth.gradient(problem)
    shorter = _slope(problem, problem.totals / length) - mean[own] * _slope(problem, 1 / length)
    pursued = {"grpo": shorter / sigma[own], "dapo": g / (sigma * tokens)[own]}
    reports = {name: report(problem.combine(field), 0.0, problem.combine(g)) for name, field in pursued.items()}
    return {name: {key: getattr(seen, key) for key in NUMBERS[:2]} for name, seen in reports.items()}


def _slope(problem: Problem, worth: Array) -> Array:
    """∇E[f(W)] from the judge, for f [N, V] read where responses end."""
    return truth.gradient(replace(problem, rewards=np.where(problem.ends, worth, 0.0)))


def _expected(problem: Problem, worth: Array) -> Array:
    """E[f(W)] [P]."""
    return replace(problem, rewards=np.where(problem.ends, worth, 0.0)).expected_reward


def draw(data: dict[str, Any]) -> Figure:
    """Three panels on one axis of group sizes."""
    out = figure(7.2, 3.2)
    panels = out.subplots(1, 3)
    sizes = data["curves"]["rloo"]["size"]
    for axes, key in zip(panels, NUMBERS, strict=True):
        for name, curve in data["curves"].items():
            heights = [max(value, ZERO) for value in curve[key]]
            axes.plot(curve["size"], heights, **{"lw": 1, "ms": 4, **LOOKS[name]}, label=name, clip_on=False, zorder=3)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(sizes[::2], map(str, sizes[::2]))
        axes.set_xlabel("group size G [responses]")
    for axes, key in zip(panels[:2], NUMBERS, strict=False):
        _with_zero(axes)
        axes.set_xticks([*sizes[::2], sizes[-1] * 4], [*map(str, sizes[::2]), "∞"])
        for name, limit in data["limits"].items():
            looks = {"color": LOOKS[name]["color"], "ls": LOOKS[name]["ls"]}
            axes.plot([sizes[-1] * 2.5, sizes[-1] * 6.4], [limit[key]] * 2, lw=1.5, **looks)
    panels[0].annotate("rloo, remax,\nreinforce (both):\nexactly 0", (2, ZERO * 1.7), fontsize=6.5)
    panels[1].annotate("the six others: exactly 0", (2, ZERO * 1.7), fontsize=6.5)
    panels[2].annotate("rloo = group_mean\n= dr_grpo", (sizes[-1], 12.2), ha="right", fontsize=6.5)
    panels[0].set_ylabel("relative bias\n|E ĝ − g| / |g|")
    panels[1].set_ylabel("direction bias\n|E ĝ − scale·g| / |scale·g|")
    panels[2].set_ylabel("noise to signal × G [responses]\nG · Var ĝ / |scale·g|²")
    panels[2].set_yticks([5, 7, 10, 14, 20], ["5", "7", "10", "14", "20"])
    panels[2].tick_params(axis="y", which="minor", left=False, labelleft=False)
    handles, labels = panels[0].get_legend_handles_labels()
    out.legend(handles, labels, ncols=4, frameon=False, loc="outside lower center")
    return out


def _with_zero(axes: Axes) -> None:
    """A logarithmic axis whose lowest tick is an exact 0, cut off from the rest."""
    axes.set_ylim(ZERO, 1)
    axes.set_yticks([ZERO, 1e-2, 1e-1, 1], ["0", "0.01", "0.1", "1"])
    axes.tick_params(axis="y", which="minor", left=False)
