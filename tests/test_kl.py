"""KL terms: which gradient each placement has, against derivatives of enumerated divergences and published losses."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tests import references as ref
from tests.test_moments import norm2_of_score
from tests.test_the_tests import MEAN, VARIANCE, arena
from tpg import truth
from tpg.audit import audit
from tpg.errors import EstimatorError
from tpg.estimators import advantages, critics, kl, kl_expected
from tpg.estimators.estimator import Estimator
from tpg.estimators.parts import peers
from tpg.estimators.table import ESTIMATORS, get
from tpg.moments import brute_force, collapse, moments
from tpg.numbers import FLOAT64, RATIONAL, Array, gf
from tpg.problem import zoo
from tpg.problem.problem import Problem, make
from tpg.problem.tree import grow
from tpg.rollouts import Rollouts, draw, every

BETA = 0.1
NAMES = [row.name for row in kl.ROWS]
SAID_OFF = [row.name for row in kl.ROWS if row.off_policy is not None]


def shared(off_policy: bool = False) -> Problem:
    """Shared parameters, unequal lengths, two prompts, γ = 9/10, a reference policy."""
    other = zoo.stale()
    return replace(zoo.shared(), reference=other.reference, behaviour=other.behaviour if off_policy else None)


ON_POLICY = {"tabular": zoo.referenced, "shared": shared}
OFF_POLICY = {"tabular": zoo.stale, "shared": partial(shared, off_policy=True)}


def numbers(problem: Problem, row: Estimator) -> Problem:
    return problem.to(FLOAT64) if row.numbers == "float64" else problem


def near(given: Any, expected: Any, size: float | None = None) -> bool:
    """To 1e-12 of the largest entry, or of ``size``."""
    one, two = np.asarray(given, dtype=float).ravel(), np.asarray(expected, dtype=float).ravel()
    return bool(np.abs(one - two).max() <= 1e-12 * (np.abs(two).max() if size is None else size))


# The policy as a differentiable function of its parameters


class Model:
    """log π_θ over a literal twin, at θ = 0; nothing of tpg is used."""

    def __init__(self, problem: Problem) -> None:
        self.twin = ref.read(problem)
        many = len(self.twin.parameters)
        self.theta = torch.zeros(many, dtype=torch.float64, requires_grad=True)
        self.table, place = {}, 0
        for prefix, row in self.twin.policy.items():
            logits = torch.log(torch.tensor([float(p) for p in row], dtype=torch.float64))
            if self.twin.feature is None:
                logits, place = logits + self.theta[place : place + len(row)], place + len(row)
            else:
                phi = torch.tensor([[float(x) for x in a] for a in self.twin.feature[prefix]], dtype=torch.float64)
                logits = logits + phi @ self.theta
            self.table[prefix] = torch.log_softmax(logits, 0)

    def along(self, response: ref.Prefix) -> torch.Tensor:
        """log π of every token."""
        return torch.stack([self.table[s][a] for s, a in ref.steps(response)])

    def theirs(self, response: ref.Prefix) -> torch.Tensor:
        """log π_ref of every token."""
        assert self.twin.reference is not None
        return torch.tensor([math.log(self.twin.reference[s][a]) for s, a in ref.steps(response)], dtype=torch.float64)

    def old(self, response: ref.Prefix) -> torch.Tensor:
        return torch.tensor([math.log(self.twin.behaviour[s][a]) for s, a in ref.steps(response)], dtype=torch.float64)

    def gradient(self, objective: Callable[[int], torch.Tensor]) -> list[float]:
        """∇ Σ_x weight(x) objective(x)."""
        value = sum(float(w) * objective(x) for x, w in enumerate(self.twin.weight))
        if not value.requires_grad:
            return [0.0] * len(self.theta)
        return torch.autograd.grad(value, self.theta, retain_graph=True)[0].tolist()

    def over(self, worth: Callable[[ref.Prefix], torch.Tensor], prompt: int, by: str) -> torch.Tensor:
        """Σ_W P(W) worth(W), P of "ours" (differentiated), "ours, fixed", the "behaviour" or the "reference"."""
        policy = {"behaviour": self.twin.behaviour, "reference": self.twin.reference}.get(by, self.twin.policy)
        out = torch.zeros((), dtype=torch.float64)
        for response, chance in ref.responses(self.twin, prompt, policy).items():
            weight = torch.exp(self.along(response).sum()) if by == "ours" else float(chance)
            out = out + weight * worth(response)
        return out

    def at_prefixes(self, divergence: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], prompt: int) -> Any:
        """Σ_s ρ(s) divergence(π(·|s), π_ref(·|s)), ρ a number."""
        assert self.twin.reference is not None
        out = torch.zeros((), dtype=torch.float64)
        for prefix, logs in self.table.items():
            if prefix[0] == prompt:
                reach = math.prod((self.twin.policy[s][a] for s, a in ref.steps(prefix)), start=Fraction(1))
                theirs = torch.tensor([math.log(q) for q in self.twin.reference[prefix]], dtype=torch.float64)
                out = out + float(reach) * divergence(logs, theirs)
        return out


def reverse(ours: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
    return (torch.exp(ours) * (ours - theirs)).sum()


def forward(ours: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
    return (torch.exp(theirs) * (theirs - ours)).sum()


def k3(nats: torch.Tensor) -> torch.Tensor:
    return torch.exp(-nats) - 1 + nats


def divergences(m: Model) -> dict[str, Callable[[int], torch.Tensor]]:
    """What each placement should be the gradient of, differentiated as it stands; −β × for KL terms."""

    def nats(w: ref.Prefix) -> torch.Tensor:
        return m.along(w) - m.theirs(w)

    def paid(w: ref.Prefix) -> torch.Tensor:
        return torch.tensor(float(ref.total(m.twin, w)), dtype=torch.float64)

    frozen_reverse, frozen_forward = partial(m.at_prefixes, reverse), partial(m.at_prefixes, forward)
    whole = partial(m.over, lambda w: nats(w).sum(), by="ours")
    regularised = partial(m.over, lambda w: paid(w) - BETA * nats(w).sum(), by="ours")
    return {
        "kl_k1_loss": lambda x: m.over(lambda w: nats(w).sum(), x, "ours, fixed"),
        "kl_k2_loss": frozen_reverse,
        "kl_k3_loss": frozen_forward,
        "kl_k3_ratio_loss": frozen_reverse,
        "kl_k3_straight_through": frozen_reverse,
        "kl_k1_reward": whole,
        "kl_k1_reward_full": whole,
        "kl_k2_reward": lambda x: m.over(lambda w: (nats(w) ** 2 / 2).sum().detach(), x, "ours"),
        "kl_k3_reward": lambda x: m.over(lambda w: k3(nats(w)).sum().detach(), x, "ours"),
        "kl_k2_sequence_loss": whole,
        "kl_k3_sequence_loss": lambda x: m.over(lambda w: -nats(w).sum(), x, "reference"),
        "distill_myopic": frozen_reverse,
        "distill_return": whole,
        "rloo_kl": regularised,
        "ppo_kl": regularised,
        "reinforce_kl": regularised,
    }


def factor(name: str) -> float:
    return {"kl": -BETA, "distill": -1.0}.get(name.split("_")[0], 1.0)


@pytest.mark.parametrize("kind", ON_POLICY)
@pytest.mark.parametrize("name", [n for n in NAMES if n != "grpo_kl"])
def test_each_placement_has_the_gradient_of_its_divergence(name: str, kind: str) -> None:
    # The truth table of algorithms.md §K, every divergence enumerated and differentiated by torch.
    problem, row = ON_POLICY[kind](), ESTIMATORS[name]
    model, given = Model(problem), numbers(problem, row)
    wanted = np.array(model.gradient(divergences(model)[name])) * factor(name)
    size = float(np.abs(wanted).max()) or 1.0
    measured = given.combine(collapse(given, row, 2).mean)
    declared = given.combine(row.expectation(given, 2, truth.gradient(given)))
    assert near(measured, wanted, max(size, 1.0))
    assert near(declared, wanted, max(size, 1.0))
    assert name == "kl_k1_loss" or size > 1e-4


def off_policy_losses(m: Model) -> dict[str, Callable[[ref.Prefix], torch.Tensor]]:
    """The published losses of one response at fixed data; terms in the reward enter as numbers."""

    def nats(w: ref.Prefix) -> torch.Tensor:
        return m.along(w) - m.theirs(w)

    def rewarded(w: ref.Prefix, each: torch.Tensor) -> torch.Tensor:
        ahead = torch.flip(torch.cumsum(torch.flip(each.detach(), [0]), 0), [0])
        return (m.along(w) * ahead).sum()

    def straight_through(x: torch.Tensor) -> torch.Tensor:
        return x**2 / 2 - (x**2 / 2).detach() + k3(x).detach()

    return {
        "kl_k1_loss": lambda w: nats(w).sum(),
        "kl_k2_loss": lambda w: (nats(w) ** 2 / 2).sum(),
        "kl_k3_loss": lambda w: k3(nats(w)).sum(),
        "kl_k3_ratio_loss": lambda w: (torch.exp(m.along(w) - m.old(w)) * k3(nats(w))).sum(),
        "kl_k3_straight_through": lambda w: straight_through(nats(w)).sum(),
        "kl_k1_reward": lambda w: rewarded(w, nats(w)),
        "kl_k1_reward_full": lambda w: m.along(w).sum() * nats(w).sum().detach(),
        "kl_k2_reward": lambda w: rewarded(w, nats(w) ** 2 / 2),
        "kl_k3_reward": lambda w: rewarded(w, k3(nats(w))),
        "kl_k2_sequence_loss": lambda w: nats(w).sum() ** 2 / 2,
        "kl_k3_sequence_loss": lambda w: k3(nats(w).sum()),
        "distill_myopic": lambda w: (m.along(w) * nats(w).detach()).sum(),
        "distill_return": lambda w: rewarded(w, nats(w)),
    }


@pytest.mark.parametrize("kind", OFF_POLICY)
@pytest.mark.parametrize("name", [n for n in NAMES if n.startswith(("kl_", "distill_"))])
def test_off_policy_the_mean_is_the_gradient_of_the_loss_at_fixed_data(name: str, kind: str) -> None:
    # E_μ[loss], μ fixed, every response enumerated and the loss differentiated by torch.
    problem, row = OFF_POLICY[kind](), ESTIMATORS[name]
    model, given = Model(problem), numbers(problem, row)
    loss = off_policy_losses(model)[name]
    wanted = np.array(model.gradient(lambda x: model.over(loss, x, "behaviour"))) * factor(name)
    assert row.off_policy is not None
    assert np.abs(wanted).max() > 1e-4
    assert near(given.combine(collapse(given, row, 2).mean), wanted, 1.0)
    assert near(given.combine(row.off_policy(given, 2, truth.gradient(given))), wanted, 1.0)


@pytest.mark.parametrize("kind", OFF_POLICY)
@pytest.mark.parametrize("name", SAID_OFF)
def test_on_policy_both_declarations_are_one(name: str, kind: str) -> None:
    # The form for any generating policy, read at μ = π, is the on-policy one: two closed forms, two routes.
    row = ESTIMATORS[name]
    given = numbers(ON_POLICY[kind](), row)
    g = truth.gradient(given)
    assert row.off_policy is not None
    one, two = (said(given, 2, g) for said in (row.expectation, row.off_policy))
    assert near(one, two, 1.0)


def test_k3_times_ratio_keeps_the_reverse_kl_off_policy() -> None:
    # One token: every policy reaches the root alike, so E ĝ is the same whoever generates.  k2 alone moves with μ.
    problem = make(
        grow(3, 1),
        [["1/2", "1/4", "1/4"]],
        [[0, 0, 0]],
        behaviour=[["1/5", "1/5", "3/5"]],
        reference=[["1/4", "1/4", "1/2"]],
    ).to(FLOAT64)
    plain = replace(problem, behaviour=None)
    means = {
        n: [collapse(p, ESTIMATORS[n], 1).mean for p in (plain, problem)] for n in ("kl_k3_ratio_loss", "kl_k2_loss")
    }
    assert near(means["kl_k3_ratio_loss"][1], means["kl_k3_ratio_loss"][0])
    assert not near(means["kl_k2_loss"][1], means["kl_k2_loss"][0], 0.01)


# Numbers by hand


def bandit(ours: list[Any], theirs: list[Any], rewards: list[Any] | None = None, field: Any = RATIONAL) -> Problem:
    return make(grow(len(ours), 1), [ours], [rewards or [0] * len(ours)], reference=[theirs], field=field)


def test_the_k3_of_grpo_is_the_forward_kl() -> None:
    # π = (1/2, 1/4, 1/4), π_ref = (1/4, 1/4, 1/2).  Forward: π − π_ref = (1/4, 0, −1/4), and it leaves token 1 alone.
    # Reverse: π_a (L_a − KL) with L = (log 2, 0, −log 2), KL = log 2/4: (3/8, −1/16, −5/16) log 2.
    problem = bandit(["1/2", "1/4", "1/4"], ["1/4", "1/4", "1/2"])
    found = collapse(problem, ESTIMATORS["kl_k3_loss"], 1).mean
    assert ref.fractions(found) == [[Fraction(-1, 40), Fraction(0), Fraction(1, 40)]]
    given = problem.to(FLOAT64)
    k2 = collapse(given, ESTIMATORS["kl_k2_loss"], 1).mean
    assert near(k2, -BETA * math.log(2) * np.array([3 / 8, -1 / 16, -5 / 16]))
    planted = replace(ESTIMATORS["kl_k3_loss"], expectation=ESTIMATORS["kl_k2_loss"].expectation)
    assert audit(given, planted, 2).verdict == "refuted"
    assert audit(problem, ESTIMATORS["kl_k3_loss"], 2).verdict == "holds"


def test_at_the_regularised_optimum_only_the_reverse_kl_is_at_rest() -> None:
    # R = β log(π/π_ref) + 3 makes π the optimum of J − β KL: R' = 3 for every response, so leave-one-out credits
    # vanish, noise and all.  With k3 in the loss E ĝ = β [(3/8, −1/16, −5/16) log 2 − (1/4, 0, −1/4)] instead.
    ours, theirs = [1 / 2, 1 / 4, 1 / 4], [1 / 4, 1 / 4, 1 / 2]
    rewards = [3 + BETA * math.log(p / q) for p, q in zip(ours, theirs, strict=True)]
    problem = bandit(ours, theirs, rewards, FLOAT64)
    rest = moments(problem, ESTIMATORS["rloo_kl"], 3)
    assert np.abs(rest.mean).max() < 1e-15
    assert rest.total_variance < 1e-30
    row = Estimator("reinforce + k3", advantages.response_reward, penalty=kl.k3_loss)
    by_hand = BETA * (math.log(2) * np.array([3 / 8, -1 / 16, -5 / 16]) - np.array([1 / 4, 0, -1 / 4]))
    assert near(moments(problem, row, 2).mean, by_hand, 1.0)


def test_near_the_reference_k2_and_k3_agree_to_first_order_only() -> None:
    # Two tokens, π = (p, 1−p), π_ref = π + ε(1, −1); entry 0 of the gradient.
    # Forward: −ε.  Reverse: p(1−p) [log p/(p+ε) − log (1−p)/(1−p−ε)] = −ε + c ε² + O(ε³), c = (1−2p)/(2p(1−p)).
    # At p = 1/3: c = 3/4, and the ε³ term is −(ε³/3) ((1−p)/p² + p/(1−p)²) = −9/4 ε³.
    for eps in (1e-2, 1e-3, 1e-4):
        problem = bandit([1 / 3, 2 / 3], [1 / 3 + eps, 2 / 3 - eps], field=FLOAT64)
        mean = {n: collapse(problem, ESTIMATORS[f"kl_{n}"], 1).mean[0, 0] / -BETA for n in ("k2_loss", "k3_loss")}
        assert math.isclose(mean["k3_loss"], -eps, rel_tol=1e-10)
        gap = (mean["k2_loss"] - mean["k3_loss"]) / eps**2
        assert abs(gap - 3 / 4 + 9 / 4 * eps) < 10 * eps**2 + 1e-15 / eps**2


def test_k2_and_k3_in_the_reward_vanish_to_first_order() -> None:
    # In the setting above, k1 in the reward: −ε + O(ε²).  k3: reverse − forward = c ε² + O(ε³), c = 3/4.
    # k2: p(1−p)(k2_0 − k2_1) = p(1−p) ε²/2 (1/p² − 1/(1−p)²) = c ε² + O(ε³).  A penalty that does not pull.
    for eps in (1e-2, 1e-3):
        problem = bandit([1 / 3, 2 / 3], [1 / 3 + eps, 2 / 3 - eps], field=FLOAT64)
        rows = {n: collapse(problem, ESTIMATORS[f"kl_{n}_reward"], 1).mean[0, 0] / -BETA for n in ("k1", "k2", "k3")}
        assert abs(rows["k1"] + eps) < eps**2
        for name in ("k2", "k3"):
            assert abs(rows[name] / eps**2 - 3 / 4) < 10 * eps


def test_k2_and_k3_in_the_reward_lack_the_direct_term() -> None:
    # ∇E Σ k = E[Σ k Z] + E Σ ∇k, and the reward has the first part only: E Σ ∇k2 = reverse, E Σ ∇k3 = forward, frozen.
    for make_problem in ON_POLICY.values():
        given = make_problem().to(FLOAT64)
        k3_part = collapse(given, ESTIMATORS["kl_k3_reward"], 1).mean / -BETA
        assert near(k3_part, kl_expected.whole_reverse(given) - kl_expected.frozen_forward(given), 1.0)
        model = Model(make_problem())
        whole = model.gradient(
            lambda x, m=model: m.over(lambda w: ((m.along(w) - m.theirs(w)) ** 2 / 2).sum(), x, "ours")
        )
        k2_part = given.combine(collapse(given, ESTIMATORS["kl_k2_reward"], 1).mean) / -BETA
        assert near(k2_part, np.array(whole) - given.combine(kl_expected.frozen_reverse(given)), 1.0)


def stop_or_go(at_root: list[str], below: list[str]) -> Problem:
    """Token 1 ends; token 0 leads to a second and last token.  π = 1/2 everywhere."""
    halves = [["1/2", "1/2"], ["1/2", "1/2"]]
    return make(grow(2, 2, end_token=1), halves, [[0, 0], [0, 0]], reference=[at_root, below], end_token=1)


def test_the_kl_of_responses_also_moves_where_there_is_no_divergence() -> None:
    # π_ref = π at the root and (1/4, 3/4) below: KL below = log(2)/2 + log(2/3)/2 = log(4/3)/2.
    # Frozen: root 0; below ρ π_a (L_a − KL) = 1/2 · 1/2 · ±log(3)/2 = ±log(3)/8.
    # Whole responses, besides: root π_0 π_1 KL = log(4/3)/8, so a KL in the reward makes responses shorter.
    given = stop_or_go(["1/2", "1/2"], ["1/4", "3/4"]).to(FLOAT64)
    sign = np.array([1.0, -1.0])
    frozen = collapse(given, ESTIMATORS["kl_k2_loss"], 1).mean
    whole = collapse(given, ESTIMATORS["kl_k1_reward"], 1).mean
    assert near(frozen, -BETA * np.array([0 * sign, sign * math.log(3) / 8]))
    assert near(whole, -BETA * np.array([sign * math.log(4 / 3) / 8, sign * math.log(3) / 8]))


def test_the_forward_kl_of_responses_uses_the_prefixes_of_the_reference() -> None:
    # π_ref = (1/4, 3/4) at the root, (3/4, 1/4) below.  Frozen: π_ref − π = ∓1/4 at the root, ρ_π (±1/4) = ±1/8 below;
    # of whole responses the second is ρ_ref (±1/4) = ±1/16.
    problem = stop_or_go(["1/4", "3/4"], ["3/4", "1/4"])
    frozen, whole = (
        ref.fractions(10 * collapse(problem, ESTIMATORS[n], 1).mean) for n in ("kl_k3_loss", "kl_k3_sequence_loss")
    )
    assert frozen == [[Fraction(-1, 4), Fraction(1, 4)], [Fraction(1, 8), Fraction(-1, 8)]]
    assert whole == [[Fraction(-1, 4), Fraction(1, 4)], [Fraction(1, 16), Fraction(-1, 16)]]


def test_over_its_length_the_k3_of_grpo_is_no_kl_at_all() -> None:
    # Rewards all equal: the z-score is 0 and the KL term alone is left.  π_ref = (1/4, 3/4) at the root, π below.
    # E[1/L | token] = (1/2, 1), so coefficients (−1/8, 1/4), less their sum 1/8 times π: ∓3/16, not ∓1/4.
    given = stop_or_go(["1/4", "3/4"], ["1/2", "1/2"]).to(FLOAT64)
    found = collapse(given, ESTIMATORS["grpo_kl"], 3).mean
    assert near(found, BETA * np.array([[-3 / 16, 3 / 16], [0, 0]]))


def test_k1_in_the_loss_is_pure_noise() -> None:
    # E ĝ = 0, exactly; Var ĝ = β² E‖Z‖²/G, Z = ∇log π(W).
    problem = zoo.referenced()
    twin, found = ref.read(problem), moments(problem, ESTIMATORS["kl_k1_loss"], 3)
    assert (found.mean == 0).all()
    for x in range(twin.prompts):
        norm2 = sum(p * norm2_of_score(twin, w) for w, p in ref.responses(twin, x).items())
        assert ref.exact(found.variance[x]) == norm2 / 300
        assert norm2 > 0


def test_frozen_states_make_no_objective() -> None:
    # A gradient has a symmetric Jacobian.  The forward KL of whole responses does; with states frozen the field at a
    # prefix moves with the policy before it, but not the other way round.
    problem = replace(zoo.random(5, vocab=2, horizon=2, prompts=1), reference=zoo.random(6, 2, 2, 1).probs)
    assert (truth.curl(problem, kl_expected.whole_forward) == 0).all()
    assert (truth.curl(problem, kl_expected.frozen_forward) != 0).any()


# Identities between rows


def credits(name: str, problem: Problem, size: int = 2, **change: Any) -> Array:
    row = replace(ESTIMATORS[name], **change)
    return np.concatenate([row(s.group(index, row.needs)) for _, s, index, _ in every(problem, size, row.given)])


def with_beta(name: str, beta: Any) -> dict[str, Any]:
    return {"advantage": partial(ESTIMATORS[name].advantage.func, beta=beta)}


@pytest.mark.parametrize(
    ("one", "two", "on_policy"),
    [
        ("kl_k3_straight_through", "kl_k2_loss", False),
        ("kl_k2_sequence_loss", "kl_k1_reward_full", False),
        ("kl_k3_ratio_loss", "kl_k2_loss", True),
    ],
)
def test_rows_with_the_same_credits(one: str, two: str, on_policy: bool) -> None:
    for kinds in (ON_POLICY, OFF_POLICY):
        given = kinds["tabular"]().to(FLOAT64)
        same = bool((credits(one, given) == credits(two, given)).all())
        assert same == (kinds is ON_POLICY or not on_policy)


def test_distillation_is_a_kl_with_beta_one() -> None:
    given = zoo.stale().to(FLOAT64)
    assert (credits("distill_myopic", given) == credits("kl_k2_loss", given, **with_beta("kl_k2_loss", 1))).all()
    assert (credits("distill_return", given) == credits("kl_k1_reward", given, **with_beta("kl_k1_reward", 1))).all()


def test_k1_in_the_reward_and_k2_in_the_loss_are_one_only_for_whole_responses() -> None:
    # arXiv 2510.01555: equivalent on-policy.  True of responses, or of one token; per token the states differ.
    given = zoo.referenced().to(FLOAT64)
    mean = {n: collapse(given, ESTIMATORS[f"kl_{n}"], 1).mean for n in ("k1_reward", "k2_sequence_loss", "k2_loss")}
    assert near(mean["k1_reward"], mean["k2_sequence_loss"])
    assert np.abs(mean["k1_reward"] - mean["k2_loss"]).max() > 1e-2 * np.abs(mean["k2_loss"]).max()
    one = zoo.random(7, horizon=1)
    short = replace(one, reference=zoo.random(8, horizon=1).probs).to(FLOAT64)
    assert near(credits("kl_k1_reward", short), credits("kl_k2_loss", short))


def test_the_full_return_has_the_mean_of_the_reward_to_go_and_another_variance() -> None:
    for make_problem in ON_POLICY.values():
        given = make_problem().to(FLOAT64)
        one, two = (moments(given, ESTIMATORS[n], 2) for n in ("kl_k1_reward", "kl_k1_reward_full"))
        assert near(one.mean, two.mean, 1.0)
        assert abs(one.total_variance - two.total_variance) > 1e-3 * two.total_variance


@pytest.mark.parametrize(
    ("name", "plain"), [("grpo_kl", "grpo"), ("rloo_kl", "rloo"), ("ppo_kl", "ppo"), ("reinforce_kl", "reinforce")]
)
def test_without_a_divergence_the_plain_method_is_left(name: str, plain: str) -> None:
    # π_ref = π, on-policy: k1 = 0 and π_ref/π − 1 = 0, exactly.
    base = zoo.referenced()
    given = replace(base, reference=base.probs).to(FLOAT64)
    assert near(credits(name, given), credits(plain, given), 1.0)


@pytest.mark.parametrize("name", [n for n in NAMES if n.startswith("kl_")])
def test_without_a_divergence_there_is_no_credit_but_of_k1_in_the_loss(name: str) -> None:
    base = zoo.referenced()
    found = credits(name, numbers(replace(base, reference=base.probs), ESTIMATORS[name]))
    assert (found == 0).all() == (name != "kl_k1_loss")


@pytest.mark.parametrize("lam", [0, "1/2", 0.95, 1])
def test_ppo_is_unbiased_for_the_regularised_objective_whatever_lambda(lam: Any) -> None:
    given = shared().to(FLOAT64)
    row = replace(ESTIMATORS["ppo_kl"], advantage=partial(kl.gae_kl, lam=lam))
    assert near(brute_force(given, row, 1).mean, row.expectation(given, 1, truth.gradient(given)), 1.0)
    other = replace(row, critic=critics.exact_critic)  # of the plain reward: exact for λ = 1 alone
    gap = brute_force(given, other, 1).mean - row.expectation(given, 1, truth.gradient(given))
    assert (np.abs(gap).max() < 1e-12) == (lam == 1)


@pytest.mark.parametrize("beta", [0, "1/4", 2])
def test_beta_changes_credits_and_declarations_together(beta: Any) -> None:
    for row in kl.rows(beta):
        for problem in (shared(), shared(off_policy=True)):
            said = row.declares(problem)
            assert audit(problem, row, 2).verdict == ("holds" if said is not None else "undecided")


# Published losses, differentiated


def rollouts_of(row: Estimator, problem: Problem) -> tuple[Rollouts, Any]:
    """Five drawn groups of four, and their fields as tensors with log π as the leaf."""
    given = problem.to(FLOAT64)
    found, index = draw(given, 4, np.random.Generator(np.random.Philox(5)), 5, row.given)
    names = {"reward", "length", "mask", "logp", "old_logp", "ref_logp", "prob", "ref_prob", "ratio", "value"}
    roll = found.group(index.reshape(-1, 4), row.needs | names)
    b = SimpleNamespace(
        **{n: torch.tensor(np.asarray(getattr(roll, n))) for n in ("reward", "mask", "logp", "old_logp", "ref_logp")},
        value=None if roll.value is None else torch.tensor(roll.value),
    )
    b.logp.requires_grad_()
    return roll, b


def in_loss(b: Any, kind: str) -> torch.Tensor:
    """verl's kl_penalty, in our own words: low_var_kl with its clamps."""
    x = b.logp - b.ref_logp
    if kind == "k1":
        return x
    if kind == "k2":
        return 0.5 * x.square()
    if kind == "low_var_kl":
        back = torch.clamp(-x, -20, 20)
        return torch.clamp(torch.exp(back) - back - 1, -10, 10)
    square = 0.5 * x.square()
    return square - square.detach() + in_loss(b, "low_var_kl").detach()


