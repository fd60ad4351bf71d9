"""Checkpoints: plain `transformers` translates with them exactly as we do; what cannot be used is refused."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, PreTrainedModel

from metanmt.config import ModelConfig
from metanmt.data.language import Pair
from metanmt.data.tokenizer import SentencePieceTokenizer
from metanmt.errors import CheckpointError
from metanmt.nmt.checkpoint import (
    check_tokenizer,
    load_checkpoint,
    outline,
    save_checkpoint,
    say_if_tuned_for_another,
)
from metanmt.nmt.engine import open_engine
from metanmt.nmt.folder import checkpoint_folder, start_folder
from metanmt.nmt.translate import translate
from tests import toy

PLAIN = """
import json, sys
sys.modules["metanmt"] = None
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer
folder, sentences = sys.argv[1], json.loads(sys.argv[2])
model = AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
tokenizer = AutoTokenizer.from_pretrained(folder)
found = {}
for beam in (1, 5):
    found[beam] = []
    for sentence in sentences:
        batch = tokenizer(sentence, return_tensors="pt")
        longest = 2 * batch["input_ids"].shape[1] + 20
        early = {"early_stopping": True} if beam > 1 else {}
        ids = model.generate(**batch, num_beams=beam, max_new_tokens=longest, do_sample=False, **early)
        found[beam].append(tokenizer.batch_decode(ids, skip_special_tokens=True)[0].strip())
