"""The problem file from text to strict models, and every mistake in it as a single line that says where it is.

Only this module imports pydantic.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from difflib import get_close_matches
from fractions import Fraction
from functools import lru_cache
from typing import Annotated, Any, TypeVar

from flint import fmpq
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainValidator, ValidationError

from tpg.errors import ProblemError

MAX_CHARACTERS = 4000  # of one written number
MAX_EXPONENT = 4000  # of ten: "1e999999999" would be a number of a billion digits
LARGEST = 10**300  # whatever a file holds can be rounded to float64
WRITTEN = re.compile(r"([+-]?[0-9]+)(?:/([0-9]+)|(?:\.([0-9]+))?(?:[eE]([+-]?[0-9]+))?)")
NOT_FINITE = {"nan", "inf", "infinity"}
TWICE = object()  # the value of a key that the file gives more than once

T = TypeVar("T")


@dataclass(frozen=True)
class Where:
    """A file and the numbered, named prompts in it: the place of a mistake, in words."""

    file: str
    prompts: tuple[str, ...] = ()

    def error(self, text: str, prompt: int | None = None, node: str | None = None) -> ProblemError:
        """The mistake ``text`` as one printable line."""
        parts = [] if prompt is None else [self.prompts[prompt]]
        if node is not None:
            parts.append(f"node {quote(node)}" + (" (the root)" if node == "" else ""))
        return ProblemError(printable(f"{self.file}: " + (f"{', '.join(parts)}: " if parts else "") + text))


def printable(text: str) -> str:
    """``text`` on one line: whatever does not print is escaped."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def quote(text: str) -> str:
    """``text`` in double quotes, a long one cut."""
    return printable(json.dumps(text if len(text) <= 60 else f"{text[:57]}...", ensure_ascii=False))


def shown(value: Any) -> str:
    """A value of the wrong kind, in a few words."""
    if isinstance(value, dict | list):
        return ("an object {…}" if isinstance(value, dict) else "a list […]") if value else "empty"
    if isinstance(value, str):
        return quote(value)
    if isinstance(value, int) and abs(value) > LARGEST:
        return "a huge integer"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else printable(str(value)[:60])


