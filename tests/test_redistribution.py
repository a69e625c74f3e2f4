"""Dense rewards: what summing, returning and bootstrapping keep of the gradient, and what they lose.

Derived numbers are for ``chain``: two tokens of two, π = 1/2 throughout, RM = 1 on the response 00 alone.  There
M(0) = 1/2, and g is 1/8 on the logit of token 0 at the prompt (1/2 · 1/2 · (1/2 − 0)) and after 0 (1/2 · 1/4 · 1).
"""

from __future__ import annotations

import math
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
from tests.literal import redistribution as literal
from tests.strategies import SMALL, problems
from tpg import truth
from tpg.audit import audit
from tpg.errors import EstimatorError
from tpg.estimators import advantages, dense
from tpg.estimators import redistribution_expected as tables
from tpg.estimators.core import ROWS as CORE
from tpg.estimators.estimator import Estimator
from tpg.estimators.parts import Part
from tpg.estimators.redistribution import METHODS, ROWS, of_prompt, rounded, value_to_go
from tpg.moments import brute_force, moments
from tpg.numbers import FLOAT64, Array
from tpg.problem import zoo
from tpg.problem.problem import Problem, make
from tpg.problem.tree import expect, grow
from tpg.rollouts import responses

ROW = {row.name: row for row in ROWS}
METHOD = {method.name: method for method in METHODS}
LAMBDAS = (0, Fraction(1, 3), 1)


def chain(reward: Any = 1, after: tuple[Any, Any] = ("1/2", "1/2"), **more: Any) -> Problem:
    probs = [["1/2", "1/2"], after, ["1/2", "1/2"]]
    return make(grow(2, 2), probs, [[0, 0], [reward, 0], [0, 0]], **more)


def stop_or_go(reference: Any = None) -> Problem:
    """Token 1 ends the response at once, π = 1/2, RM = 0: L = 1, 2, 2, ∇E[L] = 1/4 on the logit of token 0."""
    halves = [["1/2", "1/2"]] * 2
    return make(grow(2, 2, end_token=1), halves, [[0, 0], [0, 0]], end_token=1, reference=reference)


def mean(problem: Problem, row: Estimator, size: int = 1) -> Array:
    return moments(problem, row, size).mean


def with_part(name: str, part: Part, how: Part = dense.to_go) -> Estimator:
    """The row of a method with another dense reward."""
    return replace(METHOD[name], part=part).row(how)


def dense_row(part: Part, how: Part, **given: Any) -> Estimator:
    return Estimator("made here", dense.composed(part, how), **given)


def along_paths(problem: Problem, row: Estimator) -> tuple[Any, Array]:
    """All responses as groups of one, and their credits [R, T]."""
    found = responses(problem, row.given)
    roll = found.group(np.arange(len(found.node))[:, None], row.needs)
    return found, row(roll)[:, 0]


def derivative(problem: Problem, worth: Callable[[ref.Twin, ref.Prefix], Any]) -> list[Any]:
    """∇ Σ_W P(W) worth(W), literally."""
    twin = ref.read(problem)
    return ref.mixed(twin, [ref.derivative(twin, x, partial(worth, twin)) for x in range(twin.prompts)])


# (I1), (I2), (I3) for arbitrary tables: the true token rewards serve as the model's numbers


def crooked(problem: Problem) -> Array:
    return problem.rewards * problem.rewards - problem.tree.depth[:, None]


@given(problems(SMALL))
def test_causal_rewards_give_the_gradient_of_their_sum_by_every_return(problem: Problem) -> None:
    def worth(twin: ref.Twin, response: ref.Prefix) -> Fraction:
        return sum((twin.reward[s][a] ** 2 - ref.length(s) for s, a in ref.steps(response)), Fraction(0))

    wanted = derivative(problem, worth)
    critic = value_to_go(crooked)
    returns = [(dense.full, None), (dense.to_go, None), (dense.gae, critic)]
    for how, value in returns:
        made = mean(problem, dense_row(dense.spa, how, model=crooked, critic=value))
        assert ref.fractions(problem.combine(made)) == wanted


@given(problems(SMALL))
def test_a_causal_reward_that_sums_to_the_reward_is_unbiased(problem: Problem) -> None:
    g = truth.gradient(problem)
    for how in (dense.full, dense.to_go):
        assert (mean(problem, dense_row(dense.spa_residual, how, model=crooked)) == g).all()


