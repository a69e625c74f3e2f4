"""A claim: a statement with label, source and hypotheses, the check that decides it, and mutants it must refute."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from tpg.numbers import Array


@dataclass(frozen=True)
class Finding:
    """One thing that was computed: what, whether it is as claimed, and the number that shows it."""

    what: str
    ok: bool
    value: str
    numbers: int = 1  # how many were looked at; a finding about none decides nothing
    alpha: float = 0.0  # of a test by sampling: the chance that it fails although all is as claimed
    exact: bool = True  # False: floating point, which measures and proves nothing


Check = Callable[[Any], Sequence[Finding]]  # of a Problem, or of whatever the runner was told to check it on


@dataclass(frozen=True)
class Claim:
    """A statement about all problems of a kind, decided by exact computation.

    - ``check(problem)``: findings that must hold on every problem (universal part), in rationals and, if ``algebraic``,
      at random points of GF(p), which proves the identity for the shape of the problem.
    - ``example()``: findings on chosen problems (existential part: "…need not vanish", "…is biased").
    - ``beside()``: the rows as they run, in floating point; may refute, but is no part of the evidence, so that the
      statement must not speak of what is seen there alone.
    - ``mutants``: wrong versions of the check; each must fail somewhere, or the check is too weak to believe.
    - ``degree(horizon)``: bound on the degree of the identity's numerator in the free probabilities, rewards, features
      and γ (Schwartz–Zippel).
    - ``needs``: labels without which this claim does not hold.
    - ``wording``, ``as_worded``: what a publication says, where ``statement`` differs from it, and that as a check: its
      fate (confirmed, or refuted and where) is reported beside the claim's own status.
    - ``group_sizes``: every G at which ``check`` forms groups; none if it looks at single responses.
    """

    label: str
    statement: str
    source: str
    hypotheses: tuple[str, ...]
    check: Check
    mutants: dict[str, Check]
    example: Callable[[], Sequence[Finding]] | None = None
    beside: Callable[[], Sequence[Finding]] | None = None
    needs: tuple[str, ...] = ()
    discounts: tuple[str, ...] = ("9/10",)
    algebraic: bool = True
    degree: Callable[[int], int] = field(default=lambda horizon: 16 * (horizon + 2))
    wording: str = ""
    as_worded: Check | None = None
    group_sizes: tuple[int, ...] = ()


def zero(what: str, value: Array | Any) -> Finding:
    """``value`` must vanish exactly."""
    array = np.asarray(value, dtype=object).ravel()
    off = [x for x in array.tolist() if x != 0]
    shown = f"0 in {len(array)} numbers" if not off else f"{len(off)} of {len(array)} not 0: {off[0]}"
    return Finding(what, not off, shown, len(array), exact=not _rounded(array))


def nonzero(what: str, value: Array | Any) -> Finding:
    """``value`` must not vanish: some entry differs from 0."""
    found = zero(what, value)
    return replace(found, ok=not found.ok)


def close(what: str, value: Array | Any, size: float) -> Finding:
    """``value`` vanishes but for rounding: no entry above 10⁻¹¹ · ``size``, the size of the terms it is made of."""
    worst = float(np.abs(np.asarray(value, dtype=np.float64)).max(initial=0.0))
    return Finding(
        what, worst <= 1e-11 * size, f"at most {worst:.1e}, terms of size {size:.1e}", np.size(value), exact=False
    )


def apart(what: str, value: Array | Any, size: float) -> Finding:
    """``value`` does not vanish, by far more than rounding: some entry above 10⁻⁶ · ``size``."""
    worst = float(np.abs(np.asarray(value, dtype=np.float64)).max(initial=0.0))
    return Finding(what, worst > 1e-6 * size, f"{worst:.3g}, terms of size {size:.1e}", np.size(value), exact=False)


def positive(what: str, value: Any) -> Finding:
    """A number of an ordered field must be positive."""
    return Finding(what, bool(value > 0), str(value), exact=not _rounded(np.asarray(value, dtype=object)))


def _rounded(array: Array) -> bool:
    """Whether there is a floating-point number in it."""
    return any(isinstance(x, float | complex | np.inexact) for x in array.ravel().tolist())
