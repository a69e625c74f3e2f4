"""Dividing by the length of a response, or by the tokens of its group, against constant divisors."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tpg import truth
from tpg.audit import error_bound
from tpg.estimators import advantages, aggregation
from tpg.estimators.estimator import Estimator
from tpg.figures.style import DARK, MIDDLE, figure
from tpg.moments import collapse, report, report_of
from tpg.numbers import FLOAT64, Array
from tpg.problem.problem import Problem, make
from tpg.problem.tree import grow
from tpg.problem.zoo import response_rewards

CLAIMS = ("prop:length", "claim:dr-grpo-unbiased")
CAPTION = (
    "One prompt, at most 3 tokens, reward 1 if token 1 occurs (middle: and so much per token), group-mean credits: "
    "dividing by |o| turns the gradient wherever lengths vary, also where reward and length are uncorrelated, by an "
    "amount that no group size mends (line: closed form E[1/L]∇J + ∇Cov(R, 1/L); dots: engine); dividing by the tokens "
    "of the group turns it by O(1/G), the same for leave-one-out credits; a constant divisor never does."
)
HORIZON, END = 3, 2
ENDING, PER_TOKEN = 0.3, 0.0  # of the panels in which they do not vary
UNCORRELATED = -0.4  # rewards per token near which R and 1/L are
SIZES = (2, 4, 8, 16, 32)
BY_LENGTH = Estimator("1/|o|", advantages.group_mean, aggregation.seq_mean_token_mean)
BY_TOKENS = Estimator("1/Σ|o|", advantages.group_mean, aggregation.token_mean)
LEFT_OUT = Estimator("1/Σ|o|, leave-one-out", advantages.rloo, aggregation.token_mean)
CONSTANT = Estimator("1/(G·T)", advantages.group_mean, aggregation.seq_mean_token_sum_norm)
AGREEMENT = 1e-10


def task(ending: float, per_token: float) -> Problem:
    """Every token ends the response with probability ``ending``; reward: token 1 occurs, and ``per_token`` · length."""
    tree = grow(3, HORIZON, 1, END)
    probs = np.tile([0.6 * (1 - ending), 0.4 * (1 - ending), ending], (tree.nodes, 1))
    rewards = response_rewards(tree, lambda w: (1 in w) + per_token * len(w), 1, FLOAT64)
    return make(tree, probs, rewards, end_token=END, field=FLOAT64, name=f"ending-{ending:g}-{per_token:g}")


def compute(smoke: bool) -> dict[str, Any]:
    """Direction bias against the probability of the end token, the correlation of reward and 1/L, and G."""
    many = 3 if smoke else 49
    ending = 0.98 * np.linspace(0, 1, many) ** 2
    tasks = [task(p, PER_TOKEN) for p in ending]
    paid = [task(ENDING, UNCORRELATED + more) for more in np.sinh(np.linspace(-2.5, 2.5, many)) / 5]
    sizes = SIZES[:2] if smoke else SIZES
    here = task(ENDING, PER_TOKEN)
    by_size = {row.name: [turn(here, row, size) for size in sizes] for row in (BY_LENGTH, BY_TOKENS, CONSTANT)}
    for size, turned in zip(sizes, by_size[BY_TOKENS.name], strict=True):
        assert abs(turn(here, LEFT_OUT, size) - turned) < AGREEMENT
    return {
        "ending": {"x": ending, **_curves(tasks)},
        "correlation": {"x": [correlation(each) for each in paid], **_curves(paid)},
        "size": {"x": sizes, "closed": [closed(here)] * len(sizes), **by_size},
    }


def _curves(tasks: list[Problem]) -> dict[str, list[float]]:
    """The engine at G = 2 and 8, and the closed form for 1/|o|, which it must reproduce."""
    out = {"closed": [closed(each) for each in tasks], BY_LENGTH.name: [turn(each, BY_LENGTH, 8) for each in tasks]}
    assert all(abs(a - b) < AGREEMENT for a, b in zip(out["closed"], out[BY_LENGTH.name], strict=True))
    for size in (2, 8):
        out[f"{BY_TOKENS.name}, G = {size}"] = [turn(each, BY_TOKENS, size) for each in tasks]
    return out | {CONSTANT.name: [turn(each, CONSTANT, 8) for each in tasks]}


def turn(problem: Problem, row: Estimator, size: int) -> float:
    """Direction bias from the engine, 0 within its rounding error."""
    found = collapse(problem, row, size)
    seen = report_of(found, truth.gradient(problem))
    turned = seen.direction_bias or 0.0
    assert seen.scale is not None
    return turned if turned > error_bound(found, row) / (seen.scale * seen.gradient_norm) else 0.0


def closed(problem: Problem) -> float:
    """Direction bias of E[1/L] ∇J + ∇Cov(R, 1/L), every gradient from the judge; the factor (G−1)/G drops out."""
    inverse = np.broadcast_to(1 / (problem.tree.depth + 1)[:, None], problem.probs.shape)
    (mean, slope), (shorter, inverse_slope) = _of(problem, problem.totals), _of(problem, inverse)
    _, both_slope = _of(problem, problem.totals * inverse)
    covariance = both_slope - mean * inverse_slope - shorter * slope
    found = report((shorter * slope + covariance).ravel(), 0.0, slope.ravel()).direction_bias or 0.0
    return found if found > AGREEMENT else 0.0


def _of(problem: Problem, worth: Array) -> tuple[float, Array]:
    """E[f(W)] and its gradient, from the judge; ``worth`` [N, V] is f where responses end."""
    paid = replace(problem, rewards=np.where(problem.ends, worth, 0.0))
    return float(truth.objective(paid)), truth.gradient(paid)


def correlation(problem: Problem) -> float:
    """Corr(R, 1/L) over responses."""
    inverse = np.broadcast_to(1 / (problem.tree.depth + 1)[:, None], problem.probs.shape)
    reward = problem.totals
    pairs = ((reward, inverse), (reward, reward), (inverse, inverse))
    both, own, length = (_of(problem, a * b)[0] - _of(problem, a)[0] * _of(problem, b)[0] for a, b in pairs)
    return both / float(np.sqrt(own * length))


def draw(data: dict[str, Any]) -> Figure:
    """Three panels that share the direction bias: end token, correlation, group size."""
    out = figure(7.2, 2.9)
    panels = dict(zip(("ending", "correlation", "size"), out.subplots(1, 3), strict=True))
    for key, axes in panels.items():
        found = dict(data[key])
        x, every = found.pop("x"), 1 if key == "size" else 4
        axes.plot(x, found.pop("closed"), "-", color=DARK, lw=1)
        for name, heights in found.items():
            axes.plot(x, heights, **_look(name), label=name, markevery=every, clip_on=False, zorder=3)
    for axes, limits in ((panels["ending"], (0, 1)), (panels["correlation"], (-1, 1))):
        axes.set(xlim=limits, ylim=(0, 0.55))
    panels["ending"].set_xlabel("probability of the end token")
    panels["ending"].set_ylabel("direction bias\n|E ĝ − scale·g| / |scale·g|")
    panels["correlation"].set_xlabel("correlation of R and 1/|o|")
    _by_size(panels["size"], data["size"]["x"])
    handles, names = panels["ending"].get_legend_handles_labels()
    out.legend(handles, names, ncols=4, frameon=False, loc="outside lower center")
    return out


def _by_size(axes: Axes, sizes: list[int]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_yscale("symlog", linthresh=1e-3, linscale=0.4)
    axes.set_ylim(0, 1)
    axes.set_xticks(sizes, map(str, sizes))
    axes.set_yticks([0, 1e-3, 1e-2, 1e-1, 1], ["0", "0.001", "0.01", "0.1", "1"])
    axes.set_xlabel("group size G [responses]")
    for text, size, height in (("1/|o|", 8, 0.45), ("1/Σ|o|", 8, 0.045), ("1/(G·T): 0", 8, 1.5e-4)):
        axes.annotate(text, (size, height), fontsize=7)


def _look(name: str) -> dict[str, Any]:
    """Dots for 1/|o|, whose line is the closed form; blue for token counts, dotted for the constant."""
    if name == BY_LENGTH.name:
        return {"color": DARK, "ls": "none", "marker": "o", "ms": 3.5}
    if name == CONSTANT.name:
        return {"color": "black", "ls": ":", "lw": 1.5}
    several = name.endswith("8")
    return {"color": MIDDLE, "ls": "--" if several else "-.", "marker": "v" if several else "^", "ms": 3.5}
