"""Claims on rewards alone: wrong engines and wrong estimators are refuted, and known numbers come out."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np
import pytest

from paper_checks import (
    claim_grpo_u_statistic,
    claim_sigma_one_constant,
    common,
    laws,
    prop_count_rules,
    prop_sigma,
    variances,
)
from tpg.claims import Claim
from tpg.claims.cases import POINT_FIELD, cases
from tpg.claims.run import refuted_on, run
from tpg.estimators import advantages, baselines, counts
from tpg.estimators.estimator import Estimator
from tpg.estimators.parts import peers
from tpg.estimators.table import ESTIMATORS
from tpg.moments import Moments
from tpg.numbers import RATIONAL
from tpg.problem import zoo
from tpg.problem.problem import Problem
from tpg.rollouts import responses

rate = import_module("paper_checks.claim_grpo_rate")
MODULES = [
    "prop_sigma",
    "prop_sigma_turns",
    "claim_sigma_one_constant",
    "claim_sigma_smaller",
    "claim_grpo_rate",
    "claim_std_turns",
    "prop_count_rules",
    "claim_mean_does_not_change_variance",
    "claim_dr_grpo_unbiased",
    "claim_opo_variance_optimal",
    "claim_grpo_u_statistic",
    "claim_grpo_arcsine",
    "claim_dynamic_sampling",
    "claim_reinforce_rej_objective",
    "claim_corpo_protective_bias",
    "claim_passk_gradient",
]
CLAIMS = {name: import_module(f"paper_checks.{name}").CLAIM for name in MODULES}


def some_problems() -> list[Problem]:
    """Tabular and of fixed length, shared and of variable length, the latter with two prompts."""
    shapes = list(cases(("9/10",), quick=True))
    return [shapes[0].problem(RATIONAL, 0), shapes[-1].problem(RATIONAL, 0)]


def fate(claim: Claim) -> str:
    """What a quick look says: the problems above, then the example, then what is looked at beside."""
    found = refuted_on(claim.check, some_problems())
    if found != "survived":
        return found
    looks = [look for look in (claim.example, claim.beside) if look is not None]
    return next((f.what for look in looks for f in look() if not f.ok), "survived")


@pytest.mark.parametrize("name", MODULES)
def test_a_wrong_engine_is_refuted(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Means off by one and variances doubled, wherever the check asks for moments.
    module = import_module(f"paper_checks.{name}")
    for place in {common, variances, prop_sigma, module}:
        for engine in {"brute_force", "moments"} & set(vars(place)):
            right = getattr(place, engine)

            def wrong(problem: Problem, *more: Any, right: Any = right) -> Moments:
                found = right(problem, *more)
                return replace(found, mean=found.mean + problem.field.scalar(1), variance=2 * found.variance + 1)

            monkeypatch.setattr(place, engine, wrong)
    assert refuted_on(CLAIMS[name].check, some_problems()) != "survived"


@pytest.mark.parametrize("name", MODULES)
def test_nothing_is_refuted_where_nothing_is_planted(name: str) -> None:
    assert fate(CLAIMS[name]) == "survived"


def no_share(problem: Problem, group_size: int) -> Any:
    """Every prompt is trained on alike."""
    return problem.field.ones(problem.prompts)


WRONG: dict[str, tuple[Estimator, str, Any]] = {
    "claim_grpo_rate": (ESTIMATORS["grpo_no_length"], "advantage", advantages.group_mean),
    "claim_std_turns": (import_module("paper_checks.claim_std_turns").RATIO, "advantage", advantages.group_mean),
    "prop_sigma_turns": (ESTIMATORS["grpo_no_length"], "advantage", partial(advantages.z_score, ddof=0)),
    "prop_count_rules": (ESTIMATORS["maxrl"], "advantage", counts.mean_accepted),
    "claim_mean_does_not_change_variance": (ESTIMATORS["reinforce_baseline"], "advantage", advantages.greedy),
    "claim_dr_grpo_unbiased": (ESTIMATORS["dr_grpo"], "advantage", advantages.rloo),
    "claim_opo_variance_optimal": (ESTIMATORS["opo_loo"], "advantage", baselines.opo),
    "claim_grpo_u_statistic": (ESTIMATORS["rloo"], "advantage", advantages.group_mean),
    "claim_grpo_arcsine": (rate.POPULATION, "advantage", partial(advantages.z_score, ddof=1)),
    "claim_dynamic_sampling": (ESTIMATORS["dapo_stream"], "constant", no_share),
    "claim_reinforce_rej_objective": (ESTIMATORS["reinforce_rej"], "advantage", counts.raft),
    "claim_corpo_protective_bias": (ESTIMATORS["corpo"], "advantage", advantages.group_mean),
    "claim_passk_gradient": (ESTIMATORS["passk_loo"], "advantage", counts.best_margin),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_estimator_is_refuted(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    row, part, wrong = WRONG[name]
    for cached in ("needs", "collapsible", "sweepable", "terms", "batch"):
        monkeypatch.delitem(row.__dict__, cached, raising=False)
    monkeypatch.setitem(row.__dict__, part, wrong)
    found = fate(CLAIMS[name])
    for cached in ("needs", "collapsible", "sweepable", "terms", "batch"):  # what the wrong part left behind
        row.__dict__.pop(cached, None)
    assert found != "survived"


@pytest.mark.parametrize("name", [name for name in MODULES if "sigma" in name and "turns" not in name])
def test_a_wrong_scale_is_refuted(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Credits over σ of one success more: these statements hold for any scale, so that no row is theirs.
    module = import_module(f"paper_checks.{name}")
    right = prop_sigma.scaled

    @peers("reward")
    def wrong(reward: Any, *, inverse: Any) -> Any:
        return right(reward, inverse=np.roll(inverse, -1))

    for place in (prop_sigma, module):
        monkeypatch.setattr(place, "scaled", wrong, raising=False)
    assert refuted_on(CLAIMS[name].check, some_problems()) != "survived"


def test_a_wrong_bernstein_form_is_refuted(monkeypatch: pytest.MonkeyPatch) -> None:
    # The toolkit's slope() with a binomial of G for G − 1.
    def wrong(success: Any, failure: Any, size: int, p: Any) -> Any:
        return sum(p**s * (1 - p) ** (size - s) * (success(s + 1, size) + failure(s, size)) for s in range(size))

    monkeypatch.setattr(prop_count_rules, "slope", wrong)
    assert run(prop_count_rules.CLAIM, quick=True).status == "refuted"


@pytest.mark.parametrize("name", [name for name in MODULES if CLAIMS[name].wording])
def test_published_wordings_have_their_fate(name: str) -> None:
    claim = CLAIMS[name]
    assert claim.as_worded is not None
    measured = [case.problem(RATIONAL, 0) for case in cases(claim.discounts, quick=True)]
    assert (refuted_on(claim.as_worded, measured) == "survived") == (name == "prop_sigma")


def test_one_constant_for_all_prompts_is_confirmed_up_to_three_responses() -> None:
    for size in (2, 3):
        check = claim_sigma_one_constant.one_rate(size)
        assert refuted_on(check, some_problems()) == "survived"
        assert all(found.ok for found in check(next(iter(cases(("1",), True))).problem(POINT_FIELD, 5)))


# The shared pieces, on numbers known by hand


def test_the_bernstein_form_counts_the_peers() -> None:
    # G = 3, u = (1, 2, 4), v = (8, 16, 32) at p = 1/4: 9/16·(1+8) + 2·3/16·(2+16) + 1/16·(4+32) = 225/16.
    assert laws.bernstein(np.array([1, 2, 4]), np.array([8, 16, 32]), Fraction(1, 4)) == Fraction(225, 16)


def test_laws_gather_equal_rewards() -> None:
    problem = zoo.three_valued()
    for prompt, law in enumerate(laws.laws(responses(problem))):
        assert [str(r) for r in law.reward] == ["0", "1", "3"]
        assert law.chance.sum() == 1
        assert (law.reward * law.chance).sum() == laws.mean_reward(problem)[prompt] == problem.values[1][prompt]


def test_paying_keeps_the_policy_and_pays_at_the_end() -> None:
    problem = zoo.shared()
    paid = laws.two_valued(problem, -1)
    assert (paid.probs == problem.probs).all()
    assert set(map(str, paid.totals[paid.ends])) == {"-1", "1"}
    assert (paid.rewards[paid.tree.inner] == 0).all()
    assert set(map(str, laws.three_valued(problem).totals[paid.ends])) == {"0", "1", "3"}


@pytest.mark.parametrize(("ratio", "best"), [("0", 2), ("2", 2), ("21/10", 3), ("4", 3), ("13", 5)])
def test_the_best_group_size_is_the_first_that_pays(ratio: str, best: int) -> None:
    assert claim_grpo_u_statistic.best_size(Fraction(ratio)) == best
    cost = {size: size + (Fraction(ratio) / (size - 1)) for size in range(2, 40)}  # c1 G + c3/(G−1) at c1 = 1
    assert cost[best] == min(cost.values())
