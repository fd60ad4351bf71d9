"""`prepare` end to end."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from metanmt.data.language import Pair
from metanmt.data.leakage import normalized
from metanmt.data.store import TokenStore
from metanmt.data.tokenizer import load_tokenizer
from metanmt.errors import ConfigError, CorpusError, UsageError
from metanmt.recipes import prepare


def test_the_data_folder_is_whole(data: Path) -> None:
    store = TokenStore.open(data)
    assert store.pairs("meta-train") == [Pair("de", "en"), Pair("sv", "en"), Pair("es", "en")]
    assert store.pairs("meta-test") == [Pair("fi", "en")]
    assert store.digest == load_tokenizer(store.tokenizer_folder).digest()
    assert {path.name for path in data.iterdir()} == {"data.json", "text", "tokens", "tokenizer"}
    report = {(item["pair"], item["set"]): item for item in json.loads((data / "data.json").read_text())["report"]}
    assert report["fi-en", "test"]["kept"] == 30


def test_tokens_say_what_the_text_says(data: Path) -> None:
    store = TokenStore.open(data)
    tokenizer = load_tokenizer(store.tokenizer_folder)
    bitext = store.bitext(Pair("fi", "en"), "test")
    lines = (data / "text/fi-en/test.en").read_text(encoding="utf-8").splitlines()
    decoded = tokenizer.decode([bitext.target.sentence(index).tolist() for index in range(len(bitext))])
    assert decoded == lines
    assert bitext.target_words.tolist() == [len(line.split()) for line in lines]


def test_no_held_out_sentence_is_in_any_training_text(data: Path) -> None:
    def sentences(name: str) -> set[str]:
        files = (data / "text").glob(f"*/{name}.*")
        return {normalized(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()}

    held_out = sentences("dev") | sentences("test")
    assert held_out
    assert not sentences("train") & held_out
    assert not sentences("dev") & sentences("test")


def test_it_is_the_same_again(data: Path, manifest: Path, tmp_path: Path) -> None:
    prepare.run(manifest, tmp_path / "again")
    assert TokenStore.open(tmp_path / "again").digest == TokenStore.open(data).digest
    for path in sorted((data / "tokens").rglob("*.npy")):
        assert (tmp_path / "again" / path.relative_to(data)).read_bytes() == path.read_bytes()


def test_the_store_opens_in_milliseconds(data: Path) -> None:
    started = time.perf_counter()
    for pair in TokenStore.open(data).pairs():
        TokenStore.open(data).bitext(pair)
    assert time.perf_counter() - started < 0.5


def test_languages_of_ones_own(tmp_path: Path, manifest: Path) -> None:
    prepare.run(manifest, tmp_path / "data", languages=["is", "sv"])
    store = TokenStore.open(tmp_path / "data")
    assert store.pairs("meta-test") == [Pair("is", "en"), Pair("sv", "en")]
    assert Pair("sv", "en") not in store.pairs("meta-train")


def test_an_existing_folder_is_refused(data: Path, manifest: Path) -> None:
    with pytest.raises(UsageError, match="exists already"):
        prepare.run(manifest, data)


def test_an_unknown_language_leaves_nothing_behind(tmp_path: Path, manifest: Path) -> None:
    with pytest.raises(CorpusError, match="xq"):
        prepare.run(manifest, tmp_path / "data", languages=["xq"])
    assert list(tmp_path.iterdir()) == []


def test_a_vocabulary_that_is_too_small(tmp_path: Path, manifest: Path) -> None:
    small = tmp_path / "small.toml"
    small.write_text(manifest.read_text(encoding="utf-8").replace("700", "260"), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        prepare.run(small, tmp_path / "data")
    assert "260" in caught.value.cause
    assert "vocabulary_size" in caught.value.remedy
    assert not (tmp_path / "data").exists()
