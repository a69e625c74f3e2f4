"""Dense rewards with each of three returns: what the return does to E ĝ, and to its noise."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tpg import truth
from tpg.estimators import dense
from tpg.estimators.redistribution import METHODS, Method
from tpg.figures.style import DARK, LIGHT, MIDDLE, figure
from tpg.moments import collapse, report_of
from tpg.numbers import FLOAT64, Array
from tpg.problem import zoo
from tpg.problem.problem import Problem

CLAIMS = (
    "prop:noncausal-redistribution",
    "claim:gae-of-any-redistribution",
    "claim:delta-telescopes",
    "claim:abc-keeps-the-optimum",
    "claim:pure-min-form",
    "claim:prime-potential",
    "claim:pav-prover",
)
CAPTION = (
    "Dense rewards with three returns, two prompts, rewards 0, 1 and 3, unequal lengths, G = 8.  Where the dense "
    "reward of a token is a function of the prefix up to it, full sum, reward-to-go and GAE with the reward's own "
    "exact critic have the same expectation (middle panel: exactly 0), g itself only if the rewards add up to R or "
    "the potential ends as R or as a constant.  Where it reads ahead (Delta, ABC, PURE), reward-to-go and GAE agree "
    "with each other and not with the full sum: ABC's full sum is along g, its other returns are not.  On this "
    "problem GAE is the quietest of the three for every method."
)
SIZE = 8
EXACT = 1e-12  # relative: below is float64
GROUPS = {
    "along g": ("red", "pav", "spa_residual"),
    "another objective": ("igpo", "rto", "prime", "spa", "clip", "endogenous", "pure_repaired"),
    "reads ahead": ("delta", "abc", "pure"),
}
RETURNS = {"full sum": dense.full, "reward-to-go": dense.to_go, "GAE(0.95)": dense.gae}
NUMBERS = ("turned", "apart", "noise")


def compute(smoke: bool) -> dict[str, Any]:
    """Direction bias, distance from the full sum's E ĝ and noise; only what reads ahead may depend on the return."""
    problem = replace(zoo.three_valued(), reference=zoo.referenced().reference).to(FLOAT64)
    methods, out = {method.name: method for method in METHODS}, []
    assert {name for names in GROUPS.values() for name in names} == set(methods)
    for group, names in GROUPS.items():
        for name in names[: 1 if smoke else None]:
            found = _one(problem, methods[name])
            assert (found["reward-to-go"]["apart"] == 0) == (group != "reads ahead")
            assert (max(each["turned"] for each in found.values()) == 0) == (group == "along g")
            out.append({"method": name, "group": group, "returns": found})
    return {"size": SIZE, "rows": out}


def _one(problem: Problem, method: Method) -> dict[str, dict[str, float]]:
    g, out = truth.gradient(problem), {}
    found = {name: collapse(problem, method.row(how), SIZE) for name, how in RETURNS.items()}
    whole, late, own = (problem.combine(each.mean) for each in found.values())
    assert _distance(own, late) < EXACT
    for (name, each), mean in zip(found.items(), (whole, late, own), strict=True):
        seen, apart = report_of(each, g), _distance(mean, whole)
        out[name] = {
            "turned": seen.direction_bias if seen.direction_bias > EXACT else 0.0,
            "apart": apart if apart > EXACT else 0.0,
            "noise": seen.total_variance / (seen.scale * seen.gradient_norm) ** 2,
        }
    return out


def _distance(mean: Array, other: Array) -> float:
    return float(np.linalg.norm(mean - other) / np.linalg.norm(other))


MARKS: dict[str, dict[str, Any]] = {
    "full sum": {"marker": "o", "color": DARK, "mfc": "white", "ms": 6},
    "reward-to-go": {"marker": "v", "color": DARK, "mfc": MIDDLE, "ms": 4.5},
    "GAE(0.95)": {"marker": "x", "color": "black", "ms": 4.5},
}
XLABELS = (
    "direction bias\n|E ĝ − scale·g| / |scale·g|",
    "distance from the full sum\n|E ĝ − E ĝ_full| / |E ĝ_full|",
    "noise to signal\nVar ĝ / |scale·g|²",
)


def draw(data: dict[str, Any]) -> Figure:
    """Three panels that share their rows."""
    out = figure(7.2, 4.2)
    panels, rows = out.subplots(1, 3, sharey=True), data["rows"]
    for axes, key, label in zip(panels, NUMBERS, XLABELS, strict=True):
        for name, look in MARKS.items():
            values = [row["returns"][name][key] for row in rows]
            axes.plot(values, range(len(rows)), ls="none", label=name, clip_on=False, **look)
        axes.set_xlabel(label)
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0, pad=8)
        _rules(axes, rows)
    panels[0].set_yticks(range(len(rows)), [row["method"] for row in rows])
    panels[0].set_ylim(len(rows) - 0.5, -0.7)
    panels[0].set_xlim(left=0)
    panels[1].set_xlim(left=0)
    panels[2].set_xscale("log")
    panels[2].set_xticks([0.5, 1, 2, 5, 10, 20], ["0.5", "1", "2", "5", "10", "20"])
    panels[2].minorticks_off()
    _groups(panels[1], rows)
    out.legend(*panels[0].get_legend_handles_labels(), ncols=3, frameon=False, loc="outside lower center")
    return out


def _rules(axes: Axes, rows: list[dict[str, Any]]) -> None:
    """A line between groups, a faint one for each row."""
    for place, row in enumerate(rows):
        axes.axhline(place, color=LIGHT, lw=0.5, zorder=0)
        if place and row["group"] != rows[place - 1]["group"]:
            axes.axhline(place - 0.5, color="black", lw=0.8)


def _groups(axes: Axes, rows: list[dict[str, Any]]) -> None:
    for group in dict.fromkeys(row["group"] for row in rows):
        first = next(place for place, row in enumerate(rows) if row["group"] == group)
        axes.annotate(group, (0.98, first - 0.42), xycoords=("axes fraction", "data"), fontsize=7, ha="right", va="top")