def in_reward(b: Any, kind: str) -> torch.Tensor:
    """−Σ_t log π_t · sg(return), returns summed backwards token by token."""
    each, back = in_loss(b, kind).detach() * b.mask, torch.zeros_like(b.logp[..., 0])
    out = torch.zeros_like(b.logp)
    for t in reversed(range(each.shape[-1])):
        back = out[..., t] = back - BETA * each[..., t]
    return -out * b.logp


def sum_then_mean(each: torch.Tensor, b: Any) -> torch.Tensor:
    """Summed over tokens, mean over the group, summed over groups."""
    return (each * b.mask).sum(-1).mean(-1).sum()


def surrogate(b: Any, advantage: torch.Tensor) -> torch.Tensor:
    ratio = torch.exp(b.logp - b.old_logp)
    return -torch.minimum(ratio * advantage, torch.clamp(ratio, 0.8, 1.2) * advantage)


def loss_of_grpo(b: Any) -> torch.Tensor:
    score = (b.reward - b.reward.mean(-1, keepdim=True)) / (b.reward.std(-1, keepdim=True) + 1e-6)
    each = surrogate(b, score[..., None]) + BETA * in_loss(b, "low_var_kl")
    return ((each * b.mask).sum(-1) / b.mask.sum(-1)).mean(-1).sum()


