"""Text of the target language alone: translated back, learned beside, and kept apart from what is judged by."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from metanmt.cli import main
from metanmt.data.language import Pair
from metanmt.data.own_pieces import texts_of
from metanmt.data.store import TokenStore
from metanmt.data.tokenizer import load_tokenizer
from metanmt.errors import CorpusError, UsageError
from metanmt.meta.beside import Known, tasks_to_replay
from metanmt.nmt.back_translation import check_back
from metanmt.nmt.checkpoint import load_checkpoint, tuned_pair
from metanmt.nmt.loss import Loss
from metanmt.nmt.tuning import evaluate_dev
from metanmt.nmt.tuning_text import Text, tokenized
from metanmt.recipes import fine_tune
from tests import toy
from tests.recipes.test_fine_tune import QUICK
from tests.toy import weights_hash

INTO, FROM = Pair("en", "is"), Pair("is", "en")


def written(path: Path, lines: Sequence[str]) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def loss_of(checkpoint: Path, pairs: Sequence[tuple[str, str]]) -> float:
    """Return a model's loss on Icelandic beside English."""
    model, tokenizer = load_checkpoint(checkpoint)
    return evaluate_dev(model, tokenizer, FROM, tokenized(tokenizer, pairs, FROM), 0, Loss(0.0), "loss").loss


@pytest.fixture(scope="module")
def text() -> list[tuple[str, str]]:
    """English beside Icelandic."""
    return [(english, icelandic) for icelandic, english in toy.lines(200, language="is")]


