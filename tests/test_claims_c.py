"""Claims about ratios and KL terms: a wrong engine or a wrong estimator is seen, and the judges' tools are right."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from paper_checks import (
    claim_ctpo_lower_variance,
    claim_ctpo_unbiased,
    claim_k1_reward_equals_k2_loss,
    claim_k3_forward_kl,
    claim_k3_unbiased_kl,
    claim_on_policy_they_are_one,
    claim_sequence_is_variance,
    claim_tic_grpo_unbiased,
    claim_token_surrogate_first_order,
    divergences,
    prop_kl_table,
    prop_off_policy,
    prop_off_policy_cut,
)
from paper_checks.divergences import Divergences
from paper_checks.stale import Paths, one_token, referenced, stale, turned
from tpg import truth
from tpg.claims import Claim
from tpg.claims.run import run
from tpg.estimators import kl, offpolicy, ratios
from tpg.moments import brute
from tpg.numbers import FLOAT64, RATIONAL, Array
from tpg.problem import zoo
from tpg.problem.problem import Problem
from tpg.rollouts import Responses

Plant = Callable[[pytest.MonkeyPatch], None]


# Wrong engines and estimators


def upside_down(patch: pytest.MonkeyPatch) -> None:
    """μ/π instead of π/μ."""
    patch.setattr(Responses, "ratio", property(lambda self: self.old_prob / self.prob))


def squared(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Responses, "ratio", property(lambda self: (self.prob / self.old_prob) ** 2))


def last_token_only(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Responses, "sequence_ratio", property(lambda self: self.ratio[:, -1]))


def never_truncates(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ratios, "clamped", lambda ratio, low, high: ratio)


def never_masks(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ratios, "masked", lambda ratio, low, high: ratio)


def never_clips(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ratios, "clipped", lambda ratio, sign, low, high: ratio)


def clips_everything(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ratios, "clipped", lambda ratio, sign, low, high: ratio * 0)


def last_value(patch: pytest.MonkeyPatch) -> None:
    """M of the whole response at every token: as noisy as its reward, and no longer known at the token."""

    def everywhere(self: Responses) -> Array:
        return np.concatenate([self.expected_reward[:, None]] + [self.reward[:, None]] * self.mask.shape[1], axis=1)

    patch.setattr(Responses, "continuation_value", property(everywhere))


def divides_by_length(patch: pytest.MonkeyPatch) -> None:
    """Arithmetic instead of geometric: ρ/L."""
    patch.setattr(offpolicy, "geometric", lambda sequence_ratio, length: sequence_ratio / length)


def forgets_a_response(patch: pytest.MonkeyPatch) -> None:
    """The engine loses the last response of every group."""
    right = brute._estimates
    patch.setattr(brute, "_estimates", lambda credits, scores, index: right(credits[:, :1], scores, index[:, :1]))


def scores_of_mu(patch: pytest.MonkeyPatch) -> None:
    """The engine differentiates the policy that generated."""
    right = brute.token_scores

    def old(singles: Responses) -> Array:
        return right(replace(singles, problem=replace(singles.problem, probs=singles.problem.sampling)))

    patch.setattr(brute, "token_scores", old)


def swaps_policies(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(kl, "_inverse_ratio", lambda name, prob, ref_prob: prob / ref_prob)


def slope_of_k2(patch: pytest.MonkeyPatch) -> None:
    """k3 in the loss with the credits of k2: the gradient that its value seems to promise."""
    patch.setattr(kl, "_inverse_ratio", lambda name, prob, ref_prob: 1 - np.log(prob / ref_prob))


def own_token_only(patch: pytest.MonkeyPatch) -> None:
    """A KL in the reward without the tokens to come."""
    patch.setattr(kl, "_from_here", lambda values: values)


def in_bits(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(kl, "_nats", lambda name, logp, ref_logp: (logp - ref_logp) / np.log(2))


@pytest.mark.parametrize(
    ("module", "plant"),
    [
        (prop_off_policy, upside_down),
        (prop_off_policy, scores_of_mu),
        (prop_off_policy, last_value),
        (prop_off_policy_cut, never_truncates),
        (prop_off_policy_cut, never_masks),
        (prop_off_policy_cut, never_clips),
        (claim_sequence_is_variance, last_token_only),
        (claim_sequence_is_variance, upside_down),
        (claim_ctpo_lower_variance, squared),
        (claim_ctpo_unbiased, last_value),
        (claim_ctpo_unbiased, upside_down),
        (claim_tic_grpo_unbiased, last_token_only),
        (claim_tic_grpo_unbiased, forgets_a_response),
        (claim_on_policy_they_are_one, divides_by_length),
        (claim_on_policy_they_are_one, clips_everything),
        (claim_token_surrogate_first_order, scores_of_mu),
        (claim_token_surrogate_first_order, squared),
        (claim_k3_forward_kl, swaps_policies),
        (claim_k3_unbiased_kl, slope_of_k2),
        (claim_k1_reward_equals_k2_loss, own_token_only),
        (claim_k1_reward_equals_k2_loss, in_bits),
        (prop_kl_table, own_token_only),
        (prop_kl_table, swaps_policies),
        (prop_kl_table, in_bits),
        (prop_kl_table, upside_down),
    ],
)
def test_a_planted_mistake_refutes_the_claim(module: Any, plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    claim: Claim = module.CLAIM
    plant(monkeypatch)
    assert run(replace(claim, mutants={}, as_worded=None), quick=True).status == "refuted"


# What became of the published sentences


@pytest.mark.parametrize(
    ("module", "fate"),
    [
        (claim_sequence_is_variance, "refuted on"),
        (claim_ctpo_lower_variance, "refuted on"),
        (claim_ctpo_unbiased, "refuted on"),
        (claim_tic_grpo_unbiased, "refuted on"),
        (claim_on_policy_they_are_one, "refuted on"),
        (claim_token_surrogate_first_order, "confirmed"),
        (claim_k3_unbiased_kl, "refuted on"),
        (claim_k1_reward_equals_k2_loss, "refuted on"),
    ],
)
def test_the_fate_of_what_was_published(module: Any, fate: str) -> None:
    claim: Claim = module.CLAIM
    found = run(replace(claim, check=lambda problem: [], mutants={}, example=None), quick=True)
    assert found.wording
    assert found.as_worded is not None
    assert found.as_worded.startswith(fate)


# The tools of the truth side


@pytest.mark.parametrize("name", ["shared", "three-valued", "delayed-credit", "stale"])
def test_products_along_responses_give_the_gradient_of_the_judge(name: str) -> None:
    problem = zoo.get(name)
    paths, g = Paths(problem), problem.combine(truth.by_dual_numbers(problem))
    assert (paths.moved(paths.reward, problem.probs, problem.probs) == g).all()
    assert ((paths.weight * paths.reward)[:, None] * paths.moved_chance()).sum(0).tolist() == g.tolist()
    assert (paths.chance(problem.probs) == paths.found.probability).all() or not problem.on_policy
    mixed = paths.moved(paths.reward, problem.probs, problem.sampling)
    assert (mixed == g).all() == problem.on_policy


def test_policies_are_drawn_from_the_problem() -> None:
    problem, other = zoo.shared(), zoo.referenced()
    for make in (stale, referenced):
        assert make(problem).digest == make(problem).digest != make(other).digest
    assert not stale(problem).on_policy
    assert (stale(problem).sampling != referenced(problem).reference).any()


def test_the_first_token_alone() -> None:
    problem = zoo.stale()
    alone = one_token(problem)
    assert (alone.horizon, alone.prompts, alone.name) == (1, 2, "stale, first token")
    assert (alone.weights == problem.weights).all()
    assert not alone.tree.inner.any()
    assert one_token(zoo.shared()).features is not None


@pytest.mark.parametrize(
    "value",
    [
        divergences.reverse,
        divergences.forward,
        divergences.whole_reverse,
        divergences.whole_forward,
        divergences.log_likelihood,
        divergences.squares,
        divergences.k3s,
        divergences.whole_square,
        divergences.whole_k3,
        divergences.earned(divergences.k3),
        divergences.earned_ahead(divergences.k3),
    ],
)
def test_a_complex_step_is_the_derivative(value: divergences.Value) -> None:
    problem = referenced(stale(zoo.random(4, 2, 2, 1, shared=2))).to(FLOAT64)
    d, step, found = Divergences(problem), 1e-5, []
    assert problem.features is not None
    for j in range(problem.parameters):
        ends = [moved(problem, problem.features[:, :, j] * by) for by in (step, -step)]
        up, down = (value(d, table[None])[0] for table in ends)
        found.append((up - down) / (2 * step))
    np.testing.assert_allclose(d.slope(value), found, rtol=1e-7, atol=1e-8)
    assert value(d, problem.probs[None]).shape == (1,)


def moved(problem: Problem, logits: Array) -> Array:
    """π with changed logits."""
    probs = problem.probs * np.exp(logits)
    return np.asarray(probs / probs.sum(-1, keepdims=True))


def test_a_multiple_is_not_turned() -> None:
    g = RATIONAL.array([1, 2, 3])
    assert (turned(RATIONAL.array([-2, -4, -6]), g) == 0).all()
    assert (turned(RATIONAL.array([1, 2, 4]), g) != 0).any()