@given(problems(SMALL), st.booleans())
def test_a_potential_adds_the_gradient_of_where_it_ends(problem: Problem, closed: bool) -> None:
    # Closed: Φ(end) = 0 and nothing is added.  Wrong: a start value that is not subtracted is harmless, an end is not.
    def potential(p: Problem) -> Array:
        return np.where(p.tree.inner, crooked(p), p.field.scalar(0)) if closed else crooked(p)

    def worth(twin: ref.Twin, response: ref.Prefix) -> Fraction:
        end = twin.reward[response[:-1]][response[-1]] ** 2 - (ref.length(response) - 1)
        return ref.total(twin, response) + (0 if closed else end)

    constant = of_prompt(lambda p: p.values[1] * 3)
    for how in (dense.full, dense.to_go):
        made = mean(problem, dense_row(dense.igpo, how, model=potential, constant=constant))
        assert ref.fractions(problem.combine(made)) == derivative(problem, worth)


@pytest.mark.parametrize("name", ["abc", "pure", "delta"])
@settings(max_examples=15)
@given(problem=problems(SMALL), lam=st.sampled_from(LAMBDAS))
def test_gae_has_the_expectation_of_reward_to_go_even_where_rewards_read_the_future(
    name: str, problem: Problem, lam: Fraction
) -> None:
    # With V(s) = E[Σ_{k≥t} d_k | s] every δ_k has mean 0 given its prefix, whatever λ.  Wrong: V = M.
    given = problem.to(FLOAT64) if METHOD[name].numbers == "float64" else problem
    row = METHOD[name].row(dense.gae)
    part = dense.composed(METHOD[name].part, partial_lambda(lam))
    gae, late = (mean(given, r) for r in (replace(row, advantage=part), METHOD[name].row(dense.to_go)))
    wanted = list(late.ravel()) if given.field is FLOAT64 else ref.fractions(late.ravel())
    assert not ref.off(gae.ravel(), wanted, 1 + float(np.abs(problem.totals).max()))


def partial_lambda(lam: Fraction) -> Part:
    def gae(dense_reward: Array, mask: Array, value: Array) -> Array:
        return dense.gae(dense_reward, mask, value, lam=lam)

    return gae


@pytest.mark.parametrize("name", ["abc", "spa_residual"])
@given(problem=problems(SMALL))
def test_full_sums_that_are_no_rows_are_reinforce(name: str, problem: Problem) -> None:
    row = METHOD[name].row(dense.full)
    found, credits = along_paths(problem, row)
    assert (credits == np.where(found.mask, found.reward[:, None], 0)).all()
    assert row.name not in ROW


@pytest.mark.parametrize("name", ["red", "spa_residual"])
@given(problem=problems(SMALL))
def test_gae_on_a_causal_split_of_the_reward_is_gae(name: str, problem: Problem) -> None:
    # V = M − (what was paid), so δ_t = M_t − M_{t−1} whatever was paid when.
    row = METHOD[name].row(dense.gae)
    assert (along_paths(problem, row)[1] == along_paths(problem, next(r for r in CORE if r.name == "gae"))[1]).all()
    assert row.name not in ROW


# ABC


@given(problems(SMALL), st.sampled_from([Fraction(1, 4), Fraction(1)]))
def test_the_bias_of_abc_is_the_share_of_the_past(problem: Problem, beta: Fraction) -> None:
    # −β E Σ_t R A_{<t} S_t, response by response.
    twin = ref.read(problem)
    bias = []
    for x in range(twin.prompts):
        out: ref.Vector = {}
        for response, chance in ref.responses(twin, x).items():
            weight = [1 + twin.value[p] ** 2 for p in literal.prefixes(response)[1:]]
            for t, (prefix, token) in enumerate(ref.steps(response)):
                past = chance * ref.total(twin, response) * sum(weight[:t]) / sum(weight)
                for parameter, entry in ref.score(twin, prefix, token).items():
                    out[parameter] = out.get(parameter, 0) - beta * past * entry
        bias.append(out)
    part = dense.composed(partial_beta(beta), dense.to_go)
    row = replace(ROW["abc_to_go"], advantage=part)
    off = problem.combine(mean(problem, row) - truth.gradient(problem))
    assert ref.fractions(off) == ref.mixed(twin, bias)


def partial_beta(beta: Fraction) -> Part:
    def abc(process_reward: Array, reward: Array, length: Array) -> Array:
        return dense.abc(process_reward, reward, length, beta=beta)

    return abc


