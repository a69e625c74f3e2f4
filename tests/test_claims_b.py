"""Claims on baselines and variance: the fate of published wordings, and that wrong engines and rows refute."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from paper_checks import variances
from paper_checks.variances import Walks, arbitrary, one_right_response
from tests import references as ref
from tests.literal import baselines as lit
from tpg.claims.cases import POINT_FIELD, cases
from tpg.claims.run import run
from tpg.estimators import advantages, critics
from tpg.estimators.estimator import Estimator
from tpg.estimators.table import ESTIMATORS
from tpg.numbers import Array
from tpg.problem import zoo
from tpg.problem.problem import Problem

SHARED = "refuted on 2 shared parameters, "
FATES = {
    "claim_advantage_beats_the_family": SHARED + "fixed length, 1 prompt",
    "claim_advantage_less_noisy": SHARED + "fixed length, 1 prompt",
    "claim_length_proxy": "refuted on tabular, fixed length, 1 prompt",
    "claim_one_baseline_for_all_tokens": SHARED + "variable length, 1 prompt",
    "claim_remax_against_no_baseline": "refuted on tabular, fixed length, 1 prompt",
    "claim_silent_batch_still_trains": "confirmed",
    "claim_token_rewards_reduce_variance": "refuted on tabular, fixed length, 1 prompt",
    "prop_modelling_power": "confirmed",
    "prop_optimal_baseline": SHARED + "fixed length, 1 prompt",
}
ON_VARIANCE = [name for name in FATES if name not in ("claim_silent_batch_still_trains", "prop_modelling_power")]
WRONG_ROWS = {  # claim, row in it, what is planted instead
    "claim_advantage_beats_the_family": ("RLOO", "group_mean"),
    "claim_advantage_less_noisy": ("ADVANTAGE", "trajectory_pg"),
    "claim_length_proxy": ("BEST", "reinforce_baseline"),
    "claim_one_baseline_for_all_tokens": ("BEST", "reinforce_baseline"),
    "claim_remax_against_no_baseline": ("REMAX", "reinforce_baseline"),
    "claim_silent_batch_still_trains": ("EXACT", "value_baseline"),
    "claim_token_rewards_reduce_variance": ("TO_GO", "value_baseline"),
    "prop_optimal_baseline": ("JOINT", "optimal_baseline_token"),
}


def module(name: str) -> ModuleType:
    return import_module(f"paper_checks.{name}")


@pytest.mark.parametrize("name", FATES)
def test_the_claim_is_proved_and_tells_the_fate_of_the_wording(name: str) -> None:
    found = run(module(name).CLAIM, quick=True)
    assert (found.status, found.evidence, found.why[:8]) == ("holds", "PROVED", "identity")
    assert "survived" not in found.mutants.values()
    assert found.as_worded is not None
    assert found.as_worded.startswith(FATES[name])


@pytest.mark.parametrize("name", ON_VARIANCE)
def test_a_wrong_variance_refutes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Wrong: an engine that is off by a factor.
    right = variances.variance

    def wrong(problem: Problem, estimator: Estimator, group_size: int = 1) -> Array:
        return right(problem, estimator, group_size) * (1 + problem.discount)

    monkeypatch.setattr(module(name), "variance", wrong)
    assert run(module(name).CLAIM, quick=True).status == "refuted"


@pytest.mark.parametrize("name", WRONG_ROWS)
def test_a_wrong_row_refutes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    row, planted = WRONG_ROWS[name]
    monkeypatch.setattr(module(name), row, ESTIMATORS[planted])
    assert run(module(name).CLAIM, quick=True).status == "refuted"


@pytest.mark.parametrize(
    ("where", "what", "planted"),
    [
        (critics, "exact_critic", critics.wrong_critic),
        (advantages, "trajectory_value", lambda continuation_value: continuation_value[..., :-1]),
        (advantages, "reward_to_go", lambda token_reward, discount: np.add.accumulate(token_reward, axis=-1)),
    ],
)
def test_a_wrong_actor_critic_refutes_equal_gradients(
    where: ModuleType, what: str, planted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(where, what, planted)
    found = run(module("prop_modelling_power").CLAIM, quick=True)
    assert found.status == "refuted"
    assert "E ĝ = g: " in found.why


@pytest.mark.parametrize(
    ("name", "number", "planted"),
    [
        ("prop_optimal_baseline", "joint_optimum", "token_optimum"),
        ("claim_one_baseline_for_all_tokens", "joint_optimum", "token_optimum"),
        ("claim_advantage_beats_the_family", "joint_optimum", "token_optimum"),
        ("claim_token_rewards_reduce_variance", "joint_optimum", "token_optimum"),
        ("claim_advantage_less_noisy", "earlier", "upto"),
        ("claim_remax_against_no_baseline", "whole_norm2", "length_squared"),
        ("claim_length_proxy", "whole_norm2", "length_squared"),
    ],
)
def test_a_wrong_closed_form_refutes(name: str, number: str, planted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Cross-token terms dropped, Z_t for Z_{t−1}, L² for ‖Z‖²: the side that the enumerated variance is held against.
    wrong: Any = getattr(Walks, planted, property(lambda walks: walks.problem.field.array(walks.paths.length**2)))
    monkeypatch.setattr(Walks, number, wrong)
    assert run(module(name).CLAIM, quick=True).status == "refuted"


# What the checks share


@pytest.mark.parametrize("problem", [zoo.shared(), zoo.two_valued(), zoo.forbidden()], ids=lambda p: p.name)
def test_optima_from_enumerated_responses_agree_with_the_literal_ones(problem: Problem) -> None:
    twin, walks = ref.read(problem), Walks(problem)
    prefixes = list(twin.policy)
    for mine, literal in ((walks.joint_optimum, lit.joint_optimum), (walks.token_optimum, lit.token_optimum)):
        assert [ref.exact(b) for b in mine] == [literal(twin, prefix) for prefix in prefixes]
    assert [ref.exact(b) for b in walks.global_optimum] == [lit.global_optimum(twin, x) for x in range(twin.prompts)]


def test_a_loan_changes_no_total() -> None:
    loan = module("claim_token_rewards_reduce_variance").loan
    for problem in (zoo.shared(), zoo.delayed_credit()):  # γ = 9/10
        assert (loan(problem).totals[problem.ends] == problem.totals[problem.ends]).all()
        assert (loan(problem).rewards != problem.rewards).any()


def test_arbitrary_numbers_are_new_at_every_point_and_the_same_on_every_run() -> None:
    case = next(iter(cases(("9/10",), quick=True)))
    points = [case.problem(POINT_FIELD, seed) for seed in (0, 1000)]
    first, second = (arbitrary(point, (4,)) for point in points)
    assert (first == arbitrary(case.problem(POINT_FIELD, 0), (4,))).all()
    assert all(a != b for a, b in zip(first, second, strict=True))


def test_every_response_is_the_right_one_once() -> None:
    problem = zoo.three_valued()
    tasks = one_right_response(problem)
    chance = sum(problem.field.scalar(1) * task.values[1][: task.prompts].sum() for task in tasks)
    assert chance == problem.prompts  # their success probabilities add up to 1 on each prompt
    assert {int(task.totals[task.ends].sum()) for task in tasks} == {1}
