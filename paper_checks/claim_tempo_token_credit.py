"""claim:tempo-token-credit: what credit from the prefix tree of a group estimates, and the same without its bias."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from paper_checks.common import both, expectation, gradient, unbiased
from paper_checks.continued import at_positions, at_prefixes, row
from paper_checks.laws import turned
from tpg.claims import Claim, Finding, nonzero, zero
from tpg.claims.record import Check
from tpg.estimators import prefix_tree
from tpg.estimators.estimator import Estimator
from tpg.estimators.parts import peers
from tpg.estimators.table import ESTIMATORS
from tpg.numbers import RATIONAL, Array
from tpg.problem import zoo
from tpg.problem.problem import Problem, make
from tpg.problem.tree import grow
from tpg.rollouts import every

TEMPO, REPAIRED = ESTIMATORS["tempo"], ESTIMATORS["tempo_unbiased"]
Count = Callable[[Any, int], Any]  # chance d of a prefix, group size G → how many times its scores count


def tree(d: Any, size: int) -> Any:
    """w_G(d) = 1 − (1 − (1 − d)^G)/(G d): 1 − E[1/n] for the n ~ 1 + Bin(G−1, d) responses that hold the prefix."""
    return 1 - (1 - (1 - d) ** size) / (size * d)


def both_parts(d: Any, size: int) -> Any:
    """(G − 1)/G from R_i − mean R, and w_G(d) from the tree."""
    return tree(d, size) + (0 * d + size - 1) / size


def mean(problem: Problem, estimator: Estimator, size: int) -> Array:
    """[D] E ĝ over the list of all groups; three responses make it long, so that only credits are added up."""
    if size < 3:
        return expectation(problem, estimator, size)
    table = problem.field.zeros(problem.probs.shape)
    for _, singles, index, chance in every(problem, size, estimator.given):
        credit = chance[:, None, None] * estimator(singles.group(index, estimator.needs))
        inside = singles.mask[index]
        np.add.at(table, (singles.node[index][inside], singles.token[index][inside]), credit[inside])
    return problem.combine(problem.pull(table))


def counts(count: Count, estimator: Estimator, size: int) -> Check:
    """E ĝ = Σ_s ``count``(d(s)) E[D_t S_t; s], d(s) the chance of the prefix."""

    def check(problem: Problem) -> Sequence[Finding]:
        wanted = at_prefixes(problem, count(problem.reach, size))
        gap = mean(problem, estimator, size) - wanted
        return [zero(f"{estimator.name}: E ĝ = Σ_s count(d(s)) E[D S; s], G = {size}", gap)]

    return check


@peers("reward", "prefix")
def tree_alone(reward: Array, prefix: Array) -> Array:
    """V̂(s_{t+1}) − V̂(s_t)."""
    size = reward.shape[-1]
    centred = reward - reward.sum(-1, keepdims=True) / size
    return prefix_tree.tempo(reward, prefix) - centred[..., None]


def once(d: Any, size: int) -> Any:
    """Every prefix once: g."""
    return 0 * d + 1


def everybody(d: Any, size: int) -> Any:
    """Mutant: all G pass through every prefix."""
    return 2 * (0 * d + size - 1) / size


def expected_number(d: Any, size: int) -> Any:
    """Mutant: 1/E[n] in place of E[1/n]."""
    return (0 * d + size - 1) / size + 1 - 1 / (1 + (size - 1) * d)


def keeps_direction(problem: Problem) -> Sequence[Finding]:
    """A learning rate would mend it."""
    return [zero("turned", turned(expectation(problem, TEMPO, 2), gradient(problem)))]


def coins() -> Problem:
    """Two fair coins; reward 1 for 11, 2 for 00."""
    fair = [["1/2", "1/2"]] * 3
    return make(grow(2, 2, 1), fair, [[0, 0], [2, 0], [0, 1]], field=RATIONAL, name="coins")


def example() -> Sequence[Finding]:
    """Two coins, G = 2: first token 1/2 + w(1) = 1/2 + 1/2, second 1/2 + w(1/2) = 1/2 + 1 − (1 − 1/4)/1 = 3/4."""
    small = coins()
    weights: dict[int, list[str]] = {2: ["1", "3/4"], 3: ["4/3", "13/12"]}  # w_3(1/2) = 1 − (7/8)/(3/2) = 5/12
    out = []
    for size, weight in weights.items():
        found = expectation(small, TEMPO, size)
        out += [
            zero(f"two coins, G = {size}: tokens count {', '.join(weight)}", found - at_positions(small, weight)),
            nonzero("which turns g", turned(found, gradient(small))),
        ]
    for problem in (zoo.two_valued(), zoo.shared()):
        out.append(nonzero(f"turns g on {problem.name}", turned(expectation(problem, TEMPO, 2), gradient(problem))))
        out += unbiased(REPAIRED, 2)(problem)
    return out


CLAIM = Claim(
    label="claim:tempo-token-credit",
    statement="TEMPO without σ: E ĝ = (G−1)/G g + Σ_s w_G(d(s)) E[D_t S_t; s], w_G(d) = 1 − (1 − (1−d)^G)/(G d), d "
    "the chance of prefix s: tokens count from (G−1)/G to 2(G−1)/G times, those at likely prefixes more, which may "
    "turn g; V̂(child) less the others' mean at the last prefix shared with another is unbiased",
    source="arXiv 2509.18314 and its code; closed form and repair are ours; ledger 10",
    hypotheses=("without the division by std", "G ≥ 2 independent responses of the current policy"),
    group_sizes=(2, 3),
    check=both(
        counts(both_parts, TEMPO, 2),
        counts(both_parts, TEMPO, 3),
        counts(tree, row(tree_alone), 2),
        unbiased(REPAIRED, 2),
        counts(once, REPAIRED, 3),
    ),
    example=example,
    mutants={
        "credit counts twice": counts(everybody, TEMPO, 2),
        "1/E[n] for E[1/n]": counts(expected_number, TEMPO, 2),
        "the tree counts every prefix once": counts(once, row(tree_alone), 2),
        "direction kept": keeps_direction,
        "the repair with the own response in its baseline": unbiased(row(tree_alone), 2),
    },
    needs=("thm:advantage", "prop:group-mean"),
    wording="the prefix tree of a group gives precise credit to every token",
    as_worded=keeps_direction,
)
