"""claim:one-baseline-for-all-tokens: what REINFORCE, ReMax and RLOO pay for one number of time 0 at every token."""

from __future__ import annotations

from collections.abc import Sequence

from paper_checks.common import PAPER, both, gradient
from paper_checks.variances import Walks, arbitrary, never_below, variance, with_table
from tpg import truth
from tpg.claims import Claim, Finding, positive, zero
from tpg.estimators.table import ESTIMATORS
from tpg.moments import moments
from tpg.numbers import Array
from tpg.problem import zoo
from tpg.problem.problem import Problem
from tpg.rollouts import greedy

MEAN, VALUE, BEST, JOINT = (
    ESTIMATORS[name]
    for name in ("reinforce_baseline", "value_baseline", "optimal_baseline_global", "optimal_baseline_joint")
)


def numbers(problem: Problem) -> dict[str, tuple[Array, Array]]:
    """The family's baselines of time 0: the number [P] of each prompt, and the variance [P] it leads to."""
    chosen = arbitrary(problem, (problem.prompts,))
    return {
        "REINFORCE": (problem.field.zeros(problem.prompts), variance(problem, ESTIMATORS["reinforce"])),
        "the expected reward": (problem.values[1][: problem.prompts], variance(problem, MEAN)),
        "ReMax": (greedy(problem).reward, variance(problem, ESTIMATORS["remax"])),
        "an arbitrary number": (chosen, variance(problem, with_table(chosen[problem.tree.prompt]))),
    }


def one_number(problem: Problem) -> Sequence[Finding]:
    """Var(b) = Var(b*) + Σ_t E[(b_g − b*_t)² ‖S_t‖²] + (b − b_g)² E‖Z‖², b_g the best number."""
    walks, least, best = Walks(problem), variance(problem, JOINT), variance(problem, BEST)
    unavoidable = walks.price(walks.everywhere(walks.global_optimum), walks.joint_optimum)
    z2 = walks.mean(walks.whole_norm2)
    out = [zero("the best number pays Σ_t E[(b_g − b*_t)² ‖S_t‖²]", best - least - unavoidable)]
    for name, (number, var) in numbers(problem).items():
        out.append(zero(f"{name} pays (b − b_g)² E‖Z‖² more", var - best - (number - walks.global_optimum) ** 2 * z2))
    return out


def against_value(problem: Problem) -> Sequence[Finding]:
    """Var(b) − Var(V) = Σ_t E[((b − b*_t)² − (V − b*_t)²) ‖S_t‖²]."""
    walks, value = Walks(problem), variance(problem, VALUE)
    above = walks.price(problem.values[1], walks.joint_optimum)
    out = []
    for name, (number, var) in numbers(problem).items():
        price = walks.price(walks.everywhere(number), walks.joint_optimum)
        out.append(zero(f"{name} against V(s_t)", var - value - (price - above)))
    return out


def leave_one_out(problem: Problem) -> Sequence[Finding]:
    """RLOO does not know E R: G·Var = Var(E R) + (Var(R) E‖Z‖² + ‖g‖²)/(G − 1); G = 5 from the closed form."""
    walks = Walks(problem)
    mean = problem.values[1][: problem.prompts]
    spread = walks.mean((walks.paths.reward - walks.paths.expected_reward) ** 2)
    g = truth.by_dual_numbers(problem)
    extra = spread * walks.mean(walks.whole_norm2) + problem.inner(g, g)
    rloo, known = ESTIMATORS["rloo"], variance(problem, MEAN)
    return [
        zero("2 Var(RLOO, G = 2) − Var(E R)", 2 * variance(problem, rloo, 2) - known - extra),
        zero("5 Var(RLOO, G = 5) − Var(E R)", 5 * moments(problem, rloo, 5).variance - known - extra / 4),
        zero("E R", mean - walks.mean(walks.paths.reward)),
    ]


def unbiased(problem: Problem) -> Sequence[Finding]:
    """E[(RM − b) Z] = g for any b, so that variance is all there is to compare."""
    walks, chosen = Walks(problem), arbitrary(problem, (problem.prompts,))
    mean = walks.mean((walks.reward - chosen[walks.paths.prompt][:, None]) * walks.whole)
    return [zero("E[(RM − b) Z] = g", (problem.weights[:, None] * mean).sum(0) - gradient(problem))]


