"""Every notebook runs from top to bottom, prints what was committed, and ends with asserts that its story rests on."""

from __future__ import annotations

import copy
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

nbformat = pytest.importorskip("nbformat", reason="the notebooks need jupyter: pip install -e '.[notebooks]'")
nbclient = pytest.importorskip("nbclient", reason="the notebooks need jupyter: pip install -e '.[notebooks]'")
pytest.importorskip("ipykernel", reason="the notebooks need a kernel: pip install -e '.[notebooks]'")

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
BOOKS = sorted(FOLDER.glob("*.ipynb"))
MAX_BYTES = 400_000
SECONDS = 60  # for a whole notebook, from the start of its kernel; a cell may take all that is left
ASSERT = re.compile(r"^\s*assert\b", re.MULTILINE)
# Written so that it does not match itself.
ABSOLUTE = re.compile(r"(?<![\w.~/-])[/](?:home|root|tmp|work|usr|opt|var|mnt|srv|Users|private)[/]|\b[A-Z]:\\\w")

Book = Any  # nbformat has no types


def named(path: Path) -> str:
    return path.stem


def read(path: Path) -> Book:
    return nbformat.read(path, as_version=4)


def run(book: Book, seconds: float = SECONDS) -> Book:
    """The notebook with fresh outputs; CellExecutionError where a cell raises, CellTimeoutError after ``seconds``."""
    fresh, deadline = copy.deepcopy(book), time.monotonic() + seconds
    client = nbclient.NotebookClient(
        fresh,
        timeout_func=lambda cell: max(0.1, deadline - time.monotonic()),
        kernel_name="python3",
        extra_arguments=["--log-level=ERROR"],
        resources={"metadata": {"path": str(FOLDER)}},
    )
    client.execute()
    assert time.monotonic() < deadline, f"a notebook takes less than {seconds} seconds"
    return fresh


def code(book: Book) -> list[Book]:
    return [cell for cell in book.cells if cell.cell_type == "code"]


def printed(book: Book) -> list[str]:
    """What each code cell prints; pictures may differ from one version of matplotlib to the next."""
    return [
        "".join(out.text for out in cell.outputs if out.output_type == "stream" and out.name == "stdout")
        for cell in code(book)
    ]


def words(book: Book) -> str:
    """Sources, metadata and all outputs but pictures."""
    parts = [str(book.metadata)]
    for cell in book.cells:
        parts += [cell.source, str(cell.metadata)]
        for out in cell.get("outputs", []):
            shown = {kind: data for kind, data in out.get("data", {}).items() if not kind.startswith("image/")}
            parts += [str(out.get("text", "")), str(shown)]
    return "\n".join(parts)


def faults(book: Book) -> list[str]:
    """What is wrong with a notebook as it lies in the repository."""
    cells, outputs = code(book), [out for cell in code(book) for out in cell.outputs]
    kinds = [kind for out in outputs for kind in out.get("data", {})]
    last = book.cells[-1]
    found = {
        "the last cell asserts nothing": last.cell_type != "code" or not ASSERT.search(last.source),
        "not run from top to bottom": [cell.execution_count for cell in cells] != list(range(1, len(cells) + 1)),
        "no printed output is committed": not any(printed(book)),
        "no picture is committed": "image/png" not in kinds,
        "a cell raised": any(out.output_type == "error" for out in outputs),
        "a cell may raise": any("raises-exception" in cell.metadata.get("tags", []) for cell in cells),
        "a warning is committed": any(out.get("name") == "stderr" for out in outputs),
        "an absolute path": ABSOLUTE.search(words(book)) is not None,
        "metadata of a machine": book.metadata.get("kernelspec", {}).get("name") != "python3"
        or not set(book.metadata) <= {"kernelspec", "language_info"},
        "6 to 14 cells are a story": not 6 <= len(book.cells) <= 14,
    }
    return [name for name, is_so in found.items() if is_so]


def test_the_stories_are_numbered_and_all_there() -> None:
    assert [path.stem[:2] for path in BOOKS] == [f"{n:02}" for n in range(1, 12)]


