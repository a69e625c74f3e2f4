"""prop:sigma: with two-valued rewards, dividing by the group's σ is a learning rate of its own for every prompt."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import comb
from typing import Any

import numpy as np

from paper_checks.common import PAPER, both, row
from paper_checks.laws import mean_reward, rated, two_valued
from paper_checks.variances import arbitrary
from tpg.claims import Claim, Finding, zero
from tpg.claims.record import Check
from tpg.estimators.parts import peers
from tpg.moments import moments
from tpg.numbers import Array
from tpg.problem.problem import Problem


@peers("reward")
def scaled(reward: Array, *, inverse: Array) -> Array:
    """(R_i − mean) · z(k), k successes of G: ``inverse`` = z(0 … G), the place of 1/σ, 0 where there is no spread."""
    size = reward.shape[-1]
    centred = (size * reward - reward.sum(-1, keepdims=True)) / size
    return centred * inverse[(reward != 0).sum(-1, keepdims=True)]


def scales(problem: Problem, size: int, symmetric: bool) -> Array:
    """z(0 … G), arbitrary but for z(k) = z(G−k): σ is the same whether k succeed or k fail."""
    z = arbitrary(problem, (size + 1,))
    z[0] = z[-1] = problem.field.scalar(0)
    return np.array([z[min(k, size - k)] for k in range(size + 1)]) if symmetric else z


def mean_step(problem: Problem, z: Array) -> Array:
    """[D] E ĝ of (R − mean) · z(k), by counting classes."""
    return problem.combine(moments(problem, row(partial(scaled, inverse=z)), len(z) - 1).mean)


def rate_of(z: Array, p: Any) -> Any:
    """h'_G(p) = Σ_{k=1}^{G−1} C(G, k) p^{k−1} (1−p)^{G−k−1} k(G−k)/G² · z(k)."""
    size = len(z) - 1
    chance = [comb(size, k) * p ** (k - 1) * (1 - p) ** (size - k - 1) for k in range(1, size)]
    return sum((c * k * (size - k) * z[k] for k, c in enumerate(chance, 1)), p * 0) / size**2


def per_prompt(size: int, rate: Any = rate_of) -> Check:
    """E ĝ = Σ_x weight(x) h'_G(p_x) ∇p_x, whatever the scale."""

    def check(problem: Problem) -> Sequence[Finding]:
        tied, z = two_valued(problem), scales(problem, size, False)
        wanted = rated(tied, np.array([rate(z, p) for p in mean_reward(tied)]))
        return [zero(f"E ĝ = h'_G(p) ∇p for any scale σ(k), G = {size}", mean_step(tied, z) - wanted)]

    return check


def first_alone(z: Array, p: Any) -> Any:
    """Mutant: the first count's scale for all counts."""
    return rate_of(np.array([z[0], *[z[1]] * (len(z) - 2), z[-1]]), p)


def of_all_peers(z: Array, p: Any) -> Any:
    """Mutant: the mean of z(S) over S ~ Bin(G, p), as if the own response were one of the peers."""
    size = len(z) - 1
    return sum((comb(size, k) * p**k * (1 - p) ** (size - k) * z[k] for k in range(size + 1)), p * 0)


CLAIM = Claim(
    label="prop:sigma",
    statement="two-valued rewards: (R − mean)/σ, σ any function of the number k of successes, has E ĝ = h'_G(p)∇p on "
    "each prompt, h'_G(p) = Σ_k C(G,k) p^{k−1} (1−p)^{G−k−1} k(G−k)/(G²σ_k): a learning rate of its own for every "
    "prompt, no turn within one",
    source=f"{PAPER}; h'_G is ours; ledger 3",
    hypotheses=("two reward values", "credits over G alone, no 1/|o|"),
    group_sizes=(2, 3, 4, 5),
    check=both(*(per_prompt(size) for size in range(2, 6))),
    mutants={
        "the first count's scale for all counts": per_prompt(4, first_alone),
        "the mean of 1/σ over groups": per_prompt(3, of_all_peers),
    },
    needs=("prop:count-rules",),
    wording="dividing by σ acts like a smaller learning rate (read: along each prompt's own gradient, two reward "
    "values)",
    as_worded=per_prompt(4),
)
