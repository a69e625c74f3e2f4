"""Closed forms of E ĝ for the rows in pairs, and the exact models those rows are given.

Where a credit compares log-probabilities, E ĝ = E[f(W) Z] with f(W) = E[G · credit of W], the peers enumerated over all
responses that the policy that generates can give: O(R²) for pairs, whatever the group size.  Everything in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, partial
from typing import Any

import numpy as np
from scipy.special import expit, gammaln, logsumexp, xlogy

from tpg.errors import EstimatorError, TooLarge
from tpg.estimators.expectations import MAX_PEERS, Expectation, _multisets, of_effective_reward
from tpg.numbers import Array, parse, to_float
from tpg.problem.problem import Problem
from tpg.problem.tree import fork, walk
from tpg.rollouts import Model

BLOCK = 1 << 22  # pairs held at once

# What rows are given


def soft_values(problem: Problem, beta: float) -> tuple[Array, Array]:
    """V*(s, a) [N, V] and V*(s) [N] = β log E_ref[e^{R/β} | s], in rewards: the optimum of J − β KL(π‖ref).

    EstimatorError without a reference policy.
    """
    reference, tree = _reference(problem), problem.tree
    after, here = to_float(problem.totals).copy(), np.zeros(tree.nodes)
    below = here[:0]
    for t in reversed(range(tree.depths)):
        rows = tree.at(t)
        after[rows] = tree.lift(below, t, after[rows])
        below = here[rows] = beta * logsumexp(after[rows] / beta, b=reference[rows], axis=1)
    return after, here


def optimal_value(problem: Problem, group_size: int, *, beta: float) -> Array:
    """[P] V* of each prompt, in rewards."""
    return soft_values(problem, beta)[1][: problem.prompts]


def soft_advantage(problem: Problem, *, beta: float) -> Array:
    """[N, V] log π_rm/ref of the exact optimum π_rm ∝ ref e^{R/β}: (V*(s, a) − V*(s))/β, in nats."""
    after, here = soft_values(problem, beta)
    return (after - here[:, None]) / beta


def contrast(problem: Problem) -> Array:
    """[N, V] σ(log π₊/π₋) − 1/2 with π± ∝ ref e^{±(M(s,a) − M(s))}, in (−1/2, 1/2).

    A stand-in for a model that is asked for a better, or for a worse, response.  EstimatorError without a reference.
    """
    reference, (after, here) = _reference(problem), problem.values
    gain = to_float(after) - to_float(here)[:, None]
    up, down = (logsumexp(sign * gain, b=reference, axis=1, keepdims=True) for sign in (1, -1))
    return np.asarray(expit(2 * gain - up + down) - 0.5)


def target_log_weight(problem: Problem, *, eta: float) -> Array:
    """[N, V] log q/π = u/η − log E_π e^{u/η} where responses end, else 0; u standardised over all responses alike."""
    reward, out = to_float(problem.totals), np.zeros(problem.probs.shape)
    chance = to_float(problem.reach)[:, None] * to_float(problem.probs)
    for prompt in range(problem.prompts):
        mine = (problem.tree.prompt == prompt)[:, None] & problem.ends
        if (reward[mine] != reward[mine][0]).any():
            score = (reward[mine] - reward[mine].mean()) / (eta * reward[mine].std())
            out[mine] = score - logsumexp(score, b=chance[mine])
    return out


def _reference(problem: Problem) -> Array:
    if problem.reference is None:
        raise EstimatorError(f"{problem.name} has no reference policy: give the problem one")
    return to_float(problem.reference)


# Responses, one by one


@dataclass(frozen=True, eq=False)
class Words:
    """R responses as paths [R, T] that ``policy`` can give: where they go, and their probability given the prompt."""

    problem: Problem
    policy: Array
    prompt: Array
    node: Array
    token: Array

    @cached_property
    def mask(self) -> Array:
        return self.node >= 0

    def along(self, table: Array) -> Array:
        """[R, T] a table [N, V] along the paths, 0 after the end."""
        return np.where(self.mask, table[self.node, self.token], 0.0)

    def log(self, policy: Array) -> Array:
        """[R, T] log-probabilities, 0 after the end."""
        given = policy[self.node, self.token]
        if (self.mask & (given <= 0)).any():
            raise EstimatorError(f"{self.problem.name}: a response has probability 0, its logarithm has no value")
        return np.log(np.where(self.mask, given, 1.0))

    @cached_property
    def chance(self) -> Array:
        return np.asarray(np.where(self.mask, self.policy[self.node, self.token], 1.0).prod(1))

    @cached_property
    def reward(self) -> Array:
        last, rows = self.mask.sum(1) - 1, np.arange(len(self.node))
        return to_float(self.problem.totals)[self.node[rows, last], self.token[rows, last]]

    @cached_property
    def log_ratio(self) -> Array:
        """[R, T] log π/ref of every token."""
        return self.log(to_float(self.problem.probs)) - self.log(_reference(self.problem))

    def mean(self, values: Array) -> Array:
        """[R] E[values] given each response's prompt."""
        return np.bincount(self.prompt, weights=self.chance * values)[self.prompt]

    def pull(self, credit: Array) -> Array:
        """E[Σ_t credit_t S_t] for ``credit`` [R] or [R, T], as ``Problem.pull`` lays it out."""
        each = self.chance[:, None] * (credit if credit.ndim == 2 else credit[:, None])
        table = np.zeros(self.problem.probs.shape)
        np.add.at(
            table, (self.node[self.mask], self.token[self.mask]), np.broadcast_to(each, self.mask.shape)[self.mask]
        )
        return self.problem.pull(table)