def loss_of_ppo(b: Any) -> torch.Tensor:
    last = b.mask.sum(-1) - 1
    paid = -BETA * (b.old_logp - b.ref_logp) * b.mask
    paid = paid.scatter_add(-1, last[..., None], b.reward[..., None])
    out, carry = torch.zeros_like(paid), torch.zeros_like(paid[..., 0])
    for t in reversed(range(paid.shape[-1])):
        ahead = b.value[..., t + 1] * (t < last)
        carry = (paid[..., t] + ahead - b.value[..., t] + 0.95 * carry) * b.mask[..., t]
        out[..., t] = carry
    return sum_then_mean(surrogate(b, out), b)


def loss_of_rloo(b: Any) -> torch.Tensor:
    """TRL: one ratio for the whole response; old log-probabilities in the reward."""
    shaped = b.reward - BETA * ((b.old_logp - b.ref_logp) * b.mask).sum(-1)
    others = (shaped.sum(-1, keepdim=True) - shaped) / (shaped.shape[-1] - 1)
    ratio = torch.exp(((b.logp - b.old_logp) * b.mask).sum(-1))
    advantage = shaped - others
    return -torch.minimum(ratio * advantage, torch.clamp(ratio, 0.8, 1.2) * advantage).mean(-1).sum()


def whole(b: Any) -> torch.Tensor:
    return ((b.logp - b.ref_logp) * b.mask).sum(-1)


