"""claim:online-dpo-win-rate: at π = ref online DPO climbs the probability of beating a frozen copy of itself, not J."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from paper_checks.common import both, expectation, gradient
from paper_checks.laws import paying, turned
from paper_checks.preferences import at_reference, float_row, last_of, optimum, size, with_reference
from tpg.claims import Claim, Finding, apart, close, positive
from tpg.claims.record import Check
from tpg.estimators import pairs
from tpg.estimators.estimator import Estimator
from tpg.estimators.table import ESTIMATORS
from tpg.numbers import FLOAT64, Array
from tpg.problem import zoo
from tpg.problem.problem import Problem, make
from tpg.problem.tree import grow
from tpg.rollouts import responses

Label = Callable[[Array], Array]  # R − R' → probability that W beats W'


def bradley_terry(margin: Array) -> Array:
    """σ(R − R')."""
    return np.asarray(1 / (1 + np.exp(-margin)))


def larger(margin: Array) -> Array:
    """1 for the larger reward, a half for equal ones."""
    return np.asarray((margin > 0) + (margin == 0) / 2)


def online(beta: float) -> Estimator:
    """Online DPO at another β."""
    return float_row(partial(pairs.online_dpo, beta=beta))


def hard(beta: float) -> Estimator:
    """DPO on its own samples at another β: the larger reward is chosen."""
    return float_row(partial(pairs.dpo, beta=beta))


def wins(problem: Problem, label: Label) -> Array:
    """[N, V] P(W beats W'), W' ~ π frozen, where W ends."""
    singles = responses(problem)
    chance = singles.probability * (singles.prompt[:, None] == singles.prompt)
    return last_of(problem, (label(singles.reward[:, None] - singles.reward) * chance).sum(1))


def win_rate(problem: Problem, label: Label = bradley_terry) -> Array:
    """[D] ∇_θ P(W ~ π_θ beats W' ~ π)."""
    return gradient(paying(problem, wins(problem, label)))


def climbs(
    row: Callable[[float], Estimator] = online,
    label: Label = bradley_terry,
    factor: float = 2,
    start: Callable[[Problem], Problem] = at_reference,
) -> Check:
    """E ĝ = 2β ∇ win rate at π = ref."""

    def check(problem: Problem) -> Sequence[Finding]:
        given, out = start(problem), []
        for beta, group in ((0.1, 2), (1.0, 2), (1.0, 3)):
            gap = expectation(given, row(beta), group) - factor * beta * win_rate(given, label)
            out.append(close(f"β = {beta:g}, G = {group}: E ĝ = 2β ∇P(W beats W')", gap, beta * size(given)))
        return out

    return check


def at_rest(where: float = 1) -> Check:
    """Whatever generates, the expected label gives no pair credit at π ∝ ref e^{R/β}."""

    def check(problem: Problem) -> Sequence[Finding]:
        beta = 1 + float(np.abs(problem.to(FLOAT64).totals).max())
        given = optimum(problem, where * beta)
        row = online(beta)
        singles = responses(given)
        rows = [np.flatnonzero(singles.prompt == x) for x in range(given.prompts)]
        index = np.concatenate([np.stack(np.meshgrid(mine, mine), axis=-1).reshape(-1, 2) for mine in rows])
        credits = row(singles.group(index, row.needs))
        return [close("no pair gets credit at π ∝ ref e^{R/β}", credits, beta * size(given))]

    return check


def follows_the_reward(problem: Problem) -> Sequence[Finding]:
    """As worded: at π = ref the KL is at rest, and the update is a multiple of g = ∇(J − β KL)."""
    given = at_reference(problem)
    g = gradient(given)
    found = turned(expectation(given, online(1.0), 2), g) / max(1.0, float(g @ g))
    return [close("E ĝ is a multiple of g", found, size(given))]


def both_players_move(problem: Problem) -> Sequence[Finding]:
    """Mutant: the copy moves along, P(W ~ π_θ beats W' ~ π_θ) = 1/2 for every θ."""
    return [close("E ĝ = 2β ∇ 1/2 = 0", expectation(at_reference(problem), online(1.0), 2), size(problem))]


def example() -> Sequence[Finding]:
    """One token of three, π = (1, 3, 6)/10, R = (20, 0, 1): J = 2.6, so that g lowers the last, whose R is 1.

    It beats the others with probability 3/10 + 6/20 = 0.6 by the larger reward, and with 0.3 σ(1) + 0.3 > 1/2 by
    Bradley–Terry: both raise it.  With two responses the two fields are parallel.
    """
    arms = make(grow(3, 1), [["1/10", "3/10", "6/10"]], [[20, 0, 1]], field=FLOAT64, name="three arms")
    arms = at_reference(arms)
    g, out = gradient(arms), []
    for name in ("online_dpo", "dpo"):
        found = expectation(arms, ESTIMATORS[name], 2)
        out.append(positive(f"{name} raises what g lowers", -found[2] * g[2]))
    for problem in (zoo.three_valued(FLOAT64), zoo.shared(FLOAT64)):
        given = at_reference(problem)
        found, g = expectation(given, ESTIMATORS["online_dpo"], 2), gradient(given)
        out.append(apart(f"turns from g on {given.name}", turned(found, g) / (g @ g), 0.1))
    return out


CLAIM = Claim(
    label="claim:online-dpo-win-rate",
    statement="at π = ref online DPO has E ĝ = 2β ∇_θ P(W ~ π_θ beats W' ~ π), π frozen, whatever the group size: a "
    "win rate under the labels (Bradley–Terry, or the larger reward and half for a tie), not g; with Bradley–Terry "
    "labels in expectation it is at rest at π ∝ ref e^{R/β} all the same, whatever policy generates",
    source="Guo et al., arXiv 2402.04792; Rafailov et al., arXiv 2305.18290; the expectation is ours",
    hypotheses=(
        "π = ref, on-policy, for the direction",
        "labels depend on the pair alone; averaged or drawn is the same in expectation",
        "the loss is the mean over the pairs of a group",
    ),
    group_sizes=(2, 3),
    check=both(climbs(), climbs(hard, larger), at_rest()),
    example=example,
    mutants={
        "it is g, but for its scale": follows_the_reward,
        "the win rate once": climbs(factor=1),
        "the same away from ref": climbs(start=with_reference),
        "Bradley–Terry labels, the larger reward wins": climbs(label=larger),
        "both players move": both_players_move,
        "at rest at ref e^{R/2β}": at_rest(2),
    },
    needs=("lem:baseline",),
    algebraic=False,
    wording="a step of DPO on its own samples climbs the expected reward less β KL to the reference policy",
    as_worded=follows_the_reward,
)
