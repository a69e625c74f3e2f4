"""claim:length-proxy: OPO's ‖Z‖² ∝ L, and how far the length-weighted mean reward is from the best number b_g."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from paper_checks.common import both, unbiased
from paper_checks.variances import Walks, variance
from tpg.claims import Claim, Finding, positive, zero
from tpg.claims.record import Check
from tpg.estimators import baselines
from tpg.estimators.estimator import Estimator
from tpg.estimators.table import ESTIMATORS
from tpg.numbers import RATIONAL, Array
from tpg.problem import zoo
from tpg.problem.problem import Problem, make
from tpg.problem.tree import grow

Weight = Callable[[Walks], Array]  # [R] what a response's reward counts for
PLAIN, MEAN, BEST = (ESTIMATORS[name] for name in ("reinforce", "reinforce_baseline", "optimal_baseline_global"))


def length(walks: Walks) -> Array:
    """[R] L in the numbers of the problem."""
    return walks.problem.field.array(walks.paths.length)


def weighted(weight: Weight) -> Callable[[Problem, int], Array]:
    """[P] E[w RM]/E[w]: the baseline of a group whose responses count for w, as G → ∞."""

    def number(problem: Problem, group_size: int) -> Array:
        walks = Walks(problem)
        w = weight(walks)
        return walks.mean(w * walks.paths.reward) / walks.mean(w)

    return number


def population(weight: Weight = length) -> Estimator:
    """The row RM − b_L with b_L = E[L RM]/E[L], the limit of OPO's baseline."""
    return Estimator("length_weighted", baselines.optimal_global, constant=weighted(weight))


def gap(weight: Weight = length, power: int = 2, first: bool = False) -> Check:
    """Var(b_L) − Var(b_g) = (b_L − b_g)² E‖Z‖²."""

    def check(problem: Problem) -> Sequence[Finding]:
        walks = Walks(problem)
        off = weighted(weight)(problem, 1) - walks.global_optimum
        z2 = walks.mean(walks.norm2[:, 0] if first else walks.whole_norm2)
        found = variance(problem, population()) - variance(problem, BEST)
        return [zero("Var(b_L) − Var(b_g)", found - off**power * z2)]

    return check


def covariances(problem: Problem) -> Sequence[Finding]:
    """b_L − b_g = Cov(RM, L)/E[L] − Cov(RM, ‖Z‖²)/E‖Z‖²."""
    walks = Walks(problem)
    off = weighted(length)(problem, 1) - walks.global_optimum
    centred = walks.paths.reward - walks.paths.expected_reward
    slants = [walks.mean(centred * w) / walks.mean(w) for w in (length(walks), walks.whole_norm2)]
    return [zero("b_L − b_g", off - (slants[0] - slants[1]))]


def proportional(problem: Problem) -> Sequence[Finding]:
    """Where the assumption is true it is right: a uniform tabular policy, ‖S_t‖² = 1 − 1/V, has b_L = b_g."""
    uniform = problem.field.ones(problem.probs.shape) / problem.vocab
    walks = Walks(replace(problem, probs=uniform, features=None))
    assumed = walks.whole_norm2 - length(walks) * (1 - problem.field.scalar(1) / problem.vocab)
    off = weighted(length)(walks.problem, 1) - walks.global_optimum
    return [zero("uniform policy: ‖Z‖² = (1 − 1/V) L", assumed), zero("uniform policy: b_L = b_g", off)]


def equal_lengths(problem: Problem) -> Sequence[Finding]:
    """Where all lengths are equal b_L is E RM: the mean reward, not the best number."""
    if problem.end_token is not None:
        return []
    off = weighted(length)(problem, 1) - problem.values[1][: problem.prompts]
    return [zero("equal lengths: b_L = E RM", off)]


def optimal(problem: Problem) -> Sequence[Finding]:
    """As published: b_L is the number of least variance."""
    return [zero("Var(b_L) = Var(b_g)", variance(problem, population()) - variance(problem, BEST))]


def stop_early() -> Problem:
    """Stop with chance 9/10, right; or write one more token, a fair coin, wrong."""
    tree = grow(2, 2, 1, end_token=1)
    policy = [["1/10", "9/10"], ["1/2", "1/2"]]
    return make(tree, policy, [[0, 1], [0, 0]], end_token=1, field=RATIONAL, name="stop-early")


def write_on() -> Problem:
    """Write one more token, a fair coin, with chance 9/10, right; or stop, wrong."""
    tree = grow(2, 2, 1, end_token=1)
    policy = [["9/10", "1/10"], ["1/2", "1/2"]]
    return make(tree, policy, [[0, 0], [1, 1]], end_token=1, field=RATIONAL, name="write-on")


def example() -> Sequence[Finding]:
    """``stop_early``: E L = 11/10, b_L = 9/11; ‖Z‖² = 2/100 if it stops, 162/100 + 1/2 = 53/25 if not.

    E‖Z‖² = 9/10 · 1/50 + 1/10 · 53/25 = 23/100, b_g = (9/500)/(23/100) = 9/115: short responses have short scores
    here, but ‖Z‖² is 106 times smaller, not half.  b_L − b_g = 936/1265 > b_g: worse than no baseline.
    ``write_on``: long responses have the short scores, 13/25 against 81/50: b_g = 26/35 < E RM = 9/10 < b_L = 18/19.
    """
    early, late, easy = given = stop_early(), write_on(), zoo.hard_easy()
    least, none, mean, proxy = ({p.name: variance(p, r) for p in given} for r in (BEST, PLAIN, MEAN, population()))
    z2, off = RATIONAL.scalar("23/100"), RATIONAL.scalar("936/1265")
    return [
        zero(
            "stop-early: Var(b_L) − Var(b_g) = (936/1265)² · 23/100",
            proxy[early.name] - least[early.name] - off * off * z2,
        ),
        positive("stop-early: b_L is worse than no baseline", (proxy[early.name] - none[early.name])[0]),
        positive("stop-early: b_L is better than E RM", (mean[early.name] - proxy[early.name])[0]),
        positive("one token, p = 9/10: b_L is worse than no baseline", (proxy[easy.name] - none[easy.name])[1]),
        positive("write-on: b_L is worse than E RM", (proxy[late.name] - mean[late.name])[0]),
        zero("write-on: b_g = 26/35", Walks(late).global_optimum - RATIONAL.scalar("26/35")),
    ]


CLAIM = Claim(
    label="claim:length-proxy",
    statement="the length-weighted mean reward b_L = E[L RM]/E[L] has (b_L − b_g)² E‖Z‖² more variance than the best "
    "number b_g = E[RM ‖Z‖²]/E‖Z‖², b_L − b_g = Cov(RM, L)/E L − Cov(RM, ‖Z‖²)/E‖Z‖²: 0 where ‖Z‖² ∝ L (a "
    "uniform policy); it may be worse than E RM and than no baseline at all",
    source="ours; the assumption is that of Hao et al., arXiv 2505.23585; ledger 13",
    hypotheses=("on-policy, independent responses", "per response: G Var ĝ", "b_L of the population, not of a group"),
    check=both(gap(), covariances, proportional, equal_lengths, unbiased(population())),
    example=example,
    mutants={
        "b_L is the best number": optimal,
        "distance, not squared": gap(power=1),
        "weights 1/L": gap(lambda walks: 1 / length(walks)),
        "weighed by the first token alone": gap(first=True),
    },
    needs=("thm:trajectory-pg",),
    wording="the length-weighted mean reward is the baseline of least variance",
    as_worded=optimal,
)