def value_is_best(problem: Problem) -> Sequence[Finding]:
    """Mutant: V(s_t) taken for the optimum."""
    walks, value = Walks(problem), variance(problem, VALUE)
    price = walks.price(walks.everywhere(problem.values[1]), problem.values[1])
    return [zero("Var(E R) − Var(V) = Σ_t E[(E R − V)² ‖S_t‖²]", variance(problem, MEAN) - value - price)]


def nothing_lost(problem: Problem) -> Sequence[Finding]:
    """Mutant: the best number is as good as the best table."""
    return [zero("Var(b_g) = Var(b*)", variance(problem, BEST) - variance(problem, JOINT))]


def mean_is_best(problem: Problem) -> Sequence[Finding]:
    """Mutant: E R is the best number."""
    walks, mean = Walks(problem), problem.values[1][: problem.prompts]
    price = mean**2 * walks.mean(walks.whole_norm2)
    return [zero("Var(0) − Var(E R)", variance(problem, ESTIMATORS["reinforce"]) - variance(problem, MEAN) - price)]


def first_token_alone(problem: Problem) -> Sequence[Finding]:
    """Mutant: E‖S_1‖² instead of E‖Z‖² (Σ_t E‖S_t‖² would do: scores of different tokens are uncorrelated)."""
    walks, mean = Walks(problem), problem.values[1][: problem.prompts]
    more = variance(problem, MEAN) - variance(problem, BEST)
    price = (mean - walks.global_optimum) ** 2 * walks.mean(walks.norm2[:, 0])
    return [zero("Var(E R) − Var(b_g)", more - price)]


def peers_are_free(problem: Problem) -> Sequence[Finding]:
    """Mutant: RLOO costs no more than the expected reward."""
    return [zero("G Var(RLOO) = Var(E R)", 2 * variance(problem, ESTIMATORS["rloo"], 2) - variance(problem, MEAN))]


def value_never_worse(problem: Problem) -> Sequence[Finding]:
    """As published: V(s_t) for each token has no more variance than the one number E R."""
    return [never_below("Var(E R) − Var(V)", list(variance(problem, MEAN) - variance(problem, VALUE)))]


def example() -> Sequence[Finding]:
    """Only the first token matters: V(s_t) wins.  Only the last one, or one token alone: a number wins."""
    first, last, easy = zoo.key_first(), zoo.key_last(), zoo.hard_easy()
    value, mean, best = ({p.name: variance(p, row) for p in (first, last, easy)} for row in (VALUE, MEAN, BEST))
    return [
        positive("key-first: V(s_t) beats the best number", (best["key-first"] - value["key-first"]).sum()),
        positive("key-last: the number E R beats V(s_t)", (value["key-last"] - mean["key-last"]).sum()),
        zero("one token: V(s_1) is the number E R", mean["hard-easy"] - value["hard-easy"]),
        positive("one token: another number beats V(s_1)", (value["hard-easy"] - best["hard-easy"]).sum()),
    ]


CLAIM = Claim(
    label="claim:one-baseline-for-all-tokens",
    statement="with one number b of time 0 for all tokens Var ĝ is above that of the best table b*_t by exactly "
    "(b − b_g)² E‖Z‖² + Σ_t E[(b_g − b*_t)² ‖S_t‖²] per response, b_g = E[RM ‖Z‖²]/E‖Z‖², the second part for every "
    "number, and above that of V(s_t) by that less Σ_t E[(V − b*_t)² ‖S_t‖²], of either sign; RLOO pays "
    "(Var(RM) E‖Z‖² + ‖g‖²)/(G−1) more than b = E RM",
    source=f"{PAPER}, which says that one baseline is used; the price is ours; ledger 5",
    hypotheses=("on-policy, independent responses", "per response: G Var ĝ", "σ and 1/|o| left out"),
    group_sizes=(1, 2, 5),
    check=both(one_number, against_value, leave_one_out, unbiased),
    example=example,
    mutants={
        "V(s_t) is the optimum": value_is_best,
        "the best number is the optimum": nothing_lost,
        "E RM is the best number": mean_is_best,
        "weighed by the first token alone": first_token_alone,
        "RLOO is as good as E RM": peers_are_free,
    },
    needs=("lem:baseline", "prop:reinforce-family"),
    degree=lambda horizon: 10 * (2**horizon + 1) + 7 * horizon + 10,  # as in prop:optimal-baseline
    wording="a baseline V(s_t) of its own for every token has less variance than one number for the whole response",
    as_worded=value_never_worse,
)
