"""What KL terms do on average: closed forms over the tree, written without the credits of kl.py.

Divergences in nats, β in rewards per nat, L(s, a) = log π/π_ref.  "States frozen": the policy is differentiated at
every prefix, but not the probability of getting there.  With ρ_μ and μ of the policy that generates, a credit c(s, a)
gives Σ_s ρ_μ(s) Σ_a μ(a|s) c(s, a) ∇log π(a|s) whoever generates.  Forms with a logarithm want a float64 problem.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from tpg.errors import EstimatorError
from tpg.estimators.expectations import Expectation, z_scored
from tpg.numbers import Array, parse
from tpg.problem.problem import Problem
from tpg.problem.tree import expect, reach

INFINITE = (
    "a generated token has probability 0 under π or π_ref, so its log ratio is infinite: give both a positive one"
)
Gradient = Callable[[Problem], Array]  # in the layout of Problem.pull


def none(problem: Problem, group_size: int) -> Fraction:
    """No part of E ĝ is along g."""
    return Fraction(0)


def reference(problem: Problem) -> Array:
    """[N, V] the policy that the KL refers to."""
    if problem.reference is None:
        raise EstimatorError(f"{problem.name} has no reference policy: a KL term needs one, give the problem one")
    return problem.reference


def generated(problem: Problem) -> Array:
    """[N, V] bool: the token can be generated."""
    return np.not_equal(problem.sampling_reach[:, None] * problem.sampling, 0)


def log_ratio(problem: Problem) -> Array:
    """L = log(π/π_ref) [N, V] in nats, 0 on tokens that are never generated."""
    can = generated(problem)
    ours, theirs = np.where(can, problem.probs, 1.0), np.where(can, reference(problem), 1.0)
    if not ((ours > 0) & (theirs > 0)).all():
        raise EstimatorError(f"{problem.name}: {INFINITE}")
    return np.log(ours) - np.log(theirs)


def inverse_ratio(problem: Problem) -> Array:
    """π_ref/π [N, V], 1 on tokens that are never generated."""
    can, one = generated(problem), problem.field.scalar(1)
    if (can & (problem.probs == 0)).any():
        raise EstimatorError(f"{problem.name}: a generated token has probability 0 under π: π_ref/π is infinite")
    return np.where(can, reference(problem), one) / np.where(can, problem.probs, one)


def sampled(problem: Problem, credit: Array) -> Array:
    """E Σ_t c(s_t, w_t) S_t for credits c [N, V] of single tokens, under the policy that generates."""
    return problem.pull(problem.sampling_reach[:, None] * problem.sampling * credit)


def to_go(problem: Problem, table: Array) -> Array:
    """[N, V] expected sum of ``table`` over this token and those generated after it."""
    out, below = table.copy(), table[:0, 0]
    for t in reversed(range(problem.horizon)):
        rows = problem.tree.at(t)
        out[rows] = out[rows] + problem.tree.lift(below, t, problem.field.zeros(out[rows].shape))
        below = (problem.sampling[rows] * out[rows]).sum(-1)
    return out


def in_all(problem: Problem, table: Array, start: int, join: Callable[[Array, Array], Array]) -> Array:
    """[N, V] expectation, given prefix and token, of ``table`` added or multiplied up over the whole response."""
    out, past = table.copy(), problem.field.ones(problem.prompts) * start
    for t in range(problem.horizon):
        rows = problem.tree.at(t)
        out[rows] = join(past[:, None], table[rows])
        past = problem.tree.descend(out[rows], t) if t < problem.horizon - 1 else past
    return expect(problem.tree, problem.sampling, out)[0]


# Gradients of divergences, on-policy


def frozen_reverse(problem: Problem) -> Array:
    """E Σ_t ∇KL(π‖π_ref)(s_t), states frozen: ∇ Σ_a π_a L_a = Σ_a π_a L_a S_a, as Σ_a π_a S_a = 0."""
    return problem.pull(problem.reach[:, None] * problem.probs * log_ratio(problem))


def frozen_forward(problem: Problem) -> Array:
    """E Σ_t ∇KL(π_ref‖π)(s_t), states frozen: −Σ_a π_ref(a) S_a, over the tokens that π can generate."""
    return -problem.pull(problem.reach[:, None] * _possible(problem))


def whole_reverse(problem: Problem) -> Array:
    """∇KL(π‖π_ref) of whole responses: at every prefix the divergence of all that follows, E[Σ_{k≥t} L_k | s, a]."""
    on_policy = replace(problem, behaviour=None)
    return problem.pull(problem.reach[:, None] * problem.probs * to_go(on_policy, log_ratio(problem)))


def whole_forward(problem: Problem) -> Array:
    """∇KL(π_ref‖π) of whole responses, −Σ_W π_ref(W) ∇log π(W): the prefixes are those that π_ref reaches."""
    possible = _possible(problem)
    stays, _ = expect(problem.tree, possible, problem.field.ones(possible.shape))  # 1 where π can generate all of it
    return -problem.pull(reach(problem.tree, possible, problem.field)[:, None] * possible * stays)


def _possible(problem: Problem) -> Array:
    return np.where(np.not_equal(problem.probs, 0), reference(problem), problem.field.scalar(0))


# What each row says


class Said(NamedTuple):
    """E ĝ/(−β) of a KL term on-policy and whoever generates, in words and as a function."""

    text: str
    on_policy: Gradient
    text_off: str
    off_policy: Gradient


def _summed(problem: Problem) -> Array:
    return sampled(problem, in_all(problem, log_ratio(problem), 0, np.add))


def _nothing(problem: Problem) -> Array:
    return problem.pull(problem.field.zeros(problem.probs.shape))


def _towards_generated(problem: Problem) -> Array:
    return sampled(problem, problem.field.ones(problem.probs.shape))


def _reverse_at_generated(problem: Problem) -> Array:
    return problem.pull(problem.sampling_reach[:, None] * problem.probs * log_ratio(problem))


def _k2_ahead(problem: Problem) -> Array:
    return sampled(problem, to_go(problem, log_ratio(problem) ** 2 / 2))


def _k3_ahead(problem: Problem) -> Array:
    return sampled(problem, to_go(problem, inverse_ratio(problem) - 1 + log_ratio(problem)))


FROZEN_REVERSE = "biased: E ĝ = −β E Σ_t ∇KL(π‖π_ref)(s_t), states frozen"
FROZEN_FORWARD = "biased: E ĝ = −β E Σ_t ∇KL(π_ref‖π)(s_t), the forward KL, states frozen"
WHOLE_REVERSE = "another objective: E ĝ = −β ∇KL(π‖π_ref) of whole responses"
WHOLE_FORWARD = "another objective: E ĝ = −β ∇KL(π_ref‖π) of whole responses, the forward KL"
K2_AHEAD = "biased: E ĝ = −β(∇E Σ_t k2 − E Σ_t ∇KL(π‖π_ref)(s_t)), 0 to first order in π − π_ref"
K3_AHEAD = "biased: E ĝ = −β(∇KL(π‖π_ref) − E Σ_t ∇KL(π_ref‖π)(s_t)), 0 to first order in π − π_ref"

KL: dict[str, Said] = {
    "k1_loss": Said(
        "E ĝ = 0: noise without any KL gradient",
        _nothing,
        "E ĝ = −β E_μ ∇log π(W): away from what μ generates, π_ref plays no part",
        _towards_generated,
    ),
    "k2_loss": Said(
        FROZEN_REVERSE,
        frozen_reverse,
        "E ĝ = −β ∇E_μ Σ_t ½ L²: least squares on the tokens of μ",
        lambda p: sampled(p, log_ratio(p)),
    ),
    "k3_loss": Said(
        FROZEN_FORWARD,
        frozen_forward,
        "E ĝ = −β ∇E_μ Σ_t k3",
        lambda p: sampled(p, 1 - inverse_ratio(p)),
    ),
    "k3_ratio_loss": Said(
        FROZEN_REVERSE,
        frozen_reverse,
        "E ĝ = −β E_μ Σ_t ∇KL(π‖π_ref)(s_t), at the states of μ",
        _reverse_at_generated,
    ),
    "k1_reward": Said(
        WHOLE_REVERSE,
        whole_reverse,
        "E ĝ = −β E_μ Σ_t S_t Σ_{k≥t} L_k",
        lambda p: sampled(p, to_go(p, log_ratio(p))),
    ),
    "k1_reward_full": Said(WHOLE_REVERSE, whole_reverse, "E ĝ = −β E_μ L(W) ∇log π(W)", _summed),
    "k2_reward": Said(K2_AHEAD, _k2_ahead, "E ĝ = −β E_μ Σ_t S_t Σ_{k≥t} k2_k", _k2_ahead),
    "k3_reward": Said(K3_AHEAD, _k3_ahead, "E ĝ = −β E_μ Σ_t S_t Σ_{k≥t} k3_k", _k3_ahead),
    "k2_sequence_loss": Said(WHOLE_REVERSE, whole_reverse, "E ĝ = −β ∇E_μ ½ L(W)²", _summed),
    "k3_sequence_loss": Said(
        WHOLE_FORWARD,
        whole_forward,
        "E ĝ = −β ∇E_μ k3(W)",
        lambda p: sampled(p, 1 - in_all(p, inverse_ratio(p), 1, np.multiply)),
    ),
}


def declared(name: str, beta: Any) -> tuple[Expectation, Expectation]:
    """``expectation`` and ``off_policy`` of a KL term alone."""
    said = KL[name]
    return (
        Expectation(said.text, none, lambda p, size: _times(p, beta, said.on_policy)),
        Expectation(said.text_off, none, lambda p, size: _times(p, beta, said.off_policy)),
    )


def _times(problem: Problem, beta: Any, gradient: Gradient) -> Array:
    return -problem.field.scalar(parse(beta)) * gradient(problem)


def regularised(beta: Any) -> Expectation:
    """∇(J − β KL(π‖π_ref)), the KL of whole responses."""
    text = "another objective: E ĝ = ∇(J − β KL(π‖π_ref)), the KL of whole responses"
    return Expectation(text, extra=lambda p, size: _times(p, beta, whole_reverse))


def regularised_off_policy(beta: Any, centred: bool) -> Expectation:
    """E_μ[R' ∇log π(W)], R' = RM − β L(W); ``centred``: R' − E_μ R', what the others of a group leave."""

    def extra(problem: Problem, group_size: int) -> Array:
        reward = in_all(problem, log_ratio(problem), 0, np.add) * -problem.field.scalar(parse(beta))
        reward = reward + expect(problem.tree, problem.sampling, problem.totals)[0]
        if centred:
            first = (problem.sampling * reward).sum(-1)[: problem.prompts]
            reward = reward - first[problem.tree.prompt][:, None]
        return sampled(problem, reward)

    what = "(R' − E_μ R')" if centred else "R'"
    return Expectation(f"E ĝ = E_μ[{what} ∇log π(W)], R' = RM − β log(π/π_ref)(W)", none, extra)


def grpo(beta: Any) -> Expectation:
    """The z-score over its length, and π_ref − π at every prefix weighed by E[1/L | prefix, token]: no KL gradient."""
    by_reward = z_scored("length")

    def extra(problem: Problem, group_size: int) -> Array:
        ends = 1 / np.broadcast_to((problem.tree.depth + 1.0)[:, None], problem.probs.shape)
        short, _ = expect(problem.tree, problem.probs, ends)
        pulled = problem.pull(problem.reach[:, None] * (_possible(problem) - problem.probs) * short)
        return by_reward(problem, group_size) + problem.field.scalar(parse(beta)) * pulled

    return Expectation("biased: E ĝ = E[f(R)/L · Z] + β E[1/L Σ_t (π_ref/π − 1) S_t], f = E[z-score | R]", none, extra)
