"""Exact moments: the engines against the literal reference, against each other, and against closed forms."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import references as ref
from tests.strategies import DYADIC, PLAIN, SMALL, TINY, fit, problems
from tests.test_problem import residue
from tpg import truth
from tpg.errors import EstimatorError, TooLarge
from tpg.estimators import advantages, aggregation, core, ratios
from tpg.estimators.estimator import Estimator
from tpg.estimators.parts import parameters, peers
from tpg.estimators.table import ESTIMATORS
from tpg.moments import Moments, brute_force, collapse, coupling, moments, report, report_by_prompt, report_of
from tpg.numbers import FLOAT64, RATIONAL, Array, Field, gf
from tpg.problem import blocks, zoo
from tpg.problem.problem import Problem, make
from tpg.problem.tree import grow

ROWS = pytest.mark.parametrize("name", PLAIN)
FIRST = [row.name for row in core.ROWS]
CORE = pytest.mark.parametrize("name", FIRST)
FLOATS = [name for name, row in ESTIMATORS.items() if row.numbers == "float64"]


def numbers(problem: Problem, row: Estimator) -> Problem:
    return problem.to(FLOAT64) if row.numbers == "float64" else problem


def agree(given: Moments, expected: Moments) -> None:
    """Mean, variance and, where both have it, covariance: equal, or to 1e-12 of the terms where either is float64.

    The terms are of the size of E‖ĝ_x‖², or of RM² where a baseline cancels them.
    """
    norms = expected.problem.inner(expected.mean, expected.mean)
    size = max(float(n) + float(v) for n, v in zip(norms, expected.variance, strict=True))
    size += float(np.abs(expected.problem.totals.astype(float)).max()) ** 2
    for name, scale in (("mean", math.sqrt(size)), ("variance", size), ("covariance", size)):
        one, two = getattr(given, name), getattr(expected, name)
        if one is not None and two is not None:
            assert one.shape == two.shape
            wanted = [float(v) if isinstance(v, float) else ref.exact(v) for v in two.ravel()]
            assert not ref.off(one.ravel(), wanted, scale), name


# The engines


@CORE
@pytest.mark.parametrize("size", [1, 2])
@settings(max_examples=12)
@given(data=st.data())
def test_brute_force_is_the_literal_mean_and_covariance(name: str, size: int, data: st.DataObject) -> None:
    # Every batch of every prompt's group, ĝ = Σ_x w_x ĝ_x.  Wrong: prompts share a group, weights unsquared.
    row = ESTIMATORS[name]
    size = max(size, row.min_group)
    problem = data.draw(problems(TINY, off_policy=None, **fit(row)))
    result = brute_force(numbers(problem, row), row, size, covariance=True)
    assert result.covariance is not None
    mean, covariance = ref.covariance(ref.read(problem), ref.CREDITS[name], size)
    scale = sum(float(m) ** 2 for m in mean) + sum(float(covariance[i][i]) for i in range(len(mean)))
    assert not ref.off(result.problem.combine(result.mean), mean, math.sqrt(scale))
    assert not ref.off(result.covariance.ravel(), [c for line in covariance for c in line], scale)
    assert not ref.off([result.total_variance], [sum(covariance[i][i] for i in range(len(mean)))], scale)


@ROWS
@settings(max_examples=5)
@given(data=st.data())
def test_brute_force_is_the_literal_mean_and_variance_of_each_prompt(name: str, data: st.DataObject) -> None:
    row, size = ESTIMATORS[name], data.draw(st.integers(2, 3))
    shapes = SMALL if size == 2 else TINY
    problem = data.draw(problems(shapes, prompts=3, off_policy=None, **fit(row)))
    assert ref.disagreements(problem, brute_force(numbers(problem, row), row, size), name, size) == set()


@pytest.mark.parametrize(("name", "size"), [(n, g) for n in PLAIN for g in ((1, 2, 3, 4) if n in FIRST else (2, 3))])
@settings(max_examples=6)
@given(data=st.data())
def test_class_collapse_is_brute_force(name: str, size: int, data: st.DataObject) -> None:
    if not ESTIMATORS[name].collapsible:
        pytest.skip("its peers act on single tokens: brute force is the only engine")
    # Both routes: one sweep over the tree where all tokens share a credit, listed paths otherwise and for covariances.
    row = ESTIMATORS[name]
    size = max(size, row.min_group)
    shapes = SMALL if size <= 2 else TINY
    problem = data.draw(problems(shapes, prompts=3, off_policy=None, **fit(row)))
    given = numbers(problem, row)
    expected = brute_force(given, row, size, covariance=size <= 2)
    agree(collapse(given, row, size), expected)
    agree(collapse(given, row, size, covariance=True), expected)
    agree(moments(given, row, size), expected)


@CORE
@settings(max_examples=10)
@given(data=st.data())
def test_float64_rounds_the_rational_moments(name: str, data: st.DataObject) -> None:
    if not ESTIMATORS[name].collapsible:
        pytest.skip("its peers act on single tokens: brute force is the only engine")
    # PPO on-policy only: a ratio of exactly 6/5 is not clipped, and one that rounds above it is.
    row, size = ESTIMATORS[name], data.draw(st.integers(2, 4))
    other = False if "sign" in parameters(row.ratio) else None
    problem = data.draw(problems(SMALL, prompts=3, off_policy=other, **fit(row)))
    if name in FLOATS:
        assert ref.disagreements(problem, collapse(problem.to(FLOAT64), row, 2), name, 2) == set()
        return
    exact = collapse(problem, row, size)
    for engine in (collapse, partial(collapse, covariance=True), brute_force if size == 2 else collapse):
        agree(engine(problem.to(FLOAT64), row, size), exact)


@pytest.mark.parametrize("name", [n for n in PLAIN if ESTIMATORS[n].algebraic and n != "remax"])
@settings(max_examples=4)
@given(problem=problems(SMALL, prompts=3, off_policy=None, reference=True))
def test_finite_fields_hold_the_image_of_the_rational_moments(name: str, problem: Problem) -> None:
    row = ESTIMATORS[name]
    engines = (brute_force, collapse, partial(collapse, covariance=True))
    for engine in engines if row.collapsible else engines[:1]:
        exact, image = engine(problem, row, 2), engine(problem.to(gf()), row, 2)
        for table in ("mean", "variance"):
            wanted = [residue(ref.exact(v)) for v in getattr(exact, table).ravel()]
            assert [int(v) for v in getattr(image, table).ravel()] == wanted


def test_blocks_of_the_sweep_do_not_change_the_moments(monkeypatch: pytest.MonkeyPatch) -> None:
    # Wrong: children of a block looked up among those of another.
    for problem in (zoo.three_valued(), zoo.shared(), zoo.forbidden()):
        whole = collapse(problem, ESTIMATORS["rloo"], 3)
        monkeypatch.setattr(blocks, "BLOCK", problem.vocab * 2)
        agree(collapse(replace(problem), ESTIMATORS["rloo"], 3), whole)  # a copy has worked out nothing yet
        monkeypatch.undo()


def test_blocks_of_compositions_do_not_change_the_moments(monkeypatch: pytest.MonkeyPatch) -> None:
    # Wrong: means and scatters of blocks merged without the step between them.
    for problem in (zoo.three_valued(), zoo.three_valued().to(gf()), zoo.three_valued().to(FLOAT64)):
        whole = collapse(problem, ESTIMATORS["rloo"], 5, covariance=True)
        monkeypatch.setattr(coupling, "HELD", 20)
        parts = collapse(problem, ESTIMATORS["rloo"], 5, covariance=True)
        monkeypatch.undo()
        if problem.field is FLOAT64:
            agree(parts, whole)
        else:
            for table in ("mean", "variance", "covariance"):
                assert (getattr(parts, table) == getattr(whole, table)).all()


def towards_reference(prob: Array, ref_prob: Array) -> Array:
    """A penalty that looks along the response, like −∂k3/∂log π = π_ref/π − 1."""
    return ref_prob / prob - 2


COMPOSED = [
    Estimator("group clip", advantages.group_mean, ratio=ratios.ppo_clip, numbers="ordered"),
    Estimator("loo clip, token mean", advantages.rloo, aggregation.token_mean, ratios.ppo_clip, numbers="ordered"),
    Estimator("own clip, token mean", advantages.response_reward, aggregation.token_mean, ratios.ppo_clip),
    Estimator("mean over length", advantages.group_mean, aggregation.seq_mean_token_mean),
    Estimator("penalty", advantages.group_mean, aggregation.seq_mean_token_mean, penalty=towards_reference),
    Estimator("all", advantages.rloo, aggregation.token_mean, ratios.ppo_clip, penalty=towards_reference),
    Estimator(
        "z", partial(advantages.z_score, eps=0.5), ratio=ratios.ppo_clip, penalty=towards_reference, numbers="float64"
    ),
]


@pytest.mark.parametrize("row", COMPOSED, ids=lambda row: row.name)
@pytest.mark.parametrize("size", [2, 3])
@settings(max_examples=12)
@given(data=st.data())
def test_class_collapse_is_brute_force_for_sums_of_products(row: Estimator, size: int, data: st.DataObject) -> None:
    # Clips read the sign of a credit that depends on peers, penalties add to it: rows that the table need not hold yet.
    problem = data.draw(problems(SMALL if size == 2 else TINY, off_policy=None, **fit(row)))
    given = numbers(problem, row)
    expected = brute_force(given, row, size, covariance=True)
    for covariance in (False, True):
        agree(collapse(given, row, size, covariance), expected)


@peers("reward")
def informative(reward: Array) -> Array:
    """A factor like dynamic sampling: 0 for groups whose rewards are all equal."""
    return np.where(advantages.tied(reward), 0 * reward, 0 * reward + 1)


@peers("reward")
def to_the_next(reward: Array) -> Array:
    """R_i − R_{i+1}: unbiased, but not the same function of every place in the group."""
    return reward - np.roll(reward, -1, axis=-1)


@pytest.mark.parametrize("part", ["ratio", "penalty"])
def test_coupled_ratios_and_penalties_go_to_brute_force(part: str) -> None:
    # Wrong: a class engine that runs them on one response alone.
    row = Estimator(part, advantages.response_reward, **{part: informative})  # type: ignore[arg-type]
    agree(moments(zoo.three_valued(), row, 3), brute_force(zoo.three_valued(), row, 3))
    with pytest.raises(
        EstimatorError, match=rf"^{part}: peers act on single tokens, classes cannot tell: use brute force$"
    ):
        collapse(zoo.three_valued(), row, 3)


@pytest.mark.parametrize("number_type", [RATIONAL, FLOAT64], ids=lambda f: f.name)
def test_credits_that_depend_on_the_order_of_the_group_are_not_counted_by_class(number_type: Field) -> None:
    # Wrong: an estimator accused of a bias that only the counting gave it.
    row, problem = Estimator("next", to_the_next), zoo.three_valued().to(number_type)
    with pytest.raises(EstimatorError, match=r"^next depends on the order of the group: use brute_force$"):
        collapse(problem, row, 3)
    assert not ref.off(brute_force(problem, row, 3).mean.ravel(), ref.fractions(truth.gradient(problem).ravel()), 1.0)


# Closed forms (algorithms.md §2 C, §3)


def mean_over(twin: ref.Twin, prompt: int, worth: Callable[[ref.Prefix], Fraction]) -> Fraction:
    return sum((p * worth(w) for w, p in ref.responses(twin, prompt).items()), Fraction(0))


def norm2_of_score(twin: ref.Twin, response: ref.Prefix) -> Fraction:
    """‖Z(W)‖², Z = Σ_t S_t."""
    z: ref.Vector = {}
    for prefix, token in ref.steps(response):
        for parameter, entry in ref.score(twin, prefix, token).items():
            z[parameter] = z.get(parameter, 0) + entry
    return sum((entry**2 for entry in z.values()), Fraction(0))


class Ingredients:
    """J, σ², E‖Z‖², V_o = E‖Z‖²(R−J)² − ‖g‖² and ‖g‖² of one prompt, each a literal sum over responses."""

    def __init__(self, twin: ref.Twin, prompt: int) -> None:
        reward, norm2 = partial(ref.total, twin), partial(norm2_of_score, twin)
        mean = partial(mean_over, twin, prompt)
        self.g2 = sum((v**2 for v in ref.gradient_of(twin, prompt).values()), Fraction(0))
        self.j = mean(reward)
        self.reward_variance = mean(lambda w: (reward(w) - self.j) ** 2)
        self.z2 = mean(norm2)
        self.slant = mean(lambda w: norm2(w) * (reward(w) - self.j))
        self.oracle = mean(lambda w: norm2(w) * (reward(w) - self.j) ** 2) - self.g2

    def rloo(self, size: int) -> Fraction:
        """R7: V_o/G + (σ² E‖Z‖² + ‖g‖²)/(G(G−1))."""
        return self.oracle / size + (self.reward_variance * self.z2 + self.g2) / (size * (size - 1))

    def group_mean_mse(self, size: int) -> Fraction:
        """R8: ((G−1)/G)² Var_RLOO + ‖g‖²/G²."""
        return Fraction(size - 1, size) ** 2 * self.rloo(size) + self.g2 / size**2

    def with_baseline(self, b: Fraction, size: int) -> Fraction:
        """R9: (V_o + (J−b)² E‖Z‖² + 2(J−b) E[‖Z‖²(R−J)])/G."""
        return (self.oracle + (self.j - b) ** 2 * self.z2 + 2 * (self.j - b) * self.slant) / size


def error_of(problem: Problem, result: Moments) -> list[Fraction]:
    """E‖ĝ_x − g_x‖² of each prompt."""
    gap = result.mean - truth.gradient(problem)
    return [ref.exact(b + v) for b, v in zip(problem.inner(gap, gap), result.variance, strict=True)]


@given(problems(SMALL), st.sampled_from([2, 3, 4, 5]))
def test_leave_one_out_and_mean_baseline_have_their_closed_form_error(problem: Problem, size: int) -> None:
    twin = ref.read(problem)
    parts = [Ingredients(twin, x) for x in range(problem.prompts)]
    rloo, mean = (collapse(problem, ESTIMATORS[name], size) for name in ("rloo", "group_mean"))
    assert error_of(problem, rloo) == [p.rloo(size) for p in parts]
    assert error_of(problem, mean) == [p.group_mean_mse(size) for p in parts]


@pytest.mark.parametrize("problem", [zoo.two_valued(), zoo.hard_easy()], ids=lambda p: p.name)  # two classes each
def test_groups_of_512_have_their_closed_form_error(problem: Problem) -> None:
    # 513 compositions instead of up to 9^512 groups; exact in rationals, 1e-12 in float64.
    twin, size = ref.read(problem), 512
    parts = [Ingredients(twin, x) for x in range(problem.prompts)]
    for name, expected in (
        ("rloo", [p.rloo(size) for p in parts]),
        ("group_mean", [p.group_mean_mse(size) for p in parts]),
    ):
        assert error_of(problem, collapse(problem, ESTIMATORS[name], size)) == expected
        exact, rounded = (collapse(p, ESTIMATORS[name], size) for p in (problem, problem.to(FLOAT64)))
        agree(rounded, exact)


@given(problems(SMALL), st.sampled_from([1, 2, 5]))
def test_variance_is_a_parabola_in_the_baseline(problem: Problem, size: int) -> None:
    # ReMax: b = R(greedy); REINFORCE: 0; with the prompt's expected reward: J, where V_o is left.
    twin = ref.read(problem)
    parts = [Ingredients(twin, x) for x in range(problem.prompts)]
    greedy = []
    for x in range(problem.prompts):
        word: ref.Prefix = (x,)
        while word in twin.policy:
            word = (*word, twin.policy[word].index(max(twin.policy[word])))
        greedy.append(ref.total(twin, word))
    for name, baseline in (
        ("remax", greedy),
        ("reinforce", [Fraction(0)] * problem.prompts),
        ("reinforce_baseline", [p.j for p in parts]),
    ):
        result = collapse(problem, ESTIMATORS[name], size)
        assert ref.fractions(result.variance) == [
            p.with_baseline(b, size) for p, b in zip(parts, baseline, strict=True)
        ]
        assert (result.mean == truth.gradient(problem)).all()


def h_slope(p: Fraction, size: int) -> float:
    """h'_G(p) = Σ_k C(G,k) p^{k−1} (1−p)^{G−k−1} √(k(G−k))/G (§3 ii), std with ddof = 0."""
    terms = [math.comb(size, k) * p ** (k - 1) * (1 - p) ** (size - k - 1) for k in range(1, size)]
    return math.fsum(float(term) * math.sqrt(k * (size - k)) / size for k, term in enumerate(terms, 1))


