"""What was to be decided is claimed: labels of theory.md §2 and §3, rows of the ledger, readings of one sentence."""

from __future__ import annotations

import re

from paper_checks import CLAIMS
from tpg.claims import Claim

BY_LABEL = {claim.label: claim for claim in CLAIMS}
THEORY = [
    "lem:exact-gradient",
    "lem:baseline",
    "thm:trajectory-pg",
    "prop:gamma-weight",
    "thm:advantage",
    "prop:reinforce-family",
    "prop:sigma",
    "prop:modelling-power",
    "prop:silent-group",
    "alg:trepo",
    "prop:gae-pathwise",
    "prop:reward-class",
    "prop:optimal-baseline",
    "prop:group-mean",
    "prop:count-rules",
    "prop:sigma-turns",
    "prop:length",
    "prop:trepo-interpolation",
    "prop:noncausal-redistribution",
    "prop:rollout-variance",
    "prop:kl-table",
    "prop:off-policy",
]
READINGS = {  # of one sentence: σ acts like a smaller learning rate
    "prop:sigma": "along each prompt's own gradient, two reward values",
    "prop:sigma-turns": "along each prompt's own gradient, three reward values",
    "claim:sigma-one-constant": "one constant for all prompts, at G = 4",
    "claim:sigma-smaller": "shorter than with the mean baseline alone, rewards 0 and 1",
}


def rows_of(claim: Claim) -> set[int]:
    """Ledger rows that the source names."""
    found = re.search(r"; ledger (\d+(?:, \d+)*)$", claim.source)
    assert (found is None) == ("ledger" not in claim.source), claim.source
    return set() if found is None else {int(row) for row in found[1].split(", ")}


def test_every_label_of_the_theory_is_claimed() -> None:
    assert set(THEORY) <= set(BY_LABEL)


def test_every_row_of_the_ledger_is_answered() -> None:
    assert {row for claim in CLAIMS for row in rows_of(claim)} == set(range(1, 31))


def test_every_reading_of_a_sentence_is_a_claim_of_its_own() -> None:
    sentence = "dividing by σ acts like a smaller learning rate"
    worded = {claim.label: claim.wording for claim in CLAIMS if claim.wording.startswith(sentence)}
    assert worded == {label: f"{sentence} (read: {how})" for label, how in READINGS.items()}
    assert all(rows_of(BY_LABEL[label]) == {3} for label in READINGS)
