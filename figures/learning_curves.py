"""Learning curves of seven estimators at equal samples, J exact at every step, at a gentle and at a bold rate."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tpg import truth
from tpg.estimators import core
from tpg.estimators.estimator import Estimator
from tpg.figures.style import DARK, LIGHT, MIDDLE, figure
from tpg.learn import ascend, ascend_exactly
from tpg.moments import moments, report_of
from tpg.numbers import FLOAT64
from tpg.problem import zoo
from tpg.problem.problem import Problem

CLAIM = "prop:modelling-power"
CAPTION = (
    "Distance of the exact J to the best reward, 4 responses per prompt and step; bands: quartiles of 16 runs, dotted: "
    "ascent along E ĝ.  Every estimator gets the rate that gives it the same expected first-order gain η|g|² at the "
    "start (rate = η/scale), η = 4 (dark) or 32 (light); corners: runs that end more than 0.1 below the best.  At the "
    "gentle rate direction decides: GRPO and DAPO learn more slowly than leave-one-out on three-valued and faster on "
    "delayed-credit.  At the bold rate noise decides: GRPO and DAPO get stuck on three-valued, REINFORCE without a "
    "baseline on both problems (on delayed-credit at the gentle rate too), token-level advantages (exact M_t − M_{t−1} "
    "or GAE with a critic of the position alone) on neither.  rloo and dr_grpo differ by chance alone: at these rates "
    "their updates are the same."
)
ROWS = {row.name: row for row in core.ROWS}
SHOWN = ("reinforce", "rloo", "dr_grpo", "grpo", "dapo", "exact_advantage", "gae_position_critic")
PROBLEMS = ("three-valued", "delayed-credit")
GAINS = {"gentle": 4.0, "bold": 32.0}  # η
SIZE, STEPS, RUNS = 4, 60, 16
STUCK = 0.1  # rewards below the best
EVERY = 2  # steps between the numbers that are kept


def compute(smoke: bool) -> dict[str, Any]:
    """Quartiles over runs and the exact flow, for every problem, rate and estimator."""
    runs, steps = (2, 4) if smoke else (RUNS, STEPS)
    curves = []
    for name in PROBLEMS:
        problem = zoo.get(name).to(FLOAT64)
        for row in (ROWS[each] for each in SHOWN):
            for pace, gain in GAINS.items():
                found = _one(problem, row, gain, runs, steps)
                curves.append({"problem": name, "estimator": row.name, "pace": pace, **found})
    return {"responses": SIZE * np.arange(0, steps + 1, EVERY), "runs": runs, "gains": GAINS, "curves": curves}


def _one(problem: Problem, row: Estimator, gain: float, runs: int, steps: int) -> dict[str, Any]:
    """The rate, the gap to the best reward by quartiles, along the flow, and how many runs ended far away."""
    scale = report_of(moments(problem, row, SIZE), truth.gradient(problem)).scale
    assert scale is not None
    rate, top = gain / scale, best(problem)
    gaps = top - ascend(problem, row, SIZE, steps, rate, runs=runs).objective
    flow = top - ascend_exactly(problem, row, SIZE, steps, rate).objective[0]
    quartiles = np.quantile(gaps, (0.25, 0.5, 0.75), axis=0)
    return {
        "rate": rate,
        "quartiles": _short(quartiles[:, ::EVERY]),
        "flow": _short(flow[::EVERY]),
        "stuck": int((gaps[:, -1] > STUCK).sum()),
    }


def best(problem: Problem) -> float:
    """J* = Σ_x weight(x) · the largest reward of a response to x."""
    own = problem.tree.prompt[:, None] + np.zeros(problem.probs.shape, dtype=int)
    largest = np.full(problem.prompts, -np.inf)
    np.maximum.at(largest, own[problem.ends], problem.totals[problem.ends])
    return float(problem.weights @ largest)


def _short(values: np.ndarray) -> list[Any]:
    """Five digits: a rounding error that sixty steps have magnified must not show."""
    return [_short(v) if np.ndim(v) else float(f"{v:.4e}") for v in values]


def draw(data: dict[str, Any]) -> Figure:
    """A row of panels per problem, a column per estimator."""
    out = figure(7.2, 3.6)
    panels = out.subplots(len(PROBLEMS), len(SHOWN), sharex=True, sharey="row")
    for row, name in zip(panels, PROBLEMS, strict=True):
        for axes, estimator in zip(row, SHOWN, strict=True):
            mine = [c for c in data["curves"] if (c["problem"], c["estimator"]) == (name, estimator)]
            _panel(axes, data["responses"], mine)
            stuck = ", ".join(str(curve["stuck"]) for curve in mine)
            axes.annotate(f"{stuck} of {data['runs']}", (0.98, 0.92), xycoords="axes fraction", ha="right", fontsize=6)
        row[0].set_ylabel(f"{name}\nJ* − J [rewards]")
        row[0].set_yscale("log")
        row[0].set_ylim(1e-4, 30)
        row[0].set_yticks([1e-4, 1e-3, 1e-2, 1e-1, 1], ["0.0001", "0.001", "0.01", "0.1", "1"])
    for axes, estimator in zip(panels[0], SHOWN, strict=True):
        axes.set_title(estimator.replace("_", "_\n", 1) if len(estimator) > 9 else estimator, fontsize=7)
    panels[1][len(SHOWN) // 2].set_xlabel("responses generated per prompt")
    return out


def _panel(axes: Axes, x: list[int], curves: list[dict[str, Any]]) -> None:
    shades = {"gentle": (DARK, MIDDLE), "bold": (MIDDLE, LIGHT)}
    for curve in reversed(curves):
        line, band = shades[curve["pace"]]
        low, middle, high = curve["quartiles"]
        axes.fill_between(x, low, high, color=band, alpha=0.6, lw=0)
        axes.plot(x, middle, "-", color=line, lw=1.2)
        axes.plot(x, curve["flow"], ":", color="black", lw=0.8)
    axes.tick_params(labelsize=6)
    axes.tick_params(axis="y", which="minor", left=False)
    axes.set_xticks([0, x[-1] // 2, x[-1]])
    axes.set_xlim(0, x[-1])
