"""Bias and variance of every row against G: all rows are there, four equal closed forms, planted faults are caught."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tpg.estimators import advantages, aggregation
from tpg.estimators.table import ESTIMATORS
from tpg.figures import run
from tpg.moments import moments
from tpg.numbers import FLOAT64, Array
from tpg.problem.problem import Problem

SOURCE = Path(__file__).resolve().parents[1] / "figures" / "bias_variance_every_row.py"
DATA = json.loads(SOURCE.with_suffix(".json").read_text(encoding="utf-8"))
SIZES = np.array(DATA["sizes"])
LANES = {row["name"]: row for row in DATA["rows"]}


@pytest.fixture(scope="module")
def figure() -> ModuleType:
    return run.load(SOURCE)


@pytest.fixture(scope="module")
def smoke(figure: ModuleType) -> Any:
    return run.rounded(figure.compute(True))


# All rows


def complete(data: dict[str, Any]) -> None:
    """Every row has a number or a reason at every G, and no row of another table is there."""
    counted = {(row["name"], size) for row in data["rows"] for size in data["sizes"][: len(row["variance"])]}
    refused = {(each["name"], each["size"]) for each in data["refused"]}
    assert counted | refused == set(itertools.product(ESTIMATORS, data["sizes"]))
    assert not counted & refused
    assert all(each["reason"] for each in data["refused"])
    for row in data["rows"]:
        assert len(row["relative"]) == len(row["direction"]) == len(row["variance"])
    assert sum(data["counts"]["bias_kind"].values()) == sum(data["counts"]["turn_kind"].values()) == len(data["rows"])


def test_every_row_is_counted_or_refused_with_a_reason(smoke: Any) -> None:
    complete(smoke)
    complete(DATA)
    assert SIZES.tolist() == [2, 4, 8, 16, 32, 64]
    assert list(LANES) == list(ESTIMATORS)
    assert {"lower the group size" in each["reason"] for each in DATA["refused"]} == {True}


def test_small_groups_are_committed_as_they_are_computed(smoke: Any) -> None:
    # Wrong: numbers of an older table or problem beside a figure that draws them.
    for row in smoke["rows"]:
        for key in ("relative", "direction", "variance"):
            for mine, theirs in zip(row[key], LANES[row["name"]][key], strict=False):
                assert (mine is None) == (theirs is None)
                assert mine is None or mine == pytest.approx(theirs, rel=1e-7, abs=1e-11), (row["name"], key)


# Closed forms


class Listed:
    """One prompt, response by response, with nothing of the engine: chance under π and μ, RM, Σ_t S_t."""

    def __init__(self, problem: Problem, prompt: int) -> None:
        self.problem, self.found = problem, []
        self.weight = problem.weights[prompt]
        self._walk(prompt, 1.0, 1.0, 0.0, np.zeros(problem.probs.shape), 0)
        columns = zip(*self.found, strict=True)
        self.chance, self.sampled, self.reward, self.score = (np.array(column) for column in columns)

    def _walk(self, node: int, chance: float, sampled: float, reward: float, score: Array, t: int) -> None:
        problem = self.problem
        children = np.cumsum(problem.tree.inner.ravel()).reshape(problem.tree.inner.shape)  # breadth-first
        behaviour = problem.probs if problem.behaviour is None else problem.behaviour
        for token in range(2):
            mine = score.copy()
            mine[node] -= problem.probs[node]
            mine[node, token] += 1
            both = chance * problem.probs[node, token], sampled * behaviour[node, token]
            paid = reward + 0.9**t * problem.rewards[node, token]
            if problem.tree.inner[node, token]:
                self._walk(problem.tree.prompts + children[node, token] - 1, *both, paid, mine, t + 1)
            else:
                self.found.append((*both, paid, mine.ravel()))


def listed(figure: ModuleType, stale: bool = False) -> list[Listed]:
    problem = figure.task(stale).to(FLOAT64)
    return [Listed(problem, prompt) for prompt in range(problem.prompts)]


def gradient(prompts: list[Listed]) -> Array:
    """g = Σ_x weight(x) E[R Z], Z = Σ_t S_t."""
    return sum(x.weight * (x.chance * x.reward) @ x.score for x in prompts)


def test_the_listing_is_the_problem(figure: ModuleType) -> None:
    for x in listed(figure, stale=True):
        assert len(x.chance) == 4
        assert x.chance.sum() == pytest.approx(1)
        assert x.sampled.sum() == pytest.approx(1)
        assert sorted(x.reward.round(9).tolist()) in ([0, 1, 3, 3], [0, 0, 1, 3])
        np.testing.assert_allclose(x.chance @ x.score, 0, atol=1e-15)


def spread(chance: Array, values: Array) -> float:
    """E‖v‖² − ‖E v‖²."""
    mean = chance @ values
    return float(chance @ (values**2).sum(1) - mean @ mean)


def test_reinforce_is_unbiased_with_the_variance_of_one_response_over_g(figure: ModuleType) -> None:
    # ĝ_x is a mean of G independent R Z with E R Z = g_x, prompts are independent:
    # Var ĝ = Σ_x weight(x)² (E‖R Z‖² − ‖g_x‖²) / G.
    prompts = listed(figure)
    one = sum(x.weight**2 * spread(x.chance, x.reward[:, None] * x.score) for x in prompts)
    g = gradient(prompts)
    assert LANES["reinforce"]["relative"] == [0] * len(SIZES)
    np.testing.assert_allclose(LANES["reinforce"]["variance"], one / (g @ g) / SIZES, rtol=1e-8)


def test_importance_weights_of_whole_responses_leave_no_bias(figure: ModuleType) -> None:
    # Responses from μ, credit ρ R with ρ = π(W)/μ(W): E_μ[ρ R Z] = E_π[R Z], and the variance is that of ρ R Z over G.
    prompts = listed(figure, stale=True)
    weighed = [(x.chance / x.sampled * x.reward)[:, None] * x.score for x in prompts]
    one = sum(x.weight**2 * spread(x.sampled, values) for x, values in zip(prompts, weighed, strict=True))
    g = gradient(prompts)
    assert LANES["sequence_is"]["relative"] == [0] * len(SIZES)
    np.testing.assert_allclose(LANES["sequence_is"]["variance"], one / (g @ g) / SIZES, rtol=1e-8)


def test_leave_one_out_is_a_u_statistic_and_the_group_mean_a_multiple_of_it(figure: ModuleType) -> None:
    # R_i − mean of the others = Σ_{j≠i} (R_i − R_j)/(G−1), so ĝ_x = mean over pairs of h = (R_i − R_j)(Z_i − Z_j)/2.
    # E h = E R Z = g_x since E Z = 0: no bias.  Hoeffding: Var = 4(G−2)/(G(G−1)) ζ₁ + 2/(G(G−1)) ζ₂ with
    # ζ₁ = Var E[h | one of the two], ζ₂ = Var h.  The group mean has R_i − mean of all = (G−1)/G (R_i − mean of the
    # others): bias 1/G, direction unturned, variance ((G−1)/G)² of it; Dr. GRPO divides that by T = 3 once more.
    prompts, first, second = listed(figure), 0.0, 0.0
    for x in prompts:
        pairs = [list(axis) for axis in zip(*itertools.product(range(4), repeat=2), strict=True)]
        i, j = map(np.array, pairs)
        h = ((x.reward[i] - x.reward[j]) / 2)[:, None] * (x.score[i] - x.score[j])
        given = np.einsum("j,ijd->id", x.chance, h.reshape(4, 4, -1))
        first += x.weight**2 * spread(x.chance, given)
        second += x.weight**2 * spread(x.chance[i] * x.chance[j], h)
    g = gradient(prompts)
    variance = (4 * (SIZES - 2) * first + 2 * second) / (SIZES * (SIZES - 1)) / (g @ g)
    assert LANES["rloo"]["relative"] == LANES["rloo"]["direction"] == [0] * len(SIZES)
    np.testing.assert_allclose(LANES["rloo"]["variance"], variance, rtol=1e-8)
    shrink = 1 - 1 / SIZES
    assert LANES["group_mean"]["relative"] == (1 / SIZES).tolist()
    np.testing.assert_allclose(LANES["group_mean"]["variance"], shrink**2 * variance, rtol=1e-8)
    np.testing.assert_allclose(LANES["dr_grpo"]["relative"], 1 - shrink / 3, rtol=1e-9)
    np.testing.assert_allclose(LANES["dr_grpo"]["variance"], shrink**2 / 9 * variance, rtol=1e-8)
    assert LANES["group_mean"]["direction"] == LANES["dr_grpo"]["direction"] == [0] * len(SIZES)


def test_best_of_n_follows_the_distribution_of_the_best(figure: ModuleType) -> None:
    # Credit G/m on each of the m best, over G: ĝ_x = mean of Z over the best.  Given that the largest reward is r, they
    # are drawn from π(· | R = r), whatever their number: E ĝ_x = Σ_r P(max = r) E[Z | R = r], and
    # P(max = r) = P(R ≤ r)^G − P(R < r)^G.  Not g, and not a multiple of it: the bias stays.
    prompts = listed(figure)
    g, means = gradient(prompts), []
    for size in SIZES:
        mean = np.zeros(len(g))
        for x in prompts:
            value = x.reward.round(9)
            for r in np.unique(value):
                best = x.chance[value <= r].sum() ** size - x.chance[value < r].sum() ** size
                mine = x.chance * (value == r)
                mean += x.weight * best * (mine @ x.score) / mine.sum()
        means.append(mean)
    off = [np.linalg.norm(mean - g) / np.linalg.norm(g) for mean in means]
    turned = [np.linalg.norm(mean / (mean @ g) * (g @ g) - g) / np.linalg.norm(g) for mean in means]
    np.testing.assert_allclose(LANES["best_of_n"]["relative"], off, rtol=1e-8)
    np.testing.assert_allclose(LANES["best_of_n"]["direction"], turned, rtol=1e-8)


# What is said of the kinds


def test_a_kind_is_what_the_bias_does_last(figure: ModuleType) -> None:
    for bias, kind in (
        ([0.0, 0.0], "zero"),
        ([0.5, 0.25], "shrinks"),
        ([0.5, 0.4, 0.28], "shrinks"),
        ([0.5, 0.4], "stays"),
        ([0.5, 0.5 * (1 + 1e-12)], "stays"),
        ([0.5, 0.6, 0.55], "grows"),
        ([0.5, 0.0], "shrinks"),
        ([0.5], "stays"),
        ([None, None], "undefined"),
    ):
        assert figure.kind(bias) == kind


def test_few_rows_lose_their_bias() -> None:
    assert {name for name, row in LANES.items() if row["bias_kind"] == "shrinks"} == {
        *("group_mean", "tic_grpo_bare", "opo", "corpo", "reinforce_rej", "optimal_token_baseline")
    }
    assert DATA["counts"]["bias_kind"]["stays"] > len(LANES) / 2


def test_variance_rises_only_where_credits_are_blind_to_the_scale_of_rewards(figure: ModuleType) -> None:
    # Divided by σ or a mean of the group, twice the rewards give the same E ĝ, but for 10⁻⁶ beside σ and a KL term.
    rising = {name for name, row in LANES.items() if row["variance"][1] > row["variance"][0]}
    assert {"maxrl", "grpo_clip", "tempo_std"} < rising
    for name in rising:
        problem = figure.task(LANES[name]["stale"]).to(FLOAT64)
        doubled = replace(problem, rewards=2 * problem.rewards)
        mine, other = (moments(each, ESTIMATORS[name], 2).mean for each in (problem, doubled))
        assert np.abs(mine - other).max() < 1e-3 * np.abs(mine).max(), name


# Planted faults


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("rloo", {"aggregation": aggregation.seq_mean_token_mean}, "rloo declares .* is turned"),
        ("group_mean", {"advantage": advantages.rloo}, "group_mean is short by 0"),
        ("group_mean", {"advantage": advantages.response_reward}, "group_mean is short by 0"),
    ],
)
def test_a_planted_row_is_caught(
    name: str, change: dict[str, Any], message: str, figure: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = replace(ESTIMATORS[name], **change)
    monkeypatch.setattr(figure, "FAMILIES", [SimpleNamespace(__name__="planted", ROWS=[row])])
    with pytest.raises(AssertionError, match=message):
        figure.compute(True)


def test_a_planted_lane_is_caught(figure: ModuleType) -> None:
    problem, sizes = figure.task(stale=False), (2, 4, 8)
    for name, key, values, message in (
        ("reinforce", "variance", [1.0, 0.5, 0.26], "variance is not 1/G"),
        ("reinforce", "relative", [0.1, 0.1, 0.2], "its bias moves"),
        ("passk_loo", "variance", [1.0, 1.5, 1.6], "variance rises"),
        ("passk_loo", "relative", [0.5, 0.4, 0.3], "neither shrinks nor stays"),
    ):
        found, _ = figure.lane(problem, ESTIMATORS[name], sizes)
        figure.check(problem, ESTIMATORS[name], sizes, found)
        with pytest.raises(AssertionError, match=message):
            figure.check(problem, ESTIMATORS[name], sizes, found | {key: values})
