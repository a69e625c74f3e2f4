"""The pages that follow from the code: the paper map, a page per estimator, and copies of notebooks and figures.

``pages(root)`` makes them; as a Sphinx extension this module writes them to ``docs/generated`` before each build.  A
name that does not resolve (a label, a file, a test) stops the build, with all such names in the message.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from tpg.claims import Claim, registry
from tpg.errors import TpgError
from tpg.estimators.estimator import Estimator
from tpg.estimators.table import FAMILIES

Pages = dict[str, str | bytes]  # path below docs/generated → content

LABEL = re.compile(r"(?<![\w:-])(?:lem|thm|prop|alg|claim):[a-z0-9]+(?:-[a-z0-9]+)*")
EVERY = ("test_claims", "test_a_claim_of_the_paper_holds_and_refutes_its_mutants")  # runs each claim with its mutants
SPEAK_OF_CLAIMS = ("tpg/**/*.py", "paper_checks/*.py", "figures/*.py", "notebooks/*.ipynb", "docs/*.md", "*.md")
HISTORY = ("docs/log.md", "CHANGELOG.md")  # may speak of labels that are no more
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


def pages(root: Path) -> Pages:
    """Every generated page of the checkout ``root``.  TpgError with each name that does not resolve."""
    claims, wrong = registry.load(), Unresolved()
    links = sorted(links_of(root, claims, wrong), key=lambda link: link.kind)
    stray_labels(root, claims, wrong)
    wrong.stop()
    out: Pages = {"paper_map.md": map_page(links)}
    out |= {f"estimators/{row.name}.md": estimator_page(row) for family in FAMILIES for row in family.ROWS}
    out["estimators/index.md"] = estimator_index()
    out |= {f"notebooks/{path.name}": path.read_bytes() for path in root.glob("notebooks/*.ipynb")}
    return out | {f"figures/{path.name}": path.read_bytes() for path in root.glob("figures/*.png")}


class Unresolved(list[str]):
    """Names that lead nowhere, collected so that one build tells all."""

    def stop(self) -> None:
        """TpgError if there are any."""
        if self:
            raise TpgError("names that do not resolve: " + "; ".join(self))


# Text


def prose(text: str) -> str:
    """Plain text as Markdown: nothing in it is markup but ``code`` and the labels of claims, which become links."""
    pieces = re.split(r"(`+[^`]+`+)", " ".join(text.split()))
    return "".join(piece.replace("|", r"\|") if piece.startswith("`") else _linked(piece) for piece in pieces)


def _linked(text: str) -> str:
    ends, out = 0, ""
    for found in LABEL.finditer(text):
        out += _escaped(text[ends : found.start()]) + link(found[0])
        ends = found.end()
    return out + _escaped(text[ends:])


def _escaped(text: str) -> str:
    return re.sub(r"([][\\`*_{}<>()#+%$|~&^@-])", r"\\\1", text)


def link(label: str) -> str:
    """A claim's entry in the paper map."""
    return f"[{label}](#{anchor(label)})"


def anchor(label: str) -> str:
    """The label as the target of links."""
    return label.replace(":", "-")


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table of cells that are Markdown already."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def page(*blocks: str, orphan: bool = False) -> str:
    """Blocks with empty lines between; an orphan is reached by links alone."""
    return "\n\n".join(["---\norphan: true\n---"] * orphan + list(blocks)) + "\n"


# Paper map


@dataclass(frozen=True)
class Links:
    """A claim and what belongs to it: its file, tests by file, figures as (name, caption), notebooks."""

    claim: Claim
    stem: str
    tests: Mapping[str, Sequence[str]]
    figures: Sequence[tuple[str, str]]
    notebooks: Sequence[str]

    @property
    def kind(self) -> bool:
        """Claimed elsewhere, so that it comes second."""
        return self.claim.label.startswith("claim:")


