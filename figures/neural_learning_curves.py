"""Learning curves of eight estimators on a small transformer, J exact at every step, at equal samples and tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tpg.estimators.estimator import Estimator
from tpg.estimators.table import ESTIMATORS
from tpg.figures.style import DARK, LIGHT, MIDDLE, figure
from tpg.moments import moments
from tpg.moments.cost import generated_tokens
from tpg.neural import exact, gpt
from tpg.neural.gpt import GPT
from tpg.neural.problem import problem
from tpg.neural.rewards import ArithmeticReward, KeyTokenReward
from tpg.neural.task import Task
from tpg.neural.train import ascend, ascend_exactly
from tpg.problem.problem import Problem

CLAIMS = ("neural:cost",)
CAPTION = (
    "A transformer of 3,408 parameters learns, J exact after every update: lines are medians and bands all of 5 runs, "
    "dotted is ascent along the exact g.  Every estimator gets the rate that gives it the expected first-order gain "
    "η|g|² at the start.  Light: 4 responses per update for all; dark: as many tokens per update as VinePPO (K = 9) "
    "generates for its 4 at the start, so that others draw larger groups; corners: responses per update and the runs "
    "that end at less than half of the best reward.  At the gentle rate hardly a run is lost, and little tells the "
    "estimators apart.  At the bold one (chosen after the gentle one had shown nothing) noise matters: on arithmetic, "
    "a sum paid at the end, groups of 4 lose runs that the larger groups of the same estimator keep; few runs, no "
    "test.  On key token, the first of 6 is paid, none is lost.  The critic's values count as known, free of tokens."
)
SHOWN = ("reinforce", "rloo", "grpo", "dr_grpo", "remax", "gae_position_critic", "trepo_block_k1", "vineppo_k")
TASKS = {
    "arithmetic": Task(4, 4, ArithmeticReward(4, 4)),
    "key token": Task(3, 6, KeyTokenReward(3, position=1)),
}
SHOWN_AT = (("arithmetic", 0.1), ("arithmetic", 0.3), ("key token", 0.3))  # task, η
SIZE, STEPS, RUNS = 4, 24, 5
LOST = 0.5  # of the best reward, which is 1
DIGITS = 6  # a rounding error that thirty updates have magnified must not show


def compute(smoke: bool) -> dict[str, Any]:
    """Median and range over runs for every task, estimator and group size, on one thread: the same sums every time."""
    runs, steps, names = (1, 1, SHOWN[:2]) if smoke else (RUNS, STEPS, SHOWN)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        curves = [_task(name, gain, names, steps, runs) for name, gain in SHOWN_AT]
    finally:
        torch.set_num_threads(threads)
    return {"updates": list(range(steps + 1)), "runs": runs, "tasks": curves}


def _task(name: str, gain: float, names: tuple[str, ...], steps: int, runs: int) -> dict[str, Any]:
    task = TASKS[name]
    net = gpt.make(task.vocab, task.horizon, layers=1, width=16, heads=2)
    g = exact.gradient(net, task).flat
    along = problem(net, task, (g / g.norm())[None])  # one parameter: the way along g
    budget = float(generated_tokens(along, ESTIMATORS["vineppo_k"], SIZE))
    curves = []
    for row in (ESTIMATORS[each] for each in names):
        for size in sorted({SIZE, affordable(along, row, budget)}):
            rate = gain / (float(along.combine(moments(along, row, size).mean)[0]) / float(g.norm()))
            curves.append(_one(net, task, along, row, size, rate, steps, runs))
    flow = _short(ascend_exactly(net, task, steps, gain).objective[0])
    return {"task": name, "gain": gain, "parameters": net.size, "budget": budget, "flow": flow, "curves": curves}


def affordable(known: Problem, row: Estimator, budget: float) -> int:
    """The largest group that needs no more generated tokens; they grow by as much with every response."""
    small, large = (float(generated_tokens(known, row, size)) for size in (SIZE, SIZE + 1))
    return SIZE + int((budget - small) / (large - small) + 1e-9)


def _one(
    net: GPT, task: Task, along: Problem, row: Estimator, size: int, rate: float, steps: int, runs: int
) -> dict[str, Any]:
    """What the runs make of it."""
    found = ascend(net, task, row, size, steps, rate, runs=runs).objective
    return {
        "estimator": row.name,
        "size": size,
        "tokens": float(generated_tokens(along, row, size)),
        "rate": rate,
        "median": _short(np.median(found, axis=0)),
        "low": _short(found.min(0)),
        "high": _short(found.max(0)),
        "last": _short(found[:, -1]),
        "lost": int((found[:, -1] < LOST).sum()),
    }


def _short(values: np.ndarray) -> list[float]:
    return [round(float(v), DIGITS) for v in values]


def draw(data: dict[str, Any]) -> Figure:
    """A row of panels per task, a column per estimator."""
    out = figure(7.2, 4.6)
    panels = out.subplots(len(data["tasks"]), len(SHOWN), sharex=True, sharey=True)
    for row, task in zip(panels, data["tasks"], strict=True):
        for axes, estimator in zip(row, SHOWN, strict=True):
            mine = [c for c in task["curves"] if c["estimator"] == estimator]
            _panel(axes, data["updates"], mine, task["flow"])
        row[0].set_ylabel(f"{task['task']}, η = {task['gain']:g}\nJ [rewards]", fontsize=7)
    for axes, estimator in zip(panels[0], SHOWN, strict=True):
        axes.set_title(estimator.replace("_", "_\n", 1) if len(estimator) > 9 else estimator, fontsize=7)
    out.supxlabel("updates", fontsize=8)
    return out


def _panel(axes: Axes, x: list[int], curves: list[dict[str, Any]], flow: list[float]) -> None:
    shades = ((MIDDLE, LIGHT), (DARK, MIDDLE))  # equal responses, equal tokens
    for curve, (line, band) in zip(curves, shades[2 - len(curves) :], strict=True):
        axes.fill_between(x, curve["low"], curve["high"], color=band, alpha=0.6, lw=0)
        axes.plot(x, curve["median"], "-", color=line, lw=1.2)
    axes.plot(x, flow, ":", color="black", lw=0.9)
    for place, curve in enumerate(reversed(curves)):
        text = f"G = {curve['size']}: {curve['lost']} lost"
        axes.annotate(text, (0.97, 0.02 + 0.08 * place), xycoords="axes fraction", ha="right", fontsize=6)
    axes.tick_params(labelsize=6)
    axes.set_xlim(0, x[-1])
    axes.set_ylim(-0.25, 1.05)
    axes.set_yticks([0, 0.5, 1])
    axes.set_xticks([0, x[-1] // 2, x[-1]])
