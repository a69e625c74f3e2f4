"""Claims: statements by label, with the checks that decide them."""

from tpg.claims.record import Claim, Finding, apart, close, nonzero, positive, zero

__all__ = ["Claim", "Finding", "apart", "close", "nonzero", "positive", "zero"]
