"""Sets of 64-bit hashes that take little more memory than the hashes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]


class HashSet:
    """A set that grows by arrays of hashes and is kept as sorted runs, each at least twice as long as the next.

    A hash takes 8 bytes, and up to 20 while the longest runs are merged; a Python set of integers takes 60 to 100.
    """

    def __init__(self) -> None:
        self._runs: list[Hashes] = []

    def add(self, hashes: Hashes) -> NDArray[np.bool_]:
        """Add hashes and return which of them were new: not in the set, nor earlier in the array."""
        values, first = np.unique(hashes, return_index=True)
        unknown = np.ones(len(values), dtype=bool)
        for run in self._runs:
            places = np.searchsorted(run, values)
            unknown &= run.take(places, mode="clip") != values
        new = np.zeros(len(hashes), dtype=bool)
        new[first[unknown]] = True
        if unknown.any():
            self._runs.append(values[unknown])
        while len(self._runs) > 1 and len(self._runs[-2]) < 2 * len(self._runs[-1]):
            last, before = self._runs.pop(), self._runs.pop()
            merged = np.concatenate([before, last])
            del last, before
            merged.sort(kind="stable")
            self._runs.append(merged)
        return new

    def __len__(self) -> int:
        return sum(map(len, self._runs))
