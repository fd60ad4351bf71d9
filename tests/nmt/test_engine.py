"""Engines: CTranslate2 searches as `transformers` does, its conversions are kept and renewed, mistakes are told."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from metanmt.cli import main
from metanmt.config import FineTuneConfig
from metanmt.data.pretrained_tokenizer import PretrainedTokenizer
from metanmt.data.tokenizer import SentencePieceTokenizer, Tokenizer
from metanmt.errors import CheckpointError, UsageError
from metanmt.nmt import conversion
from metanmt.nmt import engine as engines
from metanmt.nmt.checkpoint import load_checkpoint, save_checkpoint
from metanmt.nmt.engine import CTranslate2Engine, Engine, TransformersEngine, open_engine
from metanmt.nmt.translate import translate, translate_ids
from metanmt.nmt.tuning import fine_tune
from metanmt.recipes import translate as recipe
from tests import toy
from tests.nmt import pretrained

pytest.importorskip("ctranslate2")

UNSEEN = [source for source, _ in toy.lines(240, skip=20)]
SEARCHES = [(1, 1.0), (5, 1.0), (5, 0.0), (5, 0.6), (4, 2.0)]
TUNING = FineTuneConfig(
    learning_rate=5e-3,
    dropout=0.0,
    label_smoothing=0.0,
    metric="loss",
    min_updates=150,
    max_updates=150,
    max_tokens=1_000,
    evaluations=1,
    warmup_share=0.2,
)


def undertrained(tokenizer: Tokenizer, **size: int) -> PreTrainedModel:
    """Return a model that has begun to learn 200 sentences: it knows words, and is far from sure of them."""
    model = toy.make_m2m100(tokenizer.vocabulary_size, pad_id=tokenizer.pad_id, end_id=tokenizer.eos_id, **size)
    toy.initialise(model)
    bitext = toy.make_bitext(tokenizer, toy.lines(200))
    fine_tune(model, tokenizer, toy.PAIR, bitext, bitext, TUNING, seed=1, precision="float32", label="beginning")
    return model


@pytest.fixture(scope="module")
def checkpoints(
    parrot: PreTrainedModel, tokenizer: SentencePieceTokenizer, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """A model that has learned by heart, one that has begun to learn, and two with language codes and padding 1."""
    root = tmp_path_factory.mktemp("checkpoints")
    save_checkpoint(root / "parrot", parrot, tokenizer, toy.PAIR)
    save_checkpoint(root / "undertrained", undertrained(tokenizer, width=64), tokenizer, toy.PAIR)
    for family in ("m2m100", "nllb"):
        published = PretrainedTokenizer(str(pretrained.make(family, root / "from" / family)), pretrained.CODES[family])
        save_checkpoint(root / family, undertrained(published, width=64), published, toy.PAIR)
    return {path.name: path for path in root.iterdir()}


def both(path: Path) -> tuple[Engine, Engine, Tokenizer]:
    slow, tokenizer = open_engine(path, "transformers")
    fast, _ = open_engine(path, "ctranslate2")
    assert isinstance(slow, TransformersEngine)
    assert isinstance(fast, CTranslate2Engine)
    return slow, fast, tokenizer


def agreement(one: Sequence[object], other: Sequence[object]) -> float:
    return sum(a == b for a, b in zip(one, other, strict=True)) / len(one)


@pytest.mark.parametrize("name", ["parrot", "undertrained", "m2m100", "nllb"])
def test_the_same_ids(checkpoints: dict[str, Path], name: str) -> None:
    slow, fast, tokenizer = both(checkpoints[name])
    forced = tokenizer.forced_bos_id(toy.PAIR)
    assert (forced is None) == (name in ("parrot", "undertrained"))
    sources = tokenizer.encode_source(UNSEEN if forced is None else UNSEEN[:100], toy.PAIR)
    for beam, length_penalty in SEARCHES if name == "undertrained" else SEARCHES[::4]:
        ids = [
            translate_ids(engine, sources, beam=beam, length_penalty=length_penalty, forced_bos_id=forced)
            for engine in (slow, fast)
        ]
        assert agreement(*ids) >= 0.99, f"beam {beam}, length penalty {length_penalty}"
        assert len({tuple(target) for target in ids[0]}) > 20, "the model says different things of different sources"
        assert sum(target[-1] == tokenizer.eos_id for target in ids[1]) > 20, "and comes to an end"


def test_the_same_text(checkpoints: dict[str, Path]) -> None:
    sources, targets = zip(*toy.LEARNED, strict=True)
    lines = ["", *sources, " \t", " ".join(sources), *UNSEEN]
    slow, fast, tokenizer = both(checkpoints["parrot"])
    for beam in (1, 5):
        found = [
            translate(engine, tokenizer, lines, toy.PAIR, beam=beam, longest_source=60, label=None)
            for engine in (slow, fast)
        ]
        assert agreement(*found) >= 0.99
        assert found[1][0] == found[1][len(targets) + 1] == ""
        assert agreement(found[1][1 : len(targets) + 1], targets) >= 0.8, "it has learned something"
        assert found[1][len(targets) + 2].count(" ") > 30, "the long one has all its parts"


@pytest.mark.parametrize("beam", [1, 5])
def test_the_same_bounds(
    toy_model: PreTrainedModel, tokenizer: SentencePieceTokenizer, tmp_path: Path, beam: int
) -> None:
    """An untrained model never ends: each target is as long as its own source allows, code and end mark counted."""
    save_checkpoint(tmp_path, toy_model, tokenizer, toy.PAIR)
    slow, fast, _ = both(tmp_path)
    longest = 254 if beam == 1 else 60
    sources = [[3, *(20 + index % 300 for index in range(length)), 2] for length in (longest, 40, 3, 0)]
    for forced in (None, 20):
        lengths = [
            [len(ids) for ids in translate_ids(engine, sources, beam=beam, forced_bos_id=forced)]
            for engine in (slow, fast)
        ]
        assert lengths[0] == lengths[1] == [2 * len(source) + 20 for source in sources]
        firsts = [ids[0] for ids in translate_ids(fast, sources, beam=beam, forced_bos_id=forced)]
        assert forced is None or firsts == [forced] * 4


def test_the_order_and_the_batch_size_change_nothing(checkpoints: dict[str, Path]) -> None:
    engine, tokenizer = open_engine(checkpoints["parrot"], "ctranslate2")
    sources = tokenizer.encode_source([source for source, _ in toy.LEARNED], toy.PAIR)
    found = [translate_ids(engine, sources, batch_tokens=size) for size in (1, 150, 100_000)]
    found.append(translate_ids(engine, sources[::-1])[::-1])
    assert found[0] == found[1] == found[2] == found[3]
    assert translate_ids(engine, []) == []
    with pytest.raises(IndexError):
        translate_ids(engine, [[3, 10_000, 2]])


def test_int8_is_smaller_and_nearly_the_same(checkpoints: dict[str, Path]) -> None:
    _, exact, tokenizer = both(checkpoints["parrot"])
    small, _ = open_engine(checkpoints["parrot"], "ctranslate2", "int8")
    assert small.name.endswith(" int8")
    sources = [source for source, _ in toy.LEARNED]
    found = [translate(engine, tokenizer, sources, toy.PAIR, beam=1, label=None) for engine in (exact, small)]
    assert agreement(*found) > 0.5
    sizes = [
        (checkpoints["parrot"] / f"ctranslate2-{quantization}" / "model.bin").stat().st_size
        for quantization in ("float32", "int8")
    ]
    assert sizes[1] < 0.6 * sizes[0]


def test_converted_once_and_again_when_the_weights_change(
    checkpoints: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(checkpoints["parrot"], tmp_path / "copy", ignore=shutil.ignore_patterns("ctranslate2-*"))
    source = [toy.LEARNED[0][0]]

    def said_and_found() -> tuple[int, list[str]]:
        engine, tokenizer = open_engine(folder)
        assert isinstance(engine, CTranslate2Engine)
        found = translate(engine, tokenizer, source, toy.PAIR, beam=1, label=None)
        return capsys.readouterr().err.count("converting"), found

    first = said_and_found()
    assert first == (1, [toy.LEARNED[0][1]])
    assert said_and_found() == (0, first[1])
    (folder / "ctranslate2-float32" / conversion.FACTS_FILE).unlink()
    assert said_and_found() == (1, first[1]), "a folder without its facts is made anew"
    for change in (lambda file: file.unlink(), lambda file: file.write_bytes(file.read_bytes()[:-1])):
        change(folder / "ctranslate2-float32" / "model.bin")
        assert said_and_found() == (1, first[1]), "and one that was copied in part"

    model, tokenizer = load_checkpoint(folder)
    with torch.no_grad():
        model.get_input_embeddings().weight.add_(torch.randn_like(model.get_input_embeddings().weight))
    model.save_pretrained(folder)
    times, found = said_and_found()
    assert times == 1
    assert found == translate(model, tokenizer, source, toy.PAIR, beam=1, label=None) != first[1]
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == [], "nothing half-written is left"


def test_a_run_that_goes_on_meanwhile(
    checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its best checkpoint is another one by now; what is converted is the one that the digest is of."""
    run = tmp_path / "run"
    for name in ("step-1", "step-2"):
        shutil.copytree(checkpoints["parrot"], run / name, ignore=shutil.ignore_patterns("ctranslate2-*"))
    (run / "best").symlink_to("step-1")
    plain = conversion._convert

    def meanwhile(folder: Path, *arguments: Any) -> None:
        (run / "best").unlink()
        (run / "best").symlink_to("step-2")
        shutil.rmtree(run / "step-2")
        plain(folder, *arguments)

    monkeypatch.setattr(conversion, "_convert", meanwhile)
    engine, _ = open_engine(run, "ctranslate2")
    assert isinstance(engine, CTranslate2Engine)
    assert (run / "step-1" / "ctranslate2-float32" / "model.bin").is_file()


