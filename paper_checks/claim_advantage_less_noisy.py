"""claim:advantage-less-noisy: M_t instead of the sampled return, V(s_t) the baseline of both."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from paper_checks.common import PAPER, both, unbiased
from paper_checks.variances import Walks, never_below, one_right_response, variance
from tpg.claims import Claim, Finding, positive, zero
from tpg.claims.record import Check
from tpg.estimators.table import ESTIMATORS
from tpg.numbers import RATIONAL, Array, dot
from tpg.problem import zoo
from tpg.problem.problem import Problem, make
from tpg.problem.tree import grow

RETURN, ADVANTAGE = ESTIMATORS["value_baseline"], ESTIMATORS["exact_advantage"]


def saved(problem: Problem) -> Array:
    """[P] Var of (RM − V(s_t)) minus Var of (M_t − M_{t−1})."""
    return variance(problem, RETURN) - variance(problem, ADVANTAGE)


def same_token(walks: Walks) -> Array:
    """[R] Σ_u D_u² (‖Z_u‖² − ‖S_u‖²)."""
    return (walks.step**2 * (dot(walks.upto, walks.upto) - walks.norm2)).sum(1)


def later_tokens(walks: Walks) -> Array:
    """[R] Σ_{u<v} D_u Z_{u−1}·g(s_v)."""
    problem = walks.problem
    slope = np.where(walks.paths.mask[:, :, None], walks.slope[walks.paths.node], problem.field.scalar(0))
    later = slope.sum(1, keepdims=True) - np.add.accumulate(slope, axis=1)
    return (walks.step * dot(walks.earlier, later)).sum(1)


def exact(across: int = 2) -> Check:
    """Var_V − Var_A = Σ_u E[D_u² (‖Z_u‖² − ‖S_u‖²)] + ``across`` · Σ_{u<v} E[D_u Z_{u−1}·g(s_v)]."""

    def check(problem: Problem) -> Sequence[Finding]:
        walks = Walks(problem)
        wanted = walks.mean(same_token(walks)) + across * walks.mean(later_tokens(walks))
        return [zero("Var_V − Var_A", saved(problem) - wanted)]

    return check


def pathwise(problem: Problem) -> Sequence[Finding]:
    """Σ_t (RM − V(s_t)) S_t = Σ_u D_u Z_u on every response: the exact advantage keeps D_u S_u alone."""
    walks = Walks(problem)
    missing = walks.along(problem.values[1])
    sampled = (np.where(walks.paths.mask, walks.reward - missing, 0)[:, :, None] * walks.score).sum(1)
    return [zero("Σ (RM − V) S = Σ D Z", sampled - (walks.step[:, :, None] * walks.upto).sum(1))]


def squares(problem: Problem) -> Sequence[Finding]:
    """Tabular: Var_V − Var_A = Σ_u E[D_u² ‖Z_{u−1}‖²], which no policy makes negative."""
    if not problem.tabular:
        return []
    walks = Walks(problem)
    wanted = walks.mean((walks.step**2 * dot(walks.earlier, walks.earlier)).sum(1))
    found = saved(problem)
    sign = [never_below("tabular: Var_V − Var_A", list(found))] if problem.field.ordered else []
    return [zero("tabular: Var_V − Var_A = Σ E[D_u² ‖Z_{u−1}‖²]", found - wanted), *sign]


def squares_everywhere(problem: Problem) -> Sequence[Finding]:
    """Mutant: the tabular form for every policy."""
    walks = Walks(problem)
    return [zero("gap", saved(problem) - walks.mean((walks.step**2 * dot(walks.earlier, walks.earlier)).sum(1)))]


def token_by_token(problem: Problem) -> Sequence[Finding]:
    """Mutant: each token's own continuation variance, E[‖S_t‖² Var(RM | W_{0,t})], added up."""
    walks = Walks(problem)
    left = walks.reward - walks.along(problem.values[0])
    wanted = walks.mean((left**2 * walks.norm2).sum(1))
    return [zero("gap", saved(problem) - wanted)]


def with_own_score(problem: Problem) -> Sequence[Finding]:
    """Mutant: ‖Z_u‖² instead of ‖Z_u‖² − ‖S_u‖²."""
    walks = Walks(problem)
    wanted = walks.mean((walks.step**2 * dot(walks.upto, walks.upto)).sum(1)) + 2 * walks.mean(later_tokens(walks))
    return [zero("gap", saved(problem) - wanted)]


def as_worded(problem: Problem) -> Sequence[Finding]:
    """As published, of any policy and rewards: here the rewards at hand, and every task with one right response."""
    return [never_below("Var_V − Var_A", list(saved(task))) for task in (problem, *one_right_response(problem))]


def and_longer(check: Check) -> Check:
    """The check, for shared parameters on three tokens too: with two no token stands both after one and before one."""
    return lambda problem: [*check(problem), *([] if problem.tabular else check(zoo.shared()))]


def conflict() -> Problem:
    """One parameter, two prefixes: token 0 ends; "11" is right, a coin for the first 1, chance 3/4 for the second."""
    tree = grow(2, 2, 1, end_token=0)
    policy, moves = [["1/2", "1/2"], ["1/4", "3/4"]], [[[0], [1]]] * 2
    return make(tree, policy, [[0, 0], [0, 1]], features=moves, end_token=0, field=RATIONAL, name="conflict")


def example() -> Sequence[Finding]:
    """Var_V − Var_A = E[D_2² (S_1² + 2 S_1 S_2)] for two tokens, by hand.

    D_2 = S_2 (1/4 or −3/4) after S_1 = 1/2, so E[D_2²] = 3/16 and E[D_2² S_2] = 3/4 · 1/64 − 1/4 · 27/64 = −3/32:
    P(1) (1/4 · 3/16 + 2 · 1/2 · (−3/32)) = 1/2 (3/64 − 6/64) = −3/128.
    """
    problem, tabular = conflict(), zoo.two_valued()
    return [
        zero("one shared parameter, two prefixes: Var_V − Var_A = −3/128", saved(problem) + RATIONAL.scalar("3/128")),
        positive("there the exact advantage is the noisier one", -saved(problem)[0]),
        positive("tabular: it is the quieter one", saved(tabular)[0]),
        *exact()(zoo.shared()),
    ]


CLAIM = Claim(
    label="claim:advantage-less-noisy",
    statement="with V(s_t) as baseline of both, Var_V − Var_A = Σ_u E[D_u² (‖Z_u‖² − ‖S_u‖²)] + 2 Σ_{u<v} "
    "E[D_u Z_{u−1}·g(s_v)] is what the exact advantage D_t = M_t − M_{t−1} saves on the sampled RM − V(s_t); for "
    "tabular policies it is Σ_u E[D_u² ‖Z_{u−1}‖²] ≥ 0, with shared parameters it may be negative",
    source=f"{PAPER} says less error; the amount and its sign are ours; ledger 6",
    hypotheses=("the critic is exact", "on-policy, independent responses", "per response: G Var ĝ", "error = variance"),
    check=both(exact(), pathwise, squares, unbiased(RETURN), unbiased(ADVANTAGE)),
    example=example,
    mutants={
        "the tabular form for every policy": squares_everywhere,
        "each token's continuation variance, added up": token_by_token,
        "later tokens counted once": and_longer(exact(across=1)),
        "later tokens left out": and_longer(exact(across=0)),
        "the own score counted too": with_own_score,
    },
    needs=("thm:trajectory-pg", "thm:advantage"),
    wording="M_t − M_{t−1} of an exact critic has less error than the sampled return with the same baseline",
    as_worded=as_worded,
)
