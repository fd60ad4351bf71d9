"""From prepared text to a fine-tuned model with a universal lexicon, on a toy corpus."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import get_args

import pytest
import torch

from metanmt.cli import main
from metanmt.config import FineTuneConfig, LearnerName, ModelConfig
from metanmt.data.store import TokenStore
from metanmt.data.vectors import data_vectors
from metanmt.errors import CheckpointError, ConfigError, DataError, UsageError
from metanmt.meta.distributed import ALONE
from metanmt.nmt.checkpoint import load_checkpoint
from metanmt.nmt.lexicon import lexicon_of
from metanmt.nmt.tuning_text import Text
from metanmt.recipes import evaluate, export, fine_tune, meta_train, vectors
from metanmt.recipes.meta_train import _Training
from scripts.kill_test import differences, fingerprint
from tests.recipes.conftest import small_config, stopped_at_step

LEXICON = ("model.lexicon=universal", "model.universal_entries=100")
SHORT = (*LEXICON, "outer.max_target_tokens=2500", "validation.times=1")


@pytest.fixture(scope="module")
def with_vectors(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = Path(shutil.copytree(data, tmp_path_factory.mktemp("vectors") / "data"))
    vectors.run(folder, size=16, sentences=300)
    return folder


@pytest.fixture(scope="module")
def run_folder(with_vectors: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "universal"
    meta_train.run(small_config(*SHORT, "outer.joint_share=0.5"), with_vectors, out)
    return out


def test_the_report_says_what_the_vectors_are_worth(with_vectors: Path) -> None:
    report = json.loads((with_vectors / "vectors" / "report.json").read_text(encoding="utf-8"))
    assert report["pivot"] == "en"
    assert list(report["languages"]) == ["en", "de", "sv", "es", "lv", "fi"]
    german, finnish = report["languages"]["de"], report["languages"]["fi"]
    assert german["aligned"] > 0
    assert german["held_out"] > 0
    assert german["dictionary"] >= max(german["aligned"], german["identical"])
    assert 0 <= german["precision_1"] <= german["precision_5"] <= 1
    assert finnish["aligned"] == 0, "the parallel text of an unseen pair is its budget, and no dictionary"
    assert finnish["identical"] > 0
    store = TokenStore.open(with_vectors)
    found = data_vectors(with_vectors, store.digest)
    assert (found.size, found.vocabulary_size) == (16, store.facts["vocabulary_size"])
    with pytest.raises(UsageError, match="exists"):
        vectors.run(with_vectors)


def test_files_are_read_as_they_stand_and_others_are_aligned_with_them(data: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(data, tmp_path / "data"))
    words = sorted(
        {word for line in (folder / "text/de-en/train.en").read_text().splitlines() for word in line.split()}
    )
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(len(words), 8, generator=generator).tolist()
    lines = [f"{word} {' '.join(map(str, value))}" for word, value in zip(words, values, strict=True)]
    path = tmp_path / "en.vec"
    path.write_text(f"{len(words)} 8\n" + "\n".join(lines) + "\n", encoding="utf-8")
    report = vectors.run(folder, files={"en": path}, size=99, sentences=300)
    assert report["size"] == 8, "that of the file"
    assert {language: item["from"] for language, item in report["languages"].items()} == {
        "en": "file", "de": "text", "sv": "text", "es": "text", "lv": "text", "fi": "text",
    }  # fmt: skip
    short = tmp_path / "de.vec"
    short.write_text("2 3\nund 1 0 0\nTage 0 1 0\n", encoding="utf-8")
    with pytest.raises(DataError, match="3 and 8 dimensions"):
        vectors.run(folder, files={"en": path, "de": short}, overwrite=True)
    with pytest.raises(UsageError, match="no language 'dee'"):
        vectors.run(folder, files={"dee": short}, overwrite=True)
    alien = tmp_path / "fi.vec"
    alien.write_text("1 8\n漢 1 0 0 0 0 0 0 0\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"words for \d+% of the text of fi"):
        vectors.run(folder, files={"fi": alien}, overwrite=True, sentences=50)


INNER = "inner.steps=2", "inner.hidden=4"  # of an LSTM, one for every weight


@pytest.mark.parametrize("learner", get_args(LearnerName))
def test_a_correction_is_zero_at_every_start_and_no_outer_step_moves_it(with_vectors: Path, learner: str) -> None:
    config = small_config(*LEXICON, f"outer.learner={learner}", "inner.learning_rate=0.5", *INNER)
    training = _Training(config, TokenStore.open(with_vectors), ALONE)
    start = lexicon_of(training.initialization)
    first_order = learner in ("fomaml", "reptile", "lstm", "learned-optimizer")
    fast = lexicon_of(training.learner.fast_model) if first_order else start
    assert start is not None
    assert fast is not None
    before = {name: weight.detach().clone() for name, weight in start.named_parameters()}
    starts: list[bool] = []
    fast.register_forward_pre_hook(lambda module, _: starts.append(not module.correction.any()))
    chosen = training.learner
    for step in range(2):
        episodes = chosen.meta_batch(training.sampler, step)
        for episode in episodes:
            starts.clear()
            training.outer_step(chosen, [episode])
            assert starts[0], "an episode starts without a correction"
            assert all(starts) == (learner in ("joint", "aligned", "transfer", "anil")), "the inner loop moves it"
            assert fast.language == episode.pair.source
            assert not start.correction.any(), "and the outer loop does not"
    moved = {name for name, weight in start.named_parameters() if not torch.allclose(before[name], weight, rtol=1e-3)}
    shared = set() if learner == "reptile" else {"universal", "transform"}
    assert moved == {"plain.weight", *shared}, "Reptile's direction is where the inner loop went"


def test_an_interrupted_run_goes_on_with_the_same_bits(with_vectors: Path, run_folder: Path, tmp_path: Path) -> None:
    config = small_config(*SHORT, "outer.joint_share=0.5")
    with stopped_at_step(4), pytest.raises(KeyboardInterrupt, match="step 4"):
        meta_train.run(config, with_vectors, tmp_path / "run")
    meta_train.run(config, with_vectors, tmp_path / "run", resume=True)
    assert differences(fingerprint(run_folder), fingerprint(tmp_path / "run")) == []


def test_a_language_is_never_met_as_a_new_one(
    with_vectors: Path, run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = small_config(*SHORT, "outer.joint_share=0.5", "outer.unseen_share=1")
    meta_train.run(config, with_vectors, tmp_path / "run")
    assert "No counterparts for adapters, a universal lexicon" in capsys.readouterr().err
    found = differences(fingerprint(run_folder), fingerprint(tmp_path / "run"))
    assert [name for name in found if "model" in name or "trainer" in name] == [], "and so it is the same run"


def test_a_run_with_other_vectors_does_not_go_on(with_vectors: Path, run_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(with_vectors, tmp_path / "data"))
    run = Path(shutil.copytree(run_folder, tmp_path / "run", symlinks=True))
    vectors.run(folder, size=16, sentences=100, overwrite=True)
    with pytest.raises(CheckpointError, match="vectors are not those"):
        meta_train.run(small_config(*SHORT, "outer.joint_share=0.5"), folder, run, resume=True)


def test_fine_tuning_starts_from_it_and_leaves_an_ordinary_checkpoint(
    with_vectors: Path, run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = FineTuneConfig(min_updates=4, max_updates=4, max_tokens=200, metric="loss")
    text = Text(data=with_vectors, budget_words=200)
    facts = fine_tune.run(str(run_folder), "fi-en", tmp_path / "tuned", text, settings)
    assert facts["best"]["loss"] < facts["history"][0]["loss"]
    assert facts["replayed"] is None, "it reads one language at a time"
    assert "universal lexicon nothing of meta-training is replayed" in capsys.readouterr().err
    model, _ = load_checkpoint(tmp_path / "tuned")
    assert lexicon_of(model) is None
    for folder in (run_folder, tmp_path / "tuned"):
        scores = evaluate.run(model=folder, pair="fi-en", data=with_vectors, beam=1, bootstrap=0)
        assert scores["sentences"] == 30


def test_wrong_combinations_are_refused(data: Path, with_vectors: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no vectors"):
        meta_train.run(small_config(*SHORT), data, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    text = Text(data=with_vectors, budget_words=200)
    with pytest.raises(ConfigError, match=r"share a lexicon .universal"):
        fine_tune.run("none", "fi-en", tmp_path / "t", text, FineTuneConfig(), model=ModelConfig(lexicon="universal"))
    with pytest.raises(ConfigError, match="Reptile learns what"):
        small_config(*LEXICON, "outer.learner=reptile", "outer.joint_share=0")
    for value in ("lexicon_temperature=0.0", "universal_entries=0", 'lexicon="other"'):
        with pytest.raises(ConfigError, match=value.split("=")[0]):
            small_config(f"model.{value}")


def test_the_command(with_vectors: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path(shutil.copytree(with_vectors, tmp_path / "data"))
    assert main(["vectors", str(folder)]) == 2
    assert main(["vectors", str(folder), "--overwrite", "--size", "8", "--sentences", "50"]) == 0
    printed = capsys.readouterr()
    assert "--overwrite" in printed.err
    assert "P@1 %" in printed.out
    assert "8 dimensions" in printed.out
    with pytest.raises(SystemExit):
        main(["vectors", str(folder), "--vec", "en.vec"])
    assert "LANGUAGE=FILE" in capsys.readouterr().err


def test_vectors_of_no_text(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path(shutil.copytree(data, tmp_path / "data"))
    facts = json.loads((folder / "data.json").read_text(encoding="utf-8"))
    for item in facts["pairs"].values():
        del item["sets"]["train"]
    (folder / "data.json").write_text(json.dumps(facts), encoding="utf-8")
    assert main(["vectors", str(folder)]) == 2
    assert "has no train set in en" in capsys.readouterr().err


def test_nothing_starts_from_a_run_with_a_lexicon_as_if_it_were_plain(
    with_vectors: Path, run_folder: Path, tmp_path: Path
) -> None:
    config = small_config(f"model.checkpoint={run_folder / 'best'}", "model.update=adapters")
    with pytest.raises(ConfigError, match="universal lexicon"):
        meta_train.run(config, with_vectors, tmp_path / "run")
    with pytest.raises(UsageError, match="written for one pair"):
        export.run(run_folder, tmp_path / "exported")
    assert not list(tmp_path.iterdir())
    export.run(run_folder, tmp_path / "exported", "fi-en")
