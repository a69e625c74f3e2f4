"""The tests tested: planted faults that the mean check or the variance check must catch.

The checks are the ones the right rows pass in ``test_moments``: E ĝ and Var ĝ against the literal reference.  A third
of the faults leave E ĝ alone: only the variance shows them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest

from tests import references as ref
from tests.strategies import PLAIN
from tpg import audit as audits
from tpg import truth
from tpg.estimators import advantages, aggregation, critics, ratios
from tpg.estimators.estimator import Estimator
from tpg.estimators.parts import peers
from tpg.estimators.table import ESTIMATORS
from tpg.moments import brute_force, collapse, coupling
from tpg.moments.coupling import Coupling
from tpg.numbers import FLOAT64, RATIONAL, Array, powers
from tpg.problem import zoo
from tpg.problem.problem import Problem, make
from tpg.problem.tree import grow

MEAN, VARIANCE = {"mean", "variance"}, {"variance"}
SIZE = 3


def arena(off_policy: bool = False) -> Problem:
    """Two prompts of unequal weight, shared parameters, unequal lengths, rewards that nothing makes cancel, γ = 1/2."""
    tree = grow(2, 2, 2, end_token=1)
    other = [["1/4", "3/4"], ["3/5", "2/5"], ["3/5", "2/5"], ["2/5", "3/5"]]  # ratios from 1/3 to 8/3, some near 1
    return make(
        tree,
        [["2/3", "1/3"], ["1/5", "4/5"], ["3/4", "1/4"], ["1/2", "1/2"]],
        [[1, "-1/2"], ["1/4", 2], [3, 1], [-1, 3]],
        weights=[1, 2],
        discount="1/2",
        features=np.arange(16).reshape(4, 2, 2) ** 2 % 7,
        behaviour=other if off_policy else None,
        reference=[["1/2", "1/2"], ["2/5", "3/5"], ["1/3", "2/3"], ["3/4", "1/4"]],
        end_token=1,
        name="arena",
    )


# Faults: advantages


@peers("reward")
def sign_of_leave_one_out(reward: Array) -> Array:
    """R_i + mean of the others: the baseline added.  Still a baseline."""
    return 2 * reward - advantages.rloo(reward)


@peers("reward")
def own_reward_in_leave_one_out(reward: Array) -> Array:
    return reward - reward.sum(-1, keepdims=True) / reward.shape[-1]


@peers("reward")
def divided_by_g(reward: Array) -> Array:
    """Σ_{j≠i} R_j / G instead of / (G − 1).  Still a baseline."""
    return reward - (reward.sum(-1, keepdims=True) - reward) / reward.shape[-1]


@peers("reward")
def neighbour_as_baseline(reward: Array) -> Array:
    """R_i − R_{i+1}: only one of the others."""
    return reward - np.roll(reward, -1, axis=-1)


@peers("reward")
def best_as_baseline(reward: Array) -> Array:
    return reward - reward.max(-1, keepdims=True)


def batch_wide_baseline(reward: Array, value: Array) -> Array:
    """One baseline for all prompts: the expected reward of the whole batch, the limit of a batch-wide mean."""
    return reward[..., None] - value[..., :1]


def whole_batch(problem: Problem) -> Array:
    return np.full(problem.tree.nodes, truth.objective(problem))


def one_late(token_reward: Array, discount: Any) -> Array:
    """Reward-to-go from t + 1: the token's own reward is lost."""
    paid = token_reward * powers(discount, token_reward.shape[-1])
    return advantages.reward_to_go(token_reward, discount) - paid


def one_early(token_reward: Array, discount: Any) -> Array:
    """Reward-to-go from t − 1: a reward of the past comes along.  Still a baseline."""
    paid = token_reward * powers(discount, token_reward.shape[-1])
    before = np.concatenate([paid[..., :1] * 0, paid[..., :-1]], axis=-1)
    return advantages.reward_to_go(token_reward, discount) + before


def undiscounted(token_reward: Array, discount: Any) -> Array:
    """γ^{t−1} dropped, as implementations do."""
    return advantages.reward_to_go(token_reward, discount) / powers(discount, token_reward.shape[-1])


