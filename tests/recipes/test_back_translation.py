"""Text of the target language alone: translated back, learned beside, and kept apart from what is judged by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metanmt.cli import main
from metanmt.data.language import Pair
from metanmt.data.own_pieces import texts_of
from metanmt.data.store import TokenStore
from metanmt.data.tokenizer import load_tokenizer
from metanmt.errors import CorpusError, UsageError
from metanmt.meta.beside import Known, tasks_to_replay
from metanmt.nmt import back_translation
from metanmt.nmt.back_translation import check_back, sentences_seen, with_back_translation
from metanmt.nmt.tuning import batch_tokens, planned_updates
from metanmt.nmt.tuning_text import Text, Tokenised, tokenized
from metanmt.recipes import fine_tune
from tests import toy
from tests.recipes.test_fine_tune import QUICK

INTO, FROM = Pair("en", "is"), Pair("is", "en")


def written(path: Path, lines: Sequence[str]) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


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
def echo(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A translation that marks its source, and what was translated."""
    seen: list[str] = []

    def translate(engine: object, tokenizer: object, sentences: Sequence[str], pair: Pair, **more: object) -> list[str]:
        assert pair == INTO
        seen.extend(sentences)
        return [f"{sentence} back" for sentence in sentences]

    monkeypatch.setattr(back_translation, "open_engine", lambda *arguments, **more: (None, None))
    monkeypatch.setattr(back_translation, "translate", translate)
    return seen


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
    own, beside = Text(train_files=files), Text(train_files=files, mono_files=[more], back=back)
    plain = fine_tune.run(str(run_folder), str(INTO), tmp_path / "without", own, QUICK, replay=data)
    facts = fine_tune.run(str(run_folder), str(INTO), tmp_path / "out", beside, QUICK, replay=data)
    said = capsys.readouterr().err
    assert "are translated back into en" in said
    assert "back-translated pairs are learned" in said
    found = facts["monolingual"]
    assert found["sentences"] >= found["translated"] >= found["learned"] > 0
    assert (found["files"], found["back"]) == ([str(more)], str(back))
    assert facts["target_tokens"] == pytest.approx(1.5 * plain["target_tokens"], rel=0.2)
    assert facts["updates"] == plain["updates"]
    assert facts["history"][1]["loss"] != plain["history"][1]["loss"]
    assert "monolingual" not in plain


def test_what_a_run_has_learned_to_write_is_text_enough(
    run_folder: Path, data: Path, files: tuple[Path, Path], tmp_path: Path, echo: list[str]
) -> None:
    """English, of all its sets; the same for the same seed."""
    out_of = Text(train_files=tuple(reversed(files)), back=run_folder)
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
    into = Text(train_files=files, mono_files=more, back=back)
    scratch = fine_tune.run("none", str(INTO), tmp_path / "out", into, QUICK)
    assert (scratch["config"]["learning_rate"], scratch["config"]["dropout"]) == (4e-3, 0.2)
    assert scratch["monolingual"]["learned"]
    english = [written(tmp_path / "more.en", [line for line, _ in text[80:]])]
    out_of = Text(train_files=tuple(reversed(files)), mono_files=english, back=tmp_path / "out")
    settings = replace(QUICK, update="adapters")
    facts = fine_tune.run(str(run_folder), "is-en", tmp_path / "adapter", out_of, settings)
    assert facts["monolingual"]["learned"]
    assert (facts["config"]["learning_rate"], facts["config"]["dropout"]) == (1e-3, 0.2)


def read_text(data: Path, pairs: Sequence[tuple[str, str]]) -> Tokenised:
    tokenizer = load_tokenizer(TokenStore.open(data).tokenizer_folder)
    turned = [(icelandic, english) for english, icelandic in pairs]
    train, dev = (tokenized(tokenizer, part, FROM) for part in (turned[:80], turned[80:100]))
    return Tokenised(train, dev, tokenizer)


def test_what_is_known_or_judged_by_is_not_translated(
    data: Path, text: list[tuple[str, str]], echo: list[str], tmp_path: Path
) -> None:
    """Nor is an empty line, nor a sentence twice."""
    read = read_text(data, text)
    train, dev = (texts_of(part.target, read.tokenizer) for part in (read.train, read.dev))
    new = list(dict.fromkeys(line for line, _ in text[100:] if line not in {*train, *dev}))
    lines = [*train, "", *new, *(line.upper() for line in dev), *new]
    facts: dict[str, Any] = {}
    found = with_back_translation(read, lines, tmp_path, FROM, None, QUICK, 1, facts)
    assert set(echo) <= set(new)
    assert len(echo) == len(set(echo))
    assert facts["monolingual"] == {"sentences": len(new), "translated": len(echo), "learned": len(echo)}
    assert found.synthetic is not None
    assert (found.train, found.dev) == (read.train, read.dev)
    assert texts_of(found.synthetic.target, read.tokenizer) == echo
    assert texts_of(found.synthetic.source, read.tokenizer) == [f"{line} back" for line in echo]
    assert [new.index(line) for line in echo] == sorted(new.index(line) for line in echo)


def test_as_much_is_translated_as_the_updates_see_once(
    data: Path, text: list[tuple[str, str]], echo: list[str], tmp_path: Path
) -> None:
    read = read_text(data, text)
    lines = [f"{line} {number}" for number in range(20) for line, _ in text]
    for share in (0.5, 1.0):
        settings = replace(QUICK, synthetic=share)
        with_back_translation(read, lines, tmp_path, FROM, None, settings, 1, {})
        tokens = share * planned_updates(read.train, settings) * batch_tokens(read.train, settings)
        mean = np.diff(read.train.target.offsets).mean()
        assert len(echo) == sentences_seen(read, settings) == pytest.approx(tokens / mean, abs=1)
        first = list(echo)
        echo.clear()
        with_back_translation(read, lines, tmp_path, FROM, None, settings, 2, {})
        assert set(echo) != set(first)
        echo.clear()


def test_what_comes_back_as_nonsense_is_said(
    data: Path, text: list[tuple[str, str]], echo: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(back_translation, "translate", lambda *arguments, **more: ["" for _ in arguments[2]])
    lines = [line for line, _ in text[100:]]
    with pytest.raises(CorpusError, match="none is of a length that a translation has"):
        with_back_translation(read_text(data, text), lines, tmp_path, FROM, None, QUICK, 1, {})
    assert not echo


def test_sentences_of_a_folders_test_set_are_left_out(run_folder: Path, data: Path, tmp_path: Path) -> None:
    store = TokenStore.open(data)
    tokenizer = load_tokenizer(store.tokenizer_folder)
    fi, test = Pair("fi", "en"), store.bitext(Pair("fi", "en"), "test-late")
    only = written(tmp_path / "test.en", texts_of(test.target, tokenizer))
    text = Text(data=data, budget_words=200, mono_files=[only], back=run_folder)
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
        "was fine-tuned for is-en; what is learned is is-en": [*own, "--pair", "is-en", *mono, "--back", str(back)],
    }
    for said, arguments in wanted.items():
        assert main(arguments) == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    with pytest.raises(UsageError, match="fine-tuned for is-en; what is learned is lv-en"):
        check_back(Text(back=back), Pair("lv", "en"))
