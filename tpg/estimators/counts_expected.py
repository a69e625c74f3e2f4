"""Closed forms of E ĝ for the rules in counts: polynomials in the probabilities of the rewards of each prompt."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from math import comb
from typing import Any, NamedTuple

import numpy as np

from tpg.errors import EstimatorError
from tpg.estimators.expectations import Expectation, Extra, effective, of_effective_reward, z_scored
from tpg.numbers import Array, parse
from tpg.problem.problem import Problem

Weight = Callable[[int, int], Any]
Worth = Callable[["Law", int], Array]  # law of the prompt's rewards, G → E[G · credit | own reward], [K]
Of = Callable[[Array, Array, int, Array], Array]  # own reward, Σ over the group, G, that Σ is 0 → G · credit


class Law(NamedTuple):
    """The rewards of one prompt: distinct ones, ascending, with their probabilities, [K] each."""

    prompt: int
    reward: Array
    chance: Array
    where: Array  # [N, V] bool: its responses end here
    code: Array  # which reward, for each of those places

    def upto(self) -> tuple[Array, Array]:
        """F(r) and F(r⁻), [K] each."""
        through = np.add.accumulate(self.chance)
        return through, np.concatenate([through[:1] - through[:1], through[:-1]])


def laws(problem: Problem, policy: Array, reach: Array) -> Iterator[Law]:
    """The law of RM(W) under ``policy``, prompt by prompt."""
    mass = reach[:, None] * policy
    for prompt in range(problem.prompts):
        where = (problem.tree.prompt == prompt)[:, None] & problem.ends
        total = problem.totals[where]
        _, first, code = np.unique(problem.field.key(total), return_index=True, return_inverse=True)
        chance = problem.field.zeros(len(first))
        np.add.at(chance, code.ravel(), mass[where])
        yield Law(prompt, total[first], chance, where, code.ravel())


def by_reward(worth: Worth) -> Extra:
    """E ĝ = Σ_r f(r) ∇P(r) for credits that are a function of the rewards of the group."""

    def extra(problem: Problem, group_size: int) -> Array:
        ends = problem.field.zeros(problem.probs.shape)
        for law in laws(problem, problem.probs, problem.reach):
            ends[law.where] = worth(law, group_size)[law.code]
        return of_effective_reward(problem, ends)

    return extra


def _said(text: str, extra: Extra) -> Expectation:
    return Expectation(text, lambda problem, size: Fraction(0), extra)


# Counts: the Bernstein form


def slope(success: Weight, failure: Weight, size: int, p: Any) -> Any:
    """h'(p) = Σ_s C(G−1,s) p^s (1−p)^{G−1−s} (u(s+1, G) + v(s, G)): E ĝ = h'(p) ∇p of the count rule u, v.

    Given s successes among the G − 1 peers, a success earns u(s+1) and a failure −v(s); E[Z | success] = ∇p/p and
    E[Z | failure] = −∇p/(1−p).  Exact where ``p`` and the weights are Fractions.

    >>> slope(lambda k, size: Fraction(size, k), lambda k, size: 0, 3, Fraction(1, 2))  # 1 + 1/2 + 1/4
    Fraction(7, 4)
    """
    weights = [success(s + 1, size) + failure(s, size) for s in range(size)]
    return sum(comb(size - 1, s) * p**s * (1 - p) ** (size - 1 - s) * weight for s, weight in enumerate(weights))


def _truncated_log(law: Law, size: int) -> Array:
    """1{r > 0} (1 + (1 − q))."""
    return (law.reward > 0) * (2 - _accepted(law))


def _accepted(law: Law) -> Any:
    """q = P(R > 0)."""
    return np.where(law.reward > 0, law.chance, law.chance - law.chance).sum()


def _mean_accepted(law: Law, size: int) -> Array:
    """1{r > 0} Σ_{j<G} (1−q)^j, which is E[G/(1 + successes among G − 1 peers)] = (1 − (1−q)^G)/q."""
    rest = 1 - _accepted(law)
    return (law.reward > 0) * sum((rest**j for j in range(1, size)), rest * 0 + 1)


# Ranks


def _max_of(law: Law, size: int) -> Array:
    """k E[max(r, M)], M the maximum of k − 1 others: k (r F(r)^{k−1} + Σ_{v>r} v (F(v)^{k−1} − F(v⁻)^{k−1}))."""
    upto, below = law.upto()
    tail = law.reward * (upto ** (size - 1) - below ** (size - 1))
    later = np.flip(np.add.accumulate(np.flip(tail))) - tail
    return size * (law.reward * upto ** (size - 1) + later)


def _best_of_group(law: Law, size: int) -> Array:
    return _max_of(law, size) / size


def _best_of_n(law: Law, size: int) -> Array:
    """(F(r)^G − F(r⁻)^G)/P(r) as Σ_j F(r)^{G−1−j} F(r⁻)^j, which no P(r) = 0 disturbs."""
    upto, below = law.upto()
    return np.asarray(sum(upto ** (size - 1 - j) * below**j for j in range(size)))


def _informative(law: Law, size: int) -> Array:
    """r (1 − P(r)^{G−1}): not all others earn the same."""
    return law.reward * (1 - law.chance ** (size - 1))


def max_of(k: int) -> Expectation:
    """∇E[max of k]."""
    return _said(f"E ĝ = ∇E[max of {k} rewards], another objective", by_reward(lambda law, size: _max_of(law, k)))


# Rules of the own reward and of the sum over the group


def by_total(of: Of) -> Extra:
    """f(r) = E[of(r, r + S, G)], S the sum of G − 1 peers: by convolution in exact numbers, by multisets in float64."""

    def rule(reward: Array, tokens: Array) -> Array:
        total = reward.sum(1)
        none = np.abs(total) <= 1e-12 * np.abs(reward).sum(1)  # 0 but for rounding
        return of(reward[:, 0], total, reward.shape[1], none)

    def extra(problem: Problem, group_size: int) -> Array:
        if not problem.field.exact:
            return effective(rule)(problem, group_size)

        def worth(law: Law, size: int) -> Array:
            peers, chance = _sums(problem, law, size - 1)
            total = law.reward[:, None] + peers
            own = np.broadcast_to(law.reward[:, None], total.shape)
            return np.asarray((of(own, total, size, total == 0) * chance).sum(-1))

        return by_reward(worth)(problem, group_size)

    return extra


def _sums(problem: Problem, law: Law, peers: int) -> tuple[Array, Array]:
    """The sums of ``peers`` rewards and their probabilities."""
    total, chance = problem.field.zeros(1), problem.field.ones(1)
    for _ in range(peers):
        every, mass = (total[:, None] + law.reward).ravel(), (chance[:, None] * law.chance).ravel()
        _, first, code = np.unique(problem.field.key(every), return_index=True, return_inverse=True)
        total, chance = every[first], problem.field.zeros(len(first))
        np.add.at(chance, code.ravel(), mass)
    return total, chance


def _over_mean(own: Array, total: Array, size: int, none: Array) -> Array:
    return np.where(none, own - own, (own * size - total) / np.where(none, own - own + 1, total))


def floored(threshold: Any) -> Expectation:
    """f(r) = r − E max(c, (r + S)/G): a baseline b(R_1 … R_G) costs ∇E[b]/G, each member's share of it."""
    c = parse(threshold)

    def of(own: Array, total: Array, size: int, none: Array) -> Array:
        low = (total - total) + c.numerator
        return own - np.where(total * c.denominator > size * low, total / size, low / c.denominator)

    text = f"E ĝ = ∇(J − E[max({c}, mean of the group)]/G), another objective; rewards in {{0, 1}}: (1−1/G)·g … g"
    return _said(text, by_total(of))


