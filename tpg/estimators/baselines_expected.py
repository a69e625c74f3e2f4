"""What the baselines that include the own response say of E ĝ: OPO and verl's optimal token baseline."""

from __future__ import annotations

import numpy as np

from tpg.errors import TooLarge
from tpg.estimators.expectations import MAX_PEERS, Expectation, _none, of_effective_reward
from tpg.numbers import Array
from tpg.problem.problem import Problem


def opo_extra(problem: Problem, group_size: int) -> Array:
    """E[f(R, L) Z], f(r, l) = r Σ_s P(s) s/(l+s) − Σ_s e(s)/(l+s): s the others' tokens, e(s) = E[Σ L_j R_j; s]."""
    steps, prompt = problem.horizon, problem.tree.prompt
    TooLarge.check("the closed form of OPO", (group_size * steps) ** 2, MAX_PEERS, "lower the group size")
    mass = np.where(problem.ends, problem.reach[:, None] * problem.probs, problem.field.scalar(0))
    ends = problem.field.zeros(problem.probs.shape)
    for mine in (prompt == x for x in range(problem.prompts)):
        chance, paid = problem.field.zeros(steps + 1), problem.field.zeros(steps + 1)
        np.add.at(chance, problem.tree.depth[mine] + 1, mass[mine].sum(1))
        np.add.at(paid, problem.tree.depth[mine] + 1, (mass * problem.totals)[mine].sum(1))
        fewer = _power(chance, group_size - 2)
        tokens = np.convolve(fewer, chance)  # P(s)
        worth = (group_size - 1) * np.convolve(fewer, np.arange(steps + 1) * paid)  # e(s)
        total = np.arange(1, steps + 1)[:, None] + np.arange(len(tokens))
        kept, lost = (tokens * np.arange(len(tokens)) / total).sum(1), (worth / total).sum(1)
        own = problem.tree.depth[mine]
        ends[mine] = kept[own][:, None] * problem.totals[mine] - lost[own][:, None]
    return of_effective_reward(problem, ends)


def _power(chance: Array, times: int) -> Array:
    """The distribution of a sum of ``times`` draws from ``chance``."""
    if times == 0:
        return chance[:1] * 0 + 1
    half = _power(chance, times // 2)
    both = np.convolve(half, half)
    return np.convolve(both, chance) if times % 2 else both


def otb_extra(problem: Problem, group_size: int) -> Array:
    """Σ_t E[A_t S_t], A_t averaged over the G − 1 others: each has written a prefix and a token at t, or has ended.

    R is M(s, a) on average, since the weights W know no more than the tokens up to t.
    """
    weight, value = _weights(problem), problem.values[0]
    mass, credit = problem.reach[:, None] * problem.probs, problem.field.zeros(problem.probs.shape)
    level = problem.tree.depth * problem.prompts + problem.tree.prompt
    for here in (level == n for n in range(problem.horizon * problem.prompts)):
        own, w, m = (table[here].ravel() for table in (mass, weight, value))
        TooLarge.check(
            "the closed form by peers", float(len(w) + 1) ** group_size, MAX_PEERS / 10, "lower the group size"
        )
        ended, zero = 1 - own.sum(), problem.field.zeros(1)
        chance, heavy, worth = zero + 1, zero, zero
        for _ in range(group_size - 1):
            chance = np.multiply.outer(chance, np.append(own, ended)).ravel()
            heavy = np.add.outer(heavy, np.append(w, zero)).ravel()
            worth = np.add.outer(worth, np.append(w * m, zero)).ravel()
        whole = w[:, None] + heavy
        ahead = m[:, None] * heavy - worth
        share = np.divide(ahead, whole, out=ahead - ahead, where=whole != 0)
        credit[here] = (share * chance).sum(1).reshape(-1, problem.vocab)
    return problem.pull(mass * credit)


def _weights(problem: Problem) -> Array:
    """W [N, V]: 1 − 2π + Σπ² added up along the path to each token."""
    out = 1 - 2 * problem.probs + (problem.probs**2).sum(1, keepdims=True)
    for t in range(problem.horizon - 1):
        below = problem.tree.at(t + 1)
        out[below] = out[below] + problem.tree.descend(out[problem.tree.at(t)], t)[:, None]
    return out


OPO = Expectation("biased: E ĝ = E[f(R, L) · Z], f(R, L) = R − E[Σ_j L_j R_j / Σ_j L_j | R, L]", _none, opo_extra)
OTB = Expectation("biased: E ĝ = Σ_t E[f_t S_t], f_t = E[R − Σ_j W_jt R_j / Σ_j W_jt | own tokens]", _none, otb_extra)
