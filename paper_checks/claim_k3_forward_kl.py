"""claim:k3-forward-kl: k3 in the loss follows the forward KL(π_ref‖π) of prefixes that stand still, or of responses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from paper_checks.common import both, expectation, gradient
from paper_checks.stale import Paths, paid, referenced, stale, tangent, turned
from tpg.claims import Claim, Finding, nonzero, zero
from tpg.claims.record import Check
from tpg.estimators import aggregation, kl
from tpg.estimators.estimator import Estimator
from tpg.estimators.parts import Part
from tpg.numbers import Array
from tpg.problem import zoo
from tpg.problem.problem import Problem

SUM, MEAN = aggregation.seq_mean_token_sum, aggregation.seq_mean_token_mean
Slope = Callable[[Problem], Array]  # [D] ∇ of a divergence at the current policy


def row(credit: Part, divisor: Part = SUM) -> Estimator:
    """−∇ of a KL term in the loss, β = 1."""
    return Estimator(credit.__name__, partial(credit, beta=1), divisor)


def reference(problem: Problem) -> Array:
    """[N, V] π_ref."""
    assert problem.reference is not None
    return problem.reference


def at_prefixes(problem: Problem, of: Callable[[Problem], Array], visits: Array) -> Array:
    """[D] Σ_x weight(x) Σ_s visits(s) Σ_a of(s, a) ∇π(a|s)."""
    weight = problem.weights[problem.tree.prompt] * visits
    return np.asarray((weight[:, None, None] * of(problem)[:, :, None] * tangent(problem)).sum((0, 1)))


def forward(problem: Problem) -> Array:
    """Σ_s ρ(s) ∇KL(π_ref‖π)(s): −Σ_a π_ref/π ∇π at the prefixes of the policy that generates."""
    return at_prefixes(problem, lambda p: -reference(p) / p.probs, problem.sampling_reach)


def whole_forward(problem: Problem) -> Array:
    """∇KL(π_ref‖π) of responses: −Σ_W π_ref(W) ∇π(W) / π(W)."""
    paths = Paths(problem)
    share = paths.weight * paths.chance(reference(problem)) / paths.chance(problem.probs)
    return -np.asarray((share[:, None] * paths.moved_chance()).sum(0))


def shortened(problem: Problem) -> Array:
    """Σ_s ρ(s) Σ_a E[1/L | s, a] (π − π_ref)/π ∇π: what 1/L makes of the forward KL."""
    paths, over = Paths(problem), problem.field.zeros(problem.probs.shape)
    rows, t = np.nonzero(paths.mask)
    here = paths.found.node[rows, t], paths.found.token[rows, t]
    np.add.at(over, here, (paths.chance(problem.probs) / paths.length)[rows])
    chance = problem.reach[:, None] * problem.probs
    return at_prefixes(problem, lambda p: over / chance * (p.probs - reference(p)) / p.probs, problem.reach)


def in_mu(problem: Problem) -> Array:
    """∇E_μ Σ_t k3: Σ_s ρ_μ(s) Σ_a μ(a|s) (1 − π_ref/π) ∇π/π."""
    return at_prefixes(problem, lambda p: p.sampling * (1 - reference(p) / p.probs) / p.probs, problem.sampling_reach)


def whole_in_mu(problem: Problem) -> Array:
    """∇E_μ k3(W): Σ_W μ(W) (1 − π_ref/π(W)) ∇π(W)/π(W)."""
    paths = Paths(problem)
    ours, theirs, given = (paths.chance(p) for p in (problem.probs, reference(problem), problem.sampling))
    share = paths.weight * given * (1 - theirs / ours) / ours
    return np.asarray((share[:, None] * paths.moved_chance()).sum(0))


def away_from_mu(problem: Problem) -> Array:
    """∇E_μ log π(W) = −∇KL(μ‖π) of responses."""
    paths = Paths(problem)
    share = paths.weight * paths.chance(problem.sampling) / paths.chance(problem.probs)
    return np.asarray((share[:, None] * paths.moved_chance()).sum(0))


def climbs(estimator: Estimator, slope: Slope, off_policy: bool = False) -> Check:
    """E ĝ = −slope."""

    def check(problem: Problem) -> Sequence[Finding]:
        made = referenced(stale(problem) if off_policy else problem)
        where = "responses of μ" if off_policy else "on-policy"
        gap = expectation(made, estimator) + slope(made)
        return [zero(f"{estimator.name}, {where}: E ĝ = −∇ of {slope.__name__}", gap)]

    return check


def nothing(problem: Problem) -> Array:
    """0."""
    return problem.field.zeros(problem.parameters)


def by_the_judge(problem: Problem) -> Sequence[Finding]:
    """k3 of the response is REINFORCE for the reward π_ref/π(W), held fixed: a gradient by the judge."""
    made = referenced(problem)
    paths, ends = Paths(made), made.field.zeros(made.probs.shape)
    ends[paths.found.last] = paths.chance(reference(made)) / paths.chance(made.probs)
    gap = expectation(made, WHOLE) - gradient(paid(made, ends))
    return [zero("k3 of the response: E ĝ = ∇E[π_ref/π(W)], the ratio held fixed", gap)]


TOKEN, OVER_LENGTH = row(kl.k3_loss), row(kl.k3_loss, MEAN)
WHOLE, K1 = row(kl.k3_sequence_loss), row(kl.k1_loss)


def example() -> Sequence[Finding]:
    """The gradients differ, in direction too, and 1/L turns the one of prefixes."""
    out = []
    for problem in (zoo.referenced(), referenced(zoo.shared())):
        once, whole, short = (expectation(problem, each) for each in (TOKEN, WHOLE, OVER_LENGTH))
        out.append(nonzero(f"prefixes that stand still or move, {problem.name}", turned(once, whole)))
        out.append(nonzero(f"1/L turns the gradient of the forward KL, {problem.name}", turned(short, once)))
    return out


def fixed_length(problem: Problem) -> Sequence[Finding]:
    """Where all lengths are T, 1/L is the constant 1/T."""
    made = referenced(problem)
    if made.end_token is not None:
        return []
    return [
        zero(
            "fixed length: E ĝ = −(1/T) Σ ρ ∇KL(π_ref‖π)", made.horizon * expectation(made, OVER_LENGTH) + forward(made)
        )
    ]


CLAIM = Claim(
    label="claim:k3-forward-kl",
    statement="k3 in the loss: E ĝ = −β Σ_s ρ_π(s) ∇KL(π_ref‖π)(s), the forward KL at prefixes that stand still, "
    "with 1/L β Σ_s ρ_π(s) Σ_a E[1/L | s, a] (π_ref − π)(a|s) ∇log π(a|s); k3 of the response: −β ∇KL(π_ref‖π) of "
    "responses; k1 in the loss: 0; of responses of μ they are −β ∇E_μ of Σ k3, of k3(W) and of log π(W)",
    source="arXiv 2506.09477 and 2510.01555 for tokens on-policy; the rest is ours; ledger 25",
    hypotheses=("π and π_ref give every token a positive probability", "the loss is differentiated, the sample is not"),
    check=both(
        climbs(TOKEN, forward),
        climbs(OVER_LENGTH, shortened),
        fixed_length,
        climbs(WHOLE, whole_forward),
        by_the_judge,
        climbs(K1, nothing),
        climbs(TOKEN, in_mu, off_policy=True),
        climbs(WHOLE, whole_in_mu, off_policy=True),
        climbs(K1, away_from_mu, off_policy=True),
    ),
    example=example,
    mutants={
        "k3 of tokens is that of responses": climbs(TOKEN, whole_forward),
        "k3 of the response is that of tokens": climbs(WHOLE, forward),
        "the forward KL whoever generates": climbs(TOKEN, forward, off_policy=True),
        "1/L changes nothing": climbs(OVER_LENGTH, forward),
        "k1 in the loss gives 0 whoever generates": climbs(K1, nothing, off_policy=True),
    },
    needs=("lem:baseline",),
    degree=lambda horizon: 128,  # 1/π of every edge of the tree is on the common denominator: at most 60 of them
)
