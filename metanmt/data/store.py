"""The token store: flat memory-mapped arrays that open in milliseconds, whatever their size.

A data folder holds `data.json` (what is in it), `tokenizer/`, `text/` (the cleaned sentences) and `tokens/`, where a
set of a pair is five arrays: ids and offsets of each side, and the words of each target sentence, in which budgets are
counted. Training needs `data.json`, `tokenizer/` and `tokens/` only.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from metanmt.data.language import Pair
from metanmt.data.manifest import kind_of
from metanmt.errors import DataError, UsageError, did_you_mean
from metanmt.files import read_object

FORMAT = 1
FACTS_FILE = "data.json"
ENCODE_LINES = 4_000


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
        ids = np.fromiter(chain.from_iterable(sentences), dtype=np.int32, count=offsets[-1])
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
        if not len(columns):
            return np.zeros((len(indices), 0), dtype=np.int64)
        places = np.asarray(self.offsets[indices])[:, None] + columns
        out = self.ids.take(places, mode="clip").astype(np.int64)
        out[columns >= lengths[:, None]] = pad_id
        return out

    def take(self, indices: NDArray[np.int64]) -> Self:
        """Return these sentences, copied into memory."""
        lengths = self.lengths(indices)
        offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
        np.cumsum(lengths, out=offsets[1:])
        moved = np.asarray(self.offsets[indices]) - offsets[:-1]
        ids = np.asarray(self.ids[np.arange(offsets[-1]) + np.repeat(moved, lengths)], dtype=np.int32)
        return type(self)(ids, offsets)


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

    def followed_by(self, other: Bitext) -> Bitext:
        """Return these sentence pairs and others behind them, copied into memory."""
        source, target = (
            Side(np.concatenate([one.ids, two.ids]), np.concatenate([one.offsets, one.offsets[-1] + two.offsets[1:]]))
            for one, two in ((self.source, other.source), (self.target, other.target))
        )
        return Bitext(source, target, np.concatenate([self.target_words, other.target_words]))

    def turned(self) -> Bitext:
        """Return the pairs the other way round; the words are those that were counted, of what is the source now."""
        return Bitext(self.target, self.source, self.target_words)

    def draw(self, budget_words: int, seed: int, pair: Pair | str) -> Bitext:
        """Return a seeded draw of sentence pairs with at most `budget_words` target words, and at least one pair.

        A larger budget with the same seed contains the smaller one. The draws of different language pairs are
        independent, also where their sentences are translations of the same ones.

        Raises:
            UsageError: the budget is larger than the corpus.
        """
        total = int(np.asarray(self.target_words, dtype=np.int64).sum())
        if budget_words > total:
            raise UsageError(
                f"A budget of {budget_words:,} words is larger than the corpus of {total:,}.",
                f"Give a budget of at most {total:,} words.",
            )
        order = np.random.default_rng([seed, *str(pair).encode()]).permutation(len(self))
        words = np.cumsum(np.asarray(self.target_words, dtype=np.int64)[order])
        return self.take(order[: max(1, int(np.searchsorted(words, budget_words, side="right")))])

    def head(self, sentences: int) -> Bitext:
        """Return the first sentence pairs, at most this many."""
        return self.take(np.arange(min(sentences, len(self))))

    def shorter_than(self, max_tokens: int) -> NDArray[np.int64]:
        """Return the indices of pairs with at most `max_tokens` tokens on both sides."""
        fits = (np.diff(self.source.offsets) <= max_tokens) & (np.diff(self.target.offsets) <= max_tokens)
        return np.flatnonzero(fits)


def text_files(folder: Path, pair: Pair, name: str) -> tuple[Path, Path]:
    """Return where the source and target lines of a set lie in a data folder."""
    source, target = (folder / "text" / str(pair) / f"{name}.{side}" for side in (pair.source, pair.target))
    return source, target


def text_bytes(folder: Path, sets: Mapping[str, Iterable[str]]) -> dict[str, dict[str, list[int]]]:
    """Return the size of the text of every set of every pair, source and target, in bytes.

    Raises:
        FileNotFoundError: a file is not there.
    """
    return {
        pair: {name: [path.stat().st_size for path in text_files(folder, Pair.parse(pair), name)] for name in names}
        for pair, names in sets.items()
    }


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
            facts = read_object(path)
            if facts.get("format") == FORMAT and not isinstance(facts.get("pairs"), dict):
                raise ValueError("it has no pairs")
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

    @property
    def training_digest(self) -> str:
        """A digest of what meta-training reads: the tokenizer, and the meta-train and meta-dev sets in their order.

        Of a folder from before sets had digests of their own: their sizes alone.
        """
        read = {name: item for name, item in self.facts["pairs"].items() if item["role"] != "meta-test"}
        known = any("digest" in found for item in read.values() for found in item["sets"].values())
        order = [list(read)] if known else []
        return hashlib.sha256(json.dumps([self.digest, read, *order], sort_keys=True).encode()).hexdigest()

    def pairs(self, role: str | None = None) -> list[Pair]:
        """Return the pairs, or those of one role, in the manifest's order."""
        return [Pair.parse(name) for name, item in self.facts["pairs"].items() if role in (None, item["role"])]

    def sets(self, pair: Pair) -> dict[str, dict[str, Any]]:
        """Return the sets of a pair with their sizes, and the digest of their tokens."""
        known = self.facts["pairs"]
        if str(pair) not in known:
            remedy = did_you_mean(str(pair), known)
            if str(pair.turned()) in known:
                remedy = f"It has {pair.turned()}: metanmt prepare ... --both-directions makes both of the same text."
            raise UsageError(f"{self.folder} has no pair {pair}.", remedy)
        return dict(known[str(pair)]["sets"])

    def train_sets(self, pair: Pair) -> list[str]:
        """Return the names of the training sets of a pair: "train", and others such as "train-bible"."""
        return [name for name in self.sets(pair) if kind_of(name) == "train"]

    def held_out_sets(self, pair: Pair) -> list[Bitext]:
        """Return the dev and test sets of a pair."""
        return [self.bitext(pair, name) for name in self.sets(pair) if kind_of(name) != "train"]

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
            arrays = [np.asarray(np.load(folder / f"{name}.{part}.npy", mmap_mode="r")) for part in PARTS]
        except (FileNotFoundError, ValueError, EOFError):  # what cannot be read is not damaged
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
) -> dict[str, Any]:
    """Write a set from chunks of (source ids, target ids, target words); return its sizes and a digest of its tokens.

    Everything is streamed to the disk chunk by chunk; in memory stays one chunk.
    """
    ids_type = np.uint16 if vocabulary_size <= 1 << 16 else np.uint32
    types = (ids_type, np.int64, ids_type, np.int64, np.uint16)
    folder.mkdir(parents=True, exist_ok=True)
    tokens, total_words = [0, 0], 0
    with ExitStack() as stack:
        files = [
            stack.enter_context(ArrayFile(folder / f"{name}.{part}.npy", np.dtype(kind)))
            for part, kind in zip(PARTS, types, strict=True)
        ]
        files[1].append(np.zeros(1))
        files[3].append(np.zeros(1))
        for source, target, target_words in chunks:
            for side, sentences in enumerate((source, target)):
                part = Side.of(sentences)
                files[2 * side].append(part.ids)
                files[2 * side + 1].append(part.offsets[1:] + tokens[side])
                tokens[side] += len(part.ids)
            words = np.minimum(np.array(target_words, dtype=np.int64), np.iinfo(np.uint16).max)
            files[4].append(words)
            total_words += int(words.sum())
    counts = {"source_tokens": tokens[0], "target_tokens": tokens[1], "target_words": total_words}
    digest = hashlib.sha256("".join(file.digest.hexdigest() for file in files).encode()).hexdigest()
    return {"sentences": files[4].length, **counts, "digest": digest}


class ArrayFile:
    """An `.npy` file that is appended to: NumPy leaves room in the header for the length, written again at the end.

    Args:
        path: of the file, which is replaced.
        dtype: of its numbers.
    """

    def __init__(self, path: Path, dtype: np.dtype[Any]) -> None:
        self.path, self.dtype, self.length = path, dtype, 0
        self.digest = hashlib.sha256()

    def append(self, numbers: NDArray[Any]) -> None:
        """Write numbers at the end."""
        written = np.ascontiguousarray(numbers, self.dtype).tobytes()
        self._file.write(written)
        self.digest.update(written)
        self.length += len(numbers)

    def __enter__(self) -> Self:
        self._file = self.path.open("wb")
        self._start = self._header()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._file:
            self._file.seek(0)
            if self._header() != self._start:
                raise ValueError(f"the header of {self.path} has no room for {self.length:,} numbers")

    def _header(self) -> int:
        """Write the header and return where the numbers begin."""
        facts = {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False, "shape": (self.length,)}
        np.lib.format.write_array_header_1_0(self._file, facts)
        return self._file.tell()