def z_row(ddof: int) -> Estimator:
    return Estimator("z", partial(advantages.z_score, ddof=ddof, eps=0.0), numbers="float64")


@pytest.mark.parametrize("size", [2, 3, 4, 5, 16, 512])
@settings(max_examples=8)
@given(problem=problems(SMALL, values=(0, 1), discounts=DYADIC))
def test_binary_z_scores_rescale_each_prompt_by_h(size: int, problem: Problem) -> None:
    # E ĝ_x = h'_G(p) ∇p; ddof = 1 multiplies by √((G−1)/G).  Wrong: a swapped ddof, a tie that counts, a lost binomial.
    twin, given = ref.read(problem), problem.to(FLOAT64)
    p = [twin.value[(x,)] for x in range(problem.prompts)]
    for ddof, factor in ((0, 1.0), (1, math.sqrt((size - 1) / size))):
        result = collapse(given, z_row(ddof), size)
        for x in range(problem.prompts):
            slope = list(ref.gradient_of(twin, x).values())
            mine = result.mean if problem.tabular else result.mean[x]
            wanted = [factor * h_slope(p[x], size) * float(s) for s in slope]
            if problem.tabular:
                wanted = [w for w, (prefix, _) in zip(wanted, twin.parameters, strict=True) if prefix[0] == x]
                mine = result.mean[given.tree.prompt == x]
            assert not ref.off(mine.ravel(), wanted, math.sqrt(size))  # a credit is at most √G


