"""Continuations and anchors: every draw listed, the published identities, limits, counterexamples, planted faults."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
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

from tests import references as ref
from tests.literal import continuations as literal
from tests.strategies import SMALL, TINY, problems
from tests.test_moments import agree
from tests.test_problem import residue
from tpg import truth
from tpg.audit import HOLDS, REFUTED, audit, audit_by_sampling
from tpg.errors import EstimatorError, TooLarge
from tpg.estimators import advantages, aggregation, anchors, prefix_tree, ratios, table
from tpg.estimators import continuations as rows
from tpg.estimators.estimator import Estimator
from tpg.estimators.expectations import UNBIASED
from tpg.estimators.parts import peers
from tpg.estimators.table import ESTIMATORS
from tpg.moments import Moments, brute_force, collapse, moments, noise
from tpg.moments.anchored import Anchored, paths_of
from tpg.moments.bound import credit_bound
from tpg.moments.noise import variances
from tpg.moments.paths import Paths
from tpg.numbers import FLOAT64, RATIONAL, Array, gf
from tpg.problem import zoo
from tpg.problem.problem import Problem, make
from tpg.problem.tree import grow
from tpg.rollouts import draw, every

DRAWN = list(literal.GIVEN)
EACH = pytest.mark.parametrize("name", DRAWN)
HALF = Fraction(1, 2)


def small_row(name: str, count: int | None = None) -> Estimator:
    """A row of the table with ``count`` continuations in place of its own number."""
    row = ESTIMATORS[name]
    return row if count is None or row.continuations is None else replace(row, continuations=count)


def literal_moments(
    twin: ref.Twin, prompt: int, name: str, size: int, count: int | None
) -> tuple[ref.Vector, Fraction]:
    """E ĝ_x and the total variance of ĝ_x, summed over every draw."""
    first, second = defaultdict(Fraction), Fraction(0)
    for chance, ghat in literal.estimates(twin, prompt, name, size, count):
        for parameter, entry in ghat.items():
            first[parameter] += chance * entry
        second += chance * sum(entry**2 for entry in ghat.values())
    return first, second - sum(entry**2 for entry in first.values())


def off(problem: Problem, found: Moments, name: str, size: int, count: int | None = None) -> set[str]:
    """Which of mean and variance are not those of the list of all draws."""
    twin, out = ref.read(problem), set()
    for x in range(problem.prompts):
        mean, variance = literal_moments(twin, x, name, size, count)
        own = [p for p in twin.parameters if twin.feature is not None or p[0][0] == x]
        rows = problem.tree.prompt == x if problem.tabular else slice(x, x + 1)
        if ref.off(found.mean[rows].ravel(), [mean[p] for p in own], math.sqrt(sum(m**2 for m in mean.values()) + 1)):
            out.add("mean")
        if ref.off([found.variance[x]], [variance], float(variance + 1)):
            out.add("variance")
    return out


def chain(**more: Any) -> Problem:
    """Token 1 ends a response of at most 3 tokens: 1, 01, 001 and 000; rewards that nothing makes cancel."""
    tree = grow(2, 3, 1, end_token=1)
    return make(
        tree,
        [["2/3", "1/3"], ["1/4", "3/4"], ["3/5", "2/5"]],
        [[0, 1], [2, -3], [7, "1/2"]],
        end_token=1,
        name="chain",
        **more,
    )


def shared_chain() -> Problem:
    return chain(features=[[[1, 0], [2, -1]], [[0, 3], [1, 1]], [[-1, 2], [2, 2]]], discount="1/2")


CHAINS = pytest.mark.parametrize("problem", [chain(), shared_chain()], ids=["tabular", "shared"])


# Moments: every response, every anchor, every continuation


def test_every_row_that_draws_has_its_list() -> None:
    drawn = {n for n, row in ESTIMATORS.items() if row.anchors is not None or row.continuations is not None}
    assert drawn == set(literal.GIVEN)
    assert {n: row.continuations for n, row in ESTIMATORS.items() if n in drawn} == {
        n: count for n, (_, _, count) in literal.GIVEN.items()
    }


@EACH
@settings(max_examples=8)
@given(problem=problems(TINY, off_policy=None))
def test_moments_are_those_of_the_list_of_all_draws(name: str, problem: Problem) -> None:
    # K = 1 and the row's own K, two prompts, off-policy too.  Wrong: σ² under the policy that generated, noise at the
    # end, one draw for Q and V where there are two, 1/K forgotten, anchors that depend on what they must not see.
    for count in (1, None):
        row = small_row(name, count)
        for engine in (brute_force, collapse, partial(collapse, covariance=True)):
            assert off(problem, engine(problem, row, 1), name, 1, count if row.continuations else None) == set()


@EACH
@CHAINS
def test_moments_of_unequal_lengths_are_those_of_the_list(name: str, problem: Problem) -> None:
    # T = 3 and lengths 1, 2, 3, 3.  K = 2, but where two sets of continuations make the list long.
    count = 1 if name.endswith("independent") else 2
    row = small_row(name, count)
    for engine in (brute_force, collapse, partial(collapse, covariance=True)):
        assert off(problem, engine(problem, row, 1), name, 1, count if row.continuations else None) == set()


@EACH
def test_groups_of_two_are_those_of_the_list(name: str) -> None:
    # Each response draws for itself.  Wrong: the noise of a prefix shared by the group, variances that forget 1/G².
    two = make(grow(2, 2, 1, end_token=1), [["2/3", "1/3"], ["1/4", "3/4"]], [[0, 1], [2, -3]], end_token=1)
    row = small_row(name, 1)
    for engine in (brute_force, collapse):
        assert off(two, engine(two, row, 2), name, 2, 1 if row.continuations else None) == set()


@EACH
@settings(max_examples=6)
@given(problem=problems(((2, 2), (3, 1)), off_policy=None))
def test_engines_agree_on_groups(name: str, problem: Problem) -> None:
    # Listed paths (for the covariance) and averaged patterns are two engines.
    row = ESTIMATORS[name]
    expected = brute_force(problem, row, 2, covariance=True)
    assert np.trace(expected.covariance) == expected.total_variance
    agree(collapse(problem, row, 2, covariance=True), expected)
    agree(collapse(problem, row, 2), expected)
    agree(collapse(problem.to(FLOAT64), row, 2), expected)
    for table_name in ("mean", "variance"):
        image = getattr(collapse(problem.to(gf()), row, 2), table_name)
        assert [int(v) for v in image.ravel()] == [residue(ref.exact(v)) for v in getattr(expected, table_name).ravel()]


@pytest.mark.parametrize("covariance", [False, True])
@settings(max_examples=8)
@given(problem=problems(TINY, off_policy=None))
def test_peers_penalties_and_constants_go_with_anchors_and_continuations(covariance: bool, problem: Problem) -> None:
    # Rows that no table holds: credits divided by the tokens of the group, and a penalty that no value enters.
    def pull(prob: Array) -> Array:
        return 3 - prob

    half = partial(anchors.bernoulli, rate=HALF)
    plain = Estimator("over tokens", rows.block, aggregation.token_mean, anchors=half, continuations=2)
    pulled = Estimator("pulled", rows.block, penalty=pull, anchors=half, continuations=2)
    baseline = Estimator("V baseline", reward_over_value, aggregation.token_mean, anchors=None, continuations=3)
    for row in (plain, pulled, baseline):
        agree(collapse(problem, row, 2, covariance), brute_force(problem, row, 2, covariance))


def reward_over_value(reward: Array, continuation_value: Array) -> Array:
    """RM − V(s_t), affine but not linear in the continuation values."""
    return reward[..., None] - continuation_value[..., :-1]


def test_covariances_are_those_of_the_list() -> None:
    problem = shared_chain()
    for name in ("exact_advantage_k1", "trepo_block_k1"):
        twin = ref.read(problem)
        size, first = len(twin.parameters), [Fraction(0)] * len(twin.parameters)
        second = [[Fraction(0)] * size for _ in range(size)]
        for chance, ghat in literal.estimates(twin, 0, name, 1):
            for i, j in itertools.product(range(size), range(size)):
                second[i][j] += chance * ghat[i] * ghat[j]
            first = [f + chance * ghat[i] for i, f in enumerate(first)]
        wanted = [second[i][j] - first[i] * first[j] for i, j in itertools.product(range(size), range(size))]
        for engine in (brute_force, collapse):
            found = engine(problem, ESTIMATORS[name], 1, covariance=True).covariance
            assert found is not None
            assert ref.fractions(found.ravel()) == wanted


def test_patterns_of_anchors_are_averaged_where_they_can_be() -> None:
    problem = zoo.two_valued()
    for name in DRAWN:
        row = ESTIMATORS[name]
        assert isinstance(paths_of(problem, row, 1), Anchored) == (row.anchors is not None)
        assert type(paths_of(problem, row, 1, covariance=True)) is Paths
    looking = replace(ESTIMATORS["trepo_block"], advantage=reward_at_anchors)  # reads what patterns do not tell
    assert type(paths_of(problem, looking, 1)) is Paths
    agree(collapse(problem, looking, 2), brute_force(problem, looking, 2))


def reward_at_anchors(reward: Array, anchor: Array) -> Array:
    return np.where(anchor[..., 1:], reward[..., None], 0 * reward[..., None])


# Expectations


@pytest.mark.parametrize("name", [n for n in DRAWN if n != "vineppo_k"])
@settings(max_examples=10)
@given(problem=problems(((2, 2), (3, 2), (2, 1)), off_policy=False))
def test_declared_expectations_are_those_of_the_list(name: str, problem: Problem) -> None:
    # With exact values, which K leaves alone.
    twin, row = ref.read(problem), replace(ESTIMATORS[name], continuations=None)
    for size in (1, 3):
        declared = problem.combine(row.expectation(problem, size, truth.gradient(problem)))
        means: list[ref.Vector] = [defaultdict(Fraction) for _ in range(problem.prompts)]
        for x, mean in enumerate(means):
            for chance, vector in literal.singles(twin, x, name, None):
                for parameter, entry in vector.items():
                    mean[parameter] += chance * entry
        assert ref.fractions(declared) == ref.mixed(twin, means)
        found = moments(problem, row, size)
        assert (problem.combine(found.mean) == declared).all()


@EACH
def test_audits_hold_in_rationals_and_floats(name: str) -> None:
    for problem in (zoo.shared(), zoo.three_valued().to(FLOAT64)):
        assert audit(problem, ESTIMATORS[name], 4).verdict == HOLDS


def by_depth(problem: Problem, result: Moments) -> list[Any]:
    """The factors by which the rows of g are multiplied, position by position; tabular."""
    g, out = truth.gradient(problem), []
    for t in range(problem.horizon):
        rows = problem.tree.at(t)
        first = np.flatnonzero(g[rows])[0]
        factor = result.mean[rows].ravel()[first] / g[rows].ravel()[first]
        assert (result.mean[rows] == factor * g[rows]).all()
        out.append(ref.exact(factor))
    return out


def test_values_interpolated_weigh_positions_by_their_blocks() -> None:
    # T = 3, coins at positions 1 and 2.  Token 1 is in a block of 1, 2, 3 tokens with chance 1/2, 1/4, 1/4, and token 3
    # too: E[1/l] = 17/24.  Token 2: 1/4, 1/2, 1/4, so 1/4 + 1/4 + 1/12 = 14/24.  No learning rate mends that.
    problem = zoo.random(3, vocab=2, horizon=3, prompts=1, variable=False)
    weights = [Fraction(17, 24), Fraction(14, 24), Fraction(17, 24)]
    assert by_depth(problem, moments(problem, ESTIMATORS["trepo_value_interp"], 2)) == weights
    two = zoo.random(3, vocab=2, horizon=2, prompts=1, variable=False)  # two tokens: 1/2 + 1/4 each, a scale
    assert by_depth(two, moments(two, ESTIMATORS["trepo_value_interp"], 2)) == [Fraction(3, 4)] * 2


def ends_only(horizon: int) -> tuple[Array, Array]:
    """Anchors at the first and the last token."""
    place = np.arange(horizon + 1)
    return ((place == 1) | (place == horizon))[None], np.ones((1, horizon + 1), dtype=object)


def test_interpolated_advantages_hold_no_signal() -> None:
    # Anchors at the end points only: tokens between them get credits and no gradient at all, E ĝ = (1, 0, 0, 1) · g.
    problem = zoo.random(3, vocab=2, horizon=4, prompts=1, variable=False)
    row = replace(ESTIMATORS["trepo_adv_interp"], anchors=ends_only)
    assert by_depth(problem, moments(problem, row, 1)) == [1, 0, 0, 1]
    alone = moments(problem, replace(ESTIMATORS["trepo_anchors"], anchors=ends_only), 1)
    assert moments(problem, row, 1).total_variance > alone.total_variance


@given(problems(SMALL, off_policy=False))
def test_what_interpolation_adds_to_the_anchors_has_mean_zero(problem: Problem) -> None:
    def added(anchor: Array, continuation_value: Array) -> Array:
        whole = rows.advantage_interpolation(anchor, continuation_value)
        return whole - rows.anchors_only(anchor, continuation_value)

    result = moments(problem, replace(ESTIMATORS["trepo_adv_interp"], advantage=added), 1)
    assert (result.mean == 0).all()


@given(problems(SMALL, shared=False))
def test_interpolation_only_adds_variance_where_scores_are_orthogonal(problem: Problem) -> None:
    # Tabular: what interpolated tokens hold comes on top of the anchors, at the same mean.
    alone, whole = (collapse(problem, ESTIMATORS[name], 2) for name in ("trepo_anchors", "trepo_adv_interp"))
    assert (whole.mean == alone.mean).all()
    assert all(w >= a for w, a in zip(whole.variance, alone.variance, strict=True))


def test_with_shared_parameters_neither_order_of_variances_holds() -> None:
    # One parameter, V = 2.  Interpolated tokens may cancel what their neighbours add; blocks may be noisier than both
    # their limits, REINFORCE with V(s_0) and the exact advantage, or less noisy than both.
    def variance(seed: int, horizon: int, name: str) -> Fraction:
        problem = zoo.random(seed, vocab=2, horizon=horizon, prompts=1, shared=1)
        return ref.exact(collapse(problem, ESTIMATORS[name], 1).total_variance)

    limits = ("reinforce_baseline", "exact_advantage")
    assert variance(8, 2, "trepo_adv_interp") < variance(8, 2, "trepo_anchors")
    assert variance(2, 3, "trepo_block") > max(variance(2, 3, name) for name in limits)
    assert variance(59, 3, "trepo_block") < min(variance(59, 3, name) for name in limits)


def test_an_anchor_among_the_tokens_of_the_response_looks_ahead() -> None:
    # Responses 1, 01, 001, 000, all halves, RM = 0 but RM(000) = 8: M = 1, 2, 4, 8 along 000.  Anchor uniform on 1 … L.
    # First token 0: M_1, M_2 or RM, weighed 1/2 : 1/2 if L = 2 and 1/3 : 2/3 if L = 3, so its worth is
    # 2 + ½·½(0 − 2) + ½·⅔(4 − 2) = 13/6, not 2.  Second token: the baseline is (M_0 + M_1)/2 if it ends the response
    # and (2 M_0 + M_1)/3 if not, so its contrast is −4 − 1/6.  Third: L is known, nothing leaks.
    half = [["1/2", "1/2"]] * 3
    problem = make(grow(2, 3, 1, end_token=1), half, [[0, 0], [0, 0], [8, 0]], end_token=1)
    g = [Fraction(1, 2), Fraction(-1, 2), Fraction(1, 2), Fraction(-1, 2), Fraction(1, 2), Fraction(-1, 2)]
    assert ref.fractions(truth.gradient(problem).ravel()) == g
    wrong = [Fraction(13, 24), Fraction(-13, 24), Fraction(25, 48), Fraction(-25, 48), Fraction(1, 2), Fraction(-1, 2)]
    assert ref.fractions(moments(problem, ESTIMATORS["trepo_block_subset_len"], 1).mean.ravel()) == wrong
    assert ref.fractions(moments(problem, ESTIMATORS["trepo_block_subset"], 1).mean.ravel()) == g
    assert audit(problem, replace(ESTIMATORS["trepo_block_subset_len"], expectation=UNBIASED), 2).verdict == REFUTED


@settings(max_examples=15)
@given(problem=problems(SMALL, off_policy=False), size=st.integers(1, 2))
def test_blocks_are_unbiased_for_laws_that_are_blind_and_for_those_that_look_back(problem: Problem, size: int) -> None:
    # Any stopping time ends a block: other rates, other sets, any token as delimiter.
    g = truth.gradient(problem)
    laws = [partial(anchors.bernoulli, rate="1/5"), partial(anchors.subset, size=2)]
    for row in [replace(ESTIMATORS["trepo_block"], anchors=law) for law in laws]:
        assert (moments(problem, row, size).mean == g).all()
    for token in range(problem.vocab):
        row = Estimator("steps", partial(rows.vine_step, delimiter=token))
        assert (moments(problem, row, size).mean == g).all()


def test_names_of_the_same_thing() -> None:
    assert table.get("trepo_block_delimiter") is ESTIMATORS["vineppo"]
    assert table.get("p2t") is ESTIMATORS["tempo"]


# Limits


@settings(max_examples=15)
@given(problem=problems(SMALL, off_policy=None))
def test_no_anchor_is_reinforce_and_all_anchors_are_the_exact_advantage(problem: Problem) -> None:
    def at(name: str, rate: int) -> Moments:
        return moments(problem, replace(ESTIMATORS[name], anchors=partial(anchors.bernoulli, rate=rate)), 2)

    exact = brute_force(problem, ESTIMATORS["exact_advantage"], 2)
    for name in ("trepo_block", "trepo_adv_interp", "trepo_value_interp", "trepo_anchors"):
        agree(at(name, 1), exact)
    value = brute_force(problem, Estimator("RM − V(s_0)", advantages.prompt_baseline), 2)
    agree(at("trepo_block", 0), value)
    agree(moments(problem, Estimator("one step", partial(rows.vine_step, delimiter=99)), 2), value)
    for name in ("trepo_adv_interp", "trepo_anchors"):
        assert at(name, 0).total_variance == 0


@given(problems(SMALL, off_policy=None), st.sampled_from(["exact_advantage_k1", "vineppo_k", "trepo_block_k1"]))
def test_variance_is_affine_in_one_over_k(problem: Problem, name: str) -> None:
    at = {
        k: moments(problem, replace(ESTIMATORS[name], continuations=k), 2).total_variance for k in (1, 3, 10**6, None)
    }
    assert at[1] - at[None] == 3 * (at[3] - at[None]) == 10**6 * (at[10**6] - at[None])
    assert at[1] >= at[None]


# The variance law (algorithms.md §3(v))


def norm2(vectors: list[ref.Vector]) -> Fraction:
    """‖Σ‖² of score vectors."""
    total: ref.Vector = defaultdict(Fraction)
    for vector in vectors:
        for parameter, entry in vector.items():
            total[parameter] += entry
    return sum((entry**2 for entry in total.values()), Fraction(0))


def reward_variance(twin: ref.Twin, prefix: ref.Prefix) -> Fraction:
    """σ²(prefix) over the list of its continuations."""
    ways = literal.onward(twin, prefix)
    mean = sum(p * ref.total(twin, w) for w, p in ways.items())
    return sum((p * (ref.total(twin, w) - mean) ** 2 for w, p in ways.items()), Fraction(0))


def added_by_noise(twin: ref.Twin, prompt: int, ends: Callable[[ref.Prefix], list[int]]) -> Fraction:
    """E Σ_u σ²(W_{0,u}) (‖Z before u‖² + ‖Z after u‖²) over the block ends u < L of a response, 0 among them."""
    out = Fraction(0)
    for word, p in ref.responses(twin, prompt).items():
        scores = [ref.score(twin, prefix, token) for prefix, token in ref.steps(word)]
        marks = [*ends(word), ref.length(word)]
        for before, u, after in zip([0, *marks], marks, marks[1:], strict=False):
            both = norm2(scores[before:u]) + norm2(scores[u:after])
            out += p * reward_variance(twin, word[: u + 1]) * both
    return out


@settings(max_examples=25)
@given(problem=problems(SMALL, off_policy=None), size=st.integers(1, 3), count=st.integers(1, 3))
def test_k_continuations_add_their_variance_on_both_sides_of_a_prefix(problem: Problem, size: int, count: int) -> None:
    # Var(K) = Var_A + (1/K) Σ_t E[σ²(W_{0,t}) (‖S_t‖² + ‖S_{t+1}‖²)], per response; steps: sums of scores instead.
    twin = ref.read(problem)

    def steps(word: ref.Prefix) -> list[int]:
        return [0, *(t for t in range(1, len(word) - 1) if word[t] == 0)]

    for name, ends in (("exact_advantage_k1", lambda w: list(range(len(w) - 1))), ("vineppo_k", steps)):
        row = replace(ESTIMATORS[name], continuations=count)
        exact, noisy = (collapse(problem, replace(row, continuations=k), size).variance for k in (None, count))
        wanted = [added_by_noise(twin, x, ends) / (count * size) for x in range(problem.prompts)]
        assert ref.fractions(noisy - exact) == wanted


@given(problems(SMALL, off_policy=False))
def test_sharing_the_continuations_costs_no_variance(problem: Problem) -> None:
    # E[S_{t+1} | W_{0,t}, ε_t] = 0 kills the cross term: half the draws for the same variance.
    one, two = (collapse(problem, ESTIMATORS["exact_advantage_k1" + s], 2) for s in ("", "_independent"))
    assert one.total_variance == two.total_variance


@given(problems(SMALL))
def test_variances_of_prefixes_are_those_of_their_continuations(problem: Problem) -> None:
    twin = ref.read(problem)
    assert ref.fractions(variances(problem)) == [reward_variance(twin, prefix) for prefix in twin.policy]


# TEMPO


@peers("reward", "prefix")
def tree_alone(reward: Array, prefix: Array) -> Array:
    """V̂(s_{t+1}) − V̂(s_t), the tree's part of TEMPO."""
    return prefix_tree.tempo(reward, prefix) - advantages.group_mean(reward)[..., None]


