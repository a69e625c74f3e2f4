"""One HTML page: every claim with verdict and evidence, every figure, every estimator; no external address."""

from __future__ import annotations

import ast
import base64
import html
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from tpg.claims.run import Outcome

CAVEAT = (
    "Verdicts are about gradients, not about trained models: a biased gradient may well train better, an unbiased one "
    "may be too noisy to use. PROVED is an identity for the listed shapes of problem, wrong with at most the printed "
    "probability; MEASURED holds on the problems listed; TESTED stands on samples, with the printed chance of a false "
    "alarm; no status is typed by hand."
)


@dataclass(frozen=True)
class Picture:
    """A figure as committed: its name, the label of the claim it illustrates, its caption and its PNG."""

    name: str
    claim: str
    caption: str
    png: bytes


def pictures(folder: Path) -> list[Picture]:
    """The figures of a folder whose picture is there; their files are read and not run: drawing may need torch."""
    from tpg.figures import run

    out = []
    for path in run.sources(folder):
        drawn, said = path.with_suffix(".png"), _constants(path.read_text(encoding="utf-8"))
        if drawn.exists():
            out.append(Picture(path.stem, said.get("CLAIM", ""), said.get("CAPTION", ""), drawn.read_bytes()))
    return out


def _constants(source: str) -> dict[str, Any]:
    """What a file assigns that can be read off."""
    lines = [line for line in ast.parse(source).body if isinstance(line, ast.Assign)]
    plain = [(line.targets, line.value.value) for line in lines if isinstance(line.value, ast.Constant)]
    return {name.id: value for targets, value in plain for name in targets if isinstance(name, ast.Name)}


def page(
    outcomes: Sequence[Outcome],
    shown: Sequence[Picture],
    estimators: Sequence[dict[str, Any]],
    notebooks: Mapping[str, str],
    networks: Sequence[Outcome] = (),
    on: str = "",
) -> str:
    """The whole page as text.

    ``notebooks``: name → source; ``networks``: claims on networks, ``on`` which, or a line that says why none is there.
    """
    every = [*outcomes, *networks]
    labels = {o.label for o in every}
    parts = {
        "summary": _summary(every, len(networks)),
        "claims": _claims(outcomes, shown, notebooks),
        "on": html.escape(on),
        "networks": _claims(networks, shown, notebooks) if networks else "",
        "figures": "\n".join(_figure(p, labels) for p in shown) or "<p>No figures were found.</p>",
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


def _claims(outcomes: Sequence[Outcome], shown: Sequence[Picture], notebooks: Mapping[str, str]) -> str:
    return _table(
        ("label", "statement", "status", "evidence", "as published", "mutants", "figure", "notebook", "s"),
        (_claim(o, [p.name for p in shown if p.claim == o.label], _telling(o.label, notebooks)) for o in outcomes),
    )


def _telling(label: str, notebooks: Mapping[str, str]) -> list[str]:
    """The notebooks that hold the label, or whose name holds its first word, unless it is on networks."""
    kind, name = re.split("[:-]", label)[:2]
    holds = re.compile(rf"(?<![\w:-]){re.escape(label)}(?![\w-])")
    word = "" if kind == "neural" else name
    return [book for book, text in notebooks.items() if word in book.split("_") or holds.search(text)]


def _claim(outcome: Outcome, figures: Sequence[str], notebooks: Sequence[str]) -> list[str]:
    killed = sum(fate != "survived" for fate in outcome.mutants.values())
    worded = "" if outcome.as_worded is None else f"<q>{html.escape(outcome.wording)}</q> {_fate(outcome.as_worded)}"
    chance = outcome.error_probability
    wrong = "false alarm" if outcome.evidence == "TESTED" else "wrong"
    title = outcome.why if chance is None else f"{outcome.why}; {wrong} with probability at most {chance:.0e}"
    return [
        f"<code id='{html.escape(outcome.label)}'>{html.escape(outcome.label)}</code>",
        html.escape(outcome.statement),
        f"<span class={outcome.status}>{outcome.status}</span>",
        f"<abbr title='{html.escape(title, quote=True)}'>{html.escape(outcome.evidence)}</abbr>",
        worded,
        f"{killed}/{len(outcome.mutants)}",
        " ".join(f"<a href='#figure-{name}'>{html.escape(name)}</a>" for name in figures),
        " ".join(f"<code>{html.escape(name)}</code>" for name in notebooks),
        f"{outcome.seconds:.1f}",
    ]


def _fate(as_worded: str) -> str:
    word, _, where = as_worded.partition(" ")
    css = "holds" if word == "confirmed" else "refuted"
    return f"<span class={css} title='{html.escape(where, quote=True)}'>{html.escape(word)}</span>"


def _figure(shown: Picture, labels: set[str]) -> str:
    source, label = base64.b64encode(shown.png).decode("ascii"), html.escape(shown.claim)
    link = f"<a href='#{label}'>{label}</a>" if shown.claim in labels else label
    caption = f"{html.escape(shown.caption)} {link}"
    image = f"<img alt='{html.escape(shown.name)}' src='data:image/png;base64,{source}'>"
    return f"<figure id='figure-{shown.name}'>{image}<figcaption>{caption}</figcaption></figure>"


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
