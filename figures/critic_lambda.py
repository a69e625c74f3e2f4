"""GAE(λ) with exact, limited and wrong critics: bias, variance and error, λ from 0 to 1."""

from __future__ import annotations

from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from tpg import truth
from tpg.audit import error_bound
from tpg.estimators import critics, expectations
from tpg.estimators.estimator import Estimator
from tpg.figures.style import DARK, MIDDLE, figure
from tpg.moments import collapse, report_of
from tpg.numbers import FLOAT64, Array
from tpg.problem import zoo
from tpg.problem.problem import Problem
from tpg.rollouts import responses

CLAIMS = ("prop:gae-pathwise", "prop:modelling-power")
CAPTION = (
    "GAE(λ), γ = 1, on two prompts with dense token rewards and unequal lengths.  With an exact critic E ĝ = g for "
    "every λ, it makes no difference on any path whether the rewards are paid token by token or all on the last one, "
    "and the variance grows with λ.  A critic that knows only the position, or a wrong one, is biased for every λ < 1, "
    "by the closed form (1−λ) Σ λ^k E[e S] (dots), and its error at G = 8 is smallest strictly between 0 and 1; with "
    "the position critic it matters where the rewards are paid."
)
SIZE = 8
NUMBERS = ("relative_bias", "variance", "mse")


def paid_by_token(token_reward: Array, mask: Array, value: Array, *, lam: Any) -> Array:
    """GAE(λ) on the true token rewards, γ = 1; ``value`` guesses the reward to go.  [..., G, T]."""
    rate, delta = Fraction(lam), np.where(mask, token_reward + value[..., 1:] - value[..., :-1], 0)
    out, carry = delta.copy(), delta[..., 0] * 0
    for t in reversed(range(mask.shape[-1])):
        carry = out[..., t] = delta[..., t] + carry * rate.numerator / rate.denominator
    return out


def past(problem: Problem) -> Array:
    """[N] reward collected before each prefix."""
    node, token = problem.tree.parent
    return np.where(node < 0, problem.field.scalar(0), problem.totals[node, token])


def to_go(problem: Problem) -> Array:
    """The exact critic of the reward to go: M(s) less what is already paid."""
    return problem.values[1] - past(problem)


def to_go_by_position(problem: Problem) -> Array:
    """One number per position: the mean of the reward to go over the prefixes of that length."""
    weight = problem.weights[problem.tree.prompt] * problem.reach
    mass = np.bincount(problem.tree.depth, weight)
    return (np.bincount(problem.tree.depth, weight * to_go(problem)) / mass)[problem.tree.depth]


CURVES = {
    "exact critic": (critics.gae, critics.exact_critic),
    "exact critic, paid by token": (paid_by_token, to_go),
    "position critic": (critics.gae, critics.position_critic),
    "position critic, paid by token": (paid_by_token, to_go_by_position),
    "wrong critic": (critics.gae, critics.wrong_critic),
}


def compute(smoke: bool) -> dict[str, Any]:
    """Exact reports on a grid of λ; the paths are compared in rationals."""
    rates = [Fraction(k, 3) for k in range(4)] if smoke else [Fraction(k, 40) for k in range(41)]
    exact = zoo.random(22)
    _same_on_every_path(exact, rates)
    problem, curves = exact.to(FLOAT64), {}
    for name, (advantage, critic) in CURVES.items():
        rows = [Estimator(name, partial(advantage, lam=rate), critic=critic) for rate in rates]
        found = [_one(problem, row) for row in rows]
        curves[name] = {key: [each[key] for each in found] for key in NUMBERS}
    for name in ("position critic", "wrong critic"):
        wanted = [closed(problem, CURVES[name][1], rate) for rate in rates]
        assert np.allclose(wanted, curves[name]["relative_bias"], rtol=0, atol=1e-12)
        curves[name]["closed"] = wanted
    return {"lambda": [float(rate) for rate in rates], "size": SIZE, "curves": curves}


def _same_on_every_path(problem: Problem, rates: list[Fraction]) -> None:
    late, true = (
        responses(problem, Estimator("", advantage, critic=critic).given)
        for advantage, critic in (CURVES["exact critic"], CURVES["exact critic, paid by token"])
    )
    for rate in rates:
        one = critics.gae(late.reward, late.length, late.mask, late.value, lam=rate)
        other = paid_by_token(true.token_reward, true.mask, true.value, lam=rate)
        assert ((one - other)[late.mask] == 0).all()


def _one(problem: Problem, row: Estimator) -> dict[str, float | None]:
    found = collapse(problem, row, SIZE)
    seen = report_of(found, truth.gradient(problem))
    small = seen.bias_norm <= error_bound(found, row)
    relative = 0.0 if small else seen.relative_bias
    noise = seen.total_variance / seen.gradient_norm**2
    return {"relative_bias": relative, "variance": noise, "mse": seen.mse_over_g2}


def closed(problem: Problem, critic: Any, rate: Fraction) -> float:
    """|(1−λ) Σ_k λ^k E[e(s_{t+k+1}) S_t]| / |g|, e = V − M."""
    bias = expectations.critic_bias(critic, rate)(problem, SIZE)
    return float(np.linalg.norm(problem.combine(bias)) / np.linalg.norm(problem.combine(truth.gradient(problem))))


def draw(data: dict[str, Any]) -> Figure:
    """Bias, variance and mean squared error against λ."""
    out = figure(7.2, 3.1)
    panels = dict(zip(NUMBERS, out.subplots(1, 3), strict=True))
    looks = {
        "exact critic": {"color": DARK, "ls": "-", "lw": 2.5},
        "exact critic, paid by token": {"color": "white", "ls": ":", "lw": 1.2},
        "position critic": {"color": MIDDLE, "ls": "-"},
        "position critic, paid by token": {"color": MIDDLE, "ls": "--"},
        "wrong critic": {"color": "black", "ls": "-."},
    }
    labels = {"exact critic": "exact critic (white: paid by token)", "exact critic, paid by token": None}
    for name, curve in data["curves"].items():
        for key, axes in panels.items():
            axes.plot(data["lambda"], curve[key], label=labels.get(name, name), clip_on=False, zorder=3, **looks[name])
        if "closed" in curve:
            look = {"color": looks[name]["color"], "ls": "none", "marker": "o", "ms": 3}
            panels["relative_bias"].plot(data["lambda"][::5], curve["closed"][::5], **look, clip_on=False, zorder=4)
    panels["relative_bias"].set_ylabel("relative bias  |E ĝ − g| / |g|")
    panels["variance"].set_ylabel(f"variance  Var ĝ / |g|²,  G = {data['size']}")
    panels["mse"].set_ylabel(f"mean squared error / |g|²,  G = {data['size']}")
    for axes in panels.values():
        axes.set_xlim(0, 1)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("λ")
    out.legend(*panels["mse"].get_legend_handles_labels(), ncols=2, frameon=False, loc="outside lower center")
    return out
