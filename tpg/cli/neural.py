"""``tpg verify --neural``: the same claims on a transformer, against its exact gradient."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tpg.claims import registry
from tpg.claims.run import run_on
from tpg.cli import render
from tpg.cli.output import Destination
from tpg.cli.verify import outcomes_of, report
from tpg.errors import TpgError

if TYPE_CHECKING:
    from tpg.neural.case import Case

QUICK = {"vocab": 3, "horizon": 3, "width": 8, "heads": 2}


def verify(labels: Sequence[str], quick: bool, sizes: dict[str, Any], target: Destination) -> int:
    """Run the claims named, or all, on networks of the ``sizes`` given; return the exit code."""
    started = time.perf_counter()
    try:
        claims = registry.choose(labels, registry.NEURAL)
    except ModuleNotFoundError as error:
        raise TpgError(f"{error.name} is missing: pip install 'tpg[neural]', or leave --neural out") from error
    from tpg.neural.case import Size, cases, spare_threads

    given = (QUICK if quick else {}) | {name: value for name, value in sizes.items() if value is not None}
    subjects = cases(Size(**given))
    spare_threads(subjects[0])
    outcomes = outcomes_of(claims, lambda claim, progress: run_on(claim, subjects, progress))
    target.write([dataclasses.asdict(outcome) for outcome in outcomes])
    render.show(target.prose, *report(outcomes, describe(subjects), time.perf_counter() - started))
    return render.exit_code(outcome.status for outcome in outcomes)


def describe(subjects: Sequence[Case]) -> str:
    """The network and its tasks, in a sentence."""
    network, names = subjects[0].network, "; ".join(case.name for case in subjects)
    dtype = str(network.dtype).removeprefix("torch.")
    return (
        f"a transformer of {network.layers} layers, width {network.width}, {network.size:,} parameters, {dtype} on "
        f"{network.device.type}; {network.vocab} tokens, horizon {network.horizon}, {network.prompts} prompts; {names}"
    )
