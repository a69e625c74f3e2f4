"""prop:rollout-variance: what K fresh continuations per prefix add to the variance of exact advantages."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from paper_checks.common import PAPER, both
from paper_checks.continued import draws, length_of_list, reward_variance, to_come
from paper_checks.variances import Walks, variance
from tpg.claims import Claim, Finding, positive, zero
from tpg.claims.record import Check
from tpg.estimators.estimator import Estimator
from tpg.estimators.table import ESTIMATORS
from tpg.moments import moments
from tpg.moments.cost import tokens_by_prompt
from tpg.moments.split import split
from tpg.numbers import Array, dot
from tpg.problem import zoo
from tpg.problem.problem import Problem

EXACT, SHARED, OWN = (ESTIMATORS[f"exact_advantage{name}"] for name in ("", "_k1", "_k1_independent"))
SAMPLED, BLOCKS = ESTIMATORS["value_baseline"], ESTIMATORS["trepo_block_k1"]
SHORT = 10_000  # draws in one list: a second for the longest
Added = Callable[[Walks], Array]  # [P] what one continuation per prefix adds


def both_sides(walks: Walks) -> Array:
    """[P] E Σ_{t<L} σ²(W_{0,t}) (‖S_t‖² + ‖S_{t+1}‖²), S_0 = 0."""
    before = np.concatenate([0 * walks.norm2[:, :1], walks.norm2[:, :-1]], axis=1)  # ‖S_t‖² beside the prefix W_{0,t}
    return spread(walks, before + walks.norm2)


def spread(walks: Walks, weight: Array) -> Array:
    """[P] E Σ_{t<L} σ²(W_{0,t}) weight_t for numbers [R, T] at the prefixes."""
    return walks.mean((walks.along(reward_variance(walks.problem)) * weight).sum(1))


def of_blocks(pattern: Array) -> Added:
    """The same for blocks: E Σ σ²(W_{0,u}) (‖Z before u‖² + ‖Z after u‖²) over the block ends u < L, 0 among them."""

    def added(walks: Walks) -> Array:
        steps = walks.problem.horizon
        marks = [0, *(t for t in range(1, steps) if pattern[t]), steps]
        weight, last = 0 * walks.norm2, 0 * walks.norm2[:, 0]
        for start, end in itertools.pairwise(marks):
            block = walks.score[:, start:end].sum(1)
            norm2 = dot(block, block)
            weight[:, start], last = last + norm2, norm2
        return spread(walks, weight)

    return added


def listed(estimator: Estimator, count: int, added: Added = both_sides, power: int = 1, half: bool = False) -> Check:
    """Var(K) = Var_A + (1/K) · added, over the list of every draw of ``count`` continuations of every prefix.

    ``power``, ``half``: mutants.  Lists that are too long are left to :func:`engine`, which runs on every shape.
    """

    def check(problem: Problem) -> Sequence[Finding]:
        fields = 2 if "second_continuation_value" in estimator.needs else 1
        if length_of_list(problem, count, fields) > SHORT:
            return []
        pattern = odd(problem) if estimator is BLOCKS else None
        listing = draws(problem, count, pattern, fields)
        exact = replace(listing, estimates=None).variance(estimator)
        wanted = added(Walks(problem)) / (count**power * (2 if half else 1))
        return [
            zero(f"{estimator.name}: Var({count}) − Var_A, every draw", listing.variance(estimator) - exact - wanted)
        ]

    return check


def blocks_listed(problem: Problem) -> Sequence[Finding]:
    """The law of blocks that end at 1, 3, …"""
    return listed(BLOCKS, 1, of_blocks(odd(problem)))(problem)


def odd(problem: Problem) -> Array:
    """The positions 1, 3, …"""
    return np.asarray(np.arange(problem.horizon + 1) % 2 == 1)


def engine(problem: Problem) -> Sequence[Finding]:
    """The same by the moments of the rows, K = 3, two responses: everything is halved."""
    added = both_sides(Walks(problem)) / 6
    least = variance(problem, EXACT) / 2
    return [
        zero(f"{r.name}: Var(3) − Var_A, G = 2, by the engine", moments(problem, three, 2).variance - least - added)
        for r in (SHARED, OWN)
        for three in (replace(r, continuations=3),)
    ]


def dearer(problem: Problem) -> Sequence[Finding]:
    """Continuations of their own for Q and V cost Σ_{0<t<L} (tokens to come) more per response, times K."""
    walks, left = Walks(problem), to_come(problem)
    read_again = walks.along(left)
    extra = walks.mean(read_again[:, 1:].sum(1)) if problem.horizon > 1 else problem.field.zeros(problem.prompts)
    gap = tokens_by_prompt(problem, OWN, 1) - tokens_by_prompt(problem, SHARED, 1)
    shared = tokens_by_prompt(problem, SHARED, 1) - walks.mean(problem.field.array(walks.paths.length))
    return [
        zero("tokens of continuations: E Σ_{t<L} to come", shared - walks.mean(read_again.sum(1))),
        zero("tokens of one's own for Q and V: E Σ_{0<t<L} to come more", gap - extra),
    ]


def parts(added: Added) -> Check:
    """RM − V(s_t) has the state and action parts of D_t; continuations add ``added``."""

    def check(problem: Problem) -> Sequence[Finding]:
        sampled, exact = (split(problem, estimator, 1) for estimator in (SAMPLED, EXACT))
        wanted = (problem.weights**2 * added(Walks(problem))).sum()
        return [
            zero("state and action part", [sampled.state - exact.state, sampled.action - exact.action]),
            zero(
                "continuation part: 0 of D_t, E Σ ‖S_t‖² σ²(W_{0,t}) of RM − V",
                [exact.continuation, sampled.continuation - wanted],
            ),
        ]

    return check


def one_side(walks: Walks) -> Array:
    """[P] E Σ_{t<L} σ²(W_{0,t}) ‖S_t‖²: the noise of M_t in the credit of token t alone."""
    return spread(walks, np.concatenate([0 * walks.norm2[:, :1], walks.norm2[:, :-1]], axis=1))


def at_root_too(walks: Walks) -> Array:
    """Mutant: the variance at the root for all."""
    problem = walks.problem
    root = reward_variance(problem)[: problem.prompts][walks.paths.prompt][:, None]
    twice = walks.norm2 + np.concatenate([0 * walks.norm2[:, :1], walks.norm2[:, :-1]], axis=1)
    return walks.mean((root * twice).sum(1))


def example() -> Sequence[Finding]:
    """Own draws for Q and V cost more for the same variance; with as many draws in all they have more variance."""
    problem = zoo.three_valued()
    one, two = (variance(problem, r).sum() for r in (replace(SHARED, continuations=2), OWN))
    tokens = [tokens_by_prompt(problem, r, 1).sum() for r in (SHARED, OWN)]
    return [
        positive("three-valued: own draws cost more tokens", tokens[1] - tokens[0]),
        zero("three-valued: the same variance", variance(problem, SHARED) - variance(problem, OWN)),
        positive("three-valued: two shared draws have less variance than one for Q and one for V", two - one),
    ]


CLAIM = Claim(
    label="prop:rollout-variance",
    statement="with K fresh continuations per prefix, shared by Q of a token and V of the next, Var(K) = Var_A + "
    "(1/K) E Σ_{t<L} σ²(W_{0,t}) (‖S_t‖² + ‖S_{t+1}‖²), S_0 = 0 (blocks: scores summed before and after each end); "
    "continuations of their own for Q and V have the same variance and cost K E Σ_{0<t<L} (tokens to come) more; "
    "token by token the state and action parts are those of RM − V(s_t), whose continuation part "
    "E Σ_t ‖S_t‖² σ²(W_{0,t}) exact values remove",
    source=f"ours, on {PAPER}; ledger 30",
    hypotheses=(
        "continuations from the current policy, independent of the response and of each other",
        "per response: G Var ĝ",
    ),
    group_sizes=(1, 2),
    check=both(listed(SHARED, 1), listed(SHARED, 2), listed(OWN, 1), blocks_listed, engine, dearer, parts(one_side)),
    example=example,
    mutants={
        "the noise counts once": listed(SHARED, 1, one_side),
        "1/K²": listed(SHARED, 2, power=2),
        "shared draws halve the noise": listed(SHARED, 1, half=True),
        "the variance of the root everywhere": listed(SHARED, 1, at_root_too),
        "own draws for Q and V add twice the noise": listed(OWN, 1, lambda walks: 2 * both_sides(walks)),
        "a sampled return has the noise of both scores": parts(both_sides),
    },
    needs=("thm:advantage",),
)
