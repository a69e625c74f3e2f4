"""How large ⟨ĝ, v⟩ can ever get: the range that a betting test needs to be told."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tpg.errors import EstimatorError
from tpg.estimators.estimator import Estimator
from tpg.moments.anchored import Anchored, paths_of
from tpg.moments.coupling import compositions, credits_by_class
from tpg.moments.paths import Paths, settings_of
from tpg.numbers import Array
from tpg.problem.problem import Problem


def credit_bound(problem: Problem, estimator: Estimator, group_size: int, along: Array) -> float:
    """max |⟨ĝ, v⟩| ≤ Σ_x weight(x) · G · max |coupled credit| · max_W |Σ_t w_t ⟨S_t, v⟩|.

    ``along`` [N, V] holds ⟨score, v⟩.  The coupled factor is run on every composition of the classes, the own factor
    on every response, with the anchors and the continuations that make it largest.
    """
    if not estimator.collapsible:
        raise EstimatorError(
            f"{estimator.name}: the range of its credits is not known, as they are not counted by class: drop --samples"
        )
    paths = paths_of(problem, estimator, group_size)
    singles, shadow, total = paths.singles, _shadows(paths, along), 0.0
    for prompt, weight in enumerate(problem.weights):
        mine = singles.prompt == prompt
        here = np.unique(paths.code[mine])
        fields = {name: values[prompt, here] for name, values in paths.fields.items()}
        settings = settings_of(problem, estimator, group_size, prompt)
        blocks = compositions(len(here), group_size)
        sizes = [np.abs(credits_by_class(estimator, fields, c, settings, problem.field)[0]).max((0, 2)) for c in blocks]
        total += float(weight) * group_size * float(np.max(sizes, axis=0) @ shadow[:, mine].max(1))
    return total


def _shadows(paths: Paths, along: Array) -> Array:
    """[F, R] the largest |Σ_t w_t ⟨S_t, v⟩| of each response, whatever its anchors and continuations."""
    singles = paths.singles
    shade = np.where(singles.mask, along[singles.node, singles.token], 0)  # ⟨S_t, v⟩ [R, T]
    room = _room(paths)
    if isinstance(paths, Anchored):
        out = np.zeros((1, len(shade)))
        for rows, values, law in paths.by_length():
            for pattern, weights in enumerate(law.both):
                steps = (shade[rows] @ a[pattern] for a in law.fields.values())  # [r, T+1] per unit of each value
                moved = sum((_moved(step, room[:, rows]).sum(2) for step in steps), np.zeros((2, len(rows))))
                here = ((values @ weights.T) * shade[rows]).sum(1)
                out[0, rows] = np.maximum(out[0, rows], np.abs(here + moved).max(0))
        return out
    whole = (paths.weight * shade).sum(2)
    moved = np.zeros((2, *whole.shape))
    for found in paths.slopes() if paths.estimator.continuations is not None else ():
        step = (found.slope * shade[:, None]).sum(2).T
        moved += _moved(step, room[:, :, found.place[1]])
    return np.abs(whole + moved).max(0)


def _moved(step: Array, room: Array) -> Array:
    """The least and the most that values between M + ``room``[0] and M + ``room``[1] add at a slope of ``step``."""
    both = step * room.reshape(2, *[1] * (step.ndim - room.ndim + 1), *room.shape[1:])
    return np.stack([both.min(0), both.max(0)])


def _room(paths: Paths) -> Array:
    """[2, R, T+1] how far continuations can fall below M_t and rise above it; 0 where they are exact."""
    problem, singles = paths.problem, paths.singles
    out = np.zeros((2, len(singles.node), problem.horizon + 1))
    if paths.estimator.continuations is not None:
        for mine, best in zip(out, (np.min, np.max), strict=True):
            mine[:, :-1] = np.where(singles.mask, (_extreme(problem, best) - problem.values[1])[singles.node], 0)
    return out


def _extreme(problem: Problem, best: Callable[..., Array]) -> Array:
    """[N] the smallest or the largest reward that the current policy can still get from each prefix."""
    out, below = np.zeros(problem.tree.nodes), problem.totals[:0, 0]
    nothing = np.inf if best is np.min else -np.inf
    for t in reversed(range(problem.horizon)):
        rows = problem.tree.at(t)
        after = problem.tree.lift(below, t, problem.totals[rows])
        below = out[rows] = best(np.where(problem.probs[rows] != 0, after, nothing), axis=1)
    return out
