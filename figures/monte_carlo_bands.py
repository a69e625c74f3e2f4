"""Sampled groups against the exact moments: running mean and variance of ĝ along g, inside their exact bands."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tpg import truth
from tpg.estimators import core
from tpg.estimators.estimator import Estimator
from tpg.figures.style import DARK, LIGHT, figure
from tpg.moments import moments
from tpg.montecarlo.streams import stream
from tpg.numbers import FLOAT64, Array
from tpg.problem import zoo
from tpg.problem.problem import Problem
from tpg.rollouts import Responses, every
from tpg.rollouts import draw as sampled

CLAIMS = ("thm:trajectory-pg", "thm:advantage", "prop:reinforce-family")
CAPTION = (
    "Running mean and variance of ĝ along g (in units of |g|, |g|²) over sampled groups of 4 per prompt, five runs on "
    "three-valued, against exact values ± 3 exact standard errors (shaded; none is estimated): the mean settles on 1, "
    "that is on g, for REINFORCE, leave-one-out and M_t − M_{t−1}, and on the exact E ĝ of GRPO, DAPO and GAE with a "
    "limited critic, which is not g.  Percentages: points inside the band, 99.7 if they were normal."
)
ROWS = {row.name: row for row in core.ROWS}
SHOWN = ("reinforce", "rloo", "exact_advantage", "gae_position_critic", "grpo", "dapo")
SIZE, RUNS, SAMPLES, FIRST, POINTS = 4, 5, 1 << 15, 32, 41
ERRORS = 3.0
AGREEMENT = 1e-9


def compute(smoke: bool) -> dict[str, Any]:
    """Exact moments along g, their bands, and what the runs say on the way."""
    size, runs, samples = (2, 2, 256) if smoke else (SIZE, RUNS, SAMPLES)
    problem = zoo.three_valued().to(FLOAT64)
    after = np.unique(np.geomspace(FIRST, samples, 4 if smoke else POINTS).round().astype(int))
    panels = [_one(problem, ROWS[name], size, runs, after) for name in SHOWN]
    return {"problem": problem.name, "size": size, "samples": after, "panels": panels}


def _one(problem: Problem, row: Estimator, size: int, runs: int, after: Array) -> dict[str, Any]:
    g = problem.combine(truth.gradient(problem))
    along = _along(problem, g / (g @ g))  # ⟨ĝ, g⟩ / |g|²: in units of |g|
    mean, variance, fourth = _by_enumeration(problem, row, size, along)
    exact = moments(problem, row, size, covariance=True)
    assert abs(problem.combine(exact.mean) @ g / (g @ g) - mean) < AGREEMENT
    assert abs(g @ exact.covariance @ g / (g @ g) ** 2 / variance - 1) < AGREEMENT
    of_mean = ERRORS * np.sqrt(variance / after)
    of_variance = ERRORS * np.sqrt((fourth - variance**2 * (after - 3) / (after - 1)) / after)
    found = np.array([_run(problem, row, size, run, along, after) for run in range(runs)])  # [runs, 2, points]
    bands = {"mean": (mean, of_mean, found[:, 0]), "variance": (variance, of_variance, found[:, 1])}
    return {"estimator": row.name} | {name: _panel(*band) for name, band in bands.items()}


def _panel(exact: float, error: Array, runs: Array) -> dict[str, Any]:
    inside = float((np.abs(runs - exact) <= error).mean())
    return {"exact": exact, "low": exact - error, "high": exact + error, "runs": _short(runs), "inside": inside}


def _along(problem: Problem, direction: Array) -> Array:
    """[N, V] ⟨score(s, a), direction⟩, times the weight of the prompt."""
    table = direction.reshape(problem.probs.shape)
    return problem.weights[problem.tree.prompt][:, None] * (table - (problem.probs * table).sum(1, keepdims=True))


def _shadows(row: Estimator, singles: Responses, members: Array, along: Array) -> Array:
    """[...] ⟨ĝ, direction⟩ of the groups ``members`` [..., G]."""
    score = np.where(singles.mask, along[singles.node, singles.token], 0)
    return (row(singles.group(members, row.needs)) * score[members]).sum((-1, -2))


def _by_enumeration(problem: Problem, row: Estimator, size: int, along: Array) -> tuple[float, float, float]:
    """Mean, variance and fourth central moment over every group; cumulants of independent prompts add up."""
    seen: dict[int, list[Array]] = {}
    for prompt, singles, members, chance in every(problem, size, row.given):
        seen.setdefault(prompt, []).append(np.stack([chance, _shadows(row, singles, members, along)]))
    mean = variance = excess = 0.0
    for chance, shadow in (np.concatenate(parts, axis=1) for parts in seen.values()):
        first = float(chance @ shadow)
        second, fourth = (float(chance @ (shadow - first) ** k) for k in (2, 4))
        mean, variance, excess = mean + first, variance + second, excess + fourth - 3 * second**2
    return mean, variance, excess + 3 * variance**2


def _run(problem: Problem, row: Estimator, size: int, run: int, along: Array, after: Array) -> Array:
    """[2, points] running mean and variance."""
    rng = stream(0, "bands", problem.digest, row.name, size, run)
    singles, members = sampled(problem, size, rng, int(after[-1]), row.given)
    shadow = _shadows(row, singles, members, along).sum(1)  # over prompts
    count = np.arange(1, len(shadow) + 1)
    mean, square = np.cumsum(shadow) / count, np.cumsum(shadow**2) / count
    spread = (square - mean**2) * count / np.maximum(count - 1, 1)
    return np.stack([mean, spread])[:, after - 1]


def _short(values: Array) -> list[Any]:
    """Six digits are more than a line shows."""
    return [_short(v) if np.ndim(v) else float(f"{v:.5e}") for v in values]


def draw(data: dict[str, Any]) -> Figure:
    """A column per estimator: mean above, variance below."""
    out = figure(7.2, 3.4)
    panels = out.subplots(2, len(data["panels"]), sharex=True)
    for (above, below), panel in zip(panels.T, data["panels"], strict=True):
        _band(above, data["samples"], panel["mean"])
        _band(below, data["samples"], panel["variance"])
        above.axhline(1, color="black", ls=":", lw=1)
        name = panel["estimator"]
        above.set_title(name.replace("_", "_\n", 1) if len(name) > 9 else name, fontsize=7)
        below.set_xscale("log")
        below.set_xticks([100, 1000, 10000], ["10²", "10³", "10⁴"])
        below.set_xlim(data["samples"][0], data["samples"][-1])
    panels[0][0].set_ylabel("mean along g  [|g|]")
    panels[1][0].set_ylabel("variance along g  [|g|²]")
    panels[1][len(panels[1]) // 2].set_xlabel("sampled batches [groups of 4 per prompt]")
    return out


def _band(axes: Axes, x: list[int], found: dict[str, Any]) -> None:
    axes.fill_between(x, found["low"], found["high"], color=LIGHT, lw=0)
    axes.axhline(found["exact"], color=DARK, ls="--", lw=0.8)
    for run in found["runs"]:
        axes.plot(x, run, "-", color=DARK, lw=0.6)
    axes.annotate(f"{100 * found['inside']:.1f} %", (0.97, 0.05), xycoords="axes fraction", ha="right", fontsize=6)
    axes.tick_params(labelsize=6)