@pytest.mark.parametrize("path", BOOKS, ids=named)
def test_notebook_as_committed(path: Path) -> None:
    book = read(path)
    nbformat.validate(book)
    assert faults(book) == []
    assert path.stat().st_size < MAX_BYTES


@pytest.mark.parametrize("path", BOOKS, ids=named)
def test_notebook_runs_and_prints_what_is_committed(path: Path) -> None:
    book = read(path)
    assert printed(run(book)) == printed(book), "run it again and commit what it prints"


# The checks can fail


@pytest.fixture(scope="module")
def story() -> Book:
    return read(BOOKS[0])


def test_a_false_assert_in_a_copy_fails(story: Book) -> None:
    book = copy.deepcopy(story)
    book.cells[-1].source += "\nassert found['own token reward only'] == gradient"  # the story told wrong
    with pytest.raises(nbclient.exceptions.CellExecutionError, match="AssertionError"):
        run(book)


def test_a_notebook_that_takes_too_long_is_stopped(story: Book) -> None:
    book = copy.deepcopy(story)
    book.cells = [nbformat.v4.new_code_cell("import time; time.sleep(2)") for _ in range(8)]  # none alone is too long
    with pytest.raises(nbclient.exceptions.CellTimeoutError, match="A cell timed out"):
        run(book, seconds=5)


def ends_in_words(book: Book) -> None:
    book.cells.append(nbformat.v4.new_markdown_cell("The end."))


def only_speaks_of_asserts(book: Book) -> None:
    book.cells[-1].source = "print('assert nothing')"


def loses_outputs(book: Book) -> None:
    for cell in code(book):
        cell.outputs = []


def skips_a_cell(book: Book) -> None:
    code(book)[0].execution_count = None


def allows_errors(book: Book) -> None:
    code(book)[0].metadata["tags"] = ["raises-exception"]


def keeps_an_error(book: Book) -> None:
    code(book)[0].outputs = [nbformat.v4.new_output("error", ename="ValueError", evalue="", traceback=[])]


def keeps_a_warning(book: Book) -> None:
    code(book)[0].outputs.append(nbformat.v4.new_output("stream", name="stderr", text="RuntimeWarning"))


def prints_a_path(book: Book) -> None:
    code(book)[0].outputs.append(nbformat.v4.new_output("stream", name="stdout", text="saved '" + "/tmp" + "/a.png'"))


def names_a_path(book: Book) -> None:
    book.cells[1].source += "\nopen('" + "/home" + "/me/a.json')"


def keeps_a_machine(book: Book) -> None:
    book.metadata["vscode"] = {"interpreter": "3.11"}


def rambles(book: Book) -> None:
    book.cells = [book.cells[0]] * 10 + book.cells


PLANTED: dict[str, list[Callable[[Book], None]]] = {
    "the last cell asserts nothing": [ends_in_words, only_speaks_of_asserts],
    "not run from top to bottom": [skips_a_cell],
    "no printed output is committed": [loses_outputs],
    "no picture is committed": [loses_outputs],
    "a cell raised": [keeps_an_error],
    "a cell may raise": [allows_errors],
    "a warning is committed": [keeps_a_warning],
    "an absolute path": [prints_a_path, names_a_path],
    "metadata of a machine": [keeps_a_machine],
    "6 to 14 cells are a story": [rambles],
}


@pytest.mark.parametrize(
    ("fault", "plant"),
    [(fault, plant) for fault, plants in PLANTED.items() for plant in plants],
    ids=lambda x: getattr(x, "__name__", None),
)
def test_planted_faults_are_found(story: Book, fault: str, plant: Callable[[Book], None]) -> None:
    book = copy.deepcopy(story)
    assert fault not in faults(book)
    plant(book)
    assert fault in faults(book)


def test_stale_output_is_noticed(story: Book) -> None:
    book = copy.deepcopy(story)
    stream = next(out for cell in code(book) for out in cell.outputs if out.output_type == "stream")
    stream.text = stream.text.replace("1", "2")
    assert printed(book) != printed(story)
