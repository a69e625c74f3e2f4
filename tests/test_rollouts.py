"""Rollouts: what an estimator reads, every group with its probability, and the sampler, tested without chance."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import references as ref
from tests.strategies import MEDIUM, TINY, problems
from tpg import rollouts
from tpg.errors import EstimatorError, TooLarge
from tpg.estimators.critics import exact_critic
from tpg.numbers import FLOAT64, Array, gf
from tpg.problem import zoo
from tpg.problem.problem import Problem, make
from tpg.problem.tree import grow, inverse_cdf
from tpg.rollouts import FIELDS, Given, Responses, draw, every, greedy, per_prompt, responses

anything = problems(MEDIUM, prompts=3, off_policy=None)
LAST = 1 - 2**-53  # the largest u that rng.random() can return


def words(found: Responses, prompt: Any, index: Any) -> list[ref.Prefix]:
    """Responses as the reference writes them: (prompt, w₁, …)."""
    return [(int(prompt), *(t for t in row if t >= 0)) for row in found.token[index].tolist()]


# Every response, every group


@given(anything)
def test_responses_are_all_responses_with_their_probability(problem: Problem) -> None:
    # Wrong: probabilities of the current policy where another one generates; a forbidden response listed.
    twin, found = ref.read(problem), responses(problem)
    listed = [w for x in range(problem.prompts) for w in words(found, x, found.prompt == x)]
    expected = [ref.responses(twin, x) for x in range(problem.prompts)]
    assert listed == [w for part in expected for w in sorted(part)]
    assert ref.fractions(found.probability) == [part[w] for part in expected for w in sorted(part)]


def number_of_the_prompt(problem: Problem, group_size: int) -> Any:
    return 6 * group_size + 1 + np.arange(problem.prompts)


GIVEN = Given(exact_critic, lambda problem: problem.rewards, number_of_the_prompt)


@given(problems(off_policy=None, reference=True))
def test_fields_are_what_they_are_called(problem: Problem) -> None:
    # Every field of every response, token by token; after the end 0, 1 for probabilities, −1 for tokens, RM for M_t.
    twin, found = ref.read(problem), responses(problem, GIVEN)
    roll = found.group(np.arange(len(found.node))[:, None], FIELDS)
    assert all(getattr(roll, name) is not None for name in FIELDS if name != "anchor")
    assert (roll.group_size, roll.horizon, roll.discount) == (1, problem.horizon, problem.discount)
    everything = [w for x in range(problem.prompts) for w in sorted(ref.responses(twin, x))]
    for i, w in enumerate(everything):
        steps, pad = ref.steps(w), problem.horizon - ref.length(w)

        def field(name: str, i: int = i) -> Any:
            value = getattr(roll, name)[i]
            return ref.fractions(value[0] if value.ndim > 1 else value)

        def table(policy: dict[ref.Prefix, list[Fraction]], end: int, steps: Any = steps, pad: int = pad) -> list[Any]:
            return [policy[s][a] for s, a in steps] + [end] * pad

        m = [twin.value[w[: t + 1]] for t in range(1 + len(steps))]
        assert field("reward") == [ref.total(twin, w)]
        assert field("length") == [len(steps)]
        assert field("tokens") == [*w[1:], *[-1] * pad]
        assert field("mask") == [True] * len(steps) + [False] * pad
        assert field("token_reward") == table(twin.reward, 0)
        assert field("prob") == table(twin.policy, 1)
        assert field("old_prob") == table(twin.behaviour, 1)
        assert field("ratio") == [p / q for p, q in zip(table(twin.policy, 1), table(twin.behaviour, 1), strict=True)]
        assert field("continuation_value") == m + [m[-1]] * pad
        assert field("value") == m[:-1] + [0] * (pad + 1)
        assert field("expected_reward") == m[:1]
        best = w[:1]
        while best in twin.policy:
            best = (*best, twin.policy[best].index(max(twin.policy[best])))
        assert field("greedy_reward") == [ref.total(twin, best)]
        assert field("ref_prob") == table(twin.reference or {}, 1)
        assert field("sequence_ratio") == [math.prod(field("ratio"))]
        assert field("second_continuation_value") == field("continuation_value")
        norms = [1 - 2 * twin.policy[s][a] + sum(p * p for p in twin.policy[s]) for s, a in steps]
        assert field("score_norm2") == norms + [0] * pad
        assert field("process_reward") == table(twin.reward, 0)  # the model is the true token reward here
        assert field("prompt_constant") == [7 + w[0]]
        nodes = roll.prefix[i, 0].tolist()
        assert [number < 0 for number in nodes] == [False] * len(steps) + [True] * (pad + 1)
        assert ref.fractions(problem.probs[nodes[: len(steps)]]) == [twin.policy[s] for s, _ in steps]
        for log, prob in (("logp", "prob"), ("old_logp", "old_prob"), ("ref_logp", "ref_prob")):
            wanted = [math.log(p) for p in field(prob)]
            np.testing.assert_allclose(getattr(roll, log)[i, 0], wanted, rtol=1e-12)
            if log != "old_logp":
                np.testing.assert_allclose(getattr(roll, f"sequence_{log}")[i, 0], sum(wanted), atol=1e-12)


@given(anything)
def test_per_prompt_fields_agree_with_those_of_responses(problem: Problem) -> None:
    names = ["expected_reward", "greedy_reward", "prompt_constant", "reward"]
    found, given = responses(problem, GIVEN), per_prompt(problem, names, GIVEN, 2)
    assert set(given) == {"expected_reward", "greedy_reward", "prompt_constant"}
    pairs = found.group(np.stack([np.arange(len(found.node))] * 2, axis=1), names)
    for name, table in given.items():
        assert table.shape == (problem.prompts,)
        assert (getattr(pairs, name)[:, 0] == table[found.prompt]).all()
    assert given["prompt_constant"][0] == 13


def test_a_reference_policy_is_read_where_there_is_one() -> None:
    problem = make(grow(2, 1), [["1/2", "1/2"]], [[0, 1]], reference=[["1/4", "3/4"]])
    assert ref.fractions(responses(problem).ref_prob) == [[Fraction(1, 4)], [Fraction(3, 4)]]


@pytest.mark.parametrize("size", [1, 2, 3])
@given(problem=problems(TINY, prompts=3, off_policy=None))
def test_every_group_comes_once_with_its_probability(size: int, problem: Problem) -> None:
    # Wrong: unordered groups, groups across prompts, or probabilities that do not sum to 1 per prompt.
    twin = ref.read(problem)
    found: list[Counter[Any]] = [Counter() for _ in range(problem.prompts)]
    for prompt, singles, index, probability in every(problem, size):
        assert index.shape == (len(probability), size)
        names = {i: words(singles, prompt, [i])[0] for i in set(index.ravel().tolist())}
        for group, chance in zip(index.tolist(), probability, strict=True):
            found[prompt][tuple(names[i] for i in group)] += ref.exact(chance)
    for x, groups in enumerate(found):
        singles = ref.responses(twin, x)
        expected = {g: math.prod(singles[w] for w in g) for g in itertools.product(singles, repeat=size)}
        assert groups == expected
        assert sum(groups.values()) == 1


def test_blocks_do_not_change_the_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = zoo.three_valued()
    whole = list(every(problem, 2))
    monkeypatch.setattr(rollouts, "CHUNK", 7)
    parts = list(every(problem, 2))
    assert len(whole) == 2 < len(parts)
    for x in (0, 1):
        for column in (2, 3):  # the groups, their probabilities
            joined = [np.concatenate([block[column] for block in blocks if block[0] == x]) for blocks in (parts, whole)]
            assert (joined[0] == joined[1]).all()


def test_groups_may_have_any_leading_axes() -> None:
    found = responses(zoo.three_valued())
    index = np.arange(12).reshape(2, 3, 2)
    roll = found.group(index, ["reward", "mask", "expected_reward"], group_size=5)
    assert roll.group_size == 5
    assert roll.reward is not None
    assert roll.mask is not None
    assert roll.expected_reward is not None
    assert (roll.reward == found.reward[index]).all()
    assert roll.mask.shape == (2, 3, 2, 3)
    assert roll.expected_reward.shape == (2, 3, 1)
    assert roll.tokens is None


@given(problems(TINY, prompts=3))
def test_greedy_takes_the_first_of_the_most_probable_tokens(problem: Problem) -> None:
    twin, found = ref.read(problem), greedy(problem)
    for x in range(problem.prompts):
        (word,) = words(found, x, [x])
        assert all(twin.policy[s].index(max(twin.policy[s])) == a for s, a in ref.steps(word))
        assert word not in twin.policy


def test_enumeration_beyond_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = zoo.two_valued()  # 1 + 2·1 + 4·3 = 15 responses of at most 3 tokens
    monkeypatch.setattr(rollouts, "MAX_ENTRIES", 15 * 3 - 1)
    with pytest.raises(
        TooLarge, match=r"^two-valued: enumerating every response would need 45 entries, the limit is 44"
    ):
        responses(problem)
    monkeypatch.setattr(rollouts, "MAX_ENTRIES", 15 * 3)
    assert len(responses(problem).node) == 15
    with pytest.raises(
        TooLarge, match=r"^two-valued: every group of 3 would need 3.04e\+04 entries.* lower the group size$"
    ):
        next(iter(every(problem, 3)))  # 15³ · 3 · 3 = 30375


# The sampler


class Spaced:
    """A random generator whose numbers are an equally spaced grid in every position of the response.

    Walkers stand in the order of (u₁, …, u_T), so those that share their first t tokens stand together, in blocks of
    n^(T−t); each block is handed the whole grid, coarse steps first.
    """

    def __init__(self, n: int, horizon: int, offset: float) -> None:
        self.grid, self.size, self.step = (np.arange(n) + offset) / n, n**horizon, n

    def random(self, count: int) -> Array:
        self.size //= self.step
        return self.grid[np.arange(count) // self.size % self.step]


@pytest.mark.parametrize("offset", [0.0, 0.5, 0.999])
@given(problem=problems(((3, 2), (2, 3)), in_quarters=True))
def test_the_sampler_draws_every_response_as_often_as_it_is_probable(offset: float, problem: Problem) -> None:
    # 4^T walkers per prompt, one for each (u₁, …, u_T) of the grid: counts must equal 4^T · P(W) exactly.
    # Wrong: ≤ for < at a boundary (offset 0 sits on it), tokens shifted by one, walkers swapped when others end.
    twin, many = ref.read(problem), 4**problem.horizon
    found, index = draw(problem, many, Spaced(4, problem.horizon, offset))  # type: ignore[arg-type]
    for x in range(problem.prompts):
        counts = Counter(words(found, x, index[0, x]))
        assert counts == {w: many * p for w, p in ref.responses(twin, x).items()}


@given(st.lists(st.integers(0, 4), min_size=2, max_size=6).filter(any), st.sampled_from([0.0, 0.5, 0.999]))
def test_equally_spaced_u_give_equally_spaced_tokens(weights: list[int], offset: float) -> None:
    # n numbers (k + offset)/n with n = Σ weights: token a comes weights[a] times, but for float boundaries at offset 0.
    n = sum(weights)
    probs = np.array([weights], dtype=float) / n
    u = (np.arange(n) + offset) / n
    row, token = inverse_cdf(lambda count: u)(np.repeat(probs, n, axis=0))
    assert row.tolist() == list(range(n))
    counts = np.bincount(token, minlength=len(weights))
    if offset:
        assert counts.tolist() == weights
    assert not counts[np.array(weights) == 0].any()
    assert (np.diff(token) >= 0).all()


@pytest.mark.parametrize("u", [0.0, 2**-53, LAST])
@given(weights=st.lists(st.sampled_from([0.0, 1e-17, 0.1, 1.0, 3.0]), min_size=2, max_size=12).filter(any))
def test_the_edges_of_u_draw_allowed_tokens(u: float, weights: list[float]) -> None:
    # u = 0 must skip leading zeros; u just below 1 must not run past the last allowed token, though rounded sums may.
    row = np.array(weights)
    probs = (row / row.sum())[None, :]
    _, token = inverse_cdf(lambda count: np.full(count, u))(probs)
    assert probs[0, token[0]] > 0
    if u == 0:
        assert token[0] == np.flatnonzero(probs[0])[0]


def test_sums_below_one_never_draw_a_forbidden_token() -> None:
    # Ten times 0.1 sums to 1 − 2⁻⁵³ in float64 = the largest u: u ≥ every sum, and the forbidden token comes next.
    probs = np.array([[0.1] * 10 + [0.0]])
    assert np.cumsum(probs)[-1] <= LAST
    _, token = inverse_cdf(lambda count: np.full(count, LAST))(probs)
    assert token.tolist() == [9]


@given(problems(MEDIUM, prompts=3, off_policy=None), st.integers(0, 2**32), st.integers(1, 3), st.integers(1, 3))
def test_drawn_responses_are_possible_and_in_the_order_of_prompts(
    problem: Problem, seed: int, size: int, batches: int
) -> None:
    # Wrong: the batch axis and the prompt axis swapped; responses of the current policy instead of the generating one.
    twin = ref.read(problem)
    found, index = draw(problem, size, np.random.Generator(np.random.Philox(seed)), batches)
    assert index.shape == (batches, problem.prompts, size)
    assert sorted(index.ravel().tolist()) == list(range(index.size)) == list(range(len(found.node)))
    for x in range(problem.prompts):
        assert (found.prompt[index[:, x]] == x).all()
        possible = ref.responses(twin, x)
        drawn = words(found, x, index[:, x].ravel())
        assert set(drawn) <= set(possible)
        assert ref.fractions(found.probability[index[:, x].ravel()]) == [possible[w] for w in drawn]


@given(problems(MEDIUM, off_policy=None), st.integers(0, 2**32))
def test_drawing_reads_the_numbers_not_their_type(problem: Problem, seed: int) -> None:
    drawn = [draw(p, 4, np.random.Generator(np.random.Philox(seed)))[0].token for p in (problem, problem.to(FLOAT64))]
    assert (drawn[0] == drawn[1]).all()


def test_one_more_response_does_not_change_the_batch_layout() -> None:
    found, index = draw(zoo.three_valued(), 2, np.random.default_rng(0), batches=3)
    assert found.prompt.tolist() == [0, 0, 1, 1] * 3
    assert index.tolist() == np.arange(12).reshape(3, 2, 2).tolist()


def test_finite_fields_enumerate_the_same_responses() -> None:
    exact, image = responses(zoo.forbidden()), responses(zoo.forbidden().to(gf()))
    assert (exact.token == image.token).all()
    assert (image.probability == gf().array(exact.probability)).all()


def test_groups_that_are_not_kept_are_drawn_again_and_only_those() -> None:
    problem = zoo.three_valued().to(FLOAT64)

    def differ(singles: Responses, members: Array) -> Array:
        return np.ptp(singles.reward[members], axis=1) > 0

    plain, index = draw(problem, 2, np.random.default_rng(3), batches=200)
    kept, _ = draw(problem, 2, np.random.default_rng(3), batches=200, keep=differ)
    first = differ(plain, index.reshape(-1, 2))
    assert 0 < first.sum() < len(first)
    assert differ(kept, index.reshape(-1, 2)).all()
    assert (kept.prompt == plain.prompt).all()
    assert (
        kept.token.reshape(-1, 2, problem.horizon)[first] == plain.token.reshape(-1, 2, problem.horizon)[first]
    ).all()


def test_a_prompt_whose_groups_are_never_kept_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollouts, "ROUNDS", 3)
    with pytest.raises(EstimatorError, match="3 times no group was kept for a prompt"):
        draw(
            zoo.three_valued(), 2, np.random.default_rng(0), keep=lambda singles, members: np.zeros(len(members), bool)
        )