@peers("reward", "prefix")
def divided(reward: Array, prefix: Array, prob: Array, group_size: int) -> Array:
    """The tree's part of TEMPO divided by w_G(d(s_t)) = 1 − (1 − (1−d)^G)/(G d)."""
    reach = np.multiply.accumulate(np.concatenate([prob[..., :1] * 0 + 1, prob[..., :-1]], axis=-1), axis=-1)
    return tree_alone(reward, prefix) / (1 - (1 - (1 - reach) ** group_size) / (group_size * reach))


@pytest.mark.parametrize("size", [2, 3])
@settings(max_examples=15)
@given(problem=problems(TINY, off_policy=False))
def test_credit_of_a_tree_counts_by_its_chance(size: int, problem: Problem) -> None:
    # Tree TD alone: E ĝ = Σ_s d w_G(d) g(s); divided by w_G(d(s)): g, as is the leave-one-out tree.
    g = truth.gradient(problem)
    whole = ESTIMATORS["tempo"].expectation(problem, size, g)
    only_tree = brute_force(problem, Estimator("tree", tree_alone), size)
    assert (only_tree.mean == whole - RATIONAL.scalar(Fraction(size - 1, size)) * g).all()
    assert (brute_force(problem, Estimator("divided", divided), size).mean == g).all()
    assert (brute_force(problem, ESTIMATORS["tempo_unbiased"], size).mean == g).all()


