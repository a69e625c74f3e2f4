"""Count and rank rules: their h', the objectives behind them, DAPO's filter, and that mistakes in them show."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import betainc

from tests import references as ref
from tests.literal import counts as literal
from tests.strategies import DYADIC, SMALL, problems
from tpg import truth
from tpg.audit import audit
from tpg.errors import EstimatorError
from tpg.estimators import advantages, counts, ratios
from tpg.estimators import counts_expected as expected
from tpg.estimators.counts_expected import slope
from tpg.estimators.estimator import Estimator
from tpg.estimators.parts import apply, peers
from tpg.estimators.table import ESTIMATORS
from tpg.moments import moments
from tpg.numbers import FLOAT64, RATIONAL, Array, gf
from tpg.problem import zoo
from tpg.problem.problem import Problem, make
from tpg.problem.tree import grow
from tpg.rollouts import Rollouts, every

ROWS = {row.name: row for row in counts.ROWS}
SIZES = [2, 3, 4, 6]
ARMS = make(grow(5, 1), [["1/7", "2/7", "1/7", "2/7", "1/7"]], [[-1, 0, 1, 1, 3]], name="five arms")


def bandit(rewards: list[Any], *policies: list[Any]) -> Problem:
    """One token; one prompt per policy."""
    return make(grow(len(rewards), 1, len(policies)), list(policies), [rewards] * len(policies))


def measured(problem: Problem, row: Estimator, size: int) -> Array:
    """E ĝ over all parameters, from the moments."""
    given = problem.to(FLOAT64) if row.numbers == "float64" else problem
    return given.combine(moments(given, row, size).mean)


def total_of(twin: ref.Twin, prompt: int, worth: Callable[[ref.Prefix], Any]) -> Fraction:
    return sum((p * worth(w) for w, p in ref.responses(twin, prompt).items()), Fraction(0))


def rescaled(twin: ref.Twin, slope_at: Callable[[Fraction], Any], good: Callable[[Fraction], bool]) -> list[Any]:
    """Σ_x weight(x) h'(q_x) ∇q_x, q = P(good)."""
    parts = []
    for x in range(twin.prompts):
        worth = partial(success, twin, good)
        h = slope_at(total_of(twin, x, worth))
        parts.append({key: h * v for key, v in ref.derivative(twin, x, worth).items()})
    return ref.mixed(twin, parts)


def success(twin: ref.Twin, good: Callable[[Fraction], bool], response: ref.Prefix) -> Fraction:
    return Fraction(good(ref.total(twin, response)))


def is_right(reward: Fraction) -> bool:
    return reward > 0


# Two-valued rewards: h' of algorithms.md §2 F


def geometric(p: Any, terms: int) -> Any:
    """Σ_{j<terms} (1−p)^j: the slope of log p truncated at order ``terms``."""
    return sum(((1 - p) ** j for j in range(1, terms)), Fraction(1)) if terms else Fraction(0)


def corpo_slope(p: Fraction, size: int, c: Fraction = Fraction(1, 2)) -> Fraction:
    """1 − E_S[max(c, (S+1)/G) − max(c, S/G)], S ~ Bin(G−1, p): R22."""
    chance = [math.comb(size - 1, s) * p**s * (1 - p) ** (size - 1 - s) for s in range(size)]
    return 1 - sum(w * (max(c, Fraction(s + 1, size)) - max(c, Fraction(s, size))) for s, w in enumerate(chance))


SLOPES: dict[str, Callable[[Fraction, int], Fraction]] = {
    "raft": lambda p, size: Fraction(1),
    "raft_plus_plus": lambda p, size: Fraction(1),
    "raft_mean_accepted": geometric,
    "maxrl": lambda p, size: geometric(p, size - 1),
    "best_of_n": lambda p, size: geometric(p, size) - (1 - p) ** (size - 1),
    "reinforce_rej": lambda p, size: 1 - p ** (size - 1),
    "grpo_passk": lambda p, size: (1 - p) ** (size - 1),
    "passk_loo": lambda p, size: 2 * (1 - p),
    "rl2ml": lambda p, size: 1 + (1 - p),
    "corpo": corpo_slope,
}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", SLOPES)
@settings(max_examples=6)
@given(problem=problems(SMALL, values=(0, 1), discounts=DYADIC))
def test_binary_rules_rescale_each_prompt(name: str, size: int, problem: Problem) -> None:
    # E ĝ_x = h'(p_x) ∇p_x, exactly.  Wrong: G for G − 1 terms, a tie that counts, a count that misses oneself.
    wanted = rescaled(ref.read(problem), lambda p: SLOPES[name](p, size), is_right)
    assert not ref.off(measured(problem, ROWS[name], size), wanted, 1.0)


@pytest.mark.parametrize("size", SIZES)
@settings(max_examples=6)
@given(problem=problems(SMALL, values=(-1, 1), discounts=DYADIC))
def test_signed_reinforce_rej_has_two_ends(size: int, problem: Problem) -> None:
    wanted = rescaled(ref.read(problem), lambda p: 2 - p ** (size - 1) - (1 - p) ** (size - 1), is_right)
    assert not ref.off(measured(problem, ROWS["reinforce_rej"], size), wanted, 1.0)


