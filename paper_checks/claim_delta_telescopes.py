"""claim:delta-telescopes: Delta's differences sum to the first process reward, and reward-to-go keeps all of them.

Where the last step has no process reward of its own, PR is 0 on whole responses: a special case of any table.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from paper_checks.common import both, gradient
from paper_checks.laws import paying
from paper_checks.spreads import Dense, any_table, free, met, spoken
from tpg.claims import Claim, Finding, zero
from tpg.claims.record import Check
from tpg.estimators import dense
from tpg.numbers import Array
from tpg.problem.problem import Problem, make
from tpg.problem.tree import grow
from tpg.rollouts import responses

Table = Callable[[Problem], Array]


def delta(model: Table) -> Dense:
    """d_t = PR_t − PR_{t+1} + R·1{t=L}, PR_{L+1} = 0."""
    return Dense(lambda process_reward, reward, length: dense.delta(process_reward, reward, length), model)


def of_the_prefix_before(problem: Problem) -> Array:
    """[N, V] PR_t said of W_{0,t−1}: the same number whatever the token."""
    return np.broadcast_to(free(problem, "before", problem.tree.nodes)[:, None], problem.probs.shape)


def said_first(problem: Problem) -> Array:
    """[N, V] PR_1 of the response, where it ends."""
    out = any_table(problem)
    for t in range(1, problem.horizon):
        rows = problem.tree.at(t)
        out[rows] = problem.tree.descend(out[problem.tree.at(t - 1)], t - 1)[:, None]
    return out


def telescopes(problem: Problem) -> Sequence[Finding]:
    """Σ_t d_t = R + PR_1: the return of a response is bounded as PR is."""
    singles = responses(problem)
    gap = delta(any_table).numbers(problem).sum(1) - singles.reward - spoken(problem, any_table(problem))[:, 0]
    wanted = gradient(paying(problem, problem.totals + said_first(problem)))
    return [
        zero("Σ_t d_t = R + PR_1 on every response", gap),
        zero("full sum: E ĝ = ∇E[R + PR_1]", delta(any_table).full(problem) - wanted),
    ]


def late(factor: int = 1) -> Check:
    """Reward-to-go and GAE(λ): E ĝ = g + E Σ_t PR_t S_t."""

    def check(problem: Problem) -> Sequence[Finding]:
        wanted = gradient(problem) + factor * met(problem, spoken(problem, any_table(problem)))
        made = [delta(any_table).to_go(problem), delta(any_table).gae(problem, "1/2")]
        gap = np.concatenate([each - wanted for each in made])
        return [zero("reward-to-go, GAE(1/2): E ĝ = g + E Σ_t PR_t S_t", gap)]

    return check


def shaping(model: Table) -> Check:
    """E ĝ = g by every return."""

    def check(problem: Problem) -> Sequence[Finding]:
        paid, g = delta(model), gradient(problem)
        made = [paid.full(problem), paid.to_go(problem), paid.gae(problem, "1/2")]
        return [zero("by every return: E ĝ = g", np.concatenate([each - g for each in made]))]

    return check


def as_the_full_sum(problem: Problem) -> Sequence[Finding]:
    """Mutant: reward-to-go climbs E[R + PR_1], as the full sum does."""
    wanted = gradient(paying(problem, problem.totals + said_first(problem)))
    return [zero("E ĝ = ∇E[R + PR_1]", delta(any_table).to_go(problem) - wanted)]


def turned_round() -> Sequence[Finding]:
    """Two tokens of two, π = 1/2, R = 1 where the first is 0; PR is 2 after a first 1, and silent at the end.

    The first token is paid R + PR_1: 1 for a 0, 2 for a 1, in place of 1 and 0.  The second is paid R, which it does
    not move.  One token would do where PR speaks of whole responses.
    """
    problem = make(grow(2, 2), [["1/2", "1/2"]] * 3, [[1, 0], [0, 0], [0, 0]], name="wrong first step")
    found = delta(lambda _: problem.field.array([[0, 2], [0, 0], [0, 0]]))
    return [zero(f"{how.__name__}: E ĝ = −g", how(problem) + gradient(problem)) for how in (found.full, found.to_go)]


CLAIM = Claim(
    label="claim:delta-telescopes",
    statement="Delta, PR_t − PR_{t+1} and R at the end, with PR_t said of W_{0,t}: a response earns R + PR_1, so the "
    "full sum gives ∇E[R + PR_1]; reward-to-go and GAE(λ) keep a process reward at every token, "
    "E ĝ = g + E Σ_t PR_t S_t; with PR_t said of W_{0,t−1} it is potential shaping and E ĝ = g by every return",
    source="Gao et al., arXiv 2410.15115, our constants; the expectations are ours",
    hypotheses=("PR is held fixed when differentiated", "PR after the end is 0", "γ = 1 in the advantage"),
    check=both(telescopes, late(), shaping(of_the_prefix_before)),
    example=turned_round,
    mutants={
        "it shapes whatever PR is said of": shaping(any_table),
        "reward-to-go climbs what the full sum climbs": as_the_full_sum,
        "the process rewards have the other sign": late(-1),
        "every process reward counts twice": late(2),
    },
    needs=("thm:trajectory-pg", "lem:baseline", "claim:gae-of-any-redistribution"),
    wording="differences of neighbouring process rewards telescope, so that they shape the reward and leave what is "
    "climbed as it was",
    as_worded=shaping(any_table),
)
