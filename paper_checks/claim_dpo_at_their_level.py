"""claim:dpo-at-their-level: response-level credit; when it is GRPO's, and when it is not."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from paper_checks.common import PAPER, both, expectation, gradient
from paper_checks.laws import three_valued, turned, two_valued
from paper_checks.preferences import at_reference, float_row, size, with_reference
from paper_checks.prop_modelling_power import at_the_end
from paper_checks.prop_sigma_turns import sign
from tpg.claims import Claim, Finding, apart, close, zero
from tpg.claims.record import Check
from tpg.estimators import advantages
from tpg.estimators.estimator import Estimator
from tpg.estimators.pairs import BETA
from tpg.estimators.table import ESTIMATORS
from tpg.numbers import Array
from tpg.problem import zoo
from tpg.problem.problem import Problem
from tpg.rollouts import every

DPO, ONLINE = ESTIMATORS["dpo"], ESTIMATORS["online_dpo"]
Start = Callable[[Problem], Problem]  # which reference policy


def credits_of(problem: Problem, estimator: Estimator) -> tuple[Array, Array]:
    """Credits of every pair [n, 2, T], and their mask."""
    credits, mask = [], []
    for _, singles, index, _ in every(problem, 2):
        credits.append(estimator(singles.group(index, estimator.needs)))
        mask.append(singles.mask[index])
    return np.concatenate(credits), np.concatenate(mask)


def one_number(estimator: Estimator, start: Start = with_reference) -> Check:
    """One credit for all tokens of a response, the opposite one for its rival."""

    def check(problem: Problem) -> Sequence[Finding]:
        credits, mask = credits_of(start(problem), estimator)
        return [
            zero(f"{estimator.name}: one credit for all tokens", np.where(mask, credits - credits[..., :1], 0)),
            close(f"{estimator.name}: the two cancel", credits[:, 0, 0] + credits[:, 1, 0], np.abs(credits).max()),
        ]

    return check


def of_totals(estimator: Estimator) -> Check:
    """The same credits when RM(W) is paid on the last token."""

    def check(problem: Problem) -> Sequence[Finding]:
        # Totals are equal exactly: taken to float64 they are rounded alike.
        given, moved = (with_reference(made) for made in (problem, at_the_end(problem)))
        gap = credits_of(given, estimator)[0] - credits_of(moved, estimator)[0]
        return [close(f"{estimator.name}: from RM(W) alone", gap, size(given))]

    return check


def as_grpo(start: Start = at_reference, factor: float = BETA) -> Check:
    """DPO's credits are β times (R − mean)/σ of the pair: ±1 to unequal rewards, 0 to equal ones."""

    def check(problem: Problem) -> Sequence[Finding]:
        out = []
        for made in (problem, three_valued(problem)):  # two rewards tie or not exactly: no rounding before they do
            given = start(made)
            gap = credits_of(given, DPO)[0] - factor * credits_of(given, float_row(sign))[0]
            out.append(close("dpo: β times GRPO's of a group of two", gap, 1))
        return out

    return check


def along_g(made: Start, start: Start = at_reference, factor: float = BETA) -> Check:
    """E ĝ of DPO = β g."""

    def check(problem: Problem) -> Sequence[Finding]:
        given = start(made(problem))
        return [close("dpo: E ĝ = β g", expectation(given, DPO, 2) - factor * gradient(given), size(given))]

    return check


def example() -> Sequence[Finding]:
    """Where E ĝ is not along g: three reward values at π = ref, and any away from it."""
    out = []
    for problem in (at_reference(zoo.three_valued()), with_reference(zoo.two_valued()), zoo.referenced()):
        given = problem if problem.field.name == "float64" else with_reference(problem)
        g = gradient(given)
        for estimator in (DPO, ONLINE):
            found = expectation(given, estimator, 2)
            out.append(apart(f"{estimator.name} turns on {given.name}", turned(found, g), g @ g * np.abs(found).max()))
    return out


CLAIM = Claim(
    label="claim:dpo-at-their-level",
    statement="DPO on its own samples gives every token of a response one number and its rival the opposite one, made "
    "of response rewards and log π/ref alone; at π = ref it is β times GRPO's z-score of a group of two, E ĝ = β g for "
    "rewards 0 and 1; with three values, or away from ref, E ĝ need not be along g",
    source=f"{PAPER}; arXiv 2305.18290; the constants are ours",
    hypotheses=("on-policy pairs, the larger reward chosen, ties dropped (online DPO: Bradley–Terry labels)",),
    group_sizes=(2,),
    check=both(
        *(check(estimator) for estimator in (DPO, ONLINE) for check in (one_number, of_totals)),
        as_grpo(),
        along_g(two_valued),
    ),
    example=example,
    mutants={
        "reward-to-go is one number": one_number(float_row(advantages.reward_to_go)),
        "reward-to-go is made of RM(W) alone": of_totals(float_row(advantages.reward_to_go)),
        "GRPO's away from ref, too": as_grpo(with_reference),
        "β/2 times GRPO's": as_grpo(factor=BETA / 2),
        "along g with three values": along_g(three_valued),
        "along g away from ref": along_g(two_valued, with_reference),
    },
    needs=("prop:sigma-turns", "claim:online-dpo-win-rate"),
    algebraic=False,
    wording="DPO is at the level of GRPO, RLOO and ReMax (read: one credit for all tokens of a response, from "
    "response-level rewards)",
    as_worded=both(one_number(DPO), of_totals(DPO)),
)
