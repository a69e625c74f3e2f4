"""Audits: what is measured, what is said about it, and when nothing can be said."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from fractions import Fraction
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import references as ref
from tests.strategies import DYADIC, SMALL, fit, problems
from tpg import audit as audits
from tpg import truth
from tpg.audit import audit
from tpg.errors import EstimatorError
from tpg.estimators import advantages, aggregation, core, expectations
from tpg.estimators.estimator import Estimator
from tpg.estimators.expectations import Expectation
from tpg.estimators.parts import peers
from tpg.estimators.table import ESTIMATORS
from tpg.moments import moments
from tpg.numbers import FLOAT64, RATIONAL, Field, gf
from tpg.problem import zoo
from tpg.problem.problem import Problem, make
from tpg.problem.tree import grow

ROWS = pytest.mark.parametrize("name", ESTIMATORS)
SMALL_ZOO = [name for name in zoo.ZOO if name not in ("random", "large")]
KEYS = {
    *("estimator", "problem", "group_size", "evidence", "verdict", "relative_bias", "scale", "direction_bias"),
    *("cosine", "total_variance", "mse_over_g2"),
}


def bandit() -> Problem:
    """π = (1/3, 2/3), r = (0, 1): the numbers of ``test_moments.test_a_report_by_hand``."""
    return make(grow(2, 1), [["1/3", "2/3"]], [[0, 1]], name="bandit")


def test_an_audit_by_hand() -> None:
    # Mean baseline, G = 2: half of g, variance 10/324, MSE/‖g‖² = 9/16; the row declares the half, so it holds.
    found = audit(bandit(), ESTIMATORS["group_mean"], 2)
    assert (found.verdict, found.evidence, found.arithmetic) == ("holds", "MEASURED", "rational")
    assert (found.estimator, found.problem, found.group_size) == ("group_mean", "bandit", 2)
    assert (found.discrepancy, found.error_bound) == (0, 0)
    assert found.declared == ESTIMATORS["group_mean"].expectation.text
    whole = found.to_json()
    expected = {"relative_bias": 0.5, "scale": 0.5, "direction_bias": 0, "cosine": 1, "total_variance": 10 / 324}
    assert {key: whole[key] for key in expected} == expected
    assert whole["mse_over_g2"] == 9 / 16
    assert len(whole["prompts"]) == 1
    assert {key: whole["prompts"][0][key] for key in expected} == expected


@ROWS
def test_the_json_has_the_promised_keys_and_no_nan(name: str) -> None:
    for problem in (zoo.referenced(), zoo.stale()):
        size = max(2, ESTIMATORS[name].min_group)
        whole = json.loads(json.dumps(audit(problem, ESTIMATORS[name], size).to_json(), allow_nan=False))
        assert set(whole) >= KEYS
        assert len(whole["prompts"]) == problem.prompts


@pytest.mark.parametrize("name", [row.name for row in core.ROWS])
@pytest.mark.parametrize("problem", SMALL_ZOO)
def test_the_first_rows_hold_on_every_named_problem(name: str, problem: str) -> None:
    for size in (2, 3):
        found = audit(zoo.get(problem), ESTIMATORS[name], size)
        wanted = "undecided" if problem == "stale" else "holds"
        assert (found.verdict, found.evidence) == (wanted, "MEASURED"), found.why


@ROWS
@pytest.mark.parametrize("problem", ["referenced", "stale"])
def test_every_row_holds_where_it_says_something(name: str, problem: str) -> None:
    row, made = ESTIMATORS[name], zoo.get(problem)
    said = row.declares(made)
    found = audit(made, row, max(2, row.min_group))
    assert found.verdict == ("holds" if said is not None and said.known else "undecided"), found.why


@ROWS
@settings(max_examples=4)
@given(data=st.data())
def test_every_row_holds_in_float64_within_its_error_bound(name: str, data: st.DataObject) -> None:
    # The bound must hold, and be small enough to tell a fault of one part in 10⁸ apart.
    row = ESTIMATORS[name]
    size = data.draw(st.integers(max(2, row.min_group), 4))
    if not row.expectation.known or not row.collapsible:
        return
    problem = data.draw(problems(SMALL, **fit(row) | {"discounts": DYADIC})).to(FLOAT64)
    found = audit(problem, row, size)
    assert (found.verdict, found.arithmetic) == ("holds", "float64"), found.why
    assert found.discrepancy is not None
    assert found.discrepancy <= found.error_bound
    terms = float(np.abs(problem.totals).max()) + math.sqrt(float(found.overall.total_variance))
    assert found.error_bound <= 1e-9 * terms
    planted = Expectation("off by 1e-8", row.expectation.factor, lambda p, g: offset(row, p, g, 1e-8 * terms))
    if terms > 0:
        assert audit(problem, replace(row, expectation=planted), size).verdict == "refuted"


def offset(row: Estimator, problem: Problem, size: int, by: float) -> np.ndarray:
    g = truth.gradient(problem)
    return row.expectation(problem, size, g) - problem.field.scalar(row.expectation.factor(problem, size)) * g + by


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("rloo", {"advantage": advantages.group_mean}),  # (G−1)/G · g, declared g
        ("group_mean", {"expectation": expectations.UNBIASED}),
        ("rloo", {"aggregation": aggregation.seq_mean_token_mean}),
        ("dr_grpo", {"expectation": expectations.GROUP_MEAN}),
        ("zra_discounted", {"expectation": expectations.UNBIASED}),
        ("gae_position_critic", {"expectation": expectations.UNBIASED}),
        ("grpo", {"expectation": expectations.TOKEN_MEAN}),
        ("grpo", {"advantage": partial(advantages.z_score, ddof=0)}),
        ("dapo", {"expectation": expectations.UNBIASED}),
    ],
)
def test_a_row_that_declares_a_wrong_expectation_is_refuted(name: str, change: dict[str, object]) -> None:
    found = audit(zoo.shared(), replace(ESTIMATORS[name], **change), 3)  # type: ignore[arg-type]
    assert found.verdict == "refuted"
    assert found.discrepancy is not None
    assert found.discrepancy > found.error_bound
    assert found.why == f"measured expectation is {found.discrepancy:.3g} away from the declared one"


def test_a_fault_far_below_float64_is_refuted_in_rationals() -> None:
    # 10⁻²⁰⁰ of g: its square underflows in float64, exact comparison sees it.
    tiny = RATIONAL.scalar(Fraction(1, 10**200))
    almost = Expectation("almost g", extra=lambda problem, size: truth.gradient(problem) * tiny)
    assert audit(zoo.two_valued(), replace(ESTIMATORS["rloo"], expectation=almost), 2).verdict == "refuted"


def test_off_policy_nothing_is_decided() -> None:
    # Declared expectations are on-policy.  A behaviour table that equals π is on-policy all the same.
    problem = zoo.random(0, off_policy=True)
    found = audit(problem, ESTIMATORS["rloo"], 2)
    assert (found.verdict, found.evidence) == ("undecided", "MEASURED")
    assert found.why.startswith("the declared expectation is on-policy")
    assert found.overall.relative_bias is not None  # measured all the same
    same = replace(problem, behaviour=problem.probs)
    assert audit(same, ESTIMATORS["rloo"], 2).verdict == "holds"


def test_where_the_closed_form_is_too_large_nothing_is_decided(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = audit(zoo.two_valued(), ESTIMATORS["grpo"], 4)
    monkeypatch.setattr(expectations, "MAX_PEERS", 3)
    found = audit(zoo.two_valued(), ESTIMATORS["grpo"], 4)
    assert (found.verdict, found.discrepancy) == ("undecided", None)
    assert found.why.startswith("the declared expectation cannot be evaluated: the closed form by peers would need")
    assert found.overall == whole.overall  # the moments stand without it
    assert json.dumps(found.to_json(), allow_nan=False)


def test_arithmetic_is_exact_where_that_is_cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = zoo.three_valued()
    assert audit(problem, ESTIMATORS["rloo"], 3).arithmetic == "rational"
    assert audit(problem, ESTIMATORS["grpo"], 3).arithmetic == "float64"  # a square root
    assert audit(problem.to(FLOAT64), ESTIMATORS["rloo"], 3).arithmetic == "float64"
    large = zoo.random(0, vocab=4, horizon=4, prompts=1)
    counted = replace(ESTIMATORS["rloo"], advantage=peers("reward")(lambda reward: advantages.rloo(reward)))
    assert audits.arithmetic(large, counted, 8).field is FLOAT64  # many classes
    assert audits.arithmetic(large, ESTIMATORS["rloo"], 8) is large  # a closed form instead
    assert audits.arithmetic(large, ESTIMATORS["reinforce"], 8) is large  # one class
    exact = audit(problem, ESTIMATORS["rloo"], 3)
    monkeypatch.setattr(audits, "EXACT_BUDGET", 0)
    rounded = audit(problem, ESTIMATORS["rloo"], 3)
    assert (rounded.arithmetic, rounded.verdict) == ("float64", "holds")
    assert rounded.overall.total_variance == pytest.approx(exact.overall.total_variance, rel=1e-12)


@given(problems(SMALL, off_policy=None), st.sampled_from(["rloo", "dr_grpo", "reward_to_go", "ppo_wrong_critic"]))
def test_reported_numbers_are_the_literal_ones(problem: Problem, name: str) -> None:
    # ‖E ĝ − g‖/‖g‖, ⟨E ĝ, g⟩/‖g‖², tr Cov and MSE/‖g‖² from the reference's moments.
    twin = ref.read(problem)
    parts = [ref.moments_of(twin, x, ref.CREDITS[name], 2) for x in range(twin.prompts)]
    mean, g = ref.mixed(twin, [m for m, _ in parts]), ref.gradient(twin)
    variance = sum(w**2 * v for w, (_, v) in zip(twin.weight, parts, strict=True))
    gg, bias = sum(v * v for v in g), sum((m - v) ** 2 for m, v in zip(mean, g, strict=True))
    found = audit(problem, ESTIMATORS[name], 2).overall
    assert found.total_variance == float(variance)
    if gg == 0:
        assert found.relative_bias is found.scale is found.mse_over_g2 is None
        return
    assert found.relative_bias == pytest.approx(math.sqrt(bias / gg), rel=1e-12)
    assert found.scale == float(sum(m * v for m, v in zip(mean, g, strict=True)) / gg)
    assert found.mse_over_g2 == float((bias + variance) / gg)


def test_an_audit_of_an_undefined_group_is_refused() -> None:
    with pytest.raises(
        EstimatorError, match=r"^rloo compares the responses of a group: group_size=1 given, at least 2"
    ):
        audit(zoo.two_valued(), ESTIMATORS["rloo"], 1)


def test_moments_beyond_float64_are_refused() -> None:
    problem = make(grow(2, 1), [["1/2", "1/2"]], [[0, "1e200"]])
    with pytest.raises(EstimatorError, match=r"^the moments leave the range of float64: rescale the rewards$"):
        audit(problem, ESTIMATORS["rloo"], 2)


# No false accusation


def nearly_tied(field: Field = RATIONAL) -> Problem:
    """1/10 + 1/5 and 3/10 are one reward; summed in float64 they are two, 5e-17 apart."""
    rewards = [["1/10", "3/10"], ["1/5", 1], [0, 2]]
    return make(grow(2, 2), [["1/3", "2/3"], ["1/4", "3/4"], ["2/5", "3/5"]], rewards, field=field)


@pytest.mark.parametrize("size", [2, 3, 4])
@pytest.mark.parametrize("name", ["grpo", "dapo"])
def test_rewards_that_tie_but_for_rounding_stay_tied(name: str, size: int) -> None:
    problem = nearly_tied()
    assert audit(problem, ESTIMATORS[name], size).verdict == "holds"
    found = moments(problem.to(FLOAT64), ESTIMATORS[name], size)
    assert ref.disagreements(problem, found, name, size) == set()


@pytest.mark.parametrize("name", ["grpo", "dapo"])
def test_a_tie_lost_to_rounding_refutes_nothing(name: str) -> None:
    assert audit(nearly_tied(FLOAT64), ESTIMATORS[name], 3).verdict != "refuted"


@pytest.mark.parametrize("size", [1030, 2048])
def test_multinomials_beyond_the_floats_refute_nothing(size: int) -> None:
    assert audit(zoo.two_valued(), ESTIMATORS["grpo"], size).verdict == "holds"  # C(1030, 515) > 1e308


def test_the_error_bound_covers_the_closed_form_of_large_groups() -> None:
    assert audit(zoo.hard_easy(), ESTIMATORS["grpo"], 3000).verdict == "holds"


def test_a_length_that_is_never_reached_does_not_stop_the_position_critic() -> None:
    problem = make(grow(2, 2, end_token=1), [[0, 1], [1, 0]], [[1, 2], [3, 4]], end_token=1)
    for made in (problem, problem.to(FLOAT64)):
        assert audit(made, ESTIMATORS["gae_position_critic"], 1).verdict == "holds"


@pytest.mark.parametrize("name", ["rloo", "group_mean", "remax", "gae"])
def test_a_large_constant_reward_is_no_refutation(name: str) -> None:
    problem = zoo.random(3, values=3)
    shifted = replace(problem, rewards=np.where(problem.ends, problem.rewards + 10**6, problem.rewards))
    assert audit(shifted, ESTIMATORS[name], 4).verdict == "holds"  # rational
    assert audit(shifted.to(FLOAT64), ESTIMATORS[name], 4).verdict == "holds"


@pytest.mark.parametrize("name", ["rloo", "grpo", "gae", "reinforce"])
def test_a_constant_reward_in_float64_gives_no_ratios(name: str) -> None:
    problem = make(grow(3, 2), [["1/3", "1/7", "11/21"]] * 4, [[0, 0, 0], *[["3/10"] * 3] * 3]).to(FLOAT64)
    found = audit(problem, ESTIMATORS[name], 3)
    assert found.verdict == "holds"
    whole = found.overall
    assert whole.relative_bias is whole.scale is whole.direction_bias is whole.cosine is whole.mse_over_g2 is None


def test_a_problem_without_an_order_has_no_sizes_to_report() -> None:
    with pytest.raises(EstimatorError, match=r"^shared is in GF.*: an audit reports sizes, give rationals or float64$"):
        audit(zoo.shared().to(gf()), ESTIMATORS["rloo"], 2)
