"""Dense rewards made from a response reward or a process reward model: each method with each of the three returns.

A critic is V(s) = E[Σ_{k≥t} d_k | s] of the method's own dense reward, exact under π.  What would repeat another row's
credits is no row of its own: full sums that are R itself (ABC, SPA-RL with residual) are ``reinforce``; GAE on a causal
split of R or R − b(prompt) (RED, SPA-RL with residual) is ``gae``, because M_t − M_{t−1} is all that its δ_t can be.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import numpy as np

from tpg.estimators import dense
from tpg.estimators import redistribution_expected as e
from tpg.estimators.estimator import Estimator
from tpg.estimators.expectations import UNBIASED, Expectation
from tpg.estimators.parts import Part
from tpg.estimators.redistribution_expected import Table
from tpg.numbers import FLOAT64, Array
from tpg.problem.problem import Problem
from tpg.problem.tree import expect
from tpg.rollouts import Constant, Critic, Model

ALL: tuple[Part, ...] = (dense.full, dense.to_go, dense.gae)

# Critics


def value_to_go(table: Table) -> Critic:
    """V(s) = E[Σ_{k≥t} d(s_k, a_k) | s] by recursion, as one of the terms and the mean distance from it.

    A mean of equal numbers is that number then, in float64 too, and GAE pays exactly nothing where nothing is decided.
    """

    def critic(problem: Problem) -> Array:
        ahead = table(problem).copy()
        here, below = np.empty_like(ahead[:, 0]), ahead[:0, 0]
        for t in reversed(range(problem.horizon)):
            rows, nothing = problem.tree.at(t), problem.field.zeros(problem.probs.shape)
            ahead[rows] = ahead[rows] + problem.tree.lift(below, t, nothing[rows])
            likely = np.argmax(problem.probs[rows] != 0, axis=1)[:, None]
            some = np.take_along_axis(ahead[rows], likely, axis=1)
            below = here[rows] = some[:, 0] + (problem.probs[rows] * (ahead[rows] - some)).sum(-1)
        return here

    return critic


def one_step(problem: Problem) -> Array:
    """E[PR_t | s]."""
    return np.asarray((problem.probs * e.judge(problem)).sum(-1))


def delta_critic(problem: Problem) -> Array:
    """E[PR_t + R | s]."""
    return one_step(problem) + problem.values[1]


def residual_critic(problem: Problem) -> Array:
    """M(s) − Σ_{k<t} c_k."""
    return problem.values[1] - e.before(problem, e.judge(problem))


def minimum_critic(problem: Problem) -> Array:
    """E[min_k PR_k | s] − min_{k<t} PR_k, the latter 0 at the prompt."""
    least = e.along(problem, e.judge(problem), np.minimum)
    past = np.concatenate([problem.field.zeros(problem.prompts), least[problem.tree.inner]])
    return expect(problem.tree, problem.probs, least)[1] - past


def attention_critic(problem: Problem) -> Array:
    """E[R (1 − β A_{<t}) | s] = M(s) − β a_{<t}(s) E[R/Σ_k a_k | s]: the future averaged."""
    weight = e.attention(problem)
    _, per_unit = expect(problem.tree, problem.probs, problem.totals / e.along(problem, weight))
    return problem.values[1] - problem.field.scalar(e.ABC_SHARE) * e.before(problem, weight) * per_unit


def soft_minimum_critic(problem: Problem) -> Array:
    """E[Σ_{k≥t} w_k PR_k | s] over every response, as one of them and the mean distance; 0 where π never goes."""
    node, _, chance, paid = e.softly_minimal(problem, e.judge, e.TEMPERATURE)
    left = dense.to_go(paid)
    some, apart, mass = np.zeros((3, problem.tree.nodes))
    for t in range(problem.horizon):
        on = node[:, t] >= 0
        where = node[on, t]
        some[where] = left[on, t]
        np.add.at(apart, where, chance[on] * (left[on, t] - some[where]))
        np.add.at(mass, where, chance[on])
    return some + np.divide(apart, mass, out=np.zeros_like(mass), where=mass > 0)


# Rows


@dataclass(frozen=True)
class Method:
    """A dense reward and what its rows have in common; ``whole``: the expectation of the full sum, if another.

    ``outcome``: a response-level advantage that the returns are added to.  ``also``: a second name.
    """

    name: str
    part: Part
    said: Expectation
    source: str
    model: Model
    critic: Critic
    constant: Critic | None = None  # [N], read at the prompts
    whole: Expectation | None = None
    returns: tuple[Part, ...] = ALL
    outcome: Part | None = None
    also: str = ""
    numbers: Literal["any", "ordered", "float64"] = "any"

    def row(self, how: Part) -> Estimator:
        """The row of one return."""
        made = dense.composed(self.part, how)
        return Estimator(
            f"{self.name}_{how.__name__}",
            made if self.outcome is None else self.outcome,
            penalty=None if self.outcome is None else made,
            expectation=self.whole if how is dense.full and self.whole is not None else self.said,
            source=self.source,
            aliases=(f"{self.also}_{how.__name__}",) if self.also else (),
            model=rounded(self.model) if self.numbers == "float64" else self.model,
            critic=None if how is not dense.gae else rounded(self.critic) if self.numbers == "float64" else self.critic,
            constant=None if self.constant is None else of_prompt(self.constant),
            numbers=self.numbers,
        )


def rounded(table: Table) -> Table:
    """The same in float64, whatever the problem's number type."""
    return lambda problem: table(problem.to(FLOAT64))


