"""`fine-tune` end to end, from a data folder and from a user's own files."""

from __future__ import annotations

import json
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from metanmt.config import FineTuneConfig
from metanmt.data.cldr import sentence_pairs
from metanmt.data.language import Pair
from metanmt.data.store import TokenStore
from metanmt.errors import CheckpointError, CorpusError, MetanmtError, UsageError
from metanmt.nmt.tuning_text import Text
from metanmt.recipes import fine_tune, prepare

QUICK = FineTuneConfig(max_epochs=1, min_updates=4, max_updates=4, evaluations=1, metric="loss", max_tokens=300)


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    pairs = list(sentence_pairs("is", 60))
    sides = (tmp_path / "my.is", tmp_path / "my.en")
    for path, lines in zip(sides, zip(*pairs, strict=True), strict=True):
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return sides


def adapt(init: Path | str, pair: str, out: Path, text: Text, **more: Any) -> dict[str, Any]:
    return fine_tune.run(str(init), pair, out, text, QUICK, **more)


def test_from_a_data_folder(run_folder: Path, data: Path, tmp_path: Path) -> None:
    facts = adapt(run_folder, "fi-en", tmp_path / "tuned", Text(data=data, budget_words=200), seed=3)
    assert facts["history"][-1]["loss"] < facts["history"][0]["loss"]
    assert 0 < facts["train_words"] <= 200
    assert facts["updates"] == 4
    assert facts["config"]["learning_rate"] == 2e-3
    written = json.loads((tmp_path / "tuned" / "fine_tune.json").read_text(encoding="utf-8"))
    assert {**written, "model": str(tmp_path / "tuned"), "stop_requested": False} == facts
    again = adapt(run_folder, "fi-en", tmp_path / "again", Text(data=data, budget_words=200), seed=3)
    assert again["history"] == facts["history"]
    other = adapt(run_folder, "fi-en", tmp_path / "other", Text(data=data, budget_words=200), seed=4)
    assert other["history"] != facts["history"]


def test_a_dev_set_that_is_held_out_has_no_name(run_folder: Path, data: Path, tmp_path: Path) -> None:
    named = adapt(run_folder, "fi-en", tmp_path / "fi", Text(data=data))
    held_out = adapt(run_folder, "de-en", tmp_path / "de", Text(data=data))
    assert [(facts["train_set"], facts["dev_set"]) for facts in (named, held_out)] == [
        ("train", "dev"),
        ("train", None),
    ]


