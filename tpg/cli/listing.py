"""``tpg list``: what there is to audit, to audit on, and to verify."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from tpg.claims import Claim, registry
from tpg.cli import render
from tpg.cli.output import Destination
from tpg.estimators.table import FAMILIES
from tpg.problem.zoo import ZOO

NOT_BUILT = {"large"}  # a benchmark: building it takes seconds and says nothing more
PARTS = ("aggregation", "ratio", "penalty", "critic", "model", "constant", "anchors", "keep")
Row = dict[str, Any]


def show_list(kind: str | None, target: Destination) -> int:
    """List one kind in full, or all three in short.  Claims on networks come with the full list: they import torch."""
    data = {name: rows() for name, rows in KINDS.items() if kind in (None, name)}
    notes = []
    if kind == "claims":
        found, missing = on_networks()
        data[kind] += [_claim(claim, "--neural") for claim in found]
        notes = [Text(missing)] if missing else []
    target.write(data)
    render.show(target.prose, *(in_short(data) if kind is None else in_full(kind, data[kind])), *notes)
    return 0


def estimators() -> list[Row]:
    """One row per estimator."""
    return [
        {
            "name": row.name,
            "aliases": list(row.aliases),
            "family": family.__name__.rpartition(".")[2],
            "formula": row.formula,
            "parts": {name: _called(getattr(row, name)) for name in PARTS},
            "needs": sorted(row.needs - {"mask"}),
            "continuations": row.continuations,
            "expectation": row.expectation.text,
            "off_policy": None if row.off_policy is None else row.off_policy.text,
            "source": row.source,
            "min_group": row.min_group,
        }
        for family in FAMILIES
        for row in family.ROWS
    ]


def _called(part: Any) -> str | None:
    """The name of a function, with the options it is bound to."""
    if part is None:
        return None
    options = ", ".join(f"{key}={_called(value) if callable(value) else value}" for key, value in _bound(part).items())
    name = str(getattr(part, "func", part).__name__)
    return f"{name}({options})" if options else name


def _bound(part: Any) -> dict[str, Any]:
    return getattr(part, "keywords", {})


def problems() -> list[Row]:
    """One row per problem of the zoo, with its size as built without options."""
    return [
        {"name": name, "about": render.first_line(make), **_size(name), "options": _options(make)}
        for name, make in ZOO.items()
    ]


def claims() -> list[Row]:
    """One row per claim on tables."""
    return [_claim(claim) for claim in registry.load().values()]


def on_networks() -> tuple[list[Claim], str]:
    """The claims on networks, which import torch; without it none, and a line that says so."""
    try:
        return list(registry.load(registry.NEURAL).values()), ""
    except ModuleNotFoundError as error:
        return [], f"Claims on a transformer are left out: {error.name} is missing: pip install 'tpg[neural]'"


def _claim(claim: Claim, option: str = "") -> Row:
    """``option``: what ``tpg verify`` needs to check it."""
    return {"label": claim.label, "statement": claim.statement, "source": claim.source, "option": option}


KINDS: dict[str, Callable[[], list[Row]]] = {"estimators": estimators, "problems": problems, "claims": claims}


def _size(name: str) -> Row:
    if name in NOT_BUILT:
        return {}
    made = ZOO[name]()
    policy = "tabular" if made.tabular else f"{made.parameters} shared"
    size: Row = {"prompts": made.prompts, "vocab": made.vocab, "horizon": made.horizon}
    return {**size, "policy": policy, "discount": str(made.discount)}


def _options(make: Callable[..., Any]) -> Row:
    """What can follow the name, as in random:seed=3, with the defaults."""
    return {k: p.default for k, p in inspect.signature(make).parameters.items() if k != "field"}


def in_short(data: dict[str, list[Row]]) -> Iterator[RenderableType]:
    """Everything, a line or two each."""
    columns = {"estimators": ("name", "expectation"), "problems": ("name", "about"), "claims": ("label", "statement")}
    for kind, rows in data.items():
        yield Text(kind, "bold")
        yield render.pairs([(row[name], row[text]) for row in rows for name, text in [columns[kind]]])
        yield ""
    more = "More: `tpg list estimators`, `tpg list problems`, `tpg list claims` (with those on a transformer)."
    yield Text(more, "dim")


def in_full(kind: str, rows: list[Row]) -> Iterator[RenderableType]:
    """One kind, with everything there is to say."""
    yield IN_FULL[kind](rows)
    yield ""
    yield Text(LEGENDS[kind], "dim")


def _estimators(rows: list[Row]) -> Table:
    body: list[render.Cells] = []
    for row in rows:
        parts = "; ".join(f"{kind} {part}" for kind, part in row["parts"].items() if part and part != "on_policy")
        lines = [
            row["formula"],
            f"{parts}; G ≥ {row['min_group']}; reads {', '.join(row['needs'])}",
            row["expectation"],
        ]
        lines += [f"off-policy: {row['off_policy']}"] if row["off_policy"] else []
        lines += [row["source"]]
        name = Text("\n").join([Text(row["name"], "bold"), *(Text(alias, "dim") for alias in row["aliases"])])
        body.append([name, "\n".join(lines)])
    return render.table(("name, aliases", "formula, parts, expectation, source"), body)


def _problems(rows: list[Row]) -> Table:
    body: list[render.Cells] = []
    for row in rows:
        size = [str(row.get(key, "")) for key in ("prompts", "vocab", "horizon", "policy", "discount")]
        options = ", ".join(f"{key}={default}" for key, default in row["options"].items())
        body.append([Text(row["name"], "bold"), *size, row["about"] + (f"\noptions: {options}" if options else "")])
    heads = ("name", "prompts", "V", "T", "policy", "γ", "what it is")
    return render.table(heads, body, right=("prompts", "V", "T", "γ"))


def _claims(rows: list[Row]) -> Table:
    body: list[render.Cells] = []
    for row in rows:
        label = Text("\n").join([Text(row["label"], "bold"), *([Text(row["option"], "dim")] if row["option"] else [])])
        body.append([label, f"{row['statement']}\n{row['source']}"])
    return render.table(("label", "statement, source"), body)


LEGENDS = {
    "estimators": "G: the group size, responses per prompt.  `tpg audit NAME` measures one.",
    "problems": "V: vocabulary, T: tokens of the longest response, γ: discount.  Options follow a colon, as in "
    "`tpg audit rloo --problem random:seed=3,shared=2`.",
    "claims": "`tpg verify LABEL` checks one, with everything it needs; those on a transformer, marked --neural, "
    "`tpg verify --neural LABEL`.",
}
IN_FULL = {"estimators": _estimators, "problems": _problems, "claims": _claims}
