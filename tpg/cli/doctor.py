"""``tpg doctor``: what this machine offers, and what is broken with the remedy."""

from __future__ import annotations

import dataclasses
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import tpg
from tpg.cli.output import Destination, one_line

NEEDED = ("numpy", "scipy", "python-flint", "pydantic", "typer", "rich")
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
REINSTALL = "install the package again: pip install -e ."
SELF_CHECK = "lem:baseline"


@dataclass(frozen=True)
class Finding:
    """One thing looked at.  ``remedy`` is empty where nothing is broken."""

    what: str
    found: str
    remedy: str = ""

    @property
    def ok(self) -> bool:
        """Nothing to mend."""
        return not self.remedy


def doctor(target: Destination) -> int:
    """Look at everything; exit code 1 if something is broken."""
    findings = list(examine())
    ok = all(finding.ok for finding in findings)
    target.write({"ok": ok, "checks": [{**dataclasses.asdict(each), "ok": each.ok} for each in findings]})
    _show(findings, target)
    return 0 if ok else 1


def _show(findings: list[Finding], target: Destination) -> None:
    from rich.text import Text

    from tpg.cli import render

    broken = [each for each in findings if not each.ok]
    marks = [Text("ok", "green") if each.ok else Text("broken", "bold red") for each in findings]
    rows: list[render.Cells] = [[mark, each.what, each.found] for mark, each in zip(marks, findings, strict=True)]
    remedies = [Text(f"{each.what}: {each.remedy}") for each in broken]
    verdict = f"{len(broken)} broken." if broken else "Nothing is broken."
    render.show(target.prose, render.table(("", "what", "found"), rows), "", verdict, *remedies)


def examine() -> Iterator[Finding]:
    """All findings, the cheap ones first."""
    yield Finding("python", f"{platform.python_version()} ({platform.system()} {platform.machine()})")
    yield Finding("tpg", tpg.__version__)
    yield from map(_package, NEEDED)
    yield Finding("torch", _torch())
    yield Finding("cores", _cores())
    yield Finding("threads", _threads())
    yield Finding("memory", _memory())
    yield Finding("GPU", _gpu())
    yield Finding("encoding", sys.stdout.encoding or "none")
    yield _trial("folder", _folder, "go to a folder that you may write to")
    yield _trial("claims", _claims, REINSTALL)
    yield _trial("self-check", _self_check, REINSTALL)


def _trial(what: str, act: Callable[[], str], remedy: str) -> Finding:
    """What ``act`` found, or the error that stopped it."""
    try:
        return Finding(what, act())
    except Exception as error:
        return Finding(what, one_line(f"{type(error).__name__}: {error}"), remedy)


def _package(name: str) -> Finding:
    try:
        return Finding(name, version(name))
    except PackageNotFoundError:
        return Finding(name, "not installed", REINSTALL)


def _torch() -> str:
    """By its metadata: an import would take seconds."""
    try:
        return version("torch")
    except PackageNotFoundError:
        return "not installed; only transformers need it: pip install 'tpg[neural]'"


def _cores() -> str:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{usable} of {os.cpu_count()}"


def _threads() -> str:
    """The limits that linear algebra obeys."""
    return ", ".join(f"{name}={os.environ[name]}" for name in THREADS if name in os.environ) or "not limited"


def _memory() -> str:
    try:
        page, pages, free = (os.sysconf(key) for key in ("SC_PAGE_SIZE", "SC_PHYS_PAGES", "SC_AVPHYS_PAGES"))
    except (AttributeError, ValueError, OSError):
        return "unknown"
    return f"{page * free / 2**30:.1f} GiB free of {page * pages / 2**30:.1f}"


def _gpu() -> str:
    command = shutil.which("nvidia-smi")
    if command is None:
        return "none found (no nvidia-smi); none is needed"
    query = [command, "--query-gpu=name,memory.total", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return "nvidia-smi does not answer; none is needed"
    return one_line("; ".join(done.stdout.strip().splitlines())) or "none"


def _folder() -> str:
    with tempfile.TemporaryFile(dir="."):
        return f"{os.getcwd()} is writable"


def _claims() -> str:
    from tpg.claims import registry

    return f"{len(registry.load())} found"


def _self_check() -> str:
    from tpg.claims import registry
    from tpg.claims.run import run

    outcome = run(registry.load()[SELF_CHECK], quick=True)
    if outcome.status != "holds":
        raise ArithmeticError(f"{SELF_CHECK} must hold, but is {outcome.status}: {outcome.why}")
    return f"{SELF_CHECK} is {outcome.evidence} in {outcome.seconds:.2f} s"