# Z-scores and DAPO's filter


def _z(reward: Array, tokens: Array) -> Array:
    spread = reward.std(axis=1, ddof=1) + 1e-6
    return np.where((reward == reward[:, :1]).all(1), 0, (reward[:, 0] - reward.mean(1)) / spread)


def _margin_over_std(reward: Array, tokens: Array) -> Array:
    margin = np.maximum(reward[:, 0] - reward[:, 1:].max(1), 0)
    return margin / (reward.std(axis=1, ddof=1) + 1e-6)


def valid(problem: Problem, group_size: int) -> Array:
    """P_valid(x) = 1 − Σ_r P(r)^G [P]: the chance that a group of the policy that generates has unequal rewards."""
    made = laws(problem, problem.sampling, problem.sampling_reach)
    share = [1 - (law.chance**group_size).sum() if (law.chance != 0).sum() > 1 else law.chance[0] * 0 for law in made]
    return problem.field.array(share)


def share_of_valid(problem: Problem, group_size: int) -> Array:
    """P_valid(x)/Σ_y weight(y) P_valid(y) [P]: how often a prompt is trained on when dropped groups are replaced."""
    each = valid(problem, group_size)
    return each / _positive((problem.weights * each).sum())


def _positive(share: Any) -> Any:
    if np.any(share == 0):
        raise EstimatorError("no group of this size is ever kept: give another problem or a larger group")
    return share


