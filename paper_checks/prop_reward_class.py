"""prop:reward-class: token rewards with the same response totals have the same gradient, not the same variance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from paper_checks.common import both, gradient
from tpg.claims import Claim, Finding, nonzero, positive, zero
from tpg.claims.record import Check
from tpg.estimators.table import ESTIMATORS
from tpg.moments import brute_force
from tpg.numbers import Array
from tpg.problem import zoo
from tpg.problem.problem import Problem
from tpg.problem.zoo import residues

Twin = Callable[[Problem], Problem]


def paid_at_the_end(problem: Problem) -> Problem:
    """The ZRA twin: every RM(W) on the last token."""
    totals = problem.totals / problem.powers[problem.tree.depth][:, None]
    return replace(problem, rewards=np.where(problem.tree.inner, problem.field.scalar(0), totals))


def shaped(problem: Problem) -> Problem:
    """r_t + γΦ(s_{t+1}) − Φ(s_t) with an arbitrary potential, 0 at the start and where responses end."""
    potential = residues(np.random.Generator(np.random.Philox(9)), (problem.tree.nodes,), problem.field)
    potential[: problem.prompts] = problem.field.scalar(0)
    after = np.where(problem.tree.inner, potential[problem.tree.child], problem.field.scalar(0))
    return replace(problem, rewards=problem.rewards + problem.discount * after - potential[:, None])


def shaped_wrongly(problem: Problem) -> Problem:
    """Mutant: the potential's own discount is forgotten, so totals differ."""
    potential = residues(np.random.Generator(np.random.Philox(9)), (problem.tree.nodes,), problem.field)
    after = np.where(problem.tree.inner, potential[problem.tree.child], problem.field.scalar(0))
    return replace(problem, rewards=problem.rewards + after - potential[:, None])


def doubled_at_the_end(problem: Problem) -> Problem:
    """Mutant: RM on the last token on top of the token rewards."""
    return replace(problem, rewards=problem.rewards + paid_at_the_end(problem).rewards)


def ends(problem: Problem) -> Array:
    """RM(W) where responses end."""
    return problem.totals[problem.ends]


def same_gradient(twin: Twin) -> Check:
    """Same totals on every response, same g."""

    def check(problem: Problem) -> Sequence[Finding]:
        other = twin(problem)
        return [
            zero("same RM(W) on every response", ends(other) - ends(problem)),
            zero("same g", gradient(other) - gradient(problem)),
        ]

    return check


def example() -> Sequence[Finding]:
    """The existential part."""
    to_go, reinforce = ESTIMATORS["reward_to_go"], ESTIMATORS["reinforce"]
    problem, counter = zoo.shared(), zoo.cancelling()
    one, other = (brute_force(p, to_go, 1).total_variance for p in (problem, paid_at_the_end(problem)))
    return [
        nonzero("reward-to-go variances of twins differ", one - other),
        zero("r₂ = −r₁: the response reward has variance 0", brute_force(counter, reinforce, 1).total_variance),
        positive("r₂ = −r₁: reward-to-go has not", brute_force(counter, to_go, 1).total_variance),
    ]


CLAIM = Claim(
    label="prop:reward-class",
    statement="token rewards with equal response totals have equal g; their reward-to-go variances may differ, and "
    "token rewards do not always reduce variance",
    source="ours",
    hypotheses=("token rewards are causal",),
    check=both(same_gradient(paid_at_the_end), same_gradient(shaped)),
    example=example,
    mutants={
        "a potential without its discount": same_gradient(shaped_wrongly),
        "RM paid twice": same_gradient(doubled_at_the_end),
    },
    needs=("lem:exact-gradient",),
)
