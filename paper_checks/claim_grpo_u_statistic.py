"""claim:grpo-u-statistic: the error of leave-one-out credits in G and B, and the best group size."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import product
from math import isqrt
from typing import Any, NamedTuple

import numpy as np

from paper_checks.claim_mean_does_not_change_variance import optimum, with_constant
from paper_checks.common import both, gradient
from paper_checks.variances import Walks, variance
from tpg.claims import Claim, Finding, close, positive, zero
from tpg.claims.record import Check
from tpg.estimators.table import ESTIMATORS
from tpg.moments import moments
from tpg.numbers import Array
from tpg.problem import zoo
from tpg.problem.problem import Problem, make
from tpg.problem.tree import grow
from tpg.rollouts import responses

RLOO = ESTIMATORS["rloo"]


class Parts(NamedTuple):
    """What the error is made of, with ‖g_x‖² of each prompt."""

    oracle: Array  # [P] V_o(x) = E[(R − J)² ‖Z‖²] − ‖g_x‖²
    pairs: Array  # [P] Var R · E‖Z‖² + ‖g_x‖²
    norm2: Array  # [P] ‖g_x‖²
    c1: Any  # E‖g(X) − g‖²
    c2: Any  # E V_o(X)
    c3: Any  # E[Var R · E‖Z‖² + ‖g(X)‖²]


def parts(problem: Problem) -> Parts:
    """Every moment response by response; g of all prompts from the judge."""
    walks, g = Walks(problem), gradient(problem)
    reward = walks.paths.reward
    ahead = reward - walks.mean(reward)[walks.paths.prompt]
    mine = walks.mean(reward[:, None] * walks.whole)
    norm2 = (mine * mine).sum(1)
    oracle = walks.mean(ahead * ahead * walks.whole_norm2) - norm2
    pairs = walks.mean(ahead * ahead) * walks.mean(walks.whole_norm2) + norm2
    weight = problem.weights
    return Parts(oracle, pairs, norm2, weight @ norm2 - g @ g, weight @ oracle, weight @ pairs)


def of_pairs(size: int) -> Check:
    """ĝ is the mean over pairs of ½ (R_i − R_j)(Z_i − Z_j): response i has the credit Σ_j (R_i − R_j)/(G(G−1))."""

    def check(problem: Problem) -> Sequence[Finding]:
        singles = responses(problem)
        mine = np.flatnonzero(singles.prompt == 0)
        index = np.array(list(product(mine, repeat=size)))
        credit = RLOO(singles.group(index, RLOO.needs))[:, :, 0]
        reward = singles.reward[index]
        pairs = (reward[:, :, None] - reward[:, None, :]).sum(2) / (size * (size - 1))
        return [zero(f"credits of rloo in every group are those of the U-statistic, G = {size}", credit - pairs)]

    return check


def error(size: int, divisor: int = 0) -> Check:
    """Var ĝ_x = V_o/G + (Var R · E‖Z‖² + ‖g_x‖²)/(G(G−1)) on each prompt, so MSE = c1 + c2/G + c3/(G(G−1)) at B = 1.

    One prompt is drawn: MSE = E_X[Var ĝ_X + ‖g_X − g‖²].
    """

    def check(problem: Problem) -> Sequence[Finding]:
        made, spread = parts(problem), variance(problem, RLOO, size)
        last = divisor or size * (size - 1)
        mse = (problem.weights * (spread + made.norm2)).sum() - gradient(problem) @ gradient(problem)
        return [
            zero(f"Var of rloo on each prompt, G = {size}", spread - made.oracle / size - made.pairs / last),
            zero(f"MSE = c1 + c2/G + c3/(G(G−1)), G = {size}", [mse - made.c1 - made.c2 / size - made.c3 / last]),
        ]

    return check


def budget(size: int, above: int = 1) -> Check:
    """B·G = N: N (MSE(G+1) − MSE(G)) = c1 − c3/(G(G−1)): G + 1 is worse as soon as G(G−1) > c3/c1."""

    def check(problem: Problem) -> Sequence[Finding]:
        made = parts(problem)

        def cost(group: int) -> Any:
            spread = moments(problem, RLOO, group).variance
            return group * (made.c1 + problem.weights @ spread)  # N · MSE at B = N/G

        step = cost(size + 1) - cost(size) - made.c1 + made.c3 / (size * (size - 2 + above))
        return [zero(f"N (MSE(G+1) − MSE(G)) = c1 − c3/(G(G−1)), G = {size}", [step])]

    return check


def oracle(problem: Problem) -> Sequence[Finding]:
    """G · Var → V_o, the variance with b = E R, which exceeds the least by (E R − b*)² E‖Z‖²."""
    made, walks = parts(problem), Walks(problem)
    best = optimum(walks)
    least = variance(problem, with_constant(best))
    gap = (walks.mean(walks.paths.reward) - best) ** 2 * walks.mean(walks.whole_norm2)
    return [zero("V_o = Var(b*) + (E R − b*)² E‖Z‖²", made.oracle - least - gap)]


def oracle_is_best(problem: Problem) -> Sequence[Finding]:
    """Mutant: no baseline has less variance than the oracle's."""
    return [zero("V_o = Var(b*)", parts(problem).oracle - variance(problem, with_constant(optimum(Walks(problem)))))]


