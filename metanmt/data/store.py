"""The token store: flat memory-mapped arrays that open in milliseconds, whatever their size.

A data folder holds `data.json` (what is in it), `tokenizer/`, `text/` (the cleaned sentences) and `tokens/`, where a
set of a pair is five arrays: ids and offsets of each side, and the words of each target sentence, in which budgets are
counted. Training needs `data.json`, `tokenizer/` and `tokens/` only.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from metanmt.data.language import Pair
from metanmt.errors import DataError, UsageError, did_you_mean

FORMAT = 1
FACTS_FILE = "data.json"
ENCODE_LINES = 20_000


@dataclass(frozen=True)
class Side:
    """The sentences of one language as one flat array: sentence i is `ids[offsets[i]:offsets[i + 1]]`."""

    ids: NDArray[Any]
    offsets: NDArray[np.int64]

    @classmethod
    def of(cls, sentences: Sequence[Sequence[int]]) -> Self:
        """Return a side in memory from lists of ids."""
        offsets = np.zeros(len(sentences) + 1, dtype=np.int64)
        np.cumsum([len(sentence) for sentence in sentences], out=offsets[1:])
        ids = np.fromiter((index for sentence in sentences for index in sentence), dtype=np.int32, count=offsets[-1])
        return cls(ids, offsets)

    def lengths(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the number of tokens of each sentence."""
        return np.asarray(self.offsets[indices + 1]) - np.asarray(self.offsets[indices])

    def sentence(self, index: int) -> NDArray[Any]:
        """Return the ids of one sentence."""
        return np.asarray(self.ids[self.offsets[index] : self.offsets[index + 1]])

    def padded(self, indices: NDArray[np.int64], pad_id: int) -> NDArray[np.int64]:
        """Return the sentences as one array (B, longest), padded at the end."""
        lengths = self.lengths(indices)
        columns = np.arange(lengths.max(initial=0))
        inside = columns < lengths[:, None]
        out = np.full(inside.shape, pad_id, dtype=np.int64)
        out[inside] = self.ids[(np.asarray(self.offsets[indices])[:, None] + columns)[inside]]
        return out

    def take(self, indices: NDArray[np.int64]) -> Self:
        """Return these sentences, copied into memory."""
        return type(self).of([self.sentence(int(index)).tolist() for index in indices])


@dataclass(frozen=True)
class Bitext:
    """Tokenised sentence pairs; sentence i of `source` is translated by sentence i of `target`.

    `target_words` counts the white-space words of each target sentence: the unit of a budget.
    """

    source: Side
    target: Side
    target_words: NDArray[Any]

    def __len__(self) -> int:
        return len(self.target_words)

    def take(self, indices: NDArray[np.int64]) -> Bitext:
        """Return these sentence pairs, copied into memory."""
        return Bitext(self.source.take(indices), self.target.take(indices), np.asarray(self.target_words[indices]))

    def draw(self, budget_words: int, seed: int) -> Bitext:
        """Return a seeded draw of sentence pairs with at most `budget_words` target words, and at least one pair.

        A larger budget with the same seed contains the smaller one.

        Raises:
            UsageError: the budget is larger than the corpus.
        """
        total = int(np.asarray(self.target_words, dtype=np.int64).sum())
        if budget_words > total:
            raise UsageError(
                f"A budget of {budget_words:,} words is larger than the corpus of {total:,}.",
                f"Give a budget of at most {total:,} words.",
            )
        order = np.random.default_rng([seed, 7]).permutation(len(self))
        words = np.cumsum(np.asarray(self.target_words, dtype=np.int64)[order])
        return self.take(order[: max(1, int(np.searchsorted(words, budget_words, side="right")))])

    def head(self, sentences: int) -> Bitext:
        """Return the first sentence pairs, at most this many."""
        return self.take(np.arange(min(sentences, len(self))))

    def shorter_than(self, max_tokens: int) -> NDArray[np.int64]:
        """Return the indices of pairs with at most `max_tokens` tokens on both sides."""
        fits = (np.diff(self.source.offsets) <= max_tokens) & (np.diff(self.target.offsets) <= max_tokens)
        return np.flatnonzero(fits)