def test_z_scores_of_small_groups_are_constant_rates() -> None:
    # §3(ii): h' = 1 for G = 2 and √2 for G = 3 whatever p; √3 − (2√3−3)p(1−p) for G = 4; √(G−1) at p → 0, 1.
    for p in (Fraction(n, 10) for n in range(11)):
        assert h_slope(p, 2) == 1
        assert math.isclose(h_slope(p, 3), math.sqrt(2), rel_tol=1e-15)
        curve = math.sqrt(3) - (2 * math.sqrt(3) - 3) * float(p * (1 - p))
        assert math.isclose(h_slope(p, 4), curve, rel_tol=1e-15)
    given = zoo.hard_easy().to(FLOAT64)  # p = 1/10 and 9/10
    for size, rate in ((2, 1.0), (3, math.sqrt(2))):
        found = report_of(collapse(given, z_row(0), size), truth.gradient(given))
        assert found.scale is not None
        assert math.isclose(found.scale, rate, rel_tol=1e-12)
        assert found.direction_bias is not None
        assert found.direction_bias < 1e-12
    two = make(grow(2, 1, 2), [["9/10", "1/10"], ["1/2", "1/2"]], [[0, 1], [0, 1]]).to(FLOAT64)
    turned = report_of(collapse(two, z_row(0), 4), truth.gradient(two)).direction_bias
    assert turned is not None
    assert turned > 1e-3  # h'_4(1/10) ≠ h'_4(1/2): prompts are re-weighted