def of_prompt(table: Critic) -> Constant:
    """The entries [P] of the prompts."""
    return lambda problem, group_size: table(problem)[: problem.prompts]


def _none(problem: Problem, group_size: int) -> Fraction:
    return Fraction(0)


def _times(factor: int) -> Callable[[Problem, int], Fraction]:
    return lambda problem, group_size: Fraction(factor)


def _potentials() -> list[Method]:
    prover_value, prover_before = (lambda p: e.prover(p)[0]), (lambda p: e.prover(p)[1])
    open_end = Expectation("another objective: E ĝ = ∇E[R + p(answer | W)], p frozen", extra=e.of_total(e.judge))
    pav = Expectation("E ĝ = (1+α) g, α = 3", _times(1 + e.PROVER_WEIGHT))
    own = Expectation("another objective: E ĝ = ∇E[log π_LM(W)]", _none, e.of_sum(e.log_reference))
    red, turn = "arXiv 2411.08302; Ng et al. 1999, Φ(end) = 0", "arXiv 2510.14967; Ng et al. 1999 with Φ(end) ≠ 0"
    d, by_judge, to_go = dense, e.judge_before, value_to_go
    return [
        Method(
            "red",
            d.red,
            UNBIASED,
            red,
            e.reward_model,
            to_go(e.potential_step),
            by_judge,
            also="potential",
            returns=ALL[:2],
        ),
        Method(
            "igpo",
            d.igpo,
            open_end,
            turn,
            e.judge,
            to_go(e.plus_outcome(e.judge_step)),
            by_judge,
            also="potential_open",
        ),
        Method(
            "pav", d.pav, pav, "arXiv 2410.08146", prover_value, to_go(e.plus_outcome(e.prover_step)), prover_before
        ),
        Method(
            "endogenous",
            d.endogenous,
            own,
            "arXiv 2506.23235",
            e.half_value,
            to_go(e.endogenous_step),
            lambda p: p.values[1] / 2,
            numbers="float64",
        ),
    ]


def _log_ratios() -> list[Method]:
    kl = Expectation("another objective: E ĝ = ∇(2J − β₂ KL(π‖π_ref))", _times(2), e.of_sum(e.kl_step))
    fitted = Expectation("another objective: E ĝ = ∇E[R + R_φ], R_φ = 3/8 R² + L", extra=e.of_total(e.length_lover))
    by_dpo, by_length = e.implicit(e.response_reward), e.implicit(e.length_lover)
    return [
        Method(
            "rto",
            dense.rto,
            kl,
            "arXiv 2404.18922",
            by_dpo,
            value_to_go(e.plus_outcome(by_dpo, e.kl_step)),
            numbers="float64",
        ),
        Method(
            "prime",
            dense.implicit,
            fitted,
            "arXiv 2502.01456, 2412.01981, no baseline on process rewards",
            by_length,
            value_to_go(by_length),
            outcome=dense.prime_outcome,
            numbers="float64",
        ),
    ]


