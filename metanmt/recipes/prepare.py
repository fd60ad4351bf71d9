"""`metanmt prepare`: text -> clean splits -> tokenizer -> token store."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from shlex import quote
from typing import Any

from metanmt.data.corpus import CorpusReport, write_corpus
from metanmt.data.fingerprint import fingerprint
from metanmt.data.language import Pair, base_language, count_words
from metanmt.data.manifest import Manifest, PairCorpus, kind_of, load_manifest
from metanmt.data.overlap import has_its_text, seen_sentences
from metanmt.data.pretrained_tokenizer import FACTS_FILE as TOKENIZER_FILE
from metanmt.data.pretrained_tokenizer import PretrainedTokenizer
from metanmt.data.source_form import as_sources, in_form
from metanmt.data.sources import read_lines
from metanmt.data.store import ENCODE_LINES, FACTS_FILE, FORMAT, TokenStore, text_bytes, text_files, write_bitext
from metanmt.data.tokenizer import SentencePieceTokenizer, Tokenizer, load_tokenizer, train_tokenizer
from metanmt.data.variants import in_both_directions, with_languages
from metanmt.data.vectors import FOLDER as VECTORS
from metanmt.errors import ConfigError, CorpusError, MetanmtError, UsageError
from metanmt.files import new_folder, read_object, refuse_existing, write_json
from metanmt.nmt.folder import is_adapter, run_of
from metanmt.runlog import Progress, say
from metanmt.runtime import peak_memory_bytes, versions


def run(
    manifest_path: Path,
    out: Path,
    *,
    root: Path | None = None,
    languages: Sequence[str] = (),
    both_directions: bool = False,
    tokenizer: str = "",
    overwrite: bool = False,
    remedy: str = "Give another --out, or --overwrite.",
) -> dict[str, Any]:
    """Prepare a collection and return the facts that are written to `out/data.json`.

    A folder that was made from the same manifest, sources and versions is left as it is.

    Args:
        manifest_path: the collection's manifest.
        out: the data folder; it appears only when everything in it is complete.
        root: where the manifest's relative paths start, if not where it says.
        languages: replace the meta-test languages of an embedded collection by these.
        both_directions: take every pair the other way round too.
        tokenizer: a run, checkpoint, data folder or hub name whose tokenizer is used, whatever the manifest says.
        overwrite: replace an existing data folder, even one that is up to date.
        remedy: what to do about an existing one that is not.
    """
    started = time.monotonic()
    manifest = with_languages(load_manifest(manifest_path, root=root), languages)
    manifest = in_both_directions(manifest) if both_directions else manifest
    settings = manifest.tokenizer
    name = tokenizer or settings.pretrained
    own, codes = _own_folder(name)
    settings = replace(settings, pretrained=str(own or name), codes={**codes, **settings.codes})
    manifest = replace(manifest, tokenizer=settings)
    _say_what_is_seen(manifest)
    made_from = fingerprint(manifest)
    if not overwrite and (known := _up_to_date(out, made_from)):
        say(f"{out} is up to date: nothing that it is made from has changed")
        return {**known, "table": CorpusReport.from_json(known["report"]).rows()}
    refuse_existing(out, overwrite=overwrite, marker=FACTS_FILE, remedy=remedy)
    given = _given_tokenizer(manifest, own)
    learned = _learned_from(tokenizer) if tokenizer and own else None
    if (out / VECTORS).is_dir():
        say(f"Note: the vectors of {out} go with its text; metanmt vectors {quote(str(out))} makes them anew.")
    with new_folder(out, overwrite=overwrite) as folder:
        report = write_corpus(manifest, folder)
        encoder = given or _own_tokenizer(manifest, report, folder)
        encoder.save(folder / "tokenizer")
        sets = _write_tokens(manifest, report, encoder, folder)
        seen = _seen(learned, folder, sets) if learned else None
        facts = {
            "format": FORMAT,
            "name": manifest.name,
            "made_from": made_from,
            "tokenizer_digest": encoder.digest(),
            "vocabulary_size": encoder.vocabulary_size,
            "pairs": {str(item.pair): {"role": item.role, "sets": sets[str(item.pair)]} for item in manifest.pairs},
            "text_bytes": text_bytes(folder, sets),
            "seen_in_meta_training": seen,
            "report": report.to_json(),
            "elapsed_seconds": round(time.monotonic() - started, 1),
            "peak_memory_bytes": peak_memory_bytes(),
            "versions": versions(),
        }
        write_json(folder / FACTS_FILE, facts)
    return {**facts, "table": report.rows()}


def _up_to_date(out: Path, made_from: str) -> dict[str, Any] | None:
    """Return the facts of a whole data folder that was made from what this digest stands for, or None."""
    try:
        store = TokenStore.open(out)
        if store.facts.get("made_from") != made_from or load_tokenizer(store.tokenizer_folder).digest() != store.digest:
            return None
        for pair in store.pairs():
            for name in store.sets(pair):
                store.bitext(pair, name)
        sets = {str(pair): store.sets(pair) for pair in store.pairs()}
        return store.facts if store.facts.get("text_bytes") == text_bytes(out, sets) else None
    except (MetanmtError, FileNotFoundError):
        return None


def _learned_from(name: str) -> TokenStore | None:
    """Return the data that a run, or a model of it, has learned from; None, and say so, where that is not known."""
    folder = Path(name)
    try:
        run = run_of(folder)
        noted = read_object(run / "run.json") if run is not None and (run / "run.json").is_file() else {}
        store = TokenStore.open(Path(noted.get("data") or folder))
        if has_its_text(store) and noted.get("data_digest") in (None, store.training_digest):
            return store
    except (MetanmtError, ValueError):
        pass
    say(f"The text that {name} has learned from is not at hand: whether it had these dev and test sets is not known")
    return None


def _seen(learned: TokenStore, folder: Path, sets: Mapping[str, Iterable[str]]) -> dict[str, dict[str, int]]:
    """Return and say how many sentence pairs of the dev and test sets a run has learned from."""
    keys = [(Pair.parse(pair), name) for pair, names in sets.items() for name in names if kind_of(name) != "train"]
    counts: dict[str, dict[str, int]] = {}
    for (pair, name), count in seen_sentences(folder, keys, learned).items():
        counts.setdefault(str(pair), {})[name] = count
        if count:
            say(
                f"Note: {count:,} sentence pairs of {pair} {name} have a side in the text of {learned.folder}, from "
                "which a run learns: scores on it say little of unseen text."
            )
    return counts


def _say_what_is_seen(manifest: Manifest) -> None:
    """Say of a meta-test pair if each of its languages is in meta-training too: which is the unseen one?"""
    seen = {
        base_language(code)
        for item in manifest.pairs
        if item.role == "meta-train"
        for code in (item.pair.source, item.pair.target)
    }
    for pair in (item.pair for item in manifest.pairs if item.role == "meta-test"):
        if seen >= {base_language(pair.source), base_language(pair.target)}:
            say(f"Note: {pair} is to be unseen, but meta-training has both of its languages.")


def _own_folder(name: str) -> tuple[Path | None, dict[str, str]]:
    """Return where a folder of this package, be it a run, a checkpoint or data, has its tokenizer, if it has one.

    An adapter is stored without: its base has it. It has language codes of its own, which are returned too.
    """
    for folder in (Path(name, below) for below in ("", "tokenizer", "best", "last") if name):
        if (folder / TOKENIZER_FILE).is_file():
            return folder, {}
        if is_adapter(folder):
            from metanmt.nmt.adapter import adapter_codes, open_base  # imports torch

            return open_base(folder).folder, adapter_codes(folder)
    return None, {}


def _given_tokenizer(manifest: Manifest, own: Path | None) -> Tokenizer | None:
    """Return the tokenizer that the manifest names, if it does, and make sure that it knows every language.

    Args:
        manifest: its `tokenizer.pretrained` is a hub name or a folder.
        own: that folder, if it is one of this package.
    """
    settings = manifest.tokenizer
    if not settings.pretrained:
        return None
    found = load_tokenizer(own) if own else None
    if found is None or isinstance(found, PretrainedTokenizer):
        found = PretrainedTokenizer(settings.pretrained, {**(found.codes if found else {}), **settings.codes})
    elif isinstance(found, SentencePieceTokenizer) and settings.source_form not in ("written", found.source_form):
        say(f"Sources are read as {settings.pretrained} has learned to: {found.source_form}")
    for item in manifest.pairs:
        if isinstance(found, SentencePieceTokenizer) and item.pair.target not in found.targets:
            raise UsageError(
                f"The vocabulary of {settings.pretrained} has no tag for {item.pair.target}, to translate into it.",
                f"metanmt fine-tune --pair {item.pair} adds it, and takes the files of the pair themselves: --train.",
            )
        found.encode_target(["."], item.pair)
    return found


def _own_tokenizer(manifest: Manifest, report: CorpusReport, folder: Path) -> Tokenizer:
    settings = manifest.tokenizer
    targets = list(dict.fromkeys(item.pair.target for item in manifest.pairs))
    sentences = sum(report.kept(item.pair, name) for item, name in _training_sets(manifest, report))
    if not sentences:
        raise CorpusError(
            f"{manifest.name} has no training text to learn a vocabulary from.",
            "Give a pair a set train, or take the vocabulary of a run: --tokenizer RUN.",
        )
    wanted = min(settings.sample_sentences, 2 * sentences)
    say(f"Learning a vocabulary of {settings.vocabulary_size:,} pieces from about {wanted:,} sentences")
    sample = _sample(manifest, report, folder)
    return train_tokenizer(sample, targets, settings.vocabulary_size, settings.character_coverage, settings.source_form)


def _sample(manifest: Manifest, report: CorpusReport, folder: Path) -> Iterator[str]:
    """Yield sentences of both sides, balanced between pairs: n sentences count as n to the 1/temperature.

    A pair's share is drawn line by line with one probability, so that nothing is held in memory; a small pair whose
    share exceeds its text is repeated.
    """
    settings = manifest.tokenizer
    kept = {(item.pair, name): report.kept(item.pair, name) for item, name in _training_sets(manifest, report)}
    sizes = {pair: sum(n for (other, _), n in kept.items() if other == pair) for pair, _ in kept}
    weights = {pair: size ** (1 / settings.temperature) for pair, size in sizes.items()}
    total = sum(weights.values())
    wanted = min(settings.sample_sentences / 2, sum(sizes.values()))
    for (pair, name), _ in kept.items():
        rate = wanted * weights[pair] / total / sizes[pair]
        rng = random.Random(f"tokenizer {pair} {name}")
        for source, target in zip(*_sides(folder, pair, name), strict=True):
            for _ in range(int(rate) + (rng.random() < rate % 1)):
                yield from as_sources(in_form([source], settings.source_form))
                yield target


def _training_sets(manifest: Manifest, report: CorpusReport) -> list[tuple[PairCorpus, str]]:
    return [
        (item, name)
        for item in manifest.pairs
        for name in item.sets
        if kind_of(name) == "train" and report.kept(item.pair, name)
    ]


def _write_tokens(
    manifest: Manifest, report: CorpusReport, tokenizer: Tokenizer, folder: Path
) -> dict[str, dict[str, dict[str, Any]]]:
    total = sum(report.kept(item.pair, name) for item in manifest.pairs for name in item.sets)
    sizes: dict[str, dict[str, dict[str, Any]]] = {}
    with Progress("encoding", total, "sentences") as progress:
        for item in manifest.pairs:
            sizes[str(item.pair)] = {}
            for name in item.sets:
                if report.kept(item.pair, name):
                    chunks = _encoded(tokenizer, folder, item.pair, name, progress)
                    where = folder / "tokens" / str(item.pair)
                    sizes[str(item.pair)][name] = write_bitext(where, name, chunks, tokenizer.vocabulary_size)
            if not sizes[str(item.pair)]:
                raise ConfigError(f"{item.pair} has no text at all.", "Give it a train set in the manifest.")
    return sizes


def _encoded(
    tokenizer: Tokenizer, folder: Path, pair: Pair, name: str, progress: Progress
) -> Iterator[tuple[list[list[int]], list[list[int]], list[int]]]:
    sides = [_chunks(lines) for lines in _sides(folder, pair, name)]
    for source, target in zip(*sides, strict=True):
        words = [count_words(sentence, pair.target) for sentence in target]
        yield tokenizer.encode_source(source, pair), tokenizer.encode_target(target, pair), words
        progress.advance(len(source), f"{pair} {name}")


def _sides(folder: Path, pair: Pair, name: str) -> list[Iterator[str]]:
    return [read_lines(path) for path in text_files(folder, pair, name)]


def _chunks(lines: Iterable[str]) -> Iterator[list[str]]:
    iterator = iter(lines)
    while chunk := list(islice(iterator, ENCODE_LINES)):
        yield chunk
