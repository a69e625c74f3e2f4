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
from tpg.estimators.parts import Part
from tpg.estimators.table import ESTIMATORS
from tpg.figures.style import DARK, MIDDLE, figure
from tpg.moments import collapse
from tpg.moments.cost import generated_tokens
from tpg.numbers import FLOAT64, Array
from tpg.problem import zoo
from tpg.problem.problem import Problem, make
from tpg.problem.tree import grow

CLAIMS = ("claim:more-rollouts-pay", "prop:rollout-cost")
CAPTION = (
    "Telescoped blocks at fixed anchors, each value the mean of the best number K of fresh continuations, against "
    "RLOO at large G; five random policies (lines: geometric mean, bars: smallest and largest), two tokens, RM = "
    "2·[the critical token] + a number in (0, 1) for each response.  Bottom, as TRePO and VinePPO have it, every "
    "response draws K continuations of the prompt too: only one anchor right after an early critical token wins, and "
    "only over a long horizon.  Top: that value, the prompt's mean, is shared by the group and free, as it is for "
    "RLOO: then an anchor after an early critical token wins at every horizon, and one before the last token wins "
    "over a long horizon when that token decides, because a continuation is one token there.  A value at every token "
    "loses in both for a late critical token and for random rewards, the longer the response the more."
)
KINDS = {"critical token first": 0, "critical token last": -1, "random rewards": None}
CRITICAL = 2  # rewards
POLICIES = 5
EVEN = 1e-9  # relative: two routes to one number
FIRST, MIDST, LAST, EVERY = "one after the first token", "one in the middle", "one before the last token", "every token"


def readings(horizon: int) -> dict[str, tuple[int, ...]]:
    """Where the anchors are: after so many tokens."""
    return {FIRST: (1,), MIDST: (horizon // 2,), LAST: (horizon - 1,), EVERY: tuple(range(1, horizon))}


def compute(smoke: bool) -> dict[str, Any]:
    """Var ĝ × generated tokens against RLOO's, for every reading, kind of reward and horizon, both ways to get M_0."""
    horizons, seeds = (range(3, 5), range(1)) if smoke else (range(3, 11), range(POLICIES))
    out: dict[str, Any] = {"horizon": list(horizons), "panels": []}
    for kind, critical in KINDS.items():
        problems = {horizon: [task(critical, horizon, seed) for seed in seeds] for horizon in horizons}
        for root, part in ROOTS.items():
            curves = {name: _curve(problems, name, part) for name in readings(3)}
            out["panels"].append({"kind": kind, "root": root, "curves": curves})
    return out


def _curve(problems: dict[int, list[Problem]], name: str, part: Part) -> dict[str, list[list[float]]]:
    found = [[_against_rloo(each, part, readings(n)[name]) for each in some] for n, some in problems.items()]
    return {key: [[pair[i] for pair in each] for each in found] for i, key in enumerate(("ratio", "best"))}


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


def shared_root(anchor: Array, length: Array, continuation_value: Array, expected_reward: Array) -> Array:
    """``continuations.block``, the first block with the prompt's own mean."""
    mean = np.broadcast_to(expected_reward[..., None], continuation_value[..., :1].shape)
    values = np.concatenate([mean, continuation_value[..., 1:]], axis=-1)
    return continuations.block(anchor, length, values)


ROOTS: dict[str, Part] = {"shared": shared_root, "own": continuations.block}


def _against_rloo(problem: Problem, part: Part, places: tuple[int, ...]) -> tuple[float, int]:
    """(V + C/K)(T + K·c) at its best K, over that of RLOO at large G; and K."""
    exact = Estimator("blocks", part, anchors=partial(at, places=places))
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


TITLES = {"shared": "root free", "own": "root drawn too"}


def draw(data: dict[str, Any]) -> Figure:
    """A column for each kind of reward, a row for each way to get the prompt's mean."""
    out = figure(7.2, 4.8)
    grid = out.subplots(len(TITLES), len(KINDS), sharex=True, sharey=True)
    kinds, roots, places = list(KINDS), list(TITLES), np.array(data["horizon"])
    for found in data["panels"]:
        axes = grid[roots.index(found["root"]), kinds.index(found["kind"])]
        for shift, (name, curve) in zip((-0.12, -0.04, 0.04, 0.12), found["curves"].items(), strict=True):
            ratio, look = np.array(curve["ratio"]), LOOKS[name]
            axes.vlines(places + shift, ratio.min(1), ratio.max(1), color=look["color"], lw=0.7, alpha=0.6)
            axes.plot(places + shift, np.exp(np.log(ratio).mean(1)), label=name, lw=1.3, ms=4, **look)
        axes.axhline(1, color="black", lw=0.8, zorder=1)
        axes.set_yscale("log")
        axes.set_title(f"{found['kind']}; {TITLES[found['root']]}", loc="left")
        axes.set_xticks(places)
    grid[0, 0].set_yticks([0.2, 0.5, 1, 2, 5, 10], ["0.2", "0.5", "1", "2", "5", "10"])
    grid[0, 0].minorticks_off()
    for axes in grid[-1]:
        axes.set_xlabel("horizon T [tokens]")
    for axes in grid[:, 0]:
        axes.set_ylabel("generated tokens for the same noise\n(variance × tokens), RLOO = 1", fontsize=7)
    out.legend(
        *grid[0, 0].get_legend_handles_labels(), ncols=4, frameon=False, loc="outside lower center", title="anchors:"
    )
    return out
