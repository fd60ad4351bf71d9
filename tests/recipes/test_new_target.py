"""Translating into a language that a run has never written: from its files, and from data of both directions."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from metanmt.cli import main
from metanmt.data.counterparts import Counterparts
from metanmt.data.language import Pair
from metanmt.data.store import TokenStore
from metanmt.data.tokenizer import load_tokenizer
from metanmt.errors import UsageError
from metanmt.meta.validation import MetaValidation
from metanmt.nmt.checkpoint import load_checkpoint
from metanmt.nmt.tuning_text import Text
from metanmt.recipes import evaluate, export, fine_tune, meta_train, prepare
from tests import toy
from tests.recipes.conftest import ALONE, MANIFEST, small_config
from tests.recipes.test_fine_tune import QUICK

INTO = Pair("en", "ka")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """English, and Georgian, in a script that the vocabulary has nothing but bytes for."""
    folder = tmp_path_factory.mktemp("georgian")
    sides = (folder / "my.en", folder / "my.ka")
    pairs = [(english, georgian) for georgian, english in toy.lines(80, language="ka")]
    for path, lines in zip(sides, zip(*pairs, strict=True), strict=True):
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return sides


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data of both directions."""
    folder = tmp_path_factory.mktemp("both")
    (folder / "toy.toml").write_text(MANIFEST, encoding="utf-8")
    prepare.run(folder / "toy.toml", folder / "data", both_directions=True)
    return folder / "data"


