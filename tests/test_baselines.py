"""Baselines: the exact price of any other table, where the optima coincide, and what including oneself costs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import references as ref
from tests.literal import baselines as lit
from tests.strategies import SMALL, TINY, problems
from tests.test_moments import Ingredients, agree, norm2_of_score
from tpg import truth
from tpg.errors import EstimatorError, TooLarge
from tpg.estimators import advantages, baselines, baselines_expected
from tpg.estimators.estimator import Estimator
from tpg.estimators.parts import peers
from tpg.estimators.table import ESTIMATORS
from tpg.moments import brute_force, collapse, moments, report_of
from tpg.numbers import FLOAT64, RATIONAL, Array
from tpg.problem import zoo
from tpg.problem.problem import Problem, make
from tpg.problem.tree import grow
from tpg.rollouts import responses

GLOBAL, TOKEN, JOINT, VALUE, OTB = (
    ESTIMATORS[name]
    for name in (
        "optimal_baseline_global",
        "optimal_baseline_token",
        "optimal_baseline_joint",
        "value_baseline",
        "optimal_token_baseline",
    )
)
WHOLE = st.integers(-3, 5)


def prefixes(problem: Problem) -> list[ref.Prefix]:
    """The prefixes in the order of the problem's nodes."""
    return list(ref.read(problem).policy)


def with_table(row: Estimator, table: dict[ref.Prefix, Any]) -> Estimator:
    """``row`` with the baseline ``table`` in place of its own."""
    return replace(row, critic=lambda problem: RATIONAL.array([table[p] for p in prefixes(problem)]))


def price(twin: ref.Twin, prompt: int, gap: Callable[[ref.Prefix], Fraction]) -> Fraction:
    """Σ_t E[gap(s_t)² ‖S_t‖²], response by response."""
    out = Fraction(0)
    for word, chance in lit.endings(twin, (prompt,)):
        for prefix, token in ref.steps(word):
            s = ref.score(twin, prefix, token)
            out += chance * gap(prefix) ** 2 * lit.product(s, s)
    return out


# Optima (algorithms.md §3(vi))


@given(problems(SMALL), WHOLE, st.sampled_from([1, 2, 3]))
def test_a_constant_costs_its_squared_distance_from_the_optimum(problem: Problem, other: int, size: int) -> None:
    # Var(b) = Var(b*) + (b − b*)² E‖Z‖² / G.  Wrong: any other b*.
    twin = ref.read(problem)
    best = collapse(problem, GLOBAL, size)
    fixed = replace(GLOBAL, constant=lambda problem, size: RATIONAL.array([other] * problem.prompts))
    moved = collapse(problem, fixed, size)
    assert (best.mean == moved.mean).all()
    assert (best.mean == truth.gradient(problem)).all()
    for x in range(twin.prompts):
        z2 = sum(p * norm2_of_score(twin, w) for w, p in ref.responses(twin, x).items())
        gap = (other - lit.global_optimum(twin, x)) ** 2 * z2 / size
        assert ref.exact(moved.variance[x]) - ref.exact(best.variance[x]) == gap


@given(problems(SMALL), st.sampled_from([1, 2]))
def test_the_gap_of_the_prompts_expected_reward_is_a_covariance(problem: Problem, size: int) -> None:
    # b = J: Cov(R, ‖Z‖²)² / E‖Z‖² / G.  And ReMax beats no baseline iff its distance from b* is below |b*|.
    twin = ref.read(problem)
    best, mean, none, greedy = (
        collapse(problem, row, size)
        for row in (GLOBAL, *(ESTIMATORS[name] for name in ("reinforce_baseline", "reinforce", "remax")))
    )
    for x in range(twin.prompts):
        parts, b = Ingredients(twin, x), lit.global_optimum(twin, x)
        if parts.z2 == 0:
            continue
        assert ref.exact(mean.variance[x] - best.variance[x]) == parts.slant**2 / parts.z2 / size
        word: ref.Prefix = (x,)
        while word in twin.policy:
            word = (*word, twin.policy[word].index(max(twin.policy[word])))
        closer = abs(ref.total(twin, word) - b) < abs(b)
        assert (greedy.variance[x] < none.variance[x]) == closer


