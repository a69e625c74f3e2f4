"""Sampled ĝ against exact bands: every row is there, fourth moments are right, and what is planted falls outside."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from functools import wraps
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from tpg.estimators.estimator import Estimator
from tpg.estimators.table import ESTIMATORS
from tpg.figures import run
from tpg.numbers import FLOAT64, Array
from tpg.problem import zoo

SOURCE = Path(__file__).resolve().parents[1] / "figures" / "monte_carlo_every_row.py"
SIZE, AFTER = 2, np.array([256, 4096])


@pytest.fixture(scope="module")
def bands() -> ModuleType:
    return run.load(SOURCE)


def committed() -> Any:
    return json.loads(SOURCE.with_suffix(".json").read_text(encoding="utf-8"))


def test_every_row_is_drawn_or_refused_with_a_reason(bands: ModuleType) -> None:
    for data in (run.rounded(bands.compute(True)), committed()):
        shown, refused = [row["name"] for row in data["rows"]], {row["name"]: row["reason"] for row in data["refused"]}
        assert sorted([*shown, *refused]) == sorted(ESTIMATORS)
        assert all(refused.values())
        for row in data["rows"]:
            for kind in bands.KINDS:
                assert np.isfinite(np.array(row[kind].split(), dtype=float)).all()
                assert len(row[kind].split()) == len(data["samples"])


def test_what_is_committed_says_what_the_caption_says(bands: ModuleType) -> None:
    data = committed()
    assert data["refused"] == []
    for kind, whole in data["whole"].items():
        final = sorted(float(row[kind].split()[-1]) for row in data["rows"])
        np.testing.assert_allclose(final, whole["final"], rtol=0, atol=0.006)
        assert whole["largest"] < data["beyond"]
        assert abs(whole["rms"] - 1) < 3 * whole["rms_error"]
        assert whole["inside"] > 0.99
    assert all(row["mutant_caught"] for row in data["rows"])
    assert {row["name"] for row in data["rows"] if row["stale"]} >= {"ppo", "gspo", "rank_grpo", "grpo_kl", "tpo"}


# Planted mistakes


def final(bands: ModuleType, row: Estimator, law: tuple[float, ...] | None = None) -> Array:
    """[2] final deviations of ``row`` from ``law``, or from its own."""
    problem = bands.task(stale=False)
    values = bands.draws(problem, row, SIZE, AFTER[-1])
    return np.asarray(bands.deviations(law or bands.exact(problem, row, SIZE), values, AFTER)[:, -1])


def larger(row: Estimator) -> Estimator:
    """Every credit × 1.2."""
    same = row.advantage

    @wraps(same)
    def advantage(*args: Any, **options: Any) -> Array:
        return 1.2 * same(*args, **options)

    return replace(row, advantage=advantage)


@pytest.mark.parametrize(
    "name", ["reinforce", "rloo", "grpo", "dapo_same_prompt", "lite_ppo", "tempo", "trepo_block_subset", "rto_to_go"]
)
def test_larger_credits_and_a_shifted_mean_fall_outside(name: str, bands: ModuleType) -> None:
    # Wrong: bands so wide that every sampler is inside.
    row = ESTIMATORS[name]
    mean, variance, fourth = bands.exact(bands.task(stale=False), row, SIZE)
    assert (np.abs(final(bands, row)) < 4.5).all()
    assert final(bands, larger(row), (mean, variance, fourth))[1] > 5
    error = np.sqrt(variance / AFTER[-1])
    assert abs(final(bands, row, (mean + 10 * error, variance, fourth))[0]) > 5


def test_groups_that_should_be_drawn_again_fall_outside(bands: ModuleType) -> None:
    row = ESTIMATORS["dapo_same_prompt"]
    law = bands.exact(bands.task(stale=False), row, SIZE)
    assert abs(final(bands, replace(row, keep=None), law)[0]) > 10


def test_fewer_continuations_than_counted_fall_outside(bands: ModuleType) -> None:
    # Wrong: noise of one continuation counted as that of the mean of four.
    problem = bands.task(stale=False)
    one, four = (ESTIMATORS[f"exact_advantage_k{k}"] for k in (1, 4))
    assert final(bands, one, bands.exact(problem, four, SIZE))[1] > 10


# Fourth moments


def moments_of(cases: list[tuple[float, float]]) -> tuple[float, float, float]:
    """Mean, variance and fourth central moment of (chance, value)."""
    chance, value = np.array(cases).T
    mean = chance @ value
    return mean, chance @ (value - mean) ** 2, chance @ (value - mean) ** 4


def test_fourth_moments_with_drawn_continuations_by_hand(bands: ModuleType) -> None:
    # One token: A = R − B, B a fresh draw of R.  g = ½ p(1−p) (−1, 1) and score (−1, 1)·(a − p).
    odds = (0.1, 0.9)
    slope = [0.5 * p * (1 - p) for p in odds]  # of g along (−1, 1), for each prompt
    norm = sum(2 * s * s for s in slope)  # |g|²
    cases: list[tuple[float, float]] = [(1.0, 0.0)]
    for p, s in zip(odds, slope, strict=True):
        own = []
        for reward, fresh in itertools.product((0, 1), repeat=2):
            chance = (p if reward else 1 - p) * (p if fresh else 1 - p)
            own.append((chance, 0.5 * (reward - fresh) * (reward - p) * 2 * s / norm))
        cases = [(a * b, x + y) for (a, x), (b, y) in itertools.product(cases, own)]
    found = bands.exact(zoo.hard_easy(FLOAT64), ESTIMATORS["exact_advantage_k1"], 1)
    np.testing.assert_allclose(found, moments_of(cases), rtol=1e-12)


@pytest.mark.parametrize("name", ["reinforce", "rloo", "dapo_same_prompt", "gpg", "exact_advantage", "trepo_anchors"])
def test_fourth_moments_by_listing_every_batch(name: str, bands: ModuleType) -> None:
    problem, row = zoo.hard_easy(FLOAT64), ESTIMATORS[name]
    singles = bands.rollouts.responses(problem, row.given)
    own = [np.flatnonzero(singles.prompt == x) for x in range(problem.prompts)]
    members = np.array(list(itertools.product(*[own[0]] * 4, *[own[1]] * 4))).reshape(-1, 2, 4)
    chance = singles.probability[members].prod((1, 2)) * bands._kept(row, singles, members).all(1)
    shadow = bands._shadows(problem, row, singles, members, 4).sum(1)
    expected = moments_of(list(zip(chance / chance.sum(), shadow, strict=True)))
    np.testing.assert_allclose(bands.exact(problem, row, 4), expected, rtol=1e-12)
