"""What a user's own files mean, by their names and first lines: two sides, or one file with both."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from metanmt.data.compression import COMPRESSIONS
from metanmt.data.language import Pair
from metanmt.data.sources import Source, json_field, json_row, missing_file, read_lines
from metanmt.errors import CorpusError, UsageError
from metanmt.runlog import say

ROWS = {".tsv": "tsv", ".tab": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl"}  # suffixes of files with both sides


def detect_source(paths: Sequence[Path], pair: Pair) -> Source:
    """Return the source that a user's file names mean: two files are two sides, one is a TSV or JSONL.

    Two files are turned round where the end of one name is the other's language, or both names have the languages so.

    Raises:
        UsageError: it is neither, or both names end in the same language.
        CorpusError: a file is missing, or the first row has more columns than two, or no known fields.
    """
    for path in paths:
        if not path.is_file():
            raise missing_file(path)
    kinds = [_bare_suffix(path).lower() for path in paths]
    if len(paths) == 2 and paths[0] != paths[1] and not {*kinds} & {*ROWS}:
        ends = [_of_suffix(path, pair) for path in paths]
        if ends[0] and ends[0] == ends[1]:
            raise UsageError(
                f"{paths[0]} and {paths[1]} are both of {ends[0]}, by their names.",
                f"Give one of {pair.source} and one of {pair.target}, or rename what is not as it is called.",
            )
        turned = ends[0] == pair.target or ends[1] == pair.source
        if not any(ends):
            turned = [_of_name(path, pair) for path in paths] == [pair.target, pair.source]
        if turned:
            say(f"By their names {paths[1]} is of {pair.source} and {paths[0]} of {pair.target}: so they are read")
        return Source("moses", tuple(reversed(paths) if turned else paths))
    if len(paths) == 1 and kinds[0] in ROWS:
        return _tsv_source(paths[0], pair) if ROWS[kinds[0]] == "tsv" else _jsonl_source(paths[0], pair)
    raise UsageError(
        f"It is not clear how to read {', '.join(map(str, paths)) or 'no file'}.",
        f"Give two files (one of {pair.source}, one of {pair.target}), or one .tsv ({pair.source}, tab, {pair.target}) "
        "or .jsonl with both sides; several of a kind joined to one.",
    )


def _of_suffix(path: Path, pair: Pair) -> str:
    """Return which language of a pair the end of a file's name is, or nothing."""
    end = _bare_suffix(path).removeprefix(".").lower()
    return next((language for language in (pair.source, pair.target) if language.lower() == end), "")


def _of_name(path: Path, pair: Pair) -> str:
    """Return the only language of a pair that is a part of a file's name, or nothing."""
    parts = re.split(r"[.-]", path.name.lower())
    named = [language for language in (pair.source, pair.target) if language.lower() in parts]
    return named[0] if len(named) == 1 else ""


def has_both_sides(path: Path) -> bool:
    """Return whether a file is one that holds both sides, by its name: TSV or JSONL, compressed or plain."""
    return _bare_suffix(path).lower() in ROWS


def _tsv_source(path: Path, pair: Pair) -> Source:
    columns = next((line for line in read_lines(path) if line.strip()), "").count("\t") + 1
    if columns > 2:  # an identifier before the sides would be read as one of them
        raise CorpusError(
            f"{path} has {columns} columns in its first line: which two are meant is not clear.",
            f"Keep two columns: {pair.source}, tab, {pair.target}.",
        )
    return Source("tsv", (path,))


def _jsonl_source(path: Path, pair: Pair) -> Source:
    first = json_row(next((line for line in read_lines(path) if line.strip()), "{}"), path, 1)
    choices = [(pair.source, pair.target), ("source", "target")]
    choices.append((f"translation.{pair.source}", f"translation.{pair.target}"))
    found = [columns for columns in choices if all(json_field(first, column) is not None for column in columns)]
    text = [columns for columns in found if all(isinstance(json_field(first, column), str) for column in columns)]
    if chosen := text or found:  # reading says which field is no text
        return Source("jsonl", (path,), chosen[0])
    raise CorpusError(
        f"{path} has the fields {', '.join(first) or 'none'}.",
        "Name them by the languages: " + ", or ".join(" and ".join(columns) for columns in choices) + ".",
    )


def _bare_suffix(path: Path) -> str:
    return Path(path.stem).suffix if path.suffix in COMPRESSIONS else path.suffix
