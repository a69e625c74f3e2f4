"""Claims on continuations and anchors refute wrong estimators, engines and gradients; what they list is whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np
import pytest

from paper_checks import common, continued, variances
from paper_checks.variances import Walks
from tpg.claims.cases import POINT_FIELD, cases
from tpg.claims.record import Claim
from tpg.claims.run import Outcome, run
from tpg.errors import TooLarge
from tpg.estimators import anchors, continuations, prefix_tree
from tpg.estimators.table import ESTIMATORS
from tpg.moments import brute_force, cost, noise
from tpg.numbers import RATIONAL, Array
from tpg.problem import zoo
from tpg.problem.problem import Problem

MODULES = (
    "prop_trepo_advantage_interpolation",
    "prop_trepo_value_interpolation",
    "prop_trepo_block",
    "prop_trepo_inverse_probability",
    "alg_trepo",
    "prop_rollout_variance",
    "claim_vineppo_unbiased",
    "claim_tempo_token_credit",
    "prop_rollout_cost",
    "claim_more_rollouts_pay",
    "claim_block_between",
    "claim_interpolation_only_noise",
)
WORDINGS = {  # what a publication says, and whether it is so
    "alg_trepo": "refuted",
    "claim_vineppo_unbiased": "confirmed",
    "claim_tempo_token_credit": "refuted",
    "claim_more_rollouts_pay": "refuted",
    "claim_block_between": "refuted",
    "claim_interpolation_only_noise": "refuted",
}
PROBLEMS = [case.problem(field, 7) for case in cases(("9/10",), quick=True) for field in (RATIONAL, POINT_FIELD)]
EACH = pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: f"{problem.name}, {problem.field.name[:2]}")


def claim(module: str) -> Claim:
    return import_module(f"paper_checks.{module}").CLAIM


def outcome(module: str) -> Outcome:
    return run(claim(module), quick=True)


@pytest.mark.parametrize("module", WORDINGS)
def test_published_wordings_have_their_fate(module: str) -> None:
    # With two tokens blocks do lie between their limits: the shapes of the full run are needed.
    found = run(claim(module), quick=module != "claim_block_between")
    assert (found.status, found.evidence) == ("holds", "MEASURED" if "pay" in module else "PROVED")
    assert (found.as_worded or "").partition(" ")[0] == WORDINGS[module]


# Wrong estimators and engines


def early(right: Any) -> Any:
    """Every block is over after its first token."""

    def blocks(closes: Array, length: Array) -> tuple[Array, Array]:
        start, end = right(closes, length)
        return start, np.minimum(end, start + 1)

    return blocks


def drawn_end(right: Any) -> Any:
    """Blocks as drawn, although the response has ended."""
    return lambda closes, length: right(closes, 0 * length + closes.shape[-1] - 1)


def twice_the_value(right: Any) -> Any:
    """2 M_t − M_{t−1}."""
    return lambda value: right(value) + value[..., 1:]


def before_the_delimiter(right: Any) -> Any:
    return lambda here: np.concatenate([here, here[..., :1] & False], axis=-1)


def doubled(right: Any) -> Any:
    return lambda *given: 2 * right(*given)


def per_count(right: Any) -> Any:
    """1/K forgotten."""
    return lambda singles, row: right(singles, row) * (row.continuations or 1)


def inverse(right: Any) -> Any:
    return lambda value: 1 / right(value)


def as_if_present(right: Any) -> Any:
    """A mean over one response more than holds the prefix."""

    def through(reward: Array, prefix: Array) -> tuple[Array, Array]:
        total, count = right(reward, prefix)
        return total, count + 1

    return through


def noisier(right: Any) -> Any:
    """Moments whose variance is too large."""

    def engine(problem: Problem, *given: Any) -> Any:
        found = right(problem, *given)
        return replace(found, variance=found.variance + problem.discount)

    return engine


def half_the_time(right: Any) -> Any:
    """A split that takes part of the continuations for actions."""

    def parts(*given: Any) -> Any:
        found = right(*given)
        return replace(found, action=found.action + found.continuation / 2, continuation=found.continuation / 2)

    return parts


FAULTS: list[tuple[str, Any, str, Callable[[Any], Any]]] = [
    ("prop_trepo_advantage_interpolation", continuations, "exact_advantage", twice_the_value),
    ("prop_trepo_value_interpolation", continuations, "_blocks", drawn_end),
    ("prop_trepo_value_interpolation", continuations, "_blocks", early),
    ("prop_trepo_block", continuations, "_blocks", early),
    ("prop_trepo_block", continuations, "_after", before_the_delimiter),
    ("prop_trepo_inverse_probability", continuations, "parse", inverse),
    ("prop_trepo_inverse_probability", continuations, "exact_advantage", doubled),
    ("alg_trepo", continuations, "exact_advantage", twice_the_value),
    ("alg_trepo", continuations, "_blocks", early),
    ("prop_rollout_variance", noise, "variances", doubled),
    ("prop_rollout_variance", noise, "spread_of", per_count),
    ("prop_rollout_variance", cost, "remaining", doubled),
    ("prop_rollout_variance", import_module("paper_checks.prop_rollout_variance"), "split", half_the_time),
    ("claim_vineppo_unbiased", continuations, "_after", before_the_delimiter),
    ("claim_tempo_token_credit", prefix_tree, "_through", as_if_present),
    ("claim_tempo_token_credit", prefix_tree, "_tree", doubled),
    ("prop_rollout_cost", noise, "variances", doubled),
    ("prop_rollout_cost", cost, "remaining", doubled),
    ("claim_more_rollouts_pay", noise, "variances", doubled),
    ("claim_more_rollouts_pay", cost, "remaining", doubled),
    ("claim_block_between", continuations, "_blocks", early),
    ("claim_block_between", variances, "brute_force", noisier),
    ("claim_interpolation_only_noise", continuations, "exact_advantage", twice_the_value),
    ("claim_interpolation_only_noise", variances, "brute_force", lambda right: partial(without_cross, right)),
]


def without_cross(right: Any, problem: Problem, estimator: Any, size: int) -> Any:
    """Moments of an engine that takes all tokens for uncorrelated."""
    found, walks = right(problem, estimator, size), Walks(problem)
    if problem.tabular or estimator.anchors is None:
        return found
    square = 0
    for pattern in continued.sets(problem.horizon):
        _, credit = continued.always(problem, pattern).credits(estimator)
        square = square + walks.mean((credit**2 * walks.norm2).sum(1)) / 2**problem.horizon
    return replace(found, variance=square - problem.inner(found.mean, found.mean))


@pytest.mark.parametrize(("module", "where", "name", "fault"), FAULTS)
def test_planted_faults_are_refuted(
    module: str, where: Any, name: str, fault: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(where, name, fault(getattr(where, name)))
    assert outcome(module).status == "refuted"


@pytest.mark.parametrize("module", [m for m in MODULES if hasattr(import_module(f"paper_checks.{m}"), "gradient")])
def test_a_wrong_gradient_is_refuted(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right = common.gradient
    for where in (common, import_module(f"paper_checks.{module}")):
        monkeypatch.setattr(
            where, "gradient", lambda problem: right(problem) + problem.discount * problem.field.ones(1)
        )
    assert outcome(module).status == "refuted"


# What the checks share


@EACH
def test_parts_of_g_add_up(problem: Problem) -> None:
    g, ones = common.gradient(problem), np.ones(problem.horizon, dtype=int)
    apart = [continued.at_positions(problem, np.eye(problem.horizon, dtype=int)[t]) for t in range(problem.horizon)]
    assert (continued.at_positions(problem, ones) == g).all()
    assert (sum(apart) == g).all()
    assert all((part != 0).any() for part in apart)
    assert (continued.climbed(problem, 0, problem.horizon, problem.totals) == g).all()
    assert (continued.climbed(problem, 0, 1, problem.values[0]) == apart[0]).all()  # E[M_1 S_1]
    assert (continued.climbed(problem, 1, problem.horizon, problem.totals) == sum(apart[1:])).all()


@EACH
def test_lists_of_draws_are_what_the_engine_says(problem: Problem) -> None:
    for name, fields in (("exact_advantage_k1", 1), ("exact_advantage_k1_independent", 2), ("vineppo_k", 1)):
        row = replace(ESTIMATORS[name], continuations=1)
        listing, expected = continued.draws(problem, 1, fields=fields), brute_force(problem, row, 1)
        assert len(listing.which) == continued.length_of_list(problem, 1, fields)
        assert (listing.mean(row) == problem.combine(expected.mean)).all()
        assert (listing.variance(row) == expected.variance).all()
    assert (continued.reward_variance(problem) == noise.variances(problem)).all()
    assert (continued.to_come(problem) == cost.remaining(problem)).all()


def test_a_prefix_ends_blocks_with_its_chance() -> None:
    # One half everywhere: the law of coins, which is listed by the engine.
    problem, row = zoo.two_valued(), ESTIMATORS["trepo_block"]
    half = np.full(problem.probs.shape, RATIONAL.scalar("1/2"))
    assert (continued.wherever(problem, half).variance(row) == brute_force(problem, row, 1).variance).all()
    assert (continued.inclusion(partial(anchors.subset, size=2), 3) * 3 == 2).all()


def test_long_lists_are_refused() -> None:
    with pytest.raises(TooLarge, match=r"^random-1: every draw would need .* the limit is 3.5e\+04: draw fewer$"):
        continued.draws(zoo.random(1), 2)