@given(data=st.data(), problem=problems(SMALL), size=st.sampled_from([1, 2]))
def test_every_other_table_costs_exactly_its_distance_from_the_joint_optimum(
    data: st.DataObject, problem: Problem, size: int
) -> None:
    # Var(b* + δ) − Var(b*) = Σ_t E[δ_t² ‖S_t‖²] / G, no linear term: the derivative at b* is 0, and nothing is better.
    twin, names = ref.read(problem), prefixes(problem)
    delta = {p: Fraction(data.draw(WHOLE), 2) for p in names}
    best = collapse(problem, JOINT, size)
    assert (best.mean == truth.gradient(problem)).all()
    for sign in (1, -1):
        table = {p: lit.joint_optimum(twin, p) + sign * delta[p] for p in names}
        moved = collapse(problem, with_table(JOINT, table), size)
        for x in range(twin.prompts):
            more = price(twin, x, delta.__getitem__) / size
            assert ref.exact(moved.variance[x]) - ref.exact(best.variance[x]) == more
            assert more >= 0


@pytest.mark.parametrize(
    "name", ["reinforce", "reinforce_baseline", "value_baseline", *(r.name for r in (GLOBAL, TOKEN))]
)
@settings(max_examples=15)
@given(problem=problems(SMALL))
def test_published_baselines_pay_their_distance_from_the_joint_optimum(name: str, problem: Problem) -> None:
    twin = ref.read(problem)
    tables: dict[str, Callable[[ref.Prefix], Fraction]] = {
        "reinforce": lambda p: Fraction(0),
        "reinforce_baseline": lambda p: twin.value[p[:1]],
        "value_baseline": lambda p: twin.value[p],
        GLOBAL.name: lambda p: lit.global_optimum(twin, p[0]),
        TOKEN.name: lambda p: lit.token_optimum(twin, p),
    }
    best, other = (collapse(problem, row, 2) for row in (JOINT, ESTIMATORS[name]))
    for x in range(twin.prompts):
        gap = price(twin, x, lambda p: tables[name](p) - lit.joint_optimum(twin, p)) / 2
        assert ref.exact(other.variance[x] - best.variance[x]) == gap


@given(data=st.data(), problem=problems(SMALL))
def test_the_token_optimum_minimises_each_tokens_own_variance(data: st.DataObject, problem: Problem) -> None:
    # E[(R − b_t)² ‖S_t‖² | s] = its minimum + (b_t − b*_t)² E[‖S_t‖² | s], prefix by prefix, also where tokens share.
    twin, names = ref.read(problem), prefixes(problem)
    table = [ref.exact(b) for b in baselines.token_optimum(problem)]
    for prefix, best in zip(names, table, strict=True):
        other = best + Fraction(data.draw(WHOLE), 2)

        def spread(b: Fraction, prefix: ref.Prefix = prefix) -> Fraction:
            out = Fraction(0)
            for word, chance in lit.endings(twin, prefix):
                s = ref.score(twin, prefix, word[len(prefix)])
                out += chance * (ref.total(twin, word) - b) ** 2 * lit.product(s, s)
            return out

        norm2 = sum(
            p * lit.product(ref.score(twin, prefix, a), ref.score(twin, prefix, a))
            for a, p in enumerate(twin.policy[prefix])
        )
        assert spread(other) - spread(best) == (other - best) ** 2 * norm2


@given(problems(SMALL, shared=False))
def test_token_and_joint_optimum_coincide_for_tabular_policies(problem: Problem) -> None:
    # Scores of different prefixes are orthogonal: tokens share nothing.
    names, twin = prefixes(problem), ref.read(problem)
    assert [lit.token_optimum(twin, p) for p in names] == [lit.joint_optimum(twin, p) for p in names]
    assert (baselines.token_optimum(problem) == baselines.joint_optimum(problem)).all()


def test_token_and_joint_optimum_differ_where_parameters_are_shared() -> None:
    problem = zoo.shared()
    assert (baselines.token_optimum(problem) != baselines.joint_optimum(problem)).any()
    joint, token, value = (collapse(problem, row, 1).total_variance for row in (JOINT, TOKEN, VALUE))
    assert joint < token
    assert joint < value