def no_greedy_baseline(reward: Array) -> Array:
    return reward


def greedy_added(reward: Array, greedy_reward: Array) -> Array:
    return reward + greedy_reward


def half_baseline(reward: Array, expected_reward: Array) -> Array:
    return reward - expected_reward / 2


def one_step_ahead(continuation_value: Array) -> Array:
    """M_t − M_{t−2} for t ≥ 2: a past surprise comes along.  Still a baseline."""
    before = np.concatenate([continuation_value[..., :1], continuation_value[..., :-2]], axis=-1)
    return continuation_value[..., 1:] - before


def no_terminal_reward(reward: Array, length: Array, mask: Array, value: Array) -> Array:
    """GAE that bootstraps the last token from its own value instead of the reward."""
    return critics.gae(reward * 0, length, mask, value)


def mask_shifted(reward: Array, mask: Array) -> Array:
    """The mask is shifted by one: the first token gets no credit (and a padding token, which has no score, does)."""
    return np.where(np.arange(mask.shape[-1]) == 0, 0 * reward[..., None], reward[..., None])


def end_token_left_out(reward: Array, length: Array, mask: Array) -> Array:
    last = np.arange(mask.shape[-1]) == length[..., None] - 1
    return np.where(last, 0 * reward[..., None], reward[..., None])


def later_tokens_discounted(reward: Array, mask: Array) -> Array:
    """γ = 0.9 on later tokens."""
    return reward[..., None] * powers(RATIONAL.scalar("9/10"), mask.shape[-1])


def clip_ignores_the_sign(ratio: Array, sign: Array) -> Array:
    """Clipped wherever the ratio leaves 1 ± 0.2, whatever the sign of the advantage."""
    return np.where(abs((ratio - 1) * 5) > 1, ratio * 0, ratio)


# Faults: aggregation and masks


def without_group_size(length: Array) -> Array:
    return np.ones_like(length)


@peers("mask")
def over_the_group(mask: Array) -> Array:
    """Token mean over the wrong axis: by how many responses are still alive at t."""
    return np.broadcast_to(np.maximum(mask.sum(-2, keepdims=True), 1), mask.shape)


def own_length(length: Array, group_size: int) -> Array:
    """Divided by the response's length, where a constant, or nothing, belongs."""
    return group_size * length


