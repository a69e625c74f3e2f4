"""claim:silent-batch-still-trains: what exact advantages do when every response of the batch has failed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from paper_checks.common import PAPER, both
from paper_checks.variances import paying
from tpg import truth
from tpg.claims import Claim, Finding, nonzero, positive, zero
from tpg.claims.record import Check
from tpg.estimators.estimator import Estimator
from tpg.estimators.parts import peers
from tpg.estimators.table import ESTIMATORS
from tpg.moments import brute_force
from tpg.numbers import RATIONAL, Array, dot
from tpg.problem import zoo
from tpg.problem.problem import Problem, make
from tpg.problem.tree import grow

Weight = Callable[[Array], Array]  # M_t → what its step counts for
EXACT = ESTIMATORS["exact_advantage"]
RELATIVE = ("reinforce", "rloo", "group_mean", "dr_grpo", "opo", "opo_loo")


@peers("reward")
def all_failed(reward: Array) -> Array:
    """Every reward of the group is 0."""
    return (reward == 0).all(-1, keepdims=True)


def right_or_wrong(problem: Problem) -> Problem:
    """The same policy, γ = 1, with response rewards 0 and 1 in turn."""
    node, token = np.indices(problem.probs.shape)
    return paying(problem, np.where((node + token) % 2 == 0, problem.field.scalar(1), problem.field.scalar(0)))


def silent(estimator: Estimator) -> Estimator:
    """``estimator`` given that its group has failed: any other group is drawn again."""
    return replace(estimator, keep=all_failed)


def failures(problem: Problem, weight: Weight = lambda after: 1 - after) -> Array:
    """Σ_t E[(M_t − M_{t−1}) (1 − M_t) S_t] / (1 − p) of each prompt, from the tree; 1 − M_t = P(failure | W_{0,t})."""
    after, before = problem.values
    prompt = problem.tree.prompt if problem.tabular else np.arange(problem.prompts)
    step = weight(after) * (after - before[:, None])
    return problem.pull(problem.reach[:, None] * problem.probs * step) / (1 - before[: problem.prompts])[prompt, None]


def trains(size: int, wanted: Callable[[Problem], Array] = failures) -> Check:
    """E[ĝ of exact advantages | all G responses fail] = ``wanted``, for G = ``size``."""

    def check(problem: Problem) -> Sequence[Finding]:
        tied = right_or_wrong(problem)
        return [zero(f"E[ĝ | silent], G = {size}", brute_force(tied, silent(EXACT), size).mean - wanted(tied))]

    return check


def teaches_nothing(name: str) -> Check:
    """ĝ = 0 in every silent group: no mean and no variance."""

    def check(problem: Problem) -> Sequence[Finding]:
        found = brute_force(right_or_wrong(problem), silent(ESTIMATORS[name]), 2)
        return [zero(f"ĝ of {name} in silent groups", [*found.mean.ravel(), *found.variance])]

    return check


def one_token(problem: Problem) -> Sequence[Finding]:
    """Responses of one token: E[ĝ | silent] = p/(1 − p) · g, the gradient times the odds."""
    first = problem.tree.at(0)
    tree = grow(problem.vocab, 1, problem.prompts)
    node, token = np.indices((problem.prompts, problem.vocab))
    features = None if problem.features is None else problem.features[first]
    short = make(tree, problem.probs[first], (node + token) % 2, weights=problem.weights, field=problem.field)
    short = replace(short, features=features)
    p = short.values[1][:, None]  # prefixes are prompts here
    gap = brute_force(short, silent(EXACT), 2).mean - p / (1 - p) * truth.by_dual_numbers(short)
    return [zero("one token: E[ĝ | silent] = p/(1−p) g", gap)]


def alive(problem: Problem) -> Sequence[Finding]:
    """As published: a silent batch moves the policy under exact advantages."""
    return [nonzero("E[ĝ | silent]", brute_force(right_or_wrong(problem), silent(EXACT), 2).mean)]


def opposed() -> Problem:
    """Two prompts, one parameter: right with chance 9/10 if it grows, with chance 1/2 if it shrinks."""
    policy, moves = [["9/10", "1/10"], ["1/2", "1/2"]], [[[1], [0]], [[0], [1]]]
    return make(grow(2, 1, 2), policy, [[1, 0], [1, 0]], features=moves, field=RATIONAL, name="opposed")


def example() -> Sequence[Finding]:
    """``opposed``: ∇p = 9/100 and −1/4, g = (9/100 − 1/4)/2 = −2/25; times odds 9 and 1: (81/100 − 1/4)/2 = 7/25."""
    problem, against = zoo.two_valued(), opposed()
    g, found = truth.by_recursion(problem).ravel(), brute_force(problem, silent(EXACT), 3).mean.ravel()
    wrong = against.combine(brute_force(against, silent(EXACT), 2).mean)
    return [
        nonzero("two-valued: E[ĝ | silent] ≠ 0, G = 3", found),
        positive("two-valued: it climbs", dot(found, g)),
        nonzero("two-valued: not along g", dot(g, g) * found - dot(g, found) * g),
        zero("two prompts, one parameter: g = −2/25", against.combine(truth.by_recursion(against)) + _of("2/25")),
        zero("there E[ĝ | silent] = +7/25: it descends", wrong - _of("7/25")),
    ]


def _of(text: str) -> Array:
    return RATIONAL.array([text])


CLAIM = Claim(
    label="claim:silent-batch-still-trains",
    statement="rewards 0 or 1, p = P(1): given that all responses fail, E[Σ_t (M_t − M_{t−1}) S_t] = Σ_t "
    "E[(M_t − M_{t−1})(1 − M_t) S_t]/(1 − p) for one response as for a group, not 0 in general, for one token "
    "g · p/(1 − p); it need not be along g and may oppose it; REINFORCE and credits relative to the group's mean are 0 "
    "there (rows with a std: claim:grpo-one-number)",
    source=f"{PAPER} says that it still trains; the expectation and its direction are ours; ledger 7",
    hypotheses=("the critic is exact, so it knows of successes that the batch has not seen", "0 < p < 1", "on-policy"),
    group_sizes=(1, 2),
    check=both(trains(1), trains(2), one_token, *(teaches_nothing(name) for name in RELATIVE)),
    example=example,
    mutants={
        "as good as any batch: g": trains(2, truth.by_recursion),
        "failure does not weigh": trains(2, lambda problem: failures(problem, lambda after: 0 * after + 1)),
        "weighed by success": trains(2, lambda problem: failures(problem, lambda after: after)),
        "half of it for two responses": trains(2, lambda problem: failures(problem) / 2),
        "exact advantages vanish too": teaches_nothing("exact_advantage"),
        "E RM as baseline vanishes too": teaches_nothing("reinforce_baseline"),
    },
    needs=("thm:advantage",),
    wording="a batch in which every response has reward 0 still trains the policy under exact advantages",
    as_worded=alive,
)
