"""What every row says its expectation is, against E ĝ of the literal reference."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import references as ref
from tests.strategies import PLAIN, SMALL, TINY, fit, problems
from tpg import truth
from tpg.errors import TooLarge
from tpg.estimators import expectations
from tpg.estimators.table import ESTIMATORS
from tpg.numbers import FLOAT64, Array, gf
from tpg.problem import zoo
from tpg.problem.problem import Problem

ROWS = pytest.mark.parametrize("name", PLAIN)
FLOATS = [name for name, row in ESTIMATORS.items() if row.numbers == "float64"]


@ROWS
@settings(max_examples=8)
@given(data=st.data())
def test_declared_expectations_are_the_literal_ones(name: str, data: st.DataObject) -> None:
    # Every contrast, off-policy too where a row speaks of it.  Wrong: a factor for another group size, a bias that only
    # fixed lengths hide, a closed form that forgets γ, the prompt weights or the peers' lengths.
    row = ESTIMATORS[name]
    size = data.draw(st.integers(row.min_group, 3))
    shapes, other = SMALL if size < 3 else TINY, None if row.off_policy is not None else False
    problem = data.draw(problems(shapes, prompts=3, off_policy=other, **fit(row)))
    twin = ref.read(problem)
    given = problem.to(FLOAT64) if name in FLOATS else problem
    said = row.declares(given)
    assert said is not None
    if not said.known:
        return
    declared = given.combine(said(given, size, truth.gradient(given)))
    expected = ref.mean(twin, ref.CREDITS[name], size)
    assert not ref.off(declared, expected, math.sqrt(size))  # a z-score is at most √G


@pytest.mark.parametrize("name", ["reinforce", "group_mean", "dr_grpo", "zra_discounted", "gae_wrong_critic"])
def test_declared_expectations_are_the_same_in_every_number_type(name: str) -> None:
    # Wrong: a factor that is a float, which GF(p) would read as another number.
    row, problem = ESTIMATORS[name], zoo.shared()
    exact = row.expectation(problem, 2, truth.gradient(problem))
    in_gf, in_float = problem.to(gf()), problem.to(FLOAT64)
    assert (row.expectation(in_gf, 2, truth.gradient(in_gf)) == gf().array(exact)).all()
    rounded = row.expectation(in_float, 2, truth.gradient(in_float))
    assert not ref.off(rounded.ravel(), ref.fractions(exact.ravel()), float(np.abs(rounded).max()))


@settings(max_examples=10)
@given(problems(SMALL, prompts=2), st.sampled_from([0, Fraction(1, 2), 1]))
def test_the_bias_of_gae_vanishes_at_lambda_one(problem: Problem, lam: Fraction) -> None:
    # bias = (1−λ) Σ_k λ^k E[e(s_{t+k+1}) S_t]: at λ = 1 it is 0 whatever the critic; with e = 0 for every λ.
    def exact(p: Problem) -> Array:
        return p.values[1]

    def wrong(p: Problem) -> Array:
        return p.values[1] / 2 + p.tree.depth

    g = truth.gradient(problem)
    assert (expectations.gae_with(exact, lam)(problem, 1, g) == g).all()
    if lam == 1:
        assert (expectations.gae_with(wrong, lam)(problem, 1, g) == g).all()


def test_texts_say_whether_a_row_is_biased() -> None:
    # "biased" exactly where E ĝ leaves the line of g on a problem with unequal lengths, 3 rewards and γ ≠ 1.
    problem = replace(zoo.shared(), reference=zoo.stale().reference[: zoo.shared().tree.nodes])
    for row in (ESTIMATORS[name] for name in PLAIN if ESTIMATORS[name].expectation.known):
        given = problem.to(FLOAT64) if row.name in FLOATS else problem
        g = given.combine(truth.gradient(given))
        declared = given.combine(row.expectation(given, 3, truth.gradient(given)))
        turned = abs(float((g @ g) * (declared @ declared) - (g @ declared) ** 2)) > 1e-9
        assert turned == ("biased" in row.expectation.text or "another objective" in row.expectation.text), row.name


def test_too_many_peer_groups_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = zoo.two_valued().to(FLOAT64)  # 2 rewards, G = 4: C(2 + 3 − 1, 3) = 4 multisets of peers
    monkeypatch.setattr(expectations, "MAX_PEERS", 3)
    with pytest.raises(
        TooLarge, match=r"^the closed form by peers would need .*, the limit is 3: lower the group size$"
    ):
        ESTIMATORS["grpo"].expectation(problem, 4, truth.gradient(problem))