def test_abc_loses_a_fifth_of_the_second_token() -> None:
    # chain: attention 1 + 1/4 and 1 + 1, A_{<2}(00) = (5/4)/(13/4) = 5/13; bias −1/2 · 1/4 · 5/13 · 1/2 = −5/208 of
    # 1/8 = 26/208.  The first token has no past.
    for name in ("abc_to_go", "abc_gae"):
        found = mean(chain(), ROW[name])
        assert ref.fractions(found[:2, 0]) == [Fraction(1, 8), Fraction(21, 208)]


# PURE


def late_fault(problem: Problem) -> Array:
    """PR = 1 everywhere, but 0 for 00 and 2 for 01."""
    out = problem.field.ones(problem.probs.shape)
    out[1, 0], out[1, 1] = out[1, 0] * 0, out[1, 1] * 2
    return out


@pytest.mark.parametrize(("name", "second"), [("pure_full", -1 / 8), ("pure_to_go", 0), ("pure_repaired_full", -1 / 8)])
def test_pure_forgets_who_is_to_blame(name: str, second: float) -> None:
    # min PR = 0, 1, 1, 1 for 00, 01, 10, 11: ∇E[min] = 1/4 (1/2 − 1) = −1/8 at the prompt, 1/8 (0 − 1) = −1/8 after 0.
    # As T → 0 what is left to pay after 0 is w₂ PR₂ = 1 · 0 for 00 and 0 · 2 for 01: nothing, whichever token is taken.
    method = METHOD["pure_repaired" if "repaired" in name else "pure"]

    def cold(process_reward: Array, mask: Array) -> Array:
        return dense.pure(process_reward, mask, temperature=0.01)

    part = method.part if "repaired" in name else cold
    how = dense.to_go if "to_go" in name else dense.full
    row = replace(method, part=part, model=late_fault).row(how)
    assert not ref.off(mean(chain().to(FLOAT64), row)[:2, 0], [-1 / 8, second], 1.0)
    repaired = replace(METHOD["pure_repaired"], model=late_fault).row(dense.to_go)
    assert ref.fractions(mean(chain(), repaired)[:2, 0]) == [Fraction(-1, 8), Fraction(-1, 8)]


@given(problems(SMALL))
def test_pure_pays_the_least_step_when_it_is_cold_and_the_mean_when_it_is_hot(problem: Problem) -> None:
    given = problem.to(FLOAT64)
    found, _ = along_paths(given, ROW["pure_full"])
    score, mask = found.process_reward, found.mask
    gaps = np.diff(np.sort(np.where(mask, score, np.inf), -1)[:, :2])
    least, middle = np.where(mask, score, np.inf).min(-1), score.sum(-1) / mask.sum(-1)
    cold, hot = (dense.pure(score, mask, temperature=t).sum(-1) for t in (1e-3, 1e12))
    clear = (gaps > 0.1).all(-1)  # e^{−100} of a gap is left
    np.testing.assert_allclose(cold[clear], least[clear], atol=1e-12)
    np.testing.assert_allclose(hot, middle, atol=1e-9)
    repaired = dense.pure_repaired(score, mask)
    np.testing.assert_allclose(repaired.sum(-1), least, atol=1e-12)
    assert (repaired[:, 1:] <= 0).all()


# Delta and Clip


@given(problems(SMALL))
def test_delta_telescopes_to_the_step_itself(problem: Problem) -> None:
    # Σ_{k≥t} d_k = PR_t + R: no potential difference, the step's own process reward.
    found, credits = along_paths(problem, ROW["delta_to_go"])
    assert (credits == np.where(found.mask, found.process_reward + found.reward[:, None], 0)).all()
    _, whole = along_paths(problem, ROW["delta_full"])
    assert (whole == np.where(found.mask, found.process_reward[:, :1] + found.reward[:, None], 0)).all()


def test_delta_is_biased_and_its_potential_reading_is_not() -> None:
    # chain, PR = M/2 and M/3 + 1 on the first and second token: E PR_t S_t = g/2 at the prompt, g/3 after 0; the full
    # sum has PR_1 alone.  Read on the state before the token, Φ_{t−1} − Φ_t with Φ(end) = 0, it is a potential.
    eighth = Fraction(1, 8)
    for name, factors in (("delta_to_go", (3 / 2, 4 / 3)), ("delta_gae", (3 / 2, 4 / 3)), ("delta_full", (3 / 2, 1))):
        wanted = [eighth * Fraction(f).limit_denominator(3) for f in factors]
        assert ref.fractions(mean(chain(), ROW[name])[:2, 0]) == wanted

    def minus(problem: Problem) -> Array:
        return np.where(problem.tree.inner, -tables.judge(problem), problem.field.scalar(0))

    row = replace(METHOD["igpo"], model=minus, constant=lambda p: -tables.judge_before(p)).row(dense.to_go)
    assert (mean(zoo.shared(), row) == truth.gradient(zoo.shared())).all()