@given(problems(SMALL, off_policy=None))
def test_two_responses_have_nothing_to_share_but_their_difference(problem: Problem) -> None:
    # What both hold moves up for one and down for the other: the leave-one-out tree of two is leave-one-out.
    agree(brute_force(problem, ESTIMATORS["tempo_unbiased"], 2), collapse(problem, ESTIMATORS["rloo"], 2))


def test_in_large_groups_tempo_counts_credit_twice() -> None:
    # w_G(d) → 1 as G d → ∞: E ĝ → 2g.  G = 10⁶: 1 − w = 1/(G d) < 10⁻⁴ for prefixes of chance above 1/100.
    problem = zoo.two_valued().to(FLOAT64)
    g = truth.gradient(problem)
    assert problem.reach.min() > 0.01
    np.testing.assert_allclose(ESTIMATORS["tempo"].expectation(problem, 10**6, g), 2 * g, rtol=1e-3, atol=1e-6)


def test_tempo_by_hand() -> None:
    # 000, 001, 01: rewards 3, 0, 0.  V̂ = 1 at (), 1 at 0 (shared by all three), 3/2 at 00, 3 at 000.
    prefix = np.array([[0, 1, 2, -1], [0, 1, 2, -1], [0, 1, -1, -1]])
    reward = RATIONAL.array([3, 0, 0])
    half = HALF
    assert ref.fractions(prefix_tree.tempo(reward, prefix)) == [
        [2, 2 + half, 2 + 3 * half],
        [-1, -1 + half, -1 - 3 * half],
        [-1, -2, -1],  # the last is after the end
    ]
    # Others: 0, 0 for the first: their mean is 0 at () and 0, 0 at 00 (one other).  For the third, 3/2 at () and 0.
    assert ref.fractions(prefix_tree.tree_leave_one_out(reward, prefix))[0] == [1, 3 * half, 3]
    assert ref.fractions(prefix_tree.tree_leave_one_out(reward, prefix))[2][:2] == [1 - 3 * half, -3 * half]


