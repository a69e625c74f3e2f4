"""Estimators: every row's credits against its literal formula, what is undefined, and what must not matter."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import references as ref
from tests.strategies import DYADIC, PLAIN, SMALL, TINY, fit, problems
from tpg.errors import EstimatorError
from tpg.estimators import advantages, aggregation, core, critics, ratios, table
from tpg.estimators.estimator import Estimator
from tpg.estimators.parts import apply
from tpg.estimators.table import ESTIMATORS
from tpg.moments import brute_force
from tpg.numbers import FLOAT64, RATIONAL, gf
from tpg.problem import zoo
from tpg.problem.problem import Problem, make
from tpg.problem.tree import Tree
from tpg.rollouts import Rollouts, every, responses

ROWS = pytest.mark.parametrize("name", PLAIN)
# What follows from the literal formula need not be asked of every row again.
CORE = pytest.mark.parametrize("name", [row.name for row in core.ROWS])
EXACT = [name for name in PLAIN if ESTIMATORS[name].numbers != "float64"]
GROUP_RELATIVE = [name for name in PLAIN if ESTIMATORS[name].min_group > 1]
ALONE = [name for name in PLAIN if not ESTIMATORS[name].peers]
Z_SCORED = [name for name in GROUP_RELATIVE if name not in EXACT]


def numbers(problem: Problem, row: Estimator) -> Problem:
    return problem.to(FLOAT64) if row.numbers == "float64" else problem


def same(given: Any, expected: Any, size: float = 1.0) -> bool:
    """Equal; to 1e-12 of ``size`` where floats are involved."""
    return not ref.off(np.asarray(given).ravel(), list(np.asarray(expected, dtype=object).ravel()), size)


# Every row against its formula


def test_every_row_has_a_literal_reference() -> None:
    assert set(ref.CREDITS) >= set(PLAIN)
    assert set(ref.CREDITS) <= set(ESTIMATORS)


@pytest.mark.parametrize(("name", "size"), [(n, g) for n in PLAIN for g in range(ESTIMATORS[n].min_group, 4)])
@settings(max_examples=6)
@given(data=st.data())
def test_credits_are_the_literal_formula_on_every_group(name: str, size: int, data: st.DataObject) -> None:
    # Token by token.  Wrong: any other advantage, divisor, clip, or credit off the mask.
    row = ESTIMATORS[name]
    problem = data.draw(problems(TINY if size > 2 else SMALL, off_policy=None, **fit(row)))
    twin, given = ref.read(problem), numbers(problem, row)
    for prompt, singles, index, _ in every(given, size, row.given):
        credits = row(singles.group(index, row.needs))
        assert credits.shape == (*index.shape, problem.horizon)
        names = [(prompt, *(t for t in word if t >= 0)) for word in singles.token.tolist()]
        for got, group in zip(credits, index.tolist(), strict=True):
            words = [names[i] for i in group]
            for i, word in enumerate(words):
                pad = [0] * (problem.horizon - ref.length(word))
                wanted = ref.CREDITS[name](twin, words, i) + pad
                size = float(max(abs(c) for c in wanted))
                if name not in EXACT:  # terms of the size of the rewards may cancel
                    size += float(np.abs(given.totals).max())
                assert same(got[i], wanted, size), (words, i)


@given(problems(SMALL, off_policy=True, reference=True))
def test_credits_in_a_finite_field_are_the_image_of_the_rational_ones(problem: Problem) -> None:
    # Wrong: a comparison or a float hidden in a row that says it is algebraic.
    image = problem.to(gf())
    for row in (ESTIMATORS[name] for name in PLAIN):
        if row.algebraic and row.name != "remax":  # greedy has no meaning without an order
            pairs = [next(iter(every(p, max(2, row.min_group), row.given))) for p in (problem, image)]
            credits = [row(singles.group(index, row.needs)) for _, singles, index, _ in pairs]
            assert (gf().array(credits[0]) == credits[1]).all(), row.name


@ROWS
def test_rows_read_only_what_they_declare(name: str) -> None:
    # ``needs`` is enough; without any one of them the error names the field.
    row = ESTIMATORS[name]
    _, singles, index, _ = next(iter(every(numbers(zoo.referenced(), row), max(2, row.min_group), row.given)))
    row(singles.group(index[:1], row.needs))
    for field in row.needs - ref.OPTIONAL.get(name, set()):
        with pytest.raises(EstimatorError, match=f"^.* needs '{field}', which these rollouts lack: .+"):
            row(singles.group(index[:1], row.needs - {field}))


@pytest.mark.parametrize("name", ALONE)
@settings(max_examples=8)
@given(problem=problems(TINY, off_policy=None, reference=True))
def test_rows_without_peers_ignore_the_other_responses(name: str, problem: Problem) -> None:
    # Wrong: an undeclared coupling, which counting groups by class would miss.
    row = ESTIMATORS[name]
    for _, singles, index, _ in every(numbers(problem, row), 2, row.given):
        credits = row(singles.group(index, row.needs))
        for i in set(index[:, 0].tolist()):
            mine = credits[index[:, 0] == i, 0]
            assert (mine == mine[:1]).all()


# What is undefined, and what is defined by convention


@pytest.mark.parametrize("name", GROUP_RELATIVE)
def test_a_group_of_one_is_refused(name: str) -> None:
    row = ESTIMATORS[name]
    few = row.min_group - 1
    found = responses(numbers(zoo.referenced(), row), row.given)
    message = rf"^\w+ compares the responses of a group: group_size={few} given, at least {few + 1} needed$"
    with pytest.raises(EstimatorError, match=message):
        row(found.group(np.array([range(few)]), row.needs))


@pytest.mark.parametrize("reward", [0.0, 0.1, 0.7, 1 / 3, 1e-300, -1e300, Fraction(1, 3)])
@pytest.mark.parametrize("size", [2, 3, 7])
def test_equal_rewards_give_exactly_no_credit(reward: Any, size: int) -> None:
    # 0.1 + 0.1 + 0.1 ≠ 3 · 0.1 in float64.  Wrong: the rounding divided by a rounding, or NaN from 0/0.
    group = RATIONAL.array([reward] * size) if isinstance(reward, Fraction) else np.full(size, reward)
    parts = [advantages.rloo, advantages.group_mean]
    if isinstance(reward, float):
        parts += [
            advantages.z_score,
            partial(advantages.z_score, eps=0.0),
            partial(advantages.z_score, ddof=0, eps=0.0),
        ]
    for part in parts:
        assert (part(group) == 0).all()


def test_a_z_score_of_exact_numbers_is_refused() -> None:
    with pytest.raises(
        EstimatorError, match=r"^z_score takes a square root, exact numbers have none: use a float64 problem"
    ):
        advantages.z_score(RATIONAL.array([0, 1]))


@pytest.mark.parametrize(
    "part",
    [
        partial(aggregation.seq_mean_token_sum, group_size=2),
        partial(aggregation.seq_mean_token_mean, group_size=2),
        aggregation.token_mean,
        partial(aggregation.seq_mean_token_sum_norm, group_size=2, horizon=3),
    ],
)
def test_an_empty_mask_is_refused(part: Any) -> None:
    with pytest.raises(
        EstimatorError, match=r"^response \(1, 0\) has an empty mask: every response needs at least one token$"
    ):
        part(np.array([[1, 2], [0, 3]]))


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (critics.gae, "gae needs 'value', which these rollouts lack: give the estimator a critic"),
        (partial(critics.gae, lam=0), "gae needs 'value', which these rollouts lack: give the estimator a critic"),
        (
            advantages.greedy,
            "greedy needs 'greedy_reward', which these rollouts lack: build the rollouts from a Problem",
        ),
        (ratios.ppo_clip, "ppo_clip needs 'ratio', which these rollouts lack: add the field"),
    ],
)
def test_a_missing_field_is_named_with_its_remedy(part: Any, message: str) -> None:
    roll = Rollouts(1, 1, 1, reward=np.ones(1), length=np.ones(1, int), mask=np.ones((1, 1), bool))
    with pytest.raises(EstimatorError, match=f"^{message}$"):
        apply(part, roll)


def test_rows_are_found_by_name_and_alias() -> None:
    assert table.get("grpo") is ESTIMATORS["grpo"]
    for alias, name in table.ALIASES.items():
        assert alias not in ESTIMATORS
        assert table.get(alias) is ESTIMATORS[name]
    with pytest.raises(
        EstimatorError, match=r"^unknown estimator 'rlo': did you mean .*rloo.*\? \(`tpg list` shows all\)$"
    ):
        table.get("rlo")
    with pytest.raises(EstimatorError, match=r"^unknown estimator 'zzz': did you mean "):
        table.get("zzz")


@ROWS
def test_every_row_has_a_source_and_a_formula(name: str) -> None:
    row = ESTIMATORS[name]
    assert row.name == name
    assert row.source
    assert row.expectation.text
    assert ":" in row.formula


# Metamorphic relations


def whole_group(problem: Problem, row: Estimator, size: int = 4) -> Rollouts:
    """The first responses of the first prompt as one group of ``size``."""
    singles = responses(numbers(problem, row), row.given)
    index = np.arange(size) % int((singles.prompt == 0).sum())
    return singles.group(index, row.needs)


def paid_at_the_end(problem: Problem, change: Any) -> Problem:
    """Token rewards moved onto the last token, and RM(W) there changed by ``change``."""
    rewards = (
        np.where(problem.ends, change(problem.totals), RATIONAL.scalar(0)) / problem.powers[problem.tree.depth][:, None]
    )
    return replace(problem, rewards=rewards)


LINEAR = [row.name for row in core.ROWS if "wrong" not in row.name]  # that critic counts tokens, too
FULL_RETURN = ["reinforce", "trajectory_pg", "zra_discounted", "zra_discounted_start"]


@pytest.mark.parametrize("name", LINEAR)
@settings(max_examples=10)
@given(problem=problems(SMALL, off_policy=None, discounts=DYADIC), shift=st.sampled_from([-2, Fraction(1, 2), 4]))
def test_a_shift_of_all_rewards_moves_no_baselined_credit(name: str, problem: Problem, shift: Any) -> None:
    # RM + c: credits with a baseline stay; those of a full return weighted by w move by c·w, and w = credit at RM = 1.
    row = ESTIMATORS[name]
    plain, moved, one = (
        row(whole_group(paid_at_the_end(problem, change), row))
        for change in (lambda r: r, lambda r: r + RATIONAL.scalar(shift), lambda r: r * 0 + 1)
    )
    if name in FULL_RETURN or name == "reward_to_go":
        assert (moved - plain == one * RATIONAL.scalar(shift)).all()
        assert (one != 0).any()
    else:
        assert same(moved - plain, np.zeros(plain.shape, dtype=int))


@pytest.mark.parametrize("name", LINEAR)
@settings(max_examples=10)
@given(problem=problems(SMALL, off_policy=None, discounts=DYADIC), scale=st.sampled_from([2, Fraction(1, 4), 8]))
def test_credits_are_linear_in_the_rewards(name: str, problem: Problem, scale: Any) -> None:
    # RM · c: credits · c.  A z-score with ε = 0 stays as it is.
    row, factor = ESTIMATORS[name], Fraction(scale)
    if name in Z_SCORED:
        row, factor = replace(row, advantage=partial(advantages.z_score, eps=0.0)), Fraction(1)
    plain, moved = (
        row(whole_group(replace(problem, rewards=problem.rewards * RATIONAL.scalar(c)), row)) for c in (1, scale)
    )
    assert same(moved, [ref.exact(c) * factor for c in plain.ravel()])


@CORE
@given(data=st.data(), order=st.permutations(range(4)))
def test_the_order_of_a_group_does_not_matter(name: str, data: st.DataObject, order: list[int]) -> None:
    # Wrong: a baseline that reads the neighbour, or the first response.
    row = ESTIMATORS[name]
    problem = data.draw(problems(SMALL, off_policy=None, **fit(row)))
    singles = responses(numbers(problem, row), row.given)
    index = np.arange(4) % int((singles.prompt == 0).sum())
    straight, mixed = (row(singles.group(i, row.needs)) for i in (index, index[order]))
    assert same(mixed, [ref.exact(c) for c in straight[order].ravel()])


@CORE
@given(data=st.data(), extra=st.integers(1, 3))
def test_padding_does_not_matter(name: str, data: st.DataObject, extra: int) -> None:
    # A batch padded further right: the same credits, 0 on the padding.  dr_grpo divides by the padded length T, as its
    # published constant does.  Wrong: padding counted as tokens, bootstrapped into, or given the final reward.
    row = ESTIMATORS[name]
    roll = whole_group(data.draw(problems(SMALL, off_policy=None, **fit(row))), row)
    end = {"mask": False, "tokens": -1, "prefix": -1, "prob": 1, "old_prob": 1, "ref_prob": 1, "ratio": 1}
    padded = {}
    for field in row.needs:
        value = getattr(roll, field)
        if value.ndim == 2:
            last = (
                value[:, -1:]
                if field.endswith("continuation_value")
                else np.full_like(value[:, -1:], end.get(field, 0))
            )
            padded[field] = np.concatenate([value, *[last] * extra], axis=1)
    longer = row(replace(roll, horizon=roll.horizon + extra, **padded))
    by_horizon = row.aggregation is aggregation.seq_mean_token_sum_norm
    factor = Fraction(roll.horizon, roll.horizon + extra) if by_horizon else 1
    wanted = np.array([ref.exact(c) * factor for c in row(roll).ravel()], dtype=object).reshape(4, -1)
    assert same(longer, np.concatenate([wanted, np.zeros((4, extra), dtype=int)], axis=1))


def relabelled(problem: Problem, order: list[int]) -> Problem:
    """Token a is called order.index(a): the same process under other names; prefixes are renumbered with them."""
    tree, rows = problem.tree, list(range(problem.prompts))
    for node in rows:  # grows while it is read: breadth-first in the new order of tokens
        rows += [int(tree.child[node, token]) for token in order if tree.inner[node, token]]
    pick = np.ix_(rows, order)
    tables = {
        name: getattr(problem, name)[pick]
        for name in ("probs", "rewards", "behaviour", "reference", "features")
        if getattr(problem, name) is not None
    }
    end = None if problem.end_token is None else order.index(problem.end_token)
    return make(
        Tree(tree.inner[pick], tree.prompts),
        weights=problem.weights,
        discount=problem.discount,
        end_token=end,
        **tables,
    )


@CORE
@settings(max_examples=10)
@given(data=st.data())
def test_token_names_do_not_matter(name: str, data: st.DataObject) -> None:
    # Wrong: a formula that reads token ids.  ReMax breaks ties by name, so its policies have none.
    row = ESTIMATORS[name]
    if "tokens" in row.needs:
        return
    problem = data.draw(problems(off_policy=None, **fit(row)))
    if name == "remax":
        top = [sorted(p, reverse=True)[:2] for p in problem.probs.tolist()]
        if any(a == b for a, b in top):
            return
    other = relabelled(problem, data.draw(st.permutations(range(problem.vocab))))
    one, two = (brute_force(numbers(p, row), row, max(2, row.min_group)) for p in (problem, other))
    assert same(two.variance, [ref.exact(v) for v in one.variance], max(1.0, float(max(one.variance))))
    if problem.tabular:
        squares = [sorted(float(x) ** 2 for x in m.mean.ravel()) for m in (one, two)]
        np.testing.assert_allclose(squares[1], squares[0], rtol=1e-12, atol=1e-12)
    else:
        assert same(two.mean, [ref.exact(m) for m in one.mean.ravel()])


def twice(problem: Problem) -> Problem:
    """Every prompt listed twice, with half its weight each time."""
    count = problem.prompts
    rows: list[int] = []
    for t in range(problem.horizon):
        for x in [*range(count), *range(count)]:
            rows += range(problem.tree.bounds[t, x], problem.tree.bounds[t, x + 1])
    tables = {
        name: getattr(problem, name)[rows]
        for name in ("probs", "rewards", "behaviour", "reference", "features")
        if getattr(problem, name) is not None
    }
    weights = np.concatenate([problem.weights, problem.weights])
    tree = Tree(problem.tree.inner[rows], 2 * count)
    return make(tree, weights=weights, discount=problem.discount, end_token=problem.end_token, **tables)


@CORE
@settings(max_examples=10)
@given(data=st.data())
def test_a_prompt_listed_twice_halves_the_variance(name: str, data: st.DataObject) -> None:
    # Two independent groups of half weight: the same E ĝ, and 2 · (w/2)² = w²/2 of the variance.  Wrong: a baseline, a
    # critic or a normaliser that counts prompts.
    row = ESTIMATORS[name]
    problem = data.draw(problems(shared=True, off_policy=None, **fit(row)))
    one, two = (brute_force(numbers(p, row), row, max(2, row.min_group)) for p in (problem, twice(problem)))
    size = max(1.0, float(one.total_variance))
    assert same(two.problem.combine(two.mean), [ref.exact(m) for m in one.problem.combine(one.mean)], size)
    assert same([two.total_variance * 2], [ref.exact(one.total_variance)], size)


@pytest.mark.parametrize("critic", ["", "_position_critic", "_wrong_critic"])
@given(problem=problems(SMALL, off_policy=False))
def test_on_policy_ppo_is_gae(critic: str, problem: Problem) -> None:
    # Ratio 1, nothing clipped: the same credits, exactly.
    ppo, gae = ESTIMATORS["ppo" + critic], ESTIMATORS["gae" + critic]
    for _, singles, index, _ in every(problem, 2, gae.given):
        assert (ppo(singles.group(index, ppo.needs)) == gae(singles.group(index, gae.needs))).all()


def test_clipping_is_strict_at_the_boundary() -> None:
    # r = 1 ± ε exactly is not clipped.  Wrong: ≥ for >, or the sides swapped by the sign of the advantage.
    ratio = RATIONAL.array(["6/5", "6/5", "4/5", "4/5", "7/5", "7/5", "3/5", "3/5", "7/5"])
    sign = RATIONAL.array([1, -1, 1, -1, 1, -1, 1, -1, 0])
    kept = [1, 1, 1, 1, 0, 1, 1, 0, 1]
    assert (ratios.ppo_clip(ratio, sign) == ratio * np.array(kept)).all()
    wider = ratios.ppo_clip(ratio, sign, clip_low=0.4, clip_high=0.4)
    assert (wider == ratio).all()
