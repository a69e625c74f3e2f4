"""Problems: what the tables mean, in every number type, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import references as ref
from tests.strategies import MEDIUM, problems
from tpg.errors import ProblemError, TpgError
from tpg.numbers import FLOAT64, MERSENNE_61, RATIONAL, Field, gf
from tpg.problem import zoo
from tpg.problem.problem import Problem, make
from tpg.problem.tree import Tree, grow

FIELDS = [FLOAT64, RATIONAL, gf(), gf(1_000_003)]
anything = problems(MEDIUM, prompts=3, off_policy=None, dead=True)


def residue(number: Fraction, modulus: int = MERSENNE_61) -> int:
    return number.numerator * pow(number.denominator, -1, modulus) % modulus


# Meaning


@given(anything)
def test_totals_add_discounted_rewards_up_to_each_token(problem: Problem) -> None:
    # Wrong: γ^t for γ^{t−1}, the discount forgotten, or the past of another branch.
    twin = ref.read(problem)
    paid = [[ref.total(twin, (*s, a)) for a in range(problem.vocab)] for s in twin.policy]
    assert ref.fractions(problem.totals) == paid


@given(anything)
def test_values_are_expectations_under_the_current_policy(problem: Problem) -> None:
    # Wrong: continuations from the behaviour policy.
    twin, (after, here) = ref.read(problem), problem.values
    assert ref.fractions(here) == [twin.value[s] for s in twin.policy]
    assert ref.fractions(after) == [[twin.value[(*s, a)] for a in range(problem.vocab)] for s in twin.policy]


@given(anything)
def test_ends_are_where_responses_end(problem: Problem) -> None:
    # Wrong: responses that only the behaviour policy, or only the current one, can generate are lost.
    twin = ref.read(problem)
    policies = (twin.policy, twin.behaviour)
    final = {(s, a) for s in twin.policy for a in range(problem.vocab) if any(p[s][a] for p in policies)}
    expected = [[(s, a) in final and (*s, a) not in twin.policy for a in range(problem.vocab)] for s in twin.policy]
    assert problem.ends.tolist() == expected
    assert (problem.horizon, problem.prompts) == (twin.horizon, twin.prompts)
    assert problem.on_policy == (twin.policy == twin.behaviour)


@given(anything, st.randoms(use_true_random=False))
def test_pull_sums_scores_and_combine_weighs_prompts(problem: Problem, rng: Any) -> None:
    # Σ c(s,a) ∂log π(a|s)/∂θ, score by score.  Wrong: a score without its mean, prompts mixed, weights squared.
    twin = ref.read(problem)
    first, second = (
        {(s, a): Fraction(rng.randint(-3, 3)) for s in twin.policy for a in range(problem.vocab)} for _ in range(2)
    )
    pulled = [
        problem.pull(problem.field.array(np.array(list(c.values()), dtype=object).reshape(problem.probs.shape)))
        for c in (first, second)
    ]
    parts: list[list[ref.Vector]] = [[{} for _ in range(twin.prompts)] for _ in range(2)]
    for own, coefficients in zip(parts, (first, second), strict=True):
        for (s, a), c in coefficients.items():
            for parameter, entry in ref.score(twin, s, a).items():
                own[s[0]][parameter] = own[s[0]].get(parameter, 0) + c * entry
    assert ref.fractions(problem.combine(pulled[0])) == ref.mixed(twin, parts[0])
    products = [sum(u * v.get(p, 0) for p, u in a.items()) for a, v in zip(*parts, strict=True)]
    assert ref.fractions(problem.inner(*pulled)) == products


@given(anything)
def test_prompt_weights_sum_to_one(problem: Problem) -> None:
    assert sum(ref.fractions(problem.weights)) == 1
    assert all(w > 0 for w in problem.weights)


@given(problems(MEDIUM, prompts=3, off_policy=None))
def test_number_types_are_images_of_the_rational_problem(problem: Problem) -> None:
    # float64: each entry the nearest float; GF(p): each entry its residue.
    for table in ("probs", "rewards", "behaviour", "features", "weights"):
        exact = getattr(problem, table)
        if exact is not None:
            numbers = [ref.exact(x) for x in exact.ravel()]
            assert getattr(problem.to(FLOAT64), table).ravel().tolist() == [float(x) for x in numbers]
            assert [int(x) for x in getattr(problem.to(gf()), table).ravel()] == [residue(x) for x in numbers]
    assert problem.to(RATIONAL) is problem
    assert problem.to(FLOAT64).discount == float(ref.exact(problem.discount))


# Zoo


@pytest.mark.parametrize("field", FIELDS, ids=lambda f: f.name)
@pytest.mark.parametrize("name", [name for name in zoo.ZOO if name not in ("random", "large")])
def test_zoo_problems_are_the_same_in_every_number_type(name: str, field: Field) -> None:
    # Wrong: a number type that changes the problem, or cannot build it.
    exact, made = zoo.ZOO[name](field=RATIONAL), zoo.ZOO[name](field=field)
    assert made.name == exact.name == name
    assert made.field is field
    assert (made.tree.inner == exact.tree.inner).all()
    for table in ("probs", "rewards", "weights", "features"):
        if getattr(exact, table) is not None:
            given, wanted = getattr(made, table), getattr(exact.to(field), table)
            if field is FLOAT64:
                np.testing.assert_allclose(given, wanted, rtol=1e-15, atol=0)
            else:
                assert (given == wanted).all()


def test_zoo_problems_are_what_they_say() -> None:
    def rewards(name: str, x: int = 0) -> dict[tuple[int, ...], Fraction]:
        twin = ref.read(zoo.get(name))
        return {w[1:]: ref.total(twin, w) for w in ref.responses(twin, x)}

    assert all(r == (1 in w) for w, r in rewards("two-valued").items())
    assert {len(w) for w in rewards("two-valued")} == {1, 2, 3}
    for x in (0, 1):
        assert all(r == (0, 1, 3, 3)[w.count(1)] for w, r in rewards("three-valued", x).items())
    assert all(r == 2 * w[0] + w[0] * w[3] for w, r in rewards("delayed-credit").items())
    assert all(r == w[0] for w, r in rewards("key-first").items())
    assert all(r == w[3] for w, r in rewards("key-last").items())
    words = ["2", "02", "010", "011", "012", "101", "102", "110", "111", "112", "12"]  # no 00; 2 ends
    assert set(rewards("forbidden")) == {tuple(map(int, word)) for word in words}
    assert set(rewards("cancelling").values()) == {0}
    success = [ref.read(zoo.get("hard-easy")).value[(x,)] for x in (0, 1)]
    assert success == [Fraction(1, 10), Fraction(9, 10)]


def test_zoo_options_are_read_from_the_name() -> None:
    problem = zoo.get("random:seed=3,horizon=4,vocab=2,prompts=1,shared=2,variable=false,off_policy=true,discount=9/10")
    assert (problem.horizon, problem.vocab, problem.prompts, problem.parameters) == (4, 2, 1, 2)
    assert not problem.on_policy
    assert problem.end_token is None
    assert problem.discount == RATIONAL.scalar("9/10")
    same = zoo.random(3, 2, 4, 1, False, 2, True, "9/10")
    assert (problem.probs == same.probs).all()
    assert (problem.probs != zoo.get("random:seed=4,horizon=4,vocab=2,prompts=1,variable=false").probs).any()


@given(st.integers(0, 10), st.integers(2, 4))
def test_random_values_are_response_rewards(seed: int, values: int) -> None:
    twin = ref.read(zoo.random(seed, prompts=1, values=values))
    assert {ref.total(twin, w) for w in ref.responses(twin, 0)} <= set(range(values))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            "two-value",
            r"^unknown problem 'two-value': did you mean two-valued.*\(a file name ends in \.json, \.toml\)$",
        ),
        ("zzz", r"^unknown problem 'zzz': did you mean cancelling, delayed-credit, "),
        ("random:sed=3", r"^problem 'random' has no option 'sed': it takes seed, vocab, horizon, "),
        ("shared:seed=3", r"^problem 'shared' has no option 'seed': it takes none$"),
        ("random:seed=x", r"^problem 'random': seed='x' given, a whole number of at least 0 needed$"),
        ("random:seed", r"^problem 'random': seed='' given, a whole number of at least 0 needed$"),
        ("random:seed=-1", r"^problem 'random': seed='-1' given, a whole number of at least 0 needed$"),
        ("random:discount=abc", r"^'abc' is not a number: write 3, 0.25 or \"1/4\"$"),
    ],
)
def test_zoo_refuses_what_it_does_not_know(spec: str, message: str) -> None:
    with pytest.raises(TpgError, match=message):
        zoo.get(spec)


# What is refused


def bandit(**changes: Any) -> Problem:
    given = {"probs": [["1/2", "1/2"]], "rewards": [[0, 1]], "field": RATIONAL, "name": "b", **changes}
    return make(given.pop("tree", grow(2, 1)), given.pop("probs"), given.pop("rewards"), **given)


@pytest.mark.parametrize("table", ["probs", "rewards", "behaviour", "reference", "features"])
def test_every_table_has_a_row_per_prefix(table: str) -> None:
    shape = (2, 2, 1) if table == "features" else (2, 2)
    with pytest.raises(ProblemError, match=rf"^b: {table} has shape \(2, 2.*\), needed \(1, 2\) \[node, token\]$"):
        bandit(**{table: np.full(shape, "1/2", dtype=object)})


@pytest.mark.parametrize("table", ["probs", "rewards", "behaviour", "reference"])
@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_float_tables_hold_finite_numbers(table: str, number: float) -> None:
    with pytest.raises(ProblemError, match=f"^b: {table} holds NaN or infinity: give finite numbers$"):
        bandit(**{"field": FLOAT64, "probs": [[0.5, 0.5]], table: [[number, 0.5]]})


@pytest.mark.parametrize("table", ["probs", "behaviour", "reference"])
@pytest.mark.parametrize("field", [RATIONAL, FLOAT64], ids=lambda f: f.name)
def test_every_policy_is_a_distribution(table: str, field: Field) -> None:
    with pytest.raises(ProblemError, match=f"^b: {table} holds a negative probability: probabilities lie in"):
        bandit(**{"field": field, "probs": [[0.5, 0.5]], table: [[-1, 2]]})
    with pytest.raises(ProblemError, match=f"^b: {table} of node 0 sums to (3/4|0.75), needed 1$"):
        bandit(**{"field": field, "probs": [[0.5, 0.5]], table: [[0.5, 0.25]]})


def test_exact_policies_sum_to_one_exactly() -> None:
    almost = Fraction(1, 2) + Fraction(1, 10**30)
    with pytest.raises(ProblemError, match="of node 0 sums to"):
        bandit(probs=[[Fraction(1, 2), almost]])
    bandit(probs=[[0.5, 0.5 + 1e-10]], field=FLOAT64)  # rounding is forgiven in float64 only
    with pytest.raises(ProblemError, match="of node 0 sums to"):
        bandit(probs=[[0.5, 0.5 + 1e-8]], field=FLOAT64)


TWO = {"tree": grow(2, 1, 2), "probs": [["1/2", "1/2"]] * 2, "rewards": [[0, 1]] * 2}


@pytest.mark.parametrize("weights", [[0, 1], [2, -1], [-1, -1]])
def test_every_prompt_has_a_positive_weight(weights: list[int]) -> None:
    with pytest.raises(ProblemError, match=r"^weights \[.*\] given: every prompt needs a positive weight$"):
        bandit(**TWO, weights=weights)
    with pytest.raises(ProblemError, match=r"^b: weights \[.*\], needed 2 positive numbers$"):
        replace(bandit(**TWO), weights=np.array(weights))


@pytest.mark.parametrize("weights", [[1], [1, 1, 1]])
def test_there_are_as_many_weights_as_prompts(weights: list[int]) -> None:
    with pytest.raises(ProblemError, match=r"^b: weights \[.*\], needed 2 positive numbers$"):
        bandit(**TWO, weights=weights)


@pytest.mark.parametrize("discount", [0, -1, "3/2"])
def test_discounts_lie_between_0_and_1(discount: Any) -> None:
    with pytest.raises(ProblemError, match=f"^b: discount {discount}, needed 0 < γ ≤ 1$"):
        bandit(discount=discount)


@pytest.mark.parametrize("token", [-1, 2])
def test_the_end_token_is_a_token(token: int) -> None:
    with pytest.raises(ProblemError, match=f"^b: end token {token}, needed a token 0 … 1$"):
        bandit(end_token=token)


def test_the_end_token_ends_a_response() -> None:
    with pytest.raises(ProblemError, match=r"^b: end token 1 leads to another prefix: it ends a response$"):
        bandit(tree=grow(2, 2), probs=[["1/2", "1/2"]] * 3, rewards=[[0, 1]] * 3, end_token=1)


def test_no_other_token_ends_a_response_early() -> None:
    early = Tree(np.array([[True, False], [False, False]]), 1)
    message = (
        "^b: token 1 of node 0 has positive probability, is not the end token and leads nowhere before the horizon: add"
    )
    with pytest.raises(ProblemError, match=message):
        bandit(tree=early, probs=[["1/2", "1/2"]] * 2, rewards=[[0, 1]] * 2)
    bandit(tree=early, probs=[["1/2", "1/2"]] * 2, rewards=[[0, 1]] * 2, end_token=1)
    bandit(tree=early, probs=[[1, 0], ["1/2", "1/2"]], rewards=[[0, 1]] * 2)  # forbidden: needs no prefix


@pytest.mark.parametrize("number", [np.nan, np.inf])
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_weights_are_finite(number: float) -> None:
    with pytest.raises(ProblemError, match=r"every prompt needs a positive weight$"):
        bandit(**{**TWO, "probs": [[0.5, 0.5]] * 2}, field=FLOAT64, weights=[1, number])


def test_features_have_an_axis_of_parameters() -> None:
    with pytest.raises(ProblemError, match=r"^b: features have 2 axes, needed \[node, token, parameter\]$"):
        bandit(features=[[1, 2]])


@pytest.mark.parametrize("scale", [1, Fraction(1, 10**10)])
def test_totals_follow_the_rewards(scale: Fraction) -> None:
    # Wrong: a float64 problem made from a rational one that keeps the totals of the rewards it was made from.
    problem = bandit(rewards=[[0, scale]]).to(FLOAT64)
    moved = replace(problem, rewards=problem.rewards + 1e-10)
    assert (moved.totals == moved.rewards).all()


def test_tabular_scores_are_not_stored() -> None:
    with pytest.raises(ProblemError, match=r"^b is tabular: its scores 1.a=b. − π_b are never stored$"):
        _ = bandit().scores