@pytest.mark.parametrize("size", [2, 3, 4])
@given(problem=problems(SMALL))
def test_one_over_length_turns_the_gradient_by_a_covariance(size: int, problem: Problem) -> None:
    # §3(iii): E ĝ = (G−1)/G {E[1/L] ∇J + ∇Cov(R, 1/L)}; ∇Cov = ∇E[R/L] − E[1/L] ∇J − J ∇E[1/L].
    row = Estimator("mean/L", advantages.group_mean, aggregation.seq_mean_token_mean)
    twin, result = ref.read(problem), collapse(problem, row, size)
    expected = []
    for x in range(problem.prompts):
        inverse = mean_over(twin, x, lambda w: Fraction(1, ref.length(w)))
        dj = ref.gradient_of(twin, x)
        ratio = ref.derivative(twin, x, lambda w: ref.total(twin, w) / ref.length(w))
        short = ref.derivative(twin, x, lambda w: Fraction(1, ref.length(w)))
        covariance = {k: ratio[k] - inverse * dj[k] - twin.value[(x,)] * short[k] for k in dj}
        expected.append({k: Fraction(size - 1, size) * (inverse * dj[k] + covariance[k]) for k in dj})
    assert ref.fractions(problem.combine(result.mean)) == ref.mixed(twin, expected)


