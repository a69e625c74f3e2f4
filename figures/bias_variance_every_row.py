"""Every row of the table against the group size: how far off E ĝ is, how far turned, and the variance; exactly."""

from __future__ import annotations

from collections import Counter
from itertools import groupby
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from tpg import truth
from tpg.audit import arithmetic, error_bound
from tpg.errors import TpgError
from tpg.estimators.estimator import Estimator
from tpg.estimators.table import FAMILIES
from tpg.figures.style import DARK, LIGHT, MIDDLE, figure
from tpg.moments import moments, report_of
from tpg.numbers import FLOAT64, RATIONAL, Array
from tpg.problem.problem import Problem, make
from tpg.problem.tree import grow
from tpg.problem.zoo import response_rewards, simplex

CLAIMS = ("prop:group-mean", "prop:reinforce-family")
CAPTION = (
    "Every row of the table on two prompts with rewards 0, 1 and 3 earned along the way, unequal lengths, γ = 9/10 and "
    "a reference policy; rows that read a ratio (italics): on responses of an older policy.  More responses mend "
    "noise, seldom bias: a row that reads no peers has the same bias at every G and a variance of exactly 1/G; the "
    "group mean falls short of g by exactly 1/G, and few lose their bias as it does.  No row that declares a multiple "
    "of g is turned.  From G = 4 on every variance falls; those that rise from 2 to 4 are of rows divided by a mean or "
    "σ of the group.  Dotted: direction bias, for where σ or a constant scales E ĝ, its length (lines) says little."
)
SIZES, RATIONALS = (2, 4, 8, 16, 32, 64), 16  # group sizes; up to which in rationals, where an audit would be
OF_RATIOS = frozenset({"ratio", "sequence_ratio", "old_prob", "old_logp"})
STEEP, GAP, SAME = 2**-0.5, (0.6, 0.9), 1e-9  # faster than 1/√G; where no row may end, so that STEEP decides nothing
TOTALS = (  # of the responses of each prompt; token 1 ends them
    {(1,): 0, (0, 1): 3, (0, 0, 0): 1, (0, 0, 1): 3},
    {(1,): 1, (0, 1): 0, (0, 0, 0): 3, (0, 0, 1): 0},
)


def compute(smoke: bool) -> dict[str, Any]:
    """Lanes of all rows, what the engine refused, and how many lanes are of which kind."""
    sizes, problems, rows, refused = SIZES[:2] if smoke else SIZES, (task(False), task(True)), [], []
    for family, row in ((f.__name__.rpartition(".")[2], row) for f in FAMILIES for row in f.ROWS):
        stale = bool(row.needs & OF_RATIOS)
        found, reasons = lane(problems[stale], row, sizes)
        refused += reasons
        if found["variance"]:
            check(problems[stale], row, sizes, found)
            own = {"name": row.name, "family": family, "stale": stale, "peers": bool(row.peers or row.batch)}
            rows.append(own | found)
    counts = {key: dict(Counter(row[key] for row in rows)) for key in ("bias_kind", "turn_kind")}
    return {"sizes": sizes, "counts": counts, "rows": rows, "refused": refused}


def task(stale: bool) -> Problem:
    """Four responses of 1, 2, 3 and 3 tokens to each of two prompts; what tokens earn is taken back at the end."""
    tree, rng = grow(2, 3, 2, end_token=1), np.random.Generator(np.random.Philox(31))
    policy, reference, older = (simplex(rng, tree.inner.shape, RATIONAL) for _ in range(3))
    paid = [response_rewards(tree, rule.__getitem__, "9/10", RATIONAL) for rule in TOTALS]
    along = np.where(tree.inner, 1, -tree.depth[:, None]) / RATIONAL.scalar("9/10") ** tree.depth[:, None]
    rewards = np.where(tree.prompt[:, None] == 0, *paid) + along
    more = {"reference": reference, "behaviour": older if stale else None, "end_token": 1, "name": "every-size"}
    return make(tree, policy, rewards, weights=[1, 2], discount="9/10", field=RATIONAL, **more)


