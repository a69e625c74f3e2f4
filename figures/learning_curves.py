"""Learning curves of ten estimators against generated tokens, J exact at every step, at a gentle and at a bold rate."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tpg import truth
from tpg.estimators.estimator import Estimator
from tpg.estimators.table import ESTIMATORS
from tpg.figures.style import DARK, LIGHT, MIDDLE, figure
from tpg.learn import Curve, ascend, ascend_exactly, ascend_together
from tpg.moments import moments, report_of
from tpg.numbers import FLOAT64, Array
from tpg.problem import zoo
from tpg.problem.problem import Problem

CLAIMS = ("claim:more-rollouts-pay",)
CAPTION = (
    "Distance of the exact J to the best reward against generated tokens, 4 responses per prompt and update, 60 "
    "updates, each from a batch of its own (PPO is GAE then); lines and bands: median and quartiles of 64 runs; "
    "dotted: ascent along E ĝ.  Every estimator gets the rate that gives it the same expected first-order gain η|g|² "
    "at the start (rate = η/scale), η = 4 (dark, circles) or 32 (light, squares).  Filled: after 60 updates, equal "
    "samples; open, on the vertical line: after the updates that 900 tokens pay for, continuations included.  "
    "Corners: runs more than 0.1 below the best, gentle rate and bold one, after 60 updates and below it after 900 "
    "tokens.  Gentle rate, 60 updates: GRPO and DAPO end behind leave-one-out on three-valued and ahead of it on "
    "delayed-credit; the medians of TRePO and VinePPO are within a fifth of leave-one-out's.  Bold rate, 60 updates, "
    "three-valued: far from the best are 28 runs of DAPO, 25 of REINFORCE, 20 of GRPO, 10 of TRePO, 9 of ReMax, 5 of "
    "leave-one-out, 1 of VinePPO, none of exact advantages and of GAE with a critic of the position alone.  Noise to "
    "signal at the start does not sort them so: GRPO has 2.1, VinePPO 2.5, leave-one-out 3.5, TRePO 4.1.  900 tokens "
    "pay for 38 to 56 updates of leave-one-out, 16 to 20 of TRePO and 3 to 4 of VinePPO, whose medians are then "
    "larger than leave-one-out's on both problems and at both rates; far from the best at the bold rate on "
    "delayed-credit are 4 and 0 runs of theirs, 9 of leave-one-out's.  rloo and dr_grpo make the same updates at "
    "these rates: they differ by chance alone."
)
SHOWN = {
    "reinforce": "reinforce",
    "rloo": "rloo",
    "remax": "remax",
    "dr_grpo": "dr_grpo",
    "grpo": "grpo",
    "dapo": "dapo",
    "gae_position_critic": "PPO/GAE,\nposition\ncritic",
    "exact_advantage": "exact\nadvan-\ntage",
    "trepo_block_k1": "TRePO\nblocks,\nK = 1",
    "vineppo_k": "VinePPO,\nK = 9",
}
PROBLEMS = ("three-valued", "delayed-credit")
FLOOR = {"three-valued": 1e-4, "delayed-credit": 1e-6}  # of the axis, in rewards
GAINS = {"gentle": 4.0, "bold": 32.0}  # η
SIZE, STEPS, RUNS = 4, 60, 64
BUDGET = 900  # tokens
STUCK = 0.1  # rewards below the best
TICKS = {1: "1", 1e-1: "0.1", 1e-2: "0.01", 1e-3: "0.001", 1e-4: "10⁻⁴", 1e-5: "10⁻⁵", 1e-6: "10⁻⁶"}
KEPT = (1, 2, 3, 4, 6, 8, 11, 15, 20, 27, 36, 48, 60)  # updates


def compute(smoke: bool) -> dict[str, Any]:
    """Quartiles over runs and the exact flow, for every problem, rate and estimator, and where runs are at the end."""
    runs, kept = (2, KEPT[:4]) if smoke else (RUNS, KEPT)
    curves = []
    for name in PROBLEMS:
        problem = zoo.get(name).to(FLOAT64)
        for row in (ESTIMATORS[each] for each in SHOWN):
            for pace, gain in GAINS.items():
                found = _one(problem, row, gain, runs, kept)
                curves.append({"problem": name, "estimator": row.name, "pace": pace, **found})
    return {"updates": kept, "runs": runs, "budget": BUDGET, "gains": GAINS, "curves": curves}


def _one(problem: Problem, row: Estimator, gain: float, runs: int, kept: tuple[int, ...]) -> dict[str, Any]:
    """Gaps to the best reward, the rate they belong to, and Var ĝ / |scale·g|² at the start."""
    start = report_of(moments(problem, row, SIZE), truth.gradient(problem))
    assert start.scale is not None
    rate, top, steps = gain / start.scale, best(problem), kept[-1]
    many = ascend if row.critic is not None else ascend_together  # the critic looks at all prompts
    curve = many(problem, row, SIZE, steps, rate, runs=runs, tokens=True)
    flow = ascend_exactly(problem, row, SIZE, steps, rate, tokens=True)
    gaps, along = top - curve.objective, list(kept)
    return {
        "rate": rate,
        "noise": start.total_variance / (start.scale * start.gradient_norm) ** 2,
        "tokens": _short(_spent(curve).mean(0)[along]),
        "quartiles": _short(np.quantile(gaps[:, along], (0.25, 0.5, 0.75), axis=0)),
        "flow_tokens": _short(_spent(flow)[0, along]),
        "flow": _short((top - flow.objective)[0, along]),
        "stuck": int((gaps[:, -1] > STUCK).sum()),
        "afforded": _afforded(gaps, _spent(curve)),
    }


def _spent(curve: Curve) -> Array:
    assert curve.tokens is not None
    return curve.tokens


def _afforded(gaps: Array, spent: Array) -> dict[str, float]:
    """Where each run is after the last update that ``BUDGET`` tokens pay for: updates (mean), gap, stuck runs."""
    last = (spent <= BUDGET).sum(1) - 1
    found = gaps[np.arange(len(gaps)), last]
    low, middle, high = _short(np.quantile(found, (0.25, 0.5, 0.75)))
    return {"updates": last.mean(), "low": low, "median": middle, "high": high, "stuck": int((found > STUCK).sum())}


def best(problem: Problem) -> float:
    """J* = Σ_x weight(x) · the largest reward of a response to x."""
    own = problem.tree.prompt[:, None] + np.zeros(problem.probs.shape, dtype=int)
    largest = np.full(problem.prompts, -np.inf)
    np.maximum.at(largest, own[problem.ends], problem.totals[problem.ends])
    return float(problem.weights @ largest)


def _short(values: Array) -> list[Any]:
    """Five digits: a rounding error that sixty steps have magnified must not show."""
    return [_short(v) if np.ndim(v) else float(f"{v:.4e}") for v in values]


def draw(data: dict[str, Any]) -> Figure:
    """A row of panels per problem, a column per estimator."""
    out = figure(7.2, 4.6)
    panels = out.subplots(len(PROBLEMS), len(SHOWN), sharex=True, sharey="row")
    for row, name in zip(panels, PROBLEMS, strict=True):
        for axes, estimator in zip(row, SHOWN, strict=True):
            mine = [c for c in data["curves"] if (c["problem"], c["estimator"]) == (name, estimator)]
            _panel(axes, mine, data["budget"])
            counts = (", ".join(str(n) for n in ns) for ns in zip(*map(_stuck, mine), strict=True))
            axes.annotate("\n".join(counts), (0.97, 0.99), xycoords="axes fraction", ha="right", va="top", fontsize=6.5)
        row[0].set_ylabel(f"{name}\nJ* − J [rewards]")
        row[0].set_yscale("log")
        row[0].set_ylim(FLOOR[name], 100)
        row[0].set_yticks(*zip(*((y, word) for y, word in TICKS.items() if y >= FLOOR[name]), strict=True))
    for axes, title in zip(panels[0], SHOWN.values(), strict=True):
        axes.set_title(title, fontsize=7)
    out.supxlabel("tokens generated for all prompts", fontsize=8)
    return out


def _stuck(curve: dict[str, Any]) -> tuple[int, int]:
    return curve["stuck"], curve["afforded"]["stuck"]


def _panel(axes: Axes, curves: list[dict[str, Any]], budget: float) -> None:
    shades = {"gentle": (DARK, MIDDLE, "o"), "bold": (MIDDLE, LIGHT, "s")}
    axes.axvline(budget, ymax=0.83, color="black", lw=0.5)
    for curve in reversed(curves):
        line, band, mark = shades[curve["pace"]]
        low, middle, high = curve["quartiles"]
        axes.fill_between(curve["tokens"], low, high, color=band, alpha=0.6, lw=0)
        axes.plot(curve["tokens"], middle, "-", color=line, lw=1.2)
        axes.plot(curve["flow_tokens"], curve["flow"], ":", color="black", lw=0.8)
        axes.plot(curve["tokens"][-1], middle[-1], mark, color=line, ms=3.5)
        axes.plot(budget, curve["afforded"]["median"], mark, color=line, mfc="white", ms=3.5)
    axes.tick_params(labelsize=6)
    axes.tick_params(axis="both", which="minor", left=False, bottom=False)
    axes.set_xscale("log")
    axes.set_xlim(12, 4e4)
    axes.set_xticks([1e2, 1e4], ["100", "10⁴"])
