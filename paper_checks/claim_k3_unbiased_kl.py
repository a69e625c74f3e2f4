"""claim:k3-unbiased-kl: as a number k3 estimates KL(π‖π_ref) without bias; as a loss it follows another divergence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from paper_checks import divergences as v
from paper_checks.common import both, expectation, on_paths
from paper_checks.divergences import Divergences, Value
from paper_checks.stale import referenced, size_of, turned
from tpg.claims import Claim, Finding, apart, close
from tpg.claims.record import Check
from tpg.estimators.table import ESTIMATORS
from tpg.numbers import FLOAT64, Array
from tpg.problem import zoo
from tpg.problem.problem import Problem, make
from tpg.problem.tree import grow

BETA = 0.1  # of the rows
K3, GRPO = ESTIMATORS["kl_k3_loss"], ESTIMATORS["grpo_kl"]


def with_reference(problem: Problem) -> Problem:
    """On-policy, in float64."""
    return referenced(problem).to(FLOAT64)


def estimate(estimator: Callable[..., Array]) -> Check:
    """E Σ_t k_t = KL(π‖π_ref) of responses: the values, by enumeration."""

    def check(problem: Problem) -> Sequence[Finding]:
        made = with_reference(problem)
        d = Divergences(made)
        singles, each = on_paths(made, estimator)
        weight = made.weights[singles.prompt] * singles.probability
        kl_value = v.whole_reverse(d, made.probs[None])[0]
        at_prefixes = v.reverse(d, made.probs[None])[0]
        found = (weight[:, None] * np.where(singles.mask, each, 0)).sum()
        size = size_of(np.abs(each))
        return [
            close("E Σ_t k_t = KL(π‖π_ref) of responses", found - kl_value, size),
            close("= Σ_s ρ(s) KL(π‖π_ref)(s)", found - at_prefixes, size),
        ]

    return check


def k3_value(prob: Array, ref_prob: Array) -> Array:
    """k3 = π_ref/π − 1 − log(π_ref/π) of every token."""
    return ref_prob / prob - 1 - np.log(ref_prob / prob)


def k2_value(prob: Array, ref_prob: Array) -> Array:
    """k2 = log²(π/π_ref)/2, which is biased."""
    return np.asarray(np.log(prob / ref_prob) ** 2 / 2)


def follows(value: Value) -> Check:
    """k3 in the loss, summed over tokens: E ĝ = −β ∇value."""

    def check(problem: Problem) -> Sequence[Finding]:
        made = with_reference(problem)
        slope = Divergences(made).slope(value)
        gap = expectation(made, K3) + BETA * slope
        return [close(f"k3 in the loss: E ĝ = −β ∇ {value.__name__}", gap, size_of(slope))]

    return check


def in_grpo(value: Value) -> Check:
    """What β adds to GRPO's gradient, 1/L, clip and z-score as they are, G = 2: −β ∇value."""

    def check(problem: Problem) -> Sequence[Finding]:
        made = with_reference(problem)
        added = expectation(made, GRPO, 2) - expectation(made, replace(GRPO, penalty=None), 2)
        slope = Divergences(made).slope(value)
        return [close(f"GRPO's KL term = −β ∇ {value.__name__}", added + BETA * slope, size_of(slope))]

    return check


def shortened(d: Divergences, p: Array) -> Array:
    """Σ_s ρ(s) Σ_a E[1/L | s, a] (p − π_ref log p): the forward KL, each token a weighed by E[1/L | s, a]."""
    paths, over = d.paths, np.zeros(d.problem.probs.shape)
    rows, t = np.nonzero(paths.mask)
    chance = paths.chance(d.problem.probs)
    np.add.at(over, (paths.found.node[rows, t], paths.found.token[rows, t]), (chance / paths.length)[rows])
    share = over / (d.problem.reach[:, None] * d.problem.probs)
    return d.at_prefixes(share * (p - d.reference * np.log(p)))


def over_horizon(d: Divergences, p: Array) -> Array:
    """Mutant: the forward KL divided by T."""
    return v.forward(d, p) / d.problem.horizon


def one_coin() -> Problem:
    """Heads 1/2 under π, 1/4 under π_ref."""
    return make(grow(2, 1), [["1/2", "1/2"]], [[0, 0]], reference=[["1/4", "3/4"]], name="one-coin", field=FLOAT64)


def example() -> Sequence[Finding]:
    """The two gradients point in different directions, on GRPO's own row too; the smallest difference is one coin's.

    For heads p under π, q under π_ref the slopes in the logit of heads are p − q = 1/4 for KL(π_ref‖π) and
    p (1 − p) log(p (1 − q) / ((1 − p) q)) = ¼ log 3 for KL(π‖π_ref).
    """
    coin = one_coin()
    gradients = expectation(coin, K3)[0], Divergences(coin).slope(v.whole_reverse)[0]
    out = [
        close("one coin: k3 in the loss gives −β/4", gradients[0] + BETA / 4, 1.0),
        close("where ∇KL(π‖π_ref) is ¼ log 3", gradients[1] - np.log(3) / 4, 1.0),
        apart("so they differ", gradients[0] + BETA * gradients[1], 1.0),
    ]
    for problem in (zoo.referenced(FLOAT64), with_reference(zoo.shared())):
        d = Divergences(problem)
        found, grpo = expectation(problem, K3), -BETA * d.slope(shortened)
        for value in (v.reverse, v.whole_reverse):
            slope = d.slope(value)
            out.append(apart(f"k3 turned against {value.__name__}, {problem.name}", turned(found, slope), 1.0))
            out.append(apart(f"GRPO's term turned against {value.__name__}", turned(grpo, slope), 1.0))
        out.append(apart("1/L turns it away from the forward KL as well", turned(grpo, d.slope(v.forward)), 1.0))
    return out


CLAIM = Claim(
    label="claim:k3-unbiased-kl",
    statement="E Σ_t k3 = KL(π‖π_ref) of responses (the value is unbiased), but in the loss its gradient is that of "
    "Σ_s ρ(s) KL(π_ref‖π)(s), the forward KL at prefixes that stand still; GRPO's 1/L weighs each of its terms π_ref "
    "log(π_ref/π) + π − π_ref by E[1/L | s, a]: where lengths vary not even the forward KL's",
    source="arXiv 2402.03300 (GRPO), Schulman 2020 for the value, 2506.09477 for the gradient; 1/L is ours; ledger 25",
    hypotheses=("on-policy", "π and π_ref give every token a positive probability", "no clamp"),
    group_sizes=(1, 2),
    check=both(estimate(k3_value), follows(v.forward), in_grpo(shortened)),
    example=example,
    mutants={
        "k2 is unbiased, too": estimate(k2_value),
        "the gradient is the reverse KL's at prefixes": follows(v.reverse),
        "the gradient is the forward KL's of responses": follows(v.whole_forward),
        "GRPO's term is the forward KL's over T": in_grpo(over_horizon),
    },
    needs=("claim:k3-forward-kl",),
    algebraic=False,
    wording="k3 is an unbiased estimate of KL(π‖π_ref), so that as a loss it regularises by that KL",
    as_worded=both(estimate(k3_value), follows(v.whole_reverse)),
)
