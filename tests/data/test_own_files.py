"""A user's own files: what they are, by their names and first lines."""

from __future__ import annotations

from pathlib import Path

import pytest

from metanmt.data.own_files import detect_source
from metanmt.data.sources import Source
from metanmt.errors import CorpusError, UsageError
from tests.data.test_sources import FI, error, moses, read, write


def test_two_files_are_two_sides_whichever_comes_first(tmp_path: Path) -> None:
    source = moses(tmp_path, "yksi\n", "one\n", ".gz")
    assert detect_source(source.paths, FI) == detect_source(source.paths[::-1], FI) == source
    unnamed = [write(tmp_path / "a.txt", "yksi\n"), write(tmp_path / "b.txt", "one\n")]
    assert read(detect_source(unnamed, FI)) == [("yksi", "one")]


@pytest.mark.parametrize(
    ("names", "swapped"),
    [
        (("a.en.txt", "a.fi.txt"), True),
        (("a.fi.txt", "a.en.txt"), False),
        (("train-en.txt.gz", "train-fi.txt.gz"), True),
        (("a.fi-en.en", "a.fi-en.fi"), True),
        (("a.fi-en.1", "a.fi-en.2"), False),
        (("a.en.txt", "b.txt"), False),
        (("a-en.src", "b-fi.ref"), True),
        (("a.en", "b.fin"), True),
        (("a.src", "b.fi.gz"), True),
        (("a.fin", "b.en"), False),
        (("A.EN", "B.FI"), True),
        (("a-fi.src", "a-fi.ref"), False),
        (("from.txt", "en-to.txt"), False),
    ],
)
def test_the_languages_in_two_names(tmp_path: Path, names: tuple[str, str], swapped: bool) -> None:
    paths = [write(tmp_path / name, "x\n") for name in names]
    assert detect_source(paths, FI).paths == tuple(paths[::-1] if swapped else paths)


def test_two_files_of_one_language(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"a\.en and .*b\.en are both of en, by their names"):
        detect_source([write(tmp_path / name, "x\n") for name in ("a.en", "b.en")], FI)


@pytest.mark.parametrize("name", ["x.tsv", "x.tsv.gz", "x.tab"])
def test_one_table(tmp_path: Path, name: str) -> None:
    assert read(detect_source([write(tmp_path / name, "yksi\tone\n")], FI)) == [("yksi", "one")]


def test_a_table_of_more_columns_is_not_guessed_at(tmp_path: Path) -> None:
    path = write(tmp_path / "x.tsv.gz", "\n17\tyksi\tone\n")
    with pytest.raises(CorpusError, match=r"x\.tsv\.gz has 3 columns in its first line") as caught:
        detect_source([path], FI)
    assert caught.value.remedy == "Keep two columns: fi, tab, en."
    turned = Source("tsv", (write(tmp_path / "z.tsv", "yksi\tone\n"),)).turned()
    assert read(turned) == [("one", "yksi")]
    assert read(Source("tsv", (path,), (1, 2))) == [("", ""), ("yksi", "one")], "a manifest names its columns"
    caught = error(detect_source([write(tmp_path / "y.tsv", "yksi\tone\n2\tkaksi\ttwo\n")], FI))
    assert caught.cause == f"{tmp_path / 'y.tsv'} has 3 columns at line 2: which two are meant is not clear."


@pytest.mark.parametrize(
    "row",
    [
        '{"en": "one", "fi": "yksi"}',
        '{"source": "yksi", "target": "one"}',
        '{"translation": {"fi": "yksi", "en": "one"}}',
    ],
)
def test_one_jsonl(tmp_path: Path, row: str) -> None:
    assert read(detect_source([write(tmp_path / "x.jsonl.zst", f"\n{row}\n")], FI)) == [("yksi", "one")]


def test_files_that_were_joined_may_each_have_had_a_byte_order_mark(tmp_path: Path) -> None:
    row = '\ufeff{"fi": "yksi", "en": "one"}\n'
    assert read(detect_source([write(tmp_path / "x.jsonl", row * 2)], FI)) == [("yksi", "one")] * 2


def test_a_field_that_is_no_text_is_named(tmp_path: Path) -> None:
    caught = error(detect_source([write(tmp_path / "x.jsonl", '{"fi": 3, "en": "x"}\n')], FI))
    assert caught.cause == f"'fi' of {tmp_path / 'x.jsonl'} is not text at line 1."
    row = '{"fi": 3, "en": "x", "source": "yksi", "target": "one"}\n'
    assert read(detect_source([write(tmp_path / "y.jsonl", row)], FI)) == [("yksi", "one")]


def test_a_file_of_ones_own_has_no_root(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="No file") as caught:
        detect_source([tmp_path / "x.tsv"], FI)
    assert caught.value.remedy == "Check the path."


def test_files_that_are_not_understood(tmp_path: Path) -> None:
    text = write(tmp_path / "x.txt", "yksi\n")
    tables = [write(tmp_path / name, "yksi\tone\n") for name in ("a.tsv", "b.tsv")]
    for paths in ([], [text], [text, text], [text] * 3, tables, [tables[0], text]):
        with pytest.raises(UsageError, match="not clear how to read") as caught:
            detect_source(paths, FI)
        assert "two files (one of fi, one of en)" in caught.value.remedy
    with pytest.raises(CorpusError, match="No file"):
        detect_source([text, tmp_path / "y.txt"], FI)
    with pytest.raises(CorpusError, match="fields sv, en") as other:
        detect_source([write(tmp_path / "x.jsonl", '{"sv": "ett", "en": "one"}\n')], FI)
    assert "fi and en, or source and target" in other.value.remedy
