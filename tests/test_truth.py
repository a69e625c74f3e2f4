"""The judge: every route to g gives the same vector, and the reference's, and autograd's."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import references as ref
from tests.strategies import MEDIUM, SMALL, TINY, problems
from tests.test_problem import residue
from tpg import truth
from tpg.errors import TooLarge
from tpg.numbers import FLOAT64, RATIONAL, Array, gf
from tpg.problem import zoo
from tpg.problem.problem import Problem, make
from tpg.problem.tree import grow

anything = problems(MEDIUM, prompts=3, off_policy=None, dead=True)
per_route = pytest.mark.parametrize("route", truth.ROUTES.values(), ids=truth.ROUTES)


def bound(problem: Problem) -> float:
    """No entry of g is larger: T · max |RM| · max |score|, the size of the terms that rounding acts on."""
    score = 1.0 if problem.features is None else float(np.abs(problem.scores.astype(float)).max())
    return problem.horizon * float(np.abs(problem.totals.astype(float)).max()) * max(score, 1.0)


@given(anything)
def test_objective_and_q_values_are_the_literal_ones(problem: Problem) -> None:
    # Q(s,a) = E[Σ_{k≥t} γ^{k−t} r_k | s, a] = (M(s,a) − rewards before s) / γ^{t−1}.
    # Wrong: discounting from the start (γ^{k−1}), the own reward discounted, prompt weights left out of J.
    twin = ref.read(problem)
    assert ref.exact(truth.objective(problem)) == ref.objective(twin)
    q = [
        [(twin.value[(*s, a)] - ref.total(twin, s)) / twin.discount ** ref.length(s) for a in range(problem.vocab)]
        for s in twin.policy
    ]
    assert ref.fractions(truth.q_values(problem)) == q


@per_route
@given(problem=anything)
def test_every_route_is_the_literal_derivative(route: Any, problem: Problem) -> None:
    # Product rule over the tokens of every response.  Wrong: γ^{t−1} dropped, responses of the behaviour policy.
    twin = ref.read(problem)
    assert ref.fractions(problem.combine(route(problem))) == ref.gradient(twin)


@per_route
@given(problem=problems(MEDIUM, prompts=3, off_policy=None))
def test_every_route_in_every_number_type(route: Any, problem: Problem) -> None:
    # GF(p) is an image of the rationals; float64 rounds.
    expected = ref.gradient(ref.read(problem))
    in_gf, in_float = problem.to(gf()), problem.to(FLOAT64)
    assert [int(x) for x in in_gf.combine(route(in_gf))] == [residue(x) for x in expected]
    rounded = [float(x) for x in expected]
    np.testing.assert_allclose(in_float.combine(route(in_float)), rounded, rtol=0, atol=1e-12 * bound(in_float))


@per_route
@given(problem=problems(prompts=3))
def test_a_prompt_has_its_own_part_of_the_gradient(route: Any, problem: Problem) -> None:
    # Layout: rows [N, V] of a tabular policy belong to prompts, or [P, d] of a shared one.  Wrong: weights inside.
    twin, g = ref.read(problem), route(problem)
    for x in range(problem.prompts):
        own = ref.gradient_of(twin, x)
        rows = g[problem.tree.prompt == x].ravel() if problem.tabular else g[x]
        assert ref.fractions(rows) == [value for p, value in own.items() if not problem.tabular or p[0][0] == x]


@given(problems(MEDIUM, prompts=3))
def test_torch_autograd_agrees(problem: Problem) -> None:
    """Real logits, real softmax, back-propagated through J = Σ_W P(W) RM(W)."""
    twin, given = ref.read(problem), problem.to(FLOAT64)
    width = (given.tree.nodes, given.vocab) if given.tabular else (given.parameters,)
    theta = torch.zeros(width, dtype=torch.float64, requires_grad=True)
    base = torch.log(torch.from_numpy(np.ascontiguousarray(given.probs)))  # −inf forbids
    logits = base + (theta if given.tabular else torch.from_numpy(given.features) @ theta)
    logp = torch.log_softmax(logits, dim=-1)
    number = {prefix: i for i, prefix in enumerate(twin.policy)}
    total = torch.zeros((), dtype=torch.float64)
    for x in range(twin.prompts):
        for response in ref.responses(twin, x):
            path = torch.stack([logp[number[prefix], token] for prefix, token in ref.steps(response)])
            total = total + float(twin.weight[x] * ref.total(twin, response)) * torch.exp(path.sum())
    total.backward()
    assert theta.grad is not None
    g = given.combine(truth.gradient(given)).reshape(width)
    np.testing.assert_allclose(g, theta.grad.numpy(), rtol=0, atol=1e-12 * bound(given))


def nudged(problem: Problem, along: Array, h: Fraction) -> Problem:
    """Every logit moved by ``along`` [N, V] · log(1 + h): probabilities stay rational, and log(1 + h) = h − h²/2 + …"""
    factor = np.array([[(1 + h) ** int(a) for a in row] for row in along.tolist()], dtype=object)
    probs = problem.probs * RATIONAL.array(factor)
    return replace(problem, probs=probs / probs.sum(-1, keepdims=True), behaviour=None)


STEP = Fraction(1, 10**40)
TRUNCATION = Fraction(1, 10**60)  # a central difference is off by O(STEP²); exact numbers add no rounding


def finite_difference(problem: Problem, along: Array, function: Any) -> list[Fraction]:
    """Central difference with an exact step."""
    up, down = (np.atleast_1d(function(nudged(problem, along, sign * STEP))) for sign in (1, -1))
    return [ref.exact(d) / (2 * STEP) for d in up - down]


def directions(problem: Problem) -> list[Array]:
    if problem.features is not None:
        return list(np.moveaxis(problem.features, 2, 0))
    unit = np.eye(problem.parameters, dtype=int)
    return list(unit.reshape(problem.parameters, *problem.probs.shape))


@given(problems(SMALL, off_policy=None))
def test_finite_differences_agree(problem: Problem) -> None:
    # The only thing read is J, moved by moving probabilities: no score, no log-derivative, no recursion of gradients.
    g = problem.combine(truth.gradient(problem))
    for slope, along in zip(ref.fractions(g), directions(problem), strict=True):
        (quotient,) = finite_difference(problem, along, truth.objective)
        assert abs(quotient - slope) < TRUNCATION


@settings(max_examples=10)
@given(problems(TINY, off_policy=None))
def test_jacobians_are_derivatives_of_vector_fields(problem: Problem) -> None:
    def field(moved: Problem) -> Array:
        return moved.combine(truth.by_recursion(moved))

    slopes = truth.jacobian(problem, truth.by_recursion)
    for column, along in zip(slopes.T, directions(problem), strict=True):
        quotients = finite_difference(problem, along, field)
        assert all(abs(q - s) < TRUNCATION for q, s in zip(quotients, ref.fractions(column), strict=True))
    assert (truth.curl(problem, truth.by_recursion) == 0).all()  # the Hessian of J


@settings(max_examples=10)
@given(problems(TINY))
def test_jacobians_follow_quotients_and_differences(problem: Problem) -> None:
    # Forward mode through every operation: + − · / with numbers on either side.  Wrong: a sign in the quotient rule.
    def field(moved: Problem) -> Array:
        p, q = moved.probs, 1 - moved.probs
        return moved.pull(p / (2 + q) - 3 / (1 + p) + (-p) * q + (q - p) / 2)

    slopes = truth.jacobian(problem, field)
    for column, along in zip(slopes.T, directions(problem), strict=True):
        quotients = finite_difference(problem, along, lambda moved: moved.combine(field(moved)))
        assert all(abs(q - s) < TRUNCATION for q, s in zip(quotients, ref.fractions(column), strict=True))


def test_a_field_that_is_no_gradient_has_curl() -> None:
    # One prefix, π = (p, q), p = 1/3.  F = (π₀, 0): ∂F₀/∂logit₁ = −pq, ∂F₁/∂logit₀ = 0.
    problem = make(grow(2, 1), [["1/3", "2/3"]], [[0, 1]])
    first = np.array([[1, 0]], dtype=object)
    slope = ref.fractions(truth.jacobian(problem, lambda p: p.probs * first))
    assert slope == [[Fraction(2, 9), Fraction(-2, 9)], [0, 0]]
    assert ref.fractions(truth.curl(problem, lambda p: p.probs * first)) == [[0, Fraction(-2, 9)], [Fraction(2, 9), 0]]


def test_the_gradient_of_a_bandit_by_hand() -> None:
    # J = q, π = (p, q) = (1/3, 2/3): ∂q/∂logit = (−pq, pq).
    problem = make(grow(2, 1), [["1/3", "2/3"]], [[0, 1]])
    for route in truth.ROUTES.values():
        assert ref.fractions(route(problem)) == [[Fraction(-2, 9), Fraction(2, 9)]]


@given(st.data())
def test_g_reads_only_response_totals(data: st.DataObject) -> None:
    # lem:exact-gradient + thm:trajectory-pg: paying every reward at the end moves no g.
    problem = data.draw(problems(prompts=2))
    paid = problem.totals / problem.powers[problem.tree.depth][:, None]
    late = replace(problem, rewards=np.where(problem.tree.inner, problem.field.scalar(0), paid))
    assert (truth.gradient(late) == truth.gradient(problem)).all()


def test_dual_numbers_refuse_what_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(truth, "MAX_DUAL", 10)
    with pytest.raises(TooLarge, match=r"^dual numbers would need .* entries, the limit is 10: use by_recursion$"):
        truth.by_dual_numbers(zoo.two_valued())
