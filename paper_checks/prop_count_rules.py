"""prop:count-rules: a rule that only counts successes multiplies each prompt's gradient by a closed h'(p)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from functools import partial
from itertools import product
from math import comb
from typing import Any, NamedTuple

import numpy as np

from paper_checks.common import both, expectation, row
from paper_checks.laws import Rate, Weight, bernstein, mean_reward, rated, two_valued
from paper_checks.variances import arbitrary
from tpg.claims import Claim, Finding, zero
from tpg.claims.record import Check
from tpg.estimators import counts
from tpg.estimators.counts_expected import slope
from tpg.estimators.parts import peers
from tpg.estimators.table import ESTIMATORS
from tpg.moments import moments
from tpg.numbers import RATIONAL, Array
from tpg.problem import zoo
from tpg.problem.problem import Problem

SIZES = range(2, 7)


# What a rule pays: u(k, G) to a success and −v(k, G) to a failure, k of G; and the h' it is said to have


class Rule(NamedTuple):
    """u, v and h' of one rule."""

    up: Weight
    down: Weight
    rate: Rate


def ones(size: int, p: Any) -> Any:
    """Σ_{j<size} (1−p)^j = (1 − (1−p)^size)/p: the slope of log p, truncated."""
    return sum(((1 - p) ** j for j in range(1, size)), p * 0 + (size > 0))


def corpo_rate(p: Any, size: int) -> Any:
    """1 − P(S ≥ G/2)/G − P(S = (G−1)/2)/(2G), S ~ Bin(G−1, p): the own success lifts the mean above ½, or does not."""
    chance = [comb(size - 1, s) * p**s * (1 - p) ** (size - 1 - s) for s in range(size)]
    lifted = sum((chance[s] * min(2, max(0, 2 * s + 2 - size)) for s in range(size)), p * 0)
    return 1 - lifted / (2 * size)


def best(size: int, k: int) -> Fraction:
    """Best-of-N: G/k to each of k successes; where none succeeds everybody is best and earns 1."""
    return Fraction(size, k) if k else Fraction(-1)


RULES: dict[str, Rule] = {
    "raft": Rule(lambda k, G: Fraction(1), lambda k, G: Fraction(0), lambda p, G: p * 0 + 1),
    "rloo": Rule(lambda k, G: Fraction(G - k, G - 1), lambda k, G: Fraction(k, G - 1), lambda p, G: p * 0 + 1),
    "group_mean": Rule(lambda k, G: Fraction(G - k, G), lambda k, G: Fraction(k, G), lambda p, G: (p * 0 + G - 1) / G),
    "raft_mean_accepted": Rule(lambda k, G: Fraction(G, k), lambda k, G: Fraction(0), lambda p, G: ones(G, p)),
    "maxrl": Rule(lambda k, G: Fraction(G - k, k), lambda k, G: Fraction(k > 0), lambda p, G: ones(G - 1, p)),
    "reinforce_rej": Rule(lambda k, G: Fraction(k < G), lambda k, G: Fraction(0), lambda p, G: 1 - p ** (G - 1)),
    "grpo_passk": Rule(lambda k, G: Fraction(k == 1), lambda k, G: Fraction(0), lambda p, G: (1 - p) ** (G - 1)),
    "passk_loo": Rule(  # k = 2: the pairs of a success with a failure, 2/(G−1) each
        lambda k, G: Fraction(2 * (G - k), G - 1), lambda k, G: Fraction(0), lambda p, G: 2 * (1 - p)
    ),
    "best_of_n": Rule(
        lambda k, G: best(G, k),
        lambda k, G: best(G, 0) if k == 0 else Fraction(0),
        lambda p, G: ones(G - 1, p),
    ),
    "corpo": Rule(
        lambda k, G: 1 - max(Fraction(1, 2), Fraction(k, G)),
        lambda k, G: max(Fraction(1, 2), Fraction(k, G)),
        corpo_rate,
    ),
    "rl2ml": Rule(counts.log_success, counts.log_failure, lambda p, G: 2 - p),
}


