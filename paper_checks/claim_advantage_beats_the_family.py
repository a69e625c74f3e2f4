"""claim:advantage-beats-the-family: exact advantages against REINFORCE, ReMax and RLOO with the baselines they have."""

from __future__ import annotations

from collections.abc import Sequence

from paper_checks.claim_advantage_less_noisy import ADVANTAGE, later_tokens, same_token
from paper_checks.common import PAPER, both, unbiased
from paper_checks.variances import Walks, arbitrary, never_below, one_right_response, variance, with_table
from tpg import truth
from tpg.claims import Claim, Finding, positive, zero
from tpg.claims.record import Check
from tpg.estimators.table import ESTIMATORS
from tpg.moments import moments
from tpg.numbers import RATIONAL, Array
from tpg.problem import zoo
from tpg.problem.problem import Problem, make
from tpg.problem.tree import grow
from tpg.rollouts import greedy

PLAIN, MEAN, REMAX, RLOO = (ESTIMATORS[name] for name in ("reinforce", "reinforce_baseline", "remax", "rloo"))


def ahead(problem: Problem, number: Array) -> Array:
    """[P] Var(RM − b) − Var_A in closed form: what continuations add, and what b costs more than V(s_t)."""
    walks = Walks(problem)
    continuation = walks.mean(same_token(walks)) + 2 * walks.mean(later_tokens(walks))
    price = walks.price(walks.everywhere(number), walks.joint_optimum)
    return continuation + price - walks.price(problem.values[1], walks.joint_optimum)


def exact(problem: Problem) -> Sequence[Finding]:
    """Every number b of time 0, and RLOO at G = 2."""
    advantage, mean = variance(problem, ADVANTAGE), problem.values[1][: problem.prompts]
    chosen = arbitrary(problem, (problem.prompts,))
    given = {
        "REINFORCE": (PLAIN, problem.field.zeros(problem.prompts)),
        "the expected reward": (MEAN, mean),
        "ReMax": (REMAX, greedy(problem).reward),
        "an arbitrary number": (with_table(chosen[problem.tree.prompt]), chosen),
    }
    out = [
        zero(f"Var − Var_A of {name}", variance(problem, row) - advantage - ahead(problem, number))
        for name, (row, number) in given.items()
    ]
    rloo = 2 * variance(problem, RLOO, 2) - advantage - ahead(problem, mean) - unknown_mean(problem)
    return [*out, zero("G (Var − Var_A) of RLOO, G = 2", rloo)]


def unknown_mean(problem: Problem) -> Array:
    """[P] Var(RM) E‖Z‖² + ‖g‖²: what RLOO pays, over G − 1, for estimating E RM."""
    walks, g = Walks(problem), truth.by_dual_numbers(problem)
    spread = walks.mean((walks.paths.reward - walks.paths.expected_reward) ** 2)
    return spread * walks.mean(walks.whole_norm2) + problem.inner(g, g)


def baselines_do_not_matter(problem: Problem) -> Sequence[Finding]:
    """Mutant: REINFORCE is behind by what continuations add, whatever the baseline."""
    walks = Walks(problem)
    wanted = walks.mean(same_token(walks)) + 2 * walks.mean(later_tokens(walks))
    return [zero("gap", variance(problem, PLAIN) - variance(problem, ADVANTAGE) - wanted)]


def continuations_do_not_matter(problem: Problem) -> Sequence[Finding]:
    """Mutant: REINFORCE is behind by its baseline alone."""
    walks = Walks(problem)
    price = [walks.price(table, walks.joint_optimum) for table in (0 * walks.joint_optimum, problem.values[1])]
    return [zero("gap", variance(problem, PLAIN) - variance(problem, ADVANTAGE) - (price[0] - price[1]))]


def rloo_knows_the_mean(problem: Problem) -> Sequence[Finding]:
    """Mutant: RLOO counted as if it knew E RM."""
    found = 2 * variance(problem, RLOO, 2) - variance(problem, ADVANTAGE)
    return [zero("gap", found - ahead(problem, problem.values[1][: problem.prompts]))]


def never_behind(*family: str) -> Check:
    """As published, for the rewards at hand and for every task with one right response."""

    def check(problem: Problem) -> Sequence[Finding]:
        out = []
        for task in (problem, *one_right_response(problem)):
            least = variance(task, ADVANTAGE)
            out += [never_below(f"{n} − Var_A", list(variance(task, ESTIMATORS[n]) - least)) for n in family]
        return out

    return check


