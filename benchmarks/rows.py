"""Every row of the table on a tree of 4⁸ = 65,536 responses, G = 8: ``python -m benchmarks.rows``.

Writes ``benchmarks/rows.md``.  Times are those of one run on one machine; the unit beside them is REINFORCE's.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from tpg.errors import TpgError
from tpg.estimators.estimator import Estimator
from tpg.estimators.table import FAMILIES
from tpg.moments import moments
from tpg.problem import zoo
from tpg.problem.problem import Problem

LIMIT = 10.0  # seconds
SIZE = 8


def suited(row: Estimator, problem: Problem, policy: np.ndarray) -> Problem:
    """The problem with what the row needs: a reference policy for KL terms, another behaviour policy for ratios."""
    more = {}
    if any("ref_" in field for field in row.needs):
        more["reference"] = policy
    if "ratio" in row.needs or "sequence_ratio" in row.needs:
        more["behaviour"] = policy
    return replace(problem, **more)


def seconds(row: Estimator, problem: Problem) -> float | str:
    """How long the exact mean and variance took, or why there is none."""
    start = time.perf_counter()
    try:
        moments(problem, row, max(SIZE, row.min_group))
    except TpgError as error:
        return str(error)
    return time.perf_counter() - start


def main() -> None:
    """Measure every row and write the table."""
    problem = zoo.large(horizon=8)
    other = zoo.large(seed=1, horizon=8).probs
    mixed = 0.8 * problem.probs + 0.2 * other
    lines, slow = [], []
    unit = None
    for family in FAMILIES:
        for row in family.ROWS:
            found = seconds(row, suited(row, problem, mixed))
            if isinstance(found, str):
                lines.append(f"| {row.name} | none: {found} | |")
            else:
                unit = unit or found
                lines.append(f"| {row.name} | {found:.2f} s | {found / unit:.1f} × |")
                slow += [row.name] if found > LIMIT else []
            sys.stderr.write(lines[-1] + "\n")
    head = f"# Exact moments of every row, 4⁸ responses, G = {SIZE}\n\nMade by `python -m benchmarks.rows`.\n\n"
    text = head + f"Above {LIMIT:.0f} s: {', '.join(slow) or 'none'}.\n\n"
    text += "| row | mean and variance | against REINFORCE |\n|---|---|---|\n" + "\n".join(lines) + "\n"
    Path(__file__).with_suffix(".md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