def test_a_test_set_that_chooses_is_none_any_more(
    run_folder: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for dev_set in ("test-late", "dev"):
        adapt(run_folder, "fi-en", tmp_path / dev_set, Text(data=data, dev_set=dev_set))
        assert ("no test set any more" in capsys.readouterr().err) is (dev_set != "dev")


def test_going_on_from_what_was_tuned_for_another_language(
    run_folder: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapt(run_folder, "fi-en", tmp_path / "fi", Text(data=data, budget_words=200))
    assert "Note" not in capsys.readouterr().err
    adapt(tmp_path / "fi", "lv-en", tmp_path / "lv", Text(data=data, budget_words=200))
    assert "was fine-tuned for fi-en" in capsys.readouterr().err


def test_from_ones_own_files_a_tenth_is_held_out(run_folder: Path, files: tuple[Path, Path], tmp_path: Path) -> None:
    facts = adapt(run_folder, "is-en", tmp_path / "tuned", Text(train_files=files))
    assert facts["dev_sentences"] == 10
    assert facts["sentences"] + facts["dev_sentences"] + sum(facts.get("dropped", {}).values()) == 60


def test_what_is_in_dev_leaves_train(run_folder: Path, files: tuple[Path, Path], tmp_path: Path) -> None:
    dev = [path.with_name(f"dev{path.suffix}") for path in files]
    for path, short in zip(files, dev, strict=True):
        short.write_text("".join(path.read_text(encoding="utf-8").splitlines(keepends=True)[:7]), encoding="utf-8")
    facts = adapt(run_folder, "is-en", tmp_path / "tuned", Text(train_files=files, dev_files=dev))
    assert facts["dropped"]["also in dev"] >= 7
    assert facts["dev_sentences"] == 7


def test_from_scratch_with_a_vocabulary_of_its_own(files: tuple[Path, Path], tmp_path: Path) -> None:
    tsv = tmp_path / "my.tsv"
    lines = [path.read_text(encoding="utf-8").splitlines() for path in files]
    tsv.write_text("".join(f"{a}\t{b}\n" for a, b in zip(*lines, strict=True)), encoding="utf-8")
    facts = adapt("none", "is-en", tmp_path / "tuned", Text(train_files=[tsv]))
    assert facts["history"][-1]["loss"] < facts["history"][0]["loss"]


def test_from_scratch_in_a_script_of_many_characters(tmp_path: Path) -> None:
    """More characters than the vocabulary has pieces: the rare ones are spelled in bytes."""
    rng = random.Random(1)
    path = tmp_path / "my.tsv"
    rows = ("".join(chr(rng.randrange(0x4E00, 0x5A00)) for _ in range(9)) for _ in range(500))
    path.write_text("".join(f"{row}\tline {number}\n" for number, row in enumerate(rows)), encoding="utf-8")
    facts = adapt("none", "zh-en", tmp_path / "tuned", Text(train_files=[path]))
    assert facts["updates"] == 4


def test_what_is_too_long_is_said(
    run_folder: Path, files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a script that the vocabulary has not, a character is three tokens; and a budget is drawn from the rest."""
    lines = files[0].read_text(encoding="utf-8").splitlines()
    dirty = ["\u1200" * 190 if number < 20 else line for number, line in enumerate(lines)]
    files[0].write_text("".join(f"{line}\n" for line in dirty), encoding="utf-8")
    files[1].write_text("".join(f"{number} {'word ' * 20}\n" for number in range(60)), encoding="utf-8")
    facts = adapt(run_folder, "is-en", tmp_path / "tuned", Text(train_files=files, budget_words=500))
    assert facts["dropped"]["over 400 tokens"] == 20
    assert facts["train_words"] + 21 * facts["dev_sentences"] > 450
    assert "20 over 400 tokens" in (said := capsys.readouterr().err)
    assert "does the vocabulary know this script?" in said
    whole = sum(len(line.split()) for number, line in enumerate(files[1].read_text(encoding="utf-8").splitlines()))
    dropped = 21 * facts["dropped"]["length ratio"]
    text = Text(train_files=files, budget_words=whole - dropped)  # all there is, of which not all can be used
    assert adapt(run_folder, "is-en", tmp_path / "all", text)["sentences"] == 60 - 20 - 10 - dropped // 21


def test_dev_sentences_that_are_too_long_are_left_out(
    run_folder: Path, files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dev = tmp_path / "long.is", tmp_path / "long.en"
    dev[0].write_text("stutt\n" + "langt " * 450 + "\n", encoding="utf-8")
    dev[1].write_text("short\n" + "long " * 450 + "\n", encoding="utf-8")
    facts = adapt(run_folder, "is-en", tmp_path / "tuned", Text(train_files=files, dev_files=dev))
    assert facts["dev_sentences"] == facts["dropped"]["over 400 tokens in dev"] == 1
    assert "1 over 400 tokens in dev" in capsys.readouterr().err


def test_a_stop_that_comes_too_late_to_be_heeded_is_told(
    run_folder: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = fine_tune.fine_tune_soup

    def late(*arguments: Any, **more: Any) -> Any:
        report = plain(*arguments, **more)
        os.kill(os.getpid(), signal.SIGINT)
        return report

    monkeypatch.setattr(fine_tune, "fine_tune_soup", late)
    facts = adapt(run_folder, "fi-en", tmp_path / "tuned", Text(data=data))
    assert (facts["interrupted"], facts["stop_requested"]) == (False, True)
    assert (tmp_path / "tuned" / "model.safetensors").is_file()


def test_files_whose_names_are_not_utf8(run_folder: Path, files: tuple[Path, Path], tmp_path: Path) -> None:
    named = [tmp_path / os.fsdecode(b"caf\xe9" + path.suffix.encode()) for path in files]
    for path, other in zip(files, named, strict=True):
        path.rename(other)
    adapt(run_folder, "is-en", tmp_path / "tuned", Text(train_files=named))
    assert "caf\\udce9" in (tmp_path / "tuned" / "fine_tune.json").read_text(encoding="utf-8")


def test_from_scratch_on_a_data_folder(data: Path, tmp_path: Path) -> None:
    facts = adapt("none", "fi-en", tmp_path / "tuned", Text(data=data))
    assert facts["history"][-1]["loss"] < facts["history"][0]["loss"]
    assert facts["config"]["learning_rate"] == 4e-3


Case = Callable[[Path, Path, tuple[Path, Path], Path], tuple[Any, str, Text]]
MISTAKES: dict[str, tuple[Case, type[MetanmtError], str, str]] = {
    "budget larger than the corpus": (
        lambda run, data, files, tmp: (run, "fi-en", Text(data=data, budget_words=10**6)),
        UsageError,
        "1,000,000 words is larger than the corpus",
        "at most",
    ),
    "no budget": (
        lambda run, data, files, tmp: (run, "fi-en", Text(data=data, budget_words=0)),
        UsageError,
        "no words",
        "positive",
    ),
    "a budget of a sentence, of which none can be held out": (
        lambda run, data, files, tmp: (run, "de-en", Text(data=data, budget_words=1)),
        UsageError,
        "--budget 1 draws 1 of",
        "larger --budget, of at least 20 pairs",
    ),
    "unknown pair": (
        lambda run, data, files, tmp: (run, "fj-en", Text(data=data)),
        UsageError,
        "no pair fj-en",
        "fi-en",
    ),
    "unknown set": (
        lambda run, data, files, tmp: (run, "fi-en", Text(data=data, train_set="trian")),
        UsageError,
        "no set 'trian'",
        "train",
    ),
    "unknown dev set": (
        lambda run, data, files, tmp: (run, "fi-en", Text(data=data, dev_set="dve")),
        UsageError,
        "no set 'dve'",
        "dev",
    ),
    "the same set twice": (
        lambda run, data, files, tmp: (run, "fi-en", Text(data=data, dev_set="train")),
        UsageError,
        "adapted on and chosen by",
        "--dev-set",
    ),
    "dev files beside a folder": (
        lambda run, data, files, tmp: (run, "fi-en", Text(data=data, dev_files=files)),
        UsageError,
        "--dev goes with --train",
        "--dev-set",
    ),
    "a set of files": (
        lambda run, data, files, tmp: (run, "is-en", Text(train_files=files, train_set="train-bible")),
        UsageError,
        "name sets of a data folder",
        "--data",
    ),
    "all of train in dev": (
        lambda run, data, files, tmp: (run, "is-en", Text(train_files=files, dev_files=files)),
        CorpusError,
        "in the dev set too",
        "other files",
    ),
    "not a pair": (
        lambda run, data, files, tmp: (run, "finnish", Text(data=data)),
        UsageError,
        "not a language pair",
        "fi-en",
    ),
    "no text": (lambda run, data, files, tmp: (run, "fi-en", Text()), UsageError, "Exactly one", "--train"),
    "text twice": (
        lambda run, data, files, tmp: (run, "fi-en", Text(data=data, train_files=files)),
        UsageError,
        "Exactly one",
        "--data",
    ),
    "no checkpoint": (
        lambda run, data, files, tmp: (tmp, "fi-en", Text(data=data)),
        CheckpointError,
        "not a checkpoint",
        "meta-train or fine-tune",
    ),
    "missing file": (
        lambda run, data, files, tmp: (run, "is-en", Text(train_files=[files[0], tmp / "my.em"])),
        CorpusError,
        "No file",
        "my.en",
    ),
    "three files": (
        lambda run, data, files, tmp: (run, "is-en", Text(train_files=[*files, files[0]])),
        UsageError,
        "not clear",
        "two files",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes(name: str, run_folder: Path, data: Path, files: tuple[Path, Path], tmp_path: Path) -> None:
    case, kind, cause, remedy = MISTAKES[name]
    init, pair, text = case(run_folder, data, files, tmp_path)
    with pytest.raises(kind) as caught:
        adapt(init, pair, tmp_path / "tuned", text)
    assert cause in caught.value.cause
    assert remedy in caught.value.remedy
    assert not (tmp_path / "tuned").exists()


def test_data_of_another_tokenizer(run_folder: Path, manifest: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.toml"
    other.write_text(manifest.read_text(encoding="utf-8").replace("700", "650"), encoding="utf-8")
    prepare.run(other, tmp_path / "data")
    with pytest.raises(CheckpointError, match="another tokenizer"):
        adapt(run_folder, "fi-en", tmp_path / "tuned", Text(data=tmp_path / "data"))


def test_empty_sides_and_sides_of_different_length(run_folder: Path, files: tuple[Path, Path], tmp_path: Path) -> None:
    files[0].write_text("\n" * 60, encoding="utf-8")
    with pytest.raises(CorpusError, match=r"after cleaning\. Dropped: 60 empty\."):
        adapt(run_folder, "is-en", tmp_path / "tuned", Text(train_files=files))
    files[0].with_name("none.tsv").write_text("", encoding="utf-8")
    with pytest.raises(CorpusError, match=r"after cleaning\.$"):
        adapt(run_folder, "is-en", tmp_path / "tuned", Text(train_files=[files[0].with_name("none.tsv")]))
    files[0].write_text("a\n" * 59, encoding="utf-8")
    with pytest.raises(CorpusError, match="59 lines"):
        adapt(run_folder, "is-en", tmp_path / "tuned", Text(train_files=files))


@pytest.mark.parametrize("overwrite", [False, True])
def test_only_its_own_folders_are_overwritten(run_folder: Path, data: Path, tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "folder" / "thesis.txt", tmp_path / "file"):
        path.write_text("mine", encoding="utf-8")
        out = path if path.name == "file" else path.parent
        with pytest.raises(UsageError):
            fine_tune.run(str(run_folder), "fi-en", out, Text(data=data), FineTuneConfig(), overwrite=overwrite)
        assert path.read_text(encoding="utf-8") == "mine"


def test_an_existing_folder_is_kept(run_folder: Path, data: Path, tmp_path: Path) -> None:
    (tmp_path / "tuned").mkdir()
    (tmp_path / "tuned" / "precious").write_text("mine", encoding="utf-8")
    with pytest.raises(UsageError, match="exists already"):
        adapt(run_folder, "fi-en", tmp_path / "tuned", Text(data=data))
    assert (tmp_path / "tuned" / "precious").read_text(encoding="utf-8") == "mine"


def test_training_needs_neither_text_nor_datasets(
    run_folder: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil
    import sys

    copy = tmp_path / "data"
    shutil.copytree(data, copy)
    shutil.rmtree(copy / "text")
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert TokenStore.open(copy).bitext(Pair("fi", "en")).source.ids.flags.writeable is False
    adapt(run_folder, "fi-en", tmp_path / "tuned", Text(data=copy, budget_words=100))