class TokenStore:
    """An opened data folder."""

    def __init__(self, folder: Path, facts: dict[str, Any]) -> None:
        self.folder, self.facts = folder, facts

    @classmethod
    def open(cls, folder: Path) -> TokenStore:
        """Return the store of a folder that `metanmt prepare` made.

        Raises:
            DataError: it is missing, damaged, or of another format version.
        """
        path = folder / FACTS_FILE
        remedy = "Give the folder that `metanmt prepare ... --out` wrote."
        if not path.is_file():
            raise DataError(f"{folder} is not a prepared data folder: it has no {FACTS_FILE}.", remedy)
        try:
            facts = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            raise DataError(f"{path} is damaged.", "Run `metanmt prepare` again.") from None
        if facts.get("format") != FORMAT:
            raise DataError(f"{folder} was prepared by another version of metanmt.", "Run `metanmt prepare` again.")
        return cls(folder, facts)

    @property
    def tokenizer_folder(self) -> Path:
        """Where the tokenizer lies."""
        return self.folder / "tokenizer"

    @property
    def digest(self) -> str:
        """The digest of the tokenizer that the tokens were made with."""
        return str(self.facts["tokenizer_digest"])

    def pairs(self, role: str | None = None) -> list[Pair]:
        """Return the pairs, or those of one role, in the manifest's order."""
        return [Pair.parse(name) for name, item in self.facts["pairs"].items() if role in (None, item["role"])]

    def sets(self, pair: Pair) -> dict[str, dict[str, int]]:
        """Return the sets of a pair with their sizes."""
        known = self.facts["pairs"]
        if str(pair) not in known:
            raise UsageError(f"{self.folder} has no pair {pair}.", did_you_mean(str(pair), known))
        return dict(known[str(pair)]["sets"])

    def bitext(self, pair: Pair, name: str = "train") -> Bitext:
        """Return a set of a pair, memory-mapped.

        Raises:
            UsageError: no such pair or set. DataError: its files are missing or damaged.
        """
        sets = self.sets(pair)
        if name not in sets:
            raise UsageError(f"{pair} has no set {name!r} in {self.folder}.", did_you_mean(name, sets))
        folder = self.folder / "tokens" / str(pair)
        try:
            arrays = [np.load(folder / f"{name}.{part}.npy", mmap_mode="r") for part in PARTS]
        except (OSError, ValueError, EOFError):
            raise DataError(
                f"The tokens of {pair} {name} in {self.folder} are damaged.", "Run `prepare` again."
            ) from None
        bitext = Bitext(Side(arrays[0], arrays[1]), Side(arrays[2], arrays[3]), arrays[4])
        if not (bitext.source.offsets[-1] == len(arrays[0]) and bitext.target.offsets[-1] == len(arrays[2])):
            raise DataError(f"The tokens of {pair} {name} in {self.folder} are damaged.", "Run `prepare` again.")
        return bitext


PARTS = ("source.ids", "source.offsets", "target.ids", "target.offsets", "target.words")


def write_bitext(
    folder: Path, name: str, chunks: Iterable[tuple[list[list[int]], list[list[int]], list[int]]], vocabulary_size: int
) -> dict[str, int]:
    """Write a set from chunks of (source ids, target ids, target words) and return its sizes.

    Ids are streamed to the disk chunk by chunk; in memory stays one integer a sentence.
    """
    dtype = np.dtype(np.uint16 if vocabulary_size <= 1 << 16 else np.uint32)
    folder.mkdir(parents=True, exist_ok=True)
    lengths: tuple[list[NDArray[np.int64]], list[NDArray[np.int64]]] = ([], [])
    words: list[NDArray[np.uint16]] = []
    raw = [folder / f"{name}.{side}.raw" for side in ("source", "target")]
    with raw[0].open("wb") as source_out, raw[1].open("wb") as target_out:
        for source, target, target_words in chunks:
            for sentences, out, sizes in ((source, source_out, lengths[0]), (target, target_out, lengths[1])):
                part = Side.of(sentences)
                part.ids.astype(dtype).tofile(out)
                sizes.append(np.diff(part.offsets))
            words.append(np.minimum(target_words, np.iinfo(np.uint16).max).astype(np.uint16))
    counts = {}
    for side, path, sizes in (("source", raw[0], lengths[0]), ("target", raw[1], lengths[1])):
        offsets = np.concatenate([[0], np.cumsum(np.concatenate([*sizes, []]))]).astype(np.int64)
        _with_header(path, folder / f"{name}.{side}.ids.npy", dtype, int(offsets[-1]))
        np.save(folder / f"{name}.{side}.offsets.npy", offsets)
        counts[f"{side}_tokens"] = int(offsets[-1])
    all_words = np.concatenate(words) if words else np.zeros(0, np.uint16)
    np.save(folder / f"{name}.target.words.npy", all_words)
    return {"sentences": len(all_words), **counts, "target_words": int(all_words.sum(dtype=np.int64))}


def _with_header(raw: Path, path: Path, dtype: np.dtype[Any], count: int) -> None:
    out = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=(count,))
    if count:
        out[:] = np.memmap(raw, dtype=dtype, mode="r")
        out.flush()
    raw.unlink()
