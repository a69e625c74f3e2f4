"""Fresh continuations against plain responses at equal generated tokens: where anchors pay, K optimised."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from tpg.estimators import continuations
from tpg.estimators.estimator import Estimator
from tpg.estimators.table import ESTIMATORS
from tpg.figures.style import DARK, MIDDLE, figure
from tpg.moments import collapse
from tpg.moments.cost import generated_tokens
from tpg.numbers import FLOAT64, Array
from tpg.problem import zoo
from tpg.problem.problem import Problem, make
from tpg.problem.tree import grow

CLAIM = "claim:more-rollouts-pay"
CAPTION = (
    "Telescoped blocks at fixed anchors, each value the mean of the best number K of fresh continuations, the "
    "prompt's mean known as it is to RLOO at large G; six random policies (bars: smallest and largest, lines: "
    "geometric mean), two tokens, RM = 2·[the critical token] + a number in (0, 1) for each response.  A value at "
    "every token (VinePPO with steps of one token) loses for a late critical token and for random rewards, the longer "
    "the response the more.  One anchor right after an early critical token wins.  So does one before the last token "
    "of a long response when that token decides, since a continuation is one token there: early anchors are not the "
    "only ones that pay."
)
KINDS = {"critical token first": 0, "critical token last": -1, "random rewards": None}
CRITICAL = 2  # rewards
POLICIES = 6
EVEN = 1e-9  # relative: two routes to one number
FIRST, MIDST, LAST, EVERY = "one after the first token", "one in the middle", "one before the last token", "every token"


def readings(horizon: int) -> dict[str, tuple[int, ...]]:
    """Where the anchors are: after so many tokens."""
    return {FIRST: (1,), MIDST: (horizon // 2,), LAST: (horizon - 1,), EVERY: tuple(range(1, horizon))}


def compute(smoke: bool) -> dict[str, Any]:
    """Var ĝ × generated tokens against RLOO's, for every reading, kind of reward and horizon."""
    horizons, seeds = (range(3, 5), range(1)) if smoke else (range(3, 11), range(POLICIES))
    out: dict[str, Any] = {"horizon": list(horizons), "panels": []}
    for kind, critical in KINDS.items():
        curves: dict[str, dict[str, list[Any]]] = {name: {"ratio": [], "best": []} for name in readings(3)}
        for horizon in horizons:
            problems = [task(critical, horizon, seed) for seed in seeds]
            for name, places in readings(horizon).items():
                found = [_against_rloo(problem, places) for problem in problems]
                curves[name]["ratio"].append([ratio for ratio, _ in found])
                curves[name]["best"].append([best for _, best in found])
        out["panels"].append({"kind": kind, "curves": curves})
    return out


def task(critical: int | None, horizon: int, seed: int) -> Problem:
    """Two tokens, a random policy; the critical token is worth ``CRITICAL``, the rest of the reward is chance."""
    rng = np.random.Generator(np.random.Philox(seed))
    tree = grow(2, horizon, 1)
    probs, chance = zoo.simplex(rng, tree.inner.shape, FLOAT64), rng.random((2,) * horizon)

    def rule(tokens: tuple[int, ...]) -> float:
        return float(chance[tokens]) + (0 if critical is None else CRITICAL * tokens[critical])

    return make(tree, probs, zoo.response_rewards(tree, rule, 1, FLOAT64), field=FLOAT64)


def at(horizon: int, *, places: tuple[int, ...]) -> tuple[Array, Array]:
    """The law of anchors that are always at ``places``."""
    pattern = np.zeros((1, horizon + 1), dtype=bool)
    pattern[0, list(places)] = True
    return pattern, np.full((1, horizon + 1), Fraction(1), dtype=object)


def block(anchor: Array, length: Array, continuation_value: Array, expected_reward: Array) -> Array:
    """``continuations.block``, the first block with the prompt's own mean."""
    mean = np.broadcast_to(expected_reward[..., None], continuation_value[..., :1].shape)
    values = np.concatenate([mean, continuation_value[..., 1:]], axis=-1)
    return continuations.block(anchor, length, values)


def _against_rloo(problem: Problem, places: tuple[int, ...]) -> tuple[float, int]:
    """(V + C/K)(T + K·c) at its best K, over that of RLOO at large G; and K."""
    exact = Estimator("blocks", block, anchors=partial(at, places=places))
    one, length = replace(exact, continuations=1), problem.horizon
    fixed, extra = _variance(problem, exact), float(generated_tokens(problem, one, 1)) - length
    noise = _variance(problem, one) - fixed
    turn = math.sqrt(noise * length / (fixed * extra))
    cost, best = min(
        ((fixed + noise / k) * (length + k * extra), k) for k in {max(1, math.floor(turn)), math.ceil(turn)}
    )
    found = _variance(problem, replace(exact, continuations=best))
    assert abs(found * (length + best * extra) / cost - 1) < EVEN  # Var(K) = Var(∞) + C/K
    return cost / (_variance(problem, ESTIMATORS["reinforce_baseline"]) * length), best


def _variance(problem: Problem, row: Estimator) -> float:
    return float(collapse(problem, row, 1).total_variance)


LOOKS: dict[str, dict[str, Any]] = {
    FIRST: {"color": DARK, "ls": "-", "marker": "o"},
    MIDST: {"color": MIDDLE, "ls": "--", "marker": "s"},
    LAST: {"color": MIDDLE, "ls": "-", "marker": "v", "mfc": "white"},
    EVERY: {"color": "black", "ls": ":", "marker": "x"},
}


def draw(data: dict[str, Any]) -> Figure:
    """A panel for each kind of reward."""
    out = figure(7.2, 3.1)
    panels = out.subplots(1, 3, sharey=True)
    places = np.array(data["horizon"])
    for axes, found in zip(panels, data["panels"], strict=True):
        for shift, (name, curve) in zip((-0.12, -0.04, 0.04, 0.12), found["curves"].items(), strict=True):
            ratio, look = np.array(curve["ratio"]), LOOKS[name]
            axes.vlines(places + shift, ratio.min(1), ratio.max(1), color=look["color"], lw=0.7, alpha=0.6)
            middle = np.exp(np.log(ratio).mean(1))
            axes.plot(places + shift, middle, label=name, lw=1.3, ms=4, **look)
        axes.axhline(1, color="black", lw=0.8, zorder=1)
        axes.set_yscale("log")
        axes.set_title(found["kind"], loc="left")
        axes.set_xlabel("horizon T [tokens]")
        axes.set_xticks(places)
    panels[0].set_yticks([0.2, 0.5, 1, 2, 5, 10], ["0.2", "0.5", "1", "2", "5", "10"])
    panels[0].minorticks_off()
    panels[0].set_ylabel("generated tokens for the same noise\n(variance × tokens), RLOO = 1")
    out.legend(
        *panels[0].get_legend_handles_labels(), ncols=4, frameon=False, loc="outside lower center", title="anchors:"
    )
    return out
