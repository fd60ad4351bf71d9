"""Where sentence pairs come from: local files, the Hugging Face hub, the embedded corpus. All of it streams."""

from __future__ import annotations

import codecs
import difflib
import json
import os
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any, Literal

from metanmt.data.compression import COMPRESSIONS, MAGIC, START_BYTES, compression_of, open_bytes
from metanmt.data.hub import reachable
from metanmt.data.language import Pair
from metanmt.errors import CorpusError

# A control character in so many, such as the high bytes of UTF-16, and returns in one line, are not those of text.
LEAST_CONTROLS, MOST_RETURNS = 5, 10
OFFLINE = {"HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"}  # variables by which what was fetched before is enough
SentencePair = tuple[str, str]


@dataclass(frozen=True)
class Source:
    """One place that holds sentence pairs.

    Attributes:
        kind: how it is read.
        paths: the files: two for "moses", one for "tsv" and "jsonl".
        columns: column numbers of a TSV from 0 (none: it has two and no others), or field names of JSONL and hub rows
            (dotted for nested ones).
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
        return " ".join(filter(None, (self.name, self.config, self.split))) or ", ".join(map(str, self.paths))

    def turned(self) -> Source:
        """Return the same text with the sides in the other order; an embedded corpus is asked for the pair turned."""
        columns = self.columns[::-1] or ((1, 0) if self.kind == "tsv" else ())
        return replace(self, paths=self.paths[::-1], columns=columns)

    def absent(self) -> bool:
        """Return whether it is made of files and none of them exists; one side without the other is a mistake."""
        return bool(self.paths) and not any(path.is_file() for path in self.paths)


def read_pairs(source: Source, pair: Pair) -> Iterator[SentencePair]:
    """Yield the sentence pairs of a source as they stand, in constant memory.

    Raises:
        CorpusError: a file is missing, damaged, not UTF-8, or its sides differ in length; a row lacks a column; a hub
            data set cannot be had; the embedded corpus has no such language.
    """
    for path in source.paths:
        if not path.is_file():
            raise missing_file(path, "Check the path (and --root).")
    reader = {"moses": _moses, "tsv": _tsv, "jsonl": _jsonl, "hub": _hub, "embedded": _embedded}[source.kind]
    stop = source.skip + source.limit if source.limit else None
    yield from islice(reader(source, pair), source.skip, stop)


def read_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a text file, compressed or plain, without their ends.

    Only a newline ends a line (a carriage return before it is dropped): the other separators of Unicode, which
    `str.splitlines` would split on, occur inside sentences and would shift one side against the other.

    Raises:
        CorpusError: the file is missing, damaged, not readable or not UTF-8.
    """
    if not path.is_file():
        raise missing_file(path)
    number = 0
    try:
        with open_bytes(path) as lines:
            for number, raw in enumerate(lines, start=1):
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
                if number == 1:
                    _check_encoding(path, line)
                yield line.removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise CorpusError(f"{path} is not UTF-8 at line {number:,}.", _conversion(path)) from None
    except CorpusError:
        raise
    except PermissionError:
        raise CorpusError(f"{path} may not be read.", "Give yourself permission to read it: chmod u+r.") from None
    except OSError as error:
        if error.errno is not None:  # the disk, not the text
            raise
        raise _damaged(path, error) from None
    except Exception as error:  # each compression has its own: zlib.error, LZMAError, ZstdError, EOFError
        raise _damaged(path, error) from None


def _check_encoding(path: Path, line: str) -> None:
    """Raise a CorpusError for a first line that decodes as UTF-8 and is none: letters of UTF-16, or the whole file."""
    if LEAST_CONTROLS * sum(character < "\t" for character in line) > len(line):
        raise CorpusError(f"{path} looks like UTF-16, not UTF-8.", "Convert it: iconv -f UTF-16LE -t UTF-8")
    if line.removesuffix("\n").removesuffix("\r").count("\r") > MOST_RETURNS:
        raise CorpusError(f"{path} ends its lines by carriage returns alone.", "Convert it: tr '\\r' '\\n'")


def _moses(source: Source, pair: Pair) -> Iterator[SentencePair]:
    sides = [read_lines(path) for path in source.paths]
    for number, lines in enumerate(zip_longest(*sides)):
        source_line, target_line = lines
        if source_line is None or target_line is None:
            lengths = [number if line is None else number + 1 for line in lines]
            longer = 0 if source_line is not None else 1
            lengths[longer] += sum(1 for _ in sides[longer])
            raise CorpusError(
                f"{source}: {pair.source} has {lengths[0]:,} lines, {pair.target} has {lengths[1]:,}.",
                "Line i of one side must translate line i of the other: align the files.",
            )
        yield source_line, target_line


def _tsv(source: Source, pair: Pair) -> Iterator[SentencePair]:
    first, second = (int(column) for column in source.columns or (0, 1))
    for number, line in enumerate(read_lines(source.paths[0]), start=1):
        if not line.strip():
            yield "", ""  # which cleaning drops and counts
            continue
        cells = line.split("\t")
        if len(cells) > 2 and not source.columns:
            raise CorpusError(
                f"{source.paths[0]} has {len(cells)} columns at line {number:,}: which two are meant is not clear.",
                f"Keep two columns: {pair.source}, tab, {pair.target}; or name two in the manifest: columns = [1, 2].",
            )
        if len(cells) <= max(first, second):
            columns = f"{len(cells)} column{'s' * (len(cells) > 1)}"
            raise CorpusError(
                f"{source.paths[0]} has {columns} at line {number:,}, but needs {max(first, second) + 1}.",
                "Separate them by tabs; a manifest counts its columns from 0.",
            )
        yield cells[first], cells[second]


