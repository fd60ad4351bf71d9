"""`prepare` end to end."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from metanmt.data.language import Pair
from metanmt.data.leakage import normalized
from metanmt.data.store import TokenStore
from metanmt.data.tokenizer import load_tokenizer
from metanmt.errors import CheckpointError, ConfigError, CorpusError, UsageError
from metanmt.nmt.tuning_text import Text
from metanmt.recipes import fine_tune, prepare
from tests.recipes.conftest import small_config


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
        prepare.run(manifest, data, languages=["is"])


# ---- with the tokenizer of something that is there already


@pytest.mark.parametrize("whose", ["run", "checkpoint", "data"])
def test_text_is_tokenized_for_a_run_that_is_to_be_fine_tuned(
    mine: Path, run_folder: Path, data: Path, tmp_path: Path, whose: str
) -> None:
    """As the command says, and as the manifest may say too; the run then takes it."""
    folder = {"run": run_folder, "checkpoint": run_folder / "best", "data": data}[whose]
    facts = prepare.run(mine, tmp_path / "new", tokenizer=str(folder))
    assert facts["tokenizer_digest"] == TokenStore.open(data).digest != TokenStore.open(tmp_path / "out").digest
    mine.write_text(MINE.replace("vocabulary_size = 330", f'pretrained = "{folder}"'), encoding="utf-8")
    assert prepare.run(mine, tmp_path / "same")["tokenizer_digest"] == facts["tokenizer_digest"]
    updates = ("fine_tune.min_updates=4", "fine_tune.max_updates=4", "fine_tune.learning_rate=1e-3")
    settings = small_config(*updates).fine_tune
    text = Text(data=tmp_path / "new", train_set="train")
    adapted = fine_tune.run(str(run_folder), "fi-en", tmp_path / "tuned", text, settings)
    assert adapted["updates"] == 4


def test_a_tokenizer_that_is_not_there(mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(name: str) -> None:
        raise OSError("We couldn't connect.\nAnd more.")

    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", offline)
    for name, cause in (
        (str(tmp_path / "nowhere"), f"No folder {tmp_path / 'nowhere'}."),
        ("runn", "There is no folder runn here, and no tokenizer of that name on the hub: We couldn't connect."),
    ):
        with pytest.raises(CheckpointError) as error:
            prepare.run(mine, tmp_path / "new", tokenizer=name)
        assert error.value.cause == cause
        assert not (tmp_path / "new").exists()


def test_held_out_sentences_that_a_run_has_learned_from_are_counted(
    mine: Path, run_folder: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    learned = (data / "text/de-en/train.en").read_text(encoding="utf-8").splitlines()[:7]
    test = mine.parent / "test.en"
    lines = test.read_text(encoding="utf-8").splitlines()
    test.write_text(
        "".join(f"{line}\n" for line in [*(line.upper() for line in learned), *lines[7:]]), encoding="utf-8"
    )
    for whose, folder in (("run", run_folder), ("last", run_folder / "last"), ("data", data)):
        facts = prepare.run(mine, tmp_path / whose, tokenizer=str(folder))
        assert facts["seen_in_meta_training"] == {"fi-en": {"test": 7}}
        assert "7 sentence pairs of fi-en test have a side in the text of" in capsys.readouterr().err
    assert prepare.run(mine, tmp_path / "own")["seen_in_meta_training"] is None
    without = Path(shutil.copytree(data, tmp_path / "without text", ignore=shutil.ignore_patterns("train.*")))
    moved = Path(shutil.copytree(run_folder, tmp_path / "moved", symlinks=True))
    (moved / "run.json").write_text(json.dumps({"data_digest": "another", "data": str(data)}), encoding="utf-8")
    for number, folder in enumerate((without, moved)):
        facts = prepare.run(mine, tmp_path / f"unknown {number}", tokenizer=str(folder))
        assert facts["seen_in_meta_training"] is None
        assert f"text that {folder} has learned from is not at hand" in capsys.readouterr().err


def test_a_language_that_is_not_unseen_is_said(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    group = '[[groups]]\nrole = "{}"\npairs = ["{}"]\ntrain = [{{ embedded = "cldr", sentences = 60 }}]\n'
    test = 'test = [{ embedded = "cldr", sentences = 5, skip = 60 }]\n'
    size = "[tokenizer]\nvocabulary_size = 400\n"
    for pair, said in (("pt_BR-en", True), ("en-pt", True), ("fi-en", False)):
        text = size + group.format("meta-train", "pt-en") + group.format("meta-test", pair) + test
        (tmp_path / f"{pair}.toml").write_text(text, encoding="utf-8")
        prepare.run(tmp_path / f"{pair}.toml", tmp_path / pair)
        assert (f"{pair} is to be unseen, but meta-training has both" in capsys.readouterr().err) == said


# ---- a second time


MINE = """
[tokenizer]
vocabulary_size = 330
[[groups]]
role = "meta-test"
pairs = ["fi-en"]
train = ["train", { moses = "more", optional = true }]
test = ["test"]
"""


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A manifest with files of its own, prepared into the folder `out` beside it."""
    for name, numbers in (("train", range(200)), ("test", range(200, 220))):
        for side, word in (("fi", "lause"), ("en", "sentence")):
            text = "".join(f"{word} {number * 37} {word[number % 4 :]}\n" for number in numbers)
            (tmp_path / f"{name}.{side}").write_text(text, encoding="utf-8")
    path = tmp_path / "mine.toml"
    path.write_text(MINE, encoding="utf-8")
    prepare.run(path, tmp_path / "out")
    return path