@pytest.mark.parametrize("size", SIZES)
@settings(max_examples=6)
@given(problem=problems(SMALL, values=(0, 1), discounts=DYADIC))
def test_the_z_score_without_length_is_a_rate_per_prompt(size: int, problem: Problem) -> None:
    # §3 ii with ε and ddof = 1: a success earns (1−q)/(s + ε), a failure loses q/(s + ε), s² = q(1−q) G/(G−1).
    def spread(k: int) -> float:
        return math.sqrt(k * (size - k) / (size * (size - 1))) + 1e-6

    def h(p: Fraction) -> float:
        wins = [0.0, *((size - k) / size / spread(k) for k in range(1, size)), 0.0]
        losses = [0.0, *(k / size / spread(k) for k in range(1, size)), 0.0]
        return float(slope(lambda k, n: wins[k], lambda k, n: losses[k], size, float(p)))

    wanted = rescaled(ref.read(problem), h, is_right)
    assert not ref.off(measured(problem, ROWS["grpo_no_length"], size), wanted, math.sqrt(size))


RULES: dict[str, tuple[counts.Weight, counts.Weight]] = {
    "raft": (lambda k, size: Fraction(1), lambda k, size: Fraction(0)),
    "raft_mean_accepted": (lambda k, size: Fraction(size, k), lambda k, size: Fraction(0)),
    "maxrl": (lambda k, size: Fraction(size - k, k), lambda k, size: Fraction(min(k, 1))),
    "reinforce_rej": (lambda k, size: Fraction(k < size), lambda k, size: Fraction(0)),
    "grpo_passk": (lambda k, size: Fraction(k == 1), lambda k, size: Fraction(0)),
    "best_of_n": (lambda k, size: Fraction(size, k), lambda k, size: Fraction(-(k == 0))),
    "rl2ml": (counts.log_success, counts.log_failure),
    "corpo": (
        lambda k, size: 1 - max(Fraction(1, 2), Fraction(k, size)),
        lambda k, size: max(Fraction(1, 2), Fraction(k, size)),
    ),
}
CHANCES = [Fraction(k, 8) for k in range(9)]


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("size", [2, 3, 5, 8])
def test_the_bernstein_form_is_each_closed_form(name: str, size: int) -> None:
    # Polynomials of degree < G ≤ 8 that agree at nine points are one.
    for p in CHANCES:
        assert slope(*RULES[name], size, p) == SLOPES[name](p, size)


@pytest.mark.parametrize("name", RULES)
def test_count_weights_are_the_rows(name: str) -> None:
    # u and v of the table, run by count_rule, give the credits of the row on {0, 1}.
    rule = partial(counts.count_rule, success=RULES[name][0], failure=RULES[name][1])
    for group in itertools.product([0, 1], repeat=4):
        reward = RATIONAL.array(list(group))
        assert (rule(reward) == apply(ROWS[name].advantage, Rollouts(4, 1, 1, reward=reward))).all(), group


@settings(max_examples=15)
@given(problems(SMALL), st.lists(st.fractions(-3, 3, max_denominator=4), min_size=8, max_size=8))
def test_every_count_rule_is_a_rate(problem: Problem, weights: list[Fraction]) -> None:
    # Count lemma, for any weights and any bar: E ĝ = h'(q) ∇q, q = P(R > 1/2).  Wrong: v(k) read as v(k−1).
    def win(k: int, size: int) -> Fraction:
        return weights[k]

    def lose(k: int, size: int) -> Fraction:
        return weights[4 + k]

    row = Estimator("any", partial(counts.count_rule, success=win, failure=lose, above="1/2"), numbers="ordered")
    wanted = rescaled(ref.read(problem), lambda q: slope(win, lose, 3, q), lambda r: r > Fraction(1, 2))
    assert not ref.off(measured(problem, row, 3), wanted, 1.0)


@pytest.mark.parametrize(("order", "size"), [(1, 2), (1, 4), (2, 4), (3, 4), (4, 4)])
def test_truncated_logs_reach_from_rloo_to_maximum_likelihood(order: int, size: int) -> None:
    # Order 1: RLOO, credit by credit.  Order G: Σ_{j<G} (1−q)^j → 1/q, in between Σ_{j<order}.
    up, down = (partial(f, order=order) for f in (counts.log_success, counts.log_failure))
    for p in CHANCES:
        assert slope(up, down, size, p) == geometric(p, order)
    for group in itertools.product([0, 1], repeat=size):
        reward = RATIONAL.array(list(group))
        credits = counts.count_rule(reward, success=up, failure=down)
        if order == 1:
            assert (credits == advantages.rloo(reward)).all()
        if len(set(group)) == 1:
            assert (credits == 0).all()


def test_an_order_beyond_the_group_is_refused() -> None:
    with pytest.raises(EstimatorError, match=r"^order=3 given for group_size=2, needed 1 … 2$"):
        counts.log_success(1, 2, order=3)


# GRPO's std (§3 ii)


def grpo_weights(k: int, size: int) -> float:
    """√((1−q)/q) for a success among k of G; for a failure swap the two counts.  Population std."""
    return math.sqrt((size - k) / k) if 0 < k < size else 0.0


def grpo_slope(p: float, size: int) -> float:
    return float(slope(grpo_weights, lambda k, n: grpo_weights(n - k, n), size, p))


