"""prop:off-policy: what a ratio covers decides whose past and whose future the gradient is about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from paper_checks.common import both, expectation, gradient
from paper_checks.stale import Paths, one_token, stale
from tpg.claims import Claim, Finding, apart, close, nonzero, zero
from tpg.claims.record import Check
from tpg.estimators import advantages, offpolicy, ratios
from tpg.estimators.estimator import Estimator
from tpg.estimators.parts import Part
from tpg.numbers import FLOAT64, Array
from tpg.problem import zoo
from tpg.problem.problem import Problem, make
from tpg.problem.tree import grow

OUTCOME, EXACT = advantages.response_reward, advantages.exact_advantage


def row(advantage: Part, ratio: Part) -> Estimator:
    """An advantage times a ratio, summed over tokens."""
    return Estimator("corrected", advantage, ratio=ratio)


def of(problem: Problem, past: str, future: str) -> Array:
    """Σ_W RM Σ_t P(before t) ∇π(w_t) P(after t), past and future those of "π" or "μ"."""
    policies, paths = {"π": problem.probs, "μ": problem.sampling}, Paths(problem)
    return paths.moved(paths.reward, policies[past], policies[future])


def follows(advantage: Part, ratio: Part, past: str, future: str) -> Check:
    """E ĝ off-policy is the sum above."""

    def check(problem: Problem) -> Sequence[Finding]:
        made = stale(problem)
        gap = expectation(made, row(advantage, ratio)) - of(made, past, future)
        return [zero(f"{advantage.__name__} × {ratio.__name__}: past of {past}, future of {future}", gap)]

    return check


def is_g(advantage: Part, ratio: Part, first_token: bool = False) -> Check:
    """E ĝ off-policy is g."""

    def check(problem: Problem) -> Sequence[Finding]:
        made = stale(one_token(problem) if first_token else problem)
        gap = expectation(made, row(advantage, ratio)) - gradient(made)
        where = " of one token" if first_token else ""
        return [zero(f"{advantage.__name__} × {ratio.__name__}{where}: E ĝ = g", gap)]

    return check


def both_heads() -> Problem:
    """Two fair coins of π, heads 1/3 under μ; reward 1 for two heads."""
    half, third = ["1/2", "1/2"], ["1/3", "2/3"]
    paid = [[0, 0], [1, 0], [0, 0]]
    return make(grow(2, 2), [half] * 3, paid, behaviour=[third] * 3, name="both-heads")


def example() -> Sequence[Finding]:
    """The existential part.

    Both heads: ∂/∂logit of heads is 1/8 for the first token and 1/8 for the second after heads.  Only W = HH pays, with
    μ(W) = 1/9, score 1/2 and ratios 3/2: a token ratio gives 1/9 · 3/2 · 1/2 = 1/12 at both, a prefix ratio 1/12 and
    1/9 · 9/4 · 1/2 = 1/8, the square root of the whole ratio 1/12 at both, no ratio 1/18.
    """
    problem, out = both_heads(), []
    token, prefix, whole = (expectation(problem, row(OUTCOME, ratio)) for ratio in RATIOS)
    places = [problem.field.array(pair) for pair in (["1/12", "1/12"], ["1/12", "1/8"], ["1/8", "1/8"])]
    for name, found, wanted in zip(("token", "prefix", "whole"), (token, prefix, whole), places, strict=True):
        out.append(zero(f"both heads, {name} ratio, first and second token", found[[0, 2]] - wanted))
    g = gradient(problem)
    out += [nonzero("token ratio biased", token - g), nonzero("prefix ratio biased", prefix - g)]
    mismatch = expectation(problem, row(EXACT, ratios.token_is)) - g
    out.append(nonzero("token ratio biased even with exact advantages: states of μ", mismatch))
    for made in (zoo.stale(), stale(zoo.shared())):
        off = [of(made, *sides) - gradient(made) for sides in (("μ", "μ"), ("π", "μ"), ("μ", "π"))]
        out += [nonzero(f"state and continuation mismatch on {made.name}", gap) for gap in off]
    never = replace(problem, behaviour=problem.field.array([[0, 1], ["1/3", "2/3"], ["1/3", "2/3"]]))
    out.append(
        nonzero("full ratio biased where μ never begins with heads", expectation(never, row(OUTCOME, RATIOS[2])) - g)
    )
    return out


def beside() -> Sequence[Finding]:
    """GSPO's (Π π/μ)^{1/L} is the ratio of no longer response."""
    problem = both_heads().to(FLOAT64)
    bare, alone = row(OUTCOME, offpolicy.geometric), one_token(problem)
    gap, right = (expectation(made, bare) - gradient(made) for made in (problem, alone))
    return [apart("geometric ratio biased", gap, 1.0), close("but for responses of one token", right, 1.0)]


RATIOS = (ratios.token_is, ratios.prefix_is, ratios.sequence_is)
CLAIM = Claim(
    label="prop:off-policy",
    statement="R_i times a ratio: E ĝ = Σ_t Σ_W RM(W) P(before t) ∇π(w_t) P(after t), each P that of π where the "
    "ratio covers those tokens and of μ elsewhere: the full-sequence ratio is exactly unbiased, a prefix ratio "
    "targets Q^μ, a token ratio Q^μ at the states of μ; A^π needs no future: with it prefix ratios are exact, token "
    "ratios keep μ's states",
    source="ours in this form; arXiv 2512.01374, 2605.07331 and 2507.18071 are the cases; Precup et al. 2000",
    hypotheses=("μ generates every response that π can", "no clip, no truncation", "A^π is exact where it is used"),
    check=both(
        follows(OUTCOME, ratios.token_is, "μ", "μ"),
        follows(OUTCOME, ratios.prefix_is, "π", "μ"),
        follows(EXACT, ratios.token_is, "μ", "π"),
        *(is_g(*rightly) for rightly in ((OUTCOME, RATIOS[2]), (EXACT, RATIOS[2]), (EXACT, RATIOS[1]))),
        *(is_g(OUTCOME, ratio, first_token=True) for ratio in RATIOS),
    ),
    example=example,
    beside=beside,
    mutants={
        "token ratios are unbiased": is_g(OUTCOME, ratios.token_is),
        "prefix ratios are unbiased for outcome rewards": is_g(OUTCOME, ratios.prefix_is),
        "token ratios with exact advantages are unbiased": is_g(EXACT, ratios.token_is),
        "prefix ratios continue with π": follows(OUTCOME, ratios.prefix_is, "μ", "π"),
        "token ratios visit the states of π": follows(OUTCOME, ratios.token_is, "π", "μ"),
    },
    needs=("thm:trajectory-pg", "lem:baseline"),
)