def from_json(text: str, where: Where) -> Any:
    """The content of a JSON text, numbers with a point as Decimal: 0.1 is 1/10, not the double next to it."""
    try:
        return json.loads(text, parse_float=Decimal, parse_constant=Decimal, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        raise where.error(f"not JSON: {error.msg} (at line {error.lineno}, column {error.colno})") from None
    except (RecursionError, ArithmeticError, ValueError) as error:
        raise where.error(_extreme(error)) from None


def from_toml(text: str, where: Where) -> Any:
    """The content of a TOML text, numbers with a point as Decimal."""
    try:
        return tomllib.loads(text, parse_float=Decimal)
    except tomllib.TOMLDecodeError as error:
        end = f"at line {text.count(chr(10)) + 1}, column {len(text) - text.rfind(chr(10))}"
        raise where.error(f"not TOML: {str(error).replace('at end of document', end)}") from None
    except (RecursionError, ArithmeticError, ValueError) as error:
        raise where.error(_extreme(error)) from None


def _extreme(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "is nested too deeply: a problem needs at most 8 levels"
    if isinstance(error, ArithmeticError):
        return "holds a number whose exponent is beyond reason: change the unit"
    return "holds an integer of thousands of digits: shorten it"  # Python's own limit


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; a key given twice keeps no value, so that the models complain at its place."""
    out = dict(pairs)
    if len(out) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                out[key] = TWICE
            seen.add(key)
    return out


def number(value: Any) -> Any:
    """The exact rational that a JSON or TOML number, or a string "p/q" or "0.25", means; else ValueError."""
    if isinstance(value, str | Decimal):
        return _exact(str(value))
    if isinstance(value, float):
        return _exact(repr(float(value)))  # as numbers.parse: the shortest decimal that round-trips
    if isinstance(value, int | Fraction) and not isinstance(value, bool):
        return _ratio(value.numerator, value.denominator)
    raise ValueError(f'is {shown(value)}, needed a number: write 0.25 or "1/4"')


@lru_cache(maxsize=2**16)
def _exact(text: str) -> Any:
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"is written with {len(text)} characters, the limit is {MAX_CHARACTERS}: shorten it")
    parts = WRITTEN.fullmatch(text)
    if parts is None and text.lstrip("+-").lower() in NOT_FINITE:
        raise ValueError(f"is {text}: give a finite number")
    if parts is None:
        raise ValueError(f'is {quote(text)}, needed a number: write 0.25, "0.25" or "1/4"')
    whole, divisor, decimals, exponent = parts.groups()
    if divisor:
        return _ratio(int(whole), int(divisor))
    power = int(exponent or 0) - len(decimals or "")
    if abs(power) > MAX_EXPONENT:
        raise ValueError(f"is {text[:60]}, the limit of an exponent is {MAX_EXPONENT}: change the unit")
    digits = int(whole + (decimals or ""))
    return _ratio(digits * 10**power, 1) if power > 0 else _ratio(digits, 10**-power)


def _ratio(numerator: int, denominator: int) -> Any:
    if denominator == 0:
        raise ValueError(f"is {numerator}/0: divide by something else than zero")
    if abs(numerator) > LARGEST * denominator:
        raise ValueError("is beyond 1e300, the largest number of a file: change the unit")
    return fmpq(numerator, denominator)


def _require(holds: Callable[[T], bool], need: str) -> AfterValidator:
    def check(value: T) -> T:
        if not holds(value):
            raise ValueError(f"is {shown(value)}, needed {need}")
        return value

    return AfterValidator(check)


Number = Annotated[Any, PlainValidator(number, json_schema_input_type=int | float | str)]
Numbers = Annotated[list[Number], Field(min_length=1)]
Line = Annotated[str, _require(str.isprintable, "one line of printable text")]
Weight = Annotated[Number, _require(lambda w: w > 0, "a positive number")]
Discount = Annotated[Number, _require(lambda d: 0 < d <= 1, "a number above 0 and at most 1")]
Horizon = Annotated[int, _require(lambda h: h >= 1, "at least 1, the number of tokens of the longest response")]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class NodeFile(_Strict):
    """One prefix: a number per token in every list, a list of d numbers per token in ``features``."""

    probs: Numbers
    rewards: Numbers | None = None
    behaviour: Numbers | None = None
    reference: Numbers | None = None
    features: Annotated[list[Numbers], Field(min_length=1)] | None = None


class PromptFile(_Strict):
    """One prompt: its prefixes ("0 1": tokens separated by one blank, "" for the root) and rewards of responses."""

    name: Line | None = None
    weight: Weight | None = None
    nodes: dict[str, NodeFile]
    responses: dict[str, Number] | None = None


class ProblemFile(_Strict):
    """A token-generation problem.  Numbers are JSON numbers, read as decimals, or strings "p/q"."""

    name: Line | None = None
    description: str | None = None
    horizon: Horizon
    end_token: int | None = None
    discount: Discount = 1
    prompts: Annotated[list[PromptFile], Field(min_length=1)]


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a problem file."""
    return ProblemFile.model_json_schema()


def check(data: Any, file: str) -> tuple[ProblemFile, Where]:
    """``data``, as read from ``file``, in the models; the first mistake is a ProblemError."""
    where = Where(file, _prompts(data))
    try:
        return ProblemFile.model_validate(data), where
    except ValidationError as error:
        raise _mistake(error, where) from None


def _prompts(data: Any) -> tuple[str, ...]:
    prompts = data.get("prompts") if isinstance(data, dict) else None
    names = [p.get("name") if isinstance(p, dict) else None for p in (prompts if isinstance(prompts, list) else [])]
    return tuple(f"prompt {i}" + (f" ({n[:60]})" if n and isinstance(n, str) else "") for i, n in enumerate(names))


NEEDED = {
    "int_type": "an integer",
    "string_type": "text in quotes",
    "list_type": "a list […]",
    "dict_type": "an object {…}",
    "model_type": "an object {…}",
    "too_short": "at least one entry",
}
MODELS: tuple[type[_Strict], ...] = (ProblemFile, PromptFile, NodeFile)


def _mistake(error: ValidationError, where: Where) -> ProblemError:
    """The mistake most likely to explain the others: a key given twice, then an unknown one, then the first."""
    mistakes = error.errors(include_url=False)
    worst = min(mistakes, key=lambda e: (e["input"] is not TWICE, e["type"] != "extra_forbidden"))
    loc = worst["loc"]
    level = (loc[0:1] == ("prompts",) and len(loc) > 1) + (loc[2:3] == ("nodes",) and len(loc) > 3)
    prompt = int(loc[1]) if level else None
    node = str(loc[3]) if level == 2 else None
    return where.error(_words(dict(worst), loc[2 * level :], MODELS[level]), prompt, node)


def _words(mistake: dict[str, Any], loc: tuple[int | str, ...], model: type[_Strict]) -> str:
    field = "".join(str(p) if i == 0 else f"[{p if isinstance(p, int) else quote(p)}]" for i, p in enumerate(loc))
    kind, value = mistake["type"], mistake["input"]
    if value is TWICE:
        return f"{field} is given twice: keep one".lstrip()
    if kind in ("extra_forbidden", "invalid_key"):
        return f"unknown field {quote(field)}: {_near(field, list(model.model_fields))}"
    if kind == "missing":
        return f"{field} is missing: add it"
    if kind == "value_error":
        return f"{field} {mistake['ctx']['error']}"
    needed = NEEDED.get(kind, mistake["msg"])
    return f"{field} is {shown(value)}, needed {needed}".lstrip() if field else f"{shown(value)} given, needed {needed}"


def _near(field: str, fields: list[str]) -> str:
    near = get_close_matches(field.lower(), fields, n=1, cutoff=0.5)
    return f'write "{near[0]}"' if near else f"the fields here are {', '.join(fields)}"
