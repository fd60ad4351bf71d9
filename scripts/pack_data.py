#!/usr/bin/env python
"""A prepared data folder in one small file, to take to a machine that cannot be reached otherwise.

    scripts/pack_data.py DATA data.tar.xz --target-tokens 22_000_000
    tar xf data.tar.xz                                      there: a folder `data`, as `metanmt prepare` writes it

Of the meta-train pairs only tokens are packed, at most so many in all: the largest training sets are cut to one size,
each by an even choice of its sentences. Other pairs are packed whole, with the text of their dev and test sets.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from metanmt.cli import MISTAKE
from metanmt.commands.shared import positive
from metanmt.data.store import ENCODE_LINES, FACTS_FILE, Bitext, TokenStore, write_bitext
from metanmt.data.vectors import FOLDER as VECTORS
from metanmt.errors import CorpusError, MetanmtError, UsageError
from metanmt.help_texts import remedy_for
from metanmt.runlog import say


def largest_share(sizes: list[int], total: int) -> int:
    """Return the most that each may keep so that all together keep at most the total."""
    low, high = 0, max(sizes)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if sum(min(size, middle) for size in sizes) <= total else (low, middle - 1)
    return low


def write_part(bitext: Bitext, folder: Path, name: str, share: float, vocabulary_size: int) -> dict[str, Any]:
    """Write this share of a training set's sentence pairs, evenly chosen, and return the sizes."""
    count = len(bitext)
    kept = np.unique(np.linspace(0, count - 1, max(2, int(count * share))).astype(np.int64))

    def chunks() -> object:
        for start in range(0, len(kept), ENCODE_LINES):
            part = bitext.take(kept[start : start + ENCODE_LINES])
            places = range(len(part))
            source, target = ([side.sentence(i).tolist() for i in places] for side in (part.source, part.target))
            yield source, target, part.target_words.tolist()

    return write_bitext(folder, name, chunks(), vocabulary_size)


def pack(data: Path, out: Path, target_tokens: int) -> None:
    """Write the file; it appears only when it is complete."""
    if out.is_dir():
        raise UsageError(f"{out} is a folder.", "Give the name of a file: data.tar.xz.")
    store = TokenStore.open(data)
    out.parent.mkdir(parents=True, exist_ok=True)
    facts = json.loads((data / FACTS_FILE).read_text(encoding="utf-8"))
    sources = store.pairs("meta-train")
    if not sources:
        raise CorpusError(f"{data} has no meta-train pair.", "Pack a folder that can be meta-trained on.")
    sizes = [store.sets(pair)[name]["target_tokens"] for pair in sources for name in store.train_sets(pair)]
    most, kept = largest_share(sizes, target_tokens), 0
    with tempfile.TemporaryDirectory(dir=out.parent) as work:
        folder = Path(work) / "data"
        for pair in store.pairs():
            part = Path("tokens") / str(pair)
            if pair in sources:
                sets = {}
                for name in store.train_sets(pair):
                    share = min(1.0, most / store.sets(pair)[name]["target_tokens"])
                    found = write_part(store.bitext(pair, name), folder / part, name, share, facts["vocabulary_size"])
                    sets[name], kept = found, kept + found["target_tokens"]
                    for row in facts["report"]:
                        if (row["pair"], row["set"]) == (str(pair), name):
                            row["kept"], row["target_words"] = found["sentences"], found["target_words"]
                facts["pairs"][str(pair)]["sets"] = sets
            else:
                shutil.copytree(data / part, folder / part)
                text = Path("text") / str(pair)
                shutil.copytree(data / text, folder / text, ignore=shutil.ignore_patterns("train*"))
        shutil.copytree(store.tokenizer_folder, folder / "tokenizer")
        if (data / VECTORS).is_dir():
            shutil.copytree(data / VECTORS, folder / VECTORS)
        facts["made_from"] = f"{facts['made_from']}, at most {most} target tokens of a set"
        (folder / FACTS_FILE).write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        packed = Path(work) / "packed.tar.xz"
        with tarfile.open(packed, "w:xz", preset=6) as archive:
            archive.add(folder, "data")
        packed.replace(out)
    print(f"{out}: {kept:,} of {sum(sizes):,} target tokens to meta-train on, {out.stat().st_size / 2**20:,.1f} MiB")


def main() -> int:
    """Write the packed file and return 0, or say what is wrong and return 2."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--target-tokens", type=positive, default=22_000_000, help="to meta-train on, at most")
    arguments = parser.parse_args()
    try:
        pack(arguments.data, arguments.out, arguments.target_tokens)
    except MetanmtError as error:
        say(f"{error.cause}\n{error.remedy}")
        return MISTAKE
    except OSError as error:
        say(f"{error.filename or arguments.out}: {error.strerror}.\n{remedy_for(error)}")
        return MISTAKE
    return 0


if __name__ == "__main__":
    sys.exit(main())
