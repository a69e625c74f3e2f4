"""Documentation: its code runs and prints what it says, its names and links resolve, every estimator has a page."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from html import unescape
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from markdown_it import MarkdownIt

from tpg.claims import registry
from tpg.cli.main import main
from tpg.errors import TpgError
from tpg.estimators.table import ESTIMATORS
from tpg.figures.shown import Shown, shown

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
WRITTEN = sorted(DOCS.glob("*.md"))
WITH_CODE = [page for page in WRITTEN if "```python" in page.read_text(encoding="utf-8")]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?:\]\(|\{download\}`[^`]*<)([^)>#\s]+)(?:#[^)>]*)?[)>]")
LINKED = ("figures", "notebooks", "paper_checks", "paper_checks/neural", "tests", "tpg")


@pytest.fixture(scope="module")
def generate() -> Iterator[ModuleType]:
    """The extension that writes pages, without Sphinx."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(DOCS)
        import _generate

        yield _generate


@pytest.fixture(scope="module")
def pages(generate: ModuleType) -> dict[str, Any]:
    return generate.pages(ROOT)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the checkout in which files can be changed: the pages, and links to all else."""
    shutil.copytree(DOCS, tmp_path / "docs", ignore=shutil.ignore_patterns("_build", "generated", "__pycache__"))
    opened = {ROOT / folder for folder in LINKED}  # folders of links, so that no change reaches a file of the checkout
    for source in (*(path for folder in opened for path in folder.glob("*")), *ROOT.glob("*.md")):
        if source not in opened:
            target = tmp_path / source.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(source)
    return tmp_path


# What is written by hand


def test_the_tutorial_has_code() -> None:
    assert DOCS / "tutorial.md" in WITH_CODE


@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: page.stem)
def test_code_runs_and_prints_what_the_page_says(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    text = page.read_text(encoding="utf-8")
    known: dict[str, Any] = {"__name__": "__main__"}
    printed = ""
    for block in BLOCK.finditer(text):
        kind, code = block.groups()
        if kind == "python":
            assert not printed.strip(), f"the page does not say that it prints {printed!r}"
            printed = output(code, known)
        elif kind == "text":
            assert alike(code, printed), f"the page says\n{code}\nand it prints\n{printed}"
            printed = ""
        elif kind == "json":
            (name,) = re.findall(r"`([\w.]+)`:\s*$", text[: block.start()])
            Path(name).write_text(code, encoding="utf-8")
        elif kind == "sh":
            assert [command for command in code.splitlines() if not works(command)] == []
    assert not printed.strip()


def output(code: str, known: dict[str, Any]) -> str:
    """What ``code`` prints; the names it binds join ``known``."""
    with contextlib.redirect_stdout(io.StringIO()) as stream:
        exec(code, known)
    return stream.getvalue()


def works(command: str) -> bool:
    """A ``tpg`` command exits with 0; the installation is known to, since this runs."""
    return command == "pip install -c constraints.txt -e ." or main(shlex.split(command)[1:]) == 0


def alike(said: str, printed: str) -> bool:
    """The same words in the same order, and numbers that are about the same."""
    pairs = list(zip(said.split(), printed.split(), strict=False))
    return len(said.split()) == len(printed.split()) and all(a == b or near(a, b) for a, b in pairs)


def near(a: str, b: str) -> bool:
    try:
        return float(a.rstrip("%")) == pytest.approx(float(b.rstrip("%")), rel=0.02, abs=0.002)
    except ValueError:
        return False


@pytest.mark.parametrize("printed", ["holds 1.5", "refuted 1.6", "refuted", "refuted 1.5 rational"])
def test_a_page_that_says_something_else_is_found(printed: str) -> None:
    assert alike("refuted 1.5", "refuted   1.501\n")
    assert not alike("refuted 1.5", printed)


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path, pages: dict[str, Any]) -> None:
    targets = [t for t in LINK.findall(page.read_text(encoding="utf-8")) if not t.startswith("http")]
    made = {f"generated/{name}" for name in pages}
    assert [t for t in targets if t not in made and not (DOCS / t).exists()] == []


def test_links_are_found() -> None:
    text = "[a](b.md), [c](generated/d.md#e), [f](#g), {download}`h <problems/i.toml>`, [j](https://example.org)"
    assert LINK.findall(text) == ["b.md", "generated/d.md", "problems/i.toml", "https://example.org"]


# Paper map


def test_every_name_of_the_paper_map_leads_somewhere(pages: dict[str, Any]) -> None:
    text = pages["paper_map.md"]
    for label in (*registry.load(), *registry.load(registry.NEURAL)):
        assert text.count(f"\n### {label}\n") == 1
    targets = set(re.findall(r"^\(([\w-]+)\)=$", text, re.MULTILINE))
    assert set(re.findall(r"\]\(#([\w-]+)\)", text)) == targets
    linked = set(LINK.findall(text))
    assert {name for name in linked if not (DOCS / "generated" / name).resolve().exists()} <= set(pages)
    assert linked - set(pages) == {"../transformer.md"}
    drawn = {name for name in pages if name.startswith("figures/")}
    assert {name for name in linked if name.startswith("figures/")} == drawn
    named = re.findall(r"`((?:paper_checks|figures)/[\w/]+\.py)`", text)
    assert len(named) == len(targets)  # claims, and each picture once
    assert len([target for target in targets if target.startswith("figure-")]) == len(drawn)
    assert [file for file in named if not (ROOT / file).exists()] == []


def test_the_paper_map_names_tests_that_are_there(pages: dict[str, Any]) -> None:
    listed = re.findall(r"`(test_\w+)\.py`: ((?:`test_\w+`(?:, )?)+)", pages["paper_map.md"])
    assert len(listed) > 40
    for stem, names in listed:
        text = (ROOT / "tests" / f"{stem}.py").read_text(encoding="utf-8")
        assert [name for name in re.findall(r"\w+", names) if f"def {name}(" not in text] == []


def test_tests_name_claims_directly_or_by_a_name_bound_to_them(generate: ModuleType, tmp_path: Path) -> None:
    source = tmp_path / "test_x.py"
    source.write_text(
        "ONE = [import_module('paper_checks.prop_length'), 2]\n"
        "def helper(): return 'lem:baseline'\n"
        "@pytest.mark.parametrize('x', ['prop:length'])\n"
        "def test_by_label(x): pass\n"
        "def test_by_name(): ONE\n"
        "def test_by_helper(): helper()\n"
        "def test_of_another(): 'prop:length-two', prop_length_two\n"
        "def test_of_a_network(): sampling.CLAIM, 'neural:cost'\n"
        "def test_of_the_same_word(): sampling\n"
    )
    found = sys.modules["_paper_map"].Tests(source)
    assert found.naming("prop:length", "prop_length") == ["test_by_label", "test_by_name"]
    assert found.naming("lem:baseline", "lem_baseline") == ["test_by_helper"]
    assert found.naming("neural:sampling", "sampling") == ["test_of_a_network"]
    assert found.naming("neural:cost", "cost") == ["test_of_a_network"]


def told(text: str) -> str:
    """A notebook of one cell."""
    return json.dumps({"cells": [{"cell_type": "markdown", "source": [text]}]})


def test_figures_and_notebooks_are_at_the_claims_they_name(pages: dict[str, Any]) -> None:
    text = pages["paper_map.md"]
    shown_at = shown(ROOT)
    for label in (*registry.load(), *registry.load(registry.NEURAL)):
        section = text[text.index(f"\n### {label}\n") :].split("\n### ")[1]
        figures = re.findall(r"\[(\w+)\]\(#figure-[\w-]+\)", section)
        notebooks = re.findall(r"\[(\w+)\]\(notebooks/\w+\.ipynb\)", section)
        assert Shown(tuple(figures), tuple(notebooks)) == shown_at.get(label, Shown())


def test_claims_on_networks_are_on_the_map_with_file_and_notebook(pages: dict[str, Any]) -> None:
    text = pages["paper_map.md"]
    part = text[text.index("## On a transformer") : text.index("## What other publications claim")]
    assert re.findall(r"^### (.*)$", part, re.MULTILINE) == list(registry.load(registry.NEURAL))
    assert "`paper_checks/neural/exact_gradient.py`" in part
    assert "[11_transformer](notebooks/11_transformer.ipynb)" in part
    assert "test_samples_from_the_network_are_a_test_with_its_error_rate" in part


def test_without_torch_the_remedy_is_said(generate: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(group: str = registry.GROUP) -> Any:
        if group == registry.NEURAL:
            raise ModuleNotFoundError("No module named 'torch'", name="torch")
        return {}

    monkeypatch.setattr(registry, "load", load)
    with pytest.raises(
        TpgError, match=r"^torch is missing: claims on networks need it: pip install '\.\[docs,neural\]'$"
    ):
        generate.pages(ROOT)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("figures/new.py", "CLAIMS = ('prop:nowhere',)", "'prop:nowhere', one of CLAIMS of figures/new.py"),
        ("figures/new.py", "CLAIMS = 'prop:length'\nCAPTION = 'x.'", "CLAIMS of figures/new.py, to be a plain tuple"),
        ("figures/new.py", "CLAIMS = ('prop:length',)\nCAPTION = str(1)", "CAPTION of figures/new.py, to be a plain"),
        ("figures/new.py", "CLAIMS = ('prop:length',)\nCAPTION = 'x.'", "the picture of figures/new.py"),
        ("figures/new.py", "'''After thm:nowhere.'''", "thm:nowhere in figures/new.py"),
        ("notebooks/new.ipynb", told("See lem:nowhere."), "lem:nowhere in notebooks/new.ipynb"),
        ("notebooks/new.ipynb", told("Claims: `no`."), "'no', one of Claims of notebooks/new.ipynb"),
        ("notebooks/new.ipynb", told("Nothing."), 'the line "Claims: …" in the first cell of notebooks/new.ipynb'),
        ("docs/new.md", "claim:no-where.", "claim:no-where in docs/new.md"),
        ("tpg/new.py", "# (alg:nowhere)", "alg:nowhere in tpg/new.py"),
        ("docs/new.md", "neural:nowhere.", "neural:nowhere in docs/new.md"),
        ("paper_checks/neural/new.py", "# neural:nowhere", "neural:nowhere in paper_checks/neural/new.py"),
        ("paper_checks/prop_length.py", None, "the file of prop:length, paper_checks/prop_length.py"),
        ("paper_checks/neural/cost.py", None, "the file of neural:cost, paper_checks/neural/cost.py"),
        ("tests/test_claims.py", None, "the test of every claim, test_claims.py::test_a_claim_of_the_paper_holds"),
        ("tests/test_claims_neural.py", None, "the test of every claim, test_claims_neural.py::test_claims_hold_and"),
    ],
)
def test_a_name_that_leads_nowhere_stops_the_build(
    file: str, text: str | None, message: str, checkout: Path, generate: ModuleType
) -> None:
    if text is None:
        (checkout / file).unlink()
    else:
        (checkout / file).write_text(text, encoding="utf-8")
    with pytest.raises(TpgError, match=rf"^names that do not resolve: .*{re.escape(message)}"):
        generate.pages(checkout)


def test_a_need_that_nobody_claims_stops_the_build(generate: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    claims, networks = registry.load(), registry.load(registry.NEURAL)
    claims["prop:length"] = replace(claims["prop:length"], needs=("prop:nowhere",))
    monkeypatch.setattr(registry, "load", lambda group=registry.GROUP: claims if group == registry.GROUP else networks)
    with pytest.raises(TpgError, match=r"^names that do not resolve: prop:nowhere, which prop:length needs$"):
        generate.pages(ROOT)


def test_the_copy_of_the_checkout_makes_the_same_pages(
    checkout: Path, generate: ModuleType, pages: dict[str, Any]
) -> None:
    assert generate.pages(checkout) == pages


# Estimators


def test_every_estimator_has_a_page_and_a_line_in_the_index(pages: dict[str, Any]) -> None:
    names = {Path(name).stem for name in pages if name.startswith("estimators/")} - {"index"}
    assert names == set(ESTIMATORS)
    assert set(re.findall(r"^\| \[\w+\]\((\w+)\.md\)", pages["estimators/index.md"], re.MULTILINE)) == names


@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_page_says_what_the_row_says(name: str, pages: dict[str, Any]) -> None:
    row, text = ESTIMATORS[name], plain(pages[f"estimators/{name}.md"])
    said = [row.formula, row.expectation.text, row.source, *row.aliases, *(row.needs - {"mask"})]
    said += [] if row.off_policy is None else [row.off_policy.text]
    for part in (*row.parts, row.critic, row.model, row.constant, row.anchors):
        func = getattr(part, "func", part)
        said += [func.__qualname__.partition(".")[0]] if part is not None else []
        said += [f"{key} = " for key in getattr(part, "keywords", {})]
        if part in row.parts:
            said += [block for block in func.__doc__.split("\n\n") if not block.strip().startswith(">>>")]
    assert [piece for piece in said if words(piece) not in text] == []


def plain(markdown: str) -> str:
    """The words that a reader sees."""
    rendered = MarkdownIt("commonmark").enable("table").render(markdown)
    return words(unescape(re.sub(r"<(?:/?[a-z]|hr|!)[^>]*>", "", rendered)))


def words(text: str) -> str:
    return " ".join(text.replace("`", "").split())


def test_options_are_those_of_the_row(pages: dict[str, Any]) -> None:
    assert "Options: `lam = 0.95`." in pages["estimators/gae.md"]
    assert "Options: `ddof = 1` (default), `eps = 1e-06` (default)." in pages["estimators/grpo.md"]
    assert "`composed(dense=red, how=to_go)`" in pages["estimators/red_to_go.md"]
    assert "; `seq_mean_token_sum_norm` |" in pages["estimators/index.md"]
    assert "### `to_go`" in pages["estimators/red_to_go.md"]


def test_nothing_in_plain_text_is_markup(generate: ModuleType) -> None:
    prose = sys.modules["_markdown"].prose
    text = r"A_i_ = *R* − [x](y) | #1 <b> &lt; \d $z$ ~~q~~ {eval}`c|d` (a)= % + - see prop:length, not prop:."
    shown = MarkdownIt("commonmark").render(prose(text))
    assert unescape(re.sub(r"</?(?:p|code|a)\b[^>]*>", "", shown)).strip() == text.replace("`c|d`", r"c\|d")
    assert '<a href="#prop-length">prop:length</a>' in shown
    assert prose("(lem-x)= first\n    line").startswith(r"\(")


# Building


def test_only_what_changed_is_written(generate: ModuleType, tmp_path: Path) -> None:
    made = {"a.md": "one", "b/c.png": b"two"}
    generate.write(made, tmp_path)
    before = (tmp_path / "a.md").stat().st_mtime_ns
    (tmp_path / "old.md").touch()
    generate.write(made | {"b/c.png": b"three"}, tmp_path)
    assert {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()} == set(made)
    assert (tmp_path / "b/c.png").read_bytes() == b"three"
    assert (tmp_path / "a.md").stat().st_mtime_ns == before


def test_nothing_generated_is_committed() -> None:
    command = ["git", "ls-files", "docs/generated", "docs/_build"]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout == ""


def test_sphinx_builds_without_a_warning(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    pytest.importorskip("myst_nb")
    pytest.importorskip("furo")
    out = tmp_path_factory.mktemp("html")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", checkout / "docs", out]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout + done.stderr == ""
    assert done.returncode == 0
    built = {str(path.relative_to(out)) for path in out.rglob("*.html")}
    assert {f"generated/estimators/{name}.html" for name in ESTIMATORS} <= built
    assert {f"generated/notebooks/{path.stem}.html" for path in ROOT.glob("notebooks/*.ipynb")} <= built
    assert {f"{page.stem}.html" for page in WRITTEN} <= built