def relief() -> Problem:
    """A fair coin, then a token of chance 4/5 that pays ±5/4 and one of chance 1/5 that pays 0: E RM = 0, V = ±1."""
    policy = [["1/2", "1/2"], ["4/5", "1/5"], ["4/5", "1/5"]]
    return make(grow(2, 2, 1), policy, [[0, 0], ["5/4", 0], ["-5/4", 0]], field=RATIONAL, name="relief")


def three_arms() -> Problem:
    """One token, rewards 3/5, 1, 0: ReMax subtracts 0.6, nearer to b_g = (21 · 3/5 + 26)/66 = 0.585 than 0.633 is."""
    return make(grow(3, 1, 1), [["1/2", "1/3", "1/6"]], [["3/5", 1, 0]], field=RATIONAL, name="three-arms")


def example() -> Sequence[Finding]:
    """On ``relief``, E‖ĝ‖² by hand: the rare token undoes V = ±1 and has the long score, ‖S‖² = 32/25 against 2/25.

    Exact advantages: 1/2 + 1/5 · 1 · 32/25 + 4/5 · 1/16 · 2/25 = 19/25; RM − 0: 5/4 · 1/2 + 5/4 · 2/25 = 29/40; −7/200.
    RLOO pays (5/4 · 41/50 + 27/50)/(G−1) = 1.565/(G−1) more, below 7/200 from G = 46 on.
    """
    tabular, easy, arms = relief(), zoo.hard_easy(), three_arms()
    gap = variance(tabular, MEAN) - variance(tabular, ADVANTAGE)
    behind = {
        size: moments(tabular, RLOO, size).variance - moments(tabular, ADVANTAGE, size).variance for size in (45, 46)
    }
    plain, exact_one = variance(easy, PLAIN)[1], variance(easy, ADVANTAGE)[1]
    return [
        zero("tabular, two tokens: RM − E RM has 7/200 less variance", gap + RATIONAL.scalar("7/200")),
        positive("RLOO is behind at G = 45", behind[45][0]),
        positive("RLOO is ahead at G = 46", -behind[46][0]),
        zero("one token, p = 9/10: REINFORCE without baseline has 1/64 of the variance", exact_one - 64 * plain),
        positive("one token, three arms: ReMax is ahead", (variance(arms, ADVANTAGE) - variance(arms, REMAX))[0]),
        positive("two-valued: ReMax and E RM are behind", _behind(zoo.two_valued())),
    ]


def _behind(problem: Problem) -> Array:
    """The lesser lead of exact advantages over ReMax and over RM − E RM."""
    return min(variance(problem, row)[0] for row in (MEAN, REMAX)) - variance(problem, ADVANTAGE)[0]


CLAIM = Claim(
    label="claim:advantage-beats-the-family",
    statement="per response Var(RM − b) − Var(M_t − M_{t−1}) is what sampled continuations add (see "
    "claim:advantage-less-noisy) plus Σ_t E[((b − b*_t)² − (V − b*_t)²) ‖S_t‖²]; for RLOO b = E RM, and "
    "(Var(RM) E‖Z‖² + ‖g‖²)/(G−1) on top; it has either sign, for REINFORCE, ReMax and RLOO, tabular or not",
    source=f"{PAPER} says at least as good; the amount and its sign are ours; ledger 6",
    hypotheses=("the critic is exact", "on-policy, independent responses", "σ and 1/|o| left out"),
    group_sizes=(1, 2),
    check=both(exact, unbiased(ADVANTAGE), unbiased(PLAIN)),
    example=example,
    mutants={
        "baselines do not matter": baselines_do_not_matter,
        "continuations do not matter": continuations_do_not_matter,
        "RLOO knows E RM": rloo_knows_the_mean,
        "never behind REINFORCE": never_behind("reinforce"),
    },
    needs=("thm:trajectory-pg", "thm:advantage", "prop:reinforce-family"),
    degree=lambda horizon: 10 * (2**horizon + 1) + 7 * horizon + 10,  # as in prop:optimal-baseline
    wording="PPO with a well-trained critic is at least as good as RLOO of a large group and as ReMax",
    as_worded=never_behind("reinforce_baseline", "remax"),
)
