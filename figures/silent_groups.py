"""How often all rewards of a group are equal, and what an exact advantage still learns when all of them are 0."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from tpg import truth
from tpg.estimators import advantages
from tpg.estimators.estimator import Estimator
from tpg.estimators.parts import peers
from tpg.figures.style import DARK, MIDDLE, figure
from tpg.moments import brute_force, collapse, report_of
from tpg.numbers import FLOAT64, Array
from tpg.problem.problem import Problem, make
from tpg.problem.tree import grow
from tpg.problem.zoo import response_rewards
from tpg.rollouts import every

CLAIMS = ("prop:silent-group", "claim:silent-batch-still-trains")
CAPTION = (
    "Left: a group is silent with probability p^G + (1−p)^G (lines; dots: every group counted, up to G = 8).  Right: "
    "given that all G responses fail, group-relative credits are 0, while M_t − M_{t−1} keeps, whatever G, p/(1−p) of "
    "the first-order gain |g|² where one token decides, 1 − 1/T + p/(1−p) where all T = 4 tokens must be right, so at "
    "least 3/4 however hard the prompt, and p/(T(1−p)) where any of them suffices (lines: these forms; dots: exact "
    "engine)."
)
SIZES, COUNTED = (2, 4, 8, 16, 64), 8
LENGTH = 4
AGREEMENT = 1e-10
TASKS: dict[str, tuple[int, Callable[[tuple[int, ...]], int]]] = {
    "all 4 tokens must be right": (LENGTH, lambda w: int(all(w))),
    "one token decides": (1, lambda w: w[0]),
    "any of 4 tokens suffices": (LENGTH, lambda w: int(any(w))),
}


@peers("reward")
def all_fail(reward: Array) -> Array:
    """[..., 1] bool: no response of the group has a reward."""
    return (reward == 0).all(-1, keepdims=True)


FAILING = Estimator("exact_advantage, given that all fail", advantages.exact_advantage, keep=all_fail)
RELATIVE = Estimator("rloo, given that all fail", advantages.rloo, keep=all_fail)


def task(name: str, p: float) -> Problem:
    """Two tokens, each right with the same chance, such that the response succeeds with probability ``p``."""
    length, rule = TASKS[name]
    right = {"all": p ** (1 / length), "one": p, "any": 1 - (1 - p) ** (1 / length)}[name[:3]]
    tree = grow(2, length, 1)
    probs = np.tile([1 - right, right], (tree.nodes, 1))
    return make(tree, probs, response_rewards(tree, rule, 1, FLOAT64), field=FLOAT64, name=name)


def remaining(name: str, p: float) -> float:
    """⟨E[ĝ | all fail], g⟩ / |g|² in closed form."""
    odds = p / (1 - p)
    return {"all": 1 - 1 / LENGTH + odds, "one": odds, "any": odds / LENGTH}[name[:3]]


def compute(smoke: bool) -> dict[str, Any]:
    """Closed forms on a fine grid of p, counted groups and engines on a coarse one; they must agree."""
    fine = np.linspace(0, 1, 11 if smoke else 101)
    hard = np.geomspace(0.01, 0.9, 5 if smoke else 61)
    coarse, coarse_hard = fine[1:-1:3] if smoke else fine[5:100:10], hard[::2] if smoke else hard[::6]
    silent, shares = [], []
    for size in SIZES:
        counted = [_counted(size, p) for p in coarse] if size <= COUNTED else []
        assert np.allclose(counted, [p**size + (1 - p) ** size for p in coarse[: len(counted)]], rtol=AGREEMENT, atol=0)
        silent.append({"size": size, "chance": fine**size + (1 - fine) ** size, "counted": counted})
    for name in TASKS:
        line, engine = [remaining(name, p) for p in hard], [_remaining(task(name, p)) for p in coarse_hard]
        assert np.allclose(engine, [remaining(name, p) for p in coarse_hard], rtol=AGREEMENT, atol=0)
        shares.append({"task": name, "share": line, "engine": engine})
    return {"p": fine, "marked": coarse, "silent": silent, "hard": hard, "hard_marked": coarse_hard, "shares": shares}


def _counted(size: int, p: float) -> float:
    """P(all rewards equal), group by group."""
    total = 0.0
    for _, singles, members, chance in every(task("one token decides", p), size):
        reward = singles.reward[members]
        total += float(chance[(reward == reward[:, :1]).all(1)].sum())
    return total


def _remaining(problem: Problem) -> float:
    """The same share at G = 2, group by group, and at G = 8 by class; group-relative credits keep nothing."""
    g = truth.gradient(problem)
    few, many = brute_force(problem, FAILING, 2), collapse(problem, FAILING, 8)
    shares = [report_of(each, g).scale or 0.0 for each in (few, many)]
    assert abs(shares[0] / shares[1] - 1) < AGREEMENT
    assert not brute_force(problem, RELATIVE, 2).mean.any()
    return shares[1]


def draw(data: dict[str, Any]) -> Figure:
    """Probability of silence; what remains of the gain."""
    out = figure(7.2, 2.8)
    left, right = out.subplots(1, 2)
    shades, styles = (DARK, DARK, DARK, MIDDLE, MIDDLE), ("-", "--", "-.", "-", "--")
    for curve, shade, style in zip(data["silent"], shades, styles, strict=True):
        left.plot(data["p"], curve["chance"], style, color=shade, label=f"G = {curve['size']}", clip_on=False)
        left.plot(data["marked"][: len(curve["counted"])], curve["counted"], "o", color=shade, ms=3)
    left.set(xlim=(0, 1), ylim=(0, 1), xlabel="success probability p of the prompt")
    left.set_ylabel("probability of a silent group")
    left.legend(frameon=False, loc="upper center", ncols=1)
    looks = (("-", DARK, (0.012, 1.0)), ("--", DARK, (0.011, 0.09)), ("-.", MIDDLE, (0.06, 0.006)))
    for curve, (style, shade, place) in zip(data["shares"], looks, strict=True):
        right.plot(data["hard"], curve["share"], style, color=shade)
        right.plot(data["hard_marked"], curve["engine"], "o", color=shade, ms=3)
        right.annotate(curve["task"], place, color=shade)
    right.set(xscale="log", yscale="log", xlim=(0.01, 1), xlabel="success probability p of the prompt")
    right.xaxis.set_major_formatter("{x:g}")
    right.yaxis.set_major_formatter("{x:g}")
    right.set_ylabel("given that all fail: ⟨E ĝ, g⟩ / |g|²")
    return out
