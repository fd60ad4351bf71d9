"""The set of hashes: the same answers as a set of Python, in a fraction of the memory."""

from __future__ import annotations

import tracemalloc

import numpy as np

from metanmt.data.hashes import HashSet


def test_it_answers_as_a_set_does() -> None:
    rng = np.random.default_rng(1)
    ours, theirs = HashSet(), set()
    for size in rng.integers(0, 300, 200):
        hashes = rng.integers(0, 20_000, size).astype(np.uint64) << np.uint64(49)
        wanted = []
        for value in hashes.tolist():
            wanted.append(value not in theirs)
            theirs.add(value)
        assert ours.add(hashes).tolist() == wanted
        assert len(ours) == len(theirs)


def test_the_largest_and_the_smallest_hash() -> None:
    ends = np.array([0, 2**64 - 1], dtype=np.uint64)
    ours = HashSet()
    assert ours.add(ends).tolist() == [True, True]
    assert ours.add(ends[::-1]).tolist() == [False, False]


def test_it_takes_little_more_than_eight_bytes_a_hash() -> None:
    rng = np.random.default_rng(1)
    tracemalloc.start()
    ours = HashSet()
    for _ in range(500):
        ours.add(rng.integers(0, 1 << 63, 500).astype(np.uint64))
    current, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert current < 9 * len(ours)
    assert peak < 24 * len(ours)
