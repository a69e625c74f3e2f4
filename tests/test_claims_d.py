"""Claims on dense rewards, pairs and targets: a wrong estimator, a wrong judge or a wrong yardstick is noticed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np
import pytest

from paper_checks import common, preferences, spreads
from tpg.claims import Claim
from tpg.claims.cases import cases
from tpg.claims.record import Check
from tpg.claims.run import refuted_on
from tpg.estimators import advantages, dense, margins, pairs
from tpg.estimators.parts import peers
from tpg.estimators.table import ESTIMATORS
from tpg.numbers import RATIONAL, Array
from tpg.problem import zoo
from tpg.problem.problem import Problem
from tpg.rollouts import responses

NAMES = (
    "prop_noncausal_redistribution",
    "claim_gae_of_any_redistribution",
    "claim_abc_keeps_the_optimum",
    "claim_pav_prover",
    "claim_prime_potential",
    "claim_delta_telescopes",
    "claim_pure_min_form",
    "claim_rebel_is_two_sample_rloo",
    "claim_tpo_base_measure",
    "claim_online_dpo_win_rate",
    "claim_dpo_at_their_level",
)


def claim(name: str) -> Claim:
    return import_module(f"paper_checks.{name}").CLAIM


@cache
def standard(seed: int = 0) -> tuple[Problem, ...]:
    return tuple(case.problem(RATIONAL, seed) for case in cases(("9/10",), quick=True))


def fate(check: Check, seed: int = 0) -> str:
    return refuted_on(check, standard(seed))


# Wrong estimators.  Each keeps its name and its fields.


def to_go_after(dense: Array) -> Array:
    """Reward-to-go from t + 1: the own reward is lost."""
    return np.flip(np.add.accumulate(np.flip(dense, -1), axis=-1), -1) - dense


def gae_without_decay(dense: Array, mask: Array, value: Array, *, lam: Any) -> Array:
    """δ_t with the value of the prefix on both sides."""
    delta = np.where(mask, dense + value[..., :-1] - value[..., :-1], dense[..., :1] * 0)
    return np.flip(np.add.accumulate(np.flip(delta, -1), axis=-1), -1) * lam


def abc_on_prefixes(process_reward: Array, reward: Array, length: Array, *, beta: Any = 0.5) -> Array:
    """Attention normalised over the tokens so far: it no longer sums to R."""
    share = process_reward / np.add.accumulate(process_reward, axis=-1)
    paid = share * reward[..., None]
    return dense.masked(paid, np.arange(paid.shape[-1]) < length[..., None])


def potential_alone(process_reward: Array, prompt_constant: Array, mask: Array) -> Array:
    """The potential differences without the outcome."""
    return dense.red(process_reward, prompt_constant, mask)


def values_alone(
    process_reward: Array, prompt_constant: Array, continuation_value: Array, mask: Array, *, alpha: Any
) -> Array:
    """Q^π without the prover."""
    return continuation_value[..., 1:]


def pav_of_the_next(
    process_reward: Array, prompt_constant: Array, reward: Array, length: Array, mask: Array, *, alpha: Any = 3
) -> Array:
    """The prover's value in place of its advantage."""
    return dense.scaled(process_reward, dense.parse(alpha)) + dense.at_end(process_reward, reward, length)


def delta_open(process_reward: Array, reward: Array, length: Array) -> Array:
    """PR_{t−1} − PR_t: the difference looks back."""
    before = np.concatenate([process_reward[..., :1] * 0, process_reward[..., :-1]], axis=-1)
    paid = before - process_reward + dense.at_end(process_reward, reward, length)
    return dense.masked(paid, np.arange(paid.shape[-1]) < length[..., None])


def running_maximum(process_reward: Array, mask: Array) -> Array:
    most = np.maximum.accumulate(process_reward, axis=-1)
    return dense.masked(dense.increments(most, most[..., :1] * 0), mask)


@peers("reward", "sequence_ratio")
def rebel_as_in_the_repository(reward: Array, sequence_ratio: Array, *, eta: float) -> Array:
    """(Δlog − η ΔR)²: another scale."""
    return eta**2 * margins.off_peers("rebel", reward, np.abs(reward)) * 4 / eta