def links_of(root: Path, claims: Mapping[str, Claim], wrong: Unresolved) -> Iterator[Links]:
    """What belongs to each claim; names that do not resolve are added to ``wrong``."""
    tests = [Tests(path) for path in sorted(root.glob("tests/test_*.py"))]
    if EVERY not in {(test.stem, name) for test in tests for name in test.functions}:
        wrong.append(f"the test of every claim, {'.py::'.join(EVERY)}")
    figures = [(path.stem, *figure(path, claims, wrong)) for path in sorted(root.glob("figures/[!_]*.py"))]
    for claim in claims.values():
        stem = claim.label.replace(":", "_").replace("-", "_")
        wrong += [f"the file of {claim.label}, paper_checks/{stem}.py"] * (not _holds(root, stem, claim))
        wrong += [f"{name}, which {claim.label} needs" for name in claim.needs if name not in claims]
        yield Links(
            claim,
            stem,
            {test.stem: found for test in tests if (found := test.naming(claim.label, stem))},
            [(name, caption) for name, label, caption in figures if label == claim.label],
            [path.stem for path in sorted(root.glob("notebooks/*.ipynb")) if tells(path, claim.label)],
        )


def _holds(root: Path, stem: str, claim: Claim) -> bool:
    if not (root / "paper_checks" / f"{stem}.py").exists():
        return False
    return import_module(f"paper_checks.{stem}").CLAIM.label == claim.label


def figure(path: Path, claims: Mapping[str, Claim], wrong: Unresolved) -> tuple[str, str]:
    """``CLAIM`` and ``CAPTION`` of a figure file, which is read and not run: drawing needs matplotlib."""
    said: dict[str, str] = {}
    for line in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(line, ast.Assign) and isinstance(line.value, ast.Constant):
            said |= {name.id: line.value.value for name in line.targets if isinstance(name, ast.Name)}
    label, caption = said.get("CLAIM", ""), said.get("CAPTION", "")
    wrong += [f"CLAIM {label!r} of figures/{path.name}"] * (label not in claims)
    wrong += [f"CAPTION of figures/{path.name}, to be a plain string"] * (not caption)
    wrong += [f"the picture of figures/{path.name}"] * (not path.with_suffix(".png").exists())
    return label, caption


def tells(notebook: Path, label: str) -> bool:
    """The notebook holds the label, or its file name holds the first word of the label's name."""
    first = label.partition(":")[2].split("-")[0]
    return label in LABEL.findall(notebook.read_text(encoding="utf-8")) or first in notebook.stem.split("_")


class Tests:
    """A test file: its test functions, each with its text and the names that it reads."""

    def __init__(self, path: Path) -> None:
        self.stem, text = path.stem, path.read_text(encoding="utf-8")
        body = ast.parse(text).body
        self.functions = {s.name: s for s in body if isinstance(s, ast.FunctionDef) and s.name.startswith("test_")}
        self.text = {s: _source(text.splitlines(), s) for s in body}
        self.bound = {s: set(_bound(s)) for s in body}

    def naming(self, label: str, stem: str) -> list[str]:
        """Tests that name a claim by its label or its module, or use a name of the file that is bound with it."""
        named = re.compile(rf"(?<![\w:-]){label}(?![\w-])|\b{stem}\b")
        holds = {s for s, text in self.text.items() if named.search(text)}
        names = set().union(*(self.bound[s] for s in holds if s not in self.functions.values()))
        return [n for n, s in self.functions.items() if s in holds or names & {w.id for w in ast.walk(s) if isinstance(w, ast.Name)}]


def _source(lines: Sequence[str], node: ast.stmt) -> str:
    first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
    return "\n".join(lines[first - 1 : node.end_lineno])


def _bound(node: ast.stmt) -> Iterator[str]:
    """The names that a statement of a module binds, but for imports, which bind many at once."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        yield node.name
    for target in getattr(node, "targets", []):
        yield from (name.id for name in ast.walk(target) if isinstance(name, ast.Name))


def stray_labels(root: Path, claims: Mapping[str, Claim], wrong: Unresolved) -> None:
    """Labels of no claim, wherever the repository speaks of claims; tests plant such labels on purpose."""
    for pattern in SPEAK_OF_CLAIMS:
        for path in sorted(root.glob(pattern)):
            place = str(path.relative_to(root))
            found = set(LABEL.findall(path.read_text(encoding="utf-8"))) if place not in HISTORY else set()
            wrong += [f"{label} in {place}" for label in sorted(found - set(claims))]
