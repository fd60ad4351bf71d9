"""What a run has learned from already: sentences of new dev and test sets that stand in its text.

`prepare` compares the sets of a collection with each other; text that is prepared for a run by itself is compared here
with what that run was made from.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from metanmt.data.cleaning import hash64
from metanmt.data.language import Pair
from metanmt.data.leakage import normalized
from metanmt.data.sources import read_lines
from metanmt.data.store import TokenStore, text_files
from metanmt.runlog import Progress


def has_its_text(learned: TokenStore) -> bool:
    """Return whether a data folder has the text of what is meta-trained on: a packed one has not."""
    return all(path.is_file() for paths in _texts(learned).values() for path in paths)


def seen_sentences(folder: Path, sets: Sequence[tuple[Pair, str]], learned: TokenStore) -> dict[tuple[Pair, str], int]:
    """Return of each set how many of its sentence pairs have a side that stands in meta-train text of other data.

    Sentences are compared as `metanmt.data.leakage` does. In memory are the hashes of the sets.

    Args:
        folder: data that is being prepared.
        sets: dev and test sets of it, by pair and name.
        learned: the other data, which `has_its_text`.
    """
    hashes = {key: [list(_hashes(path)) for path in text_files(folder, *key)] for key in sets}
    wanted = {value for sides in hashes.values() for side in sides for value in side}
    seen: set[int] = set()
    texts = _texts(learned)
    with Progress("compare with what was learned from", len(texts), "texts") as progress:
        for (pair, name), paths in texts.items():
            for path in paths:
                seen.update(wanted.intersection(_hashes(path)))
            progress.advance(1, f"{pair} {name}")
    return {
        key: sum(bool(seen.intersection(both)) for both in zip(*sides, strict=True)) for key, sides in hashes.items()
    }


def _texts(learned: TokenStore) -> dict[tuple[Pair, str], tuple[Path, Path]]:
    return {
        (pair, name): text_files(learned.folder, pair, name)
        for pair in learned.pairs("meta-train")
        for name in learned.train_sets(pair)
    }


def _hashes(path: Path) -> Iterator[int]:
    return (hash64(normalized(line)) for line in read_lines(path))