def loss_of_sequence_k3(b: Any) -> torch.Tensor:
    return BETA * (torch.exp(-whole(b)) - 1 + whole(b)).mean(-1).sum()


def loss_of_full_return(b: Any) -> torch.Tensor:
    return BETA * (whole(b).detach() * (b.logp * b.mask).sum(-1)).mean(-1).sum()


def loss_of_reinforce(b: Any) -> torch.Tensor:
    return -((b.reward - BETA * whole(b).detach()) * (b.logp * b.mask).sum(-1)).mean(-1).sum()


LOSSES: dict[str, Callable[[Any], torch.Tensor]] = {
    "kl_k1_loss": lambda b: BETA * sum_then_mean(in_loss(b, "k1"), b),
    "kl_k2_loss": lambda b: BETA * sum_then_mean(in_loss(b, "k2"), b),
    "kl_k3_loss": lambda b: BETA * sum_then_mean(in_loss(b, "low_var_kl"), b),
    "kl_k3_ratio_loss": lambda b: BETA * sum_then_mean(torch.exp(b.logp - b.old_logp) * in_loss(b, "low_var_kl"), b),
    "kl_k3_straight_through": lambda b: BETA * sum_then_mean(in_loss(b, "k3+"), b),
    "kl_k1_reward": lambda b: sum_then_mean(in_reward(b, "k1"), b),
    "kl_k1_reward_full": loss_of_full_return,
    "kl_k2_reward": lambda b: sum_then_mean(in_reward(b, "k2"), b),
    "kl_k3_reward": lambda b: sum_then_mean(in_reward(b, "low_var_kl"), b),
    "kl_k2_sequence_loss": lambda b: BETA * (0.5 * whole(b).square()).mean(-1).sum(),
    "kl_k3_sequence_loss": loss_of_sequence_k3,
    "grpo_kl": loss_of_grpo,
    "rloo_kl": loss_of_rloo,
    "ppo_kl": loss_of_ppo,
    "reinforce_kl": loss_of_reinforce,
    "distill_myopic": lambda b: sum_then_mean((b.logp - b.ref_logp).detach() * b.logp, b),
    "distill_return": lambda b: sum_then_mean(in_reward(b, "k1"), b) / BETA,
}


