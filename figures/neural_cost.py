"""What one update costs on a transformer, by method: memory by its parts beside generated tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from tpg.figures.style import DARK, LIGHT, MIDDLE, figure

CLAIMS = ("neural:cost",)
CAPTION = (
    "One update of a small transformer, a group of responses to each prompt, every number counted on the update "
    "itself.  While it trains, TRePO (both readings, at two random anchors) and VinePPO hold byte for byte what GRPO "
    "without a reference network holds, about half of what PPO with a critic as large as the policy does; all of them "
    "generate several times as many tokens.  While they generate, thin bars, they hold no more than GRPO does if the "
    "continuations come in turns, as many sequences at once as there are responses (white ticks).  All at once, keys "
    "and values stay below what the update takes anyway just as long as a response has no more continuations than the "
    "update has room for, about ten: two for each value at a few places fit, two for a value after every token do not."
)
PROMPTS, GROUP, CONTINUATIONS, ANCHORS = 2, 8, 2, 2
PARTS = ("parameters", "optimiser", "gradients", "activations")
SOURCES = ("response_tokens", "greedy_tokens", "continuation_tokens")
PAPER = ("TRePO, blocks", "TRePO, advantages", "VinePPO, steps", "VinePPO, every token")


def compute(smoke: bool) -> dict[str, Any]:
    """One update per method, continuations all at once and in turns; then what the caption says of them."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # tiny products
    try:
        return _compute(smoke)
    finally:
        torch.set_num_threads(threads)


def _compute(smoke: bool) -> dict[str, Any]:
    from tpg.neural import cost, gpt
    from tpg.neural.rewards import HashReward
    from tpg.neural.task import Task

    sizes = {"vocab": 8, "horizon": 6 if smoke else 16, "prompts": PROMPTS}
    network = {"layers": 2, "width": 16 if smoke else 64, "heads": 4}
    task = Task(sizes["vocab"], sizes["horizon"], HashReward(), weights=(1 / PROMPTS,) * PROMPTS)
    policy, rows, costs = gpt.make(**sizes, **network), cost.methods(CONTINUATIONS, ANCHORS), {}
    for label, row in rows.items():
        once = cost.measure(row, policy, task, GROUP)
        turns = cost.measure(row, policy, task, GROUP, batch=PROMPTS * GROUP) if once.continuations else once
        costs[label] = once, turns
    grpo, ppo = costs["GRPO"][0], costs["PPO"][0]
    for label in PAPER:
        once, turns = costs[label]
        assert cost.matches_memory(turns, grpo).holds
        assert cost.simpler(once, ppo).holds
        fits = once.at_once <= cost.room(grpo) * grpo.responses
        assert cost.matches_memory(once, grpo).holds == fits
        assert smoke or fits == (label != "VinePPO, every token")
        assert turns.tokens == once.tokens > 2 * grpo.tokens
    return {
        "sizes": {**sizes, **network, "group": GROUP, "continuations": CONTINUATIONS, "anchors": ANCHORS},
        "room": cost.room(grpo),
        "methods": {
            label: {
                **once.to_json(),
                "in_turns": turns.generating,
                "over_grpo": cost.matches_memory(once, grpo).ratios,
                "over_ppo": cost.simpler(once, ppo).ratios,
            }
            for label, (once, turns) in costs.items()
        },
    }


LOOKS: dict[str, dict[str, Any]] = {
    "parameters": {"color": DARK},
    "optimiser": {"color": MIDDLE},
    "gradients": {"color": "white", "edgecolor": DARK, "hatch": "////", "lw": 0.5},
    "activations": {"color": LIGHT},
}
NAMES = {
    "parameters": "parameters",
    "optimiser": "Adam's state",
    "gradients": "gradients",
    "activations": "saved activations",
    "response_tokens": "responses",
    "greedy_tokens": "greedy responses",
    "continuation_tokens": "continuations",
}
MEGA = 1e6


def draw(data: dict[str, Any]) -> Figure:
    """Memory of both phases on the left, generated tokens on the right, a row per method."""
    out = figure(7.2, 4.2)
    memory, tokens = out.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    labels, found = list(data["methods"]), list(data["methods"].values())
    place = np.arange(len(labels))
    _memory(memory, place, found)
    start = np.zeros(len(labels))
    for source, colour in zip(SOURCES, (DARK, "black", MIDDLE), strict=True):
        wide = np.array([each[source] for each in found])
        tokens.barh(place, wide, 0.5, left=start, color=colour, label=NAMES[source])
        start += wide
    for y, wide in zip(place, start, strict=True):
        tokens.annotate(f"{wide:.0f}", (wide, y), (3, 0), textcoords="offset points", va="center", fontsize=7)
    tokens.set_xlabel("generated tokens per update")
    tokens.set_xlim(right=1.18 * start.max())
    memory.set_yticks(place, labels)
    memory.invert_yaxis()
    for axes in (memory, tokens):
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
        axes.legend(
            loc="upper right", bbox_to_anchor=(1, 1.02), frameon=True, framealpha=1, edgecolor="none", fontsize=7
        )
    return out


def _memory(axes: Any, place: Any, found: list[dict[str, Any]]) -> None:
    """Thick bars: the update; thin ones below: generation, continuations all at once, with a tick where turns end."""
    start = np.zeros(len(found))
    for part in PARTS:
        wide = np.array([each[part] for each in found]) / MEGA
        axes.barh(place - 0.12, wide, 0.42, left=start, label=NAMES[part], **LOOKS[part])
        start += wide
    stays = np.array([each["resident"] for each in found]) / MEGA
    once = np.array([each["generating"] for each in found]) / MEGA
    turns = np.array([each["in_turns"] for each in found]) / MEGA
    axes.barh(place + 0.24, stays, 0.16, color="#8a8a8a", label="generating: networks, Adam")
    axes.barh(place + 0.24, once - stays, 0.16, left=stays, color="black", label="generating: keys and values")
    axes.set_xlabel("memory [MB], update above generation")
    grpo = next(each for each in found if each["row"] == "grpo")
    axes.axvline(grpo["peak"] / MEGA, color="black", ls=":", lw=1, label="GRPO's peak", zorder=0.5)
    for y, now, end in zip(place, once, turns, strict=True):
        if end < now:
            axes.plot([end, end], [y + 0.13, y + 0.35], color="white", lw=1.2)
