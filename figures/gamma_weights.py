"""How much each token counts when a response reward is discounted back with γ ≠ 1."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from tpg.estimators import advantages
from tpg.estimators.parts import apply
from tpg.figures.style import DARK, LIGHT, MIDDLE, figure
from tpg.rollouts import Rollouts

CLAIMS = ("prop:gamma-weight",)
CAPTION = (
    "With γ < 1 and the reward on the last token, the usual credit γ^{L−t} R weights token t by (1/γ)^{t−1} against "
    "the first; keeping the factor γ^{t−1} makes all tokens equal."
)
DISCOUNTS, LENGTH = (0.9, 0.95, 0.99), 50


def compute(smoke: bool) -> dict[str, Any]:
    """Credit of every position relative to the first, from the estimators' own advantage parts."""
    length = 5 if smoke else LENGTH
    out: dict[str, Any] = {"position": np.arange(1, length + 1), "curves": []}
    for gamma in DISCOUNTS:
        mask = np.ones((1, length), dtype=bool)
        one = Rollouts(1, length, gamma, reward=np.ones(1), length=np.array([length]), mask=mask)
        usual, kept = apply(advantages.zra_discounted, one)[0], apply(advantages.zra_discounted_start, one)[0]
        out["curves"].append({"gamma": gamma, "dropped": usual / usual[0], "kept": np.full(length, kept / kept)})
    return out


def draw(data: dict[str, Any]) -> Figure:
    """Weight against position, logarithmic; a line per discount."""
    out = figure(3.6, 2.4)
    axes = out.subplots()
    for curve, colour, style in zip(data["curves"], (DARK, MIDDLE, LIGHT), ("-", "--", "-."), strict=True):
        axes.plot(data["position"], curve["dropped"], style, color=colour, label=f"γ = {curve['gamma']}")
    axes.plot(data["position"], data["curves"][0]["kept"], ":", color="black", label="$γ^{t−1}$ kept, any γ")
    axes.set_yscale("log")
    axes.set_xlabel("position t [tokens]")
    axes.set_ylabel("weight of token t, first token = 1")
    axes.legend(frameon=False)
    return out