@pytest.mark.parametrize("p", [0.0, 0.1, 0.25, 0.5, 0.9, 1.0])
def test_grpo_is_a_constant_rate_up_to_three_responses(p: float) -> None:
    # h'_2 = 1, h'_3 = √2, h'_4 = √3 − (2√3 − 3) p(1−p): two singles and a pair, C(4,2) √(2·2)/4 = 3 in the middle.
    assert grpo_slope(p, 2) == pytest.approx(1, rel=1e-14)
    assert grpo_slope(p, 3) == pytest.approx(math.sqrt(2), rel=1e-14)
    root = math.sqrt(3)
    assert grpo_slope(p, 4) == pytest.approx(root - (2 * root - 3) * p * (1 - p), rel=1e-14)


@pytest.mark.parametrize(("size", "tilt"), [(2, 1), (3, 1), (4, 1.046), (8, 1.254), (16, 1.472), (64, 1.640)])
def test_grpo_tilts_towards_hard_prompts_by_published_amounts(size: int, tilt: float) -> None:
    # h'(.1)/h'(.5) to the digits of §3 ii; ends finite: h'(0) = h'(1) = √(G−1); limit (p(1−p))^{−1/2}: 5/3.
    assert round(grpo_slope(0.1, size) / grpo_slope(0.5, size), 3) == tilt
    assert grpo_slope(0.0, size) == pytest.approx(math.sqrt(size - 1), rel=1e-14)
    assert grpo_slope(1.0, size) == pytest.approx(math.sqrt(size - 1), rel=1e-14)


@pytest.mark.parametrize(("size", "whole"), [(2, "1.00"), (4, "1.65"), (16, "2.41"), (256, "2.96")])
def test_the_objective_of_grpo_is_a_sum_of_incomplete_betas(size: int, whole: str) -> None:
    # h_G(p) = Σ_k I_p(k, G−k)/√(k(G−k)); h' is a polynomial, which Gauss–Legendre integrates exactly.
    def h(p: float) -> float:
        return math.fsum(betainc(k, size - k, p) / math.sqrt(k * (size - k)) for k in range(1, size))

    nodes, weights = np.polynomial.legendre.leggauss(size)
    for p in (0.2, 0.5, 1.0):
        area = math.fsum(w * p / 2 * grpo_slope(p / 2 * (1 + x), size) for x, w in zip(nodes, weights, strict=True))
        assert area == pytest.approx(h(p), rel=1e-12)
    assert f"{h(1.0):.2f}" == whole


@pytest.mark.parametrize("size", [2, 3, 4, 6])
def test_the_std_weighs_prompts_anew_only_from_four_responses_on(size: int) -> None:
    # Prompts of p = 1/2 and 1/10: E ĝ ∥ g iff h' is the same for both, which is G ≤ 3.
    problem = bandit([0, 1], ["1/2", "1/2"], ["9/10", "1/10"])
    row = replace(ROWS["grpo_no_length"], advantage=partial(advantages.z_score, ddof=0, eps=0.0))
    mean, g = measured(problem, row, size), problem.combine(truth.gradient(problem)).astype(float)
    rates = [mean[i] / g[i] for i in (0, 2)]
    assert rates == pytest.approx([grpo_slope(0.5, size), grpo_slope(0.1, size)], rel=1e-12)
    assert (abs(rates[0] - rates[1]) < 1e-12) == (size <= 3)


def test_grpo_rows_differ_by_their_published_factors() -> None:
    # ddof: √(G/(G−1)) but for ε; 1/L: the credits of a response times its length.
    problem, size = zoo.three_valued().to(FLOAT64), 3
    for _, singles, index, _ in every(problem, size):
        plain, ddof0, whole = (ESTIMATORS[n] for n in ("grpo", "grpo_ddof0", "grpo_no_length"))
        seen = singles.group(index, plain.needs | whole.needs)
        np.testing.assert_allclose(ddof0(seen), plain(seen) * math.sqrt(size / (size - 1)), rtol=3e-6)
        np.testing.assert_allclose(whole(seen), plain(seen) * seen.length[..., None], rtol=1e-14)


# Any rewards: the objectives behind the rules


def best_of(twin: ref.Twin, prompt: int, k: int, response: ref.Prefix) -> Fraction:
    """k E[max(R, R_2 … R_k)]: the product rule on ∇Σ Π P(W_i) max_i R_i, the k factors being alike."""
    chances = ref.responses(twin, prompt)
    out = Fraction(0)
    for others in itertools.product(chances, repeat=k - 1):
        chance = math.prod((chances[w] for w in others), start=Fraction(1))
        out += chance * max(ref.total(twin, w) for w in (response, *others))
    return k * out


def gradient_of_max(twin: ref.Twin, k: int) -> list[Any]:
    parts = [ref.derivative(twin, x, partial(best_of, twin, x, k)) for x in range(twin.prompts)]
    return ref.mixed(twin, parts)


@pytest.mark.parametrize(("k", "size"), [(2, 2), (2, 3), (3, 3), (2, 5), (3, 4), (3, 5)])
@settings(max_examples=5)
@given(problem=problems(SMALL, dead=True))
def test_passk_estimates_the_gradient_of_the_best_of_k(k: int, size: int, problem: Problem) -> None:
    # E ĝ = ∇E[max of k], any rewards (negative, tied), any G ≥ k.  Wrong: subsets counted with i, not through i.
    row = replace(ROWS["passk_loo"], advantage=partial(counts.passk_loo, k=k), expectation=expected.max_of(k))
    wanted = gradient_of_max(ref.read(problem), k)
    assert not ref.off(measured(problem, row, size), wanted, 1.0)
    declared = problem.combine(row.expectation(problem, size, truth.gradient(problem)))
    assert not ref.off(declared, wanted, 1.0)