def weights(rule: Rule, size: int) -> tuple[list[Fraction], list[Fraction]]:
    """u(1 … G) and v(0 … G−1)."""
    return [rule.up(k, size) for k in range(1, size + 1)], [rule.down(k, size) for k in range(size)]


@peers("reward")
def pay(reward: Array, *, up: Array, down: Array) -> Array:
    """The credits of the rule ``up`` = u(1 … G), ``down`` = v(0 … G−1), told by whether a reward is 0."""
    won = reward != 0
    many = won.sum(-1, keepdims=True)
    return np.where(won, up[many - 1], -down[np.minimum(many, len(down) - 1)])


@peers("reward")
def unequal(reward: Array) -> Array:
    """A group is kept where its rewards differ."""
    return (reward != reward[..., :1]).any(-1, keepdims=True)


# The lemma, for weights that are nothing but free


def lemma(size: int, shift: int = 0) -> Check:
    """E ĝ = Σ_x weight(x) h'(p_x) ∇p_x for free u and v (``shift`` ≠ 0 is a mutant: v read one count off).

    Groups of two and three one by one, larger ones by class.
    """

    def check(problem: Problem) -> Sequence[Finding]:
        tied = two_valued(problem)
        up, down = arbitrary(problem, (2, size))
        rule = row(partial(pay, up=up, down=down))
        found = expectation(tied, rule, size) if size <= 3 else tied.combine(moments(tied, rule, size).mean)
        rate = np.array([bernstein(up, np.roll(down, shift), p) for p in mean_reward(tied)])
        return [zero(f"E ĝ = h'(p) ∇p for any u(k), v(k), G = {size}", found - rated(tied, rate))]

    return check


def filtered(size: int, of_the_kept: bool = True) -> Check:
    """DAPO's filter, dropped groups drawn again for the same prompt: h' of the unequal groups over their share."""

    def check(problem: Problem) -> Sequence[Finding]:
        tied = two_valued(problem)
        up, down = arbitrary(problem, (2, size))
        rule = replace(row(partial(pay, up=up, down=down)), keep=unequal)
        found = tied.combine(moments(tied, rule, size).mean)
        up[-1] = down[0] = problem.field.scalar(0)  # all succeed, all fail: never seen
        chance = mean_reward(tied)
        share = [1 - p**size - (1 - p) ** size if of_the_kept else p * 0 + 1 for p in chance]
        rate = np.array([bernstein(up, down, p) / kept for p, kept in zip(chance, share, strict=True)])
        return [zero(f"kept groups: E ĝ = h'(p)/(1 − p^G − (1−p)^G) ∇p, G = {size}", found - rated(tied, rate))]

    return check


# The named rules


def closed(name: str, rule: Rule) -> Check:
    """The Bernstein sum of the rule is its closed h', and ``slope`` says the same."""

    def check(problem: Problem) -> Sequence[Finding]:
        field, gaps, said = problem.field, [], []

        def up(k: int, size: int) -> Any:
            return field.scalar(rule.up(k, size))

        def down(k: int, size: int) -> Any:
            return field.scalar(rule.down(k, size))

        for size in SIZES:
            for p in mean_reward(two_valued(problem)):
                won, lost = weights(rule, size)
                whole = bernstein(field.array(won), field.array(lost), p)
                gaps.append(whole - rule.rate(p, size))
                said.append(whole - slope(up, down, size, p))
        return [zero(f"h' of {name}, G = 2 … 6", gaps), zero(f"slope() of {name}", said)]

    return check


def measured(name: str, rule: Rule) -> Check:
    """E ĝ of the row ``name``, where rewards can be compared: its own code on every group of two."""

    def check(problem: Problem) -> Sequence[Finding]:
        if not problem.field.ordered:  # a maximum has no meaning in GF(p): there the lemma speaks for the row
            return []
        tied = two_valued(problem)
        found = expectation(tied, ESTIMATORS[name], 2)
        rate = np.array([rule.rate(p, 2) for p in mean_reward(tied)])
        return [zero(f"E ĝ of the row {name} = h'(p) ∇p, G = 2", found - rated(tied, rate))]

    return check


