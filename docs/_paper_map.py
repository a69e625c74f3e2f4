"""The paper map: each claim with its file, and the tests, figures and notebooks that belong to it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from _markdown import anchor, link, page, prose, table

from tpg.claims import Claim
from tpg.errors import TpgError
from tpg.figures.shown import LABEL, Shown, said, shown, told

NAMED = re.compile(  # by label, by the module of that name, or as module.CLAIM
    rf"{LABEL.pattern}|\b(?:lem|thm|prop|alg|claim)_\w+|\b\w+(?=\.CLAIM\b)"
)
EVERY = ("test_claims", "test_a_claim_of_the_paper_holds_and_refutes_its_mutants")  # runs each claim with its mutants
ON_NETWORKS = ("test_claims_neural", "test_claims_hold_and_their_mutants_do_not")  # those on networks
CHECKS = ("paper_checks/*.py", "paper_checks/*/*.py")
SPEAK_OF_CLAIMS = ("tpg/**/*.py", *CHECKS, "figures/*.py", "notebooks/*.ipynb", "docs/*.md", "*.md")
KINDS = {"neural": 1, "claim": 2}  # of the label; all others come first
HISTORY = ("docs/log.md", "CHANGELOG.md")  # may speak of labels that are no more


class Unresolved(list[str]):
    """Names that lead nowhere, collected so that one build tells all."""

    def stop(self) -> None:
        """TpgError if there are any."""
        if self:
            raise TpgError("names that do not resolve: " + "; ".join(self))


@dataclass(frozen=True)
class Links:
    """A claim and what belongs to it: its file, tests by file, what shows it, captions of figures chiefly about it."""

    claim: Claim
    file: str
    tests: Mapping[str, Sequence[str]]
    shown: Shown
    captions: Mapping[str, str]

    @property
    def kind(self) -> int:
        """0 the paper's and ours, 1 on networks, 2 what another publication claims."""
        return KINDS.get(self.claim.label.partition(":")[0], 0)


def links_of(root: Path, claims: Mapping[str, Claim], wrong: Unresolved) -> Iterator[Links]:
    """What belongs to each claim; names that do not resolve are added to ``wrong``."""
    tests = [Tests(path) for path in sorted(root.glob("tests/test_*.py"))]
    there = {(test.stem, name) for test in tests for name in test.functions}
    wrong += [f"the test of every claim, {'.py::'.join(test)}" for test in (EVERY, ON_NETWORKS) if test not in there]
    figures = {path.stem: figure(path, claims, wrong) for path in sorted(root.glob("figures/[!_]*.py"))}
    for path in sorted(root.glob("notebooks/*.ipynb")):
        named = told(path)
        wrong += [f"{label!r}, one of Claims of notebooks/{path.name}" for label in named or () if label not in claims]
        wrong += [f'the line "Claims: …" in the first cell of notebooks/{path.name}'] * (named is None)
    every = shown(root)
    for claim in claims.values():
        file = file_of(claim.label)
        wrong += [f"the file of {claim.label}, {file}"] * (not _holds(root, file, claim))
        wrong += [f"{name}, which {claim.label} needs" for name in claim.needs if name not in claims]
        yield Links(
            claim,
            file,
            {test.stem: found for test in tests if (found := test.naming(claim.label, Path(file).stem))},
            every.get(claim.label, Shown()),
            {name: caption for name, (labels, caption) in figures.items() if claim.label in labels[:1]},
        )


def file_of(label: str) -> str:
    """Where a claim is: prop:length in paper_checks/prop_length.py, neural:cost in paper_checks/neural/cost.py."""
    place = label.replace(":", "/", 1) if label.startswith("neural:") else label.replace(":", "_")
    return f"paper_checks/{place.replace('-', '_')}.py"


def _holds(root: Path, file: str, claim: Claim) -> bool:
    if not (root / file).exists():
        return False
    return import_module(file.removesuffix(".py").replace("/", ".")).CLAIM.label == claim.label


def figure(path: Path, claims: Mapping[str, Claim], wrong: Unresolved) -> tuple[tuple[str, ...], str]:
    """``CLAIMS`` and ``CAPTION`` of a figure file."""
    labels, caption = said(path)
    wrong += [f"{label!r}, one of CLAIMS of figures/{path.name}" for label in labels if label not in claims]
    wrong += [f"CLAIMS of figures/{path.name}, to be a plain tuple of labels"] * (not labels)
    wrong += [f"CAPTION of figures/{path.name}, to be a plain string"] * (not caption)
    wrong += [f"the picture of figures/{path.name}"] * (not path.with_suffix(".png").exists())
    return labels, caption