def test_plain_transformers_still_loads_the_folder(checkpoints: dict[str, Path]) -> None:
    open_engine(checkpoints["parrot"], "ctranslate2")
    again, _ = load_checkpoint(checkpoints["parrot"])
    assert again.config.model_type == "m2m_100"


def test_a_checkpoint_that_cannot_be_written_to(
    checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(checkpoints["parrot"], tmp_path / "copy", ignore=shutil.ignore_patterns("ctranslate2-*"))
    before = sorted(folder.iterdir())
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda path, mode: Path(path) != folder)  # as for another user than root
        engine, tokenizer = open_engine(folder)
    source, target = toy.LEARNED[0]
    assert translate(engine, tokenizer, [source], toy.PAIR, beam=1, label=None) == [target]
    assert capsys.readouterr().err.count("cannot be written to") == 1
    assert sorted(folder.iterdir()) == before

    def failing(number: int) -> Any:
        def refuse(path: Path, *, overwrite: bool = False) -> None:
            raise OSError(number, "no", str(path))

        return refuse

    monkeypatch.setattr(conversion, "new_folder", failing(errno.EROFS))
    open_engine(folder)
    monkeypatch.setattr(conversion, "new_folder", failing(errno.ENOSPC))
    with pytest.raises(OSError, match="no"):
        open_engine(folder)