def _jsonl(source: Source, pair: Pair) -> Iterator[SentencePair]:
    for number, line in enumerate(read_lines(source.paths[0]), start=1):
        if line.strip():
            yield _fields(json_row(line, source.paths[0], number), source, f"line {number:,}")


def _hub(source: Source, pair: Pair) -> Iterator[SentencePair]:
    if not Path(source.name).is_dir() and not reachable() and not os.environ.keys() & OFFLINE:
        raise CorpusError(
            f"There is no network, and the data set {source} is no folder here.",
            "Download it and give its folder as the name; of what was fetched before: HF_HUB_OFFLINE=1",
        )
    try:
        import datasets

        datasets.utils.logging.set_verbosity_error()
        datasets.disable_progress_bars()
        rows: Iterable[Any] = datasets.load_dataset(
            source.name, source.config or None, split=source.split, streaming=True
        )
        for number, row in enumerate(rows, start=1):
            yield _fields(row, source, f"row {number:,}")
    except CorpusError:
        raise
    except Exception as error:  # datasets raises nearly every kind there is
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CorpusError(
            f"The data set {source} cannot be read: {reason}",
            "Check name, config and split, and the network; or download it and give its folder as the name.",
        ) from None


def _embedded(source: Source, pair: Pair) -> Iterator[SentencePair]:
    from metanmt.data.cldr import TARGET, sentence_pairs

    if TARGET not in (pair.source, pair.target):
        raise CorpusError(f"The embedded corpus has no {pair}.", f"It has {TARGET} on one side: XX-{TARGET}.")
    turned = pair.source == TARGET
    pairs = sentence_pairs(pair.target if turned else pair.source, source.skip + source.limit, seed=source.seed)
    yield from ((there, here) for here, there in pairs) if turned else pairs


def json_row(line: str, path: Path, number: int) -> dict[str, Any]:
    """Return a line of JSONL as what it is, an object, or raise a CorpusError."""
    try:
        row = json.loads(line.removeprefix("\ufeff"))  # of a file that was joined to another
    except ValueError:
        row = None
    if not isinstance(row, dict):
        raise CorpusError(f"{path} is not JSON at line {number:,}.", "Each line must be one JSON object.")
    return row


def _fields(row: dict[str, Any], source: Source, where: str) -> SentencePair:
    sides = []
    for column in map(str, source.columns):
        text = json_field(row, column)
        if text is None:
            raise CorpusError(
                f"{source} has no text in {column!r} at {where}.",
                f"Its fields are {', '.join(row)}; name the right ones (a dot for nested ones: translation.fi).",
            )
        if not isinstance(text, str):
            raise CorpusError(f"{column!r} of {source} is not text at {where}.", "Write the sentence as a JSON string.")
        sides.append(text)
    return sides[0], sides[1]


def json_field(row: dict[str, Any], column: str) -> Any:
    """Return what is in a dotted column, or None if it is not there; a null is "", which cleaning drops and counts."""
    value: Any = row
    for key in column.split("."):
        if not isinstance(value, dict) or key not in value:
            return None
        value = value[key]
    return "" if value is None else value


def _conversion(path: Path) -> str:
    """Return how to make UTF-8 of a file that is something else."""
    new = path.with_name(f"{path.stem}.utf8{path.suffix}")
    with open_bytes(path) as file:
        start = file.read(START_BYTES)
    said = conversion_of(start, named=True)
    return said if compression_of(start) else f"{said} {shlex.quote(str(path))} > {shlex.quote(str(new))}"


def conversion_of(start: bytes, *, named: bool = False) -> str:
    """Return how to make UTF-8 of a text that is something else, by its first bytes: UTF-16 and compression say so.

    Args:
        start: these.
        named: it is a file, whose name says how it is compressed.
    """
    if compressed := compression_of(start):
        rename = f", or give it a name that ends in {compressed}" if named and compressed in COMPRESSIONS else ""
        return f"It is compressed ({compressed}): decompress it first{rename}."
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "Convert it: iconv -f UTF-16 -t UTF-8"
    return "Convert it from its encoding, perhaps LATIN1, ISO-8859-2 or CP1251: iconv -f ENCODING -t UTF-8"


def missing_file(path: Path, remedy: str = "Check the path.") -> CorpusError:
    """Return the error for what is no file, with what to do about it if no other file has nearly its name."""
    if path.exists():
        kind = "a folder" if path.is_dir() else "a pipe or a device, which can be read only once"
        return CorpusError(f"{path} is {kind}.", "Give a file.")
    if near := difflib.get_close_matches(path.name, [item.name for item in path.parent.glob("*")], n=1, cutoff=0.7):
        remedy = f"Did you mean {path.with_name(near[0])}?"
    return CorpusError(f"No file {path}.", remedy)


def _is_text(start: bytes) -> bool:
    """Return whether a file of these first bytes, the last character of which may be cut, can be text in UTF-8."""
    try:
        text = codecs.getincrementaldecoder("utf-8-sig")().decode(start)
    except UnicodeDecodeError:
        return False
    return all(character.isprintable() or character in "\t\r\n" for character in text)


def _damaged(path: Path, error: Exception) -> CorpusError:
    with path.open("rb") as file:
        start = file.read(START_BYTES)
    if (found := compression_of(start)) != path.suffix and path.suffix in COMPRESSIONS:
        if found:
            return CorpusError(
                f"{path} is not compressed as its name says, but {found}.", "Rename it, or decompress it."
            )
        if not MAGIC[path.suffix].startswith(start) and _is_text(start):
            return CorpusError(f"{path} is not compressed, as its name says.", f"Take {path.suffix} off the name.")
    return CorpusError(f"{path} is damaged: {error or type(error).__name__}.", "Copy or download it again.")