def test_clip_has_another_objective() -> None:
    # chain: min(PR − 1/2, 0) = −1/4 and −1/2 on the first tokens, 0 on the second (PR ≥ 1): at the prompt
    # 1/4 ((1/2 − 1/4) − (0 − 1/2)) = 3/16; after 0 it is g.
    for how in ("full", "to_go", "gae"):
        assert ref.fractions(mean(chain(), ROW[f"clip_{how}"])[:2, 0]) == [Fraction(3, 16), Fraction(1, 8)]


def test_clip_is_zero_at_the_threshold_and_above() -> None:
    score = np.array([[Fraction(1, 2), Fraction(2, 5), Fraction(3, 5)]])
    one = np.ones((1, 3), bool)
    paid = dense.clip(score, np.array([Fraction(2)]), np.array([3]), one)
    assert paid.tolist() == [[0, Fraction(-1, 10), 2]]


# SPA-RL, SLATE, IGPO, endogenous: the smallest problems on which they leave g


def test_spa_follows_its_shares() -> None:
    # chain, c = 1/4 or 0, then 4/3, 1 or 1: at the prompt 1/4 ((1/4 + 7/6) − (0 + 1)) = 5/48; after 0 1/8 · 1/3 = 1/24.
    for how in ("full", "to_go", "gae"):
        assert ref.fractions(mean(chain(), ROW[f"spa_{how}"])[:2, 0]) == [Fraction(5, 48), Fraction(1, 24)]


def test_slate_is_myopic() -> None:
    # chain: r = M/2 on the first token, M/3 + 1 on the second: g/2 at the prompt, g/3 after 0.
    assert ref.fractions(mean(chain(), ROW["slate"])[:2, 0]) == [Fraction(1, 16), Fraction(1, 24)]


def delayed(problem: Problem) -> Array:
    """r = 1 for the tokens after 0, 0 elsewhere: only the first token decides."""
    out = problem.field.zeros(problem.probs.shape)
    out[1] += 1
    return out


def test_slate_sees_nothing_of_what_a_token_leads_to() -> None:
    problem = replace(chain(), rewards=delayed(chain()))  # g = 1/4 at the prompt
    assert ref.fractions(truth.gradient(problem)[0]) == [Fraction(1, 4), Fraction(-1, 4)]
    row = replace(ROW["slate"], model=delayed, critic=lambda p: (p.probs * delayed(p)).sum(-1))
    assert (mean(problem, row) == 0).all()


def test_an_open_potential_pays_for_even_lengths() -> None:
    # RM = 0, Φ(W) = 1 where L is even: E ĝ = 1/4 (1 − 0) at the prompt, g = 0.
    for how in (dense.full, dense.to_go, dense.gae):
        assert ref.fractions(mean(stop_or_go(), METHOD["igpo"].row(how))[0]) == [Fraction(1, 4), Fraction(-1, 4)]
        assert (mean(stop_or_go(), METHOD["red"].row(how)) == 0).all()


def test_endogenous_rewards_pull_towards_the_language_model() -> None:
    # One token, π = 1/2, π_LM = (1/4, 3/4), RM = 0: 1/4 (log 1/4 − log 3/4) = −log 3 / 4.
    problem = make(grow(2, 1), [["1/2", "1/2"]], [[0, 0]], reference=[["1/4", "3/4"]], field=FLOAT64)
    for how in ("full", "to_go", "gae"):
        assert not ref.off(mean(problem, ROW[f"endogenous_{how}"])[0], [-math.log(3) / 4, math.log(3) / 4], 1.0)


@pytest.mark.parametrize("how", [dense.full, dense.to_go])
def test_the_value_of_the_endogenous_reward_cancels(how: Part) -> None:
    problem = zoo.referenced().to(FLOAT64)
    wanted = mean(problem, METHOD["endogenous"].row(how))

    def other(p: Problem) -> Array:
        return np.where(p.tree.inner, 7 * p.values[0] ** 2, 0)

    row = replace(METHOD["endogenous"], model=other, constant=lambda p: p.values[1] - 5).row(how)
    assert not ref.off(mean(problem, row).ravel(), list(wanted.ravel()), 100.0)