@pytest.mark.parametrize("off_policy", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_autograd_of_the_published_loss_is_the_credits(name: str, off_policy: bool) -> None:
    row, problem = ESTIMATORS[name], shared(off_policy)
    if off_policy and name == "rloo_kl":
        problem = replace(problem, behaviour=problem.probs)  # its row is the first step
    roll, b = rollouts_of(row, problem)
    assert b.logp.shape[0] == 10
    assert not torch.isclose((torch.exp(b.logp - b.old_logp) - 1).abs(), torch.tensor(0.2, dtype=torch.float64)).any()
    LOSSES[name](b).backward()
    assert near(row(roll), -b.logp.grad)


def test_the_loss_of_ppo_clips_some_tokens_here() -> None:
    # Else the test above would not see the clip.
    for name in ("ppo_kl", "grpo_kl"):
        row = ESTIMATORS[name]
        roll, _ = rollouts_of(row, shared(off_policy=True))
        free = replace(row, ratio=lambda ratio: ratio)
        assert np.abs(row(roll) - free(roll)).max() > 1e-2


# What is refused


@pytest.mark.parametrize("name", NAMES)
def test_without_a_reference_every_row_says_what_to_do(name: str) -> None:
    problem = numbers(zoo.three_valued(), ESTIMATORS[name])
    message = "give the problem (a reference policy, as --problem referenced has one|one)$"
    with pytest.raises(EstimatorError, match=message):
        brute_force(problem, ESTIMATORS[name], 2)
    if name != "kl_k1_loss":  # says 0, whatever π_ref
        with pytest.raises(
            EstimatorError, match=r"has no reference policy: a KL term needs one, give the problem one$"
        ):
            ESTIMATORS[name].expectation(problem, 2, truth.gradient(problem))


LOGS = {"logp", "ref_logp", "old_logp", "sequence_logp", "sequence_ref_logp"}


@pytest.mark.parametrize("name", [n for n in NAMES if ESTIMATORS[n].needs & LOGS])
def test_infinite_log_ratios_are_refused(name: str) -> None:
    # Wrong: a credit of ∞ or NaN.
    row = ESTIMATORS[name]
    _, singles, index, _ = next(iter(every(zoo.stale().to(FLOAT64), 2, row.given)))
    roll = singles.group(index, row.needs)
    for field in row.needs & LOGS:
        broken = getattr(roll, field).copy()
        broken[0, 0] = -np.inf
        with pytest.raises(
            EstimatorError, match=r"^\w+: a generated token has probability 0 under π or π_ref, so its log"
        ):
            row(replace(roll, **{field: broken}))


@pytest.mark.parametrize("name", ["kl_k3_loss", "kl_k3_sequence_loss", "grpo_kl"])
def test_infinite_ratios_are_refused(name: str) -> None:
    # μ generates a token that π forbids.
    base = make(grow(2, 1), [[0, 1]], [[0, 1]], behaviour=[["1/2", "1/2"]], reference=[["1/2", "1/2"]])
    problem, row = numbers(base, ESTIMATORS[name]), ESTIMATORS[name]
    with pytest.raises(
        EstimatorError, match=r"^\w+: a generated token has probability 0 under π, so π_ref/π is infinite$"
    ):
        moments(problem, row, 2)
    if row.off_policy is not None:
        with pytest.raises(EstimatorError, match=r"a generated token has probability 0 under π: π_ref/π is infinite$"):
            row.off_policy(problem, 2, truth.gradient(problem))


def test_a_closed_form_with_an_infinite_log_ratio_is_refused() -> None:
    problem = bandit(["1/2", "1/2"], [0, 1]).to(FLOAT64)
    with pytest.raises(
        EstimatorError, match=r"probability 0 under π or π_ref, so its log ratio is infinite: give both"
    ):
        kl_expected.frozen_reverse(problem)
    with pytest.raises(
        EstimatorError, match=r"probability 0 under π or π_ref, so its log ratio is infinite: give both"
    ):
        kl.regularised_critic(problem)


def test_where_the_reference_is_0_k3_still_has_a_gradient() -> None:
    # k3 = ∞, but its derivative 1 − π_ref/π = 1: the forward KL sees only what π_ref generates.
    problem = bandit(["1/2", "1/4", "1/4"], ["1/2", "1/2", 0])
    assert ref.fractions(10 * collapse(problem, ESTIMATORS["kl_k3_loss"], 1).mean) == [
        [0, Fraction(1, 4), Fraction(-1, 4)]
    ]


@pytest.mark.parametrize("name", NAMES)
def test_forbidden_tokens_that_the_reference_allows_do_no_harm(name: str) -> None:
    # π_ref has mass where π has none, and μ does not cover π.  Wrong: 0/0, or a KL over tokens that never come.
    row, base = ESTIMATORS[name], zoo.forbidden()
    many = base.probs.shape[0]
    held = replace(base, reference=RATIONAL.array([["1/2", "1/4", "1/4"]] * many))
    assert audit(held, row, 2).verdict == "holds"
    if row.off_policy is not None:
        given = held.probs.copy()
        given[0] = RATIONAL.array(["1/3", 0, "2/3"])
        assert audit(replace(held, behaviour=given), row, 2).verdict == "holds"


def test_rational_rows_run_in_a_finite_field() -> None:
    problem = zoo.stale()
    for name in NAMES:
        if ESTIMATORS[name].algebraic:
            exact, image = (moments(p, ESTIMATORS[name], 2) for p in (problem, problem.to(gf())))
            assert (gf().array(exact.mean) == image.mean).all()
            assert (gf().array(exact.variance) == image.variance).all()
    assert [name for name in NAMES if ESTIMATORS[name].algebraic] == ["kl_k1_loss", "kl_k3_loss", "kl_k3_sequence_loss"]


def test_a_ratio_that_rounds_off_the_boundary_is_not_clipped() -> None:
    # (2/5)/(1/3) = 6/5 and (4/5)/1 = 4/5 in fractions; 0.4/(1/3) is above 1.2 in float64.
    assert 0.4 / (1 / 3) > 1.2
    ratio, sign = np.array([0.4 / (1 / 3), 0.8, 1.2 + 1e-9, 0.8 - 1e-9]), np.array([1, -1, 1, -1])
    assert (kl.clip(ratio, sign) == [0.4 / (1 / 3), 0.8, 0, 0]).all()
    exact = RATIONAL.array(["6/5", "4/5", "13/10"])
    assert (kl.clip(exact, np.array([1, -1, 1])) == [1.2, 0.8, 0]).all()


def test_verls_name_is_known() -> None:
    assert get("low_var_kl") is ESTIMATORS["kl_k3_loss"]


# Planted faults


def held_arena(off_policy: bool = False) -> Problem:
    theirs = [["1/2", "1/2"], ["2/5", "3/5"], ["1/3", "2/3"], ["3/4", "1/4"]]
    return replace(arena(off_policy), reference=RATIONAL.array(theirs))


def ahead(values: Array) -> Array:
    return np.flip(np.cumsum(np.flip(values, -1), -1), -1)


def from_the_next(logp: Array, ref_logp: Array) -> Array:
    return -BETA * (ahead(logp - ref_logp) - (logp - ref_logp))


def mean_ratio(prob: Array, ref_prob: Array, mask: Array) -> Array:
    each = np.where(mask, ref_prob / prob, 0 * prob).sum(-1, keepdims=True) / mask.sum(-1, keepdims=True)
    return np.broadcast_to((each - 1) / 10, prob.shape)


@peers("reward")
def own_penalty(reward: Array) -> Array:
    return advantages.rloo(reward)


def no_kl_at_the_end(
    reward: Array, length: Array, mask: Array, value: Array, old_logp: Array, ref_logp: Array
) -> Array:
    last = np.arange(mask.shape[-1]) == length[..., None] - 1
    return kl.gae_kl(reward, length, mask, value, np.where(last, ref_logp, old_logp), ref_logp)


FAULTS: dict[str, tuple[str, dict[str, Any], bool, set[str]]] = {
    # what is wrong → row, change, off-policy, what sees it: a baseline moves the variance alone, a sign the mean alone
    "k1 in loss: twice β": ("kl_k1_loss", with_beta("kl_k1_loss", 0.2), False, VARIANCE),
    "k1 in loss: sign": ("kl_k1_loss", with_beta("kl_k1_loss", -0.1), True, {"mean"}),
    "k2 in loss: sign": ("kl_k2_loss", with_beta("kl_k2_loss", -0.1), False, {"mean"}),
    "k2 in loss: to go": ("kl_k2_loss", {"advantage": kl.k1_reward}, False, MEAN),
    "k3 in loss: gradient of the value": ("kl_k3_loss", {"advantage": kl.k2_loss}, False, MEAN),
    "k3 in loss: without −1": (
        "kl_k3_loss",
        {"advantage": lambda prob, ref_prob: ref_prob / prob / 10},
        False,
        VARIANCE,
    ),
    "k3 × ratio: no ratio": ("kl_k3_ratio_loss", {"advantage": kl.k2_loss}, True, MEAN),
    "k3 × ratio: ratio not differentiated": (
        "kl_k3_ratio_loss",
        {"advantage": lambda prob, ref_prob, ratio: ratio * (ref_prob / prob - 1) * BETA},
        False,
        MEAN,
    ),
    "k3+: not straight through": ("kl_k3_straight_through", {"advantage": kl.k3_loss}, False, MEAN),
    "k2 of response: own token": ("kl_k2_sequence_loss", {"advantage": kl.k2_loss}, False, MEAN),
    "k3 of response: mean ratio": ("kl_k3_sequence_loss", {"advantage": mean_ratio}, False, MEAN),
    "k1 in reward: starts late": ("kl_k1_reward", {"advantage": from_the_next}, False, MEAN),
    "k1 in reward: full return": ("kl_k1_reward", {"advantage": kl.k1_reward_full}, False, VARIANCE),
    "full return: to go": ("kl_k1_reward_full", {"advantage": kl.k1_reward}, False, VARIANCE),
    "k2 in reward: in loss": ("kl_k2_reward", {"advantage": kl.k2_loss}, False, MEAN),
    "k2 in reward: half lost": ("kl_k2_reward", with_beta("kl_k2_reward", 0.2), False, MEAN),
    "k3 in reward: k1": ("kl_k3_reward", {"advantage": kl.k1_reward}, False, MEAN),
    "k3 in reward: in loss": ("kl_k3_reward", {"advantage": kl.k3_loss}, False, MEAN),
    "REINFORCE: KL added": ("reinforce_kl", with_beta("reinforce_kl", -0.1), False, MEAN),
    "RLOO: KL not left out of the others": (
        "rloo_kl",
        {"advantage": own_penalty, "penalty": kl.k1_reward_full},
        False,
        VARIANCE,
    ),
    "PPO: no KL on the last token": ("ppo_kl", {"advantage": no_kl_at_the_end}, False, MEAN),
    "PPO: critic of the plain reward": ("ppo_kl", {"critic": critics.exact_critic}, False, MEAN),
    "PPO: critic of another β": ("ppo_kl", {"critic": partial(kl.regularised_critic, beta=1)}, False, MEAN),
    "PPO: no clip": ("ppo_kl", {"ratio": lambda ratio: ratio}, True, MEAN),
    "GRPO: KL sign": ("grpo_kl", {"penalty": partial(kl.k3_loss, beta=-0.1)}, False, MEAN),
    "GRPO: KL left out": ("grpo_kl", {"penalty": None}, False, MEAN),
    "GRPO: k2 in the loss": ("grpo_kl", {"penalty": kl.k2_loss}, False, MEAN),
    "distillation: returns": ("distill_myopic", {"advantage": kl.distill_return}, False, MEAN),
    "distillation: myopic": ("distill_return", {"advantage": kl.distill_myopic}, False, MEAN),
}


def caught(problem: Problem, name: str, change: dict[str, Any]) -> set[str]:
    # in float64 all of them: a fault may use a logarithm
    return ref.disagreements(problem, moments(problem.to(FLOAT64), replace(ESTIMATORS[name], **change), 2), name, 2)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_caught(fault: str) -> None:
    name, change, off_policy, checks = FAULTS[fault]
    assert caught(held_arena(off_policy), name, change) == checks


@pytest.mark.parametrize("off_policy", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_caught_where_nothing_is_planted(name: str, off_policy: bool) -> None:
    assert caught(held_arena(off_policy), name, {}) == set()


def test_every_part_has_a_planted_fault() -> None:
    assert {name for name, *_ in FAULTS.values()} == set(NAMES)


@pytest.mark.parametrize(
    "name", ["kl_k2_loss", "kl_k3_loss", "kl_k1_reward", "kl_k3_sequence_loss", "rloo_kl", "grpo_kl"]
)
def test_a_neighbours_declaration_is_refuted(name: str) -> None:
    # Six placements, six different gradients: no one's closed form passes for another's.
    others = ["kl_k2_loss", "kl_k3_loss", "kl_k1_reward", "kl_k3_sequence_loss", "rloo_kl", "grpo_kl", "kl_k1_loss"]
    for other in others:
        planted = replace(ESTIMATORS[name], expectation=ESTIMATORS[other].expectation, numbers="float64")
        assert audit(held_arena(), planted, 2).verdict == ("holds" if other == name else "refuted")
