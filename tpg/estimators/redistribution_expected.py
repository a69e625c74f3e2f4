"""The models of dense rewards as tables on the tree, and E ĝ in closed form from them: no rollouts, no credits.

A table is a function Problem → [N, V]: what the prefix s and the token a say, in rewards.  The models need nothing but
the Problem and are crooked on purpose, so that no symmetry hides a bias.  E ĝ comes in the layout of ``Problem.pull``.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import numpy as np

from tpg.errors import EstimatorError
from tpg.estimators.expectations import Extra, of_effective_reward
from tpg.numbers import FLOAT64, Array, to_float
from tpg.problem.problem import Problem
from tpg.problem.tree import expect, fork, walk

Table = Callable[[Problem], Array]
# The defaults of the parts in tpg.estimators.dense
PROVER_WEIGHT, ABC_SHARE, RTO_KL, CLIP_AT, TEMPERATURE = 3, Fraction(1, 2), 0.5, Fraction(1, 2), 0.1


def along(problem: Problem, table: Array, how: np.ufunc = np.add) -> Array:
    """[N, V] ``table`` added up (or another ``how``) over the tokens of the prefix and the token itself.

    >>> from tpg.problem import zoo
    >>> problem = zoo.delayed_credit()
    >>> bool((along(problem, problem.field.ones((15, 2)))[:, 0] == problem.tree.depth + 1).all())
    True
    """
    out = table.copy()
    for t in range(1, problem.horizon):
        before = problem.tree.descend(out[problem.tree.at(t - 1)], t - 1)
        rows = problem.tree.at(t)
        out[rows] = how(before[:, None], out[rows])
    return out


def before(problem: Problem, table: Array) -> Array:
    """[N] Σ of ``table`` over the tokens of each prefix."""
    return np.asarray((along(problem, table) - table)[:, 0])


# Models


def judge(problem: Problem) -> Array:
    """[N, V] M/(t + 1), plus 1 where t is even, t the tokens of the prefix that the token completes."""
    tokens = problem.tree.depth[:, None] + 1
    return problem.values[0] / (tokens + 1) + (tokens + 1) % 2


def judge_before(problem: Problem) -> Array:
    """[N] the judge on the prefixes themselves, the prompt included."""
    tokens = problem.tree.depth
    return problem.values[1] / (tokens + 1) + (tokens + 1) % 2


def reward_model(problem: Problem) -> Array:
    """[N, V] the judge on unfinished prefixes, RM(W) on whole responses."""
    return np.where(problem.tree.inner, judge(problem), problem.totals)


def attention(problem: Problem) -> Array:
    """[N, V] 1 + M(s, a)²."""
    return 1 + problem.values[0] * problem.values[0]


def prover(problem: Problem) -> tuple[Array, Array]:
    """[N, V], [N] expected response reward under π²/Σπ²."""
    square = problem.probs * problem.probs
    return expect(problem.tree, square / square.sum(-1, keepdims=True), problem.totals)


def half_value(problem: Problem) -> Array:
    """[N, V] V(s') for the endogenous reward, 0 at the end.

    Tabular logits are known up to their log-sum-exp, any number per prefix: M/2 serves, and cancels.
    """
    return np.where(problem.tree.inner, problem.values[0] / 2, problem.field.scalar(0))


def soft_values(problem: Problem, worth: Table) -> tuple[Array, Array]:
    """V(s, a) [N, V] and V(s) [N], V(s) = log Σ_a π_ref(a|s) e^{V(s,a)}, ``worth`` at the end: β = 1, in nats, float64.

    The optimum of E[worth] − KL(π‖π_ref) has log π*/π_ref = V(s, a) − V(s); trajectory DPO has it for its optimum.
    Written around the largest term, so that equal values stay equal.  EstimatorError without a reference policy.
    """
    reference, tree = _reference(problem), problem.tree
    after, here = to_float(worth(problem)).copy(), np.zeros(tree.nodes)
    below = here[:0]
    for t in reversed(range(problem.horizon)):
        rows = tree.at(t)
        after[rows] = tree.lift(below, t, after[rows])
        seen = reference[rows] > 0
        top = np.where(seen, after[rows], -np.inf).max(-1)
        gap = np.where(seen, after[rows] - top[:, None], 0)
        below = here[rows] = top + np.log1p((reference[rows] * np.expm1(gap)).sum(-1))
    return after, here


def _reference(problem: Problem) -> Array:
    """[N, V] the reference policy in float64."""
    if problem.reference is None:
        raise EstimatorError("a log-ratio needs a reference policy: give the problem one")
    return to_float(problem.reference)


def log_reference(problem: Problem) -> Array:
    """[N, V] log π_ref in nats, 0 where π_ref is 0."""
    reference = _reference(problem)
    return np.log(np.where(reference > 0, reference, 1))


def log_ratio(problem: Problem) -> Array:
    """[N, V] log π/π_ref in nats, 0 where either is 0."""
    probs = to_float(problem.probs)
    on = (probs > 0) & (_reference(problem) > 0)
    return np.where(on, np.log(np.where(on, probs, 1)) - log_reference(problem), 0)


def implicit(worth: Table) -> Table:
    """[N, V] log π_φ/π_ref in nats, π_φ ∝ π_ref e^{worth}: where trajectory DPO ends (float64)."""

    def table(problem: Problem) -> Array:
        after, here = soft_values(problem, worth)
        return after - here[:, None]

    return table


def response_reward(problem: Problem) -> Array:
    """[N, V] RM(W)."""
    return problem.totals


def length_lover(problem: Problem) -> Array:
    """[N, V] 3/8 RM(W)² + L, what PRIME's φ was fitted to."""
    return problem.totals * problem.totals * 3 / 8 + (problem.tree.depth + 1)[:, None]


# What the causal methods pay for a token


def outcome(problem: Problem) -> Array:
    """[N, V] RM(W) where the response ends, 0 before."""
    return np.where(problem.tree.inner, problem.field.scalar(0), problem.totals)


def potential_step(problem: Problem) -> Array:
    """[N, V] RM(W_{0,t}) − RM(W_{0,t−1})."""
    return reward_model(problem) - judge_before(problem)[:, None]


def judge_step(problem: Problem) -> Array:
    """[N, V] what the judge says after the token, less what it said before."""
    return judge(problem) - judge_before(problem)[:, None]


def prover_step(problem: Problem) -> Array:
    """[N, V] α A^μ."""
    after, here = prover(problem)
    return PROVER_WEIGHT * (after - here[:, None])


def endogenous_step(problem: Problem) -> Array:
    """[N, V] log π_LM + V(s) − V(s')."""
    return log_reference(problem) - (half_value(problem) - (problem.values[1] / 2)[:, None])


def kl_step(problem: Problem) -> Array:
    """[N, V] −β₂ log π/π_ref."""
    return -RTO_KL * log_ratio(problem)


def shortfall(problem: Problem) -> Array:
    """[N, V] min(PR − η, 0)."""
    below = judge(problem) - problem.field.scalar(CLIP_AT)
    return np.where(below < 0, below, problem.field.scalar(0))


def plus_outcome(*tables: Table) -> Table:
    """The sum of ``tables``, and RM(W) at the end."""

    def table(problem: Problem) -> Array:
        out = outcome(problem)
        for more in tables:
            out = out + more(problem)
        return out

    return table


# Closed forms


def of_total(total: Table) -> Extra:
    """(I1), (I3): the full sum of any dense reward gives ∇E[D], D = ``total`` where the responses end, frozen."""

    def extra(problem: Problem, group_size: int) -> Array:
        return of_effective_reward(problem, total(problem))

    return extra


def of_sum(table: Table) -> Extra:
    """(I1): ∇E[Σ_t d(s_t, a_t)], d frozen."""
    return of_total(lambda problem: along(problem, table(problem)))


def myopic(table: Table) -> Extra:
    """E Σ_t d(s_t, a_t) S_t: coefficient ρ(s) π(a|s) d(s, a)."""

    def extra(problem: Problem, group_size: int) -> Array:
        return problem.pull(problem.reach[:, None] * problem.probs * table(problem))

    return extra


def first_token(table: Table) -> Extra:
    """∇E[d(s_1, a_1)]: the same for the first token alone."""

    def at_roots(problem: Problem) -> Array:
        first = (problem.tree.depth == 0)[:, None]
        return np.where(first, table(problem), problem.field.scalar(0))

    return myopic(at_roots)


def minus_past_share(attention: Table, beta: Fraction) -> Extra:
    """(I3) for ABC: −β E Σ_t R A_{<t} S_t = −β Σ_{s,a} ρ π(a|s) a_{<t}(s) E[R/Σ_k a_k | s, a]."""

    def extra(problem: Problem, group_size: int) -> Array:
        weight, scale = attention(problem), -problem.field.scalar(beta)
        per_unit, _ = expect(problem.tree, problem.probs, problem.totals / along(problem, weight))
        return problem.pull(scale * (problem.reach * before(problem, weight))[:, None] * problem.probs * per_unit)

    return extra


def soft_minimum(score: Table, temperature: float, reward_to_go: bool) -> Extra:
    """PURE: Σ_W P(W) Σ_t S_t · (Σ_k w_k PR_k over the whole response, or over k ≥ t), response by response."""

    def extra(problem: Problem, group_size: int) -> Array:
        node, token, chance, dense = softly_minimal(problem, score, temperature)
        table = np.zeros(problem.probs.shape)
        for t in range(problem.horizon):
            worth = chance * dense[:, t if reward_to_go else 0 :].sum(1)
            here = node[:, t] >= 0
            np.add.at(table, (node[here, t], token[here, t]), worth[here])
        return problem.pull(table)

    return extra


def softly_minimal(problem: Problem, score: Table, temperature: float) -> tuple[Array, Array, Array, Array]:
    """Every response of π: nodes, tokens [R, T], probability [R] and w_t PR_t [R, T], w = softmax(−PR/T)."""
    _, node, token = walk(problem.tree, to_float(problem.probs), np.arange(problem.prompts), fork)
    on = node >= 0
    chance = np.where(on, to_float(problem.probs)[node, token], 1).prod(1)
    paid = np.where(on, to_float(score(problem))[node, token], 0)
    lowest = np.where(on, paid, np.inf).min(1, keepdims=True)
    odds = np.where(on, np.exp(np.minimum(lowest - paid, 0) / temperature), 0)  # padding may lie lower
    return node, token, chance, odds * paid / odds.sum(1, keepdims=True)


def by_length(worth: Table) -> Extra:
    """∇E[worth(W)] − E[d̄] ∇E[L], d̄ the mean per token of log π_φ/π_ref, which sums to worth(W) − V(prompt).

    V(prompt) = log Σ_W π_ref(W) e^{worth(W)}.
    """

    def extra(problem: Problem, group_size: int) -> Array:
        made = problem.to(FLOAT64)
        paid, tokens = to_float(worth(made)), (made.tree.depth + 1)[:, None]
        top = paid[~made.tree.inner].max()
        odds = expect(made.tree, _reference(made), np.exp(np.minimum(paid - top, 0)))[1][: made.prompts]
        surplus = paid - (top + np.log(odds))[made.tree.prompt][:, None]
        mean = expect(made.tree, made.probs, surplus / tokens)[1][: made.prompts]
        return of_effective_reward(made, paid - mean[made.tree.prompt][:, None] * tokens)

    return extra