# PAV


@given(problems(SMALL), st.sampled_from([0, 2, Fraction(1, 2)]))
def test_the_prover_cancels_whatever_it_is(problem: Problem, alpha: Any) -> None:
    # R at the end + α A^μ: (1 + α) g for μ uniform over the allowed tokens, too.  Wrong: a prover whose value at the
    # end is not R.
    def even(p: Problem) -> tuple[Array, Array]:
        on = p.field.array((p.probs != 0).astype(int))
        return expect(p.tree, on / on.sum(-1, keepdims=True), p.totals)

    def pav(process_reward: Array, prompt_constant: Array, reward: Array, length: Array, mask: Array) -> Array:
        return dense.pav(process_reward, prompt_constant, reward, length, mask, alpha=alpha)

    for how in (dense.full, dense.to_go):
        row = dense_row(pav, how, model=lambda p: even(p)[0], constant=of_prompt(lambda p: even(p)[1]))
        assert (mean(problem, row) == truth.gradient(problem) * problem.field.scalar(1 + alpha)).all()


@given(problems(SMALL))
def test_a_prover_that_is_the_policy_only_rescales(problem: Problem) -> None:
    own = replace(ROW["pav_myopic"], model=lambda p: p.values[0], constant=of_prompt(lambda p: p.values[1]))
    assert (mean(problem, own) == truth.gradient(problem) * problem.field.scalar(4)).all()


def test_another_prover_turns_the_myopic_direction() -> None:
    # chain with π = (1/3, 2/3) after 0: M(0) = 1/3, the prover (1/9 : 4/9) succeeds with 1/5.  At the prompt g = 1/12
    # and A^μ adds 3 · 1/4 · 1/5 = 3/20: 7/30, 2.8 g.  After 0 both see the same end: 4 g = 4 · 1/2 · 2/9 = 4/9.
    problem = chain(after=("1/3", "2/3"))
    assert ref.fractions(mean(problem, ROW["pav_myopic"])[:2, 0]) == [Fraction(7, 30), Fraction(4, 9)]
    assert ref.fractions(mean(problem, ROW["pav_to_go"])[:2, 0]) == [Fraction(4, 12), Fraction(4, 9)]


def test_a_q_value_as_a_per_step_reward_counts_the_future_at_every_step() -> None:
    # The sum over steps of Q^π itself, which "effective reward with returns" may be read as, is not along g.
    # chain: at the prompt E[M_1 + M_2 | token 0] = 1/2 + 1/2, so 2 g; after 0 g.
    row = dense_row(dense.spa, dense.to_go, model=lambda p: p.values[0])
    assert ref.fractions(mean(chain(), row)[:2, 0]) == [Fraction(1, 4), Fraction(1, 8)]


# Log-ratios


@settings(max_examples=20)
@given(problems(SMALL, reference=True))
def test_the_kl_optimum_pays_differences_of_soft_values(problem: Problem) -> None:
    # log π*/π_ref, π*(W) = π_ref(W) e^{RM(W)} / Z normalised over whole responses, against the recursion: the product
    # over tokens is π*(W)/π_ref(W), so that Σ_t d_t = RM(W) − log Z.
    given, twin = problem.to(FLOAT64), ref.read(problem)
    assert twin.reference is not None
    ratio = tables.along(given, tables.implicit(tables.response_reward)(given))
    found = responses(given)
    for i, word in enumerate(found.token.tolist()):
        prompt = int(found.prompt[i])
        odds = {
            w: float(p) * math.exp(ref.total(twin, w)) for w, p in ref.responses(twin, prompt, twin.reference).items()
        }
        name = (prompt, *(t for t in word if t >= 0))
        wanted = float(ref.total(twin, name)) - math.log(math.fsum(odds.values()))
        node, token = found.last[0][i], found.last[1][i]
        assert abs(ratio[node, token] - wanted) <= 1e-12 * (1 + abs(wanted))