def words(problem: Problem, policy: Array | None = None) -> Words:
    """Every response of positive probability under ``policy``, that which generates if None."""
    policy = to_float(problem.sampling if policy is None else policy)
    entries = float(np.count_nonzero(~problem.tree.inner)) * problem.horizon
    TooLarge.check("the closed form by responses", entries, MAX_PEERS / 10, "shorten the horizon")
    prompt, node, token = walk(problem.tree, policy, np.arange(problem.prompts), fork)
    return Words(problem, policy, prompt, node, token)


Rule = Callable[..., Array]  # columns of the own response, columns of the peer → credit of the own


def against(found: Words, columns: tuple[Array, ...], rule: Rule) -> Array:
    """[R] E[rule | own response] over one independent peer."""
    out, sizes = np.zeros(len(found.node)), np.bincount(found.prompt)
    TooLarge.check(
        "the closed form by pairs", float((sizes.astype(float) ** 2).sum()), MAX_PEERS, "use fewer responses"
    )
    for prompt, size in enumerate(sizes):
        peers = np.flatnonzero(found.prompt == prompt)
        theirs = [column[None, peers] for column in columns]
        step = max(1, BLOCK // size)
        for mine in (peers[i : i + step] for i in range(0, size, step)):
            out[mine] = rule(*(column[mine, None] for column in columns), *theirs) @ found.chance[peers]
    return out


def among(found: Words, columns: tuple[Array, ...], size: int, rule: Rule) -> Array:
    """[R] E[rule | own response] over G − 1 independent peers; ``rule`` sees columns [n, G], the own response first."""
    out = np.zeros(len(found.node))
    for prompt, many in enumerate(np.bincount(found.prompt)):
        cost = math.comb(many + size - 2, size - 1) * many * size
        TooLarge.check("the closed form by peers", cost, MAX_PEERS, "lower the group size")
        members = np.flatnonzero(found.prompt == prompt)
        for others in _multisets(members, size - 1):
            counts = (others[:, :, None] == members).sum(1)
            ways = gammaln(size) - gammaln(counts + 1).sum(1)
            chance = np.exp(ways + xlogy(counts, found.chance[members]).sum(1))
            for own in members:
                group = np.column_stack([np.full(len(others), own), others])
                out[own] += chance @ rule(*(column[group] for column in columns))
    return out


# What is declared


def said(text: str, credit: Callable[[Words, int], Array]) -> Expectation:
    """E ĝ = E[Σ_t credit_t S_t] over the policy that generates, ``credit`` [R] or [R, T] for words and a group size."""

    def extra(problem: Problem, group_size: int) -> Array:
        found = words(problem)
        return found.pull(credit(found, group_size))

    return Expectation(text, _none, extra)


def _none(problem: Problem, group_size: int) -> Fraction:
    return Fraction(0)


def _cross_entropy(problem: Problem, group_size: int) -> Array:
    """E_μ[Z]: at each prefix that μ reaches, μ − π where parameters are logits."""
    return problem.pull(problem.sampling_reach[:, None] * problem.sampling)


NOTHING = Expectation("E ĝ = 0: a policy is the best fit to its own responses", _none)
CROSS_ENTROPY = Expectation("E ĝ = −∇ of the cross-entropy −E_μ log π(W), another objective", _none, _cross_entropy)
PAIR = "biased: E ĝ = 2 E[f(W) Z], f(W) = E f(W, W') of one independent peer"


def _pairs(text: str, pair: Rule) -> Expectation:
    """``pair(r, d, r', d')``: minus the slope of a pair's loss in the own log π, d = log π/ref of a response."""
    return said(text, lambda found, size: 2 * against(found, (found.reward, found.log_ratio.sum(1)), pair))


def _labelled(r: Array, d: Array, r2: Array, d2: Array, *, beta: float) -> Array:
    chosen, rejected = (r > r2) * expit(beta * (d2 - d)), (r < r2) * expit(beta * (d - d2))
    return np.asarray(beta * (chosen - rejected))


def dpo(beta: float) -> Expectation:
    """Pairs labelled by the larger reward."""
    return _pairs(PAIR, partial(_labelled, beta=beta))


def online_dpo(beta: float) -> Expectation:
    """Pairs labelled with the Bradley–Terry probability σ(R − R')."""

    def pair(r: Array, d: Array, r2: Array, d2: Array) -> Array:
        chosen, rejected = expit(r - r2) * expit(beta * (d2 - d)), expit(r2 - r) * expit(beta * (d - d2))
        return np.asarray(beta * (chosen - rejected))

    return _pairs(f"{PAIR}; at π = ref 2β times the gradient of the win rate against a frozen π", pair)


def ipo(tau: float) -> Expectation:
    """Squared distance of the margin from 1/(2τ)."""

    def pair(r: Array, d: Array, r2: Array, d2: Array) -> Array:
        return np.asarray(2 * (r > r2) * (0.5 / tau - (d - d2)) - 2 * (r < r2) * (0.5 / tau - (d2 - d)))

    return _pairs(PAIR, pair)


def tpo(eta: float) -> Expectation:
    """G (q − p) of the own response, every multiset of peers."""

    def rule(reward: Array, logp: Array, old: Array) -> Array:
        spread = reward.std(axis=1, keepdims=True)
        same = (reward == reward[:, :1]).all(1, keepdims=True)
        score = np.where(same, 0, (reward - reward.mean(1, keepdims=True)) / np.where(same, 1, spread))
        p, q = np.exp(logp), np.exp(old + score / eta)
        return np.asarray(reward.shape[1] * (q[:, 0] / q.sum(1) - p[:, 0] / p.sum(1)))

    def credit(found: Words, size: int) -> Array:
        logs = (found.log(to_float(table)).sum(1) for table in (found.problem.probs, found.problem.sampling))
        return among(found, (found.reward, *logs), size, rule)

    return said("biased: E ĝ = E[f(W) Z], f = E[G (q − p) | W]; for large G Σ w (e^u/E_w e^u − 1) Z, w ∝ π²", credit)


def towards(eta: float) -> Expectation:
    """Σ_W q(W) Z of the target q ∝ π e^{u/η} over all responses."""

    def credit(found: Words, size: int) -> Array:
        out = np.zeros(len(found.node))
        for mine in (found.prompt == x for x in range(found.problem.prompts)):
            reward = found.reward[mine]
            spread = 1.0 if (reward == reward[0]).all() else reward.std()
            tilt = np.exp((reward - reward.mean()) / (eta * spread))
            out[mine] = tilt / (tilt @ found.chance[mine])
        return out

    return said("biased: E ĝ = Σ_W q(W) Z, q ∝ π e^{u/η} over all responses", credit)


# Linear in log π


def regularised(scale: Any, beta: float) -> Expectation:
    """``scale`` · ∇(J − β KL(π‖ref))."""

    def extra(problem: Problem, group_size: int) -> Array:
        away = np.log(np.where(problem.probs > 0, problem.probs, 1.0))
        away -= np.log(np.where(problem.probs > 0, _reference(problem), 1.0))
        for t in range(1, problem.horizon):
            past = problem.tree.descend(away[problem.tree.at(t - 1)], t - 1)
            away[problem.tree.at(t)] += past[:, None]
        return -float(scale) * beta * of_effective_reward(problem, away)

    text = f"E ĝ = {float(scale):g} ∇(J − {beta:g} KL(π‖ref)), another objective"
    return Expectation(text, lambda problem, size: Fraction(scale), extra)


def rebel(eta: float) -> Expectation:
    """On the first step: a multiple of g."""
    return Expectation(f"E ĝ = 4/η · g, η = {eta:g}", lambda problem, size: 4 / parse(eta))


def rebel_off_policy(eta: float) -> Expectation:
    """4/η E_μ[(S − E_μ S) Z], S = R − log(π/μ)/η."""

    def credit(found: Words, size: int) -> Array:
        score = found.reward - (found.log(to_float(found.problem.probs)) - found.log(found.policy)).sum(1) / eta
        return 4 / eta * (score - found.mean(score))

    return said("biased: E ĝ = 4/η E_μ[(S − E_μ S) Z], S = R − log(π/μ)/η", credit)


def copg_off_policy(beta: float) -> Expectation:
    """2 E_μ[(S − E_μ S) Z], S = R − β log π/ref."""

    def credit(found: Words, size: int) -> Array:
        score = found.reward - beta * found.log_ratio.sum(1)
        return 2 * (score - found.mean(score))

    return said("biased: E ĝ = 2 E_μ[(S − E_μ S) Z], S = R − β log π/ref; 0 at π ∝ ref e^{R/β} for every μ", credit)


def a_star_off_policy(beta: float) -> Expectation:
    """2β E_μ[(S − V*) Z], S = R − β log π/ref, V* from every response of the reference policy."""

    def credit(found: Words, size: int) -> Array:
        whole = words(found.problem, _reference(found.problem))
        mine = [whole.prompt == x for x in range(found.problem.prompts)]
        best = np.array([beta * logsumexp(whole.reward[m] / beta, b=whole.chance[m]) for m in mine])
        return 2 * beta * (found.reward - best[found.prompt] - beta * found.log_ratio.sum(1))

    return said("biased: E ĝ = 2β E_μ[(R − V* − β log π/ref) Z]; 0 at π ∝ ref e^{R/β} for every μ", credit)


# Weights on tokens


def t_reg(model: Model, beta: float, alpha: float) -> Expectation:
    """DPO's credit, and α r̂_t times its size."""

    def size_of(r: Array, d: Array, r2: Array, d2: Array) -> Array:
        return np.asarray((r != r2) * np.abs(_labelled(r, d, r2, d2, beta=beta)))

    def credit(found: Words, size: int) -> Array:
        columns = found.reward, found.log_ratio.sum(1)
        signed, plain = (against(found, columns, rule) for rule in (partial(_labelled, beta=beta), size_of))
        return 2 * (signed[:, None] + alpha * found.along(model(found.problem)) * plain[:, None])

    return said("biased: E ĝ = 2 E[Σ_t (f(W) + α r̂_t |f|(W)) S_t], f of DPO, |f| the mean of its size", credit)


def tgdpo(model: Model, beta: float, alpha: float) -> Expectation:
    """The own tokens weigh 1 + αβ r̂ where the response is chosen, 1 − αβ r̂ where it is rejected."""

    def win(r: Array, up: Array, down: Array, r2: Array, up2: Array, down2: Array) -> Array:
        return np.asarray((r > r2) * beta * expit(beta * (down2 - up)))

    def loss(r: Array, up: Array, down: Array, r2: Array, up2: Array, down2: Array) -> Array:
        return np.asarray((r < r2) * beta * expit(beta * (down - up2)))

    def credit(found: Words, size: int) -> Array:
        tilt = alpha * beta * found.along(model(found.problem))
        columns = found.reward, *(((1 + sign * tilt) * found.log_ratio).sum(1) for sign in (1, -1))
        wins, losses = (against(found, columns, rule)[:, None] for rule in (win, loss))
        return 2 * (wins * (1 + tilt) - losses * (1 - tilt))

    return said("biased: E ĝ = 2 E[Σ_t f_t(W) S_t], f_t = E f_t(W, W') of one independent peer", credit)


def tab_po(beta: float, lam: float, tau: float) -> Expectation:
    """DPO's credit, and λ/n on the n improbable tokens as often as the response is chosen."""

    def credit(found: Words, size: int) -> Array:
        columns = found.reward, found.log_ratio.sum(1)
        signed = against(found, columns, partial(_labelled, beta=beta))
        chosen = against(found, columns, lambda r, d, r2, d2: (r > r2) * 1.0)
        gate = found.mask & (found.along(to_float(found.problem.probs)) < tau)
        share = gate / np.maximum(gate.sum(1, keepdims=True), 1)
        return 2 * (signed[:, None] + lam * chosen[:, None] * share)

    return said("biased: E ĝ = 2 E[Σ_t (f(W) + λ P(W chosen) 1[π_t < τ]/n) S_t], f of DPO", credit)
