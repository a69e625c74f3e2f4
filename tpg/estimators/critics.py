"""Actor-critic advantages, and critics that are exact, limited or wrong.

A critic is a function Problem → [N]: its guess of M(s), the expected response reward given the prefix, in rewards.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tpg.numbers import Array, parse
from tpg.problem.problem import Problem


def gae(reward: Array, length: Array, mask: Array, value: Array, *, lam: Any = 0.95) -> Array:
    """GAE(λ) (Schulman et al., arXiv 1506.02438), γ = 1: A_t = Σ_k λ^k δ_{t+k}, δ_t = r_t + V_{t+1} − V_t.

    ZRA: r_t = RM on the last token and 0 before (verl's ``gae`` without whitening).  Unbiased for every λ when V = M,
    and for λ = 1 whatever V; else bias = (1−λ) Σ_k λ^k E[e(s_{t+k+1}) S_t], e = V − M.
    [..., G], [..., G, T], [..., G, T+1] → [..., G, T].

    >>> gae(np.array([1.0]), np.array([2]), np.ones((1, 2), bool), np.array([[0.5, 0.75, 0.0]]), lam=0)
    array([[0.25, 0.25]])
    """
    rate, last = parse(lam), np.arange(mask.shape[-1]) == length[..., None] - 1
    delta = np.where(last, reward[..., None], 0) + value[..., 1:] - value[..., :-1]
    delta = np.where(mask, delta, 0)
    out, carry = delta.copy(), delta[..., 0] * 0
    for t in reversed(range(mask.shape[-1])):
        carry = out[..., t] = delta[..., t] + carry * rate.numerator / rate.denominator
    return out


def exact_critic(problem: Problem) -> Array:
    """V(s) = M(s): the expected response reward given the prefix."""
    return problem.values[1]


def position_critic(problem: Problem) -> Array:
    """A critic of limited capacity: one number per position, the mean of M over the prefixes of that length.

    The least-squares fit of position features to Monte Carlo returns, prompts and prefixes weighted by probability.
    """
    tree = problem.tree
    weight = problem.weights[tree.prompt] * problem.sampling_reach
    total, mass = problem.field.zeros(tree.depths), problem.field.zeros(tree.depths)
    np.add.at(total, tree.depth, weight * problem.values[1])
    np.add.at(mass, tree.depth, weight)
    reached = mass != 0  # no response may be that long
    total[reached] = total[reached] / mass[reached]
    return total[tree.depth]


def wrong_critic(problem: Problem) -> Array:
    """A miscalibrated critic: V(s) = M(s)/2 + the number of tokens of the prefix."""
    return problem.values[1] / 2 + problem.tree.depth
