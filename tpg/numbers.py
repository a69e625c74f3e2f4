"""Number types: float64, exact rationals and the finite field GF(p), behind one small interface.

Every formula of the package is written once with NumPy operators.  Exact numbers live in object arrays, so the same
line runs in float64 (fast), over the rationals (exact) and in GF(p) (identity testing, ``theory.md`` §5).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np

from tpg.errors import TpgError

Array = np.ndarray
MERSENNE_61 = 2**61 - 1


@dataclass(frozen=True)
class Field:
    """A number type: how to make its scalars and arrays.

    ``exact`` numbers carry no rounding error; ``ordered`` ones can be compared (GF(p) cannot, so neither can a clip, a
    maximum or a standard deviation be taken there).
    """

    name: str
    scalar: Callable[[Any], Any] = field(repr=False)
    exact: bool
    ordered: bool

    def array(self, values: Any) -> Array:
        """``values`` (nested numbers, "p/q" strings or an array) as an array of this field."""
        if not self.exact:
            raw = np.asarray(values)
            return (
                raw.astype(np.float64)
                if raw.dtype.kind in "biuf"
                else np.frompyfunc(_to_float, 1, 1)(raw).astype(float)
            )
        raw = np.asarray(values, dtype=object)
        return np.asarray(np.frompyfunc(self.scalar, 1, 1)(raw), dtype=object).reshape(raw.shape)

    def zeros(self, shape: int | tuple[int, ...]) -> Array:
        """An array of zeros of this field."""
        return np.full(shape, self.scalar(0), dtype=object if self.exact else np.float64)

    def ones(self, shape: int | tuple[int, ...]) -> Array:
        """An array of ones of this field."""
        return np.full(shape, self.scalar(1), dtype=object if self.exact else np.float64)

    def key(self, values: Array) -> Array:
        """``values`` as something sortable: themselves, or the residue in GF(p), where the order means nothing."""
        return values if self.ordered else np.frompyfunc(int, 1, 1)(values)


def parse(value: Any) -> Fraction:
    """The exact meaning of a written number: an int, "p/q", or a decimal ("0.1" and 0.1 are both 1/10).

    >>> parse("2/6"), parse(0.1)
    (Fraction(1, 3), Fraction(1, 10))
    """
    if isinstance(value, (float, np.floating)):
        value = repr(float(value))  # the shortest decimal that round-trips: what the author wrote
    if isinstance(value, (int, np.integer)):
        return Fraction(int(value))
    try:
        return value if isinstance(value, Fraction) else Fraction(str(value))
    except (ValueError, ZeroDivisionError):
        raise TpgError(f'{value!r} is not a number: write 3, 0.25 or "1/4"') from None


def _to_rational(value: Any) -> Any:
    from flint import fmpq

    if isinstance(value, fmpq):
        return value
    exact = parse(value)
    return fmpq(exact.numerator, exact.denominator)


def _to_residue(modulus: int) -> Callable[[Any], Any]:
    def convert(value: Any) -> Any:
        from flint import nmod

        if isinstance(value, nmod):
            return value
        exact = parse(value)
        return nmod(exact.numerator, modulus) / nmod(exact.denominator, modulus)

    return convert


def _to_float(value: Any) -> float:
    return float(Fraction(value)) if isinstance(value, str) else float(value)


FLOAT64 = Field("float64", _to_float, exact=False, ordered=True)
RATIONAL = Field("rational", _to_rational, exact=True, ordered=True)


def gf(modulus: int = MERSENNE_61) -> Field:
    """The finite field GF(``modulus``), ``modulus`` a prime below 2⁶³."""
    return Field(f"GF({modulus})", _to_residue(modulus), exact=True, ordered=False)


def to_float(values: Any) -> Array:
    """Exact numbers rounded to float64; float64 unchanged."""
    return np.asarray(values, dtype=np.float64)


def dot(a: Array, b: Array) -> Array:
    """Σ over the last axis of a·b, in any field and any memory layout."""
    if a.dtype == object or b.dtype == object:
        return np.asarray((a * b).sum(-1))
    return np.einsum("...v,...v->...", a, b)


def powers(base: Any, count: int) -> Array:
    """[count] base⁰, base¹, … in the number type of ``base``.

    >>> powers(0.5, 3)
    array([1.  , 0.5 , 0.25])
    """
    steps = np.full(count, base, dtype=np.float64 if isinstance(base, float) else object)
    steps[:1] = base * 0 + 1
    return np.asarray(np.multiply.accumulate(steps))


def _on_duals(operation: Callable[[Dual, Dual], Any]) -> Callable[[Dual, Any], Any]:
    """Lift plain numbers to duals; leave arrays to NumPy, which applies the operation to each element."""

    def apply(self: Dual, other: Any) -> Any:
        return NotImplemented if isinstance(other, np.ndarray) else operation(self, _dual(other))

    return apply


class Dual:
    """a + bε with ε² = 0: arithmetic that carries an exact directional derivative along."""

    __slots__ = ("slope", "value")

    def __init__(self, value: Any, slope: Any) -> None:
        self.value, self.slope = value, slope

    def __neg__(self) -> Dual:
        return Dual(-self.value, -self.slope)

    __add__ = __radd__ = _on_duals(lambda a, b: Dual(a.value + b.value, a.slope + b.slope))
    __mul__ = __rmul__ = _on_duals(lambda a, b: Dual(a.value * b.value, a.value * b.slope + a.slope * b.value))
    __sub__ = _on_duals(lambda a, b: Dual(a.value - b.value, a.slope - b.slope))
    __rsub__ = _on_duals(lambda a, b: Dual(b.value - a.value, b.slope - a.slope))
    __truediv__ = _on_duals(lambda a, b: _quotient(a, b))
    __rtruediv__ = _on_duals(lambda a, b: _quotient(b, a))
    __eq__ = _on_duals(lambda a, b: bool(a.value == b.value and a.slope == b.slope))


def _quotient(a: Dual, b: Dual) -> Dual:
    value = a.value / b.value
    return Dual(value, (a.slope - value * b.slope) / b.value)


def _dual(value: Any) -> Dual:
    return value if isinstance(value, Dual) else Dual(_to_rational(value), _to_rational(0))


DUAL = Field("dual numbers over the rationals", _dual, exact=True, ordered=False)


def dual(value: Array, slope: Array) -> Array:
    """Arrays of values and slopes as one array of dual numbers."""
    return np.asarray(np.frompyfunc(Dual, 2, 1)(value, slope), dtype=object)


def slopes(values: Array) -> Array:
    """The ε parts of an array of dual numbers."""
    return np.asarray(np.frompyfunc(lambda x: x.slope, 1, 1)(values), dtype=object)