@pytest.mark.parametrize("size", [2, 3])
@settings(max_examples=8)
@given(problem=problems(SMALL))
def test_grpo_passk_climbs_the_best_of_the_group(size: int, problem: Problem) -> None:
    wanted = [v / size for v in gradient_of_max(ref.read(problem), size)]
    assert not ref.off(measured(problem, ROWS["grpo_passk"], size), wanted, 1.0)


@given(st.lists(st.sampled_from([-2, 0, 1, 1, 3, 7]), min_size=2, max_size=6), st.data())
def test_passk_credits_add_up_subsets(rewards: list[int], data: st.DataObject) -> None:
    # k = G: G times the margin of the best.  k < G: the literal sum over subsets, times G.
    reward, size = RATIONAL.array(rewards), len(rewards)
    assert (counts.passk_loo(reward, k=size) == size * counts.best_margin(reward)).all()
    k = data.draw(st.integers(2, size))
    subsets = list(itertools.combinations(range(size), k))
    for i in range(size):
        gains = [max(rewards[j] for j in s) - max(rewards[j] for j in s if j != i) for s in subsets if i in s]
        assert ref.exact(counts.passk_loo(reward, k=k)[i]) == Fraction(size * sum(gains), len(subsets))


def test_passk_refuses_what_it_cannot_do() -> None:
    reward = np.array([1.0, 0.0])
    with pytest.raises(EstimatorError, match=r"^passk_loo: k=1 given, at least 2 needed: use rloo for k=1$"):
        counts.passk_loo(reward, k=1)
    message = r"^passk_loo compares the responses of a group: group_size=2 given, at least 3 needed$"
    with pytest.raises(EstimatorError, match=message):
        counts.passk_loo(reward, k=3)


@pytest.mark.parametrize("reward", [0.1, -0.7, 1 / 3, 1e300])
@pytest.mark.parametrize("size", [2, 3, 7])
@pytest.mark.parametrize(
    "part",
    [
        counts.best_margin,
        counts.best_margin_over_std,
        partial(counts.best_margin_over_std, eps=0.0),
        counts.passk_loo,
        counts.informative_reward,
        counts.over_mean,
        ROWS["rl2ml"].advantage,
    ],
)
def test_equal_rewards_give_exactly_nothing(part: Any, size: int, reward: float) -> None:
    # Wrong: the rounding of a mean or of a running sum as a credit, NaN from 0/0.
    assert (part(np.full(size, reward)) == 0).all()


def test_where_ties_do_count() -> None:
    # Best-of-N draws one of equals; CoRPO holds a group that fails to its threshold; RAFT accepts them all.
    same, failed = RATIONAL.array([1, 1, 1]), RATIONAL.array([0, 0, 0])
    assert (counts.best_of_n(same) == 1).all()
    assert (counts.mean_accepted(same) == 1).all()
    assert (counts.floored_mean(same) == 0).all()
    assert (counts.floored_mean(failed) == RATIONAL.scalar("-1/2")).all()
    assert (counts.mean_accepted(failed) == 0).all()


def test_exact_numbers_have_no_std() -> None:
    message = r"^best_margin_over_std takes a square root, exact numbers have none: use a float64 problem$"
    with pytest.raises(EstimatorError, match=message):
        counts.best_margin_over_std(RATIONAL.array([0, 1]))


def test_a_mean_that_is_zero_but_for_rounding_is_zero() -> None:
    # 0.1 + 0.2 − 0.3 ≠ 0 in float64: divided by, it would be a credit near 10¹⁶.
    reward = np.array([0.1, 0.2, -0.3])
    assert reward.sum() != 0
    assert (counts.over_mean(reward) == 0).all()


@pytest.mark.parametrize("size", [2, 3])
@settings(max_examples=8)
@given(problem=problems(SMALL))
def test_raft_climbs_the_positive_part(size: int, problem: Problem) -> None:
    twin = ref.read(problem)
    parts = [ref.derivative(twin, x, lambda w: max(ref.total(twin, w), Fraction(0))) for x in range(twin.prompts)]
    assert not ref.off(measured(problem, ROWS["raft"], size), ref.mixed(twin, parts), 1.0)


@pytest.mark.parametrize("threshold", ["-100", "0", "1/2", "3/2", "100"])
@pytest.mark.parametrize("size", [2, 3])
@settings(max_examples=5)
@given(problem=problems(SMALL, prompts=1))
def test_corpo_climbs_its_reward_less_a_share_of_its_baseline(threshold: str, size: int, problem: Problem) -> None:
    # E ĝ = ∇(J − E[max(c, mean)]/G) for any rewards: the baseline is symmetric, so ∇E[b] = G E[b Z_1].
    # c above all rewards: a constant, E ĝ = g.  c below all: the mean, (G−1)/G g.
    twin, c = ref.read(problem), Fraction(threshold)
    chances = ref.responses(twin, 0)

    def worth(response: ref.Prefix) -> Fraction:
        out = ref.total(twin, response)
        for others in itertools.product(chances, repeat=size - 1):
            mean = sum(ref.total(twin, w) for w in (response, *others)) / size
            out -= math.prod((chances[w] for w in others), start=Fraction(1)) * max(c, mean)
        return out

    row = replace(ROWS["corpo"], advantage=partial(counts.floored_mean, threshold=threshold))
    mean, g = measured(problem, row, size), problem.combine(truth.gradient(problem))
    assert not ref.off(mean, ref.mixed(twin, [ref.derivative(twin, 0, worth)]), 1.0)
    if threshold == "100":
        assert (mean == g).all()
    if threshold == "-100":
        assert (mean == g * (size - 1) / size).all()
    declared = replace(row, expectation=expected.floored(threshold)).expectation(problem, size, truth.gradient(problem))
    assert (problem.combine(declared) == mean).all()