@pytest.mark.parametrize("reward", [0.1, 0.7, 1 / 3, -1e300])
def test_equal_rewards_make_no_tree_credit(reward: float) -> None:
    prefix = np.array([[0, 1, 2, -1], [0, 1, 2, -1], [0, 1, -1, -1]])
    zero_eps = partial(prefix_tree.tempo_std, eps=0.0)
    for part in (prefix_tree.tempo, prefix_tree.tempo_std, zero_eps, prefix_tree.tree_leave_one_out):
        assert (part(np.full(3, reward), prefix) == 0).all()


# The published loss


def clipped_loss(logp: torch.Tensor, old: torch.Tensor, advantage: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """PPO's −(1/G) Σ min(r A, clip(r, 0.8, 1.2) A), as VinePPO's and TEMPO's trainers have it."""
    ratio = torch.exp(logp - old)
    best = torch.minimum(ratio * advantage, torch.clamp(ratio, 0.8, 1.2) * advantage)
    return -(best * mask).sum() / logp.shape[0]


@pytest.mark.parametrize("name", ["vineppo", "tempo", "tempo_std", "tempo_unbiased"])
def test_credits_are_the_slope_of_the_published_loss(name: str) -> None:
    problem, size = zoo.two_valued(), 2
    twin, row = ref.read(problem), ESTIMATORS[name]
    for _, singles, index, _ in every(problem.to(FLOAT64), size, row.given):
        roll = singles.group(index[::7], row.needs | {"logp", "mask"})
        assert roll.logp is not None
        assert roll.mask is not None
        words = [(0, *(t for t in word if t >= 0)) for word in singles.token.tolist()]
        for n, (group, credits) in enumerate(zip(index[::7].tolist(), row(roll), strict=True)):
            members = [words[i] for i in group]
            advantage = torch.zeros(size, problem.horizon, dtype=torch.float64)
            for i, word in enumerate(members):
                given = [float(c) * size for c in ref.CREDITS[name](twin, members, i)]
                advantage[i, : len(word) - 1] = torch.tensor(given, dtype=torch.float64)
            logp = torch.tensor(roll.logp[n], requires_grad=True)
            clipped_loss(logp, logp.detach(), advantage, torch.tensor(roll.mask[n])).backward()
            np.testing.assert_allclose(-logp.grad.numpy(), credits, rtol=0, atol=1e-12 * 4)


# Sampling


@pytest.mark.parametrize(
    "name", ["exact_advantage_k1_independent", "vineppo_k", "trepo_block_k1", "trepo_value_interp"]
)
def test_sampling_draws_the_continuations_it_speaks_of(name: str) -> None:
    # Continuations are most of this variance; its estimate from 6000 batches lies within a tenth of the exact one.
    problem = zoo.three_valued().to(FLOAT64)
    found = audit_by_sampling(problem, ESTIMATORS[name], 2, 6000)
    assert found.verdict == HOLDS
    exact = float(moments(problem, ESTIMATORS[name], 2).total_variance)
    assert found.overall.total_variance == pytest.approx(exact, rel=0.1)


def test_sampling_refutes_a_wrong_declaration() -> None:
    row = replace(ESTIMATORS["trepo_adv_interp_k1"], expectation=UNBIASED)  # it is half of g
    assert audit_by_sampling(zoo.three_valued(), row, 2, 40_000).verdict == REFUTED


def test_drawn_continuations_are_drawn_anew() -> None:
    # Two fields, two sets of draws; from the end on RM itself.
    problem = zoo.three_valued().to(FLOAT64)
    fields = {"continuation_value": 2, "second_continuation_value": 1}
    found, _ = draw(problem, 50, np.random.default_rng(0), 4, continuations=fields)
    one, two = found.continuation_value, found.second_continuation_value
    after = np.arange(problem.horizon + 1) >= found.length[:, None]
    assert (one[after] == np.broadcast_to(found.reward[:, None], one.shape)[after]).all()
    assert (one[after] == two[after]).all()
    assert (one[~after] != two[~after]).mean() > 0.3
    assert set(np.unique(two)) <= {0, 1, 3}  # single rewards
    assert set(np.unique(one)) <= {0, 0.5, 1, 1.5, 2, 3}  # means of two
    exact = {"second_continuation_value": 1}
    assert (draw(problem, 2, np.random.default_rng(0), 1, continuations=exact)[0].continuation_value % 1 != 0).any()


def sure(end: int) -> Problem:
    """Whatever token comes first, the rest is known."""
    probs = [["1/3", "1/3", "1/3"], *([[0, 1, 0] if t != end else [0, 0, 1] for t in range(3)])]
    rewards = np.arange(12).reshape(4, 3) ** 2 % 7
    tree = grow(3, 2, 1)
    return make(tree, probs, rewards, field=FLOAT64)


def test_drawn_continuations_follow_the_current_policy() -> None:
    # μ would end with token 0; π knows how it ends, so that one draw is M_t.
    problem = sure(2)
    problem = replace(problem, behaviour=np.full((4, 3), 1 / 3))
    found, _ = draw(problem, 40, np.random.default_rng(1), continuations={"continuation_value": 1})
    assert (found.continuation_value[:, 1] == problem.values[1][found.node[:, 1]]).all()


@pytest.mark.parametrize("name", [n for n in DRAWN if literal.GIVEN[n][2] in (1, None)])
@CHAINS
def test_the_bound_of_the_betting_test_is_reached_and_never_passed(name: str, problem: Problem) -> None:
    # One response, all draws listed: the largest |⟨ĝ, v⟩| is the bound.
    twin, v = ref.read(problem), [Fraction(n) for n in (3, -1, 2, 5, -4, 1)[: problem.parameters]]
    direction = dict(zip(twin.parameters, v, strict=True))
    largest = max(
        abs(sum(entry * direction[p] for p, entry in ghat.items())) for _, ghat in literal.estimates(twin, 0, name, 1)
    )
    along = np.array(
        [
            [float(sum(e * direction[p] for p, e in ref.score(twin, prefix, a).items())) for a in range(problem.vocab)]
            for prefix in twin.policy
        ]
    )
    found = credit_bound(problem.to(FLOAT64), ESTIMATORS[name], 1, along)
    assert found == pytest.approx(float(largest), rel=1e-12)


# What is refused


@pytest.mark.parametrize("rate", [-0.1, 1.5])
def test_rates_that_are_no_probability_are_refused(rate: float) -> None:
    with pytest.raises(
        EstimatorError, match=rf"^anchors at rate {rate} given: a probability between 0 and 1 is needed$"
    ):
        anchors.bernoulli(2, rate=rate)


def test_too_many_patterns_are_refused() -> None:
    with pytest.raises(TooLarge, match=r"^patterns of anchors would need 2.1e\+06 entries, .* fewer anchors$"):
        anchors.bernoulli(21, rate="1/2")
    with pytest.raises(TooLarge, match=r"^patterns of anchors would need 1.26e\+14 entries"):  # C(50, 25)
        anchors.subset(50, size=25)
    assert len(anchors.subset(30, size=1)[0]) == 30


@pytest.mark.parametrize("size", [1, 2, 5])
def test_laws_are_laws(size: int) -> None:
    for horizon in (1, 2, 3, 4):
        for law in (partial(anchors.subset, size=size), partial(anchors.subset_of_length, size=size)):
            patterns, chance = law(horizon)
            assert not patterns[:, 0].any()
            assert (chance[:, 1:].sum(0) == 1).all()
            count = patterns.sum(1)
            for length in range(1, horizon + 1):
                here = chance[:, length] != 0
                upto = length if law.func is anchors.subset_of_length else horizon
                assert (count[here] == min(size, upto)).all()
                assert not patterns[here, upto + 1 :].any()
                assert here.sum() == math.comb(upto, min(size, upto))


def squared(continuation_value: Array) -> Array:
    return continuation_value[..., 1:] * continuation_value[..., :-1]


def absolute(continuation_value: Array) -> Array:
    return abs(continuation_value[..., 1:])


@pytest.mark.parametrize("part", [squared, absolute])
@pytest.mark.parametrize("engine", [brute_force, collapse])
@pytest.mark.parametrize("field", [RATIONAL, FLOAT64], ids=lambda f: f.name)
def test_credits_that_are_not_linear_in_the_values_are_refused(part: Any, engine: Any, field: Any) -> None:
    row = Estimator("bent", part, continuations=2)
    with pytest.raises(EstimatorError, match=r"^bent: credits must be linear in the continuation values, or K draws"):
        engine(zoo.two_valued().to(field), row, 1)
    engine(zoo.two_valued().to(field), replace(row, continuations=None), 1)  # exact values: anything goes


def test_clipped_credits_of_another_policy_are_refused() -> None:
    # A clip reads the sign of the estimate.
    row = replace(ESTIMATORS["exact_advantage_k1"], ratio=ratios.ppo_clip)
    assert brute_force(zoo.two_valued(), row, 1).total_variance > 0
    with pytest.raises(EstimatorError, match=r"credits must be linear in the continuation values"):
        brute_force(zoo.stale(), row, 1)


def test_groups_kept_by_continuations_are_refused() -> None:
    def promising(continuation_value: Array) -> Array:
        return (continuation_value[..., :1] > 0).all((-1, -2), keepdims=False)[..., None]

    row = replace(ESTIMATORS["exact_advantage_k1"], keep=promising)
    with pytest.raises(EstimatorError, match=r": groups are kept by their rewards, not by continuations: change keep$"):
        brute_force(zoo.two_valued(), row, 1)


def test_ranges_of_tree_credits_are_refused() -> None:
    with pytest.raises(EstimatorError, match=r"^tempo: the range of its credits is not known, .*: drop --samples$"):
        audit_by_sampling(zoo.two_valued(), ESTIMATORS["tempo"], 2, 100)


def test_roots_of_exact_numbers_are_refused() -> None:
    with pytest.raises(EstimatorError, match=r"^tempo_std takes a square root, exact numbers have none: use a float64"):
        prefix_tree.tempo_std(RATIONAL.array([0, 1]), np.array([[0, -1], [0, -1]]))


# Planted faults


def one_late(continuation_value: Array) -> Array:
    """M_{t−1} in place of M_t."""
    return continuation_value[..., :-1]


def same_draws(continuation_value: Array, second_continuation_value: Array) -> Array:
    """M_t − M_{t−1}, the second set drawn and dropped.  The same variance: only a group of draws tells."""
    return 2 * continuation_value[..., 1:] - second_continuation_value[..., 1:] - second_continuation_value[..., :-1]


def step_before_delimiter(tokens: Array, length: Array, continuation_value: Array) -> Array:
    """The step ends before the delimiter: it looks one token ahead."""
    return rows.block(np.concatenate([tokens == 0, tokens[..., :1] < -1], axis=-1), length, continuation_value)


def unfinished(anchor: Array, length: Array, continuation_value: Array) -> Array:
    """The end of the response closes no block: nothing for the tokens after the last anchor."""
    place = np.arange(anchor.shape[-1])
    last = np.where(anchor & (place <= length[..., None]), place, 0).max(-1, keepdims=True)
    whole = rows.block(anchor, length, continuation_value)
    return np.where(place[1:] <= last, whole, 0 * whole)


def without_padding(anchor: Array, continuation_value: Array, mask: Array) -> Array:
    """Anchors after the end are left out: the weights know where the response ends."""
    inside = np.concatenate([mask[..., :1], mask], axis=-1)
    return rows.advantage_interpolation(anchor & inside, continuation_value)


def over_the_length(anchor: Array, length: Array, continuation_value: Array) -> Array:
    return rows.block(anchor, length, continuation_value) / length[..., None]


def multiplied(anchor: Array, continuation_value: Array) -> Array:
    """Times the chance of an anchor instead of divided by it."""
    return rows.anchors_only(anchor, continuation_value) / 2


def never_at_the_last(horizon: int) -> tuple[Array, Array]:
    """Positions 1 … T − 1 only."""
    patterns, chance = anchors.bernoulli(horizon, rate="1/2")
    patterns = patterns.copy()
    patterns[:, -1] = False
    return patterns, chance


FAULTS: list[tuple[str, dict[str, Any], set[str]]] = [
    ("trajectory_pg_k", {"advantage": one_late}, {"mean", "variance"}),
    ("exact_advantage_k1_independent", {"advantage": same_draws}, {"variance"}),
    ("exact_advantage_k4", {"continuations": 3}, {"variance"}),
    ("exact_advantage_k1", {"continuations": None}, {"variance"}),
    ("vineppo_k", {"advantage": step_before_delimiter}, {"mean", "variance"}),
    ("trepo_block", {"advantage": unfinished}, {"mean", "variance"}),
    ("trepo_block_k1", {"advantage": unfinished}, {"mean", "variance"}),
    ("trepo_adv_interp", {"advantage": without_padding}, {"mean", "variance"}),
    ("trepo_value_interp", {"advantage": over_the_length}, {"mean", "variance"}),
    ("trepo_ipw", {"advantage": multiplied}, {"mean", "variance"}),
    ("trepo_anchors", {"anchors": never_at_the_last}, {"mean", "variance"}),
    ("trepo_block", {"anchors": partial(anchors.bernoulli, rate="1/3")}, {"variance"}),
    ("trepo_block_subset", {"anchors": ESTIMATORS["trepo_block_subset_len"].anchors}, {"mean", "variance"}),
    ("trepo_block_subset_len", {"anchors": ESTIMATORS["trepo_block_subset"].anchors}, {"mean", "variance"}),
]


@pytest.mark.parametrize(("name", "fault", "caught"), FAULTS, ids=lambda x: x if isinstance(x, str) else "")
def test_faults_of_rows_that_draw_are_caught(name: str, fault: dict[str, Any], caught: set[str]) -> None:
    problem, count = chain(), 2 if name == "vineppo_k" else None
    row = small_row(name, count)
    assert off(problem, collapse(problem, row, 1), name, 1, count) == set()
    assert off(problem, collapse(problem, replace(row, **fault), 1), name, 1, count) == caught


@peers("reward", "prefix")
def without_the_mean(reward: Array, prefix: Array) -> Array:
    return tree_alone(reward, prefix)


@peers("reward", "prefix")
def own_reward_in_the_baseline(reward: Array, prefix: Array) -> Array:
    """V̂(s_t) with the response itself."""
    return tree_alone(reward, prefix)


def wrong_delimiter(tokens: Array, length: Array, continuation_value: Array) -> Array:
    return rows.vine_step(tokens, length, continuation_value, delimiter=2)


PLAIN_FAULTS: list[tuple[str, Any, set[str]]] = [
    ("vineppo", step_before_delimiter, {"mean", "variance"}),
    ("vineppo", wrong_delimiter, {"variance"}),
    ("tempo", without_the_mean, {"mean", "variance"}),
    ("tempo_unbiased", own_reward_in_the_baseline, {"mean", "variance"}),
    ("tempo_std", partial(prefix_tree.tempo_std, ddof=0), {"mean", "variance"}),
]


@pytest.mark.parametrize(("name", "part", "caught"), PLAIN_FAULTS)
def test_faults_of_rows_without_draws_are_caught(name: str, part: Any, caught: set[str]) -> None:
    problem = zoo.two_valued().to(FLOAT64) if name == "tempo_std" else zoo.two_valued()
    row = ESTIMATORS[name]
    assert ref.disagreements(zoo.two_valued(), brute_force(problem, row, 2), name, 2) == set()
    assert ref.disagreements(zoo.two_valued(), brute_force(problem, replace(row, advantage=part), 2), name, 2) == caught


ENGINE_FAULTS: list[tuple[str, Callable[[Any], Any]]] = [
    ("variances", lambda right: lambda problem: right(problem) * 2),
    ("variances", lambda right: lambda problem: right(replace(problem, probs=problem.sampling))),
    ("spread_of", lambda right: lambda singles, row: right(singles, row) * row.continuations),
    ("spread_of", lambda right: lambda singles, row: np.roll(right(singles, row), 1, axis=1)),
]


@pytest.mark.parametrize(("place", "fault"), ENGINE_FAULTS)
@pytest.mark.parametrize("engine", [brute_force, collapse])
@pytest.mark.parametrize("name", ["exact_advantage_k1", "trepo_block_k1"])
def test_faults_of_the_engine_are_caught(
    name: str, engine: Any, place: str, fault: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = chain(behaviour=[["1/2", "1/2"], ["2/3", "1/3"], ["1/5", "4/5"]])
    row = replace(ESTIMATORS[name], continuations=2)
    assert off(problem, engine(problem, row, 1), name, 1, 2) == set()
    monkeypatch.setattr(noise, place, fault(getattr(noise, place)))
    assert off(problem, engine(problem, row, 1), name, 1, 2) == {"variance"}