FAULTS: dict[str, tuple[str, dict[str, Any], set[str]]] = {
    "leave-one-out: sign": ("rloo", {"advantage": sign_of_leave_one_out}, VARIANCE),
    "leave-one-out: own reward inside": ("rloo", {"advantage": own_reward_in_leave_one_out}, MEAN),
    "leave-one-out: divided by G": ("rloo", {"advantage": divided_by_g}, VARIANCE),
    "leave-one-out: one neighbour only": ("rloo", {"advantage": neighbour_as_baseline}, VARIANCE),
    "leave-one-out: best of the group": ("rloo", {"advantage": best_as_baseline}, MEAN),
    "leave-one-out: over the batch": ("rloo", {"advantage": batch_wide_baseline, "critic": whole_batch}, VARIANCE),
    "mean baseline: leave-one-out": ("group_mean", {"advantage": advantages.rloo}, MEAN),
    "std with another ddof": ("grpo", {"advantage": partial(advantages.z_score, ddof=0)}, MEAN),
    "std left out": ("grpo", {"advantage": advantages.group_mean}, MEAN),
    "1/length missing": ("grpo", {"aggregation": aggregation.seq_mean_token_sum}, MEAN),
    "1/length extra": ("rloo", {"aggregation": own_length}, MEAN),
    "token mean per response": ("dapo", {"aggregation": aggregation.seq_mean_token_mean}, MEAN),
    "token mean over the wrong axis": ("dapo", {"aggregation": over_the_group}, MEAN),
    "constant divisor: own length": ("dr_grpo", {"aggregation": own_length}, MEAN),
    "sum instead of mean over the group": ("reinforce", {"aggregation": without_group_size}, MEAN),
    "mask shifted by one": ("reinforce", {"advantage": mask_shifted}, MEAN),
    "end token left out": ("reinforce", {"advantage": end_token_left_out}, MEAN),
    "γ on later tokens": ("reinforce", {"advantage": later_tokens_discounted}, MEAN),
    "reward-to-go: starts late": ("reward_to_go", {"advantage": one_late}, MEAN),
    "reward-to-go: starts early": ("reward_to_go", {"advantage": one_early}, VARIANCE),
    "reward-to-go: γ^{t−1} dropped": ("reward_to_go", {"advantage": undiscounted}, MEAN),
    "full return for reward-to-go": ("reward_to_go", {"advantage": advantages.response_reward}, VARIANCE),
    "greedy baseline missing": ("remax", {"advantage": no_greedy_baseline}, VARIANCE),
    "greedy baseline added": ("remax", {"advantage": greedy_added}, VARIANCE),
    "half of the baseline": ("reinforce_baseline", {"advantage": half_baseline}, VARIANCE),
    "advantage over two steps": ("exact_advantage", {"advantage": one_step_ahead}, VARIANCE),
    "GAE: another λ": ("gae", {"advantage": partial(critics.gae, lam="1/2")}, VARIANCE),
    "GAE: no reward at the end": ("gae", {"advantage": no_terminal_reward}, MEAN),
    "GAE: critic of another kind": ("gae_position_critic", {"critic": critics.wrong_critic}, MEAN),
    "γ^{L−t} with γ^{t−1} kept": ("zra_discounted", {"advantage": advantages.zra_discounted_start}, MEAN),
}
OFF_POLICY: dict[str, tuple[str, dict[str, Any], set[str]]] = {
    "ratio always 1": ("ppo", {"ratio": ratios.on_policy}, MEAN),
    "no clip": ("ppo", {"ratio": partial(ratios.ppo_clip, clip_low=9, clip_high=9)}, MEAN),
    "clip ignores the sign": ("ppo", {"ratio": clip_ignores_the_sign}, MEAN),
    "clip twice as wide": ("ppo", {"ratio": partial(ratios.ppo_clip, clip_low=0.4, clip_high=0.4)}, MEAN),
}


def caught(problem: Problem, name: str, fault: dict[str, Any]) -> set[str]:
    """Which checks of ``test_moments`` a row of the table fails once ``fault`` is planted in it."""
    row: Estimator = replace(ESTIMATORS[name], name=f"{name}, planted", **fault)
    given = problem.to(FLOAT64) if row.numbers == "float64" else problem
    return ref.disagreements(problem, brute_force(given, row, SIZE), name, SIZE)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_caught(fault: str) -> None:
    name, change, checks = FAULTS[fault]
    assert caught(arena(), name, change) == checks


@pytest.mark.parametrize("fault", OFF_POLICY)
def test_a_planted_fault_is_caught_off_policy(fault: str) -> None:
    # On-policy these are no faults: PPO is GAE.
    name, change, checks = OFF_POLICY[fault]
    assert caught(arena(off_policy=True), name, change) == checks
    assert caught(arena(), name, change) == set()


@pytest.mark.parametrize("off_policy", [False, True])
@pytest.mark.parametrize("name", PLAIN)
def test_nothing_is_caught_where_nothing_is_planted(name: str, off_policy: bool) -> None:
    assert caught(arena(off_policy), name, {}) == set()


def test_the_mean_alone_would_miss_many() -> None:
    assert sum(checks == VARIANCE for _, _, checks in FAULTS.values()) >= 10


@pytest.mark.parametrize(
    "fault", [fault for fault in FAULTS if "neighbour" not in fault]
)  # class collapse has no order
def test_the_audit_refutes_the_faults_that_move_the_mean(fault: str) -> None:
    # The row keeps what it declares, so E ĝ ≠ declared must be REFUTED; where only the variance moved it must hold.
    name, change, checks = FAULTS[fault]
    planted = replace(ESTIMATORS[name], name="planted", **change)
    verdict = audits.audit(arena(), planted, SIZE).verdict
    assert verdict == ("refuted" if "mean" in checks else "holds")


