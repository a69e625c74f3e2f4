"""How the responses of a group act on each other's credits, class by class (theory.md §4).

A credit sees another response only through its class (reward, length).  Classes k of mass q_k, coupled credits A:
α_k = G E[A_1 | 1 ∈ k],  β_k = G E[A_1² | 1 ∈ k],  γ_kl = G(G−1) E[A_1 A_2 | 1 ∈ k, 2 ∈ l],  the others multinomial.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from tpg.errors import EstimatorError, TooLarge
from tpg.estimators.estimator import Estimator
from tpg.estimators.parts import apply
from tpg.numbers import Array, Field
from tpg.problem.problem import Progress
from tpg.rollouts import Rollouts

MAX_CELLS = 3 * 10**8  # compositions × classes: about a minute
HELD = 1 << 20  # numbers held at once
SPOT_CHECKS = 64  # groups per block whose order is tried


class Coupling(NamedTuple):
    """α [F, K], β [F, F, K] and γ − ααᵀ [F·K, F·K] of one prompt, for credits that are a sum of F products."""

    first: Array
    square: Array
    spread: Array


def check_size(classes: int, size: int) -> None:
    """TooLarge when groups of ``size`` from ``classes`` classes are too many to count."""
    many = math.comb(classes + size - 1, size) * max(classes, size)
    TooLarge.check(f"groups of {size} from {classes} classes of responses", many, MAX_CELLS, "lower the group size")


def compositions(classes: int, size: int) -> Iterator[Array]:
    """Every way to split ``size`` responses over ``classes`` classes, in blocks of rows [n, K]."""
    check_size(classes, size)
    width = max(classes, size)
    if classes == 1:
        yield np.array([[size]])
        return
    places = itertools.combinations(range(size + classes - 1), classes - 1)  # stars and bars
    while block := list(itertools.islice(places, max(1, HELD // width))):
        bars = np.array(block)
        first, last = np.full((len(bars), 1), -1), np.full((len(bars), 1), size + classes - 1)
        yield np.diff(np.concatenate([first, bars, last], axis=1), axis=1) - 1


def chances(counts: Array, mass: Array, field: Field) -> Array:
    """[rows] multinomial probability of ``counts`` [rows, K] under ``mass`` [K], which sums to 1."""
    if len(mass) == 1:
        return field.ones(len(counts))
    if not field.exact:
        return _multinomial(counts, mass / mass.sum())
    factorial = [math.factorial(n) for n in range(int(counts.sum(1).max()) + 1)]
    ways = [factorial[sum(row)] // math.prod(factorial[n] for n in row) for row in counts.tolist()]
    power = np.multiply.reduce(np.stack([_power(mass[k], counts[:, k]) for k in range(len(mass))]), axis=0)
    return np.asarray(field.array(ways) * power)


def _power(base: Any, exponents: Array) -> Array:
    table = [base * 0 + 1]
    for _ in range(int(exponents.max())):
        table.append(table[-1] * base)
    return np.array(table, dtype=object)[exponents]


def _multinomial(counts: Array, mass: Array) -> Array:
    """n!/Πn_k! Πq_k^{n_k} from Stirling's series (Loader 2000): relative error near 10⁻¹⁵.

    log P = s(n) − Σ s(n_k) + ½ log 2πn − Σ ½ log 2πn_k − Σ n_k log(n_k / n q_k), the sums over n_k > 0.
    """
    size, there = counts[0].sum(), counts > 0
    expected = size * mass
    safe = np.where(there, counts, 1)
    series = np.array([_stirling_error(n) for n in range(1, size + 1)])
    ratio = np.where(there, (counts - expected) / expected, 0)
    each = np.where(there, series[safe - 1] + 0.5 * np.log(2 * np.pi * safe) + counts * np.log1p(ratio), 0)
    return np.asarray(np.exp(series[size - 1] + 0.5 * np.log(2 * np.pi * size) - each.sum(1)))


def _stirling_error(n: int) -> float:
    """log n! − (n log n − n + ½ log 2πn)."""
    if n > 15:
        return 1 / (12 * n) - 1 / (360 * n**3) + 1 / (1260 * n**5) - 1 / (1680 * n**7)
    return math.log(math.factorial(n)) - (n * math.log(n) - n + 0.5 * math.log(2 * math.pi * n))


def couple(
    estimator: Estimator,
    fields: Mapping[str, Array],
    mass: Array,
    settings: Mapping[str, Any],
    field: Field,
    progress: Progress | None = None,
) -> Coupling:
    """Run the coupled factors of ``estimator`` on one representative group per composition of its classes.

    ``fields``: the class values [K] of every field they read; ``mass`` [K], none 0; ``settings``: group_size, horizon,
    discount and the prompt's own fields.
    """
    size, terms, classes = settings["group_size"], len(estimator.terms), len(mass)
    same, seen = field.zeros((terms, terms, classes)), _Spread(field, terms * classes)
    kept = field.scalar(0)
    done, many = 0, math.comb(classes + size - 1, size)
    for counts in compositions(classes, size):
        done += len(counts)
        if progress is not None and many > len(counts):
            progress(done, many)
        chance = chances(counts, mass, field)
        credit, keep = credits_by_class(estimator, fields, counts, settings, field)
        chance = np.where(keep, chance, field.scalar(0))
        kept = kept + chance.sum()
        weighed = (chance[:, None] * counts)[:, None, :] * credit
        same += (weighed[:, :, None, :] * credit[:, None, :, :]).sum(0)
        seen.add(chance, (counts[:, None, :] * credit).reshape(len(counts), -1))
    if estimator.keep is not None:  # those that are not kept are drawn again
        check_kept(kept)
        same = same / kept
    both = np.tile(mass, terms)
    scatter = seen.scatter if estimator.keep is None else seen.scatter / kept
    spread = (scatter - _diagonal(same)) / both[:, None] / both[None, :]
    return Coupling(seen.mean.reshape(terms, classes) / mass, same / mass, spread)


def check_kept(share: Any) -> None:
    """EstimatorError when no group at all is kept."""
    if share == 0:
        raise EstimatorError("no group of this size is ever kept: give another problem or a larger group")


def couple_leave_one_out(scale: Any, size: int, variance: Any, field: Field) -> Coupling:
    """α, β, γ − ααᵀ of A_i = κ (R_i − mean_{j≠i} R_j) in the functions 1, r, r² of the own reward r = R − E R.

    A U-statistic: with S the sum of the other r, E S = 0 and E S² = (G−1) Var R,
    E[A_1² | r] = κ² (r² + Var R/(G−1)) and, with d = 1/(G−1),
    E[A_1 A_2 | r_1, r_2] = κ² ((1 + d²) r_1 r_2 − d (r_1² + r_2²) + d² (G−2) Var R).
    Cost independent of G and of how many rewards there are.
    """
    one, zero, others = field.scalar(1), field.scalar(0), size - 1
    first = scale * np.array([zero, size * one, zero])
    square = scale * scale * size * np.array([variance / others, zero, one])
    flat, bent = size * (size - 2) * variance / others, -size * one
    spread = np.array([[flat, zero, bent], [zero, size * one / others - size, zero], [bent, zero, zero]])
    return Coupling(first[None], square[None, None], scale * scale * spread)


def kept_groups(estimator: Estimator, rollouts: Rollouts, groups: int) -> Array:
    """[groups] bool: which groups the estimator uses."""
    if estimator.keep is None:
        return np.ones(groups, dtype=bool)
    return np.broadcast_to(apply(estimator.keep, rollouts)[..., 0], (groups,))


class _Spread:
    """Mean and scatter Σ p (x − mean)(x − mean)ᵀ of weighted rows, block by block (Chan, Golub, LeVeque 1983).

    Centred sums keep the digits that E[xxᵀ] − E[x]E[x]ᵀ loses in large groups.
    """

    def __init__(self, field: Field, size: int) -> None:
        self.weight, self.mean, self.scatter = field.scalar(0), field.zeros(size), field.zeros((size, size))

    def add(self, weights: Array, rows: Array) -> None:
        """Take in ``rows`` [n, size] with ``weights`` [n]."""
        weight = weights.sum()
        if weight == 0:
            return
        mean = (weights[:, None] * rows).sum(0) / weight
        off, step = rows - mean, mean - self.mean
        share = weight / (self.weight + weight)
        self.scatter = self.scatter + (weights[:, None] * off).T @ off + self.weight * share * np.outer(step, step)
        self.mean, self.weight = self.mean + share * step, self.weight + weight


def _diagonal(same: Array) -> Array:
    """[F, F, K] as the matrix [F·K, F·K] that joins each class with itself only."""
    terms, _, classes = same.shape
    out = np.zeros((terms, classes, terms, classes), dtype=same.dtype)
    k = np.arange(classes)
    out[:, k, :, k] = same.transpose(2, 0, 1)
    return out.reshape(terms * classes, terms * classes)


def credits_by_class(
    estimator: Estimator, fields: Mapping[str, Array], counts: Array, settings: Mapping[str, Any], field: Field
) -> tuple[Array, Array]:
    """[rows, F, K] coupled credit of a member of each class in each composition, 0 where absent; [rows] it is kept."""
    size = int(counts[0].sum())
    member = np.repeat(np.tile(np.arange(counts.shape[1]), len(counts)), counts.ravel()).reshape(len(counts), size)
    seen: dict[str, Any] = {name: values[member] for name, values in fields.items()}
    rollouts = Rollouts(**settings, **seen)
    first = np.minimum(np.cumsum(counts, axis=1) - counts, size - 1)  # where each class starts in its row
    products = [np.broadcast_to(term.coupled(rollouts), member.shape) for term in estimator.terms]
    _check_symmetric(estimator, fields, member[:SPOT_CHECKS], settings, products)
    picked = np.stack([np.take_along_axis(product, first, axis=1) for product in products], axis=1)
    return np.where(counts[:, None, :] > 0, picked, field.scalar(0)), kept_groups(estimator, rollouts, len(counts))


def _check_symmetric(
    estimator: Estimator, fields: Mapping[str, Array], member: Array, settings: Mapping[str, Any], products: list[Array]
) -> None:
    """Classes forget the order of a group: credits that do not must not be counted by class."""
    for order in (np.arange(member.shape[1])[::-1], np.roll(np.arange(member.shape[1]), 1)):
        seen: dict[str, Any] = {name: values[member[:, order]] for name, values in fields.items()}
        rollouts = Rollouts(**settings, **seen)
        for term, product in zip(estimator.terms, products, strict=True):
            moved = np.broadcast_to(term.coupled(rollouts), member.shape)
            gap = moved - product[: len(member), order]
            if (gap != 0).any() if gap.dtype == object else np.abs(gap).max() > 1e-9 * (1 + np.abs(moved).max()):
                raise EstimatorError(f"{estimator.name} depends on the order of the group: use brute_force")
