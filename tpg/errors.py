"""The exceptions users meet.  Each message says what was given, what was needed and what to do, in one line."""

from __future__ import annotations


class TpgError(ValueError):
    """Bad input.  The command line prints the message and exits with code 2."""


class ProblemError(TpgError):
    """A problem that is not a token-generation problem (probabilities, tree, rewards, files)."""


class EstimatorError(TpgError):
    """An estimator that cannot be computed from what it was given (group of one, empty mask, missing field)."""


class TooLarge(TpgError):
    """Work refused before it starts, with the estimated size."""

    @classmethod
    def check(cls, what: str, size: float, limit: float, remedy: str) -> None:
        """Raise when ``size`` exceeds ``limit``; sizes beyond floats count as 1e300."""
        size = min(size, 1e300)
        if size > limit:
            raise cls(f"{what} would need {size:.3g} entries, the limit is {limit:.3g}: {remedy}")