# The best group size at B·G = N minimises c1 G + c2 + c3/(G−1): G* = 1 + √(c3/c1); in whole numbers, the first G ≥ 2
# with G(G−1) ≥ c3/c1, that is G = ⌈½ + √(¼ + c3/c1)⌉, at least 2.


def best_size(ratio: Fraction) -> int:
    """The first G ≥ 2 with G(G−1) ≥ ``ratio``."""
    size = max(2, isqrt(int(ratio)))
    while size * (size - 1) < ratio:
        size += 1
    return size


def bandits() -> Problem:
    """One token, right or wrong, two prompts: right with probability 1/2 and 1/4."""
    return make(grow(2, 1, 2), [["1/2", "1/2"], ["3/4", "1/4"]], [[0, 1], [0, 1]], name="right with 1/2 and 1/4")


def two_prompts_drawn(problem: Problem, size: int) -> Any:
    """E‖ĝ − g‖² at B = 2, every pair of prompts with every pair of groups."""
    walks, g, total = Walks(problem), gradient(problem), problem.field.scalar(0)
    one = []
    for x in range(problem.prompts):
        mine = np.flatnonzero(walks.paths.prompt == x)
        index = np.array(list(product(mine, repeat=size)))
        credit = RLOO(walks.paths.group(index, RLOO.needs))[:, :, 0]
        chance = problem.weights[x] * np.multiply.reduce(walks.paths.probability[index], axis=1)
        one += list(zip(chance, (credit[:, :, None] * walks.whole[index]).sum(1), strict=True))
    for (p, first), (q, second) in product(one, repeat=2):
        off = (first + second) / 2 - g
        total += p * q * (off @ off)
    return total


def example() -> Sequence[Finding]:
    """Numbers: B = 2 by enumeration, and the best G."""
    out = []
    for size in (2, 3):
        made = parts(bandits())
        said = (made.c1 + made.c2 / size + made.c3 / (size * (size - 1))) / 2
        out.append(zero(f"MSE at B = 2, every batch, G = {size}", [two_prompts_drawn(bandits(), size) - said]))
    for problem in (bandits(), zoo.three_valued(), zoo.shared()):
        out += list(sizes(problem))
    out.append(positive("the oracle's variance is not the least (three-valued)", above_least(zoo.three_valued())))
    return out


def above_least(problem: Problem) -> Any:
    """V_o less the least variance, over all prompts."""
    best = with_constant(optimum(Walks(problem)))
    return (parts(problem).oracle - variance(problem, best)).sum()


def sizes(problem: Problem) -> Sequence[Finding]:
    """The best whole G by trying them, by the formula, and by √(c3/c1)."""
    made = parts(problem)
    ratio = made.c3 / made.c1
    exact = Fraction(int(ratio.p), int(ratio.q))
    cost = {G: G * (made.c1 + problem.weights @ moments(problem, RLOO, G).variance) for G in range(2, 41)}
    tried = min(cost, key=lambda G: cost[G])
    root = float(exact) ** 0.5
    worded = max(2, round(root))
    return [
        Finding(f"{problem.name}: best G", tried == best_size(exact), f"{tried}; 1 + √(c3/c1) = {1 + root:.3f}"),
        positive(f"{problem.name}: √(c3/c1) rounded, {worded}, is worse", cost[worded] - cost[tried]),
    ]


def as_worded(problem: Problem) -> Sequence[Finding]:
    """The slope of c1 G + c3/(G−1) at G = √(c3/c1); one prompt has c1 = 0, and every larger G is better."""
    made = parts(problem)
    if made.c1 == 0:
        return [zero("one prompt: c1", [made.c1])]
    root = float(made.c3 / made.c1) ** 0.5
    slope = float(made.c1) * (root - 1) ** 2 - float(made.c3)
    return [close("no slope at G = √(c3/c1)", slope, float(made.c3))]


CLAIM = Claim(
    label="claim:grpo-u-statistic",
    statement="leave-one-out credits make ĝ the U-statistic of ½(R_i − R_j)(Z_i − Z_j), with MSE = (1/B)[c1 + c2/G + "
    "c3/(G(G−1))], c1 = E‖g(X) − g‖², c2 = E V_o(X), c3 = E[Var R E‖Z‖² + ‖g(X)‖²]; at B·G fixed the best G is "
    "1 + √(c3/c1), in whole numbers the first with G(G−1) ≥ c3/c1; V_o, the variance with b = E R, need not be least",
    source="arXiv 2603.01162, whose constants and optimum are made exact here; ledger 18",
    hypotheses=(
        "B prompts drawn independently, G responses each",
        "leave-one-out credits (the group mean is (G−1)/G of them; with a std: claim:std-turns)",
    ),
    group_sizes=(1, 2, 3, 4),
    check=both(of_pairs(2), of_pairs(3), error(2), error(3), budget(2), budget(3), oracle),
    example=example,
    mutants={
        "c3/G² in place of c3/(G(G−1))": error(3, 9),
        "G² > c3/c1 decides": budget(3, 2),
        "the oracle's baseline is the best": oracle_is_best,
    },
    needs=("prop:group-mean",),
    wording="the best group size is √(c3/c1)",
    as_worded=as_worded,
)