def state(folder: Path) -> dict[str, tuple[int, int, int]]:
    found = [(path, path.stat()) for path in [folder, *folder.rglob("*")]]
    return {str(path): (item.st_ino, item.st_size, item.st_mtime_ns) for path, item in found}


def test_nothing_changed_and_nothing_is_done(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, first = mine.parent / "out", json.loads((mine.parent / "out/data.json").read_text(encoding="utf-8"))
    before = state(out)
    capsys.readouterr()
    started = time.perf_counter()
    again = prepare.run(mine, out)
    assert time.perf_counter() - started < 2
    assert state(out) == before
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "up to date" in said
    header, rows = again.pop("table")
    assert again == first
    assert (header[0], rows[0][:3]) == ("pair", ["fi-en", "train", "200"])
    assert len(list(out.parent.glob(".out*"))) == 0


def test_the_folder_that_the_fixture_made_is_up_to_date(data: Path, manifest: Path) -> None:
    before = state(data)
    assert prepare.run(manifest, data)["made_from"] == prepare.run(manifest.resolve(), data)["made_from"]
    assert state(data) == before


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: os.utime(folder / "train.fi", ns=(1, 1)),
        lambda folder: (folder / "train.en").write_bytes((folder / "train.en").read_bytes().replace(b"37", b"3")),
        lambda folder: [(folder / f"more.{side}").write_text("x\n") for side in ("fi", "en")],
        lambda folder: (folder / "mine.toml").write_text(MINE.replace("330", "331")),
        lambda folder: (folder / "mine.toml").write_text(MINE + "[cleaning]\nmax_characters = 500\n"),
        lambda folder: (folder / "out/tokens/fi-en/train.target.ids.npy").write_bytes(b"\x93NUMPY"),
        lambda folder: (folder / "out/text/fi-en/test.fi").unlink(),
        lambda folder: (folder / "out/text/fi-en/test.en").write_text("cut"),
        lambda folder: (folder / "out/tokenizer/sentencepiece.model").write_bytes(b"no"),
        lambda folder: (folder / "out/data.json").write_text('{"format": 0}'),
    ],
    ids=["time", "size", "optional", "vocabulary", "cleaning", "tokens", "text", "text size", "tokenizer", "format"],
)
def test_a_change_is_seen(mine: Path, change: Callable[[Path], object]) -> None:
    change(mine.parent)
    before = state(mine.parent / "out")
    with pytest.raises(UsageError, match="exists already"):
        prepare.run(mine, mine.parent / "out")
    assert state(mine.parent / "out") == before
    assert prepare.run(mine, mine.parent / "out", overwrite=True)["made_from"]
    assert state(mine.parent / "out") != before


def test_another_version_is_a_change(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from metanmt.data import fingerprint as module

    known = module.version
    monkeypatch.setattr(module, "version", lambda name: known(name) + (".1" if name == "sentencepiece" else ""))
    with pytest.raises(UsageError, match="exists already"):
        prepare.run(mine, mine.parent / "out")


def test_overwrite_makes_it_anew(mine: Path) -> None:
    before = state(mine.parent / "out")
    prepare.run(mine, mine.parent / "out", overwrite=True)
    assert state(mine.parent / "out")[str(mine.parent / "out")] != before[str(mine.parent / "out")]


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


def test_without_training_text_there_is_no_vocabulary(mine: Path, tmp_path: Path, manifest: Path) -> None:
    mine.write_text(
        mine.read_text(encoding="utf-8").replace('train = ["train", { moses', "# { moses"), encoding="utf-8"
    )
    with pytest.raises(CorpusError, match="no training text") as caught:
        prepare.run(mine, tmp_path / "new")
    assert "--tokenizer RUN" in caught.value.remedy
