"""claim:tpo-base-measure: candidates are drawn from π and weighed by π again, and that turns TPO."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from math import comb, exp, log, tanh

import numpy as np
from scipy.special import gammaln

from paper_checks.common import both, expectation, gradient
from paper_checks.laws import bernstein, mean_reward, rated, turned, two_valued
from paper_checks.preferences import float_row, scored, size
from tpg.claims import Claim, Finding, apart, close, positive
from tpg.claims.record import Check
from tpg.estimators import pairs
from tpg.estimators.advantages import z_score
from tpg.estimators.estimator import Estimator
from tpg.estimators.parts import peers
from tpg.estimators.table import ESTIMATORS
from tpg.numbers import FLOAT64, Array
from tpg.problem.problem import Problem, make
from tpg.problem.tree import grow

SCALES = (1.0, 0.5)  # η


def tpo(eta: float) -> Estimator:
    """The row at another η."""
    return float_row(partial(pairs.tpo, eta=eta))


# What E ĝ is, response by response: f(W) = E[G (q − p)(W) | W]


def pair_weights(chance: Array, reward: Array, eta: float, power: int = 2) -> Array:
    """G = 2: a better W pulls against a worse W' with 2 π²π'² (x − 1)/((xπ + π')(π + π')), x = e^{2/η}.

    f holds one π less: E[f Z] brings it back.  ``power`` = 1 weighs the candidates alike, q ∝ e^{u/η} and p = 1/2.
    """
    x, mine, other = exp(2 / eta), chance[:, None], chance[None]
    p, p2 = (mine, other) if power == 2 else (np.ones_like(mine), np.ones_like(other))
    up = (p * p2 * (x - 1) / ((x * p + p2) * (p + p2)) * other * (reward[:, None] > reward)).sum(1)
    down = (p * p2 * (x - 1) / ((x * p2 + p) * (p + p2)) * other * (reward[:, None] < reward)).sum(1)
    return np.asarray(2 * (up - down))


def triples(chance: Array, reward: Array, eta: float) -> Array:
    """G = 3: the mean over all two peers of 3 (q − p), by the definition."""
    own, second, third = (each.ravel() for each in np.indices((len(chance),) * 3))
    group = np.stack([own, second, third], axis=1)
    value, p = reward[group], chance[group] / chance[group].sum(1, keepdims=True)
    spread = np.sqrt(((value - value.mean(1, keepdims=True)) ** 2).mean(1, keepdims=True))
    same = (value == value[:, :1]).all(1, keepdims=True)
    u = np.where(same, 0, (value - value.mean(1, keepdims=True)) / np.where(same, 1, spread))
    odds = p * np.exp(u / eta)
    credit = 3 * (odds / odds.sum(1, keepdims=True) - p)[:, 0]
    return np.bincount(own, weights=chance[second] * chance[third] * credit)


def sampled(group: int, rule: Callable[[Array, Array, float], Array]) -> Check:
    """E ĝ of the row is E[f(W) Z]."""

    def check(problem: Problem) -> Sequence[Finding]:
        given, out = problem.to(FLOAT64), []
        for eta in SCALES:

            def credit(chance: Array, reward: Array, eta: float = eta) -> Array:
                return rule(chance, reward, eta)

            gap = expectation(given, tpo(eta), group) - scored(given, credit)
            out.append(close(f"TPO, G = {group}, η = {eta:g}: E ĝ = E[f(W) Z]", gap, size(given)))
        return out

    return check


# The base measure π: what the target over all responses climbs, and the same candidates weighed once


@peers("reward")
def weighed_once(reward: Array, *, eta: float) -> Array:
    """Candidates drawn from π and weighed alike: A_i = G (q_i − 1/G), q ∝ e^{u/η}."""
    odds = np.exp(z_score(reward, ddof=0, eps=0.0) / eta)
    return reward.shape[-1] * odds / odds.sum(-1, keepdims=True) - 1


def once_rate(p: float, group: int, eta: float) -> float:
    """h'_G(p) of ``weighed_once`` with rewards 0 and 1: k successes have u = √((G−k)/k), failures −√(k/(G−k))."""
    up, down = np.zeros(group), np.zeros(group)
    for k in range(1, group):
        win, fail = exp(((group - k) / k) ** 0.5 / eta), exp(-((k / (group - k)) ** 0.5) / eta)
        total = k * win + (group - k) * fail
        up[k - 1], down[k] = group * win / total - 1, 1 - group * fail / total
    return float(bernstein(up, down, p))


def alike(rate: Callable[[float, int, float], float] = once_rate) -> Check:
    """Rewards 0 and 1: E ĝ = h'_G(p) ∇p on each prompt, tanh(1/η) ∇p for G = 2."""

    def check(problem: Problem) -> Sequence[Finding]:
        given, out = two_valued(problem.to(FLOAT64)), []
        for group, eta in ((2, 1.0), (2, 0.5), (3, 1.0)):
            found = expectation(given, float_row(partial(weighed_once, eta=eta)), group)
            h = np.array([rate(p, group, eta) for p in mean_reward(given)])
            out.append(
                close(f"weighed alike, G = {group}, η = {eta:g}: h'(p) ∇p", found - rated(given, h), size(given))
            )
        return out

    return check


