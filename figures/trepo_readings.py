"""Four readings of TRePO against the density of its anchors: what they follow, how noisy they are, what they cost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from tpg import truth
from tpg.estimators import anchors
from tpg.estimators import continuations as c
from tpg.estimators.estimator import Estimator
from tpg.estimators.table import ESTIMATORS
from tpg.figures.style import DARK, MIDDLE, figure
from tpg.moments import collapse, report_of
from tpg.moments.cost import generated_tokens
from tpg.numbers import FLOAT64
from tpg.problem import zoo
from tpg.problem.problem import Problem

CLAIMS = (
    "alg:trepo",
    "prop:trepo-interpolation",
    "prop:trepo-advantage-interpolation",
    "prop:trepo-value-interpolation",
    "prop:trepo-block",
    "prop:trepo-inverse-probability",
    "claim:more-rollouts-pay",
)
CAPTION = (
    "Every position is an anchor with chance ρ.  Interpolated advantages (a) follow ρ g, no more than the anchors "
    "alone do (weighted by 1/ρ: reading d), and for every ρ < 1 with more noise; interpolated values (b) are turned "
    "for every ρ < 1; telescoped blocks (c) have E ĝ = g and, with exact values, less noise than RLOO at every ρ and "
    "never more than anchors alone.  Where each value is one fresh continuation (K = 1), M_0 of every response "
    "included, every reading needs about twice the generated tokens of RLOO or more for the same noise; blocks need "
    "more than three times as many, and the more anchors the more.  G = 8; top: fixed length, tabular; bottom: "
    "unequal lengths, shared parameters."
)
SIZE = 8
EVEN = 1e-9  # relative: two routes to one number
READINGS: dict[str, Callable[..., Any]] = {
    "anchors only, (d)": c.anchors_only,
    "(a) advantages interpolated": c.advantage_interpolation,
    "(b) values interpolated": c.value_interpolation,
    "(c) telescoped blocks": c.block,
}
LINES = ("rloo", "vineppo", "exact_advantage")
NUMBERS = ("turned", "noise", "cost")


def problems(smoke: bool) -> dict[str, Problem]:
    """Right or wrong (reward 1 or 0) by chance, one prompt."""
    fixed = zoo.random(3, vocab=2, horizon=2 if smoke else 5, prompts=1, variable=False, values=2)
    ending = zoo.random(6, vocab=3, horizon=2 if smoke else 4, prompts=1, shared=3, values=2)
    return {"fixed length, tabular": fixed.to(FLOAT64), "unequal lengths, shared": ending.to(FLOAT64)}


def compute(smoke: bool) -> dict[str, Any]:
    """Direction bias, noise with exact values, noise × tokens with one continuation; and that (d) is anchors / ρ."""
    rates = [Fraction(k, 4 if smoke else 20) for k in range(1, (4 if smoke else 20) + 1)]
    out: dict[str, Any] = {"rate": [float(rate) for rate in rates], "size": SIZE, "panels": []}
    for name, problem in problems(smoke).items():
        curves = {}
        for reading, part in READINGS.items():
            found = [_one(problem, _row(part, rate)) for rate in rates]
            curves[reading] = {key: [each[key] for each in found] for key in NUMBERS}
            if part in (c.anchors_only, c.advantage_interpolation):
                assert np.allclose([each["scale"] for each in found], out["rate"], rtol=EVEN, atol=0)
        for rate, noise in zip(rates, curves["anchors only, (d)"]["noise"], strict=True):
            weighted = _one(problem, _row(partial(c.anchors_only, inclusion=rate), rate))
            assert abs(weighted["noise"] / noise - 1) < EVEN
            assert abs(weighted["scale"] - 1) < EVEN
        lines = {row: _one(problem, ESTIMATORS[row]) for row in LINES}
        out["panels"].append({"problem": name, "horizon": problem.horizon, "curves": curves, "lines": lines})
    return out


def _row(part: Callable[..., Any], rate: Fraction) -> Estimator:
    return Estimator("reading", part, anchors=partial(anchors.bernoulli, rate=rate))


def _one(problem: Problem, row: Estimator) -> dict[str, float]:
    """With exact values; ``cost`` with one continuation for each value that is read."""
    drawn = replace(row, continuations=1) if "continuation_value" in row.needs else row
    exact, sampled = (report_of(collapse(problem, each, SIZE), truth.gradient(problem)) for each in (row, drawn))
    noise, sampled_noise = (seen.total_variance / (seen.scale * seen.gradient_norm) ** 2 for seen in (exact, sampled))
    turned = exact.direction_bias if exact.direction_bias > EVEN else 0.0
    cost = sampled_noise * float(generated_tokens(problem, drawn, SIZE))
    return {"turned": turned, "scale": exact.scale, "noise": noise, "cost": cost}


LOOKS: dict[str, dict[str, Any]] = {
    "anchors only, (d)": {"color": MIDDLE, "ls": "-", "lw": 2.2},
    "(a) advantages interpolated": {"color": "black", "ls": "--", "lw": 1.3},
    "(b) values interpolated": {"color": DARK, "ls": "-.", "lw": 1.3, "marker": "o", "ms": 3, "markevery": 2},
    "(c) telescoped blocks": {"color": DARK, "ls": "-", "lw": 1.6},
}
YLABELS = (
    "direction bias\n|E ĝ − scale·g| / |scale·g|",
    "noise to signal, exact values\nVar ĝ / |scale·g|²",
    "noise × generated tokens\nK = 1 [tokens]",
)
WHERE = {  # names of the reference lines: ρ, how far above the line [points], alignment
    ("noise", "rloo"): (0.99, 2, "right"),
    ("noise", "vineppo"): (0.02, -7, "left"),
    ("noise", "exact_advantage"): (0.02, -7, "left"),
    ("cost", "rloo"): (0.99, 2, "right"),
    ("cost", "vineppo"): (0.99, -15, "right"),
}
NAMES = {"rloo": "RLOO", "vineppo": "VinePPO", "exact_advantage": "exact advantage"}


def draw(data: dict[str, Any]) -> Figure:
    """A row of three panels per problem."""
    out = figure(7.2, 4.8)
    grid = out.subplots(2, 3, sharex=True)
    for panels, found in zip(grid, data["panels"], strict=True):
        for axes, key, label in zip(panels, NUMBERS, YLABELS, strict=True):
            for reading, curve in found["curves"].items():
                axes.plot(data["rate"], curve[key], label=reading, clip_on=False, **LOOKS[reading])
            axes.set_ylabel(label)
            axes.set_xlim(0, 1)
            if key == "turned":
                axes.set_ylim(bottom=0)
                axes.annotate("the others: exactly 0", (0.02, 0), (0, 3), textcoords="offset points", fontsize=6)
                continue
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter("{x:g}")
            axes.set_ylim(bottom=0.7 * min(line[key] for line in found["lines"].values()))
            for row in ("rloo", "vineppo") if key == "cost" else NAMES:
                axes.axhline(found["lines"][row][key], color="black", lw=0.7, ls=":")
                place, (x, up, side) = found["lines"][row][key], WHERE[key, row]
                axes.annotate(NAMES[row], (x, place), (0, up), textcoords="offset points", fontsize=6, ha=side)
        panels[0].set_title(f"{found['problem']}, T = {found['horizon']}", loc="left")
    for axes in grid[-1]:
        axes.set_xlabel("density of anchors ρ")
    out.legend(*grid[0][0].get_legend_handles_labels(), ncols=4, frameon=False, loc="outside lower center")
    return out
