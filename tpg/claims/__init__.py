"""Claims: statements by label, with the checks that decide them."""

from tpg.claims.record import Claim, Finding, nonzero, positive, zero

__all__ = ["Claim", "Finding", "nonzero", "positive", "zero"]
