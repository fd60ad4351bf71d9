"""Where sentence pairs come from: local files, the Hugging Face hub, the embedded corpus. All of it streams."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any, Literal

from metanmt.data.language import Pair
from metanmt.errors import CorpusError, UsageError

COMPRESSIONS = ("", ".gz", ".xz", ".zst")
SentencePair = tuple[str, str]


@dataclass(frozen=True)
class Source:
    """One place that holds sentence pairs.

    Attributes:
        kind: how it is read.
        paths: the files: two for "moses", one for "tsv" and "jsonl".
        columns: column numbers of a TSV, or field names of JSONL and hub rows (dotted for nested ones).
        name: hub name or local folder in the hub's layout, for "hub"; "cldr" for "embedded".
        config, split: of a hub data set.
        limit: sentence pairs read at most; 0 for all.
        skip: sentence pairs passed over first.
        seed: of an embedded corpus.
        optional: a missing file is no error.
    """

    kind: Literal["moses", "tsv", "jsonl", "hub", "embedded"]
    paths: tuple[Path, ...] = ()
    columns: tuple[int | str, ...] = ()
    name: str = ""
    config: str = ""
    split: str = ""
    limit: int = 0
    skip: int = 0
    seed: int = 1
    optional: bool = False

    def __str__(self) -> str:
        return self.name or ", ".join(map(str, self.paths))

    def missing(self) -> Path | None:
        """Return the first of the files that does not exist, or None."""
        return next((path for path in self.paths if not path.is_file()), None)


def read_pairs(source: Source, pair: Pair) -> Iterator[SentencePair]:
    """Yield the sentence pairs of a source, as they stand.

    Raises:
        CorpusError: a file is missing, damaged, not UTF-8, or its sides differ in length; a row lacks a column.
    """
    reader = {"moses": _moses, "tsv": _tsv, "jsonl": _jsonl, "hub": _hub, "embedded": _embedded}[source.kind]
    stop = source.skip + source.limit if source.limit else None
    yield from islice(reader(source, pair), source.skip, stop)


def read_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a text file, compressed or plain, without their ends.

    Only a newline ends a line (a carriage return before it is dropped): other separators of Unicode occur in text.

    Raises:
        CorpusError: the file is missing, damaged, or not UTF-8.
    """
    import fsspec

    if not path.is_file():
        raise _missing(path)
    number = 0
    try:
        with fsspec.open(str(path), "rb", compression="infer") as lines:
            for number, raw in enumerate(lines, start=1):
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
                yield line.removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise CorpusError(
            f"{path} is not UTF-8 at line {number:,}.", f"Convert it, such as: iconv -f LATIN1 -t UTF-8 {path.name}"
        ) from None
    except OSError as error:
        if error.errno is not None:
            raise
        raise _damaged(path, error) from None
    except Exception as error:  # each compression has an error of its own: zlib.error, LZMAError, ZstdError, EOFError
        if isinstance(error, (CorpusError, GeneratorExit)):
            raise
        raise _damaged(path, error) from None


def detect_source(paths: Sequence[Path], pair: Pair) -> Source:
    """Return the source that a user's file names mean: two files are two sides, one is a TSV or JSONL.

    Raises:
        UsageError: neither. CorpusError: a file is missing.
    """
    for path in paths:
        if not path.is_file():
            raise _missing(path)
    if len(paths) == 2:
        return Source("moses", tuple(paths))
    kind = _bare_suffix(paths[0]) if len(paths) == 1 else ""
    if kind in (".tsv", ".tab"):
        return Source("tsv", tuple(paths), (0, 1))
    if kind in (".jsonl", ".ndjson"):
        first = _row(next(iter(read_lines(paths[0])), "{}"), paths[0], 1)
        for columns in ((pair.source, pair.target), ("source", "target")):
            if all(column in first for column in columns):
                return Source("jsonl", tuple(paths), columns)
        return Source("jsonl", tuple(paths), (f"translation.{pair.source}", f"translation.{pair.target}"))
    raise UsageError(
        f"It is not clear how to read {', '.join(map(str, paths))}.",
        f"Give two files (one of {pair.source}, one of {pair.target}), one .tsv, or one .jsonl.",
    )


