"""What a baseline costs: exact variance of eight of them over that of the best table of per-prefix baselines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tpg.estimators import baselines
from tpg.estimators.table import ESTIMATORS
from tpg.figures.style import DARK, LIGHT, MIDDLE, figure
from tpg.moments import collapse
from tpg.numbers import Array, dot
from tpg.problem import zoo
from tpg.problem.problem import Problem
from tpg.rollouts import greedy

CLAIMS = (
    "prop:optimal-baseline",
    "claim:one-baseline-for-all-tokens",
    "claim:mean-does-not-change-variance",
    "claim:remax-against-no-baseline",
)
CAPTION = (
    "Exact variance at G = 8 over that of the joint optimum b*(s) = E[R S·Z | s] / E[‖S‖² | s], on ten problems.  "
    "Every fixed baseline b costs Σ_t E[(b_t − b*_t)² ‖S_t‖²] / G more (checked in rationals).  Tabular policies: "
    "each token's own optimum is the joint one; with shared parameters it is not.  The value V(s) is not the optimum, "
    "and no order among the others holds everywhere: on key-last V(s) is noisier than the constant J, on referenced J "
    "is noisier than no baseline."
)
SIZE = 8
PROBLEMS = {
    "tabular": ("two-valued", "three-valued", "delayed-credit", "key-last", "forbidden", "referenced"),
    "shared parameters": (
        "shared",
        "random:seed=4,shared=2",
        "random:seed=6,shared=3,values=2,vocab=2,horizon=4",
        "random:seed=9,shared=2,vocab=2,horizon=4",
    ),
}


def _of_prompt(problem: Problem, numbers: Array) -> Array:
    return numbers[problem.tree.prompt]


ROWS: dict[str, Callable[[Problem], Array] | None] = {  # row → the table [N] that it subtracts
    "reinforce": lambda p: p.field.zeros(p.tree.nodes),
    "reinforce_baseline": lambda p: _of_prompt(p, p.values[1]),
    "optimal_baseline_global": lambda p: _of_prompt(p, baselines.global_optimum(p, SIZE)),
    "remax": lambda p: _of_prompt(p, greedy(p).reward),
    "rloo": None,  # not fixed: the others' mean
    "value_baseline": lambda p: p.values[1],
    "optimal_baseline_token": baselines.token_optimum,
    "optimal_baseline_joint": baselines.joint_optimum,
}


def compute(smoke: bool) -> dict[str, Any]:
    """Variances over the least one, in rationals; each must be what the closed form says."""
    out: dict[str, Any] = {"size": SIZE, "groups": {}}
    for kind, names in PROBLEMS.items():
        found = [_one(zoo.get(name)) for name in (names[:1] if smoke else names)]
        out["groups"][kind] = [{"problem": name, **ratios} for name, ratios in zip(names, found, strict=False)]
    return out


def _one(problem: Problem) -> dict[str, float]:
    best = baselines.joint_optimum(problem)
    found = {name: collapse(problem, ESTIMATORS[name], SIZE).total_variance for name in ROWS}
    least = found["optimal_baseline_joint"]
    for name, table in ROWS.items():
        if table is not None:
            assert found[name] - least == _price(problem, table(problem) - best)
    return {name: float(variance / least) for name, variance in found.items()}


def _price(problem: Problem, gap: Array) -> Any:
    """Σ_x weight² Σ_t E[gap² ‖S_t‖²] / G."""
    if problem.features is None:
        norms = 1 - 2 * problem.probs + dot(problem.probs, problem.probs)[:, None]
    else:
        norms = dot(problem.scores, problem.scores)
    weight = problem.weights[problem.tree.prompt] ** 2 * problem.reach
    return (weight * gap**2 * (problem.probs * norms).sum(1)).sum() / SIZE


MARKS: dict[str, tuple[str, dict[str, Any]]] = {
    "reinforce": ("none", {"marker": "x", "color": "black"}),
    "reinforce_baseline": ("J", {"marker": "o", "color": DARK, "mfc": "white"}),
    "optimal_baseline_global": ("best constant", {"marker": "o", "color": DARK}),
    "remax": ("greedy reward (ReMax)", {"marker": "v", "color": MIDDLE, "mfc": "none"}),
    "rloo": ("the others' mean (RLOO)", {"marker": "s", "color": MIDDLE, "mfc": LIGHT}),
    "value_baseline": ("V(s)", {"marker": "^", "color": "black", "mfc": "white"}),
    "optimal_baseline_token": ("best for each token alone", {"marker": "D", "color": DARK, "mfc": "none", "ms": 6}),
    "optimal_baseline_joint": ("joint optimum", {"marker": "|", "color": "black", "ms": 9, "mew": 1.5}),
}


def draw(data: dict[str, Any]) -> Figure:
    """A row per problem."""
    groups = data["groups"]
    out = figure(7.2, 4.0)
    panels = out.subplots(2, 1, sharex=True, height_ratios=[len(rows) + 0.5 for rows in groups.values()])
    for axes, (kind, rows) in zip(panels, groups.items(), strict=True):
        _panel(axes, kind, rows)
    panels[1].set_xlabel(f"variance of ĝ over that of the joint optimum, G = {data['size']}")
    out.legend(*panels[0].get_legend_handles_labels(), ncols=4, frameon=False, loc="outside lower center")
    return out


def _panel(axes: Axes, kind: str, rows: list[dict[str, Any]]) -> None:
    places = range(len(rows))
    for name, (label, look) in MARKS.items():
        axes.plot([row[name] for row in rows], places, ls="none", label=label, clip_on=False, **{"ms": 5, **look})
    for place, row in enumerate(rows):
        axes.hlines(place, 1, max(row[name] for name in MARKS), color=LIGHT, lw=0.8, zorder=1)
    names = [row["problem"].partition(":") for row in rows]
    axes.set_yticks(places, [f"{name} {options.split(',')[0]}" for name, _, options in names])
    axes.set_title(kind, loc="left")
    axes.set_xscale("log")
    axes.set_xlim(0.95, 32)
    axes.set_xticks([1, 1.5, 2, 3, 5, 10, 20, 30], ["1", "1.5", "2", "3", "5", "10", "20", "30"])
    axes.minorticks_off()
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
