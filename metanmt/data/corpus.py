"""From sources to clean, leak-free text on the disk: one file a side, one sentence a line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from metanmt.data.cleaning import RULES, CleaningRules, clean, clean_held_out
from metanmt.data.language import Pair, count_words
from metanmt.data.leakage import HeldOut
from metanmt.data.manifest import Manifest, PairCorpus, kind_of, missing_kind
from metanmt.data.sources import SentencePair, Source, read_pairs
from metanmt.data.store import text_files
from metanmt.errors import CorpusError
from metanmt.runlog import Progress, say

REPORT_EVERY = 1_000


@dataclass
class SetReport:
    """What became of one set of one pair.

    Attributes:
        read, kept, leaked: sentence pairs; `leaked` are those left out because a side of them is held out: of a
            training set what is in any dev or test set, of a dev set what is in a test set of the same pair.
        dropped: sentence pairs by the name of the cleaning rule.
        source_words, target_words: words kept, by `count_words`.
        skipped_sources: optional ones without a file.
    """

    read: int = 0
    kept: int = 0
    leaked: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    source_words: int = 0
    target_words: int = 0
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

    @classmethod
    def from_json(cls, values: list[dict[str, Any]]) -> Self:
        """Return the report that `to_json` made plain."""
        sets = {}
        for item in values:
            known = {key: value for key, value in item.items() if key not in ("pair", "set", "dropped")}
            sets[item["pair"], item["set"]] = SetReport(**known, dropped=Counter(item["dropped"]))
        return cls(sets)

    def to_json(self) -> list[dict[str, Any]]:
        """Return the report as plain values, a dict a set."""
        return [
            {
                "pair": pair,
                "set": name,
                **vars(item),
                "dropped": {rule: item.dropped[rule] for rule in RULES if item.dropped[rule]},
            }
            for (pair, name), item in self.sets.items()
        ]


def write_corpus(manifest: Manifest, folder: Path) -> CorpusReport:
    """Write every set to `folder/text/PAIR/SET.LANGUAGE` and report what was dropped on the way.

    The promise: no dev or test sentence of any pair occurs on either side of any training text of any pair. So a
    pair's test sets are written first, then its dev sets without what is in its test sets, and when all pairs have
    theirs, the training sets without what is in any of them. Sentences stream; in memory stay the hashes of the
    held-out ones and of the set in hand.

    Raises:
        CorpusError: a source cannot be read, or a set that a pair needs is empty in the end.
    """
    reports: dict[tuple[str, str], SetReport] = {}
    held_out = HeldOut()
    with Progress("cleaning", None, "sentences") as progress:

        def write(item: PairCorpus, kind: str, excluded: HeldOut, *holders: HeldOut) -> None:
            for name in _sets(item, kind):
                written = _write_set(item, name, folder, manifest.cleaning, excluded, holders, progress)
                reports[str(item.pair), name] = written

        for item in manifest.pairs:
            own_tests = HeldOut()
            write(item, "test", HeldOut(), own_tests, held_out)
            write(item, "dev", own_tests, held_out)
        for item in manifest.pairs:
            write(item, "train", held_out)
    report = CorpusReport(
        {(str(item.pair), name): reports[str(item.pair), name] for item in manifest.pairs for name in item.sets}
    )
    for item in manifest.pairs:
        _check(item, report)
    return report


def _sets(item: PairCorpus, kind: str) -> list[str]:
    return [name for name in item.sets if kind_of(name) == kind]


def _write_set(
    item: PairCorpus,
    name: str,
    folder: Path,
    rules: CleaningRules,
    excluded: HeldOut,
    holders: Iterable[HeldOut],
    progress: Progress,
) -> SetReport:
    """Write one set without what is excluded, tell the holders what it has, and return its report."""
    report = SetReport()
    raw = _read(item.sets[name], item.pair, report, progress)
    training = kind_of(name) == "train"
    pairs = clean(raw, rules, report.dropped) if training else clean_held_out(raw, report.dropped)
    source_path, target_path = text_files(folder, item.pair, name)
    source_path.parent.mkdir(parents=True, exist_ok=True)
    with (
        source_path.open("w", encoding="utf-8", newline="\n") as source_out,
        target_path.open("w", encoding="utf-8", newline="\n") as target_out,
    ):
        for source, target in pairs:
            if len(excluded) and excluded.leaks(source, target):
                report.leaked += 1
                continue
            for holder in holders:
                holder.add(source, target)
            source_out.write(source + "\n")
            target_out.write(target + "\n")
            report.kept += 1
            report.source_words += count_words(source, item.pair.source)
            report.target_words += count_words(target, item.pair.target)
    if not report.kept:
        source_path.unlink()
        target_path.unlink()
        if len(report.skipped_sources) < len(item.sets[name]):
            raise _empty(item, name, report)
    return report


def _read(sources: Iterable[Source], pair: Pair, report: SetReport, progress: Progress) -> Iterator[SentencePair]:
    """Yield the sentence pairs of all sources of a set, counting them."""
    for source in sources:
        if source.optional and source.absent():
            report.skipped_sources.append(str(source))
            say(f"{pair}: no {source}; it is optional, so the work goes on without it")
            continue
        for item in read_pairs(source, pair):
            report.read += 1
            if report.read % REPORT_EVERY == 0:
                progress.advance(REPORT_EVERY, str(pair))
            yield item


def _check(item: PairCorpus, report: CorpusReport) -> None:
    """Raise CorpusError if optional sources were all that a pair had of a set that its role needs."""
    if kind := missing_kind(item.role, [name for name in item.sets if report.kept(item.pair, name)]):
        missing = [path for name in _sets(item, kind) for path in report.sets[str(item.pair), name].skipped_sources]
        raise CorpusError(
            f"{item.pair} has no {kind} text, which a {item.role} pair needs: no {'; no '.join(missing)}.",
            "Get that text, or take the pair out of the manifest.",
        )


def _empty(item: PairCorpus, name: str, report: SetReport) -> CorpusError:
    reasons = [f"{report.dropped[rule]:,} {rule}" for rule in RULES if report.dropped[rule]]
    if report.leaked:
        other = "dev or test set" if kind_of(name) == "train" else "test set"
        reasons.append(f"{report.leaked:,} also in a {other}")
    return CorpusError(
        f"Nothing is left of {item.pair} {name}: {report.read:,} sentence pairs read"
        + "".join(f", {reason}" for reason in reasons)
        + ".",
        "Give it text of its own that is in no dev or test set, or take the set out of the manifest.",
    )
