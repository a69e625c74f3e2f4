"""A page per estimator, from its row and the docstrings of what it is made of, and an index by family."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from functools import partial
from numbers import Number
from types import ModuleType
from typing import Any

from _markdown import page, prose, table

from tpg.estimators.aggregation import seq_mean_token_sum
from tpg.estimators.estimator import Estimator
from tpg.estimators.ratios import on_policy
from tpg.estimators.table import FAMILIES

ROLES = {
    "advantage": "Advantage",
    "ratio": "Ratio",
    "penalty": "Penalty",
    "aggregation": "Divisor",
    "critic": "Critic",
    "model": "Model",
    "constant": "Constant of the prompt",
    "anchors": "Law of the anchors",
    "keep": "Groups that are kept",
}
NUMBERS = {"any": "any field", "ordered": "any ordered field (rationals, float64)", "float64": "float64 alone"}


def estimator_index() -> str:
    """A table of all rows, by family."""
    heads = ("name", "formula; made with", "E ĝ for responses of the current policy")
    blocks = [
        "# Estimators",
        f"{sum(len(f.ROWS) for f in FAMILIES)} rows: credits = (advantage · ratio + penalty) / divisor.",
    ]
    for family in FAMILIES:
        cells = [(f"[{r.name}]({r.name}.md)", short(r), prose(r.expectation.text)) for r in family.ROWS]
        blocks += [f"## {family_name(family)}", prose((family.__doc__ or "").split("\n\n")[0]), table(heads, cells)]
    return page(*blocks)


def short(row: Estimator) -> str:
    """The formula of the advantage, and by name what else the row is made of."""
    usual = (row.advantage, on_policy, seq_mean_token_sum)
    more = [part for role in ROLES if (part := getattr(row, role)) is not None and part not in usual]
    return "; ".join([prose(row.formula), *(f"`{called(part)}`" for part in more)])


def family_name(family: ModuleType) -> str:
    """The module's name without its package."""
    return family.__name__.rpartition(".")[2]


def estimator_page(row: Estimator) -> str:
    """What the row says of itself, then the docstring of everything that it is made of."""
    (family,) = (family for family in FAMILIES if row in family.ROWS)
    named = {role: getattr(row, role) for role in ROLES}
    return page(
        f"# {row.name}",
        prose(row.formula),
        table(("", ""), [(name, text) for name, text in facts(row, family_name(family)).items() if text]),
        f"```sh\ntpg audit {row.name}\n```",
        *(part_section(ROLES[role], part) for role, part in named.items() if part is not None),
        "[All estimators](index.md)",
        orphan=True,
    )


def facts(row: Estimator, family: str) -> dict[str, str]:
    """What there is to say of the row as a whole."""
    draws = f"{row.continuations} per position" if row.continuations else ""
    return {
        "family": f"`{family}`",
        "aliases": ", ".join(f"`{alias}`" for alias in row.aliases),
        "E ĝ, responses of the current policy": prose(row.expectation.text),
        "E ĝ, responses of any policy": "not declared" if row.off_policy is None else prose(row.off_policy.text),
        "reads": ", ".join(f"`{name}`" for name in sorted(row.needs - {"mask"})),
        "of other responses": ", ".join(f"`{name}`" for name in sorted(row.peers)),
        "fresh continuations": draws,
        "smallest group": str(row.min_group),
        "runs in": NUMBERS[row.numbers],
        "source": prose(row.source),
    }


def part_section(role: str, part: Callable[..., Any]) -> str:
    """A function that a row is made of: its name, options and docstring, then the functions that it is made of."""
    func = plain(part)
    doc, made_of = documented(func), [plain(f) for f in closed_over(func).values() if callable(f)]
    blocks = [f"## {role}: `{called(func)}`", docstring(doc), options(part)]
    for inner in made_of:
        if documented(inner) not in ("", doc):
            blocks += [f"### `{called(inner)}`", docstring(documented(inner))]
    return "\n\n".join(block for block in blocks if block)


def plain(part: Callable[..., Any]) -> Any:
    """The function itself, without bound options."""
    return part.func if isinstance(part, partial) else part


def documented(func: Any) -> str:
    """The docstring of a function, or of the public function that made it."""
    maker, _, within = func.__qualname__.partition(".<locals>")
    if within and not func.__doc__ and not maker.startswith("_"):
        func = getattr(sys.modules[func.__module__], maker)
    return inspect.getdoc(func) or ""


def closed_over(func: Any) -> dict[str, Any]:
    """What a function that another made was made from: functions and numbers."""
    found = inspect.getclosurevars(func).nonlocals if "<locals>" in func.__qualname__ else {}
    return {name: value for name, value in found.items() if callable(value) or isinstance(value, Number)}


def docstring(text: str) -> str:
    """Paragraphs as prose, doctests as code."""
    blocks = (block.strip("\n") for block in text.split("\n\n"))
    return "\n\n".join(f"```pycon\n{b}\n```" if b.startswith(">>>") else prose(b) for b in blocks if b)


def options(part: Callable[..., Any]) -> str:
    """The options of a function as the row binds them, and those it leaves as they are."""
    bound = getattr(part, "keywords", {})
    known = inspect.signature(part).parameters.values()
    given = {p.name: p.default for p in known if p.kind is p.KEYWORD_ONLY and p.default is not p.empty}
    text = [f"`{k} = {called(v)}`{'' if k in bound else ' (default)'}" for k, v in given.items()]
    return f"Options: {', '.join(text)}." if text else ""


def called(value: Any) -> str:
    """A value as one would write it: a function by its name and all that is bound to it."""
    if not callable(value):
        return str(value)
    func = plain(value)
    maker, _, within = func.__qualname__.partition(".<locals>.")
    bound = closed_over(func) | getattr(value, "keywords", {})
    if within and not bound:
        return f"{within} in {maker}"
    given = ", ".join(f"{key}={called(each)}" for key, each in bound.items())
    return maker + (f"({given})" if given else "")
