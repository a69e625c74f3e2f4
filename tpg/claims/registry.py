"""Finds claims: every installed package may offer some through the entry-point group ``tpg.claims``.

Those of ``tpg.neural_claims`` are checked on networks and need torch.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from importlib.metadata import entry_points

from tpg.claims.record import Claim
from tpg.errors import TpgError

GROUP, NEURAL = "tpg.claims", "tpg.neural_claims"


def load(group: str = GROUP) -> dict[str, Claim]:
    """All claims by label, in the order of their modules: an entry point names a module with a list ``CLAIMS``."""
    found: dict[str, Claim] = {}
    for entry in entry_points(group=group):
        for claim in entry.load().CLAIMS:
            if claim.label in found:
                raise TpgError(f"claim {claim.label!r} is registered twice: labels name one statement each")
            found[claim.label] = claim
    if not found:
        raise TpgError(f"no claims found under the entry point {group!r}: install the package (pip install -e .)")
    return found


def choose(labels: Iterable[str], group: str = GROUP) -> list[Claim]:
    """The claims named, with everything they need, or all; an unknown label lists near matches."""
    known = load(group)
    wanted = list(labels) or list(known)
    for label in wanted:
        if label not in known:
            if group == GROUP and label.startswith("neural:"):
                raise TpgError(f"claim {label!r} is about networks: add --neural (`tpg list claims` shows all)")
            near = difflib.get_close_matches(label, known, n=3, cutoff=0.4) or list(known)
            raise TpgError(f"unknown claim {label!r}: did you mean {', '.join(near)}? (`tpg list claims` shows all)")
    todo, chosen = list(wanted), set(wanted)
    while todo:
        for needed in known[todo.pop()].needs:
            if needed not in known:
                raise TpgError(f"a claim needs {needed!r}, which no installed package offers: correct its label")
            if needed not in chosen:
                chosen.add(needed)
                todo.append(needed)
    return [claim for label, claim in known.items() if label in chosen]