@peers("reward", "sequence_logp", "sequence_ref_logp")
def copg_without_reference(reward: Array, sequence_logp: Array, sequence_ref_logp: Array, *, beta: float) -> Array:
    score = reward - beta * sequence_logp
    return 2 * margins.off_peers("copg", score, np.abs(score))


@peers("reward", "sequence_logp", "sequence_ratio")
def tpo_without_chance(reward: Array, sequence_logp: Array, sequence_ratio: Array, *, eta: float) -> Array:
    """Candidates weighed alike: the base measure is π."""
    odds = np.exp(advantages.z_score(reward, ddof=0, eps=0.0) / eta)
    return reward.shape[-1] * odds / odds.sum(-1, keepdims=True) - 1


@peers("reward", "sequence_logp", "sequence_ref_logp")
def online_dpo_by_size(reward: Array, sequence_logp: Array, sequence_ref_logp: Array, *, beta: float) -> Array:
    """The difference of the rewards in place of the label."""
    return beta * margins.off_peers("online_dpo", reward, np.abs(reward))


PLANTED: list[tuple[str, Any, str, Callable[..., Array]]] = [
    ("prop_noncausal_redistribution", dense, "to_go", to_go_after),
    ("prop_noncausal_redistribution", dense, "igpo", potential_alone),
    ("claim_gae_of_any_redistribution", dense, "gae", gae_without_decay),
    ("claim_abc_keeps_the_optimum", dense, "abc", abc_on_prefixes),
    ("claim_pav_prover", dense, "pav", pav_of_the_next),
    ("claim_pav_prover", dense, "pav_myopic", values_alone),
    ("claim_prime_potential", dense, "to_go", to_go_after),
    ("claim_prime_potential", advantages, "rloo", advantages.group_mean),
    ("claim_delta_telescopes", dense, "delta", delta_open),
    ("claim_pure_min_form", dense, "pure_repaired", running_maximum),
    ("claim_rebel_is_two_sample_rloo", pairs, "rebel", rebel_as_in_the_repository),
    ("claim_rebel_is_two_sample_rloo", pairs, "copg", copg_without_reference),
    ("claim_tpo_base_measure", pairs, "tpo", tpo_without_chance),
    ("claim_online_dpo_win_rate", pairs, "online_dpo", online_dpo_by_size),
    ("claim_online_dpo_win_rate", pairs, "dpo", online_dpo_by_size),
]
CACHED = ("needs", "collapsible", "sweepable", "terms", "batch")
# A row holds its part from the start.
ROWS: list[tuple[str, str, Callable[..., Array]]] = [
    ("claim_dpo_at_their_level", "dpo", advantages.rloo),
    ("claim_dpo_at_their_level", "online_dpo", advantages.reward_to_go),
    ("claim_grpo_one_number", "grpo", advantages.reward_to_go),
    ("claim_grpo_one_number", "grpo", advantages.rloo),
    ("claim_grpo_one_number", "dapo", advantages.rloo),
]