def _same_prompt(problem: Problem, group_size: int) -> Array:
    """E ĝ_x(unfiltered)/P_valid(x): groups that are not kept have no credit."""
    each = _positive(valid(problem, group_size))
    owner = problem.tree.prompt if problem.tabular else np.arange(problem.prompts)
    return z_scored("tokens")(problem, group_size) / each[owner][:, None]


def _stream(problem: Problem, group_size: int) -> Array:
    overall = _positive((problem.weights * valid(problem, group_size)).sum())
    return z_scored("tokens")(problem, group_size) / overall


BEST_OF_GROUP = _said("E ĝ = ∇E[max of G rewards]/G, another objective", by_reward(_best_of_group))
BEST_OVER_STD = _said("biased: E ĝ = E[f(R) Z], f(R) = E[(R − max of others)⁺/std | R]", effective(_margin_over_std))
BEST_OF_N = _said(
    "biased: E ĝ = Σ_r (F(r)^G − F(r⁻)^G)/P(r) ∇P(r), towards the frozen best-of-G policy", by_reward(_best_of_n)
)
POSITIVE_PART = _said(
    "E ĝ = ∇E[max(R, 0)], another objective where rewards are negative",
    by_reward(lambda law, size: np.where(law.reward > 0, law.reward, law.reward - law.reward)),
)
MEAN_ACCEPTED = _said(
    "E ĝ = Σ_{j<G} (1−q)^j ∇q, q = P(R > 0): another objective, log q to order G", by_reward(_mean_accepted)
)
INFORMATIVE = _said("E ĝ = ∇Σ_r r (P(r) − P(r)^G/G), another objective", by_reward(_informative))
OVER_MEAN = _said(
    "biased: E ĝ = E[f(R) Z], f(r) = E[G r/(r + Σ others)]; {0,1}: Σ_{j≤G−2} (1−p)^j ∇p", by_total(_over_mean)
)
TRUNCATED_LOG = _said("E ĝ = (2 − q) ∇q, q = P(R > 0): another objective, log q to order 2", by_reward(_truncated_log))
Z_SCORE = _said("biased: E ĝ = E[f(R) Z], f(R) = E[z-score | R]; {0,1}: h'_G(p) ∇p", effective(_z))
GRPO_DDOF0 = _said("biased: E ĝ = E[f(R)/L · Z], f(R) = E[z-score, population std | R]", z_scored("length", ddof=0))
DAPO_SAME_PROMPT = _said("biased: E ĝ_x = E ĝ_x(unfiltered)/P_valid(x), prompts weighed anew", _same_prompt)
DAPO_STREAM = _said("biased as DAPO without filter: E ĝ = E ĝ(unfiltered)/Σ_x weight(x) P_valid(x)", _stream)
