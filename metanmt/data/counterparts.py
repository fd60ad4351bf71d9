"""Counterparts: by which source pieces each target piece is expressed in the languages of a meta-training.

An unseen language's pieces begin as embeddings that say nothing. What a few hundred of its sentences tell is which
English pieces they are translated by; what these are called, the languages tell that a model has learned from. So a run
keeps a table of that, which `metanmt.nmt.beginnings` reads.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from metanmt.data.alignment import LONGEST_ALIGNED, Floats, Ids, align
from metanmt.data.language import Pair
from metanmt.data.store import Bitext
from metanmt.errors import CheckpointError

COUNTERPARTS_FILE = "counterparts.safetensors"
SENTENCES = 5_000  # of a training set, drawn at random
AT_ONCE = 1_000_000  # tokens that are counted
LEAST_SHARE = 0.3  # of the links of a target piece that a source piece of one language has


@dataclass(frozen=True)
class Table:
    """Of one target language: source pieces (n,), target pieces (n,), and the expected number of their links (n,)."""

    source: Ids
    target: Ids
    weight: Floats


@dataclass(frozen=True)
class Counterparts:
    """What word alignments of the meta-train text say.

    Args:
        tables: by target language.
        source_counts: how often each piece occurs on the source sides, (V,).
        target_counts: and on the target sides.
    """

    tables: Mapping[str, Table]
    source_counts: Ids
    target_counts: Ids

    def new_side(self, pair: Pair) -> Literal["source", "target"] | None:
        """Return which language of a pair is met as a new one, by the other; None if there are none of either.

        The target is if the text has nothing that is translated into it; else the source.
        """
        if pair.target in self.tables:
            return "source"
        return "target" if pair.source in self.tables else None

    def save(self, folder: Path) -> None:
        """Write `counterparts.safetensors`."""
        arrays = {"source_counts": self.source_counts, "target_counts": self.target_counts}
        for language, table in self.tables.items():
            arrays[f"{language}.pieces"] = np.stack([table.source, table.target]).astype(np.int32)
            arrays[f"{language}.weight"] = table.weight.astype(np.float32)
        save_file(arrays, folder / COUNTERPARTS_FILE)

    @classmethod
    def load(cls, folder: Path) -> Counterparts | None:
        """Return those of a checkpoint's folder; None if it has none.

        Raises:
            CheckpointError: the file is damaged.
        """
        path = folder / COUNTERPARTS_FILE
        if not path.is_file():
            return None
        try:
            arrays = load_file(path)
            languages = [name.removesuffix(".pieces") for name in arrays if name.endswith(".pieces")]
            tables = {}
            for name in languages:
                source, target = arrays[f"{name}.pieces"].astype(np.int64)
                tables[name] = Table(source, target, arrays[f"{name}.weight"].astype(np.float64))
            return cls(tables, arrays["source_counts"], arrays["target_counts"])
        except (OSError, SafetensorError, KeyError, TypeError, ValueError):
            raise CheckpointError(f"{path} is damaged.", "Copy the checkpoint again, or make it anew.") from None


def find_counterparts(pair: Pair, bitext: Bitext, special: Collection[int], vocabulary_size: int) -> Counterparts:
    """Return the counterparts in one set of parallel text.

    Args:
        pair: of the text.
        bitext: 5,000 of its sentence pairs, of 40 tokens a side at most, are aligned.
        special: ids that are no piece of text.
        vocabulary_size: ids there are.
    """
    counts = np.zeros((2, vocabulary_size), dtype=np.int64)
    for row, side in zip(counts, (bitext.source, bitext.target), strict=True):
        for start in range(0, len(side.ids), AT_ONCE):
            row += np.bincount(side.ids[start : start + AT_ONCE], minlength=vocabulary_size)
    drawn = np.random.default_rng(0).permutation(bitext.shorter_than(LONGEST_ALIGNED))[:SENTENCES]
    found = align([bitext.take(drawn)], special, vocabulary_size)
    of_target = np.bincount(found.target, found.links, minlength=vocabulary_size)
    kept = found.links > LEAST_SHARE * of_target[found.target]
    table = Table(found.source[kept], found.target[kept], found.links[kept])
    return Counterparts({pair.target: table}, *counts)


def merged(parts: Iterable[Counterparts], vocabulary_size: int) -> Counterparts:
    """Return what several texts say together."""
    found: defaultdict[str, list[Table]] = defaultdict(list)
    counts = np.zeros((2, vocabulary_size), dtype=np.int64)
    for part in parts:
        counts += [part.source_counts, part.target_counts]
        for language, table in part.tables.items():
            found[language].append(table)
    return Counterparts({name: _merged(tables, vocabulary_size) for name, tables in found.items()}, *counts)


def _merged(tables: list[Table], vocabulary_size: int) -> Table:
    """Return the tables of several source languages as one."""
    source, target, weight = (
        np.concatenate([getattr(table, name) for table in tables]) for name in ("source", "target", "weight")
    )
    types, places = np.unique(source * vocabulary_size + target, return_inverse=True)
    total = np.bincount(places, weight, minlength=len(types))
    # As precise as in the file, so that a run that is resumed from it goes on with the same bits.
    kept: Floats = total.astype(np.float32).astype(np.float64)
    return Table(types // vocabulary_size, types % vocabulary_size, kept)
