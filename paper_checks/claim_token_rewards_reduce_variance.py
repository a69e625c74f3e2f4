"""claim:token-rewards-reduce-variance: reward-to-go is the full return with the past rewards as a baseline."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from paper_checks.common import both, unbiased
from paper_checks.variances import Walks, never_below, variance
from tpg import truth
from tpg.claims import Claim, Finding, positive, zero
from tpg.claims.record import Check
from tpg.estimators import advantages
from tpg.estimators.table import ESTIMATORS
from tpg.numbers import RATIONAL, Array
from tpg.problem import zoo
from tpg.problem.problem import Problem, make
from tpg.problem.tree import grow

FULL, TO_GO = ESTIMATORS["reinforce"], ESTIMATORS["reward_to_go"]


def past(problem: Problem) -> Array:
    """[N] C(s) = Σ_{k<t} γ^{k−1} r_k, the reward that the prefix has already earned."""
    node, token = problem.tree.parent
    return np.where(node < 0, problem.field.scalar(0), problem.totals[node, token])


def past_and_next(problem: Problem) -> Array:
    """Mutant: the expected reward of the next token counted too."""
    here = problem.powers[problem.tree.depth] * (problem.probs * problem.rewards).sum(1)
    return past(problem) + here


def one_step_late(problem: Problem) -> Array:
    """Mutant: past rewards discounted once too often."""
    return problem.discount * past(problem)


def pathwise(problem: Problem) -> Sequence[Finding]:
    """Σ_{k≥t} γ^{k−1} r_k = RM − C(s_t) on every token; less an exact critic's value-to-go it is RM − V(s_t)."""
    walks = Walks(problem)
    to_go = advantages.reward_to_go(walks.paths.token_reward, problem.discount)
    ahead = problem.powers[problem.tree.depth] * (problem.probs * truth.q_values(problem)).sum(1)
    return [
        zero(what, np.where(walks.paths.mask, to_go - mine - (walks.reward - response), problem.field.scalar(0)))
        for what, mine, response in (
            ("reward-to-go = RM − C", 0, walks.along(past(problem))),
            ("reward-to-go − value-to-go = RM − V", walks.along(ahead), walks.along(problem.values[1])),
        )
    ]


def saving(earned: Callable[[Problem], Array], factor: int = 2) -> Check:
    """Var(RM) − Var(reward-to-go) = Σ_t E[C (``factor`` b*_t − C) ‖S_t‖²]."""

    def check(problem: Problem) -> Sequence[Finding]:
        walks, c = Walks(problem), earned(problem)
        wanted = walks.mean((walks.along(c * (factor * walks.joint_optimum - c)) * walks.norm2).sum(1))
        return [zero("Var(RM) − Var(reward-to-go)", variance(problem, FULL) - variance(problem, TO_GO) - wanted)]

    return check


def past_noise_removed(problem: Problem) -> Sequence[Finding]:
    """Mutant: what is dropped was noise of its own, E[C² ‖S_t‖²]."""
    walks = Walks(problem)
    wanted = walks.mean((walks.along(past(problem) ** 2) * walks.norm2).sum(1))
    return [zero("gap", variance(problem, FULL) - variance(problem, TO_GO) - wanted)]


def loan(problem: Problem) -> Problem:
    """The same totals: who does not stop at once is paid 100 with the first token, to be given back with the second."""
    tree, due = problem.tree, problem.field.scalar(100)
    paid = np.where(tree.inner & (tree.depth == 0)[:, None], problem.discount * due, problem.field.scalar(0))
    back = np.where(tree.depth == 1, due, problem.field.scalar(0))
    return replace(problem, rewards=problem.rewards + paid - back[:, None])


def never_more(problem: Problem) -> Sequence[Finding]:
    """As published, of any token rewards: here those at hand, and some with the same totals."""
    return [
        never_below("Var(RM) − Var(reward-to-go)", list(variance(task, FULL) - variance(task, TO_GO)))
        for task in (problem, loan(problem))
    ]


def refund() -> Problem:
    """Two fair coins, 1 for the first whatever it shows, taken back with the second."""
    return make(grow(2, 2, 1), [["1/2", "1/2"]] * 3, [[1, 1], [-1, -1], [-1, -1]], field=RATIONAL, name="refund")


def prepaid() -> Problem:
    """Two fair coins; the first one pays what it shows, the second nothing."""
    return make(grow(2, 2, 1), [["1/2", "1/2"]] * 3, [[0, 1], [0, 0], [0, 0]], field=RATIONAL, name="prepaid")


def example() -> Sequence[Finding]:
    """``refund``: RM = 0, so credit 0; reward-to-go is 0 at token 1 and −1 at token 2: Var = E‖S_2‖² = 1 − 1 + 1/2.

    Two tokens are the fewest: with one, reward-to-go is RM.  ``prepaid``: C = RM at token 2, E[RM²] E‖S_2‖² = 1/4 less.
    """
    small, zoo_one, good = refund(), zoo.cancelling(), prepaid()
    to_go, full = ({p.name: variance(p, row)[0] for p in (small, zoo_one, good)} for row in (TO_GO, FULL))
    return [
        zero("r₂ = −r₁: the response reward has no variance", [full["refund"], full["cancelling"]]),
        zero("r₂ = −r₁: reward-to-go has 1/2", to_go["refund"] - RATIONAL.scalar("1/2")),
        positive("cancelling: reward-to-go has variance", to_go["cancelling"]),
        zero("r₂ = 0: reward-to-go saves 1/4", full["prepaid"] - to_go["prepaid"] - RATIONAL.scalar("1/4")),
    ]


CLAIM = Claim(
    label="claim:token-rewards-reduce-variance",
    statement="true token rewards let REINFORCE subtract the rewards C(s_t) already earned, a baseline like any other: "
    "Var(RM) − Var(reward-to-go) = Σ_t E[C (2 b*_t − C) ‖S_t‖²], of either sign (r₂ = −r₁: negative); with an exact "
    "critic as baseline they change no credit at all",
    source="folklore (reward-to-go); the amount and the counterexample are ours; ledger 29",
    hypotheses=(
        "token rewards are causal",
        "on-policy, independent responses",
        "per response: G Var ĝ",
        "no other baseline, but for the last part",
    ),
    check=both(pathwise, saving(past), unbiased(FULL), unbiased(TO_GO)),
    example=example,
    mutants={
        "past rewards are noise of their own": past_noise_removed,
        "past rewards discounted once too often": saving(one_step_late),
        "the next reward is past": saving(past_and_next),
        "b* counted once": saving(past, factor=1),
    },
    needs=("lem:exact-gradient", "thm:trajectory-pg"),
    degree=lambda horizon: 10 * (2**horizon + 1) + 7 * horizon + 10,  # as in prop:optimal-baseline
    wording="knowing the true reward of every token reduces the variance of the policy gradient",
    as_worded=never_more,
)