print(json.dumps({"found": found, "ours": "metanmt.nmt" in sys.modules}))
"""


@pytest.fixture(scope="module")
def saved(tokenizer: SentencePieceTokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    model = toy.make_m2m100(tokenizer.vocabulary_size)
    toy.initialise(model)
    save_checkpoint(folder, model, tokenizer, toy.PAIR)
    return folder


@pytest.fixture
def copy(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "copy"))


def test_the_files_of_a_checkpoint(saved: Path) -> None:
    names = {path.name for path in saved.iterdir()}
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"} <= names
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pkl"))]
    assert json.loads((saved / "config.json").read_text())["architectures"] == ["M2M100ForConditionalGeneration"]


def test_round_trip(saved: Path, tokenizer: SentencePieceTokenizer) -> None:
    expected = toy.make_m2m100(tokenizer.vocabulary_size)
    toy.initialise(expected)
    model, loaded = load_checkpoint(saved)
    assert toy.weights_hash(model) == toy.weights_hash(expected)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert not model.training
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert loaded.digest() == tokenizer.digest()


def test_a_tuned_checkpoint_is_saved_again(copy: Path, tokenizer: SentencePieceTokenizer) -> None:
    """Fine-tuning starts from one checkpoint and writes another."""
    model, loaded = load_checkpoint(copy)
    with torch.no_grad():
        model.lm_head.weight.add_(0.5)
    other = Pair("en", "de")
    save_checkpoint(copy.parent / "again", model, loaded, other)
    again, _ = load_checkpoint(copy.parent / "again")
    assert toy.weights_hash(again) == toy.weights_hash(model)
    plain = AutoTokenizer.from_pretrained(copy.parent / "again")
    assert plain("one")["input_ids"] == loaded.encode_source(["one"], other)[0], "it is set to the pair"


def test_plain_transformers_translates_the_same(
    parrot: PreTrainedModel, tokenizer: SentencePieceTokenizer, tmp_path: Path
) -> None:
    """In a process where metanmt cannot be imported, with nothing on the path but installed packages."""
    save_checkpoint(tmp_path, parrot, tokenizer, toy.PAIR)
    sentences = [source for source, _ in toy.LEARNED[:6]]
    command = [sys.executable, "-I", "-c", PLAIN, str(tmp_path), json.dumps(sentences)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/", env=environment)
    assert result.returncode == 0, result.stderr
    theirs = json.loads(result.stdout.splitlines()[-1])
    assert not theirs["ours"]
    model, loaded = load_checkpoint(tmp_path)
    for beam in (1, 5):
        ours = translate(model, loaded, sentences, toy.PAIR, beam=beam, batch_tokens=1, label=None)
        assert ours == [target for _, target in toy.LEARNED[:6]]
        assert theirs["found"][str(beam)] == ours


def test_nothing_is_printed(
    toy_model: PreTrainedModel, tokenizer: SentencePieceTokenizer, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """No progress bars, load reports or warnings of transformers: stderr belongs to our own messages."""
    save_checkpoint(tmp_path, toy_model, tokenizer, toy.PAIR)
    model, loaded = load_checkpoint(tmp_path)
    for beam in (1, 2):
        translate(model, loaded, ["eins", "zwei"], toy.PAIR, beam=beam, label=None)
    assert capfd.readouterr() == ("", "")


def test_a_run_is_its_best_checkpoint(saved: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(saved, run / "best")
    (run / "config.toml").write_text("")
    assert checkpoint_folder(run) == run / "best"
    assert checkpoint_folder(run / "best") == run / "best"
    assert start_folder(str(run)) == run / "best"
    assert start_folder(str(saved)) == saved
    assert load_checkpoint(run)[1].vocabulary_size == load_checkpoint(saved)[1].vocabulary_size


def test_not_a_checkpoint(tmp_path: Path) -> None:
    for path, cause in ((tmp_path, r"is not a checkpoint: it has no config\.json"), (tmp_path / "none", "no folder")):
        with pytest.raises(CheckpointError, match=cause) as error:
            load_checkpoint(path)
        assert "meta-train or fine-tune" in error.value.remedy


def test_a_run_without_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("")
    with pytest.raises(CheckpointError, match="has not reached its first meta-validation") as error:
        load_checkpoint(tmp_path)
    assert "--resume" in error.value.remedy
    assert str(tmp_path) in error.value.remedy


@pytest.mark.parametrize("name", ["model.safetensors", "sentencepiece.model", "metanmt_tokenizer.json", "config.json"])
def test_a_damaged_file(copy: Path, name: str) -> None:
    (copy / name).write_bytes(b"{ damaged")
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(copy)
    assert str(copy) in error.value.cause
    assert "\n" not in error.value.cause
    assert error.value.remedy


def test_a_missing_tokenizer(copy: Path) -> None:
    (copy / "sentencepiece.model").unlink()
    with pytest.raises(CheckpointError, match=r"sentencepiece\.model is missing or damaged"):
        load_checkpoint(copy)


def test_the_tokenizer_of_another_model(copy: Path) -> None:
    toy.make_m2m100(100).save_pretrained(copy)
    with pytest.raises(CheckpointError, match="has 100 embeddings, but the tokenizer"):
        load_checkpoint(copy)


def test_data_of_another_tokenizer(tokenizer: SentencePieceTokenizer) -> None:
    check_tokenizer(tokenizer, tokenizer.digest(), "run", Path("data"))
    with pytest.raises(CheckpointError, match="data was prepared with another tokenizer than that of run") as error:
        check_tokenizer(tokenizer, "0" * 64, "run", Path("data"))
    assert "--tokenizer run" in error.value.remedy


def test_one_that_was_tuned_for_another_language(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def said(facts: str, pair: str = "fi-en") -> str:
        (copy / "fine_tune.json").write_text(facts, encoding="utf-8")
        say_if_tuned_for_another(copy, Pair.parse(pair))
        return capsys.readouterr().err

    assert (
        said('{"pair": "de-en"}')
        == f"Note: {copy} was fine-tuned for de-en, from another language than that of fi-en.\n"
    )
    assert [said('{"pair": "de-en"}', pair) for pair in ("de-en", "de-fi")] == ["", ""]
    assert [said(facts) for facts in ("{}", "[]", "no JSON", '{"pair": 1}', '{"pair": "de"}')] == [""] * 5


@pytest.mark.parametrize("engine", ["transformers", "ctranslate2"])
def test_what_translates_says_that_it_was_tuned_for_another(
    copy: Path, engine: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (copy / "fine_tune.json").write_text('{"pair": "sv-en"}', encoding="utf-8")
    open_engine(copy, engine, pair=toy.PAIR)
    assert capsys.readouterr().err.count("was fine-tuned for sv-en") == 1


@pytest.mark.parametrize("content", ["[]", "{"])
def test_the_outline_of_a_damaged_checkpoint(
    toy_model: PreTrainedModel, tokenizer: SentencePieceTokenizer, tmp_path: Path, content: str
) -> None:
    save_checkpoint(tmp_path, toy_model, tokenizer, toy.PAIR)
    (tmp_path / "config.json").write_text(content, encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"config\.json is damaged"):
        outline(ModelConfig(), tokenizer, str(tmp_path))
