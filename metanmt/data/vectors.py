"""Vectors of pieces in one space for all languages: learned from text or read from files, aligned by rotation.

The monolingual vectors are those of gensim; two languages are brought together by orthogonal Procrustes on a seed
dictionary (Schönemann 1966; Artetxe, Labaka, Agirre 2018), which then grows by the pieces that are each other's nearest
neighbours. How well that went is measured on dictionary entries that were held out: see `precision`.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from metanmt.data.alignment import Ids
from metanmt.data.dictionary import Entries
from metanmt.data.sources import missing_file
from metanmt.errors import DataError, UsageError

FOLDER, VECTORS_FILE, REPORT_FILE = "vectors", "vectors.safetensors", "report.json"
Matrix = NDArray[np.float32]
RAREST = 2  # occurrences of a piece that gets a vector of its own
EPOCHS, WINDOW, NEGATIVE = 20, 10, 5
REFINEMENTS, NEIGHBOURS = 5, 10
BLOCK_ROWS = 1_000  # whose similarities to all others are in memory at a time
MOST_REFINED = 4_000  # commonest pieces of each language that a dictionary may grow by


@dataclass(frozen=True)
class PieceVectors:
    """The vectors of one language: `ids` (n,), commonest first; `counts` (n,); `values` (n, D), of length 1."""

    ids: Ids
    counts: Ids
    values: Matrix

    def places(self, wanted: Ids) -> Ids:
        """Return where these ids stand, -1 for those that have no vector."""
        order = np.argsort(self.ids)
        found = np.minimum(np.searchsorted(self.ids[order], wanted), len(order) - 1)
        return np.where(self.ids[order][found] == wanted, order[found], -1)

    def known(self, entries: Entries, other: PieceVectors) -> tuple[Ids, Ids]:
        """Return the places, in this language and the other, of the dictionary entries that have both vectors."""
        mine, theirs = self.places(entries[:, 0]), other.places(entries[:, 1])
        both = (mine >= 0) & (theirs >= 0)
        return mine[both], theirs[both]


@dataclass(frozen=True)
class AlignedVectors:
    """The vectors of all languages of a data folder, in the space of the pivot, which most pairs translate into.

    `special` are ids that have no vector in any language: tags, the end mark, padding, bytes.
    """

    pivot: str
    tokenizer_digest: str
    vocabulary_size: int
    special: Ids
    languages: dict[str, PieceVectors]

    @property
    def size(self) -> int:
        """Dimensions of a vector."""
        return int(self.languages[self.pivot].values.shape[1])

    def save(self, path: Path) -> None:
        """Write them as safetensors, the vectors in half precision."""
        from safetensors.numpy import save_file

        tensors: dict[str, NDArray[Any]] = {"special": self.special.astype(np.int32)}
        for language, vectors in self.languages.items():
            tensors[f"{language}.ids"] = vectors.ids.astype(np.int32)
            tensors[f"{language}.counts"] = vectors.counts.astype(np.int64)
            tensors[f"{language}.values"] = vectors.values.astype(np.float16)
        facts = {
            "pivot": self.pivot,
            "tokenizer_digest": self.tokenizer_digest,
            "vocabulary_size": self.vocabulary_size,
        }
        save_file(tensors, str(path), {"metanmt": json.dumps(facts)})

    @classmethod
    def load(cls, path: Path) -> Self:
        """Return the vectors of a file that `save` wrote.

        Raises:
            DataError: it is damaged.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(str(path), framework="numpy") as file:
                facts = json.loads(file.metadata()["metanmt"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError, ValueError, KeyError, TypeError):
            raise DataError(f"The vectors {path} are damaged.", "Make them anew: metanmt vectors DATA.") from None
        languages = {
            name.removesuffix(".ids"): PieceVectors(
                tensors[name].astype(np.int64),
                tensors[name.replace(".ids", ".counts")],
                tensors[name.replace(".ids", ".values")].astype(np.float32),
            )
            for name in tensors
            if name.endswith(".ids")
        }
        special = tensors["special"].astype(np.int64)
        return cls(facts["pivot"], facts["tokenizer_digest"], facts["vocabulary_size"], special, languages)

    def digest(self) -> str:
        """Return a SHA-256 over everything that a model computes from these vectors."""
        digest = hashlib.sha256(f"{self.pivot} {self.vocabulary_size} {self.special.tolist()}".encode())
        for language, vectors in sorted(self.languages.items()):
            digest.update(language.encode() + vectors.ids.tobytes() + vectors.counts.astype(np.int64).tobytes())
            digest.update(vectors.values.astype(np.float16).tobytes())
        return digest.hexdigest()


@functools.cache
def _load(path: Path, changed_ns: int) -> AlignedVectors:
    return AlignedVectors.load(path)


def data_vectors(data: Path, tokenizer_digest: str) -> AlignedVectors:
    """Return the vectors of a prepared data folder.

    Raises:
        DataError: it has none, they are damaged, or they belong to another tokenizer.
    """
    path = data / FOLDER / VECTORS_FILE
    if not path.is_file():
        raise DataError(
            f"{data} has no vectors, which a universal lexicon needs.", f"Make them: metanmt vectors {quote(str(data))}"
        )
    vectors = _load(path, path.stat().st_mtime_ns)
    if vectors.tokenizer_digest != tokenizer_digest:
        raise DataError(
            f"The vectors in {data} belong to another tokenizer than its tokens.",
            f"Make them anew: metanmt vectors {quote(str(data))} --overwrite",
        )
    return vectors


def learn_vectors(sentences: Sequence[Ids], size: int, seed: int) -> PieceVectors:
    """Return skip-gram vectors of the ids in tokenised text, centred and of length 1, the same ones for one seed.

    Raises:
        UsageError: gensim is not installed. DataError: there is next to no text.

    Reference: Mikolov, Sutskever, Chen, Corrado, Dean 2013, "Distributed Representations of Words and Phrases".
    """
    try:
        from gensim.models import Word2Vec
    except ImportError:
        raise _no_gensim() from None
    try:
        model = Word2Vec(
            [list(map(str, ids.tolist())) for ids in sentences],
            vector_size=size,
            sg=1,
            window=WINDOW,
            negative=NEGATIVE,
            min_count=RAREST,
            epochs=EPOCHS,
            workers=1,
            seed=seed,
        )
    except RuntimeError:  # no piece occurs often enough
        raise DataError(
            f"{len(sentences):,} sentences are too little text to learn vectors from.", "Give more, or a .vec file."
        ) from None
    found = model.wv
    ids = np.array([int(key) for key in found.index_to_key], dtype=np.int64)
    counts = np.array([found.get_vecattr(key, "count") for key in found.index_to_key], dtype=np.int64)
    values = normalised(found.vectors)
    return PieceVectors(ids, counts, normalised(values - values.mean(axis=0)))


def read_word_vectors(path: Path, words: int) -> tuple[list[str], Matrix]:
    """Return the first words of a `.vec` file (text of word2vec and fastText, also gzipped), and their vectors (n, D).

    Raises:
        UsageError: gensim is not installed. CorpusError: no such file. DataError: it is not of this form.
    """
    if not path.exists():
        raise missing_file(path)
    try:
        from gensim.models import KeyedVectors
    except ImportError:
        raise _no_gensim() from None
    remedy = 'Give text whose first line says "words dimensions", then a word and its numbers a line.'
    try:
        found = KeyedVectors.load_word2vec_format(str(path), limit=words, unicode_errors="replace")
    except (OSError, ValueError, EOFError, IndexError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(f"{path} is not a file of word vectors: {reason}.", remedy) from None
    if not len(found.index_to_key) or not np.isfinite(found.vectors).all():
        raise DataError(f"{path} has no word vectors, or some that are no numbers.", remedy)
    return list(found.index_to_key), np.asarray(found.vectors, dtype=np.float32)


def piece_vectors(segmented: Iterable[Ids], values: Matrix, counts: dict[int, int]) -> PieceVectors:
    """Return the vectors of pieces from those of words: each is the mean over the words that it is a part of.

    A word counts by its frequency, which by Zipf's law goes as one over its place in the file, shared evenly between
    its pieces; so a piece that is a common word by itself is that word, nearly.

    Args:
        segmented: the pieces of every word, commonest word first.
        values: of the words, (n, D).
        counts: occurrences in the corpus' text of the ids that occur there; others get no vector.
    """
    sums: dict[int, NDArray[np.float64]] = {}
    for place, ids in enumerate(segmented):
        for index in set(ids.tolist()) & counts.keys():
            share = values[place].astype(np.float64) / ((place + 1) * len(ids))
            sums[index] = sums[index] + share if index in sums else share
    ids = np.array(sorted(sums, key=lambda index: (-counts[index], index)), dtype=np.int64)
    rows = np.array([sums[index] for index in ids.tolist()]).reshape(len(ids), values.shape[1])
    return PieceVectors(ids, np.array([counts[index] for index in ids.tolist()], dtype=np.int64), normalised(rows))


def normalised(values: NDArray[Any]) -> Matrix:
    """Return the rows at length 1; a row of zeros stays."""
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    return np.asarray(values / np.maximum(lengths, 1e-12), dtype=np.float32)


def rotation(source: Matrix, target: Matrix) -> Matrix:
    """Return the orthogonal R (D, D) for which `source @ R` is nearest to `target`, both (n, D).

    Reference: Schönemann 1966, "A Generalized Solution of the Orthogonal Procrustes Problem".
    """
    from scipy.linalg import orthogonal_procrustes

    return np.asarray(orthogonal_procrustes(source.astype(np.float64), target.astype(np.float64))[0], dtype=np.float32)


def common_vectors(languages: Sequence[PieceVectors]) -> PieceVectors:
    """Return, of every piece, the mean vector over the languages that have it; all in one space."""
    sums: dict[int, NDArray[np.float64]] = {}
    counts: dict[int, int] = {}
    for vectors in languages:
        for index, count, value in zip(vectors.ids.tolist(), vectors.counts.tolist(), vectors.values, strict=True):
            sums[index] = sums.get(index, 0.0) + value.astype(np.float64)
            counts[index] = counts.get(index, 0) + count
    ids = np.array(sorted(sums, key=lambda index: (-counts[index], index)), dtype=np.int64)
    values = normalised(np.array([sums[index] for index in ids.tolist()]))
    return PieceVectors(ids, np.array([counts[index] for index in ids.tolist()], dtype=np.int64), values)


def align(source: PieceVectors, pivot: PieceVectors, seed: Entries) -> PieceVectors:
    """Return the vectors of a language rotated into the space of the pivot.

    After the rotation that the seed dictionary gives, the dictionary is replaced, five times, by itself and the common
    pieces that are each other's nearest neighbours.

    Raises:
        DataError: no entry of the dictionary has a vector in both languages.
    """
    mine, theirs = source.known(seed, pivot)
    if not len(mine):
        raise DataError(
            "The seed dictionary has no entry of which both languages have a vector.",
            "Give the languages more text, or aligned vectors of both: --vec LANGUAGE=FILE",
        )
    turn = rotation(source.values[mine], pivot.values[theirs])
    for _ in range(REFINEMENTS):
        found, partners = _mutual(source.values[:MOST_REFINED] @ turn, pivot.values[:MOST_REFINED])
        rows = np.concatenate([mine, found])
        columns = np.concatenate([theirs, partners])
        turn = rotation(source.values[rows], pivot.values[columns])
    return PieceVectors(source.ids, source.counts, normalised(source.values @ turn))


def _mutual(source: Matrix, target: Matrix) -> tuple[Ids, Ids]:
    similarity = relative_similarity(source, target)
    forward, backward = similarity.argmax(axis=1), similarity.argmax(axis=0)
    mutual = np.flatnonzero(backward[forward] == np.arange(len(source)))
    return mutual, forward[mutual]


def relative_similarity(source: Matrix, target: Matrix, rows: Ids | None = None) -> Matrix:
    """Return the similarity (n, m) of vectors of length 1, less that of each to its nearest neighbours (CSLS).

    Without that, a few targets are the nearest of very many sources (Conneau, Lample, Ranzato, Denoyer, Jégou 2018).

    Args:
        rows: places of the source vectors that are asked for; None for all. The others are neighbours all the same.
    """
    asked = source if rows is None else source[rows]
    near = _nearness(asked, target)[:, None] + _nearness(target, source)[None]
    return np.asarray(2 * (asked @ target.T) - near, dtype=np.float32)


def _nearness(vectors: Matrix, others: Matrix) -> Matrix:
    """Return the mean similarity of each vector to its nearest neighbours among others, a block at a time."""
    count = min(NEIGHBOURS, len(others))
    blocks = (vectors[start : start + BLOCK_ROWS] @ others.T for start in range(0, len(vectors), BLOCK_ROWS))
    return np.concatenate([np.partition(block, -count, axis=1)[:, -count:].mean(axis=1) for block in blocks])


def precision(
    source: PieceVectors, pivot: PieceVectors, held_out: Entries, among: Sequence[int] = (1,)
) -> tuple[list[float], int]:
    """Return the share of held-out entries whose translation is among the nearest of all pieces of the pivot.

    A source piece with several translations counts once, and any of them will do.

    Args:
        among: how many of the nearest, for each share.

    Returns:
        the shares, 0 where there is no entry, and how many source pieces were looked up.
    """
    mine, theirs = source.known(held_out, pivot)
    wanted: dict[int, set[int]] = {}
    for place, partner in zip(mine.tolist(), theirs.tolist(), strict=True):
        wanted.setdefault(place, set()).add(partner)
    if not wanted:
        return [0.0] * len(among), 0
    rows = np.array(sorted(wanted))
    similarity = relative_similarity(source.values, pivot.values, rows)
    nearest = np.argsort(-similarity, axis=1, kind="stable")[:, : max(among)].tolist()
    right = [
        sum(bool(wanted[row] & set(found[:count])) for row, found in zip(rows.tolist(), nearest, strict=True))
        for count in among
    ]
    return [count / len(rows) for count in right], len(rows)


def text_of(ids: NDArray[Any], offsets: Ids, special: Ids, sentences: int) -> Iterator[Ids]:
    """Yield sentences, evenly from the whole and at most this many, without special ids."""
    count = len(offsets) - 1
    for number in np.unique(np.linspace(0, count - 1, min(count, sentences)).astype(np.int64)).tolist():
        sentence = np.asarray(ids[offsets[number] : offsets[number + 1]], dtype=np.int64)
        yield sentence[~np.isin(sentence, special)]


def _no_gensim() -> UsageError:
    return UsageError("gensim is not installed, which reads and learns vectors.", "pip install 'metanmt[lexicon]'")
