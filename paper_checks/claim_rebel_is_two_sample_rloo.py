"""claim:rebel-is-two-sample-rloo: the first steps of REBEL and CoPG are leave-one-out policy gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from paper_checks.common import both, expectation, gradient
from paper_checks.laws import turned
from paper_checks.preferences import float_row, kl_slope, mixed, optimum, size, with_reference
from tpg.claims import Claim, Finding, apart, close
from tpg.claims.record import Check
from tpg.estimators import pairs
from tpg.estimators.estimator import Estimator
from tpg.numbers import FLOAT64, Array
from tpg.problem import zoo
from tpg.problem.problem import Problem
from tpg.rollouts import every

STEPS, TEMPERATURES = (1.0, 0.25), (0.1, 1.0)  # η of REBEL, β of CoPG


def rebel(eta: float) -> Estimator:
    """The row at another η."""
    return float_row(partial(pairs.rebel, eta=eta))


def copg(beta: float) -> Estimator:
    """The row at another β."""
    return float_row(partial(pairs.copg, beta=beta))


def all_pairs(problem: Problem, row: Estimator) -> Iterator[tuple[Array, Array, Array]]:
    """Of all pairs of responses of a prompt: A_1 of ``row``, R_1 − R_2, and log π/ref(1) − log π/ref(2)."""
    for _, singles, index, _ in every(problem, 2):
        credit = 2 * row(singles.group(index, row.needs))[:, 0, 0]  # credits hold 1/G; the same on all tokens
        away = _log(singles.prob) - _log(singles.ref_prob)
        yield credit, singles.reward[index] @ [1, -1], away[index] @ [1, -1]


def _log(prob: Array | None) -> Array:
    assert prob is not None
    return np.log(prob).sum(1)


def pairwise(problem: Problem) -> Sequence[Finding]:
    """Credits on every pair: 4/η of RLOO's, and twice RLOO's of R − β log π/ref."""
    given, out = with_reference(problem), []
    for eta in STEPS:
        gap = [credit - 4 / eta * paid for credit, paid, _ in all_pairs(given, rebel(eta))]
        out.append(close(f"REBEL, η = {eta:g}: A_1 = 4/η (R_1 − R_2)", np.concatenate(gap), 4 / eta * size(given)))
    for beta in TEMPERATURES:
        gap = [credit - 2 * (paid - beta * away) for credit, paid, away in all_pairs(given, copg(beta))]
        out.append(close(f"CoPG, β = {beta:g}: A_1 = 2 (S_1 − S_2)", np.concatenate(gap), size(given)))
    return out


def first_step(factor: float = 4, behaviour: Callable[[Array], Array] | None = None) -> Check:
    """REBEL at π = μ: E ĝ = 4/η g."""

    def check(problem: Problem) -> Sequence[Finding]:
        given = problem.to(FLOAT64)
        moved = given if behaviour is None else replace(given, behaviour=behaviour(given.probs))
        out = []
        for eta, group in ((STEPS[0], 2), (STEPS[1], 2), (STEPS[0], 3)):
            gap = expectation(moved, rebel(eta), group) - factor / eta * gradient(given)
            out.append(close(f"REBEL, η = {eta:g}, G = {group}: E ĝ = 4/η g", gap, factor / eta * size(given)))
        return out

    return check


def regularised(factor: float = 2, weight: float = 1) -> Check:
    """CoPG on-policy: E ĝ = 2 ∇(J − β KL(π‖ref))."""

    def check(problem: Problem) -> Sequence[Finding]:
        given, out = with_reference(problem), []
        for beta, group in ((TEMPERATURES[0], 2), (TEMPERATURES[1], 2), (TEMPERATURES[1], 3)):
            wanted = gradient(given) - weight * beta * kl_slope(given)
            gap = expectation(given, copg(beta), group) - factor * wanted
            out.append(close(f"CoPG, β = {beta:g}, G = {group}: E ĝ = 2 ∇(J − β KL)", gap, size(given)))
        return out

    return check


def at_rest(where: float = 1) -> Check:
    """Whatever generates, no pair gets credit at π ∝ ref e^{R/β}: CoPG; REBEL with μ for ref and 1/η for β."""

    def check(problem: Problem) -> Sequence[Finding]:
        beta = 1 + float(np.abs(problem.to(FLOAT64).totals).max())
        given = optimum(problem, where * beta)
        regressed = replace(given, behaviour=given.reference)
        made = [all_pairs(given, copg(beta)), all_pairs(regressed, rebel(1 / beta))]
        credits = [credit for each in made for credit, _, _ in each]
        return [close("no credit at π ∝ ref e^{R/β}", np.concatenate(credits), 4 * beta * size(given))]

    return check


def ipo_too(problem: Problem) -> Sequence[Finding]:
    """IPO is CoPG with rewards ±1/4 at β = τ, times 2/τ, on pairs of unequal rewards."""
    given, tau = with_reference(problem), 0.5
    labelled = []
    for (credit, paid, away), (loss, _, _) in zip(
        all_pairs(given, float_row(partial(pairs.ipo, tau=tau))), all_pairs(given, copg(tau)), strict=True
    ):
        linear = loss - 2 * paid + np.sign(paid)  # R_1 − R_2 replaced by ±1/2, twice
        labelled.append(np.where(paid == 0, 0, credit - 2 / tau * linear))
        assert away.shape == credit.shape
    return [close("IPO = 2/τ CoPG of rewards ±1/4", np.concatenate(labelled), 4 / tau * size(given))]


def policy_gradients(problem: Problem) -> Sequence[Finding]:
    """As published: the first steps point along g and along ∇(J − β KL)."""
    given = with_reference(problem)
    g, out = gradient(given), []
    for row, wanted in ((rebel(1), g), (copg(1), g - kl_slope(given))):
        found = turned(expectation(given, row, 2), wanted) / max(1.0, float(wanted @ wanted))
        out.append(close("a multiple of the gradient", found, 4 * size(given)))
    return out


def example() -> Sequence[Finding]:
    """Both need their hypotheses: stale responses, and the KL term."""
    stale, kept = zoo.stale(FLOAT64), zoo.referenced(FLOAT64)
    off = expectation(stale, rebel(1), 2)
    drawn = expectation(kept, copg(0.1), 2)
    return [
        apart("REBEL turns where an older policy generates", turned(off, gradient(stale)), size(stale)),
        apart("CoPG turns from g by its KL term", turned(drawn, gradient(kept)), size(kept)),
    ]


CLAIM = Claim(
    label="claim:rebel-is-two-sample-rloo",
    statement="on the first step REBEL's credits are 4/η times two-sample RLOO's, E ĝ = (4/η) g; on-policy CoPG's are "
    "twice RLOO's of R − β log π/ref, E ĝ = 2 ∇(J − β KL(π‖ref)); whatever policy generates, CoPG is at rest at "
    "π ∝ ref e^{R/β}, and REBEL at π ∝ μ e^{ηR}; IPO is 2/τ times CoPG of rewards ±1/4 with β = τ",
    source="Gao et al., arXiv 2404.16767; Flet-Berliac et al., 2406.19185 (CoPG); the factors are ours; ledger 27",
    hypotheses=(
        "the responses come from the current policy",
        "the loss is the mean over the pairs of a group; a group of two is the published pair",
        "full support",
    ),
    group_sizes=(2, 3),
    check=both(pairwise, first_step(), regularised(), at_rest(), ipo_too),
    example=example,
    mutants={
        "REBEL is RLOO with 2/η": first_step(2),
        "REBEL is RLOO whatever generates": first_step(4, mixed),
        "CoPG climbs J − β KL once": regularised(1),
        "CoPG climbs J": regularised(2, 0),
        "CoPG adds the KL": regularised(2, -1),
        "at rest at ref e^{R/2β}": at_rest(2),
    },
    needs=("prop:group-mean", "lem:baseline"),
    algebraic=False,
    wording="on its own samples REBEL's first step is a policy gradient with the other response as baseline, and "
    "CoPG's is one of the reward regularised by KL",
    as_worded=policy_gradients,
)
