"""64-bit hashes: sets of them that take little more memory than they do, and those of sentences as ids."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]
AT_ONCE = 100_000  # sentences
FACTOR, MIX = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD6E8FEB86659FD93)


def sentence_hashes(ids: NDArray[Any], offsets: NDArray[np.int64], ignored: Collection[int]) -> Hashes:
    """Return a hash of every sentence's ids in their order, but for those that are ignored, at its beginning and end.

    Args:
        ids: of all sentences; each has one at least.
        offsets: sentence i is `ids[offsets[i]:offsets[i + 1]]`.
        ignored: ids such as tags and end marks.
    """
    found = np.zeros(len(offsets) - 1, dtype=np.uint64)
    for start in range(0, len(found), AT_ONCE):
        ends = np.asarray(offsets[start : start + AT_ONCE + 1]) - offsets[start]
        part = np.asarray(ids[offsets[start] : offsets[start] + ends[-1]])
        kept = (~np.isin(part, np.fromiter(ignored, dtype=np.int64))).astype(np.int64)
        mixed = (part.astype(np.uint64) + np.uint64(1)) * MIX
        mixed = (mixed ^ (mixed >> np.uint64(32))) * kept.astype(np.uint64)
        lengths = np.diff(ends)
        from_end = np.repeat(np.add.reduceat(kept, ends[:-1]), lengths) - _ranks(kept, ends[:-1], lengths)
        powers = FACTOR ** np.arange(int(from_end.max(initial=0)) + 1, dtype=np.uint64)
        found[start : start + AT_ONCE] = np.add.reduceat(mixed * powers[from_end], ends[:-1])
    return found


def _ranks(kept: NDArray[np.int64], starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return for every id how many are kept up to it in its sentence."""
    counted = np.cumsum(kept)
    before = counted[starts] - kept[starts]
    return np.asarray(counted - np.repeat(before, lengths))


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