@settings(max_examples=20)
@given(problems(SMALL, reference=True))
def test_rto_with_the_kl_optimum_and_no_kl_is_twice_the_gradient(problem: Problem) -> None:
    def rto(process_reward: Array, logp: Array, ref_logp: Array, reward: Array, length: Array) -> Array:
        return dense.rto(process_reward, logp, ref_logp, reward, length, kl=0.0)

    given = problem.to(FLOAT64)
    g = truth.gradient(given)
    for how in (dense.full, dense.to_go):
        size = 1 + float(np.abs(given.totals).max())
        assert not ref.off(mean(given, with_part("rto", rto, how)).ravel(), list(2 * g.ravel()), size)
        as_prime = replace(METHOD["prime"], model=tables.implicit(tables.response_reward)).row(how)  # OPRL with returns
        assert not ref.off(mean(given, as_prime, 2).ravel(), list(2 * g.ravel()), size)


def test_rto_keeps_a_kl_term() -> None:
    # One token, π = 1/2, π_ref = (1/4, 3/4), RM = 0: −1/2 · 1/4 (log 2 − log 2/3) = −log 3 / 8; g = 0.
    problem = make(grow(2, 1), [["1/2", "1/2"]], [[0, 0]], reference=[["1/4", "3/4"]], field=FLOAT64)
    for how in ("full", "to_go", "gae"):
        assert not ref.off(mean(problem, ROW[f"rto_{how}"])[0], [-math.log(3) / 8, math.log(3) / 8], 1.0)


def test_prime_as_released_pays_for_length() -> None:
    # RM = 0, R_φ = L, π_ref = π: V = log((e + e²)/2), E[d̄] = ((1 − V) + (2 − V)/2)/2 = 1 − 3V/4 and ∇E[L] = 1/4 at the
    # prompt: 1/4 − (1 − 3V/4)/4 = 3V/16 instead of the 1/4 of R_φ.
    problem = stop_or_go(reference=[["1/2", "1/2"]] * 2).to(FLOAT64)
    soft = math.log((math.e + math.e**2) / 2)
    assert not ref.off(mean(problem, ROW["prime_to_go"], 2)[0], [1 / 4, -1 / 4], 1.0)
    released = brute_force(problem, ROW["prime"], 3).mean[0]
    assert not ref.off(released, [3 * soft / 16, -3 * soft / 16], 1.0)


@settings(max_examples=10)
@given(problems(((2, 2), (3, 1)), variable=False, reference=True))
def test_with_equal_lengths_the_baseline_of_prime_costs_nothing(problem: Problem) -> None:
    lengths = responses(problem).length
    if (lengths == lengths[0]).all():
        given = problem.to(FLOAT64)
        wanted = mean(given, ROW["prime_to_go"], 2)
        assert not ref.off(brute_force(given, ROW["prime"], 2).mean.ravel(), list(wanted.ravel()), 20.0)


def test_oprl_counts_the_next_step_alone() -> None:
    # chain with RM(00) = log 3, π_ref = π: V(0) = log(3/2 + 1/2) = log 2, V(1) = 0.  At the prompt g + log 2 / 4 with
    # g = log 3 / 8; after 0 the step ends the response: 2 g = log 3 / 4.
    problem = chain(math.log(3), reference=[["1/2", "1/2"]] * 3, field=FLOAT64)
    wanted = [math.log(3) / 8 + math.log(2) / 4, math.log(3) / 4]
    assert not ref.off(mean(problem, ROW["oprl"], 2)[:2, 0], wanted, 1.0)


@settings(max_examples=20)
@given(problems(SMALL, reference=True))
def test_equal_rewards_make_no_implicit_reward_at_all(problem: Problem) -> None:
    # log Σ π_ref e^V written plainly leaves 1e-16 of nothing; PRIME's baseline of equal numbers is that number.
    flat = replace(problem, rewards=problem.rewards * 0).to(FLOAT64)
    assert (tables.implicit(tables.response_reward)(flat) == 0).all()


@pytest.mark.parametrize("name", ["rto_full", "prime_to_go", "prime", "oprl", "endogenous_gae"])
def test_log_ratios_need_a_reference(name: str) -> None:
    problem = zoo.two_valued().to(FLOAT64)
    with pytest.raises(
        EstimatorError, match=r"^(a log-ratio needs|\w+ needs 'ref_logp', which these rollouts lack: give)"
    ):
        moments(problem, ROW[name], 2)
    reference = np.where(np.arange(3) == 0, 0, problem.probs)
    forbidding = replace(problem, reference=reference / reference.sum(-1, keepdims=True))
    message = r"^dense rewards read log-ratios, and the reference policy forbids a generated token: give a reference"
    with np.errstate(divide="ignore"), pytest.raises(EstimatorError, match=message):
        moments(forbidding, ROW[name], 2)