def test_a_global_baseline_can_be_worse_than_none() -> None:
    # §3(vi) "global J 3.50 (worse!)": rewards are large where scores are small.  π = (9/10, 1/10), R = (1, 0):
    # b* = E[R‖Z‖²]/E‖Z‖² with ‖Z‖² = (2/100, 162/100): 18/1000 / (180/1000) = 1/10, J = 9/10.
    problem = make(grow(2, 1), [["9/10", "1/10"]], [[1, 0]])
    assert ref.fractions(baselines.global_optimum(problem, 1)) == [Fraction(1, 10)]
    none, mean, best = (
        collapse(problem, row, 1).total_variance
        for row in (ESTIMATORS["reinforce"], ESTIMATORS["reinforce_baseline"], GLOBAL)
    )
    assert best < none < mean


def test_where_nothing_can_be_learnt_the_optima_are_the_value() -> None:
    # Certain tokens, and features that do not tell tokens apart: every score is 0, exactly and in float64.
    certain = make(grow(2, 2), [[1, 0], [0, 1], [1, 0]], [[1, 2], [3, 4], [5, 6]])
    alike = np.broadcast_to(np.array(["1/3", "1/7"], dtype=object), (3, 2, 2))
    table = [["1/3", "2/3"], ["1/10", "9/10"], ["2/7", "5/7"]]
    blind = make(grow(2, 2), table, [[1, 2], [3, 4], [5, 6]], features=alike)
    for exact in (certain, blind):
        for problem in (exact, exact.to(FLOAT64)):
            for found in (baselines.token_optimum(problem), baselines.joint_optimum(problem)):
                np.testing.assert_allclose(found.astype(float), problem.values[1].astype(float), rtol=1e-14)
            for row in (GLOBAL, TOKEN, JOINT):
                assert abs(float(collapse(problem, row, 2).total_variance)) < 1e-28


# Own response included


@settings(max_examples=25)
@given(problems(SMALL, variable=False), st.sampled_from([2, 3]))
def test_opo_of_equal_lengths_is_the_group_mean(problem: Problem, size: int) -> None:
    if problem.tree.full[:-1] == [True] * (
        problem.horizon - 1
    ):  # no token is forbidden, so that no response ends early
        agree(collapse(problem, ESTIMATORS["opo"], size), collapse(problem, ESTIMATORS["group_mean"], size))


def test_opo_turns_the_gradient_where_lengths_vary_and_leaving_oneself_out_does_not() -> None:
    # R10: off direction, shrinking with G (3.5e-2, 2.7e-2, 2.2e-2 in the example of algorithms.md; here our own).
    problem = zoo.two_valued()
    g, turned = truth.gradient(problem), []
    for size in (2, 3, 4):
        found = collapse(problem, ESTIMATORS["opo"], size)
        turned.append(report_of(found, g).direction_bias)
        assert (collapse(problem, ESTIMATORS["opo_loo"], size).mean == g).all()
        assert (ESTIMATORS["opo"].expectation(problem, size, g) == found.mean).all()
    assert turned[0] > turned[1] > turned[2] > 1e-3


@pytest.mark.parametrize("size", [2, 5, 33])
def test_the_closed_form_of_opo_holds_in_large_groups(size: int) -> None:
    problem = zoo.two_valued().to(FLOAT64)
    row = ESTIMATORS["opo"]
    found = collapse(problem, row, min(size, 8))
    declared = row.expectation(problem, min(size, 8), truth.gradient(problem))
    assert not ref.off(declared.ravel(), list(found.mean.ravel()), 1.0)
    # G → ∞: b is a number, and E ĝ = g − (what the own share of the mean takes away) = g + O(1/G)
    far = row.expectation(problem, 10 * size, truth.gradient(problem)) - truth.gradient(problem)
    near = row.expectation(problem, size, truth.gradient(problem)) - truth.gradient(problem)
    assert np.linalg.norm(far) < np.linalg.norm(near) / 5


@settings(max_examples=15)
@given(problems(TINY, prompts=2), st.sampled_from([2, 3]))
def test_the_closed_form_of_otb_is_brute_force(problem: Problem, size: int) -> None:
    found = brute_force(problem, OTB, size)
    assert (OTB.expectation(problem, size, truth.gradient(problem)) == found.mean).all()
    assert ref.exact(moments(problem, OTB, size).total_variance) == ref.exact(found.total_variance)


