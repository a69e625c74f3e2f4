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

BLOCK = 1 << 18  # numbers per block


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
    """[F, R] the largest |Σ_t w_t ⟨S_t, v⟩| of each response, whatever its anchors and continuations.

    Σ_t w_t ⟨S_t, v⟩ = c + Σ_u a_u U_u, each U_u in an interval of its own: |c + Σ_u a_u middle_u| + Σ_u |a_u| half_u.
    """
    singles = paths.singles
    shade = np.where(singles.mask, along[singles.node, singles.token], 0)  # ⟨S_t, v⟩ [R, T]
    shift, half = _room(paths)
    if isinstance(paths, Anchored):
        return _over_patterns(paths, shade, shift, half)
    centre = (paths.weight * shade).sum(2)
    spread = np.zeros(centre.shape)
    for found in paths.slopes() if paths.estimator.continuations is not None else ():
        slope = (found.slope * shade[:, None]).sum(2).T
        centre = centre + slope * shift[:, found.place[1]]
        spread = spread + np.abs(slope) * half[:, found.place[1]]
    return np.asarray(np.abs(centre) + spread)


def _over_patterns(paths: Anchored, shade: Array, shift: Array, half: Array) -> Array:
    """The same [1, R] over every pattern of anchors, some rows at a time."""
    out = np.zeros((1, len(shade)))
    for rows, values, law in paths.by_length():
        middle, step = values[:, :-1] + shift[rows], max(1, BLOCK // law.both[:, 0].size)
        for i in range(0, len(rows), step):
            here, piece = rows[i : i + step], slice(i, i + step)
            size = np.tensordot(shade[here], law.both[:, :, -1], (1, 1))  # [r, n] what no value enters
            spread = np.zeros(size.shape)
            for weights in law.fields.values():
                slope = np.tensordot(shade[here], weights, (1, 1))  # [r, n, T+1]
                size = size + (slope @ middle[piece, :, None])[..., 0]
                spread = spread + (np.abs(slope) @ half[here, :, None])[..., 0]
            out[0, here] = (np.abs(size) + spread).max(1)
    return out


def _room(paths: Paths) -> tuple[Array, Array]:
    """What continuations can give: middle − M_t and half the width of their range [R, T+1]; 0 where they are exact."""
    problem, singles = paths.problem, paths.singles
    shift = np.zeros((len(singles.node), problem.horizon + 1))
    half = shift.copy()
    if paths.estimator.continuations is not None:
        low, high = (_extreme(problem, best) for best in (np.min, np.max))
        shift[:, :-1] = np.where(singles.mask, ((low + high) / 2 - problem.values[1])[singles.node], 0)
        half[:, :-1] = np.where(singles.mask, ((high - low) / 2)[singles.node], 0)
    return shift, half


def _extreme(problem: Problem, best: Callable[..., Array]) -> Array:
    """[N] the smallest or the largest reward that the current policy can still get from each prefix."""
    out, below = np.zeros(problem.tree.nodes), problem.totals[:0, 0]
    nothing = np.inf if best is np.min else -np.inf
    for t in reversed(range(problem.horizon)):
        rows = problem.tree.at(t)
        after = problem.tree.lift(below, t, problem.totals[rows])
        below = out[rows] = best(np.where(problem.probs[rows] != 0, after, nothing), axis=1)
    return out
