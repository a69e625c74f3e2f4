"""claim:pure-min-form: reward-to-go of the min form misses ∇E[min_t PR_t]; the running minimum reaches it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from paper_checks.common import both, gradient
from paper_checks.laws import paying, turned
from paper_checks.spreads import Dense, any_table, met, past, spoken
from tpg.claims import Claim, Finding, close, nonzero, zero
from tpg.claims.record import Check
from tpg.estimators import dense
from tpg.numbers import FLOAT64, Array
from tpg.problem import zoo
from tpg.problem.problem import Problem, make
from tpg.problem.tree import grow
from tpg.rollouts import responses


def least(problem: Problem) -> Array:
    """[R] min_t PR_t of each response, token by token."""
    singles, score = responses(problem), spoken(problem, any_table(problem))
    return np.array([min(row[: int(n)]) for row, n in zip(score, singles.length, strict=True)], dtype=score.dtype)


def of_the_minimum(problem: Problem) -> Array:
    """[D] ∇E[min_t PR_t], PR frozen."""
    worth = problem.field.zeros(problem.probs.shape)
    worth[responses(problem).last] = least(problem)
    return gradient(paying(problem, worth))


def at_the_least(process_reward: Array, mask: Array) -> Array:
    """The min form at temperature 0: min_t PR_t, shared by the tokens where it is attained."""
    highest = process_reward.max() + 1
    score = np.where(mask, process_reward, highest)
    there = score == score.min(-1, keepdims=True)
    share = np.where(there, score, 0 * score)
    return share / there.sum(-1, keepdims=True).astype(object)


def gone(problem: Problem) -> Array:
    """[R, T] the share of min_t PR_t that lies before each token, by literal loops."""
    singles, lowest = responses(problem), least(problem)
    score, out = spoken(problem, any_table(problem)), problem.field.zeros(singles.mask.shape)
    for i, length in enumerate(singles.length.tolist()):
        where = [t for t in range(length) if score[i, t] == lowest[i]]
        for t in range(length):
            out[i, t] = lowest[i] * sum(k < t for k in where) / len(where)
    return out


def min_form(kept: int = 1) -> Check:
    """The full sum reaches ∇E[min]; reward-to-go and GAE(λ) lose what lies before each token."""

    def check(problem: Problem) -> Sequence[Finding]:
        paid, wanted = Dense(at_the_least, any_table), of_the_minimum(problem)
        late = wanted - kept * met(problem, gone(problem))
        return [
            zero("min form, full sum: E ĝ = ∇E[min_t PR_t]", paid.full(problem) - wanted),
            zero("min form, reward-to-go: less E Σ_t (share before t) S_t", paid.to_go(problem) - late),
            zero("min form, GAE(1/2): the same", paid.gae(problem, "1/2") - late),
        ]

    return check


def repaired(problem: Problem) -> Sequence[Finding]:
    """m_t − m_{t−1}, m the running minimum: ∇E[min] by every return."""
    paid, wanted = Dense(dense.pure_repaired, any_table), of_the_minimum(problem)
    made = [paid.full(problem), paid.to_go(problem), paid.gae(problem, "1/2")]
    return [zero("running minimum: E ĝ = ∇E[min_t PR_t]", np.concatenate([each - wanted for each in made]))]


def softly(problem: Problem) -> Sequence[Finding]:
    """As published, w = softmax(−PR/T), T = 1/10: ∇E[Σ_t w_t PR_t], and reward-to-go less what lies before."""
    rounded = problem.to(FLOAT64)
    score, mask = spoken(rounded, scores(rounded)), responses(rounded).mask
    weight = np.where(mask, np.exp(-score / 0.1 + (score / 0.1).min()), 0)  # one scale for all responses
    paid = weight * score / weight.sum(1, keepdims=True)
    worth = np.zeros(rounded.probs.shape)
    worth[responses(rounded).last] = paid.sum(1)
    wanted, made, size = gradient(paying(rounded, worth)), Dense(dense.pure, scores), 10.0
    return [
        close("w_t PR_t, full sum: E ĝ = ∇E[Σ_t w_t PR_t]", made.full(rounded) - wanted, size),
        close("w_t PR_t, reward-to-go", made.to_go(rounded) - wanted + met(rounded, past(paid)), size),
    ]


def scores(problem: Problem) -> Array:
    """[N, V] the numbers of ``any_table`` over 10, so that softmax(−PR/T) leaves every token its share."""
    return any_table(problem) / 10


def climbs_the_minimum(problem: Problem) -> Sequence[Finding]:
    """Reward-to-go of the min form reaches ∇E[min_t PR_t]."""
    found = Dense(at_the_least, any_table).to_go(problem)
    return [zero("min form, reward-to-go: E ĝ = ∇E[min_t PR_t]", found - of_the_minimum(problem))]


def ahead(problem: Problem) -> Array:
    """[D] E Σ_t min_{k≥t} PR_k S_t: the value as the minimum of what lies ahead."""
    singles, score = responses(problem), spoken(problem, any_table(problem))
    credit = problem.field.zeros(score.shape)
    for i, length in enumerate(singles.length.tolist()):
        for t in range(length):
            credit[i, t] = min(score[i, t:length])
    return met(problem, credit)


def minimum_ahead(problem: Problem) -> Sequence[Finding]:
    """Mutant: reward-to-go of the min form is the minimum of what lies ahead."""
    found = Dense(at_the_least, any_table).to_go(problem)
    return [zero("E ĝ = E Σ_t min_{k≥t} PR_k S_t", found - ahead(problem))]


def running_minimum_myopic(problem: Problem) -> Sequence[Finding]:
    """Mutant: credit m_t − m_{t−1} without a return."""
    paid = Dense(dense.pure_repaired, any_table).numbers(problem)
    return [zero("E Σ_t (m_t − m_{t−1}) S_t = ∇E[min]", met(problem, paid) - of_the_minimum(problem))]


def turned_round() -> Sequence[Finding]:
    """Two tokens of two, π = 1/2: PR_1 = 2 whatever comes, PR_2 = 1 or 3, so that min = 1 or 2.

    The better second token leaves the minimum behind it and is paid 0, the worse one is paid its 1: −1 in place of
    2 − 1.  At the first token min does not depend on the choice.  The running minimum pays −1 and 0.
    """
    problem = make(grow(2, 2), [["1/2", "1/2"]] * 3, [[0, 0]] * 3, name="minimum behind")
    table = problem.field.array([[2, 2], [1, 3], [1, 3]])
    climbed = gradient(paying(problem, problem.field.array([[0, 0], [1, 2], [1, 2]])))
    late, mended = (Dense(part, lambda _: table).to_go(problem) for part in (at_the_least, dense.pure_repaired))
    return [
        zero("min form, reward-to-go: E ĝ = −∇E[min]", late + climbed),
        zero("running minimum, reward-to-go: E ĝ = ∇E[min]", mended - climbed),
        nonzero("∇E[min]", climbed),
    ]


def example() -> Sequence[Finding]:
    """The counterexample, and two problems for the published softmax and for the minimum ahead as credit."""
    out = list(turned_round())
    for problem in (zoo.three_valued(), zoo.shared()):
        out.append(nonzero("credit min_{k≥t} PR_k turns, too", turned(ahead(problem), of_the_minimum(problem))))
        out.extend(softly(problem))
    return out


CLAIM = Claim(
    label="claim:pure-min-form",
    statement="the min form, min_t PR_t paid where it is attained: its full sum gives ∇E[min_t PR_t], its reward-to-go "
    "and GAE(λ) lose the share before each token and may climb the other way, the minimum ahead as credit turns, too; "
    "m_t − m_{t−1}, m the running minimum, gives ∇E[min_t PR_t] by every return; weights softmax(−PR/T) do as the min "
    "form does, with Σ_t w_t PR_t for min_t PR_t",
    source="Chen et al., arXiv 2504.15275; the expectations and the repair are ours",
    hypotheses=("PR is held fixed when differentiated", "γ = 1", "tokens that tie for the minimum share it"),
    check=both(min_form(), repaired),
    example=example,
    mutants={
        "reward-to-go of the min form reaches ∇E[min]": climbs_the_minimum,
        "the bias has the other sign": min_form(-1),
        "reward-to-go is the minimum ahead": minimum_ahead,
        "the running minimum needs no return": running_minimum_myopic,
    },
    needs=("thm:trajectory-pg", "lem:baseline", "claim:gae-of-any-redistribution"),
    algebraic=False,
    wording="returns of the transformed process rewards climb the value that is the minimum of the process rewards",
    as_worded=climbs_the_minimum,
)