@given(st.lists(st.fractions(-2, 2, max_denominator=5), min_size=2, max_size=6), st.fractions(-1, 1, max_denominator=3))
def test_corpo_never_reinforces_a_failure(rewards: list[Fraction], c: Fraction) -> None:
    credits = counts.floored_mean(RATIONAL.array(rewards), threshold=c)
    assert all(credit < 0 for credit, reward in zip(credits, rewards, strict=True) if reward < c)


@pytest.mark.parametrize("p", CHANCES)
@pytest.mark.parametrize("size", [2, 4, 9])
def test_corpo_stays_within_one_over_g_of_unbiased(p: Fraction, size: int) -> None:
    assert 1 - Fraction(1, size) <= slope(*RULES["corpo"], size, p) <= 1


@pytest.mark.parametrize("size", [2, 3])
@settings(max_examples=8)
@given(problem=problems(SMALL))
def test_best_of_n_imitates_the_frozen_best(size: int, problem: Problem) -> None:
    # E ĝ = Σ_W P_bon(W) ∇log P(W), P_bon(W) = the chance that W wins, ties drawn at random.
    twin = ref.read(problem)
    parts = []
    for x in range(twin.prompts):
        chances = ref.responses(twin, x)
        wins = dict.fromkeys(chances, Fraction(0))
        for group in itertools.product(chances, repeat=size):
            top = max(ref.total(twin, w) for w in group)
            best = [w for w in group if ref.total(twin, w) == top]
            for w in best:
                wins[w] += math.prod((chances[v] for v in group), start=Fraction(1)) / len(best)
        assert sum(wins.values()) == 1
        frozen = {w: wins[w] / chances[w] for w in chances}
        parts.append(ref.derivative(twin, x, lambda w, frozen=frozen: frozen.get(w, Fraction(0))))
    assert not ref.off(measured(problem, ROWS["best_of_n"], size), ref.mixed(twin, parts), 1.0)


@pytest.mark.parametrize(("size", "bound"), [(2, 0.193), (4, 0.636), (16, 1.84)])
def test_best_of_n_stays_near_the_policy(size: int, bound: float) -> None:
    # KL(best of N ‖ π) < log N − (N−1)/N.  E ĝ_b = P_bon(b) − P(b) for a policy of one token: ∇log π = 1[b] − π.
    assert math.log(size) - (size - 1) / size == pytest.approx(bound, abs=5e-3)
    chance = ARMS.probs[0].astype(float)
    best = measured(ARMS, ROWS["best_of_n"], size).astype(float) + chance
    assert best.sum() == pytest.approx(1, rel=1e-14)
    there = best > 0
    assert 0 < (best * np.log(best / chance))[there].sum() < math.log(size) - (size - 1) / size


# Gradient or not: ∮ Σ_r a_r dP_r around a triangle of policies with three rewards

GRADIENTS = ["grpo_passk", "passk_loo", "raft", "raft_mean_accepted", "reinforce_rej", "corpo", "rl2ml"]
TURNING = ["grpo_passk_std", "best_of_n", "maxrl", "grpo_no_length", "grpo_ddof0"]


def circulation(row: Estimator, size: int) -> float:
    """Of a one-token policy, E ĝ_b = P_b (a_b − Σ a P), so that Σ_b E ĝ_b/P_b dP_b is the form Σ a dP.

    Polynomials of degree < 12 along each edge: twelve Gauss points integrate them exactly.
    """
    corners = [np.array([0.2, 0.3, 0.5]), np.array([0.6, 0.2, 0.2]), np.array([0.3, 0.6, 0.1])]
    nodes, weights = np.polynomial.legendre.leggauss(12)
    total = 0.0
    for start, end in zip(corners, [*corners[1:], corners[0]], strict=True):
        for node, weight in zip(nodes, weights, strict=True):
            p = start + (end - start) * (1 + node) / 2
            problem = make(grow(3, 1), p[None] / p.sum(), [[-1, 1, 4]], field=FLOAT64)
            total += weight / 2 * float(measured(problem, row, size) / p @ (end - start))
    return total


@pytest.mark.parametrize("size", [2, 3, 4])
@pytest.mark.parametrize("name", [*GRADIENTS, *TURNING])
def test_texts_tell_gradients_from_fields_that_turn(name: str, size: int) -> None:
    # "another objective": no circulation.  "biased": there is none to climb (for two values there always is).
    turns = abs(circulation(ROWS[name], size))
    if name in GRADIENTS:
        assert turns < 1e-12
        assert "another objective" in ROWS[name].expectation.text
    else:
        assert turns > 1e-3
        assert ROWS[name].expectation.text.startswith("biased")