@pytest.mark.parametrize("field", ["weight", "length", "prompt", "parameters", "reward"])
def test_the_arena_hides_nothing(field: str) -> None:
    # What a symmetric problem hides: equal weights, one length, one prompt, orthogonal scores, rewards that cancel.
    twin = ref.read(arena())
    words = ref.responses(twin, 0)
    assert {
        "weight": twin.weight[0] != twin.weight[1],
        "length": len({ref.length(w) for w in words}) > 1,
        "prompt": twin.prompts > 1,
        "parameters": twin.feature is not None,
        "reward": len({ref.total(twin, w) for x in (0, 1) for w in ref.responses(twin, x)}) == 6,
    }[field]


# Faults in the engine


def uncoupled(c: Coupling) -> Coupling:
    """Without the cross term G(G−1) E[A_1 A_2]."""
    return c._replace(spread=-np.outer(c.first, c.first))


def independent(c: Coupling) -> Coupling:
    """Credits of a group taken as independent, G(G−1) E[A_1 A_2] = α αᵀ, which drops their covariance."""
    return c._replace(spread=c.spread * 0)


def with_diagonal(c: Coupling) -> Coupling:
    """Pairs that count a response with itself."""
    return c._replace(spread=c.spread + np.diag(c.square.ravel()))


def squared_mean(c: Coupling) -> Coupling:
    """G E[A]² for G E[A²]."""
    return c._replace(square=(c.first * c.first / SIZE).reshape(c.square.shape))


@peers("reward")
def counted_rloo(reward: Array) -> Array:
    """Leave-one-out without its closed form: groups are counted class by class."""
    return advantages.rloo(reward)


COUNTED = replace(ESTIMATORS["rloo"], advantage=counted_rloo)
ROUTES = {  # where the coupling comes from → an estimator that takes it there, and whether it asks for the covariance
    "sweep": ("couple", COUNTED, False),
    "paths": ("couple", COUNTED, True),
    "closed form": ("couple_leave_one_out", ESTIMATORS["rloo"], False),
}


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("fault", [uncoupled, independent, with_diagonal, squared_mean])
def test_a_fault_in_the_coupling_is_caught(
    fault: Callable[[Coupling], Coupling], route: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, row, covariance = ROUTES[route]
    right = getattr(coupling, name)
    assert ref.disagreements(arena(), collapse(arena(), row, SIZE, covariance), "rloo", SIZE) == set()
    # the module of this name, not the function that the package re-exports under it
    monkeypatch.setattr(sys.modules["tpg.moments.collapse"], name, lambda *given: fault(right(*given)))
    assert ref.disagreements(arena(), collapse(arena(), row, SIZE, covariance), "rloo", SIZE) == VARIANCE


@pytest.mark.parametrize("name", ["rloo", "grpo"])
def test_a_fault_in_the_multinomial_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Compositions taken as equally likely.
    def uniform(counts: Array, mass: Array, field: Any) -> Array:
        return field.ones(len(counts)) / len(counts)

    monkeypatch.setattr(coupling, "chances", uniform)
    problem, row = (arena(), COUNTED) if name == "rloo" else (arena().to(FLOAT64), ESTIMATORS[name])
    assert ref.disagreements(arena(), collapse(problem, row, SIZE), name, SIZE) == MEAN


def test_unsquared_prompt_weights_are_caught() -> None:
    result = collapse(arena(), ESTIMATORS["rloo"], SIZE)
    wrong = sum(w * v for w, v in zip(arena().weights, result.variance, strict=True))
    assert wrong != result.total_variance


def test_a_fault_in_a_route_to_g_is_caught() -> None:
    # γ^{t−1} dropped from lem:exact-gradient: another vector than the literal derivative.
    problem, twin = arena(), ref.read(arena())
    dropped = problem.pull(problem.reach[:, None] * problem.probs * truth.q_values(problem))
    assert ref.fractions(problem.combine(dropped)) != ref.gradient(twin)
    assert ref.fractions(problem.combine(truth.by_recursion(problem))) == ref.gradient(twin)


def test_a_symmetric_problem_would_hide_faults() -> None:
    # Why the arena is crooked: on a fixed-length bandit four faults leave no trace at all.
    bandit = zoo.hard_easy()
    for fault in ("1/length extra", "γ on later tokens", "reward-to-go: starts early", "advantage over two steps"):
        name, change, _ = FAULTS[fault]
        assert caught(bandit, name, change) == set()