def test_otb_keeps_nothing_of_the_last_response_that_writes() -> None:
    # W: (1/2, 1), then (1) alone: B_1 = (½·1 + 1·0)/(3/2) = 1/3, B_2 = R of the survivor.
    reward, mask = RATIONAL.array([1, 0]), np.array([[True, True], [True, False]])
    norm2 = RATIONAL.array([["1/2", "1/2"], [1, 0]])
    found = baselines.optimal_token_baseline(reward, mask, norm2)
    assert ref.fractions(found[mask]) == [Fraction(2, 3), 0, Fraction(-1, 3)]
    nothing = baselines.optimal_token_baseline(reward, mask, norm2 * 0)
    assert (nothing == 0).all()


def test_otb_is_biased() -> None:
    found = report_of(brute_force(zoo.two_valued(), OTB, 2), truth.gradient(zoo.two_valued()))
    assert found.direction_bias is not None
    assert found.direction_bias > 1e-2


# As published


def opo_in_torch(reward: torch.Tensor, mask: torch.Tensor, logp: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    length = mask.sum(-1)
    return (reward - (length * reward).sum() / length.sum())[:, None] * mask


def otb_in_torch(reward: torch.Tensor, mask: torch.Tensor, logp: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """verl: returns are the reward of the last token added up from the back; 10⁻⁸ in the divisor left out."""
    pi = torch.softmax(logits, -1)
    w = ((1 - 2 * logp.exp() + (pi**2).sum(-1)) * mask).cumsum(-1)
    returns = reward[:, None] * mask
    return (returns - (returns * w * mask).sum(0) / (w * mask).sum(0).clamp(min=1e-300)) * mask


@pytest.mark.parametrize(("name", "published"), [("opo", opo_in_torch), ("optimal_token_baseline", otb_in_torch)])
def test_autograd_of_the_published_loss_is_the_gradient_of_the_credits(
    name: str, published: Callable[..., Any]
) -> None:
    # loss = −(1/G) Σ_i Σ_t sg(A_it) log π(w_it).
    problem = zoo.random(7, 3, 3, 1).to(FLOAT64)
    row, found = ESTIMATORS[name], responses(problem)
    for group in np.random.default_rng(3).choice(len(found.node), (6, 3)):
        logits = torch.log(torch.tensor(problem.probs.copy())).requires_grad_()
        node, token = (torch.tensor(np.maximum(table[group], 0)) for table in (found.node, found.token))
        mask, reward = torch.tensor(found.mask[group]).double(), torch.tensor(found.reward[group])
        here = logits[node]
        logp = torch.log_softmax(here, -1).gather(-1, token[..., None])[..., 0]
        advantage = published(reward, mask, logp.detach(), here.detach())
        (-(advantage * logp * mask).sum(-1).mean()).backward()
        credits, table, on = row(found.group(group, row.needs)), np.zeros(problem.probs.shape), found.mask[group]
        np.add.at(table, (found.node[group][on], found.token[group][on]), credits[on])
        assert logits.grad is not None
        np.testing.assert_allclose(problem.pull(table), -logits.grad.numpy(), atol=1e-13)


# Ties, errors, planted faults


@pytest.mark.parametrize("reward", [0.1, 0.7, 1 / 3, -1e300 / 9])
def test_equal_rewards_give_exactly_no_credit(reward: float) -> None:
    group, length = np.full(3, reward), np.array([1, 2, 3])
    mask = np.arange(3) < length[:, None]
    assert (baselines.opo(group, length) == 0).all()
    assert (baselines.opo_loo(group, length) == 0).all()
    assert (baselines.optimal_token_baseline(group, mask, np.where(mask, 0.3, 0.0)) == 0).all()


@pytest.mark.parametrize("part", [baselines.opo, baselines.opo_loo])
def test_an_empty_response_is_refused(part: Callable[..., Array]) -> None:
    with pytest.raises(
        EstimatorError, match=r"^response \(1,\) has an empty mask: every response needs at least one tok"
    ):
        part(np.array([0.0, 1.0]), np.array([1, 0]))


def test_closed_forms_that_would_take_too_long_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = zoo.two_valued()
    g = truth.gradient(problem)
    monkeypatch.setattr(baselines_expected, "MAX_PEERS", 35)
    with pytest.raises(
        TooLarge, match=r"^the closed form of OPO would need 36 entries, the limit is 35: lower the group"
    ):
        ESTIMATORS["opo"].expectation(problem, 2, g)  # (2 · 3 tokens)²
    with pytest.raises(
        TooLarge, match=r"^the closed form by peers would need 16 entries, the limit is 3.5: lower the gr"
    ):
        OTB.expectation(problem, 2, g)  # 3 first tokens, or ended: 4²


@peers("reward", "length")
def unweighted(reward: Array, length: Array) -> Array:
    return advantages.group_mean(reward)


@peers("reward", "length")
def weighted_own_too(reward: Array, length: Array) -> Array:
    return baselines.opo(reward, length)


def unaccumulated(reward: Array, mask: Array, score_norm2: Array) -> Array:
    weight = np.where(mask, score_norm2, 0 * score_norm2)
    whole = weight.sum(-2, keepdims=True)
    top = (weight * reward[..., None]).sum(-2, keepdims=True)
    return reward[..., None] - np.divide(top, whole, out=top - top, where=whole != 0)


def dead_counted(reward: Array, mask: Array, score_norm2: Array) -> Array:
    weight = np.add.accumulate(score_norm2, axis=-1)
    return reward[..., None] - (weight * reward[..., None]).sum(-2, keepdims=True) / weight.sum(-2, keepdims=True)


def under_no_score(problem: Problem, size: int) -> Array:
    return problem.values[1][: problem.prompts]


def last_score(problem: Problem, size: int) -> Array:
    """E[R‖S_T‖²]/E‖S_T‖²: the score of the last token in place of the whole."""
    mass = np.where(problem.ends, problem.reach[:, None] * problem.probs, 0)
    norm2 = baselines._logit_norms(problem)
    return np.array([(mass * norm2 * problem.totals).sum() / (mass * norm2).sum()])


MUTANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "no weights": ("opo", {"advantage": unweighted}),
    "own response kept": ("opo_loo", {"advantage": weighted_own_too}),
    "squares not added up": (
        "optimal_token_baseline",
        {"advantage": peers("reward", "mask", "score_norm2")(unaccumulated)},
    ),
    "ended responses counted": (
        "optimal_token_baseline",
        {"advantage": peers("reward", "mask", "score_norm2")(dead_counted)},
    ),
    "mean for optimum": (GLOBAL.name, {"constant": under_no_score}),
    "last score": (GLOBAL.name, {"constant": last_score}),
    "value for optimum": (TOKEN.name, {"critic": VALUE.critic}),
    "token for joint": (JOINT.name, {"critic": baselines.token_optimum}),
    "optimum for value": (VALUE.name, {"critic": baselines.token_optimum}),
}


@pytest.mark.parametrize("fault", MUTANTS)
def test_planted_faults_are_found(fault: str) -> None:
    # None is a matter of the mean alone: a baseline that is merely not the best shows in the variance.
    name, change = MUTANTS[fault]
    problem = zoo.random(4, 2, 3, 1, shared=2) if name == JOINT.name else zoo.random(4, 2, 3, 1)
    assert ref.disagreements(problem, brute_force(problem, ESTIMATORS[name], 2), name, 2) == set()
    wrong = brute_force(problem, replace(ESTIMATORS[name], **change), 2)
    assert "variance" in ref.disagreements(problem, wrong, name, 2)


def test_the_joint_optimum_is_where_the_derivative_vanishes() -> None:
    # Central differences of Var along every coordinate, exactly: (V(b + 1) − V(b − 1))/2 is the slope of a parabola.
    problem = zoo.random(4, 2, 2, 1, shared=2)
    twin, names = ref.read(problem), prefixes(problem)
    best = {p: lit.joint_optimum(twin, p) for p in names}
    for p in names:
        sides = [collapse(problem, with_table(JOINT, {**best, p: best[p] + d}), 1).total_variance for d in (1, -1)]
        assert sides[0] == sides[1]