@pytest.fixture(scope="module")
def run_of_both(both: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "run"
    meta_train.run(small_config("outer.learner=aligned"), both, out)
    return out


def test_from_a_run_into_english(
    run_folder: Path, data: Path, files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, text = tmp_path / "tuned", Text(train_files=files)
    facts = fine_tune.run(str(run_folder), str(INTO), out, text, QUICK, replay=data)
    said = capsys.readouterr().err
    assert f"{run_folder} translates into en: the tag of ka is new" in said
    assert "new pieces of ka" in said
    assert facts["target_tokens_a_sentence"]["after"] < facts["target_tokens_a_sentence"]["before"] / 3
    assert facts["aligned_pieces"] > 50
    assert facts["replayed"]
    assert facts["history"][-1]["loss"] < facts["history"][0]["loss"]
    model, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(out), AutoTokenizer.from_pretrained(out)
    assert len(tokenizer) == model.config.vocab_size
    own, english = load_tokenizer(out), files[0].read_text(encoding="utf-8").splitlines()
    assert tokenizer(english)["input_ids"] == own.encode_source(english, INTO)
    assert own.encode_source(english, INTO)[0][0] != own.encode_source(english, Pair("ka", "en"))[0][0]


@pytest.mark.parametrize(("target", "noted"), [("eng", True), ("EN", True), ("ka", False)])
def test_another_code_of_a_known_target_is_noted(
    run_folder: Path,
    files: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    target: str,
    noted: bool,
) -> None:
    fine_tune.run(str(run_folder), f"xx-{target}", tmp_path / "tuned", Text(train_files=files), QUICK)
    assert ("is en the same language?" in capsys.readouterr().err) == noted


def test_what_is_adapted_translates_and_goes_on_to_be_adapted(
    run_folder: Path, files: tuple[Path, Path], tmp_path: Path
) -> None:
    text = Text(train_files=files)
    fine_tune.run(str(run_folder), str(INTO), tmp_path / "tuned", text, QUICK)
    for engine in ("ctranslate2", "transformers"):
        scores = evaluate.run(
            model=tmp_path / "tuned",
            pair=str(INTO),
            source=files[0],
            reference=files[1],
            engine=engine,
            out=tmp_path / engine,
        )
        assert scores["sentences"] == 80
    export.run(tmp_path / "tuned", tmp_path / "exported")  # for the pair that it was adapted to
    english = files[0].read_text(encoding="utf-8").splitlines()
    plain = [AutoTokenizer.from_pretrained(tmp_path / name)(english)["input_ids"] for name in ("tuned", "exported")]
    assert plain[0] == plain[1]
    again = fine_tune.run(str(tmp_path / "tuned"), str(INTO), tmp_path / "again", text, QUICK)
    assert "new_pieces" not in again
    tokenizers = [load_tokenizer(tmp_path / name) for name in ("tuned", "again")]
    assert tokenizers[0].digest() == tokenizers[1].digest()


def test_of_several_targets_an_export_is_told_which(run_of_both: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"translates into en, .*") as error:
        export.run(run_of_both, tmp_path / "exported")
    assert "--pair XX-YY" in error.value.remedy
    assert export.run(run_of_both, tmp_path / "exported", "en-sv")["model"]


@pytest.mark.parametrize("update", ["decoder", "head", "adapters", "none"])
def test_where_the_embeddings_stay_no_language_can_be_new(
    run_folder: Path, files: tuple[Path, Path], tmp_path: Path, update: str
) -> None:
    settings = replace(QUICK, update=update)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=rf"translates into en, not into ka yet.*update = {update}") as caught:
        fine_tune.run(str(run_folder), str(INTO), tmp_path / "tuned", Text(train_files=files), settings)
    assert "--update all" in caught.value.remedy
    assert not (tmp_path / "tuned").exists()


def test_data_of_both_directions(both: Path, run_of_both: Path, tmp_path: Path) -> None:
    store = TokenStore.open(both)
    assert len(store.pairs("meta-train")) == 6
    for name in ("train", "dev"):
        there, back = (store.bitext(Pair.parse(pair), name) for pair in ("fi-en", "en-fi"))
        assert len(there) == len(back)
    into = fine_tune.run(str(run_of_both), "en-fi", tmp_path / "into", Text(data=both), QUICK)
    assert {"target_tokens_a_sentence", "aligned_pieces"} <= set(into), "Finnish is new"
    out_of = fine_tune.run(str(run_of_both), "fi-en", tmp_path / "out of", Text(data=both), QUICK)
    assert {"source_tokens_a_sentence", "aligned_pieces"} <= set(out_of)
    assert {"de-en", "en-de"} <= set(into["replayed"]["sets"])
    known = fine_tune.run(str(run_of_both), "en-de", tmp_path / "known", Text(data=both), QUICK)
    assert "target_tokens_a_sentence" not in known, "German was written in meta-training"


def test_what_is_new_does_not_depend_on_the_alignment(
    both: Path, run_of_both: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = replace(QUICK, align=False, new_pieces=20)
    facts = fine_tune.run(str(run_of_both), "en-fi", tmp_path / "tuned", Text(data=both), settings)
    assert "new pieces of fi" in capsys.readouterr().err
    assert "aligned_pieces" not in facts


def test_a_vocabulary_without_the_tag_is_named(run_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "alone.toml").write_text(ALONE, encoding="utf-8")
    with pytest.raises(UsageError, match="has no tag for is") as caught:
        prepare.run(tmp_path / "alone.toml", tmp_path / "data", both_directions=True, tokenizer=str(run_folder))
    assert "metanmt fine-tune --pair en-is" in caught.value.remedy


def test_meta_validation_meets_a_new_target_as_fine_tuning_does(both: Path, run_of_both: Path) -> None:
    model, tokenizer = load_checkpoint(run_of_both)
    validate = MetaValidation(TokenStore.open(both), tokenizer, small_config("validation.metric=chrf"))
    validate.meet(model, Counterparts.load(run_of_both / "best"))
    into = Pair("en", "lv")
    assert {pair: item.start.written for pair, item in validate.newcomers.items()} == {into: True, into.turned(): False}
    [dev] = [dev for pair, _, dev in validate.pairs if pair == into]
    newcomer = validate.newcomers[into]
    read = newcomer.read(dev)
    assert max(read.target.ids) >= tokenizer.vocabulary_size
    texts = [
        reader.decode([text.target.sentence(index).tolist() for index in range(len(dev))])
        for reader, text in ((tokenizer, dev), (newcomer.reader(), read))
    ]
    assert texts[0] == texts[1]
    result = validate(copy.deepcopy(model), model)
    assert result is not None
    assert result["adapted"]["loss"] < result["zero_shot"]["loss"]


def test_the_command_says_so_in_its_data(tmp_path: Path) -> None:
    (tmp_path / "toy.toml").write_text(MANIFEST, encoding="utf-8")
    given = ["prepare", str(tmp_path / "toy.toml"), "--both-directions", "--out", str(tmp_path / "data")]
    assert main(given) == 0
    assert {str(pair) for pair in TokenStore.open(tmp_path / "data").pairs("meta-test")} == {"fi-en", "en-fi"}
