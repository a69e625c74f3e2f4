"""claim:k1-reward-equals-k2-loss: the same credits for whole responses, two gradients token by token."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from paper_checks import divergences as v
from paper_checks.common import both, expectation, on_paths
from paper_checks.divergences import Divergences, Value
from paper_checks.stale import one_token, referenced, size_of, stale, turned
from tpg.claims import Claim, Finding, apart, close, zero
from tpg.claims.record import Check
from tpg.estimators.table import ESTIMATORS
from tpg.numbers import FLOAT64, Array
from tpg.problem import zoo
from tpg.problem.problem import Problem, make
from tpg.problem.tree import grow

BETA = 0.1  # of the rows
ROWS = {
    name: ESTIMATORS[f"kl_{name}"] for name in ("k1_reward", "k1_reward_full", "k2_loss", "k2_sequence_loss", "k3_loss")
}


def same_credits(one: str, other: str, first_token: bool = False, by_mu: bool = False) -> Check:
    """The credits are equal, bit for bit, on every response."""

    def check(problem: Problem) -> Sequence[Finding]:
        cut = one_token(problem) if first_token else problem
        made = referenced(stale(cut) if by_mu else cut).to(FLOAT64)
        singles, mine = on_paths(made, ROWS[one].advantage)
        _, theirs = on_paths(made, ROWS[other].advantage)
        mine, theirs = (x if x.ndim > 1 else x[:, None] for x in (mine, theirs))
        where = "one token" if first_token else "every response"
        return [zero(f"credits of {one} less those of {other}, {where}", np.where(singles.mask, mine - theirs, 0))]

    return check


def same_gradient(one: str, other: str) -> Check:
    """E ĝ is equal on-policy."""

    def check(problem: Problem) -> Sequence[Finding]:
        made = referenced(problem).to(FLOAT64)
        first, second = (expectation(made, ROWS[name]) for name in (one, other))
        return [close(f"E ĝ of {one} = that of {other}", first - second, size_of(first, second))]

    return check


def moving(d: Divergences, p: Array) -> Array:
    """Σ_s ρ_p(s) KL(π‖π_ref)(s), the KL held fixed: what the moving prefixes contribute."""
    problem = d.problem
    here = (problem.probs * (np.log(problem.probs) - np.log(d.reference))).sum(-1)
    paid = d.paths.along(np.repeat(here[:, None], problem.vocab, axis=1), 0).sum(1)
    return d.total(d.chance(p) * paid)


def differ(value: Value) -> Check:
    """E ĝ of k1 in the reward less that of k2 of tokens in the loss = −β ∇value."""

    def check(problem: Problem) -> Sequence[Finding]:
        made = referenced(problem).to(FLOAT64)
        reward, loss = (expectation(made, ROWS[name]) for name in ("k1_reward", "k2_loss"))
        slope = Divergences(made).slope(value)
        what = f"k1 in the reward less k2 in the loss: −β ∇ {value.__name__}"
        return [close(what, reward - loss + BETA * slope, size_of(slope))]

    return check


def copied_first() -> Problem:
    """Two fair coins; π_ref tosses the first likewise, the second 1/4 after heads and 1/2 after tails."""
    half = ["1/2", "1/2"]
    theirs = [half, ["1/4", "3/4"], half]
    return make(grow(2, 2), [half] * 3, [[0, 0]] * 3, reference=theirs, name="copied-first", field=FLOAT64)


def example() -> Sequence[Finding]:
    """One divergence, after heads.

    The first token is tossed as by π_ref, so k2 of tokens leaves it alone.  After heads KL = ½ log 2 + ½ log(2/3) =
    ½ log(4/3), after tails 0: the KL of responses is p · ½ log(4/3), p = ½ that of heads, whose slope is p (1 − p).
    """
    problem = copied_first()
    reward, loss = (expectation(problem, ROWS[name]) for name in ("k1_reward", "k2_loss"))
    out = [
        close("k2 of tokens: nothing for the first token", loss[0], 1.0),
        close("k1 in the reward: −β/8 log(4/3)", reward[0] + BETA / 8 * np.log(4 / 3), 1.0),
    ]
    for made in (zoo.referenced(FLOAT64), referenced(zoo.shared()).to(FLOAT64)):
        turn = turned(*(expectation(made, ROWS[name]) for name in ("k1_reward", "k2_loss")))
        out.append(apart(f"the directions differ on {made.name}", turn, 1.0))
    return out


CLAIM = Claim(
    label="claim:k1-reward-equals-k2-loss",
    statement="of whole responses k1 in the reward (full return) and k2 in the loss are the same credits on every "
    "response, whoever generates, and so they are for one token; token by token, with k1 to go as the return, they "
    "are two gradients: they differ on-policy by −β Σ_s KL(π‖π_ref)(s) ∇ρ_π(s), the prefixes that move",
    source="arXiv 2510.01555; the difference is ours",
    hypotheses=("the log ratios are those of π, not of an older policy", "no clip, no clamp"),
    check=both(
        same_credits("k1_reward_full", "k2_sequence_loss"),
        same_credits("k1_reward_full", "k2_sequence_loss", by_mu=True),
        same_credits("k1_reward", "k2_loss", first_token=True),
        same_credits("k1_reward", "k2_sequence_loss", first_token=True),
        same_gradient("k1_reward", "k2_sequence_loss"),
        differ(moving),
    ),
    example=example,
    mutants={
        "the same credits token by token": same_credits("k1_reward", "k2_loss"),
        "to go or in full, the same credits": same_credits("k1_reward", "k2_sequence_loss"),
        "the same with k3": same_credits("k1_reward", "k3_loss", first_token=True),
        "they differ by the prefixes that stand still": differ(v.reverse),
        "they differ by the whole KL": differ(v.whole_reverse),
    },
    needs=("lem:baseline",),
    algebraic=False,
    wording="on-policy, k1 in the reward and k2 as a loss have the same gradient (token by token, as implemented)",
    as_worded=same_gradient("k1_reward", "k2_loss"),
)