def all_responses(problem: Problem) -> Sequence[Finding]:
    """Every response a candidate: the target q ∝ π e^{u/η} climbs (e^{u₁/η} − e^{u₀/η})/E e^{u/η} ∇p."""
    given = two_valued(problem.to(FLOAT64))
    rate = []
    for prompt, p in enumerate(mean_reward(given)):
        mine = given.totals[(given.tree.prompt == prompt)[:, None] & given.ends]
        lose, win = np.exp((np.array([0, 1]) - mine.mean()) / mine.std())
        rate.append((win - lose) / (p * win + (1 - p) * lose))
    gap = expectation(given, ESTIMATORS["tpo_all_actions"]) - rated(given, np.array(rate))
    return [close("every response a candidate: E ĝ is a multiple of ∇p", gap, size(given))]


def towards_the_target(problem: Problem) -> Sequence[Finding]:
    """As worded, one prompt, rewards 0 and 1: sampled candidates move π the way the target over all responses does."""
    if problem.prompts > 1:  # a multiple of its own for each prompt
        return []
    given = two_valued(problem.to(FLOAT64))
    gap = turned(expectation(given, tpo(1.0), 2), gradient(given))
    return [close("TPO, G = 2: E ĝ is a multiple of ∇p", gap, size(given))]


def example() -> Sequence[Finding]:
    """One token of three, π = (1/2, 1/3, 1/6), the first is right; η = 2/ln 3, so that x = 3.

    G = 2: the right one pulls against the others with 2 (1/4)(1/9) 2/((11/6)(5/6)) = 4/55 and
    2 (1/4)(1/36) 2/((5/3)(2/3)) = 1/40: 32 : 11 in place of π's 2 : 1.  With many candidates, weights π² = (9, 4, 1)/14
    and u = ±1: w (e^u/E_w e^u − 1) = (90, −72, −18)/448, 4 : 1.  Two tokens know one direction alone.
    """
    problem = make(grow(3, 1), [["1/2", "1/3", "1/6"]], [[1, 0, 0]], field=FLOAT64, name="three arms")
    eta, g = 2 / log(3), gradient(problem)
    two, three = (expectation(problem, tpo(eta), group) for group in (2, 3))
    limit = np.array([90, -72, -18]) / 448
    off = {group: float(np.abs(drawn_often(group, eta) - limit).max()) for group in (32, 128)}
    return [
        close("G = 2: weights 4/55 and 1/40", two - np.array([4 / 55 + 1 / 40, -4 / 55, -1 / 40]), 1),
        close("G = 3: every composition of a group", three - drawn_often(3, eta), 1),
        apart("G = 2 turns from ∇p", turned(two, g), 1e-2),
        apart("G = 3 turns from ∇p", turned(three, g), 1e-2),
        apart("many candidates turn from ∇p", turned(limit, g), 1e-2),
        positive(
            "the distance to w ∝ π² shrinks like 1/G: 32 candidates are 3 to 5 times off 128", off[32] - 3 * off[128]
        ),
        positive("… and no faster", 5 * off[128] - off[32]),
        close("weighed alike, η = 2/ln 3, G = 2: tanh(1/η) = 1/2", once_rate(0.5, 2, eta) - tanh(1 / eta), 1),
        close("… and that is 1/2", tanh(1 / eta) - 0.5, 1),
    ]


def drawn_often(group: int, eta: float) -> Array:
    """E ĝ of the three arms from the numbers of times that each is drawn: Σ (q − p), as ∂log π_a/∂logits = e_a − π."""
    counts = np.array([(a, b, group - a - b) for a in range(group + 1) for b in range(group + 1 - a)])
    assert len(counts) == comb(group + 2, 2)
    probs = np.array([1 / 2, 1 / 3, 1 / 6])
    share = counts[:, 0] / group
    spread = np.sqrt(share * (1 - share))
    tie = spread == 0
    u = np.where(tie[:, None], 0, (np.array([1, 0, 0]) - share[:, None]) / np.where(tie, 1, spread)[:, None])
    p, q = counts * probs, counts * probs * np.exp(u / eta)
    moved = q / q.sum(1, keepdims=True) - p / p.sum(1, keepdims=True)
    chance = np.exp(gammaln(group + 1) - gammaln(counts + 1).sum(1) + counts @ np.log(probs))
    return np.asarray(chance @ moved)


CLAIM = Claim(
    label="claim:tpo-base-measure",
    statement="TPO draws its candidates from π and weighs them by π again: for G = 2 a better response pulls against a "
    "worse one with 2π²π'²(x−1)/((xπ+π')(π+π')), x = e^{2/η}, for many candidates E ĝ → Σ w (e^u/E_w e^u − 1) Z with "
    "w ∝ π²; this turns the direction even where rewards are 0 and 1.  The target over all responses, and the same "
    "candidates weighed alike, keep π for base measure: a multiple of ∇p, tanh(1/η) ∇p for G = 2",
    source="Kaddour, arXiv 2604.06159; the expectations are ours; ledger 28",
    hypotheses=("the first step: π^old = π", "u is the z-score with the population's std, 0 for equal rewards"),
    group_sizes=(1, 2, 3),
    check=both(sampled(2, pair_weights), sampled(3, triples), alike(), all_responses),
    example=example,
    mutants={
        "candidates count once": sampled(2, partial(pair_weights, power=1)),
        "G = 3 as G = 2": sampled(3, pair_weights),
        "weighed alike, RLOO's rate": alike(lambda p, group, eta: 1.0),
        "weighed alike, G = 3 as G = 2": alike(lambda p, group, eta: tanh(1 / eta)),
        "TPO climbs p, rewards 0 and 1": towards_the_target,
    },
    needs=("prop:count-rules", "lem:baseline"),
    algebraic=False,
    wording="the candidates of a group move the policy towards q ∝ π e^{u/η}",
    as_worded=towards_the_target,
)