def test_auto(checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = checkpoints["parrot"]
    assert open_engine(path)[0].name.startswith("ctranslate2 ")
    with monkeypatch.context() as patch:
        patch.setattr(engines, "find_spec", lambda name: None)
        assert open_engine(path)[0].name == "transformers"
        with pytest.raises(UsageError, match="not installed") as error:
            open_engine(path, "ctranslate2")
        assert "metanmt[fast]" in error.value.remedy
    with monkeypatch.context() as patch:
        patch.setattr(engines, "device", lambda: torch.device("meta"))
        assert isinstance(open_engine(path)[0], TransformersEngine)


@pytest.mark.parametrize(
    ("family", "generation", "reason"),
    [
        ("mbart", {}, "type mbart, not m2m_100"),
        ("marian", {}, "type marian, not m2m_100"),
        ("m2m100", {"no_repeat_ngram_size": 3}, "sets no_repeat_ngram_size"),
        ("m2m100", {"eos_token_id": [2, 4]}, "several end marks"),
    ],
)
def test_what_ctranslate2_would_translate_otherwise(
    tmp_path: Path, family: str, generation: dict[str, object], reason: str
) -> None:
    folder = pretrained.make(family, tmp_path / family)
    path = folder / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | generation), encoding="utf-8")
    engine, _ = open_engine(folder)
    assert isinstance(engine, TransformersEngine)
    with pytest.raises(UsageError, match=reason) as error:
        open_engine(folder, "ctranslate2")
    assert "--engine transformers" in error.value.remedy


