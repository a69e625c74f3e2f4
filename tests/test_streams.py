"""Streams: the key alone decides the numbers."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tpg.errors import EstimatorError
from tpg.montecarlo.streams import chunks, stream

# Keys that a careless spelling (concatenation, str, hash(-1) == hash(-2)) would confuse.
KEYS: list[tuple[str | int, ...]] = [
    (), ("",), ("", ""), ("a", "b"), ("ab",), ("a,b",), ('a", "b',), ("b", "a"), ("a",), ("1",), (1,), (1, 1), (11,),
    (0,), (-1,), (-2,), (2**32,), (2**64,), (2**64 + 2**32,), ("é",), ("e\u0301",),
]  # fmt: skip
PINNED = [11555297645394008506, 11906415605818494319]


def draw(root: int, *key: str | int) -> tuple[int, ...]:
    return tuple(stream(root, *key).integers(2**63, size=4).tolist())


def test_same_key_same_numbers_in_any_order_and_thread() -> None:
    forward = [draw(3, *key) for key in KEYS]
    backward = [draw(3, *key) for key in reversed(KEYS)][::-1]
    with ThreadPoolExecutor(4) as pool:
        threaded = list(pool.map(lambda key: draw(3, *key), KEYS))
    assert forward == backward == threaded


def test_different_keys_and_roots_give_different_numbers() -> None:
    drawn = [draw(root, *key) for root in (0, 1, 2**70) for key in KEYS]
    assert len({number for numbers in drawn for number in numbers}) == 4 * len(drawn)


def test_numpy_integers_are_integers() -> None:
    assert draw(0, "chunk", np.int64(5)) == draw(0, "chunk", 5)  # type: ignore[arg-type]


def test_numbers_are_pinned() -> None:
    # A change here moves every Monte Carlo result.  Raw Philox words, which NumPy promises to keep.
    assert stream(7, "rloo", 0).bit_generator.random_raw(2).tolist() == PINNED


@pytest.mark.parametrize("salt", ["0", "1", "random"])
def test_independent_of_the_hash_seed(salt: str) -> None:
    code = "from tpg.montecarlo.streams import stream; print(stream(7, 'rloo', 0).bit_generator.random_raw(2).tolist())"
    root = Path(__file__).resolve().parents[1]
    env = os.environ | {"PYTHONHASHSEED": salt}
    done = subprocess.run([sys.executable, "-c", code], cwd=root, env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(PINNED)


@pytest.mark.parametrize("part", [0.5, None, True, ("a",), b"a"])
def test_refuses_other_key_parts(part: object) -> None:
    with pytest.raises(EstimatorError, match=r"^stream key part .* is a \w+: give strings and integers$"):
        stream(0, "cell", part)  # type: ignore[arg-type]


@pytest.mark.parametrize(("total", "size"), [(0, 5), (1, 5), (5, 5), (12, 5), (7, 1)])
def test_chunks_cover_the_total_once(total: int, size: int) -> None:
    pieces = list(chunks(total, size))
    assert [index for index, _ in pieces] == list(range(len(pieces)))
    assert sum(count for _, count in pieces) == total
    assert all(count == size for _, count in pieces[:-1])
    assert all(0 < count <= size for _, count in pieces)


@pytest.mark.parametrize(("total", "size"), [(5, 0), (5, -1), (-1, 5)])
def test_refuses_impossible_chunks(total: int, size: int) -> None:
    with pytest.raises(EstimatorError, match="give a total of 0 or more and a size above 0"):
        chunks(total, size)
