"""The house rules that a machine can hold: commands, packaging, module sizes, light imports, no traces of a machine."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import tpg

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
INSTALL = "pip install -c constraints.txt -e '.[test,notebooks]'"
MAX_LINES = 400

# Written so that no pattern matches itself.
TRACES = re.compile(
    rb"(?<![\w.~-])[/](?:work|tmp|root|home|opt|Users)/[\w.]"
    rb"|pypi[.]org|pythonhosted[.]org|download[.]pytorch[.]org|conda[.]anaconda[.]org|index[-]url|find[-]links|file[:]//"
)


def repository_files() -> list[Path]:
    """What git tracks; in an unpacked sdist, which has no index, everything but hidden folders and byte code."""
    git = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if (ROOT / ".git").exists() and git.returncode == 0:
        names = [os.fsdecode(name) for name in git.stdout.split(b"\0") if name]
    else:
        names = [str(file.relative_to(ROOT)) for file in ROOT.rglob("*")]
        names = [name for name in names if not re.search(r"(^|/)\.(?!ci/)|\.pyc$", name)]
    return [ROOT / name for name in names if (ROOT / name).is_file()]


def loaded_after(code: str) -> set[str]:
    """The modules a fresh interpreter holds after ``code``."""
    report = f"{code}\nimport json, sys\nprint('\\n' + json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", report], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def requirement_name(requirement: str) -> str:
    return re.sub(r"[-_.]+", "-", re.split(r"[\s\[<>=!~;]", requirement, maxsplit=1)[0]).lower()


def pins() -> dict[str, str]:
    """``constraints.txt`` as {name: version}; each line is ``name==version``, with no local tag and no address."""
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert [line for line in lines if not re.fullmatch(r"[\w.-]+==[\w.]+", line)] == []
    return {requirement_name(line): line.split("==")[1] for line in lines}


# Commands and packaging


@pytest.mark.parametrize("goal", ["tpg verify", "pytest"])
def test_readme_gives_the_two_commands(goal: str) -> None:
    readme = (ROOT / "README.md").read_text()
    found = re.findall(rf"pip install .*&& {goal}\b", readme)
    assert set(found) == {f"{INSTALL} && {goal}"}


def test_ci_is_an_executable_strict_script_that_reads_its_test_command_from_the_readme() -> None:
    script = ROOT / ".ci" / "run"
    text = script.read_text()
    assert os.access(script, os.X_OK)
    assert "set -euo pipefail" in text
    assert INSTALL not in text
    assert "README.md" in text
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0


def test_version_is_the_same_everywhere() -> None:
    assert PROJECT["version"] == tpg.__version__ == importlib.metadata.version("tpg")


def test_installed_metadata_lists_the_entry_points() -> None:
    distribution = importlib.metadata.distribution("tpg")
    points = {(point.group, point.name): point.value for point in distribution.entry_points}
    assert points["tpg.claims", "paper"] == "paper_checks"
    assert points["console_scripts", "tpg"] == "tpg.cli.main:main"


def test_bounds_are_open_and_the_constraints_pin_each_of_them() -> None:
    wanted = [*PROJECT["dependencies"], *(r for extra in PROJECT["optional-dependencies"].values() for r in extra)]
    assert all(re.fullmatch(r"[\w.-]+(\[\w+\])?>=[\d.]+", requirement) for requirement in wanted)
    assert {requirement_name(requirement) for requirement in wanted} <= set(pins())


# Code


@pytest.mark.parametrize("path", sorted((ROOT / "tpg").rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_are_short(path: Path) -> None:
    lines = len(path.read_text().splitlines())
    assert lines <= MAX_LINES, f"{lines} lines: split it"


def test_import_tpg_is_light() -> None:
    assert not loaded_after("import tpg") & {"torch", "scipy.stats", "matplotlib", "pydantic"}


def test_help_is_lighter() -> None:
    modules = loaded_after(
        "import sys\n"
        "from tpg.cli.main import main\n"
        "sys.argv = ['tpg', '--help']\n"
        "try:\n"
        "    main()\n"
        "except SystemExit as stop:\n"
        "    assert not stop.code"
    )
    assert "tpg.cli.main" in modules
    assert not modules & {"numpy", "scipy", "flint", "pydantic", "torch", "matplotlib"}


# Traces


def test_repository_keeps_no_traces_of_a_machine() -> None:
    found = {str(file.relative_to(ROOT)): TRACES.findall(file.read_bytes()) for file in repository_files()}
    assert {name: traces for name, traces in found.items() if traces} == {}


@pytest.mark.parametrize(
    "text", ["see [/]work/x", "'[/]tmp/a.json'", "https://pypi[.]org/simple", "--find[-]links x", "path=[/]home/me"]
)
def test_the_trace_pattern_finds_traces(text: str) -> None:
    assert TRACES.search(re.sub(r"[][]", "", text).encode())
    assert not TRACES.search(text.encode())


def test_the_trace_pattern_lets_the_rest_pass() -> None:
    assert not TRACES.search(b"#!/usr/bin/env bash; a/work/b; $TMPDIR/x; https://example.org/home/x; 1/rootless")
