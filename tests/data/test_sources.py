"""Sources: every format there and back, compressed or not, and each mistake with its message."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import zstandard

from metanmt.data.language import Pair
from metanmt.data.sources import Source, read_lines, read_pairs
from metanmt.errors import CorpusError

FI = Pair("fi", "en")
# Every separator that str.splitlines knows but a file of lines does not, and scripts beyond the first plane.
PAIRS = [
    ("Hyvää huomenta.", "Good morning."),
    ("yksi\u2028kaksi\x85kolme\x0bneljä\x1eviisi", "one\u2029two\x0cthree\x1cfour"),
    ("", "an empty source"),
    (" 안녕 \U0001f44b ", "hello\rthere"),
    ("viimeinen", "last"),
]
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.ZstdCompressor().compress,
}
compressions = pytest.mark.parametrize("suffix", COMPRESS)


def write(path: Path, text: str) -> Path:
    compress = COMPRESS.get(path.suffix, bytes)
    path.write_bytes(compress(text.encode("utf-8")))
    return path


def moses(folder: Path, source: str, target: str, suffix: str = "") -> Source:
    return Source("moses", (write(folder / f"x.fi{suffix}", source), write(folder / f"x.en{suffix}", target)))


def lines(texts: list[str], end: str = "\n") -> str:
    return "".join(text + end for text in texts)


def read(source: Source) -> list[tuple[str, str]]:
    return list(read_pairs(source, FI))


def error(source: Source, pair: Pair = FI) -> CorpusError:
    with pytest.raises(CorpusError) as caught:
        list(read_pairs(source, pair))
    assert "\n" not in caught.value.cause + caught.value.remedy
    assert caught.value.remedy
    return caught.value


# ---- there and back


@compressions
def test_moses(tmp_path: Path, suffix: str) -> None:
    source, target = zip(*PAIRS, strict=True)
    assert read(moses(tmp_path, lines(list(source)), lines(list(target)), suffix)) == PAIRS


@compressions
def test_tsv(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"x.tsv{suffix}", lines([f"id\t{target}\t{source}\tmore" for source, target in PAIRS]))
    assert read(Source("tsv", (path,), (2, 1))) == PAIRS


@compressions
def test_jsonl(tmp_path: Path, suffix: str) -> None:
    rows = [{"id": 1, "translation": {"fi": source, "en": target}} for source, target in PAIRS]
    path = write(tmp_path / f"x.jsonl{suffix}", lines([json.dumps(row, ensure_ascii=False) for row in rows]) + "\n")
    assert read(Source("jsonl", (path,), ("translation.fi", "translation.en"))) == PAIRS


def test_a_null_is_an_empty_sentence(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", '{"fi": null, "en": "text"}\n')
    assert read(Source("jsonl", (path,), ("fi", "en"))) == [("", "text")]


def test_windows_files_and_a_last_line_without_an_end(tmp_path: Path) -> None:
    assert read(moses(tmp_path, "\ufeffyksi\r\nkaksi\r\n", "one\ntwo")) == [("yksi", "one"), ("kaksi", "two")]


@pytest.mark.parametrize("suffix", [".gz", ".xz", ".zst"])
def test_files_that_were_compressed_in_parts(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x{suffix}"
    path.write_bytes(COMPRESS[suffix](b"one\ntw") + COMPRESS[suffix](b"o\nthree\n"))
    assert list(read_lines(path)) == ["one", "two", "three"]


@compressions
def test_reading_streams(tmp_path: Path, suffix: str) -> None:
    text = lines([f"sentence {number}" for number in range(40_000)])
    path = write(tmp_path / f"x{suffix}", text)
    assert sum(1 for _ in read_lines(path)) == 40_000
    stream = read_lines(path)
    assert list(islice(stream, 2)) == ["sentence 0", "sentence 1"]
    stream.close()  # type: ignore[attr-defined]


def test_limit_and_skip(tmp_path: Path) -> None:
    path = write(tmp_path / "x.tsv", lines([f"{number}\t{number}" for number in range(10)]))
    assert [int(source) for source, _ in read(Source("tsv", (path,), (0, 1), skip=3, limit=4))] == [3, 4, 5, 6]
    assert [int(source) for source, _ in read(Source("tsv", (path,), (0, 1), skip=8))] == [8, 9]


def test_embedded() -> None:
    whole = read(Source("embedded", name="cldr", limit=30))
    assert read(Source("embedded", name="cldr", limit=20, skip=10)) == whole[10:]
    assert read(Source("embedded", name="cldr", limit=30, seed=2)) != whole


# ---- the layout of the hub, in a local folder


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set as the hub keeps it: a card that names configurations and splits, Parquet below it."""
    import pyarrow
    import pyarrow.parquet

    folder = tmp_path_factory.mktemp("hub")
    rows = [{"translation": {"fi": source, "en": target}, "src": source, "tgt": target} for source, target in PAIRS]
    (folder / "fi-en").mkdir()
    for split, part in (("train", rows), ("test", rows[:2])):
        pyarrow.parquet.write_table(
            pyarrow.Table.from_pylist(part), folder / "fi-en" / f"{split}-00000-of-00001.parquet"
        )
    splits = lines([f"  - split: {split}\n    path: fi-en/{split}-*" for split in ("train", "test")])
    card = f"---\nconfigs:\n- config_name: fi-en\n  data_files:\n{splits}---\n"
    (folder / "README.md").write_text(card, encoding="utf-8")
    return folder


