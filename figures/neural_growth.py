"""Time and memory of a transformer's exact gradient against the number of prefixes, drawn from the recorded benchmark.

``python -m benchmarks.neural`` measures and records; nothing is timed here.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tpg.figures.style import DARK, LIGHT, MIDDLE, figure

CLAIMS = ("neural:exact-gradient",)
CAPTION = (
    "The exact gradient of a transformer (two layers of width 64, float64) costs what its Σ V^t ≈ V^(T−1) prefixes "
    "cost, whatever V and T: from a thousand on, seconds follow the dotted line of slope 1.  Differentiating every "
    "response (open) costs more, and the more the larger V·T is, but on the smallest trees.  Memory grows up to the "
    "chunk and stays there: filled what was held, open squares what the check before work plans with.  Seconds and "
    "bytes are recorded, on the machine named above each row."
)
RECORD = Path(__file__).resolve().parents[1] / "benchmarks" / "neural.json"
MARKERS = {2: "v", 4: "^", 8: "o", 16: "D", 32: "s", 64: "P"}  # by vocabulary
NAMES = {"cpu": "CPU", "cuda": "GPU"}
LARGE = 1000  # prefixes, from where a time is that of the sums and not of starting them


def compute(smoke: bool) -> dict[str, Any]:
    """The record, and the slope of log seconds in log prefixes."""
    known = json.loads(RECORD.read_text(encoding="utf-8"))
    return {"devices": [_device(known[name]) for name in NAMES if name in known]}


def _device(found: dict[str, Any]) -> dict[str, Any]:
    rows = sorted(found["growth"] + found.get("largest", [])[:1], key=lambda row: row["prefixes"])
    speed = found["speed"]
    unique = {(row["vocab"], row["horizon"]): _case(row) for row in rows}
    unique[speed["vocab"], speed["horizon"]]["enumeration"] = speed["seconds"]["enumeration"]["median"]
    cases = list(unique.values())
    large = [case for case in cases if case["prefixes"] >= LARGE]
    x, y = (np.log([case[name] for case in large]) for name in ("prefixes", "seconds"))
    return {"machine": found["machine"], "cases": cases, "slope": float(np.polyfit(x, y, 1)[0])}


def _case(row: dict[str, Any]) -> dict[str, Any]:
    names = ("vocab", "horizon", "prefixes", "responses", "largest", "peak", "planned")
    other = row["enumeration"]["median"] if "enumeration" in row else None
    return {name: row[name] for name in names} | {"seconds": row["seconds"]["median"], "enumeration": other}


def draw(data: dict[str, Any]) -> Figure:
    """Seconds and memory, a row per device."""
    rows = len(data["devices"])
    out = figure(7.2, 0.3 + 2.6 * rows)
    for axes, device in zip(out.subplots(rows, 2, squeeze=False), data["devices"], strict=True):
        _seconds(axes[0], device)
        _memory(axes[1], device["cases"])
        axes[0].set_title(_words(device["machine"]), loc="left")
    return out


def _words(machine: dict[str, Any]) -> str:
    name = machine.get("name", NAMES[machine["device"]])
    return f"{name}, {machine['threads']} of {machine['cores']} cores, torch {machine['torch']}"


def _seconds(axes: Axes, device: dict[str, Any]) -> None:
    cases, last = device["cases"], device["cases"][-1]
    ends = np.array([cases[0]["prefixes"], last["prefixes"]], dtype=float)
    axes.plot(ends, last["seconds"] / last["prefixes"] * ends, ":", color="black", lw=1)
    for vocab, marker in MARKERS.items():
        mine = [case for case in cases if case["vocab"] == vocab]
        if mine:
            style = {"marker": marker, "ms": 4.5, "color": DARK, "ls": "none"}
            axes.plot(*_points(mine, "seconds"), **style, label=f"V = {vocab}")
            slow = [case for case in mine if case["enumeration"] is not None]
            axes.plot(*_points(slow, "enumeration"), **style | {"color": MIDDLE, "mfc": "white"})
    axes.annotate("line: slope 1", (0.97, 0.10), xycoords="axes fraction", ha="right", fontsize=7)
    axes.annotate(f"fit: slope {device['slope']:.2f}", (0.97, 0.03), xycoords="axes fraction", ha="right", fontsize=7)
    axes.annotate("open: every response\ndifferentiated", (0.03, 0.66), xycoords="axes fraction", fontsize=7)
    axes.legend(frameon=False, fontsize=6, ncols=3, loc="upper left", handletextpad=0.1, columnspacing=0.8)
    axes.set_ylabel("seconds")
    _logarithmic(axes)


def _memory(axes: Axes, cases: list[dict[str, Any]]) -> None:
    for vocab, marker in MARKERS.items():
        mine = [case for case in cases if case["vocab"] == vocab]
        for name, color, fill in (("planned", MIDDLE, "white"), ("peak", DARK, DARK)):
            x, y = _points(mine, name)
            shown = "s" if name == "planned" else marker
            axes.plot(x, [v / 2**20 for v in y], shown, ms=4.5, color=color, mfc=fill)
    held = max(case["largest"] for case in cases)
    axes.axvline(held, color=LIGHT, lw=1.5, zorder=0)
    text = f"chunk: at most\n{held:,} prefixes\nat once"
    axes.annotate(text, (1.25 * held, 0.03), xycoords=("data", "axes fraction"), fontsize=7)
    axes.annotate("open: planned", (0.03, 0.93), xycoords="axes fraction", fontsize=7)
    axes.set_ylabel("peak memory [MiB]")
    _logarithmic(axes)


def _points(cases: list[dict[str, Any]], name: str) -> tuple[list[int], list[float]]:
    return [case["prefixes"] for case in cases], [case[name] for case in cases]


def _logarithmic(axes: Axes) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel(r"prefixes $\sum_{t<T} V^t$")
