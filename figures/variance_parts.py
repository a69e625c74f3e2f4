"""Where the variance of the main estimators comes from: states, actions, continuations, tokens together, the group."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tpg.compare import compare
from tpg.estimators.table import ESTIMATORS
from tpg.figures.style import DARK, LIGHT, MIDDLE, figure
from tpg.moments.split import Split
from tpg.problem import zoo

CLAIMS = ("thm:advantage", "prop:optimal-baseline")
CAPTION = (
    "Parts of the variance by the law of total variance, over |scale·g|², G = 8.  Expected returns M_t, with a "
    "baseline (M_t − M_{t−1}) or without, have no continuation part at all; the state part is the same for every row "
    "whose E ĝ is g; what a baseline changes is the action part and, with shared parameters, what tokens share; only "
    "group-relative rows have a group part.  M_t − M_{t−1} is not the variance optimum: where the first token "
    "decides, the best baselines of a sampled reward are quieter, on key-first without any variance; where the last "
    "token decides, they are not."
)
SIZE = 8
PROBLEMS = ("key-first", "key-last", "delayed-credit", "shared")
ROWS = {
    "reinforce": "R",
    "remax": "R − greedy (ReMax)",
    "rloo": "R − others (RLOO)",
    "grpo": "GRPO",
    "reinforce_baseline": "R − J",
    "value_baseline": "R − V(s)",
    "optimal_baseline_joint": "R − b*(s)",
    "gae": "GAE(0.95), exact V",
    "trajectory_pg": "$M_t$",
    "exact_advantage": "$M_t − M_{t−1}$",
}
PARTS = tuple(Split.__dataclass_fields__)
EXACT = 1e-12  # relative to the whole: a part below is that of float64


def compute(smoke: bool) -> dict[str, Any]:
    """Parts over |scale·g|², which add up to the noise to signal."""
    panels = []
    for name in PROBLEMS[: 1 if smoke else None]:
        found = compare(zoo.get(name), [ESTIMATORS[row] for row in ROWS], SIZE)
        rows = []
        for each in found:
            assert each.report is not None, each.error
            assert each.split is not None
            signal = (each.report.scale * each.report.gradient_norm) ** 2
            parts = {part: float(getattr(each.split, part)) / signal for part in PARTS}
            assert abs(sum(parts.values()) - each.noise) <= EXACT * (1 + each.noise)
            parts = {part: value if abs(value) > EXACT * (1 + each.noise) else 0.0 for part, value in parts.items()}
            rows.append({"row": each.estimator, "noise": each.noise, **parts})
        _as_claimed({row["row"]: row for row in rows})
        panels.append({"problem": name, "rows": rows})
    return {"size": SIZE, "panels": panels}


def _as_claimed(rows: dict[str, dict[str, float]]) -> None:
    """No continuation part with exact values, no group part without peers, one state part."""
    assert rows["exact_advantage"]["continuation"] == rows["trajectory_pg"]["continuation"] == 0
    for name, row in rows.items():
        assert row["group"] == 0 or name in ("rloo", "grpo")
        assert abs(row["state"] - rows["reinforce"]["state"]) <= EXACT * (1 + row["noise"]) or name == "grpo"


LOOKS: dict[str, dict[str, Any]] = {
    "state": {"facecolor": DARK},
    "action": {"facecolor": LIGHT},
    "continuation": {"facecolor": "white", "hatch": "/////"},
    "tokens": {"facecolor": MIDDLE, "hatch": "...."},
    "group": {"facecolor": "white", "hatch": "xxxx"},
}
WORDS = {
    "state": "state: which prefix",
    "action": "action: which token there",
    "continuation": "continuation: what follows",
    "tokens": "tokens together",
    "group": "rest of the group",
}


def draw(data: dict[str, Any]) -> Figure:
    """Four panels of stacked bars."""
    out = figure(7.2, 5.6)
    grid = out.subplots(2, 2, sharey=True, squeeze=False)
    for axes, panel in zip(grid.flat, data["panels"], strict=False):
        _bars(axes, panel)
    for axes in grid[-1]:
        axes.set_xlabel(f"Var ĝ / |scale·g|²,  G = {data['size']}")
    names = [ROWS[row["row"]] for row in data["panels"][0]["rows"]]
    for axes in grid[:, 0]:
        axes.set_yticks(range(len(names)), names)
    grid[0, 0].invert_yaxis()
    out.legend(*grid[0, 0].get_legend_handles_labels(), ncols=3, frameon=False, loc="outside lower center")
    return out


def _bars(axes: Axes, panel: dict[str, Any]) -> None:
    """Positive parts to the right of 0, negative ones to the left; the longest bar is cut where it dwarfs the rest."""
    rows = panel["rows"]
    totals = sorted(row["noise"] for row in rows)
    edge = 1.2 * (totals[-1] if totals[-1] < 1.5 * totals[-2] else totals[-2])
    for part in PARTS:
        before = [_sum(row, PARTS[: PARTS.index(part)], row[part]) for row in rows]
        label = WORDS[part]
        look = {"height": 0.7, "edgecolor": "black", "linewidth": 0.5, **LOOKS[part]}
        axes.barh(range(len(rows)), [row[part] for row in rows], left=before, label=label, **look)
    for place, row in enumerate(rows):
        end = _sum(row, PARTS, 1)
        text = f"{row['noise']:.2g}" if end < edge else f"{row['noise']:.2g} ⟶"
        where = min(end, 0.99 * edge), place
        look = {"va": "center", "fontsize": 6.5, "ha": "left" if end < edge else "right"}
        box = None if end < edge else {"facecolor": "white", "edgecolor": "none", "pad": 1}
        axes.annotate(text, where, (3 if end < edge else 0, 0), textcoords="offset points", bbox=box, **look)
    axes.set_xlim(min(0.0, *(1.2 * _sum(row, PARTS, -1) for row in rows)), edge)
    axes.axvline(0, color="black", lw=0.8)
    axes.set_title(panel["problem"], loc="left")
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)


def _sum(row: dict[str, float], parts: tuple[str, ...], sign: float) -> float:
    """What the parts of one sign add up to."""
    return sum(row[part] for part in parts if row[part] * sign > 0)