def hub_source(folder: Path | str, **more: Any) -> Source:
    return Source("hub", columns=("translation.fi", "translation.en"), name=str(folder), **more)


def test_hub(hub: Path) -> None:
    assert read(hub_source(hub, config="fi-en", split="train")) == PAIRS
    assert read(hub_source(hub, config="fi-en", split="test")) == PAIRS[:2]
    assert read(hub_source(hub, config="fi-en", split="train", skip=1, limit=2)) == PAIRS[1:3]
    flat = Source("hub", columns=("src", "tgt"), name=str(hub), config="fi-en", split="train")
    assert read(flat) == PAIRS


def test_hub_of_jsonl_without_a_card(tmp_path: Path) -> None:
    write(
        tmp_path / "train.jsonl",
        lines([json.dumps({"translation": dict(zip(("fi", "en"), p, strict=True))}) for p in PAIRS]),
    )
    assert read(hub_source(tmp_path, split="train")) == PAIRS


def test_hub_mistakes(hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "fi-sv" in error(hub_source(hub, config="fi-sv", split="train")).cause
    assert "dev" in error(hub_source(hub, config="fi-en", split="dev")).cause
    assert "cannot be read" in error(hub_source(tmp_path, split="train")).cause
    wrong = error(Source("hub", columns=("translation.sv", "tgt"), name=str(hub), config="fi-en", split="train"))
    assert "no text in 'translation.sv' at row 1" in wrong.cause
    assert "translation, src, tgt" in wrong.remedy

    import datasets

    def offline(*arguments: object, **options: object) -> None:
        raise ConnectionError("no route to host\nand a second line")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    monkeypatch.setattr("metanmt.data.sources.reachable", lambda: True)
    unreachable = error(hub_source("wmt/wmt16", config="ro-en", split="train"))
    assert unreachable.cause == "The data set wmt/wmt16 ro-en train cannot be read: no route to host"
    assert "network" in unreachable.remedy
    monkeypatch.setattr("metanmt.data.sources.reachable", lambda: False)
    unreachable = error(hub_source("wmt/wmt16", config="ro-en", split="train"))
    assert unreachable.cause == "There is no network, and the data set wmt/wmt16 ro-en train is no folder here."


# ---- mistakes


@pytest.mark.parametrize(("finnish", "english"), [(3, 2), (2, 5), (0, 1)])
def test_sides_of_different_length(tmp_path: Path, finnish: int, english: int) -> None:
    cause = error(moses(tmp_path, "x\n" * finnish, "y\n" * english)).cause
    assert f"fi has {finnish} lines, en has {english}" in cause


def test_thousands_are_grouped(tmp_path: Path) -> None:
    assert "fi has 1,204 lines, en has 1,203" in error(moses(tmp_path, "x\n" * 1204, "y\n" * 1203)).cause


def test_a_missing_file_and_its_nearest_name(tmp_path: Path) -> None:
    source = moses(tmp_path, "x\n", "y\n")
    (tmp_path / "x.en").rename(tmp_path / "x.eng")
    caught = error(source)
    assert caught.cause == f"No file {tmp_path / 'x.en'}."
    assert caught.remedy == f"Did you mean {tmp_path / 'x.eng'}?"
    assert "--root" in error(Source("tsv", (tmp_path / "nowhere" / "x.tsv",), (0, 1))).remedy


def test_what_is_no_file_but_there(tmp_path: Path) -> None:
    (tmp_path / "x.fi").mkdir()
    os.mkfifo(tmp_path / "x.en")
    for name, kind in (("x.fi", "a folder"), ("x.en", "a pipe")):
        caught = error(Source("tsv", (tmp_path / name,), (0, 1)))
        assert kind in caught.cause
        assert caught.remedy == "Give a file."


def test_not_utf8(tmp_path: Path) -> None:
    source = moses(tmp_path, "", "yes\n" * 3)
    source.paths[0].write_bytes("yksi\nhyvä\nkolme\n".encode("latin-1"))
    caught = error(source)
    assert "x.fi is not UTF-8 at line 2." in caught.cause
    assert "perhaps LATIN1, ISO-8859-2 or CP1251: iconv -f ENCODING" in caught.remedy
    source.paths[0].write_bytes("yksi\nhyvä\n".encode("utf-16"))
    assert "iconv -f UTF-16" in error(source).remedy
    source.paths[0].write_bytes("yksi kaksi\nhyvin\n".encode("utf-16-le"))  # no mark, and letters that are UTF-8 too
    assert (error(source).cause, error(source).remedy) == (
        f"{source.paths[0]} looks like UTF-16, not UTF-8.",
        "Convert it: iconv -f UTF-16LE -t UTF-8",
    )
    source.paths[0].write_bytes("Привет мир, как дела\n".encode("utf-16-le"))
    assert "looks like UTF-16" in error(source).cause
    source.paths[0].write_bytes(b"yksi\r" * 20)
    assert "carriage returns alone" in error(source).cause
    source.paths[0].write_bytes(gzip.compress(b"yksi\n"))
    assert error(source).remedy == "It is compressed (.gz): decompress it first, or give it a name that ends in .gz."
    source.paths[0].write_bytes(bz2.compress(b"yksi\n"))
    assert error(source).remedy == "It is compressed (.bz2): decompress it first."


@pytest.mark.parametrize("suffix", [".gz", ".xz", ".zst"])
@pytest.mark.parametrize("kind", ["cut short", "scrambled"])
def test_a_damaged_file(tmp_path: Path, suffix: str, kind: str) -> None:
    text = lines([str(number * 7919) for number in range(20_000)])
    path = write(tmp_path / f"x.tsv{suffix}", text)
    whole = path.read_bytes()
    middle = len(whole) // 2
    path.write_bytes({"cut short": whole[:middle], "scrambled": whole[:20] + bytes(middle)}[kind])
    with pytest.raises(CorpusError, match="is damaged: ") as caught:
        list(read_lines(path))
    assert "again" in caught.value.remedy
    path.write_bytes(text.encode())
    with pytest.raises(CorpusError, match="is not compressed, as its name says") as caught:
        list(read_lines(path))
    assert caught.value.remedy == f"Take {suffix} off the name."
    for noise in (bytes(40), b"\x12\x34\x9c" * 9, whole[:1]):
        path.write_bytes(noise)
        with pytest.raises(CorpusError, match="is damaged: "):
            list(read_lines(path))
    path.write_bytes(bz2.compress(text.encode()))
    with pytest.raises(CorpusError, match=r"is not compressed as its name says, but \.bz2"):
        list(read_lines(path))


def test_an_empty_row_is_an_empty_pair(tmp_path: Path) -> None:
    path = write(tmp_path / "x.tsv", "a\tb\n \nc\td\n")
    assert read(Source("tsv", (path,), (0, 1))) == [("a", "b"), ("", ""), ("c", "d")]


def test_a_row_of_too_few_columns(tmp_path: Path) -> None:
    path = write(tmp_path / "x.tsv", "a\tb\na b\n")
    caught = error(Source("tsv", (path,), (0, 1)))
    assert "has 1 column at line 2, but needs 2." in caught.cause
    assert "tabs" in caught.remedy


@pytest.mark.parametrize(
    ("row", "cause"),
    [
        ('{"fi": "x", ', "is not JSON at line 2"),
        ('["x", "y"]', "is not JSON at line 2"),
        ('{"fi": "x"}', "no text in 'en' at line 2"),
        ('{"fi": "x", "en": 3}', "x.jsonl is not text at line 2"),
    ],
)
def test_a_broken_row_of_jsonl(tmp_path: Path, row: str, cause: str) -> None:
    path = write(tmp_path / "x.jsonl", f'{{"fi": "a", "en": "b"}}\n{row}\n')
    assert cause in error(Source("jsonl", (path,), ("fi", "en"))).cause


def test_embedded_mistakes() -> None:
    assert "no fi-sv" in error(Source("embedded", name="cldr", limit=3), Pair("fi", "sv")).cause
    assert "xq" in error(Source("embedded", name="cldr", limit=3), Pair("xq", "en")).cause