def test_a_damaged_checkpoint_is_told_by_both(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(checkpoints["undertrained"], tmp_path / "copy")
    whole = (folder / "config.json").read_text(encoding="utf-8")
    (folder / "config.json").write_text("[]", encoding="utf-8")
    assert conversion.obstacle(folder) == "its configuration is damaged"
    (folder / "config.json").write_text(whole, encoding="utf-8")
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-100])
    for engine in ("auto", "transformers", "ctranslate2"):
        with pytest.raises(CheckpointError, match="can be loaded from"):
            open_engine(folder, engine)
    other = toy.make_m2m100(50)
    other.save_pretrained(folder)
    for engine in ("auto", "transformers", "ctranslate2"):
        with pytest.raises(CheckpointError, match="50 embeddings, but the tokenizer"):
            open_engine(folder, engine)


@pytest.mark.parametrize("command", ["translate", "evaluate"])
@pytest.mark.parametrize("engine", ["auto", "transformers"])
def test_int8_is_for_ctranslate2(
    checkpoints: dict[str, Path], files: list[str], capsys: pytest.CaptureFixture[str], command: str, engine: str
) -> None:
    more = files if command == "evaluate" else []
    arguments = ["--model", str(checkpoints["parrot"]), "--pair", "de-en", "--engine", engine, *more]
    assert main([command, *arguments, "--quantization", "int8"]) == 2
    captured = capsys.readouterr()
    cause, remedy = captured.err.rstrip("\n").split("\n")
    assert captured.out == ""
    assert "int8 is not for the engine" in cause
    assert "--engine ctranslate2" in remedy


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """The arguments of `evaluate` that name a test set."""
    for side, name in enumerate(("de", "en")):
        (tmp_path / f"set.{name}").write_text("".join(f"{pair[side]}\n" for pair in toy.LEARNED), encoding="utf-8")
    return ["--source", str(tmp_path / "set.de"), "--reference", str(tmp_path / "set.en"), "--bootstrap", "0"]


def test_the_commands_take_an_engine(
    checkpoints: dict[str, Path], files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names, scores = [], []
    for engine in ("transformers", "ctranslate2", "auto"):
        model = ["--model", str(checkpoints["parrot"]), "--pair", "de-en", "--engine", engine]
        assert main(["evaluate", *model, *files, "--json", "--out", str(tmp_path / engine)]) == 0
        facts = json.loads(capsys.readouterr().out)
        names.append(facts["engine"].split()[0])
        scores.append(facts["scores"])
    assert names == ["transformers", "ctranslate2", "ctranslate2"]
    assert scores[0] == scores[1] == scores[2]

    texts = []
    for engine in ("transformers", "ctranslate2"):
        out = io.StringIO()
        lines = [f"{source}\n".encode() for source, _ in toy.LEARNED]
        settings = {"beam": 5, "length_penalty": 1.0, "batch_tokens": 4_000, "engine": engine}
        recipe.run(checkpoints["parrot"], "de-en", **settings, lines=lines, out=out)  # type: ignore[arg-type]
        texts.append(out.getvalue())
    assert texts[0] == texts[1]
