"""What an update costs in tokens: against the list of everything that is generated."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings

from tests import references as ref
from tests.literal import continuations as literal
from tests.strategies import SMALL, problems
from tpg.errors import EstimatorError
from tpg.estimators import advantages
from tpg.estimators.estimator import Estimator
from tpg.estimators.parts import peers
from tpg.estimators.table import ESTIMATORS
from tpg.moments.cost import generated_tokens, remaining, tokens_by_prompt
from tpg.numbers import FLOAT64, Array
from tpg.problem import zoo
from tpg.problem.problem import Problem, make
from tpg.problem.tree import grow

MARK = Fraction(10**9)


def length_of(twin: ref.Twin, prompt: int) -> Fraction:
    return sum((p * ref.length(w) for w, p in ref.responses(twin, prompt).items()), Fraction(0))


def to_come(twin: ref.Twin, prefix: ref.Prefix) -> Fraction:
    """Expected tokens after a prefix, over the list of its continuations."""
    return sum((p * (len(w) - len(prefix)) for w, p in literal.onward(twin, prefix).items()), Fraction(0))


def read(twin: ref.Twin, name: str, word: ref.Prefix, anchors: frozenset[int], second: bool) -> list[int]:
    """The positions t < L whose value the credits depend on: they change when it does."""
    long = ref.length(word)
    zero, out = [Fraction(0)] * (long + 1), []
    for t in range(long):
        other = [MARK if u == t else Fraction(0) for u in range(long + 1)]
        values = (zero, other) if second else (other, zero)
        if any(literal.GIVEN[name][0](twin, word, *values, anchors)):
            out.append(t)
    return out


def literal_tokens(twin: ref.Twin, prompt: int, name: str, size: int, count: int) -> Fraction:
    """Tokens of the responses, and of ``count`` continuations of every prefix whose value is read."""
    total, law = length_of(twin, prompt), literal.GIVEN[name][1]
    for word, p in ref.responses(twin, prompt).items():
        for (anchors, q), second in itertools.product(law(twin.horizon, ref.length(word)).items(), (False, True)):
            places = read(twin, name, word, anchors, second)
            total += p * q * count * sum((to_come(twin, word[: t + 1]) for t in places), Fraction(0))
    return total * size


@pytest.mark.parametrize("name", list(literal.GIVEN))
@settings(max_examples=6)
@given(problem=problems(SMALL, off_policy=None))
def test_tokens_are_those_of_the_list(name: str, problem: Problem) -> None:
    # K = 3 for every row that could draw.  Wrong: continuations of prefixes nobody asks about, of the end of the
    # response, of the policy that generates; the second set forgotten.
    twin, row = ref.read(problem), replace(ESTIMATORS[name], continuations=3)
    found = tokens_by_prompt(problem, row, 2)
    assert ref.fractions(found) == [literal_tokens(twin, x, name, 2, 3) for x in range(problem.prompts)]
    assert generated_tokens(problem, row, 2) == found.sum()
    plain = tokens_by_prompt(problem, replace(row, continuations=None), 2)  # exact values are not paid for
    assert ref.fractions(plain) == [2 * length_of(twin, x) for x in range(problem.prompts)]


@settings(max_examples=15)
@given(problem=problems(SMALL, off_policy=None, dead=True))
def test_tokens_of_other_rows_are_those_of_their_responses(problem: Problem) -> None:
    twin = ref.read(problem)
    long = [length_of(twin, x) for x in range(problem.prompts)]
    for name in ("reinforce", "rloo", "exact_advantage", "tempo"):
        assert ref.fractions(tokens_by_prompt(problem, ESTIMATORS[name], 3)) == [3 * n for n in long]
    greedy = []
    for x in range(problem.prompts):
        word: ref.Prefix = (x,)
        while word in twin.policy:
            word = (*word, twin.policy[word].index(max(twin.policy[word])))
        greedy.append(ref.length(word))
    found = tokens_by_prompt(problem, ESTIMATORS["remax"], 3)
    assert ref.fractions(found) == [3 * n + extra for n, extra in zip(long, greedy, strict=True)]
    assert ref.fractions(remaining(problem)) == [to_come(twin, prefix) for prefix in twin.policy]


def different(reward: Array) -> Array:
    """Groups whose rewards are not all equal."""
    return ~advantages.tied(reward)


different_pair = peers("reward")(different)


@peers("reward", "prefix")
def different_rewards(reward: Array, prefix: Array) -> Array:
    return different(reward)


@pytest.mark.parametrize("keep", [different_pair, different_rewards])
@settings(max_examples=15)
@given(problem=problems(SMALL, off_policy=None, mixed=True))
def test_groups_that_are_drawn_again_are_paid_again(keep: Any, problem: Problem) -> None:
    # Wald: tokens of a group over the chance that it is kept.
    twin, size = ref.read(problem), 2
    row = Estimator("filtered", advantages.group_mean, keep=keep)
    wanted = []
    for x in range(problem.prompts):
        ways = ref.responses(twin, x)
        kept = Fraction(0)
        for group in itertools.product(ways, repeat=size):
            if len({ref.total(twin, w) for w in group}) > 1:
                kept += math.prod((ways[w] for w in group), start=Fraction(1))
        wanted.append(size * length_of(twin, x) / kept)
    assert ref.fractions(tokens_by_prompt(problem, row, size)) == wanted


def test_the_price_of_every_token_by_hand() -> None:
    # Two tokens, always: a response costs 2; K continuations from () cost 2K and from the prefix of one token K.
    problem = make(grow(2, 2), [["1/2", "1/2"]] * 3, [[0, 1], [2, 3], [4, 5]])
    assert generated_tokens(problem, ESTIMATORS["reinforce"], 8) == 16
    assert generated_tokens(problem, ESTIMATORS["exact_advantage_k4"], 8) == 8 * (2 + 4 * 3)
    assert generated_tokens(problem, ESTIMATORS["trajectory_pg_k"], 8) == 8 * (2 + 4 * 1)  # M_1 alone is drawn
    # Q_1 = M_1 once, V_0 and V_1 from the second set.
    assert generated_tokens(problem, ESTIMATORS["exact_advantage_k1_independent"], 8) == 8 * (2 + 1 + 2 + 1)
    assert generated_tokens(problem, ESTIMATORS["trepo_block_k1"], 8) == 36  # 8 (2 + 2 + 1/2)
    assert generated_tokens(problem.to(FLOAT64), ESTIMATORS["trepo_block_k1"], 8) == 36.0


@peers("reward")
def ahead_of_the_others(reward: Array, continuation_value: Array) -> Array:
    return continuation_value[..., 1:] - reward.sum(-1, keepdims=True)[..., None]


def test_values_that_meet_peers_on_single_tokens_have_no_known_cost() -> None:
    row = Estimator("mixed", ahead_of_the_others, continuations=1)
    with pytest.raises(
        EstimatorError, match=r"^mixed: peers act on single tokens, which values it reads is not known$"
    ):
        generated_tokens(zoo.two_valued(), row, 2)


def test_the_price_on_a_larger_tree() -> None:
    # Six tokens, always.  Continuations of the root cost 6, and every other prefix of t tokens is an anchor half of the
    # time and costs 6 − t: 6 + 6 + (5 + 4 + 3 + 2 + 1)/2 = 19.5.
    problem = zoo.large(horizon=6)
    assert generated_tokens(problem, ESTIMATORS["rloo"], 8) == pytest.approx(48, rel=1e-12)
    assert generated_tokens(problem, ESTIMATORS["trepo_block_k1"], 8) == pytest.approx(8 * 19.5, rel=1e-12)
