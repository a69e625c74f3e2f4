"""σ-normalisation of two-valued rewards as a learning rate h'_G(p), and what the rate does across prompts."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from tpg import truth
from tpg.estimators import advantages
from tpg.estimators.estimator import Estimator
from tpg.figures.style import DARK, MIDDLE, figure
from tpg.moments import collapse, report_of
from tpg.numbers import FLOAT64
from tpg.problem.problem import Problem, make
from tpg.problem.tree import grow

CLAIMS = ("prop:sigma", "claim:grpo-rate", "claim:sigma-one-constant")
CAPTION = (
    "Rewards 0 and 1: dividing by the group's σ multiplies the gradient of a prompt by h'_G(p) (lines: closed form, "
    "markers: exact engine), constant in the success probability p for G ≤ 3 and never below 1; from G = 4 on it is "
    "larger for prompts that are nearly always or nearly never solved, so that the gradient over two prompts turns."
)
SIZES = (2, 3, 4, 8, 16, 64)
Z_SCORE = Estimator("z-score", partial(advantages.z_score, ddof=0, eps=0.0), numbers="float64")
AGREEMENT = 1e-10
OTHER = 0.5  # success probability of the second prompt


def rate(size: float, p: float) -> float:
    """h'_G(p) = Σ_{k=1}^{G−1} C(G,k) p^{k−1} (1−p)^{G−k−1} √(k(G−k)) / G (prop:count-rules, population σ)."""
    if math.isinf(size):
        return 1 / math.sqrt(p * (1 - p))
    total = int(size)
    terms = (math.comb(total, k) * p ** (k - 1) * (1 - p) ** (total - k - 1) * _root(k, total) for k in range(1, total))
    return math.fsum(terms)


def _root(k: int, size: int) -> float:
    return math.sqrt(k * (size - k)) / size


def turn(size: float, p: float) -> float:
    """Direction bias of (h'(p) ∇p, h'(q) ∇q) against (∇p, ∇q), |∇p| ∝ p(1−p): the prompts share no parameter."""
    u, v = (p * (1 - p)) ** 2, (OTHER * (1 - OTHER)) ** 2  # ∝ |∇p|², |∇q|²
    mine, other = rate(size, p), rate(size, OTHER)
    scale = (mine * u + other * v) / (u + v)
    turned = math.sqrt(((mine - scale) ** 2 * u + (other - scale) ** 2 * v) / (u + v)) / scale
    return turned if turned > AGREEMENT else 0.0  # rounding


def one_token(*chances: float) -> Problem:
    """A prompt for each success probability: one token, reward 1 for the right one."""
    probs = [[1 - p, p] for p in chances]
    return make(grow(2, 1, len(chances)), probs, [[0, 1]] * len(chances), field=FLOAT64, name="one-token")


def compute(smoke: bool) -> dict[str, Any]:
    """Closed forms on a fine grid of p, the engine on a coarse one; the two must agree."""
    fine = np.linspace(0.01, 0.99, 9 if smoke else 99)
    coarse = np.linspace(0.05, 0.95, 3 if smoke else 10)
    curves = []
    for size in SIZES:
        lines = {"rate": [rate(size, p) for p in fine], "turn": [turn(size, p) for p in fine]}
        marks = {"rate": [_measured(size, p) for p in coarse], "turn": [_turned(size, p) for p in coarse]}
        for p, h, turned in zip(coarse, marks["rate"], marks["turn"], strict=True):
            assert abs(h / rate(size, p) - 1) < AGREEMENT
            assert abs(turned - turn(size, p)) < AGREEMENT
        curves.append({"size": size, "lines": lines, "marks": marks})
    limit = {"rate": [rate(math.inf, p) for p in fine], "turn": [turn(math.inf, p) for p in fine]}
    return {"p": fine, "marked": coarse, "curves": curves, "limit": limit}


def _measured(size: int, p: float) -> float:
    """⟨E ĝ, g⟩/⟨g, g⟩ from the engine."""
    problem = one_token(p)
    return report_of(collapse(problem, Z_SCORE, size), truth.gradient(problem)).scale or 0.0


def _turned(size: int, p: float) -> float:
    """Direction bias over two prompts of equal weight, from the engine."""
    problem = one_token(p, OTHER)
    found = report_of(collapse(problem, Z_SCORE, size), truth.gradient(problem)).direction_bias or 0.0
    return found if found > AGREEMENT else 0.0  # rounding


def draw(data: dict[str, Any]) -> Figure:
    """The rate, and the turn over two prompts, against the success probability."""
    out = figure(7.2, 2.9)
    panels = dict(zip(("rate", "turn"), out.subplots(1, 2), strict=True))
    shades, styles = (DARK,) * 3 + (MIDDLE,) * 3, ("-", "--", "-.") * 2
    for curve, shade, style, mark in zip(data["curves"], shades, styles, "osD^vX", strict=True):
        looks = {"color": shade, "marker": mark, "mec": DARK, "mew": 0.5, "ms": 4}
        for key, axes in panels.items():
            axes.plot(data["p"], curve["lines"][key], style, color=shade, lw=1.2)
            axes.plot(data["marked"], curve["marks"][key], ls="none", clip_on=False, **looks)
        panels["rate"].plot([], [], style, lw=1.2, label=f"G = {curve['size']}", **looks)
    for key, axes in panels.items():
        axes.plot(data["p"], data["limit"][key], ":", color="black", label="G → ∞" if key == "rate" else None)
        axes.set_xlim(0, 1)
        axes.set_xlabel("success probability p of the prompt")
    panels["rate"].set_yscale("log")
    panels["rate"].set_yticks([1, math.sqrt(2), 2, 3, 5, 8], ["1", "√2", "2", "3", "5", "8"])
    panels["rate"].tick_params(axis="y", which="minor", left=False, labelleft=False)
    panels["rate"].set_ylabel("h′(p), multiple of the gradient ∇p")
    panels["turn"].set_ylabel("direction bias over two prompts,\nthe other with success 1/2")
    out.legend(frameon=False, loc="outside right center")
    return out
