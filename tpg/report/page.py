"""One HTML page: every claim with verdict and evidence, every figure, every estimator; no external address."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from tpg.claims.run import Outcome
from tpg.figures import run
from tpg.figures.shown import Shown, said

CAVEAT = (
    "Verdicts are about gradients, not about trained models: a biased gradient may well train better, an unbiased one "
    "may be too noisy to use. PROVED is an identity for the listed shapes and group sizes, wrong with at most the "
    "printed probability; MEASURED holds on the problems listed; TESTED stands on samples, with the printed chance of "
    "a false alarm; no status is typed by hand."
)


@dataclass(frozen=True)
class Picture:
    """A figure as committed: its name, the labels of the claims it illustrates, its caption and its PNG."""

    name: str
    claims: tuple[str, ...]
    caption: str
    png: bytes


def pictures(folder: Path) -> list[Picture]:
    """The figures of a folder whose picture is there; their files are read and not run: drawing may need torch."""
    drawn = [path for path in run.sources(folder) if path.with_suffix(".png").exists()]
    return [Picture(path.stem, *said(path), path.with_suffix(".png").read_bytes()) for path in drawn]


def page(
    outcomes: Sequence[Outcome],
    gallery: Sequence[Picture],
    estimators: Sequence[dict[str, Any]],
    shown: Mapping[str, Shown],
    supposed: Mapping[str, Sequence[str]],
    networks: Sequence[Outcome] = (),
    on: str = "",
) -> str:
    """The whole page as text.

    ``shown``, ``supposed``: label → what shows the claim, and its hypotheses; ``networks``: claims on networks, ``on``
    which, or a line that says why none is there.
    """
    every = [*outcomes, *networks]
    labels = {o.label for o in every}
    parts = {
        "summary": _summary(every, len(networks)),
        "claims": _claims(outcomes, shown, supposed, labels),
        "on": html.escape(on),
        "networks": _claims(networks, shown, supposed, labels) if networks else "",
        "figures": "\n".join(_figure(p, labels) for p in gallery) or "<p>No figures were found.</p>",
        "estimators": _estimators(estimators),
        "caveat": html.escape(CAVEAT),
        "data": json.dumps([_plain(o) for o in every], ensure_ascii=True).replace("</", "<\\/"),
    }
    text = resources.files("tpg.report").joinpath("template.html").read_text(encoding="utf-8")
    for name, part in parts.items():
        text = text.replace("{{" + name + "}}", part)
    return text


def _plain(outcome: Outcome) -> dict[str, Any]:
    return {"label": outcome.label, "status": outcome.status, "evidence": outcome.evidence, "seconds": outcome.seconds}


def _summary(outcomes: Sequence[Outcome], networks: int) -> str:
    """12 claims hold, 0 refuted, …; wordings confirmed and refuted; how many of the claims are on networks."""
    counts = {word: sum(o.status == word for o in outcomes) for word in ("holds", "refuted", "undecided")}
    worded = [o for o in outcomes if o.as_worded is not None]
    confirmed = sum(o.as_worded == "confirmed" for o in worded)
    cards = [(str(n), word) for word, n in counts.items()]
    cards += [(str(confirmed), "published wordings confirmed"), (str(len(worded) - confirmed), "refuted as worded")]
    cards += [(str(networks), "of all claims on a transformer")] if networks else []
    return "".join(f"<div class=card><b>{n}</b><span>{html.escape(word)}</span></div>" for n, word in cards)


def _claims(
    outcomes: Sequence[Outcome],
    shown: Mapping[str, Shown],
    supposed: Mapping[str, Sequence[str]],
    labels: Container[str],
) -> str:
    return _table(
        ("label", "statement", "status", "evidence", "as published", "mutants", "figure", "notebook", "s"),
        (_claim(o, shown.get(o.label, Shown()), supposed.get(o.label, ()), labels) for o in outcomes),
    )


def _claim(outcome: Outcome, shown: Shown, supposed: Sequence[str], labels: Container[str]) -> list[str]:
    why = html.escape(outcome.why, quote=True)
    killed = sum(fate != "survived" for fate in outcome.mutants.values())
    worded = "" if outcome.as_worded is None else f"<q>{html.escape(outcome.wording)}</q> {_fate(outcome.as_worded)}"
    return [
        f"<code id='{html.escape(outcome.label)}'>{html.escape(outcome.label)}</code>",
        html.escape(outcome.statement) + _conditions(outcome, supposed, labels),
        f"<span class={outcome.status}>{outcome.status}</span>",
        f"<abbr title='{why}'>{html.escape(outcome.evidence)}</abbr>{_chance(outcome)}",
        worded,
        f"{killed}/{len(outcome.mutants)}",
        " ".join(f"<a href='#figure-{name}'>{_breakable(name)}</a>" for name in shown.figures),
        " ".join(f"<code>{_breakable(name)}</code>" for name in shown.notebooks),
        f"{outcome.seconds:.1f}",
    ]


def _conditions(outcome: Outcome, supposed: Sequence[str], labels: Container[str]) -> str:
    """What the claim supposes, at which group sizes it was checked, what it needs: folded, one line each."""
    sizes = ", ".join(map(str, outcome.group_sizes))
    lines = [html.escape(text) for text in supposed] + [f"checked in groups of {sizes}"] * bool(sizes)
    lines += [f"needs {', '.join(_link(label, labels) for label in outcome.needs)}"] * bool(outcome.needs)
    items = "".join(f"<li>{line}</li>" for line in lines)
    return f"<details><summary>hypotheses and needs</summary><ul>{items}</ul></details>" if items else ""


def _chance(outcome: Outcome) -> str:
    """How likely the evidence misleads."""
    if outcome.error_probability is None:
        return ""
    wrong = "false alarm" if outcome.evidence == "TESTED" else "wrong"
    return f" <small>{wrong} with probability at most <b>{outcome.error_probability:.0e}</b></small>"


def _link(label: str, labels: Container[str]) -> str:
    """The label, as a link if its claim is on the page."""
    text = html.escape(label)
    return f"<a href='#{text}'>{text}</a>" if label in labels else text


def _breakable(name: str) -> str:
    """A name that may go on in the next line after an underscore."""
    return html.escape(name).replace("_", "_<wbr>")


def _fate(as_worded: str) -> str:
    word, _, where = as_worded.partition(" ")
    css = "holds" if word == "confirmed" else "refuted"
    return f"<span class={css} title='{html.escape(where, quote=True)}'>{html.escape(word)}</span>"


def _figure(picture: Picture, labels: Container[str]) -> str:
    source = base64.b64encode(picture.png).decode("ascii")
    caption = f"{html.escape(picture.caption)} {' '.join(_link(label, labels) for label in picture.claims)}"
    image = f"<img alt='{html.escape(picture.name)}' src='data:image/png;base64,{source}'>"
    return f"<figure id='figure-{picture.name}'>{image}<figcaption>{caption}</figcaption></figure>"


def _estimators(rows: Sequence[dict[str, Any]]) -> str:
    heads = ("name", "family", "formula", "expectation", "off-policy", "needs", "source")
    keys = ("name", "family", "formula", "expectation", "off_policy", "needs", "source")
    return _table(heads, ([_cell(row[key]) for key in keys] for row in rows))


def _cell(value: Any) -> str:
    return html.escape(", ".join(value) if isinstance(value, list) else str(value or ""))


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th tabindex=0>{html.escape(name)}</th>" for name in heads)
    body = "\n".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table class=sortable><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table>"
