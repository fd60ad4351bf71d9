"""`metanmt vectors`: vectors of pieces for a universal lexicon, from a data folder's own text or from `.vec` files."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from metanmt.data.alignment import Ids
from metanmt.data.dictionary import Entries, same_numbers, same_strings, word_alignments
from metanmt.data.language import Pair
from metanmt.data.store import Bitext, TokenStore
from metanmt.data.tokenizer import Tokenizer, load_tokenizer
from metanmt.data.vectors import (
    FOLDER,
    REPORT_FILE,
    VECTORS_FILE,
    AlignedVectors,
    PieceVectors,
    align,
    common_vectors,
    learn_vectors,
    piece_vectors,
    precision,
    read_word_vectors,
    text_of,
)
from metanmt.errors import DataError, UsageError, did_you_mean
from metanmt.files import new_folder, refuse_existing, write_json
from metanmt.runlog import Progress
from metanmt.runtime import versions

LEAST_COVERED = 0.2  # of the pieces in a language's text: a file with less belongs to another one
HELD_OUT_SHARE, MOST_HELD_OUT = 0.2, 500


def run(
    data: Path,
    *,
    files: Mapping[str, Path] | None = None,
    size: int = 64,
    sentences: int = 50_000,
    words: int = 200_000,
    seed: int = 1,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write `DATA/vectors` and return its report: of every language, the dictionary and the precision of retrieval.

    Only train sets are read. The word alignments of a meta-train pair are part of its seed dictionary; those of other
    pairs are not, since a budget is all the parallel text that there is of these. Both are used to measure.

    Args:
        data: a folder that `metanmt prepare` wrote.
        files: aligned `.vec` files by language; the vectors of other languages are learned from the text.
        size: dimensions of learned vectors; that of the files, if there are any.
        sentences: of a language's text to learn from, at most.
        words: of a `.vec` file to read, commonest first, at most.
        seed: of learning, and of what is held out.
        overwrite: replace vectors that are there.
    """
    started = time.monotonic()
    store = TokenStore.open(data)
    out = data / FOLDER
    refuse_existing(out, overwrite=overwrite, marker=REPORT_FILE, remedy="Give --overwrite to replace them.")
    maker = _Maker(store, dict(files or {}), size, sentences, words, seed)
    languages = maker.all_languages()
    tokenizer = maker.tokenizer
    vectors = AlignedVectors(
        maker.pivot,
        store.digest,
        tokenizer.vocabulary_size,
        maker.special,
        {k: v.vectors for k, v in languages.items()},
    )
    report = {
        "pivot": maker.pivot,
        "size": vectors.size,
        "languages": {language: made.report for language, made in languages.items()},
        "elapsed_seconds": round(time.monotonic() - started, 1),
        "versions": versions(),
    }
    with new_folder(out, overwrite=overwrite) as folder:
        vectors.save(folder / VECTORS_FILE)
        write_json(folder / REPORT_FILE, report)
    return {"vectors": str(out), **report}


@dataclass(frozen=True)
class _Made:
    vectors: PieceVectors
    report: dict[str, Any]