def wrong(name: str, rate: Rate) -> Check:
    """Mutant: the row with another h'."""
    return closed(name, RULES[name]._replace(rate=rate))


def groups(size: int) -> Array:
    """Every group of zeros and ones."""
    return RATIONAL.array(list(product([0, 1], repeat=size)))


def same_credits() -> Iterator[Finding]:
    """The rows are these rules: their credits on every group of 0 and 1."""
    for name, rule in RULES.items():
        gaps = []
        for size in SIZES[:4]:
            up, down = (RATIONAL.array(each) for each in weights(rule, size))
            reward = groups(size)
            gaps.append((ESTIMATORS[name].advantage(reward) - pay(reward, up=up, down=down)).ravel())
        yield zero(f"credits of {name} on every group of 0 and 1, G = 2 … 5", np.concatenate(gaps))


def larger_groups() -> Iterator[Finding]:
    """The rows themselves at G = 5, unequal lengths, by the engine."""
    problem = zoo.two_valued()
    for name, rule in RULES.items():
        rate = np.array([rule.rate(p, 5) for p in mean_reward(problem)])
        gap = problem.combine(moments(problem, ESTIMATORS[name], 5).mean) - rated(problem, rate)
        yield zero(f"E ĝ of the row {name} = h'(p) ∇p, G = 5", gap)


def example() -> Sequence[Finding]:
    """The rows of the toolkit are these rules."""
    return [*same_credits(), *larger_groups()]


CHECKS = [make(size) for make in (lemma, filtered) for size in SIZES]
CLAIM = Claim(
    label="prop:count-rules",
    statement="two-valued rewards: any rule that pays u(k) to each of k successes of G and −v(k) to each failure has "
    "E ĝ = h'(p)∇p on each prompt, h'(p) = Σ_s C(G−1,s) p^s (1−p)^{G−1−s} (u(s+1) + v(s)): 1 for RAFT and RLOO, "
    "(G−1)/G for the group mean, Σ_{j<G} (1−p)^j for the mean over accepted, Σ_{j<G−1} (1−p)^j for MaxRL and for "
    "best-of-N, 1 − p^{G−1} for Reinforce-Rej, (1−p)^{G−1} for grpo_passk, 2(1−p) for PKPO's pairs, 2 − p for the log "
    "to order 2, 1 − P(S ≥ G/2)/G − P(S = (G−1)/2)/(2G), S ~ Bin(G−1, p), for CoRPO with c = ½; where "
    "groups without spread are drawn again for the same prompt (DAPO's filter) u(G) = v(0) = 0 there, over "
    "1 − p^G − (1−p)^G",
    source="ours; the Bernstein form is in arXiv 2605.30154 and arXiv 2510.13651; ledger 21",
    hypotheses=(
        "rewards 0 and 1",
        "responses of a group are independent draws from the current policy",
        "the divisor is G: no 1/|o|, no token-mean",
    ),
    group_sizes=(2, 3, 4, 5, 6),
    check=both(*CHECKS, *(make(name, rule) for make in (closed, measured) for name, rule in RULES.items())),
    example=example,
    mutants={
        "a failure weighed by v(k−1)": lemma(2, 1),
        "the filter without its share": filtered(2, False),
        "MaxRL reaches order G": wrong("maxrl", lambda p, G: ones(G, p)),
        "Reinforce-Rej drops p^G": wrong("reinforce_rej", lambda p, G: 1 - p**G),
        "grpo_passk is G times itself": wrong("grpo_passk", lambda p, G: G * (1 - p) ** (G - 1)),
        "best-of-N is the mean over accepted": wrong("best_of_n", lambda p, G: ones(G, p)),
        "CoRPO is the group mean": measured("corpo", RULES["group_mean"]),
        "RAFT's row with MaxRL's rate": measured("raft", RULES["raft_mean_accepted"]),
    },
    needs=("thm:trajectory-pg",),
    wording="credits (R − mean)/mean over a group of G follow the gradient of log p truncated at order G",
    as_worded=wrong("maxrl", lambda p, G: ones(G, p)),
)
