"""Which KL gradient each placement of k1, k2 and k3 follows, on-policy and when an older policy generates."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from tpg.estimators import kl_expected
from tpg.estimators.table import ESTIMATORS
from tpg.figures.style import DARK, figure
from tpg.moments import collapse
from tpg.numbers import FLOAT64
from tpg.problem import zoo
from tpg.problem.problem import Problem

CLAIMS = ("prop:kl-table", "claim:k3-forward-kl", "claim:k3-unbiased-kl", "claim:k1-reward-equals-k2-loss")
CAPTION = (
    "How far −E ĝ/β of each placement is from four KL gradients: |−E ĝ/β − d| / |d|, and the cosine below.  On-policy "
    "every placement but three follows exactly one of them: k2, its straight-through form and k3 × ratio the reverse "
    "KL with states frozen, k3 in the loss (GRPO) the forward KL with states frozen, k1 in the reward and k2 of the "
    "response the reverse KL of whole responses, k3 of the response the forward KL of whole responses.  k1 in the "
    "loss follows nothing, k2 and k3 in the reward point away from all four here.  When an older policy generates, "
    "none of them follows any."
)
EXACT = 1e-12  # a distance below is that of float64
PLACEMENTS = {
    "kl_k1_loss": "k1 in loss",
    "kl_k2_loss": "k2 in loss",
    "kl_k3_straight_through": "k3, slope of k2 (verl k3+)",
    "kl_k3_ratio_loss": "k3 × ratio in loss",
    "kl_k3_loss": "k3 in loss (GRPO)",
    "kl_k1_reward": "k1 in reward, to go (PPO)",
    "kl_k1_reward_full": "k1 in reward, full return",
    "kl_k2_sequence_loss": "k2 of the response in loss",
    "kl_k3_sequence_loss": "k3 of the response in loss",
    "kl_k2_reward": "k2 in reward",
    "kl_k3_reward": "k3 in reward",
}
GRADIENTS = {
    "reverse,\nfrozen": kl_expected.frozen_reverse,
    "forward,\nfrozen": kl_expected.frozen_forward,
    "reverse,\nsequence": kl_expected.whole_reverse,
    "forward,\nsequence": kl_expected.whole_forward,
}
PROBLEMS = {"on-policy": "referenced", "an older policy generates": "stale"}


def compute(smoke: bool) -> dict[str, Any]:
    """[placement, gradient] relative distances and cosines (None for E ĝ = 0), on-policy and off."""
    names = list(PLACEMENTS)[:3] if smoke else list(PLACEMENTS)
    panels = [{"title": title, **_table(zoo.get(name).to(FLOAT64), names)} for title, name in PROBLEMS.items()]
    return {"placements": [PLACEMENTS[name] for name in names], "gradients": list(GRADIENTS), "panels": panels}


def _table(problem: Problem, names: list[str]) -> dict[str, Any]:
    wanted = [problem.combine(gradient(problem)) for gradient in GRADIENTS.values()]
    unit = [np.linalg.norm(d) for d in wanted]
    rows = [_followed(problem, name) for name in names]
    apart = np.array([[np.linalg.norm(mean - d) / n for d, n in zip(wanted, unit, strict=True)] for mean in rows])
    cosines = [[_cosine(mean, d) for d in wanted] for mean in rows]
    return {"problem": problem.name, "distance": np.where(apart < EXACT, 0, apart), "cosine": cosines}


def _followed(problem: Problem, name: str) -> np.ndarray:
    """−E ĝ/β: what the row descends; one response does, credits read no peers."""
    row = ESTIMATORS[name]
    return -problem.combine(collapse(problem, row, 1).mean) / row.advantage.keywords["beta"]


def _cosine(mean: np.ndarray, wanted: np.ndarray) -> float | None:
    length = np.linalg.norm(mean)
    return None if length < EXACT else float(mean @ wanted / (length * np.linalg.norm(wanted)))


def draw(data: dict[str, Any]) -> Figure:
    """Two tables with one list of placements, the darker the closer."""
    out = figure(7.2, 4.6)
    panels = out.subplots(1, 2, sharey=True)
    for axes, panel in zip(panels, data["panels"], strict=True):
        _heat(axes, panel)
        axes.set_xticks(range(len(data["gradients"])), data["gradients"])
        axes.set_title(f"{panel['title']} ({panel['problem']})", loc="left")
    panels[0].set_yticks(range(len(data["placements"])), data["placements"])
    out.supxlabel(
        "gradient of KL(π‖π_ref) (reverse) or KL(π_ref‖π) (forward), states frozen or of whole responses", fontsize=8
    )
    return out


def _heat(axes: Axes, panel: dict[str, Any]) -> None:
    shades = LinearSegmentedColormap.from_list("near", [DARK, "#b4c9da", "white"])
    distance = np.array(panel["distance"])
    axes.imshow(distance, cmap=shades, vmin=0, vmax=1, aspect="auto")
    for (row, column), apart in np.ndenumerate(distance):
        cosine = panel["cosine"][row][column]
        below = "cos undefined" if cosine is None else "" if apart == 0 else f"cos {cosine:.2f}".replace("-", "−")
        look = {"color": "white" if apart < 0.22 else "black", "ha": "center"}
        if apart == 0:
            axes.text(column, row, "0", va="center", weight="bold", fontsize=9, **look)
            continue
        axes.text(column, row - 0.03, f"{apart:.2f}" if apart < 10 else f"{apart:.0f}", va="bottom", fontsize=7, **look)
        axes.text(column, row + 0.07, below, va="top", fontsize=6, **look)
    axes.grid(visible=False)
    axes.tick_params(length=0)
    axes.spines[["left", "bottom"]].set_visible(False)
    for edge in range(1, distance.shape[0]):
        axes.axhline(edge - 0.5, color="white", lw=1)
    for edge in range(1, distance.shape[1]):
        axes.axvline(edge - 0.5, color="white", lw=1)