# Reports


def bandit() -> Problem:
    """π = (1/3, 2/3), r = (0, 1): g = (−2/9, 2/9), ‖g‖² = 8/81."""
    return make(grow(2, 1), [["1/3", "2/3"]], [[0, 1]])


def test_a_report_by_hand() -> None:
    # REINFORCE, G = 1: ĝ = (−1/3, 1/3) with probability 2/3, else 0: E‖ĝ‖² = 4/27, variance 12/81 − 8/81 = 4/81.
    problem = bandit()
    g = truth.gradient(problem)
    one = report_of(brute_force(problem, ESTIMATORS["reinforce"], 1), g)
    assert (one.relative_bias, one.scale, one.direction_bias, one.cosine) == (0, 1, 0, 1)
    assert (one.total_variance, one.mse_over_g2) == (4 / 81, 0.5)
    assert one.gradient_norm == math.sqrt(8 / 81)
    # Group mean, G = 2: ĝ = ½·½(−1, 1) with probability 4/9, else 0: E ĝ = g/2, E‖ĝ‖² = 1/18, variance 18/324 − 8/324;
    # MSE/‖g‖² = (10/324 + 8/324)/(32/324) = 9/16.
    two = report_of(brute_force(problem, ESTIMATORS["group_mean"], 2), g)
    assert (two.relative_bias, two.scale, two.direction_bias, two.cosine) == (0.5, 0.5, 0, 1)
    assert (two.total_variance, two.mse_over_g2) == (10 / 324, 9 / 16)
    assert two.bias_norm == math.sqrt(2 / 81)


