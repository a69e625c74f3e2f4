"""The parts of the variance, against the law of total variance written out over every response."""

from __future__ import annotations

from collections import defaultdict
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import references as ref
from tests.strategies import DISCOUNTS, SMALL, problems
from tpg import truth
from tpg.errors import EstimatorError
from tpg.estimators.estimator import Estimator
from tpg.estimators.table import ESTIMATORS
from tpg.moments import brute_force
from tpg.moments.split import split
from tpg.numbers import FLOAT64
from tpg.problem import zoo
from tpg.problem.problem import Problem

ALONE = ["reinforce", "reinforce_baseline", "reward_to_go", "exact_advantage", "gae", "gae_wrong_critic", "ppo"]
PARTS = ("state", "action", "continuation", "tokens", "group")

Weighed = list[tuple[Fraction, ref.Vector]]


def scaled(factor: Any, vector: ref.Vector) -> ref.Vector:
    return {key: factor * entry for key, entry in vector.items()}


def mean_of(rows: Weighed) -> ref.Vector:
    out: ref.Vector = defaultdict(Fraction)
    for chance, vector in rows:
        for key, entry in vector.items():
            out[key] += chance * entry
    return out


def spread_of(rows: Weighed) -> Fraction:
    """Total variance of vectors with probabilities that sum to 1."""
    mean = mean_of(rows)
    return sum((p * sum(((v.get(k, 0) - m) ** 2 for k, m in mean.items()), Fraction(0)) for p, v in rows), Fraction(0))


def literal(twin: ref.Twin, prompt: int, credit: ref.Credit) -> list[Fraction]:
    """State, action, continuation and token parts of one prompt, G = 1: conditional means, one prefix at a time."""
    words = ref.responses(twin, prompt)
    state = action = after = Fraction(0)
    for t in range(twin.horizon):
        by_token: dict[tuple[ref.Prefix, int], list[tuple[Fraction, Any]]] = defaultdict(list)
        for word, chance in words.items():
            if t < ref.length(word):
                by_token[ref.steps(word)[t]].append((chance, credit(twin, [word], 0)[t]))
        prefixes: dict[ref.Prefix, Weighed] = defaultdict(list)
        for (prefix, token), rows in by_token.items():
            mass = sum(p for p, _ in rows)
            expected = sum(p * c for p, c in rows) / mass
            score = ref.score(twin, prefix, token)
            after += sum(p * (c - expected) ** 2 for p, c in rows) * sum(s * s for s in score.values())
            prefixes[prefix].append((mass, scaled(expected, score)))
        levels: Weighed = []
        for rows in prefixes.values():
            mass = sum((p for p, _ in rows), Fraction(0))
            within = [(p / mass, vector) for p, vector in rows]
            action += mass * spread_of(within)
            levels.append((mass, mean_of(within)))
        levels.append((1 - sum((p for p, _ in levels), Fraction(0)), {}))  # responses that ended before
        state += spread_of(levels)
    whole = spread_of([(chance, ghat) for chance, ghat in ref.estimates(twin, prompt, credit, 1)])
    return [state, action, after, whole - state - action - after]


@pytest.mark.parametrize("name", ALONE)
@settings(max_examples=15)
@given(problem=problems(SMALL, off_policy=None, discounts=DISCOUNTS), size=st.integers(1, 3))
def test_parts_are_the_literal_conditional_variances(name: str, problem: Problem, size: int) -> None:
    # Wrong: a part of another position, responses that ended left out of the state part, weights unsquared.
    twin, found = ref.read(problem), split(problem, ESTIMATORS[name], size)
    wanted = [Fraction(0)] * 4
    for prompt, weight in enumerate(twin.weight):
        each = literal(twin, prompt, ref.CREDITS[name])
        wanted = [w + weight**2 * part / size for w, part in zip(wanted, each, strict=True)]
    assert [ref.exact(getattr(found, part)) for part in PARTS] == [*wanted, 0]


@pytest.mark.parametrize("name", ["rloo", "group_mean", "dr_grpo"])
@settings(max_examples=15)
@given(problem=problems(SMALL), size=st.integers(2, 4))
def test_parts_add_up_and_peers_own_the_rest(name: str, problem: Problem, size: int) -> None:
    # A leave-one-out credit averaged over its peers is R − J: the parts of reinforce_baseline, scaled by E ĝ's factor.
    # The rest of RLOO is (σ_R² E‖Z‖² + ‖g‖²)/(G(G−1)) per prompt (algorithms.md R7).
    row, alone = ESTIMATORS[name], split(problem, ESTIMATORS["reinforce_baseline"], size)
    found = split(problem, row, size)
    factor = row.expectation.factor(problem, size) ** 2
    for part in PARTS[:-1]:
        assert ref.exact(getattr(found, part)) == factor * ref.exact(getattr(alone, part))
    if size == 2:  # larger groups are too many to list
        assert sum(vars(found).values()) == brute_force(problem, row, 2).total_variance
    if name == "rloo":
        assert found.group == sum(
            w**2 * rest for w, rest in zip(problem.weights, peers_of_rloo(problem, size), strict=True)
        )


def peers_of_rloo(problem: Problem, size: int) -> list[Any]:
    twin, g = ref.read(problem), truth.gradient(problem)
    out = []
    for prompt, norm in enumerate(problem.inner(g, g)):
        words = ref.responses(twin, prompt)
        reward = [(p, ref.total(twin, w)) for w, p in words.items()]
        mean = sum(p * r for p, r in reward)
        spread = sum(p * (r - mean) ** 2 for p, r in reward)
        squares = Fraction(0)
        for word, chance in words.items():
            z: ref.Vector = defaultdict(Fraction)
            for prefix, token in ref.steps(word):
                for key, entry in ref.score(twin, prefix, token).items():
                    z[key] += entry
            squares += chance * sum(entry**2 for entry in z.values())
        out.append((problem.field.scalar(spread * squares) + norm) / (size * (size - 1)))
    return out


def test_what_the_published_pictures_say() -> None:
    # Key token first: nothing that comes after it matters, so no part of the variance belongs to continuations.
    first, last = (split(make(), ESTIMATORS["reinforce_baseline"], 1) for make in (zoo.key_first, zoo.key_last))
    assert first.continuation == first.state == 0 < first.action
    assert last.continuation > 0 < last.state
    assert split(zoo.shared(), ESTIMATORS["exact_advantage"], 1).continuation == 0  # Q is exact
    assert split(zoo.shared(), ESTIMATORS["exact_advantage"], 1).tokens != 0  # parameters are shared


@pytest.mark.parametrize("shared", [0, 2])
def test_the_z_score_splits_too(shared: int) -> None:
    problem = zoo.random(5, shared=shared, values=3).to(FLOAT64)
    found = split(problem, ESTIMATORS["grpo"], 2)
    total = brute_force(problem, ESTIMATORS["grpo"], 2).total_variance
    assert abs(sum(vars(found).values()) - total) <= 1e-12 * total


def test_rows_that_cannot_be_split_say_so() -> None:
    row = Estimator("noisy", ESTIMATORS["exact_advantage"].advantage, continuations=1)
    with pytest.raises(EstimatorError, match=r"^noisy: the split needs credits that are a function of reward and path"):
        split(zoo.two_valued(), row, 1)
