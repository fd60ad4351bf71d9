"""From sources to clean, leak-free text on the disk: one file a side, one sentence a line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from metanmt.data.cleaning import RULES, clean, clean_held_out
from metanmt.data.language import Pair
from metanmt.data.leakage import HeldOut
from metanmt.data.manifest import Manifest, PairCorpus
from metanmt.data.sources import SentencePair, Source, read_pairs
from metanmt.errors import CorpusError
from metanmt.runlog import Progress

REPORT_EVERY = 1_000


@dataclass
class SetReport:
    """What became of one set of one pair."""

    read: int = 0
    kept: int = 0
    leaked: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    skipped_sources: list[str] = field(default_factory=list)


@dataclass
class CorpusReport:
    """What became of every set, by (pair, set)."""

    sets: dict[tuple[str, str], SetReport] = field(default_factory=dict)

    def kept(self, pair: Pair, name: str) -> int:
        """Return how many sentence pairs of a set were written."""
        return self.sets[str(pair), name].kept

    def rows(self) -> tuple[list[str], list[list[str]]]:
        """Return header and rows of the table that `prepare` prints, the rules that dropped nothing left out."""
        total = sum((item.dropped for item in self.sets.values()), Counter[str]())
        rules = [rule for rule in RULES if total[rule]]
        header = ["pair", "set", "read", *rules, "leaked", "kept"]
        rows = [
            [pair, name, *(f"{n:,}" for n in (item.read, *(item.dropped[r] for r in rules), item.leaked, item.kept))]
            for (pair, name), item in self.sets.items()
        ]
        return header, rows

    def to_json(self) -> list[dict[str, Any]]:
        """Return the report as plain values."""
        return [
            {
                "pair": pair,
                "set": name,
                "read": item.read,
                "dropped": dict(item.dropped),
                "leaked": item.leaked,
                "kept": item.kept,
                "skipped_sources": item.skipped_sources,
            }
            for (pair, name), item in self.sets.items()
        ]


def write_corpus(manifest: Manifest, folder: Path) -> CorpusReport:
    """Write every set to `folder/text/PAIR/SET.LANGUAGE` and report what was dropped on the way.

    Test sets come first, then dev sets without what is in a test set, then training sets without what is in either:
    no held-out sentence occurs on either side of any training text of any pair. Sentences stream; in memory stay the
    hashes of the held-out ones and of the set in hand.

    Raises:
        CorpusError: a source cannot be read, or a set is empty in the end.
    """
    report = CorpusReport()
    tests, held_out = HeldOut(), HeldOut()
    with Progress("cleaning", None, "sentences") as progress:
        for kind in ("test", "dev", "train"):
            for item in manifest.pairs:
                for name in item.sets:
                    if name.split("-")[0] == kind:
                        written = _write_set(manifest, item, name, folder, tests, held_out, progress)
                        report.sets[str(item.pair), name] = written
    order = {(str(item.pair), name): None for item in manifest.pairs for name in item.sets}
    report.sets = {key: report.sets[key] for key in order}
    return report


def _write_set(
    manifest: Manifest,
    item: PairCorpus,
    name: str,
    folder: Path,
    tests: HeldOut,
    held_out: HeldOut,
    progress: Progress,
) -> SetReport:
    report = SetReport()
    kind = name.split("-")[0]
    raw = _read(item.sets[name], item.pair, report, progress)
    pairs = clean(raw, manifest.cleaning, report.dropped) if kind == "train" else clean_held_out(raw, report.dropped)
    where = folder / "text" / str(item.pair)
    where.mkdir(parents=True, exist_ok=True)
    sides = [where / f"{name}.{language}" for language in (item.pair.source, item.pair.target)]
    with (
        sides[0].open("w", encoding="utf-8", newline="\n") as source_out,
        sides[1].open("w", encoding="utf-8", newline="\n") as target_out,
    ):
        for source, target in pairs:
            if (kind == "train" and held_out.leaks(source, target)) or (kind == "dev" and tests.leaks(source, target)):
                report.leaked += 1
                continue
            if kind == "test":
                tests.add(source, target)
            if kind != "train":
                held_out.add(source, target)
            source_out.write(source + "\n")
            target_out.write(target + "\n")
            report.kept += 1
    if not report.kept:
        raise CorpusError(
            f"No sentence of {item.pair} {name} is left: {report.read:,} read, {report.leaked:,} of them also in a "
            f"{'dev or test' if kind == 'train' else 'test'} set, dropped {dict(report.dropped)}.",
            "Give it text that does not occur in the dev and test sets, or leave the set out of the manifest.",
        )
    return report


def _read(sources: Iterable[Source], pair: Pair, report: SetReport, progress: Progress) -> Iterator[SentencePair]:
    for source in sources:
        if source.optional and source.missing():
            report.skipped_sources.append(str(source))
            continue
        for item in read_pairs(source, pair):
            report.read += 1
            if report.read % REPORT_EVERY == 0:
                progress.advance(REPORT_EVERY, str(pair))
            yield item