def test_a_report_of_vectors_by_hand() -> None:
    # E ĝ = (3, 4), g = (1, 0): scale 3, off the line by (0, 4), bias (2, 4).
    for dtype in (float, object):
        found = report(np.array([3, 4], dtype=dtype), 5, np.array([1, 0], dtype=dtype))
        assert (found.scale, found.direction_bias) == (3, 4 / 3)
        assert found.cosine is not None
        assert math.isclose(found.cosine, 3 / 5, rel_tol=1e-15)
        assert (found.bias_norm, found.relative_bias) == (math.sqrt(20), math.sqrt(20))
        assert (found.total_variance, found.mse_over_g2, found.gradient_norm) == (5, 25, 1)


def test_without_a_direction_ratios_are_none() -> None:
    # r₂ = −r₁: g = 0, and E ĝ = 0.  Wrong: NaN, or a division error.
    problem = zoo.cancelling()
    found = report_of(brute_force(problem, ESTIMATORS["reward_to_go"], 1), truth.gradient(problem))
    assert (found.gradient_norm, found.bias_norm) == (0, 0)
    assert (found.relative_bias, found.scale, found.direction_bias, found.cosine, found.mse_over_g2) == (None,) * 5
    assert found.total_variance > 0
    silent = report(np.zeros(2), 0, np.array([1.0, 0.0]))  # E ĝ = 0, g not
    assert (silent.relative_bias, silent.scale, silent.direction_bias, silent.cosine) == (1, 0, None, None)