# DAPO's dynamic sampling


def test_the_chance_of_a_valid_group_by_hand() -> None:
    # 1 − p^G − (1−p)^G; for p = 1/10 and G = 3: 1 − 1/1000 − 729/1000 = 27/100.
    problem = bandit([0, 1], ["1/2", "1/2"], ["9/10", "1/10"])
    assert [ref.exact(v) for v in expected.valid(problem, 3)] == [Fraction(3, 4), Fraction(27, 100)]
    shares = [ref.exact(v) for v in expected.share_of_valid(problem, 3)]
    assert shares == [Fraction(75, 51), Fraction(27, 51)]  # over (75 + 27)/200


@settings(max_examples=10)
@given(problems(SMALL, prompts=3, off_policy=None), st.sampled_from([2, 3]))
def test_the_chance_of_a_valid_group_is_the_literal_one(problem: Problem, size: int) -> None:
    # Under the policy that generates.
    twin = ref.read(problem)
    wanted = [literal.chance_mixed(twin, x, size) for x in range(twin.prompts)]
    assert ref.fractions(expected.valid(problem, size)) == wanted
    assert expected.valid(problem.to(FLOAT64), size) == pytest.approx([float(v) for v in wanted], rel=1e-12)


@pytest.mark.parametrize("size", [2, 3, 4])
@pytest.mark.parametrize("problem", [zoo.two_valued(), zoo.three_valued(), zoo.hard_easy()], ids=lambda p: p.name)
def test_refills_divide_by_the_chance_of_a_valid_group(problem: Problem, size: int) -> None:
    # Same prompt: each prompt's E ĝ over its own chance.  Stream: all of them over the weighted chance.
    given = problem.to(FLOAT64)
    plain, same, stream = (
        moments(given, ESTIMATORS[n], size).mean for n in ("dapo", "dapo_same_prompt", "dapo_stream")
    )
    chance = expected.valid(problem, size).astype(float)
    np.testing.assert_allclose(same, plain / chance[problem.tree.prompt][:, None], rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(stream, plain / (problem.weights.astype(float) @ chance), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("size", [2, 3, 4, 8])
def test_only_refilling_from_the_stream_keeps_the_direction(size: int) -> None:
    # Four prompts, p = .73, .5, .17, .11: from the same prompt the weights are 1/(1 − p^G − (1−p)^G).
    policies = [[1 - Fraction(p, 100), Fraction(p, 100)] for p in (73, 50, 17, 11)]
    problem = bandit([0, 1], *policies)
    plain, same, stream = (measured(problem, ESTIMATORS[n], size) for n in ("dapo", "dapo_same_prompt", "dapo_stream"))

    def sine2(a: Array, b: Array) -> float:
        return 1 - float((a @ b) ** 2 / ((a @ a) * (b @ b)))

    assert abs(sine2(stream, plain)) < 1e-12
    assert sine2(same, plain) > 0.02
    rates = same[::2] / plain[::2]
    wanted = [1 / (1 - float(p) ** size - float(1 - p) ** size) for _, p in policies]
    assert rates == pytest.approx(wanted, rel=1e-11)


def test_a_prompt_that_is_never_valid_is_refused() -> None:
    # Same words from the moments, the closed form and the share.
    message = r"^no group of this size is ever kept: give another problem or a larger group$"
    sure = bandit([2, 2], ["1/2", "1/2"]).to(FLOAT64)
    for row in (ROWS["dapo_same_prompt"], ROWS["dapo_stream"]):
        with pytest.raises(EstimatorError, match=message):
            moments(sure, row, 2)
        with pytest.raises(EstimatorError, match=message):
            row.expectation(sure, 2, truth.gradient(sure))
    with pytest.raises(EstimatorError, match=message):
        expected.share_of_valid(sure, 2)
    half = bandit([0, 1], ["1", "0"], ["1/2", "1/2"])  # the stream never returns the first prompt
    assert [ref.exact(v) for v in expected.share_of_valid(half, 2)] == [0, 2]


# Numbers


@pytest.mark.parametrize("name", ["reinforce_rej", "maxrl"])
@pytest.mark.parametrize("problem", [zoo.shared(), zoo.three_valued()], ids=lambda p: p.name)
def test_closed_forms_hold_in_finite_fields(name: str, problem: Problem) -> None:
    exact = ROWS[name].expectation(problem, 3, truth.gradient(problem))
    image = problem.to(gf())
    assert (ROWS[name].expectation(image, 3, truth.gradient(image)) == gf().array(exact)).all()


@pytest.mark.parametrize("name", ["maxrl", "corpo"])
def test_sums_of_rewards_do_not_grow_with_the_group(name: str) -> None:
    # Convolution of two values: G + 1 sums, not 2^G groups.  h' of SLOPES at G = 64.
    problem = bandit([0, 1], ["2/3", "1/3"])
    declared = problem.combine(ROWS[name].expectation(problem, 64, truth.gradient(problem)))
    wanted = rescaled(ref.read(problem), lambda p: SLOPES[name](p, 64), is_right)
    assert not ref.off(declared, wanted, 1.0)


# Losses as published: their autograd is the credits


def ppo_loss(logp: Any, old: Any, mask: Any, advantage: Any, low: float = 0.2, high: float = 0.2) -> Any:
    """−min(r A, clip(r) A) per token."""
    ratio = torch.exp(logp - old)
    return -torch.min(ratio * advantage, torch.clip(ratio, 1 - low, 1 + high) * advantage) * mask


def published(name: str, reward: Any, logp: Any, old: Any, mask: Any) -> Any:
    """The loss of one group as its authors write it: advantages without gradient, then the objective."""
    size, mean, std = len(reward), reward.mean(), reward.std()
    positive, top = torch.clamp(reward, min=0), reward.max()
    z = (reward - mean) / (std + 1e-6)
    tokens = mask.sum(1)
    per_token: dict[str, Any] = {
        "raft_plus_plus": positive,
        "reinforce_rej": reward if std > 0 else reward * 0,
        "maxrl": (reward - mean) / mean if mean != 0 else reward * 0,
        "corpo": reward - torch.clamp(mean, min=0.5),
    }
    if name in per_token:
        return ppo_loss(logp, old, mask, per_token[name][:, None]).sum() / size
    if name == "raft":
        return -(positive * (logp * mask).sum(1)).mean()
    if name == "raft_mean_accepted":  # supervised: the mean log-likelihood of the accepted
        taken = reward > 0
        return -(logp * mask).sum(1)[taken].sum() / max(int(taken.sum()), 1)
    if name == "best_of_n":  # the same for the best, all of them if tied
        return -(logp * mask).sum(1)[reward == top].mean()
    if name in ("grpo_passk", "grpo_passk_std"):
        best = torch.topk(reward, 2)
        advantage = torch.zeros_like(reward)
        advantage[best.indices[0]] = best.values[0] - best.values[1]
        scale = std + 1e-6 if name == "grpo_passk_std" else 1.0
        return ppo_loss(logp, old, mask, (advantage / scale)[:, None]).sum() / size
    if name == "grpo_no_length":  # DeepSeek-R1 as printed: one ratio per response, clipped
        ratio = torch.exp(((logp - old) * mask).sum(1))
        return -torch.min(ratio * z, torch.clip(ratio, 0.8, 1.2) * z).mean()
    if name == "grpo_ddof0":
        z = (reward - mean) / (reward.std(correction=0) + 1e-6)
        return (ppo_loss(logp, old, mask, z[:, None]).sum(1) / tokens).mean()
    assert name == "dapo_same_prompt"  # clip-higher, token mean
    return ppo_loss(logp, old, mask, z[:, None], high=0.28).sum() / tokens.sum()


LOSSES = [name for name in ROWS if name not in ("passk_loo", "rl2ml", "dapo_stream")]


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("seed", range(3))
def test_autograd_of_the_published_loss_is_the_credits(name: str, seed: int) -> None:
    # ĝ = −∂loss: credits are −∂loss/∂log π, on the first step (RAFT++ also with another policy's responses).
    stale = name == "raft_plus_plus"
    problem = zoo.random(seed, vocab=3, horizon=3, values=3, off_policy=stale, field=FLOAT64)
    row, size = ROWS[name], 4
    rng = np.random.Generator(np.random.Philox(seed))
    _, singles, index, _ = next(iter(every(problem, 2)))
    index = rng.integers(0, int((singles.prompt == 0).sum()), size=(25, size))
    seen = singles.group(index, row.needs | {"logp", "old_logp", "reward", "mask"})
    for g, credits in enumerate(row(seen)):
        old = torch.tensor(seen.old_logp[g])
        logp = torch.tensor(seen.logp[g] if stale else seen.old_logp[g], requires_grad=True)
        loss = published(name, torch.tensor(seen.reward[g]), logp, old, torch.tensor(seen.mask[g]).double())
        (slopes,) = torch.autograd.grad(loss, logp, allow_unused=True)
        np.testing.assert_allclose(-slopes.numpy(), credits, rtol=1e-12, atol=1e-14)


# Mutants


def literal_gap(row: Estimator, name: str, size: int = 3) -> float:
    """The largest difference from the literal credits over every group of five arms, rewards −1, 0, 1, 1, 3."""
    problem, gap = ARMS.to(FLOAT64) if row.numbers == "float64" else ARMS, 0.0
    twin = ref.read(ARMS)
    for prompt, singles, index, _ in every(problem, size):
        for credits, group in zip(row(singles.group(index, row.needs)), index.tolist(), strict=True):
            words = [(prompt, int(singles.token[i, 0])) for i in group]
            wanted = [float(ref.CREDITS[name](twin, words, i)[0]) for i in range(size)]
            gap = max(gap, float(np.abs(credits[:, 0].astype(float) - wanted).max()))
    return gap


def on_reward(function: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """A mutant of an advantage that reads the rewards of the group."""

    @peers("reward")
    def part(reward: Array) -> Array:
        return function(reward)

    return part


def distinct_margin(reward: Array) -> Array:
    """Second largest DISTINCT value: pays a tie at the top."""
    top = reward.max(-1, keepdims=True)
    second = np.where(reward == top, reward.min(-1, keepdims=True), reward).max(-1, keepdims=True)
    return np.where(reward == top, top - second, top - top)


def first_best(reward: Array) -> Array:
    places = np.arange(reward.shape[-1])
    return np.where(places == np.argmax(reward, axis=-1)[..., None], reward.shape[-1], 0) + reward - reward


def from_the_minimum(reward: Array) -> Array:
    low, top = reward.min(-1, keepdims=True), reward.max(-1, keepdims=True)
    return np.where(reward == top, top - low, low - low)


MUTANTS: list[tuple[str, dict[str, Any]]] = [
    ("grpo_passk", {"advantage": on_reward(distinct_margin)}),
    ("grpo_passk", {"advantage": on_reward(from_the_minimum)}),
    ("grpo_passk", {"advantage": counts.passk_loo}),
    ("grpo_passk_std", {"advantage": counts.best_margin}),
    ("grpo_passk_std", {"advantage": partial(counts.best_margin_over_std, eps=0.01)}),
    ("passk_loo", {"advantage": partial(counts.passk_loo, k=3)}),
    ("passk_loo", {"advantage": counts.best_margin}),
    ("best_of_n", {"advantage": on_reward(first_best)}),
    ("best_of_n", {"advantage": counts.mean_accepted}),
    ("raft", {"advantage": advantages.response_reward}),
    ("raft", {"advantage": lambda reward: np.abs(reward)}),
    ("raft_mean_accepted", {"advantage": on_reward(lambda reward: counts.mean_accepted(reward + 1))}),  # R ≥ 0
    ("raft_mean_accepted", {"advantage": counts.best_of_n}),
    ("reinforce_rej", {"advantage": advantages.response_reward}),
    ("reinforce_rej", {"advantage": advantages.group_mean}),
    ("maxrl", {"advantage": on_reward(lambda reward: counts.over_mean(reward) + 1)}),  # not centred
    ("maxrl", {"advantage": advantages.group_mean}),
    ("corpo", {"advantage": partial(counts.floored_mean, threshold=0)}),
    ("corpo", {"advantage": advantages.group_mean}),
    ("rl2ml", {"advantage": partial(ROWS["rl2ml"].advantage, above=1)}),
    ("rl2ml", {"advantage": partial(ROWS["rl2ml"].advantage, failure=lambda k, size: Fraction(0))}),
    ("rl2ml", {"advantage": partial(ROWS["rl2ml"].advantage, success=partial(counts.log_success, order=3))}),
    ("grpo_no_length", {"advantage": partial(advantages.z_score, ddof=0)}),
    ("grpo_ddof0", {"advantage": advantages.z_score}),
]


@pytest.mark.parametrize("name", [name for name in ROWS if not name.startswith("dapo")])
def test_rows_have_their_literal_credits_on_five_arms(name: str) -> None:
    assert literal_gap(ROWS[name], name) < 1e-14


@pytest.mark.parametrize(("name", "change"), MUTANTS)
def test_a_changed_rule_shows(name: str, change: dict[str, Any]) -> None:
    assert literal_gap(replace(ROWS[name], **change), name) > 1e-3


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("dapo_same_prompt", {"keep": None}),
        ("dapo_stream", {"keep": None}),
        ("dapo_stream", {"constant": expected.valid}),
        ("dapo_stream", {"constant": lambda problem, size: expected.share_of_valid(problem, size + 2)}),
        ("dapo_same_prompt", {"keep": lambda reward: advantages.tied(reward)}),
        ("raft_plus_plus", {"ratio": ratios.on_policy}),
        ("raft_plus_plus", {"ratio": partial(ratios.ppo_clip, clip_high=1)}),
    ],
)
def test_a_changed_filter_constant_or_clip_shows_in_the_moments(name: str, change: dict[str, Any]) -> None:
    row = ROWS[name]
    problem = zoo.random(2, vocab=3, horizon=2, values=2, off_policy=name == "raft_plus_plus")
    given = problem.to(FLOAT64) if row.numbers == "float64" else problem
    assert ref.disagreements(problem, moments(given, row, 2), name, 2) == set()
    mutant = replace(row, **change)
    if "keep" in change and change["keep"] is not None:
        mutant = replace(row, keep=peers("reward")(change["keep"]))
    assert ref.disagreements(problem, moments(given, mutant, 2), name, 2)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("grpo_passk", expected.max_of(3)),
        ("passk_loo", expected.max_of(3)),
        ("passk_loo", expected.BEST_OF_GROUP),
        ("best_of_n", expected.MEAN_ACCEPTED),
        ("raft_mean_accepted", expected.TRUNCATED_LOG),
        ("reinforce_rej", ESTIMATORS["reinforce"].expectation),
        ("maxrl", expected.MEAN_ACCEPTED),
        ("corpo", expected.floored(1)),
        ("rl2ml", expected.MEAN_ACCEPTED),
        ("grpo_passk_std", expected.BEST_OF_GROUP),
        ("grpo_no_length", expected.GRPO_DDOF0),
        ("grpo_ddof0", expected.Z_SCORE),
        ("dapo_same_prompt", expected.DAPO_STREAM),
        ("dapo_stream", expected.DAPO_SAME_PROMPT),
        ("dapo_stream", ESTIMATORS["dapo"].expectation),
    ],
)
def test_a_wrong_closed_form_is_refuted(name: str, wrong: Any) -> None:
    problem = zoo.three_valued()
    assert audit(problem, ROWS[name], 3).verdict == "holds"
    assert audit(problem, replace(ROWS[name], expectation=wrong), 3).verdict == "refuted"