class _Maker:
    """Makes the vectors of one language after another: pivot, meta-train languages, then those that are unseen."""

    def __init__(
        self, store: TokenStore, files: dict[str, Path], size: int, sentences: int, words: int, seed: int
    ) -> None:
        self.store, self.files, self.sentences, self.words, self.seed = store, files, sentences, words, seed
        self.tokenizer: Tokenizer = load_tokenizer(store.tokenizer_folder)
        self.special: Ids = np.array(self.tokenizer.special_ids(), dtype=np.int64)
        self.pieces = self.tokenizer.pieces()
        seen = store.pairs("meta-train") or store.pairs()
        names = [language for pair in seen for language in (pair.target, pair.source)]
        self.pivot = max(dict.fromkeys(names), key=names.count)
        known = list(
            dict.fromkeys([self.pivot, *names, *(side for p in store.pairs() for side in (p.source, p.target))])
        )
        if not self._texts(self.pivot):
            raise DataError(f"{store.folder} has no train set in {self.pivot}.", "Prepare text to learn vectors from.")
        self.languages = known
        self.seen = {*names}
        if unknown := sorted(files.keys() - set(known)):
            raise UsageError(f"{store.folder} has no language {unknown[0]!r}.", did_you_mean(unknown[0], known))
        self.read = {language: read_word_vectors(path, words) for language, path in sorted(files.items())}
        sizes = {values.shape[1] for _, values in self.read.values()}
        if len(sizes) > 1:
            raise DataError(
                f"The vectors of {', '.join(sorted(files))} have {' and '.join(map(str, sorted(sizes)))} dimensions.",
                "Give files of one size, aligned with each other.",
            )
        self.size = sizes.pop() if sizes else size

    def all_languages(self) -> dict[str, _Made]:
        """Return every language that has a train set, in the space of the pivot."""
        made: dict[str, _Made] = {}
        with Progress("vectors", len(self.languages), "languages") as progress:
            for language in self.languages:
                sides = self._texts(language)
                if sides:
                    made[language] = self._language(language, sides, made)
                progress.advance(1, language)
        return made

    def _texts(self, language: str) -> list[tuple[Pair, Bitext]]:
        """Return the training sets with this language: those of meta-train pairs, or else its others."""
        having = [pair for pair in self.store.pairs() if language in (pair.source, pair.target)]
        seen = [pair for pair in having if pair in self.store.pairs("meta-train")]
        return [
            (pair, self.store.bitext(pair, name)) for pair in seen or having for name in self.store.train_sets(pair)
        ]

    def _language(self, language: str, texts: list[tuple[Pair, Bitext]], made: Mapping[str, _Made]) -> _Made:
        own = self._own(language, texts)
        report: dict[str, Any] = {"from": "file" if language in self.files else "text", "pieces": len(own.ids)}
        if language == self.pivot:
            return _Made(own, report)
        pivot = made[self.pivot].vectors
        aligned, held_out = self._alignments(language, texts)
        if language not in self.files:
            others = common_vectors([item.vectors for item in made.values()])
            entries = {
                "identical": same_strings(self.pieces, own.ids, others.ids),
                "numerals": same_numbers(self.pieces, own.ids, others.ids),
                "aligned": aligned if language in self.seen else aligned[:0],
            }
            entries = {kind: _without(found, held_out) for kind, found in entries.items()}
            seed = np.unique(np.concatenate(list(entries.values())), axis=0)
            own = align(own, others, seed)
            report |= {"dictionary": len(seed), **{kind: len(found) for kind, found in entries.items()}}
        (at_1, at_5), looked_up = precision(own, pivot, held_out, (1, 5))
        report |= {"held_out": looked_up, "precision_1": at_1, "precision_5": at_5}
        return _Made(own, report)

    def _own(self, language: str, texts: list[tuple[Pair, Bitext]]) -> PieceVectors:
        """Return the vectors of a language in a space of its own, or in that of its file."""
        sides = [(bitext.source if pair.source == language else bitext.target) for pair, bitext in texts]
        share = -(-self.sentences // len(sides))
        text = [ids for side in sides for ids in text_of(side.ids, side.offsets, self.special, share)]
        if language not in self.files:
            own = learn_vectors(text, self.size, self.seed)
            if not len(own.ids):
                raise DataError(f"The text of {language} is too short to learn vectors from.", "Give it more text.")
            return own
        ids, counts = np.unique(np.concatenate(text), return_counts=True)
        words, values = self.read[language]
        own = piece_vectors(
            self._segmented(language, texts[0][0], words), values, dict(zip(ids.tolist(), counts.tolist(), strict=True))
        )
        covered = float(own.counts.sum() / counts.sum())
        if covered < LEAST_COVERED:
            raise DataError(
                f"{self.files[language]} has words for {covered:.0%} of the text of {language}.",
                "Give the vectors of that language, or raise --words.",
            )
        return own

    def _segmented(self, language: str, pair: Pair, words: list[str]) -> list[Ids]:
        encode = self.tokenizer.encode_source if pair.source == language else self.tokenizer.encode_target
        found = [np.array(ids, dtype=np.int64) for ids in encode(words, pair)]
        return [ids[~np.isin(ids, self.special)] for ids in found]

    def _alignments(self, language: str, texts: list[tuple[Pair, Bitext]]) -> tuple[Entries, Entries]:
        """Return word alignments with the pivot to learn from, and those of other pieces to measure by.

        Only pieces with a letter are held out: numbers are alike everywhere, and say nothing.
        """
        straight = [
            bitext if pair.source == language else bitext.turned()
            for pair, bitext in texts
            if self.pivot in (pair.source, pair.target)
        ]
        found = word_alignments(straight, self.special.tolist(), self.tokenizer.vocabulary_size)
        worded = [index for index in np.unique(found[:, 0]).tolist() if any(map(str.isalpha, self.pieces[index]))]
        chosen = np.random.default_rng([self.seed, 17]).permutation(worded)
        chosen = chosen[: min(MOST_HELD_OUT, int(len(worded) * HELD_OUT_SHARE))]
        held_out = np.isin(found[:, 0], chosen)
        return found[~held_out], found[held_out]


def _without(entries: Entries, held_out: Entries) -> Entries:
    return entries[~np.isin(entries[:, 0], held_out[:, 0])]