@given(problems(SMALL, prompts=3))
def test_a_report_by_prompt_is_the_report_of_each_prompt_alone(problem: Problem) -> None:
    # Weights enter the whole, not the parts: (Σ w_x)² …; variances add as w_x².
    result, g = collapse(problem, ESTIMATORS["dr_grpo"], 2), truth.gradient(problem)
    parts = report_by_prompt(result, g)
    assert len(parts) == problem.prompts
    weights = [ref.exact(w) for w in problem.weights]
    whole = sum(w**2 * ref.exact(v) for w, v in zip(weights, result.variance, strict=True))
    assert ref.exact(result.total_variance) == whole
    for x, part in enumerate(parts):
        assert part.total_variance == float(result.variance[x])
        norm2 = sum(v**2 for v in ref.gradient_of(ref.read(problem), x).values())
        assert part.gradient_norm == math.sqrt(norm2)
        assert part.scale in (None, 1 / (2 * problem.horizon))


# What is refused


def test_peers_that_act_on_single_tokens_are_not_collapsed() -> None:
    @peers("mask")
    def alive(mask: Array) -> Array:
        return np.broadcast_to(np.maximum(mask.sum(-2, keepdims=True), 1), mask.shape)

    row = Estimator("alive", advantages.response_reward, alive)
    with pytest.raises(
        EstimatorError, match=r"^alive: peers act on single tokens, classes cannot tell: use brute force$"
    ):
        collapse(zoo.two_valued(), row, 2)
    assert moments(zoo.two_valued(), row, 2).total_variance == brute_force(zoo.two_valued(), row, 2).total_variance


def test_too_many_compositions_are_refused_before_they_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coupling, "MAX_CELLS", 29)
    with pytest.raises(
        TooLarge, match=r"^groups of 5 from 2 classes of responses would need 30 entries, .* lower the group size$"
    ):
        collapse(zoo.two_valued().to(FLOAT64), ESTIMATORS["grpo"], 5)  # 6 compositions of 5 members


@pytest.mark.parametrize("size", [-1, 0, 10**6 + 1])
def test_impossible_group_sizes_are_refused(size: int) -> None:
    with pytest.raises(EstimatorError, match=f"^group_size={size} given, needed 1 … 1000000 responses per prompt$"):
        moments(zoo.two_valued(), ESTIMATORS["rloo"], size)


def test_too_many_rewards_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "MAX_VALUES", 2)
    assert collapse(zoo.two_valued().to(FLOAT64), ESTIMATORS["grpo"], 2).total_variance > 0
    with pytest.raises(TooLarge, match=r"^three-valued: distinct rewards would need 3 entries, the limit is 2: choose"):
        collapse(zoo.three_valued().to(FLOAT64), ESTIMATORS["grpo"], 2)


def test_scores_beyond_memory_are_refused() -> None:
    # 2¹¹ responses · 11 tokens · 2·(2¹¹ − 1) logits = 9.2e7 < 1e8; one token more is 4.0e8.
    problem = zoo.random(0, vocab=2, horizon=12, prompts=1, variable=False, field=FLOAT64)
    with pytest.raises(TooLarge, match=r"^storing every score would need 4.03e\+08 entries, .*: use class collapse$"):
        brute_force(problem, ESTIMATORS["reinforce"], 1)