def with_compression(path: Path) -> Path:
    """Return the path with whichever compression suffix exists on the disk, or as it is."""
    return next(
        (path.with_name(path.name + end) for end in COMPRESSIONS if path.with_name(path.name + end).is_file()), path
    )


def _moses(source: Source, pair: Pair) -> Iterator[SentencePair]:
    left, right = (read_lines(path) for path in source.paths)
    for number, (first, second) in enumerate(zip_longest(left, right)):
        if first is None or second is None:
            longer = number + 1 + sum(1 for _ in (right if first is None else left))
            lengths = (number, longer) if first is None else (longer, number)
            raise CorpusError(
                f"{source.paths[0]} has {lengths[0]:,} lines, {source.paths[1].name} has {lengths[1]:,}.",
                "Line i of one side must translate line i of the other: align the files.",
            )
        yield first, second


def _tsv(source: Source, pair: Pair) -> Iterator[SentencePair]:
    columns = [int(column) for column in source.columns]
    for number, line in enumerate(read_lines(source.paths[0]), start=1):
        cells = line.split("\t")
        if len(cells) <= max(columns):
            raise CorpusError(
                f"{source.paths[0]} has {len(cells)} columns at line {number:,}; column {max(columns)} was asked for.",
                "Columns count from 0 and are separated by tabs.",
            )
        yield cells[columns[0]], cells[columns[1]]


def _jsonl(source: Source, pair: Pair) -> Iterator[SentencePair]:
    for number, line in enumerate(read_lines(source.paths[0]), start=1):
        if line.strip():
            row = _row(line, source.paths[0], number)
            yield _field(row, source, 0, f"line {number:,}"), _field(row, source, 1, f"line {number:,}")


def _hub(source: Source, pair: Pair) -> Iterator[SentencePair]:
    try:
        import datasets

        datasets.utils.logging.set_verbosity_error()
        datasets.disable_progress_bars()
        rows: Iterable[Any] = datasets.load_dataset(
            source.name, source.config or None, split=source.split, streaming=True
        )
        for number, row in enumerate(rows, start=1):
            yield _field(row, source, 0, f"row {number:,}"), _field(row, source, 1, f"row {number:,}")
    except CorpusError:
        raise
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CorpusError(
            f"The data set {source.name} {source.config} {source.split} cannot be read: {reason}",
            "Check name, config and split, and the network; or download it and give its folder as the name.",
        ) from None


def _embedded(source: Source, pair: Pair) -> Iterator[SentencePair]:
    from metanmt.data.cldr import TARGET, sentence_pairs

    if pair.target != TARGET:
        raise CorpusError(f"The embedded corpus has no {pair}.", f"It translates into {TARGET}: XX-{TARGET}.")
    yield from sentence_pairs(pair.source, source.skip + source.limit, seed=source.seed)


def _row(line: str, path: Path, number: int) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError:
        row = None
    if not isinstance(row, dict):
        raise CorpusError(f"{path} is not JSON at line {number:,}.", "Each line must be one JSON object.")
    return row


def _field(row: dict[str, Any], source: Source, side: int, where: str) -> str:
    value: Any = row
    for key in str(source.columns[side]).split("."):
        value = value.get(key) if isinstance(value, dict) else None
    if not isinstance(value, str):
        raise CorpusError(
            f"{source} has no text in {source.columns[side]!r} at {where}.",
            f"It has: {', '.join(row)}. Name the fields in the manifest (a dot for nested ones).",
        )
    return value


def _bare_suffix(path: Path) -> str:
    return Path(path.stem).suffix if path.suffix in COMPRESSIONS else path.suffix


def _missing(path: Path) -> CorpusError:
    near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*")], n=1, cutoff=0.5)
    return CorpusError(
        f"No file {path}.", f"Did you mean {path.with_name(near[0])}?" if near else "Check the path (and --root)."
    )


def _damaged(path: Path, error: Exception) -> CorpusError:
    return CorpusError(f"{path} is damaged: {error or type(error).__name__}.", "Copy or download it again.")