def test_the_soft_value_needs_a_reference() -> None:
    with pytest.raises(EstimatorError, match=r"^a log-ratio needs a reference policy: give the problem one$"):
        tables.soft_values(zoo.two_valued(), tables.response_reward)


# Names, losses, mutants


def test_methods_that_coincide_are_one_row_under_two_names() -> None:
    aliases = {alias: row.name for row in ROWS for alias in row.aliases}
    assert aliases["potential_to_go"] == "red_to_go"
    assert aliases["potential_open_full"] == "igpo_full"
    assert aliases["istar"] == "oprl"
    # RED is potential shaping with Φ = RM on unfinished prefixes and 0 at the end: the same numbers token by token.
    closed = replace(METHOD["igpo"], model=lambda p: np.where(p.tree.inner, tables.judge(p), p.field.scalar(0)))
    for how in (dense.full, dense.to_go):
        credits = [along_paths(zoo.shared(), m.row(how))[1] for m in (METHOD["red"], closed)]
        assert (credits[0] == credits[1]).all()


@pytest.mark.parametrize("name", ["rto_gae", "prime_to_go", "pure_to_go", "abc_gae", "clip_full"])
def test_credits_are_the_gradient_of_the_policy_loss_with_frozen_rewards(name: str) -> None:
    # −mean over the group of Σ_t sg(A_t) log π(w_t): rewards that hold log π (RTO) are detached, as in every PPO loop.
    row, problem = ROW[name], zoo.referenced().to(FLOAT64)
    found = responses(problem, row.given)
    index = np.flatnonzero(found.prompt == 0)[[0, 3, 3, 5]]
    roll = found.group(index[None], row.needs)
    logits = torch.tensor(np.log(np.ascontiguousarray(problem.probs)), requires_grad=True)
    logp = torch.log_softmax(logits, dim=-1)
    advantage = torch.tensor(row(roll)[0].astype(float) * len(index))
    chosen = torch.where(torch.tensor(found.mask[index]), logp[found.node[index], found.token[index]], 0)
    loss = -(advantage * chosen).sum(-1).mean()
    (slope,) = torch.autograd.grad(loss, logits)
    table = np.zeros(problem.probs.shape)
    rows, t = np.nonzero(found.mask[index])
    np.add.at(table, (found.node[index][rows, t], found.token[index][rows, t]), row(roll)[0][rows, t])
    assert not ref.off(-slope.numpy().ravel(), list(problem.pull(table).ravel()), float(np.abs(table).max()))


def test_a_reward_that_is_not_frozen_has_another_gradient_in_one_sample() -> None:
    # −β₂ log π inside the reward differentiates to −β₂ S_t per token, which has mean 0: E ĝ keeps, the sample does not.
    logits = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    logp = torch.log_softmax(logits, dim=-1)
    frozen = (-0.5 * logp[0]).detach() * logp[0]
    (kept,) = torch.autograd.grad(frozen, logits, retain_graph=True)
    (moved,) = torch.autograd.grad(-0.5 * logp[0] * logp[0], logits)
    assert torch.allclose(moved, 2 * kept, rtol=0, atol=1e-15)
    assert abs(float(kept[0])) > 0.1


def late_start(process_reward: Array, prompt_constant: Array, mask: Array) -> Array:
    """RED with the score of the state after the next token."""
    return dense.red(np.roll(process_reward, -1, axis=-1), prompt_constant, mask)


def no_end(process_reward: Array, prompt_constant: Array, reward: Array, length: Array, mask: Array) -> Array:
    return dense.red(process_reward, prompt_constant, mask)


def half_prover(process_reward: Array, prompt_constant: Array, reward: Array, length: Array, mask: Array) -> Array:
    return dense.pav(process_reward, prompt_constant, reward, length, mask, alpha=2)


def upside_down(process_reward: Array, prompt_constant: Array, ref_logp: Array, mask: Array) -> Array:
    """V(s_{t+1}) − V(s_t) cancels whatever its sign; the log-probability does not."""
    return -dense.endogenous(process_reward, prompt_constant, ref_logp, mask)


def wrong_kl(process_reward: Array, logp: Array, ref_logp: Array, reward: Array, length: Array) -> Array:
    return dense.rto(process_reward, logp, ref_logp, reward, length, kl=-0.5)


def negative(process_reward: Array, ref_logp: Array) -> Array:
    return -dense.implicit(process_reward, ref_logp)


def twice(process_reward: Array) -> Array:
    return 2 * process_reward


