"""Runs claims and computes their status.  Nothing here can be typed by hand: a status is a function of findings."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from tpg.claims.cases import POINT_FIELD, cases
from tpg.claims.record import Check, Claim, Finding
from tpg.errors import TooLarge
from tpg.numbers import MERSENNE_61, RATIONAL

HOLDS, REFUTED, UNDECIDED = "holds", "refuted", "undecided"
POINTS = 2  # random points of GF(p) per shape
Progress = Callable[[str, int, int], None]  # label, steps done, steps in all


class Subject(Protocol):
    """What a claim can be checked on: a problem, or a network with its task."""

    @property
    def name(self) -> str:
        """For people."""


@dataclass(frozen=True)
class Outcome:
    """What became of a claim.

    ``status``: holds, refuted or undecided.  ``evidence``: PROVED (identity for the listed shapes and ``group_sizes``,
    wrong with probability at most ``error_probability``; every finding in exact numbers), MEASURED (on the listed
    problems, in exact numbers or in floating point), TESTED (by sampling; that is the probability of a false alarm),
    REFUTED, or OPEN (a mutant survived, or a needed claim does not hold).
    """

    label: str
    statement: str
    status: str
    evidence: str
    seconds: float
    why: str
    shapes: int
    findings: int
    mutants: dict[str, str]  # mutant → the problem that refuted it, or "survived"
    error_probability: float | None
    needs: tuple[str, ...]
    wording: str = ""  # what a publication says, where the statement differs from it
    as_worded: str | None = None  # "confirmed", or "refuted on …"
    group_sizes: tuple[int, ...] = ()  # every G at which the check formed groups; none: single responses


@dataclass
class _Tally:
    """Counts findings and keeps the first failure."""

    count: int = 0
    failure: str = ""
    alpha: float = 0.0  # that any of the tests among the findings raised a false alarm
    rounded: str = ""  # the first finding in floating point

    def add(self, findings: Iterable[Finding], where: str) -> None:
        for found in findings:
            self.count += found.numbers > 0
            self.alpha += found.alpha
            self.rounded = self.rounded or ("" if found.exact else found.what)
            if not found.ok and not self.failure:
                self.failure = f"{where}: {found.what}: {found.value}"


def run(claim: Claim, quick: bool = False, seed: int = 0, progress: Progress | None = None) -> Outcome:
    """Check ``claim`` on every contrast, exactly, then every mutant."""
    shapes = list(cases(claim.discounts, quick))
    fields = [RATIONAL] + [POINT_FIELD] * (POINTS if claim.algebraic else 0)
    subjects = [[case.problem(field, seed + 1000 * point) for point, field in enumerate(fields)] for case in shapes]
    found = _judged(claim, subjects, progress)
    if found.evidence != "PROVED":
        return found
    chance = sum((claim.degree(case.horizon) / MERSENNE_61) ** POINTS for case in shapes)
    return replace(found, error_probability=chance)


def run_on(claim: Claim, subjects: Sequence[Subject], progress: Progress | None = None) -> Outcome:
    """Check ``claim`` on the ``subjects`` given (its check knows what they are), then every mutant on them.

    Undecided where an engine refuses one of them as too large.
    """
    try:
        return _judged(replace(claim, algebraic=False), [[subject] for subject in subjects], progress)
    except TooLarge as refusal:
        nothing = _outcome(claim, _Tally(), {}, len(subjects), 0.0)
        return replace(nothing, why=str(refusal), wording=claim.wording, group_sizes=claim.group_sizes)


def _judged(claim: Claim, subjects: Sequence[Sequence[Any]], progress: Progress | None) -> Outcome:
    """``subjects``: for each shape what the check is run on; mutants and wordings are tried on the first of each."""
    started, tally = time.perf_counter(), _Tally()
    steps = len(subjects) + len(claim.mutants)
    for done, same_shape in enumerate(subjects):
        _tick(progress, claim.label, done, steps)
        for subject in same_shape:
            tally.add(claim.check(subject), subject.name)
    if claim.example is not None:
        tally.add(claim.example(), "example")
    beside = _Tally()
    if claim.beside is not None:
        beside.add(claim.beside(), "beside")
    tally.failure = tally.failure or beside.failure
    mutants, measured = {}, [same_shape[0] for same_shape in subjects]
    for done, (name, mutant) in enumerate(claim.mutants.items()):
        _tick(progress, claim.label, len(subjects) + done, steps)
        mutants[name] = refuted_on(mutant, measured)
    fate = None if claim.as_worded is None else refuted_on(claim.as_worded, measured)
    as_worded = fate if fate is None else "confirmed" if fate == "survived" else f"refuted on {fate}"
    _tick(progress, claim.label, steps, steps)
    found = _outcome(claim, tally, mutants, len(subjects), time.perf_counter() - started)
    return replace(found, wording=claim.wording, as_worded=as_worded, group_sizes=claim.group_sizes)


def _tick(progress: Progress | None, label: str, done: int, steps: int) -> None:
    if progress is not None:
        progress(label, done, steps)


def refuted_on(mutant: Check, problems: Sequence[Any]) -> str:
    """The first problem on which ``mutant`` fails, or "survived"."""
    for problem in problems:
        if not all(found.ok for found in mutant(problem)):
            return problem.name
    return "survived"


def _outcome(claim: Claim, tally: _Tally, mutants: dict[str, str], shapes: int, seconds: float) -> Outcome:
    survivors = [name for name, fate in mutants.items() if fate == "survived"]
    if tally.failure:
        status, evidence, why = REFUTED, "REFUTED", tally.failure
    elif not tally.count:
        status, evidence, why = UNDECIDED, "OPEN", "the check computed nothing"
    elif survivors or not mutants:
        status, evidence, why = (
            UNDECIDED,
            "OPEN",
            f"the check lets mutants pass: {', '.join(survivors) or 'none given'}",
        )
    elif claim.algebraic and not tally.rounded:
        status, evidence, why = HOLDS, "PROVED", f"identity in GF(2^61-1) at {POINTS} random points of each shape"
    elif tally.alpha:
        status, evidence, why = HOLDS, "TESTED", "not rejected; a false alarm at most with the probability stated"
    elif claim.algebraic:
        status, evidence, why = HOLDS, "MEASURED", f"rounded, so that nothing is proved: {tally.rounded}"
    else:
        status, evidence, why = HOLDS, "MEASURED", "on every problem listed, exactly or but for rounding"
    return Outcome(
        label=claim.label,
        statement=claim.statement,
        status=status,
        evidence=evidence,
        seconds=round(seconds, 3),
        why=why,
        shapes=shapes,
        findings=tally.count,
        mutants=mutants,
        error_probability=tally.alpha or None,
        needs=claim.needs,
    )


def verify(claims: Sequence[Claim], quick: bool = False, progress: Progress | None = None) -> list[Outcome]:
    """Run ``claims`` in order; one that needs another which does not hold is left open."""
    return settle([run(claim, quick, progress=progress) for claim in claims])


def settle(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """A claim holds only together with everything it needs, and with what that needs."""
    by_label = {o.label: o for o in outcomes}
    for _ in outcomes:  # dependencies are at most this deep
        for label, outcome in by_label.items():
            broken = [n for n in outcome.needs if n not in by_label or by_label[n].status != HOLDS]
            if outcome.status == HOLDS and broken:
                why = f"needs {', '.join(broken)}, which does not hold or was not run"
                by_label[label] = replace(outcome, status=UNDECIDED, evidence="OPEN", why=why)
    return list(by_label.values())