def _process_rewards() -> list[Method]:
    shares = Expectation("another objective: E ĝ = ∇E[Σ_t c_t]", _none, e.of_sum(e.judge))
    clipped = Expectation("another objective: E ĝ = ∇E[R + Σ_t min(PR_t − η, 0)]", extra=e.of_sum(e.shortfall))
    first = Expectation("another objective: E ĝ = ∇E[R + PR_1]", extra=e.first_token(e.judge))
    near = Expectation("biased: E ĝ = g + E Σ_t PR_t S_t", extra=e.myopic(e.judge))
    spa, refined = "arXiv 2505.20732", "arXiv 2410.15115, our constants"
    d, repaired, clip = dense, spa + ", repaired by us", e.plus_outcome(e.shortfall)
    return [
        Method("spa", d.spa, shares, spa, e.judge, value_to_go(e.judge)),
        Method("spa_residual", d.spa_residual, UNBIASED, repaired, e.judge, residual_critic, returns=ALL[1:2]),
        Method("clip", d.clip, clipped, refined, e.judge, value_to_go(clip), numbers="ordered"),
        Method("delta", d.delta, near, refined, e.judge, delta_critic, whole=first),
    ]


def _anticipative() -> list[Method]:
    past = Expectation("biased: E ĝ = g − β E Σ_t R A_{<t} S_t", extra=e.minus_past_share(e.attention, e.ABC_SHARE))
    late, whole = (e.soft_minimum(e.judge, e.TEMPERATURE, reward_to_go=to_go) for to_go in (True, False))
    soft = Expectation("biased: E ĝ = E Σ_t (Σ_{k≥t} w_k PR_k) S_t", _none, late)
    total = Expectation("another objective: E ĝ = ∇E[Σ_t w_t PR_t]", _none, whole)
    least = Expectation(
        "another objective: E ĝ = ∇E[min_t PR_t]", _none, e.of_total(lambda p: e.along(p, e.judge(p), np.minimum))
    )
    pure = "arXiv 2504.15275"
    d, repaired = dense, pure + ", repaired by us"
    return [
        Method("abc", d.abc, past, "arXiv 2402.00782", e.attention, attention_critic, returns=ALL[1:]),
        Method("pure", d.pure, soft, pure, e.judge, soft_minimum_critic, whole=total, numbers="float64"),
        Method("pure_repaired", d.pure_repaired, least, repaired, e.judge, minimum_critic, numbers="ordered"),
    ]


def _single() -> list[Estimator]:
    """The rows that take no return."""
    by_length = "biased: E ĝ = ∇E[R + R_φ] − E[d̄] ∇E[L], R_φ = 3/8 R² + L"
    ahead = "biased: E ĝ = g + α E Σ_t A^μ_t S_t, α = 3"
    step = "biased: E ĝ = g + E Σ_t log(π_φ/π_ref)_t S_t"
    return [
        Estimator(
            "slate",
            dense.slate,
            expectation=Expectation("biased: E ĝ = E Σ_t r_t S_t", _none, e.myopic(e.judge)),
            source="truncated step sampling (SLATE), every candidate",
            model=e.judge,
            critic=one_step,
        ),
        Estimator(
            "pav_myopic",
            dense.pav_myopic,
            expectation=Expectation(ahead, extra=e.myopic(e.prover_step)),
            source="arXiv 2410.08146, exact Q^π",
            model=lambda p: e.prover(p)[0],
            constant=of_prompt(lambda p: e.prover(p)[1]),
        ),
        Estimator(
            "oprl",
            dense.oprl_outcome,
            penalty=dense.implicit,
            expectation=Expectation(step, extra=e.myopic(e.implicit(e.response_reward))),
            source="arXiv 2509.19199, no standard deviations",
            model=rounded(e.implicit(e.response_reward)),
            aliases=("istar",),
            numbers="float64",
        ),
        Estimator(
            "prime",
            dense.prime,
            expectation=Expectation(by_length, extra=e.by_length(e.length_lover)),
            source="arXiv 2502.01456, no whitening",
            model=rounded(e.implicit(e.length_lover)),
            numbers="float64",
        ),
    ]


METHODS = [*_potentials(), *_log_ratios(), *_process_rewards(), *_anticipative()]
ROWS = [*(method.row(how) for method in METHODS for how in method.returns), *_single()]