@pytest.mark.parametrize(("name", "module", "part", "wrong"), PLANTED, ids=[f"{n}-{p}" for n, _, p, _ in PLANTED])
def test_a_wrong_estimator_is_refuted(
    name: str, module: Any, part: str, wrong: Callable[..., Array], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert fate(claim(name).check) == "survived"
    monkeypatch.setattr(module, part, wrong)
    assert fate(claim(name).check) != "survived"


@pytest.mark.parametrize(("name", "row", "wrong"), ROWS, ids=[f"{n}-{r}-{w.__name__}" for n, r, w in ROWS])
def test_a_wrong_row_is_refuted(
    name: str, row: str, wrong: Callable[..., Array], monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = import_module(f"paper_checks.{name}").CLAIM
    assert fate(claim.check) == "survived"
    held = ESTIMATORS[row].__dict__
    monkeypatch.setitem(held, "advantage", wrong)
    for cached in CACHED:
        monkeypatch.delitem(held, cached, raising=False)
    found = fate(claim.check)
    for cached in CACHED:  # what the wrong part left behind
        held.pop(cached, None)
    assert found != "survived"


# A wrong judge, a wrong engine, other numbers


@pytest.mark.parametrize("name", [n for n in NAMES if n != "claim_gae_of_any_redistribution"])
def test_another_vector_for_g_is_refuted(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right = common.gradient
    for module in (common, import_module(f"paper_checks.{name}")):
        if hasattr(module, "gradient"):
            monkeypatch.setattr(module, "gradient", lambda problem: right(problem) + problem.field.scalar("1/1000"))
    assert fate(claim(name).check) != "survived"


@pytest.mark.parametrize("name", NAMES)
def test_an_engine_that_is_off_by_a_thousandth_is_refuted(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right = common.brute_force

    def wrong(problem: Problem, *args: Any) -> Any:
        found = right(problem, *args)
        return replace(found, mean=found.mean * problem.field.scalar("999/1000"))

    monkeypatch.setattr(common, "brute_force", wrong)
    assert fate(claim(name).check) != "survived"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", [1, 2])
def test_other_policies_and_rewards_agree(name: str, seed: int) -> None:
    assert fate(claim(name).check, seed) == "survived"


# The yardsticks


def test_free_numbers_are_free_of_each_other() -> None:
    problem = zoo.shared()
    first, second = (spreads.free(problem, name, 40) for name in ("a", "b"))
    assert (first != second).any()
    assert (first == spreads.free(problem, "a", 40)).all()
    assert (first != spreads.free(zoo.three_valued(), "a", 40)).any()


def test_any_split_pays_the_reward_and_nothing_after_the_end() -> None:
    for problem in standard():
        singles, split = responses(problem), spreads.any_split(problem)
        assert (split.sum(1) == singles.reward).all()
        assert (split[~singles.mask] == 0).all()


def test_summed_adds_up_along_the_tree() -> None:
    # Wrong: sums that forget where the tree ends early, as variable lengths would show.
    for problem in standard():
        table = spreads.any_table(problem)
        along = spreads.spoken(problem, spreads.summed(problem, table))
        singles = responses(problem)
        last = along[np.arange(len(along)), singles.length - 1]
        assert (last == spreads.spoken(problem, table).sum(1)).all()


@pytest.mark.parametrize("beta", [1.0, 30.0])
def test_the_optimum_is_the_reference_tilted_by_the_reward(beta: float) -> None:
    for problem in standard():
        found = preferences.optimum(problem, beta)
        singles = responses(replace(found, behaviour=None))
        base = np.where(singles.mask, found.reference[singles.node, singles.token], 1).prod(1)  # type: ignore[index]
        odds = base * np.exp(singles.reward / beta)
        total = np.bincount(singles.prompt, weights=odds)[singles.prompt]
        assert np.abs(singles.probability - odds / total).max() < 1e-12


def test_the_slope_of_kl_is_that_of_differences() -> None:
    # KL along one direction of the shared parameters, by central differences: error of order 1e-10.
    problem = preferences.with_reference(zoo.shared())

    def divergence(by: float) -> float:
        odds = problem.probs * np.exp(by * problem.features[:, :, 1])  # type: ignore[index]
        moved = replace(problem, probs=odds / odds.sum(-1, keepdims=True))
        singles = responses(moved)
        base = np.where(singles.mask, moved.reference[singles.node, singles.token], 1).prod(1)  # type: ignore[index]
        chance = singles.probability
        return float((moved.weights[singles.prompt] * chance * np.log(chance / base)).sum())

    slope = (divergence(1e-5) - divergence(-1e-5)) / 2e-5
    assert abs(preferences.kl_slope(problem)[1] - slope) < 1e-8


def test_published_wordings_have_their_fates() -> None:
    # Wrong: a wording that the computation confirms reported as refuted, or the other way round.
    fates = {name: fate(claim(name).as_worded) for name in NAMES if claim(name).as_worded is not None}
    confirmed = {name for name, found in fates.items() if found == "survived"}
    assert confirmed == {"claim_rebel_is_two_sample_rloo", "claim_dpo_at_their_level"}
    assert len(fates) == 9