def lane(problem: Problem, row: Estimator, sizes: tuple[int, ...]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Numbers and kinds of one row as far as the engine goes, and what it says of the sizes that it refuses."""
    points, refused = [], []
    for size in sizes:
        try:
            points.append(_point(problem, row, size))
        except TpgError as error:
            refused.append({"name": row.name, "size": size, "reason": str(error)})
    assert [each["size"] for each in refused] == list(sizes[len(points) :]), row.name  # small groups come first
    relative, direction, variance = ([point[k] for point in points] for k in range(3))
    found = {"relative": relative, "direction": direction, "variance": variance}
    return {"bias_kind": kind(relative), "turn_kind": kind(direction), **found}, refused


def _point(problem: Problem, row: Estimator, size: int) -> tuple[float, float | None, float]:
    """|E ĝ − g|/|g|, |E ĝ − s·g|/|s·g| and Var ĝ/|g|²; biases within the rounding of E ĝ are 0."""
    chosen = arithmetic(problem, row, size) if size <= RATIONALS else problem.to(FLOAT64)
    found = moments(chosen, row, size)
    floor = 0.0 if chosen.field.exact else error_bound(found, row)
    seen = report_of(found, truth.gradient(chosen), floor)
    relative, turn, norm = seen.relative_bias, seen.direction_bias, seen.gradient_norm
    straight = turn is not None and turn * abs(seen.scale) * norm <= floor
    return 0.0 if seen.bias_norm <= floor else relative, 0.0 if straight else turn, seen.total_variance / norm**2


def kind(bias: list[Any]) -> str:
    """What a bias does as G grows: ``shrinks`` if the last doubling takes away a factor √2 or more."""
    if None in bias:
        return "undefined"
    if not any(bias):
        return "zero"
    if bias[-1] <= STEEP * bias[-2:][0]:
        return "shrinks"
    return "grows" if bias[-1] > bias[0] * (1 + SAME) else "stays"


def check(problem: Problem, row: Estimator, sizes: tuple[int, ...], found: dict[str, Any]) -> None:
    """What the caption says of one row."""
    relative, variance, declared = found["relative"], np.array(found["variance"]), row.declares(problem)
    noise = variance * sizes[: len(variance)]
    if declared is not None and declared.known and declared.extra is None:
        assert found["turn_kind"] in ("zero", "undefined"), f"{row.name} declares {declared.text} and is turned"
    if not (row.peers or row.batch):
        assert np.ptp(relative) <= SAME * max(relative), f"{row.name} reads no peers and its bias moves"
        assert np.ptp(noise) <= SAME * max(noise), f"{row.name}: variance is not 1/G"
    for size, short in zip(sizes, relative, strict=True) if row.name == "group_mean" else ():
        off = abs(short * size - 1)
        assert off <= (0 if size <= RATIONALS else SAME), f"group_mean is short by {short} at G = {size}"
    for bias in (relative, found["direction"]):
        known = len(bias) > 2 and None not in bias and all(bias)
        assert not (known and GAP[0] < bias[-1] / bias[-2] < GAP[1]), f"{row.name} neither shrinks nor stays"
    assert (np.diff(variance[1:]) < 0).all(), f"{row.name}: variance rises"


PALE = "#eef2f6"
LOOKS: dict[str, tuple[str, str, str]] = {  # marker, shade of the lane, words
    "zero": ("o", "white", "0 at every G"),
    "shrinks": ("v", LIGHT, "less by √2 or more in the last doubling"),
    "stays": ("s", PALE, "stays"),
    "grows": ("^", PALE, "larger at the end"),
}
RANGES = {"relative": (-2.0, 1.5), "variance": (-4.0, 2.0)}  # powers of ten at the edges of a lane
HALF, FLOOR, SHARP, COLUMNS = 0.43, 0.2, 200, 3  # of a lane; its share below all but 0; dots per inch; of lanes
LEAST, NAMED = 1e-3, ("dapo_clip", "reinforce_rej", "rloo", "best_of_n")  # of the panels below


def draw(data: dict[str, Any]) -> Figure:
    """Three columns of lanes; below them how to read them, and what moves."""
    out = type(figure(1, 1))(figsize=(7.2, 10.6), layout="constrained", dpi=SHARP)
    out.get_layout_engine().set(w_pad=0.03, wspace=0)
    grid = out.add_gridspec(3, 1, height_ratios=(8.1, 0.85, 1.6))
    lanes, below = grid[0].subgridspec(1, 2 * COLUMNS), grid[2].subgridspec(1, 2)
    blocks = [list(own) for _, own in groupby(data["rows"], key=lambda row: row["family"])]
    items = [item for own in blocks for item in ({"name": f"{own[0]['family']} ({len(own)})"}, *own)]
    long = -(-len(items) // COLUMNS)
    for i in range(2 * COLUMNS):
        mine = items[i // 2 * long :][:long]
        _lanes(out.add_subplot(lanes[i]), data["sizes"], mine, list(RANGES)[i % 2], long)
    _legend(out.add_subplot(grid[1]), data)
    _moving(out.add_subplot(below[0]), data)
    _noise(out.add_subplot(below[1]), data)
    return out


def _height(values: list[float | None], place: int, what: str) -> Array:
    """Where values are drawn in the lane at ``place``: 0 near its lower edge, what is out of range at its ends."""
    low, high = RANGES[what]
    known = np.array(values, dtype=float)  # None: NaN
    share = (np.log10(np.where(known > 0, known, 1)) - low) / (high - low)
    share = np.where(known == 0, 0.06, FLOOR + (1 - FLOOR) * np.clip(share, 0, 1))
    return np.where(np.isnan(known), np.nan, place + HALF - 2 * HALF * share)


def _lanes(axes: Axes, sizes: list[int], items: list[dict[str, Any]], what: str, long: int) -> None:
    """A lane per row as far as it could be counted; names and marks left of the biases."""
    bias = what == "relative"
    for place, item in ((place, item) for place, item in enumerate(items) if what in item):
        values, (marker, shade, _) = item[what], LOOKS[item["bias_kind"]]
        x, y, zero = sizes[: len(values)], _height(values, place, what), not any(values)
        axes.fill_between([x[0], x[-1]], place - HALF, place + HALF, color=shade if bias else PALE, lw=0, aa=False)
        if bias:
            axes.plot(x, _height(item["direction"], place, what), ":", color=MIDDLE, lw=0.9, aa=False)
            fill = "white" if item["turn_kind"] == "zero" else DARK
            axes.plot(sizes[0] * 0.68, place, marker, ms=2.8, mew=0.5, color=DARK, mfc=fill, clip_on=False)
        axes.plot(x, y, color="black" if zero else DARK, lw=1.1 if zero else 0.7, aa=False)
        if len(x) < len(sizes):
            axes.plot([x[-1]] * 2, [place - HALF, place + HALF], color="black", lw=0.8, aa=False)
        if max(values) > values[0] * (1 + SAME):
            axes.plot(x[np.argmax(values)], y[np.argmax(values)], ".", color="black", ms=3, clip_on=False)
    axes.set_yticks(range(len(items)), [item["name"] if bias else "" for item in items], fontsize=6)
    for label, item in zip(axes.get_yticklabels(), items, strict=True):
        label.set(style="italic" if item.get("stale") else "normal", weight="normal" if what in item else "bold")
        label.set_antialiased(False)
    axes.set(xscale="log", xlim=(sizes[0], sizes[-1]), ylim=(long - 0.5, -0.7), frame_on=False)
    axes.set_xticks(sizes[:: len(sizes) - 1], map(str, sizes[:: len(sizes) - 1]), fontsize=6)
    axes.set_title("bias\nagainst G" if bias else "variance\nagainst G", fontsize=6)
    axes.tick_params(axis="y", length=0, pad=7)
    axes.minorticks_off()
    axes.grid(visible=False)


def _legend(axes: Axes, data: dict[str, Any]) -> None:
    """Kinds with their counts, and how to read a lane."""
    axes.axis("off")
    rows, bias, turn = data["rows"], data["counts"]["bias_kind"], data["counts"]["turn_kind"]
    short = sum(len(row["variance"]) < len(data["sizes"]) for row in rows)
    up, straight = sum(max(row["variance"]) > row["variance"][0] for row in rows), turn.get("zero", 0)
    off = f"shrinks in {turn.get('shrinks', 0)}, undefined (E ĝ = 0) in {turn.get('undefined', 0)}"
    entries: list[tuple[Any, str]] = []
    for name, (mark, shade, words) in LOOKS.items():
        look = Line2D([], [], ls="none", marker=mark, ms=3, color=DARK, mfc="white" if name == "zero" else DARK)
        entries.append(((Patch(fc=shade, ec=MIDDLE, lw=0.4), look), f"bias {words}: {bias.get(name, 0)} rows"))
    for look, words in (
        ({"color": DARK}, "bias |E ĝ − g|/|g|, thick: 0 (or rounding), else 0.01 … 30; Var ĝ/|g|²: 10⁻⁴ … 100"),
        ({"color": MIDDLE, "ls": ":"}, f"direction bias |E ĝ − s·g|/|s·g|: hollow mark where 0 ({straight}); {off}"),
        ({"marker": ".", "ls": ""}, f"largest after G = {data['sizes'][0]} (variance: {up} rows)"),
        ({"marker": "|", "ls": ""}, f"larger G refused ({short} rows, {len(data['refused'])} sizes)"),
    ):
        entries.append((Line2D([], [], **{"lw": 0.9, "color": "black", **look}), words))
    handles, labels = zip(*entries, strict=True)
    axes.legend(handles, labels, ncols=2, fontsize=6, frameon=False, loc="center", borderpad=0)


def _moving(axes: Axes, data: dict[str, Any]) -> None:
    """Relative biases that shrink or grow, by name."""
    ends: dict[tuple[float, float], list[str]] = {}
    for row in (row for row in data["rows"] if row["bias_kind"] in ("shrinks", "grows")):
        x, y = data["sizes"][: len(row["relative"])], row["relative"]
        axes.plot(x, y, marker=LOOKS[row["bias_kind"]][0], ms=2.5, lw=0.7, color=DARK)
        seen = max(k for k in range(len(y)) if y[k] > LEAST)
        ends.setdefault((x[seen], 10 ** round(np.log10(y[seen]), 1)), []).append(row["name"])
    for place, names in ends.items():
        axes.annotate(",\n".join(names), place, (4, 0), textcoords="offset points", fontsize=6, va="center")
    axes.set(ylim=(LEAST, 1.6), ylabel="relative bias\n|E ĝ − g|/|g|")
    _sizes(axes, data["sizes"])


def _noise(axes: Axes, data: dict[str, Any]) -> None:
    """G · Var ĝ relative to its value at the smallest G."""
    sizes, alone = np.array(data["sizes"]), sum(not row["peers"] for row in data["rows"])
    for row in sorted(data["rows"], key=lambda row: not row["peers"]):
        x, y = sizes[: len(row["variance"])], np.array(row["variance"]) * sizes[: len(row["variance"])]
        named, y = row["name"] in NAMED, y / y[0]
        look = {"lw": 1, "color": DARK} if named else {"lw": 0.5, "color": MIDDLE}
        axes.plot(x, y, **(look if row["peers"] else {"lw": 1.6, "color": "black"}), aa=False)
        if named:
            axes.annotate(row["name"], (x[-1], y[-1]), (4, 0), textcoords="offset points", fontsize=6, va="center")
    axes.annotate(f"{alone} rows that read no peers", (sizes[-1], 1), (4, 0), textcoords="offset points", fontsize=6)
    axes.plot(sizes, sizes / sizes[0], "--", color="black", lw=0.8)
    axes.annotate("Var ĝ as at G = 2", (13, 4.3), fontsize=6)
    axes.set(ylim=(0.1, 6), ylabel=f"G · Var ĝ\nrelative to G = {sizes[0]}")
    _sizes(axes, data["sizes"])


def _sizes(axes: Axes, sizes: list[int]) -> None:
    """Group sizes along x, with room for names."""
    axes.set(xscale="log", yscale="log", xlim=(sizes[0], sizes[-1] * 6), xlabel="group size G [responses]")
    axes.set_xticks(sizes, map(str, sizes))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
