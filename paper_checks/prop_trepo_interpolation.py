"""prop:trepo-interpolation: the four readings of TRePO together; each has a claim of its own."""

from __future__ import annotations

from collections.abc import Sequence

from paper_checks import (
    prop_trepo_advantage_interpolation,
    prop_trepo_block,
    prop_trepo_inverse_probability,
    prop_trepo_value_interpolation,
)
from paper_checks.common import both
from tpg.claims import Claim, Finding

READINGS = (
    prop_trepo_advantage_interpolation.CLAIM,
    prop_trepo_value_interpolation.CLAIM,
    prop_trepo_block.CLAIM,
    prop_trepo_inverse_probability.CLAIM,
)


def example() -> Sequence[Finding]:
    """The existential parts of all four."""
    return [found for reading in READINGS if reading.example is not None for found in reading.example()]


CLAIM = Claim(
    label="prop:trepo-interpolation",
    statement="interpolated advantages add nothing in expectation; interpolated values are in general biased unless "
    "E[1/block length] is the same at all positions; block-telescoped credit is unbiased when block ends are stopping "
    "times; masking with inverse inclusion probability is unbiased",
    source="ours, on the words of arXiv 2506.02553",
    hypotheses=("anchors are drawn apart from the response", "values at anchors are exact or unbiased and fresh"),
    check=both(*(reading.check for reading in READINGS)),
    example=example,
    mutants={f"{each.label}: {name}": mutant for each in READINGS for name, mutant in each.mutants.items()},
    needs=tuple(reading.label for reading in READINGS),
    degree=lambda horizon: max(reading.degree(horizon) for reading in READINGS),
)
