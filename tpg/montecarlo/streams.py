"""Random streams named by what they are for: the same name gives the same numbers in any order, worker or process."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator

import numpy as np

from tpg.errors import EstimatorError


def stream(root: int, *key: str | int) -> np.random.Generator:
    """The generator that belongs to ``key``, e.g. ``stream(seed, "grpo", problem_digest, chunk_index)``.

    Philox (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) seeded by ``root`` and the SHA-256 of
    the key.  ``hash()`` would not do: Python salts it anew in every process.  ("a", "b"), ("ab",), ("1",) and (1,) are
    all different keys.  Raises EstimatorError on anything but strings and integers, whose spelling is never in doubt.

    >>> int(stream(7, "rloo", 0).integers(1000)) == int(stream(7, "rloo", 0).integers(1000))
    True
    """
    for part in key:
        if isinstance(part, bool) or not isinstance(part, (str, int, np.integer)):
            raise EstimatorError(f"stream key part {part!r} is a {type(part).__name__}: give strings and integers")
    spelling = json.dumps([part if isinstance(part, str) else int(part) for part in key])
    words = np.frombuffer(hashlib.sha256(spelling.encode()).digest(), dtype="<u4")  # the same on every machine
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(root, spawn_key=tuple(words.tolist()))))


def chunks(total: int, size: int) -> Iterator[tuple[int, int]]:
    """(index, count) of the pieces that ``total`` observations are drawn in: ``size`` each, the last one the rest.

    The index goes into the stream's key, so any worker can draw any piece.  Raises EstimatorError on a size below 1.

    >>> list(chunks(7, 3))
    [(0, 3), (1, 3), (2, 1)]
    """
    if size < 1 or total < 0:
        raise EstimatorError(f"{total} observations in chunks of {size}: give a total of 0 or more and a size above 0")
    return ((index, min(size, total - start)) for index, start in enumerate(range(0, total, size)))
