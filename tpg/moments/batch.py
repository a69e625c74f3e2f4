"""Exact moments of rows whose credits read the groups of all prompts: whole batches instead of single groups.

Groups of different prompts are drawn independently, but their gradients ĝ_x are coupled.  With N_k responses of class k
(a prompt's responses that look the same to peers), each of credit A_k, and q_k, m_k, n_k as in theory.md §4,
    tr Cov(ĝ_x, ĝ_y) = Σ_{k∈x, l∈y} (Cov(N_k A_k, N_l A_l) − [k=l] E[N_k A_k²]) / (q_k q_l) · ⟨m_k, m_l⟩
                       + [x=y] Σ_{k∈x} E[N_k A_k²] / q_k · n_k.
The representatives are the products of the compositions of all prompts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from tpg.errors import EstimatorError, TooLarge
from tpg.estimators.estimator import Estimator
from tpg.estimators.parts import peers_of, per_token
from tpg.moments import coupling
from tpg.moments.brute import BLOCK, token_scores
from tpg.moments.coupling import SPOT_CHECKS, Coupling
from tpg.moments.paths import Paths
from tpg.moments.result import Moments
from tpg.moments.sweep import Sweep
from tpg.numbers import Array
from tpg.problem.problem import Problem, Progress
from tpg.rollouts import MAX_ENTRIES, Responses, Rollouts, per_prompt, responses

# Brute force


def brute_force_batch(
    problem: Problem,
    estimator: Estimator,
    group_size: int,
    covariance: bool = False,
    progress: Progress | None = None,
) -> Moments:
    """The reference: every batch with its exact probability.  Cost: the product over prompts of responses^G."""
    _check_kind(estimator)
    singles, prompts, size = responses(problem, estimator.given), problem.prompts, problem.parameters
    counts = np.bincount(singles.prompt, minlength=prompts)
    many = math.prod(int(n) ** group_size for n in counts)
    cells = float(many) * prompts * group_size * problem.horizon
    TooLarge.check(f"{problem.name}: every batch of {prompts} groups of {group_size}", cells, MAX_ENTRIES, "sample")
    first, between = problem.field.zeros((prompts, size)), problem.field.zeros((prompts, prompts))
    whole = problem.field.zeros((size, size) if covariance else (0, 0))
    scores, step = token_scores(singles), max(1, BLOCK // (prompts * max(prompts, group_size) * size))
    for start in range(0, many, step):
        members = _batch(singles, counts, np.arange(start, min(start + step, many)), group_size)
        credits = estimator(singles.group(members, estimator.needs))
        chance = np.multiply.reduce(singles.probability[members].reshape(len(members), -1), axis=1)
        ghat = _estimates(credits, scores, members)
        weighed = chance[:, None, None] * ghat
        first = first + weighed.sum(0)
        between = between + (weighed[:, :, None] * ghat[:, None]).sum((0, 3))
        if covariance:
            whole = whole + _mixed(problem, weighed).T @ _mixed(problem, ghat)
        if progress is not None:
            progress(min(start + step, many), many)
    mean = first if problem.features is not None else first.sum(0).reshape(problem.probs.shape)
    middle = _mixed(problem, first[None])[0]
    full = whole - np.multiply.outer(middle, middle) if covariance else None
    between = between - (first[:, None] * first[None]).sum(-1)
    return Moments(problem, group_size, mean, np.diagonal(between), full, between)


def _mixed(problem: Problem, ghat: Array) -> Array:
    """Σ_x weight(x) ĝ_x [n, D] of ``ghat`` [n, P, D]."""
    return np.asarray((problem.weights[:, None] * ghat).sum(1))


def _batch(singles: Responses, counts: Array, number: Array, group_size: int) -> Array:
    """Batches by ``number`` [n] as indices of responses [n, P, G]: a number is read as digits of mixed radix."""
    out = np.empty((len(number), len(counts), group_size), dtype=np.int64)
    for x, count in enumerate(counts.tolist()):
        members = np.flatnonzero(singles.prompt == x)
        for i in range(group_size):
            number, digit = np.divmod(number, count)
            out[:, x, i] = members[digit]
    return out


def _estimates(credits: Array, scores: Array, members: Array) -> Array:
    """ĝ_x [n, P, D] of batches ``members`` [n, P, G]."""
    out: Any = 0
    for i in range(members.shape[2]):
        for t in range(credits.shape[3]):
            out = out + credits[:, :, i, t, None] * scores[members[:, :, i], t]
    return np.asarray(out)


def _check_kind(estimator: Estimator) -> None:
    if estimator.keep is not None:
        raise EstimatorError(f"{estimator.name}: groups of a batch cannot be drawn again one by one: drop the filter")


# Class collapse


def collapse_batch(
    problem: Problem,
    estimator: Estimator,
    group_size: int,
    covariance: bool = False,
    progress: Progress | None = None,
) -> Moments:
    """Mean, variances and covariances of the ĝ_x, equal to :func:`brute_force_batch`."""
    _check_kind(estimator)
    if not by_class(estimator):
        raise EstimatorError(f"{estimator.name}: peers act on single tokens, classes cannot tell: use brute force")
    sweep = estimator.sweepable and len(estimator.terms) == 1 and problem.tabular and not covariance
    classes = Sweep(problem, estimator, group_size) if sweep else Paths(problem, estimator, group_size)
    mean, same, spread = _couple(problem, estimator, classes, group_size, progress)
    prompts = range(problem.prompts)
    expected = classes.mean(mean)  # a sweep works out ``square`` and ``gram`` on the way
    couplings = [Coupling(mean[x], same[x], spread[x, :, x]) for x in prompts]
    between = problem.field.zeros((problem.prompts, problem.prompts))
    for x, c in enumerate(couplings):
        between[x, x] = (c.square * classes.square[x].reshape(c.square.shape)).sum()
        between[x, x] = between[x, x] + (c.spread * classes.gram[x]).sum()
    full = None
    if isinstance(classes, Paths) and (covariance or not problem.tabular):
        means = [_means(problem, classes, x) for x in prompts]
        full = classes.covariance(couplings) if covariance else None
        for x, y in ((x, y) for x in prompts for y in prompts if x != y):
            between[x, y] = (spread[x, :, y] * (means[x] @ means[y].T)).sum()  # 0 for tabular policies
            if full is not None:
                full = full + problem.weights[x] * problem.weights[y] * (means[x].T @ spread[x, :, y] @ means[y])
    return Moments(problem, group_size, expected, np.diagonal(between), full, between)


def by_class(estimator: Estimator) -> bool:
    """The groups of a batch meet only through response-level factors."""
    coupled = [part for part in estimator.parts if peers_of(part)]
    return not any(per_token(part) or part in (estimator.ratio, estimator.penalty) for part in coupled)


def batch_bound(problem: Problem, estimator: Estimator, group_size: int, along: Array) -> float:
    """max |⟨ĝ, v⟩| as :func:`tpg.moments.bound.credit_bound` bounds it, with credits run on whole batches."""
    paths = Paths(problem, estimator, group_size)
    singles = paths.singles
    shadow = np.abs((paths.weight * np.where(singles.mask, along[singles.node, singles.token], 0)).sum(2))  # [F, R]
    largest = np.max([np.abs(b.credit).max((0, 3)) for b in _batches(problem, estimator, paths, group_size)], axis=0)
    own = np.stack([shadow[:, singles.prompt == x].max(1) for x in range(problem.prompts)])  # [P, F]
    return float((problem.weights * group_size * (largest * own).sum(1)).sum())


class _Block(NamedTuple):
    """Representative batches: members, and what there is of each class."""

    chance: Array  # [n]
    member: Array  # [n, P, G] class
    counts: Array  # [n, P, K]
    credit: Array  # [n, P, F, K] of one member
    done: int
    many: int


def _batches(problem: Problem, estimator: Estimator, classes: Sweep | Paths, group_size: int) -> Iterator[_Block]:
    """One representative per product of compositions, in blocks."""
    kinds = [np.flatnonzero(mass != 0) for mass in classes.mass]
    many = math.prod(math.comb(len(k) + group_size - 1, group_size) for k in kinds)
    width = max(sum(len(k) for k in kinds), problem.prompts * group_size)
    label = f"groups of {group_size} from {' × '.join(str(len(k)) for k in kinds)} classes of responses"
    TooLarge.check(label, float(many) * width, coupling.MAX_CELLS, "lower the group size")
    counts = [_compositions(k, classes.classes, group_size) for k in kinds]
    chances = [
        coupling.chances(c[:, k], mass[k], problem.field)
        for c, k, mass in zip(counts, kinds, classes.mass, strict=True)
    ]
    sizes, pairs = [len(c) for c in counts], (problem.prompts * group_size) ** 2 if problem.field.exact else 0
    step = max(1, coupling.HELD // max(width, pairs))
    for start in range(0, many, step):
        picked = np.unravel_index(np.arange(start, min(start + step, many)), sizes)
        chance = np.multiply.reduce(np.stack([c[i] for c, i in zip(chances, picked, strict=True)]), axis=0)
        members = np.stack([c[i] for c, i in zip(counts, picked, strict=True)], axis=1)
        place = np.tile(np.arange(classes.classes), len(chance) * problem.prompts)
        member = np.repeat(place, members.ravel()).reshape(len(chance), problem.prompts, group_size)
        credit = _credits(problem, estimator, classes.fields, member, members)
        yield _Block(chance, member, members, credit, min(start + step, many), many)


def _compositions(kinds: Array, classes: int, size: int) -> Array:
    """[n, K] every way to split ``size`` responses over the classes ``kinds``."""
    few = np.concatenate(list(coupling.compositions(len(kinds), size)))
    out = np.zeros((len(few), classes), dtype=np.int64)
    out[:, kinds] = few
    return out


def _credits(problem: Problem, estimator: Estimator, fields: dict[str, Array], member: Array, counts: Array) -> Array:
    """[n, P, F, K] coupled credit of a member of each class of each prompt, 0 where absent."""
    group_size = member.shape[2]
    products = _products(problem, estimator, fields, member)
    order = np.arange(group_size)[::-1]
    for product, moved in zip(
        products, _products(problem, estimator, fields, member[:SPOT_CHECKS, :, order]), strict=True
    ):
        gap = moved - product[:SPOT_CHECKS, :, order]
        if (gap != 0).any() if gap.dtype == object else np.abs(gap).max() > 1e-9 * (1 + np.abs(moved).max()):
            raise EstimatorError(f"{estimator.name} depends on the order of the group: use brute_force")
    first = np.minimum(np.cumsum(counts, axis=2) - counts, group_size - 1)
    picked = np.stack([np.take_along_axis(product, first, axis=2) for product in products], axis=2)
    return np.where(counts[:, :, None, :] > 0, picked, problem.field.scalar(0))


def _products(problem: Problem, estimator: Estimator, fields: dict[str, Array], member: Array) -> list[Array]:
    """The coupled factors [n, P, G], term by term, of batches whose responses are of classes ``member``."""
    size, prompts = member.shape[2], np.arange(problem.prompts)[:, None]
    seen: dict[str, Any] = {name: values[prompts, member] for name, values in fields.items()}
    seen |= {n: a[:, None] for n, a in per_prompt(problem, estimator.needs, estimator.given, size).items()}
    rollouts = Rollouts(size, problem.horizon, problem.discount, **seen)
    return [np.broadcast_to(term.coupled(rollouts), member.shape) for term in estimator.terms]


def _couple(
    problem: Problem, estimator: Estimator, classes: Sweep | Paths, group_size: int, progress: Progress | None
) -> tuple[Array, Array, Array]:
    """α [P, F, K], β [P, F, F, K] and γ − ααᵀ [P, F·K, P, F·K] over whole batches."""
    field, mass = problem.field, classes.mass
    prompts, size, terms = problem.prompts, classes.classes, len(estimator.terms)
    width = prompts * terms * size
    same, seen = field.zeros((prompts, terms, terms, size)), coupling._Spread(field, width)
    second = field.zeros((width, width))
    for block in _batches(problem, estimator, classes, group_size):
        counted = block.counts[:, :, None, :] * block.credit
        weighed = block.chance[:, None, None, None] * counted
        same = same + (weighed[:, :, :, None] * block.credit[:, :, None]).sum(0)
        if field.exact:  # few of the classes are there: pairs of members, and nothing to lose by not centring
            _add_pairs(second, block)
            seen.mean = seen.mean + weighed.sum(0).ravel()
        else:
            seen.add(block.chance, counted.reshape(len(counted), -1))
        if progress is not None and block.done < block.many:
            progress(block.done, block.many)
    scatter = second - np.multiply.outer(seen.mean, seen.mean) if field.exact else seen.scatter
    safe = np.where(mass != 0, mass, field.scalar(1))
    both = np.tile(safe, terms).ravel()  # by prompt, term and class
    spread = scatter.reshape(prompts, terms * size, prompts, terms * size)
    for x in range(prompts):
        spread[x, :, x] = spread[x, :, x] - coupling._diagonal(same[x])
    spread = (spread.reshape(len(both), -1) / both[:, None] / both).reshape(spread.shape)
    mean = seen.mean.reshape(prompts, terms, size) / safe[:, None]
    return mean, same / safe[:, None, None], spread


def _add_pairs(second: Array, block: _Block) -> None:
    """E[v vᵀ] of v = members · credit by class, added up over the pairs of members of each batch."""
    rows, prompts, terms, size = block.credit.shape
    base = np.arange(prompts * terms).reshape(prompts, terms, 1) * size
    place = (base + block.member[:, :, None, :]).reshape(rows, -1)
    credit = np.take_along_axis(block.credit, block.member[:, :, None, :], axis=3).reshape(rows, -1)
    weighed = block.chance[:, None] * credit
    np.add.at(second, (place[:, :, None], place[:, None, :]), weighed[:, :, None] * credit[:, None, :])


def _means(problem: Problem, paths: Paths, prompt: int) -> Array:
    """m [F·K, D] of the classes of one prompt, over all parameters."""
    if problem.features is not None:
        return paths._parts[:, prompt]
    mine = (problem.tree.prompt == prompt)[:, None]
    return np.where(mine, paths._parts, problem.field.scalar(0)).reshape(len(paths._parts), -1)