class Tests:
    """A test file: its test functions, and what the statements of the module name."""

    def __init__(self, path: Path) -> None:
        self.stem, text = path.stem, path.read_text(encoding="utf-8")
        body = ast.parse(text).body
        self.functions = {s.name: s for s in body if isinstance(s, ast.FunctionDef) and s.name.startswith("test_")}
        self.reads = {s: set(_names(s)) for s in self.functions.values()}
        self.named = {s: set(NAMED.findall(_source(text.splitlines(), s))) for s in body}

    def naming(self, label: str, stem: str) -> list[str]:
        """Tests that name a claim by its label or its module, or use a name of the file that is bound with it."""
        holds = {s for s, named in self.named.items() if named & {label, stem}}
        bound = {name for s in holds for name in _bound(s)}
        return [name for name, s in self.functions.items() if s in holds or bound & self.reads[s]]


def _source(lines: Sequence[str], node: ast.stmt) -> str:
    first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
    return "\n".join(lines[first - 1 : node.end_lineno])


def _names(node: ast.AST | None) -> Iterator[str]:
    walked = () if node is None else ast.walk(node)
    return (name.id for name in walked if isinstance(name, ast.Name))


def _bound(node: ast.stmt) -> Iterator[str]:
    """The names that a statement of a module binds, but for imports, which bind many at once."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        yield node.name
    for target in getattr(node, "targets", [getattr(node, "target", None)]):
        yield from _names(target)


def stray_labels(root: Path, claims: Mapping[str, Claim], wrong: Unresolved) -> None:
    """Labels of no claim, wherever the repository speaks of claims; tests plant such labels on purpose."""
    for pattern in SPEAK_OF_CLAIMS:
        for path in sorted(root.glob(pattern)):
            place = str(path.relative_to(root))
            found = set(LABEL.findall(path.read_text(encoding="utf-8"))) if place not in HISTORY else set()
            wrong += [f"{label} in {place}" for label in sorted(found - set(claims))]


def map_page(links: Sequence[Links]) -> str:
    """One section per claim: the paper's statements and ours, then what other publications claim."""
    heads = ("label", "statement", "figures", "notebooks")
    short = [
        (link(x.claim.label), prose(x.claim.statement), _count(x.shown.figures), _count(x.shown.notebooks))
        for x in links
    ]
    of = [[map_section(x) for x in links if x.kind == kind] for kind in range(3)]
    return page(
        "# Paper map",
        f"{len(links)} statements with what belongs to each. A status is computed, so none is written here: "
        "`tpg verify LABEL` says it, `tpg report` says all of them.",
        f"`{EVERY[0]}.py::{EVERY[1]}` runs every claim and all its mutants, `{ON_NETWORKS[0]}.py::{ON_NETWORKS[1]}` "
        "those on a transformer, but for the two that take seconds and have tests of their own; the tests below name "
        "the claim besides. A figure is shown at the claim that its file names first, and linked from the others it "
        "names; a notebook is listed if its first cell names the claim.",
        table(heads, short),
        "## The paper's statements, and ours",
        *of[0],
        "## On a transformer",
        "Checked on networks by `tpg verify --neural`: see [On a transformer](../transformer.md).",
        *of[1],
        "## What other publications claim",
        *of[2],
    )


def _count(found: Sequence[Any]) -> str:
    return str(len(found) or "")


def place(figure: str) -> str:
    """The picture as the target of links."""
    return f"figure-{figure.replace('_', '-')}"


def map_section(found: Links) -> str:
    """All there is about one claim."""
    claim = found.claim
    tests = [f"`{stem}.py`: {', '.join(f'`{name}`' for name in names)}" for stem, names in found.tests.items()]
    lines = {
        "Source": prose(claim.source),
        "Supposes": prose("; ".join(claim.hypotheses)),
        "Needs": ", ".join(map(link, claim.needs)),
        "Worded elsewhere, and checked as worded": prose(claim.wording),
        "File": f"`{found.file}`",
        "Must refute": prose("; ".join(claim.mutants)),
        "Tests": "; ".join(tests) or "those of every claim",
        "Notebooks": ", ".join(f"[{name}](notebooks/{name}.ipynb)" for name in found.shown.notebooks),
        "Figures": ", ".join(f"[{name}](#{place(name)})" for name in found.shown.figures),
    }
    return "\n\n".join(
        [
            f"({anchor(claim.label)})=\n### {claim.label}",
            prose(claim.statement),
            "\n".join(f"- {name}: {text}" for name, text in lines.items() if text),
            *(
                f"({place(name)})=\n![figure {name}](figures/{name}.png)\n\n`figures/{name}.py`: {prose(caption)}"
                for name, caption in found.captions.items()
            ),
        ]
    )
