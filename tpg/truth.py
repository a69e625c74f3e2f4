"""The judge: exact J and g = ∇J by independent routes.  Nothing here knows what an estimator is.

Routes to g, each per prompt in the layout of ``Problem.pull``:

- :func:`by_recursion`    lem:exact-gradient, backward recursion of Q on token rewards, γ^{t−1} ρ(s) π(a|s) Q(s,a)
- :func:`by_enumeration`  ∇J = Σ_W P(W) RM(W) ∇log P(W), every response walked on its own
- :func:`by_dual_numbers` forward-mode differentiation of J = Σ_W P(W) RM(W): no log-derivative, no recursion of values
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from tpg.errors import TooLarge
from tpg.numbers import DUAL, Array, dual, slopes
from tpg.problem.problem import Problem
from tpg.rollouts import responses

MAX_DUAL = 10**7


def objective(problem: Problem) -> Any:
    """J = Σ_x weight(x) E[RM(W) | x], in rewards."""
    return (problem.weights * problem.values[1][: problem.prompts]).sum()


def q_values(problem: Problem) -> Array:
    """Q(s, a) [N, V] = r(s, a) + γ V(s a): expected discounted reward from this token on (reward-to-go units)."""
    out, below = problem.rewards.copy(), problem.rewards[:0, 0]
    for t in reversed(range(problem.horizon)):
        rows = problem.tree.at(t)
        nothing = problem.field.zeros(out[rows].shape)
        out[rows] = out[rows] + problem.discount * problem.tree.lift(below, t, nothing)
        below = (problem.probs[rows] * out[rows]).sum(-1)
    return out


def by_recursion(problem: Problem) -> Array:
    """g = E Σ_t γ^{t−1} Q(W_{0,t−1}, w_t) S_t."""
    weight = problem.powers[problem.tree.depth] * problem.reach  # γ^{t−1} ρ(s)
    return problem.pull(weight[:, None] * problem.probs * q_values(problem))


def by_enumeration(problem: Problem) -> Array:
    """g = Σ_W P(W) RM(W) Σ_t S_t, the sum taken response by response under the current policy."""
    paths = responses(replace(problem, behaviour=None))
    reward = (paths.token_reward * problem.powers[: problem.horizon]).sum(-1)
    table = problem.field.zeros(problem.probs.shape)
    rows, t = np.nonzero(paths.mask)
    np.add.at(table, (paths.node[rows, t], paths.token[rows, t]), (paths.probability * reward)[rows])
    return problem.pull(table)


def by_dual_numbers(problem: Problem) -> Array:
    """g by dual numbers: J(θ + εv) for every parameter direction v; dπ = π · (change of logit − its mean under π).

    Rewards and reach are summed forward, node by node: J = Σ_{s,a} ρ(s) π(a|s) γ^{t−1} r(s,a).
    """
    directions = _directions(problem)
    TooLarge.check("dual numbers", directions.size, MAX_DUAL, "use by_recursion")
    probs, tree = problem.probs, problem.tree
    mean = (probs[:, :, None] * directions).sum(1, keepdims=True)
    slope = probs[:, :, None] * (directions - mean)  # [N, V, D]: softmax differentiated in its logits
    out = problem.field.zeros((tree.prompts, directions.shape[2]))
    reach, d_reach = problem.field.ones(tree.prompts), out.copy()
    for t in range(tree.depths):
        rows = tree.at(t)
        joint = reach[:, None] * probs[rows]
        d_joint = d_reach[:, None, :] * probs[rows][:, :, None] + reach[:, None, None] * slope[rows]
        paid = (problem.powers[t] * problem.rewards[rows][:, :, None] * d_joint).sum(1)
        np.add.at(out, tree.prompt[rows], paid)
        leads = tree.inner[rows]
        reach, d_reach = joint[leads], d_joint[leads]
    if problem.features is not None:
        return out
    return out.sum(0).reshape(probs.shape)  # a prompt's J moves only with its own logits


def jacobian(problem: Problem, field: Callable[[Problem], Array]) -> Array:
    """[D, D] exact ∂F_i/∂θ_j of a vector field F = ``field``, a function of the policy; rational problems, on-policy.

    F is the gradient of some objective exactly when its Jacobian is symmetric everywhere (zero curl).
    """
    directions = _directions(problem)
    lifted = replace(problem.to(DUAL), behaviour=None)
    columns = []
    for j in range(problem.parameters):
        along = directions[:, :, j]
        slope = problem.probs * (along - (problem.probs * along).sum(1, keepdims=True))
        moved = replace(lifted, probs=dual(problem.probs, slope))
        columns.append(slopes(moved.combine(field(moved))))
    return np.stack(columns, axis=1)


def curl(problem: Problem, field: Callable[[Problem], Array]) -> Array:
    """[D, D] J − Jᵀ of a vector field: zero at every policy exactly when the field is a gradient."""
    slope = jacobian(problem, field)
    return np.asarray(slope - slope.T)


def _directions(problem: Problem) -> Array:
    """[N, V, D] change of every logit along every parameter."""
    if problem.features is not None:
        return problem.features
    table = problem.field.zeros((problem.parameters, problem.parameters))
    np.fill_diagonal(table, problem.field.scalar(1))
    return table.reshape(*problem.probs.shape, problem.parameters)


gradient = by_recursion
ROUTES = {"recursion": by_recursion, "enumeration": by_enumeration, "dual numbers": by_dual_numbers}
