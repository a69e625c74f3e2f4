"""Bias against variance of off-policy ratios as the policy that generates moves away from the current one."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tpg import truth
from tpg.estimators import advantages, offpolicy, ratios
from tpg.estimators.estimator import Estimator
from tpg.estimators.parts import Part
from tpg.figures.style import DARK, MIDDLE, figure
from tpg.moments import collapse, report_of
from tpg.numbers import FLOAT64, Array
from tpg.problem import zoo
from tpg.problem.problem import Problem

CLAIMS = ("prop:off-policy", "prop:off-policy-cut", "claim:token-surrogate-first-order")
CAPTION = (
    "Leave-one-out credits, G = 8, responses of the mixture (1−ε)π + ε·another policy at every prefix; each curve "
    "runs from ε = 0 (star) through the marks to ε = 0.5.  The ratio of the whole response is the only one without "
    "bias, and at ε = 0.5 the noisiest.  Token, prefix and geometric ratios have a bias of first order in ε, as no "
    "correction has, only smaller.  Truncating the sequence ratio at 2 takes back part of its noise for some bias; "
    "masking it outside [1/2, 2] takes back all of it at ε = 0.5, for more.  PPO's clip ends with less noise than any "
    "ratio that is neither clipped nor masked and with more bias than no correction at all.  Token ratios are at most "
    "1/(1−ε) ≤ 2, so that truncating them at 2 changes nothing."
)
SIZE, CAP, LOW = 8, 2, "1/2"
EXACT = 1e-12  # a bias below is that of float64


def geometric(sequence_ratio: Array, length: Array) -> Array:
    """GSPO's s = (Π_t π/μ)^{1/L}, unclipped."""
    return offpolicy.geometric(sequence_ratio, length)


RATIOS: dict[str, Part] = {
    "none": ratios.on_policy,
    "token": ratios.token_is,
    "prefix": ratios.prefix_is,
    "geometric": geometric,
    "sequence": ratios.sequence_is,
    "sequence, truncated": partial(ratios.clamp_sequence, high=CAP),
    "sequence, masked": partial(ratios.mask_sequence, low=LOW, high=CAP),
    "token, masked": partial(ratios.mask_token, low=LOW, high=CAP),
    "token, clipped (PPO)": ratios.ppo_clip,
}
TRUNCATED = partial(ratios.clamp_token, high=CAP)
PROBLEMS = {
    "T = 4, three tokens, unequal lengths": "random:seed=3,vocab=3,horizon=4,prompts=1,values=2",
    "T = 9, two tokens, fixed length": "random:seed=8,vocab=2,horizon=9,prompts=1,variable=0,values=2",
}


def compute(smoke: bool) -> dict[str, Any]:
    """Relative bias and variance / |g|² of every ratio for every ε; the sequence ratio must have no bias."""
    stale = np.linspace(0, 0.5, 3 if smoke else 26)
    out: dict[str, Any] = {"stale": stale, "size": SIZE, "panels": []}
    for title, spec in list(PROBLEMS.items())[: 1 if smoke else 2]:
        problem = zoo.get(spec).to(FLOAT64)
        other = zoo.simplex(np.random.Generator(np.random.Philox(5)), problem.probs.shape, FLOAT64)
        mixed = [replace(problem, behaviour=(1 - share) * problem.probs + share * other) for share in stale]
        curves = {name: _curve(mixed, part) for name, part in RATIOS.items()}
        assert not any(curves["sequence"]["bias"])
        assert np.allclose(_curve(mixed, TRUNCATED)["variance"], curves["token"]["variance"], rtol=EXACT, atol=0)
        out["panels"].append({"title": title, "curves": curves})
    return out


def _curve(problems: list[Problem], part: Part) -> dict[str, list[float]]:
    row = Estimator("rloo", advantages.rloo, ratio=part, numbers="float64")
    seen = [report_of(collapse(problem, row, SIZE), truth.gradient(problem)) for problem in problems]
    bias = [each.relative_bias if each.relative_bias > EXACT else 0.0 for each in seen]
    return {"bias": bias, "variance": [each.total_variance / each.gradient_norm**2 for each in seen]}


LOOKS: dict[str, dict[str, Any]] = {
    "none": {"color": "black", "ls": ":", "marker": "x"},
    "token": {"color": DARK, "ls": "-", "marker": "o"},
    "prefix": {"color": DARK, "ls": "--", "marker": "s", "mfc": "white"},
    "geometric": {"color": MIDDLE, "ls": "-", "marker": "D", "ms": 3.5},
    "sequence": {"color": "black", "ls": "-", "marker": "^", "lw": 1.8},
    "sequence, truncated": {"color": "black", "ls": "--", "marker": "^", "mfc": "white"},
    "sequence, masked": {"color": MIDDLE, "ls": "-.", "marker": "v", "mfc": "white"},
    "token, masked": {"color": DARK, "ls": ":", "marker": "o", "mfc": "white"},
    "token, clipped (PPO)": {"color": MIDDLE, "ls": "--", "marker": "P"},
}
MARKED = (0.1, 0.2, 0.3, 0.4, 0.5)  # ε


def draw(data: dict[str, Any]) -> Figure:
    """A panel per problem in the plane of bias and variance."""
    out = figure(7.2, 3.9)
    panels = out.subplots(1, len(data["panels"]), squeeze=False)[0]
    stale = np.array(data["stale"])
    marks = [int(np.abs(stale - share).argmin()) for share in MARKED]
    for axes, panel in zip(panels, data["panels"], strict=True):
        for name, curve in panel["curves"].items():
            axes.plot(
                curve["bias"],
                curve["variance"],
                markevery=marks,
                label=name,
                clip_on=False,
                **{"ms": 4, "lw": 1.2, **LOOKS[name]},
            )
        start = panel["curves"]["none"]
        axes.plot(start["bias"][0], start["variance"][0], "*", color="black", ms=10, clip_on=False, zorder=5)
        axes.set_title(panel["title"], loc="left")
        axes.set_xlim(left=0)
        axes.set_xlabel("relative bias |E ĝ − g| / |g|")
    panels[0].set_ylabel(f"variance Var ĝ / |g|²,  G = {data['size']}")
    _staleness(panels[-1], data["panels"][-1]["curves"]["sequence"], marks)
    out.legend(
        *panels[0].get_legend_handles_labels(),
        ncols=5,
        frameon=False,
        loc="outside lower center",
        title="ratio (marks: ε = 0.1, 0.2, …, 0.5)",
    )
    return out


def _staleness(axes: Axes, curve: dict[str, list[float]], marks: list[int]) -> None:
    for place, share in zip(marks[-3:], MARKED[-3:], strict=True):  # the others are too close to each other
        where = curve["bias"][place], curve["variance"][place]
        axes.annotate(f"ε = {share:g}", where, (6, -2), textcoords="offset points", fontsize=6.5)