@pytest.fixture(scope="module")
def files(text: list[tuple[str, str]], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("icelandic")
    english, icelandic = zip(*text[:80], strict=True)
    return written(folder / "my.en", english), written(folder / "my.is", icelandic)


@pytest.fixture(scope="module")
def back(run_folder: Path, files: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("back") / "is-en"
    fine_tune.run(str(run_folder), "is-en", out, Text(train_files=tuple(reversed(files))), QUICK)
    return out


@pytest.fixture
def echo(echo: list[str], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(fine_tune, "check_back", lambda *arguments: None)
    return echo


def test_it_is_translated_back_and_learned_beside(
    run_folder: Path,
    data: Path,
    files: tuple[Path, Path],
    back: Path,
    text: list[tuple[str, str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    more = written(tmp_path / "more.is", [line for _, line in text[80:]])
    own, beside = Text(train_files=files), Text(train_files=files, mono_files=[more], back=str(back))
    plain = fine_tune.run(str(run_folder), str(INTO), tmp_path / "without", own, QUICK, replay=data)
    facts = fine_tune.run(str(run_folder), str(INTO), tmp_path / "out", beside, QUICK, replay=data)
    said = capsys.readouterr().err
    assert "sentences of is " in said
    assert "back-translated pairs are learned" in said
    found = facts["monolingual"]
    assert found["sentences"] >= found["translated"] >= found["usable"] > 0
    assert (found["files"], found["back"]) == ([str(more)], str(back))
    assert 1.1 < facts["target_tokens"] / plain["target_tokens"] < 1.5  # there is less of it than of the pairs
    assert facts["updates"] == plain["updates"]
    assert "monolingual" not in plain


def test_what_is_written_in_it_is_learned(
    run_folder: Path, files: tuple[Path, Path], text: list[tuple[str, str]], tmp_path: Path, echo: list[str]
) -> None:
    """Text in capitals, of which the pairs have none."""
    loud = [(icelandic, english.upper()) for english, icelandic in text[80:]]
    out_of, settings = Text(train_files=tuple(reversed(files))), replace(QUICK, min_updates=20, max_updates=20)
    fine_tune.run(str(run_folder), str(FROM), tmp_path / "without", out_of, settings)
    out_of = replace(out_of, mono_files=[written(tmp_path / "loud.en", [line for _, line in loud])], back="echo")
    fine_tune.run(str(run_folder), str(FROM), tmp_path / "with", out_of, settings)
    assert len(echo) > 20
    assert loss_of(tmp_path / "with", loud) < loss_of(tmp_path / "without", loud) - 0.5


def test_by_what_is_adapted_itself(run_folder: Path, data: Path, files: tuple[Path, Path], tmp_path: Path) -> None:
    """It is what two commands do, one for each way."""
    settings, both = {"config": QUICK, "replay": data}, Text(train_files=tuple(reversed(files)), back="init")
    facts = fine_tune.run(str(run_folder), str(FROM), tmp_path / "out", both, **settings)
    back = tmp_path / "out-back"
    assert facts["monolingual"]["back"] == str(back)
    assert facts["monolingual"]["files"] == [str(data)]
    assert tuned_pair(back) == INTO
    noted = json.loads((back / "fine_tune.json").read_text(encoding="utf-8"))
    assert (noted["sentences"], noted["data"]) == (facts["sentences"], facts["data"])
    assert noted["replayed"] == facts["replayed"]
    by_hand = fine_tune.run(str(run_folder), str(FROM), tmp_path / "2", replace(both, back=str(back)), **settings)
    assert by_hand["history"] == facts["history"]
    one, two = (load_checkpoint(tmp_path / name)[0] for name in ("out", "2"))
    assert weights_hash(one) == weights_hash(two)
    (tmp_path / "out-back").rename(tmp_path / "3-back")
    lost = replace(both, train_files=[tmp_path / "lost.tsv"])  # nothing is read before
    with pytest.raises(UsageError, match="3-back exists already"):
        fine_tune.run(str(run_folder), str(FROM), tmp_path / "3", lost, **settings)


def test_by_what_is_adapted_itself_from_a_data_folder(run_folder: Path, data: Path, tmp_path: Path) -> None:
    """From scratch too, which replays nothing: the text of meta-training is text of English all the same."""
    text, pieces = Text(data=data, budget_words=200, back="init"), replace(QUICK, new_pieces=20)
    for init in (str(run_folder), "none"):
        out = tmp_path / Path(init).name
        facts = fine_tune.run(init, "fi-en", out, text, pieces)
        noted = json.loads((Path(f"{out}-back") / "fine_tune.json").read_text(encoding="utf-8"))
        assert (noted["pair"], noted["sentences"], noted["init"]) == ("en-fi", facts["sentences"], init)
        assert bool(noted["replayed"]) == bool(facts["replayed"]) == (init != "none")
        assert facts["monolingual"]["translated"] > 10
        assert facts["monolingual"]["files"] == [str(data)]


def test_a_stop_on_the_way_back_keeps_what_there_is(
    run_folder: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tune = fine_tune.fine_tune_soup

    def stopped(*arguments: Any, **more: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return tune(*arguments, **more)

    monkeypatch.setattr(fine_tune, "fine_tune_soup", stopped)
    text = Text(data=data, budget_words=200, back="init")
    with pytest.raises(KeyboardInterrupt, match="the best weights of en-fi so far are in"):
        fine_tune.run(str(run_folder), "fi-en", tmp_path / "out", text, QUICK)
    assert tuned_pair(tmp_path / "out-back") == Pair("en", "fi")
    assert not (tmp_path / "out").exists()


def test_what_a_run_has_learned_to_write_is_text_enough(
    run_folder: Path, data: Path, files: tuple[Path, Path], tmp_path: Path, echo: list[str]
) -> None:
    """English, of all its sets; the same for the same seed."""
    out_of = Text(train_files=tuple(reversed(files)), back=str(run_folder))
    translated = []
    for name in ("one", "same"):
        facts = fine_tune.run(str(run_folder), str(FROM), tmp_path / name, out_of, QUICK, replay=data)
        assert facts["monolingual"]["translated"] == len(echo) > 20
        translated.append(list(echo))
        echo.clear()
    assert translated[0] == translated[1]
    store = TokenStore.open(data)
    tasks, outer = tasks_to_replay(run_folder, store, FROM, asked=True)
    known = Known(data, tasks, outer)
    tokenizer = load_tokenizer(store.tokenizer_folder)
    every = [line for task in tasks for line in texts_of(task.bitext.target, tokenizer)]
    assert known.targets("en", 10**6, 1) == every
    some = known.targets("en", 200, 1)
    assert len(some) == 200
    assert set(some) <= set(every)
    assert known.targets("en", 200, 2) != some
    assert known.targets("is", 200, 1) == []


def test_from_scratch_and_by_an_adapter(
    run_folder: Path, files: tuple[Path, Path], back: Path, text: list[tuple[str, str]], tmp_path: Path
) -> None:
    more = [written(tmp_path / "more.is", [line for _, line in text[80:]])]
    into = Text(train_files=files, mono_files=more, back=str(back))
    scratch = fine_tune.run("none", str(INTO), tmp_path / "out", into, QUICK)
    assert (scratch["config"]["learning_rate"], scratch["config"]["dropout"]) == (4e-3, 0.2)
    assert scratch["monolingual"]["usable"]
    english = [written(tmp_path / "more.en", [line for line, _ in text[80:]])]
    out_of = Text(train_files=tuple(reversed(files)), mono_files=english, back=str(tmp_path / "out"))
    settings = replace(QUICK, update="adapters")
    facts = fine_tune.run(str(run_folder), "is-en", tmp_path / "adapter", out_of, settings)
    assert facts["monolingual"]["usable"]
    assert (facts["config"]["learning_rate"], facts["config"]["dropout"]) == (1e-3, 0.2)


def test_sentences_of_a_folders_test_set_are_left_out(
    run_folder: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = TokenStore.open(data)
    tokenizer = load_tokenizer(store.tokenizer_folder)
    fi, test = Pair("fi", "en"), store.bitext(Pair("fi", "en"), "test-late")
    only = written(tmp_path / "test.en", texts_of(test.target, tokenizer))
    text = Text(data=data, budget_words=200, mono_files=[only], back=str(run_folder))
    monkeypatch.setattr(fine_tune, "check_back", lambda *arguments: None)  # it cannot write Finnish
    with pytest.raises(CorpusError, match="is not in the pairs, the dev set or a test set"):
        fine_tune.run(str(run_folder), str(fi), tmp_path / "out", text, QUICK)


def test_mistakes_are_said(
    run_folder: Path, files: tuple[Path, Path], back: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = ["fine-tune", "--init", str(run_folder), "--train", *map(str, files), "--out", str(tmp_path / "out")]
    into, mono = [*own, "--pair", "en-is"], ["--mono", str(files[1])]
    wanted = {
        "--mono is of no use by itself": [*into, *mono],
        "There is no text of is alone for --back to translate": [*into, "--back", str(back)],
        "--back translates text to learn from": [*into, *mono, "--back", str(back), "--update", "none"],
        "fine_tune.synthetic=2 is for what --back translates": [*into, "--set", "fine_tune.synthetic=2"],
        "fine_tune.synthetic above 0": [*into, *mono, "--back", str(back), "--set", "fine_tune.synthetic=0"],
        f"No file {tmp_path / 'nowhere'}": [*into, "--mono", str(tmp_path / "nowhere"), "--back", str(back)],
        "is not in the pairs": [*into, *mono, "--back", str(back)],
        "cannot translate into 'is'": [*own, "--pair", "is-en", *mono, "--back", str(run_folder)],
        "was fine-tuned for is-en; what is learned is is-en": [*own, "--pair", "is-en", *mono, "--back", str(back)],
    }
    for said, arguments in wanted.items():
        assert main(arguments) == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    with pytest.raises(UsageError, match="fine-tuned for is-en; what is learned is lv-en"):
        check_back(Text(back=str(back)), Pair("lv", "en"))