def residual_without_the_last_share(process_reward: Array, reward: Array, length: Array) -> Array:
    return process_reward + dense.at_end(process_reward, reward, length)


def other_threshold(process_reward: Array, reward: Array, length: Array, mask: Array) -> Array:
    return dense.clip(process_reward, reward, length, mask, threshold=1)


def backwards(process_reward: Array, reward: Array, length: Array) -> Array:
    return 2 * dense.at_end(process_reward, reward, length) - dense.delta(process_reward, reward, length)


def all_attention(process_reward: Array, reward: Array, length: Array) -> Array:
    return dense.abc(process_reward, reward, length, beta=1)


def hot(process_reward: Array, mask: Array) -> Array:
    return dense.pure(process_reward, mask, temperature=1.0)


def maximum(process_reward: Array, mask: Array) -> Array:
    return -dense.pure_repaired(-process_reward, mask)


MUTANTS: list[tuple[str, Part]] = [
    ("red", late_start),
    ("igpo", no_end),
    ("pav", half_prover),
    ("endogenous", upside_down),
    ("rto", wrong_kl),
    ("prime", negative),
    ("spa", twice),
    ("spa_residual", residual_without_the_last_share),
    ("clip", other_threshold),
    ("delta", backwards),
    ("abc", all_attention),
    ("pure", hot),
    ("pure_repaired", maximum),
]


def numbers(problem: Problem, row: Estimator) -> Problem:
    return problem.to(FLOAT64) if row.numbers == "float64" else problem


def test_every_dense_reward_has_a_mutant() -> None:
    assert {name for name, _ in MUTANTS} == set(METHOD)


@pytest.mark.parametrize(("name", "part"), MUTANTS, ids=lambda value: getattr(value, "__name__", value))
def test_mutants_are_refuted(name: str, part: Part) -> None:
    honest = METHOD[name].row(dense.to_go)
    size = max(1, honest.min_group)
    assert audit(numbers(zoo.referenced(), honest), honest, size).verdict == "holds"
    row = with_part(name, part)
    assert audit(numbers(zoo.referenced(), row), row, size).verdict == "refuted"


def whole_not_left(dense_reward: Array) -> Array:
    return np.flip(dense.to_go(np.flip(dense_reward, -1)), -1)  # Σ_{k≤t}: the past


def no_bootstrap(dense_reward: Array, mask: Array, value: Array) -> Array:
    return dense.gae(dense_reward, mask, value * 0, lam=0)


@pytest.mark.parametrize("how", [whole_not_left, no_bootstrap])
def test_mutant_returns_are_refuted(how: Part) -> None:
    row = replace(METHOD["red"].row(dense.gae), advantage=dense.composed(dense.red, how))
    assert audit(zoo.referenced(), row, 1).verdict == "refuted"


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("slate", {"model": lambda p: p.values[0]}),
        ("pav_myopic", {"advantage": lambda continuation_value: continuation_value[..., 1:]}),
        ("oprl", {"penalty": negative}),
        ("oprl", {"advantage": advantages.group_mean}),
        ("prime_to_go", {"advantage": advantages.group_mean}),
        ("prime", {"model": rounded(tables.implicit(tables.response_reward))}),
        ("abc_gae", {"critic": lambda p: p.values[1]}),
        ("pure_gae", {"critic": rounded(lambda p: p.values[1])}),
        ("delta_gae", {"critic": lambda p: p.values[1]}),
        ("pure_repaired_gae", {"critic": lambda p: p.values[1]}),
    ],
)
def test_mutant_rows_are_refuted(name: str, change: dict[str, Any]) -> None:
    row = replace(ROW[name], **change)
    assert audit(numbers(zoo.referenced(), row), row, 2).verdict == "refuted"


def test_a_wrong_baseline_of_prime_is_seen_in_its_credits() -> None:
    # Self included: the mean over the group, (G−1)/G of the difference.  Two responses of one token, d = 0 and 4.
    zero, ones = np.zeros((2, 1)), np.ones((2, 1), bool)
    paid = dense.prime(np.array([1.0, 3.0]), np.array([[0.0], [4.0]]), zero, np.array([1, 1]), ones)
    assert paid.tolist() == [[-6.0], [6.0]]  # RLOO −2 and 2, 0 − 4 and 4 − 0
    with pytest.raises(EstimatorError, match=r"^rloo compares the responses of a group: group_size=1 given"):
        dense.prime(np.array([1.0]), zero[:1], zero[:1], np.array([1]), ones[:1])
