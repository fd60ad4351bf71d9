"""`meta-train` end to end: falling loss, equal cost, exact resume, nothing lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from metanmt.errors import CheckpointError, DeviceMemoryError, MetanmtError, UsageError
from metanmt.meta.run import Run
from metanmt.meta.state import RunState
from metanmt.nmt.loss import Loss
from metanmt.recipes import meta_train, prepare
from tests.recipes.conftest import SETTINGS, relative_error, small_config


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def weights(folder: Path) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in load_file(folder / "model.safetensors").items()}


def test_the_run_folder_is_whole(run_folder: Path) -> None:
    names = {path.name for path in run_folder.iterdir()}
    assert names == {"config.toml", "run.json", "metrics.jsonl", "tensorboard", "checkpoints", "best", "last", "joint"}
    assert not list(run_folder.rglob("*.tmp"))
    assert (run_folder / "best" / "model.safetensors").is_file()
    linked = {(run_folder / link).resolve() for link in ("best", "last", "joint")}
    checkpoints = {path.resolve() for path in (run_folder / "checkpoints").iterdir()}
    assert linked <= checkpoints
    assert len(checkpoints) <= 4, "two that are newest, the end of the joint phase, the best one of each"


def test_the_loss_falls_and_the_phases_follow_each_other(run_folder: Path) -> None:
    steps = [line for line in metrics(run_folder) if "phase" in line]
    assert [line["phase"] for line in steps] == sorted((line["phase"] for line in steps), reverse=True)
    assert {line["phase"] for line in steps} == {"joint", "fomaml"}
    assert steps[-1]["query_loss"] < steps[0]["query_loss"] - 0.5
    shares = [line["target_tokens"] / 6000 for line in steps if line["phase"] == "joint"]
    assert max(shares) == pytest.approx(0.6, abs=0.1)


@pytest.mark.parametrize("learner", ["joint", "reptile"])
def test_other_learners_cost_the_same(learner: str, data: Path, tmp_path: Path, run_folder: Path) -> None:
    facts = meta_train.run(small_config(f"outer.learner={learner}"), data, tmp_path / learner)
    cost = metrics(run_folder)[-1]["target_tokens"]
    assert facts["target_tokens"] == pytest.approx(cost, rel=0.1)
    losses = [
        line.get("query_loss", line.get("support_loss")) for line in metrics(tmp_path / learner) if "phase" in line
    ]
    assert losses[-1] < losses[0] - 0.5


def test_only_the_chosen_pairs_are_learned_from(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = set()
    plain = meta_train.outer_step

    def noted(initialization: Any, episodes: Any, *arguments: Any) -> Any:
        seen.update(str(episode.pair) for episode in episodes)
        return plain(initialization, episodes, *arguments)

    monkeypatch.setattr(meta_train, "outer_step", noted)
    config = small_config("outer.max_target_tokens=1500", 'outer.pairs=["sv-en", "es-en"]')
    meta_train.run(config, data, tmp_path / "run")
    assert seen == {"sv-en", "es-en"}
    wrong = small_config('outer.pairs=["sv-en", "fi-en"]')
    with pytest.raises(UsageError, match="fi-en, no meta-train pair"):
        meta_train.run(wrong, data, tmp_path / "none")


def test_the_first_pairs_are_learned_from_alone_at_first(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted in either phase and resumed, it is the same run."""
    seen: list[set[str]] = []
    plain = meta_train.outer_step
    stop_after: list[int] = []

    def noted(initialization: Any, episodes: Any, *arguments: Any) -> Any:
        seen.append({str(episode.pair) for episode in episodes})
        if len(seen) in stop_after:
            os.kill(os.getpid(), signal.SIGINT)
        return plain(initialization, episodes, *arguments)

    monkeypatch.setattr(meta_train, "outer_step", noted)
    config = small_config("outer.max_target_tokens=4000", 'outer.first_pairs=["es-en"]', "outer.first_share=0.5")
    meta_train.run(config, data, tmp_path / "whole")
    alone = [pairs == {"es-en"} for pairs in seen]
    first = alone.index(False)
    assert 2 < first < len(seen) - 2
    assert len(set.union(*seen[first:])) > 2, "then all of them"

    whole, stop_after = seen.copy(), [2, first + 2]
    seen.clear()
    for resume in (False, True):
        with pytest.raises(KeyboardInterrupt):
            meta_train.run(config, data, tmp_path / "parts", resume=resume)
    meta_train.run(config, data, tmp_path / "parts", resume=True)
    assert seen == whole
    assert weights(tmp_path / "parts/last") == weights(tmp_path / "whole/last")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (['outer.first_pairs=["fi-en"]'], "outer.first_pairs names fi-en, no meta-train pair"),
        (['outer.pairs=["sv-en"]', 'outer.first_pairs=["es-en"]'], "outer.first_pairs names es-en"),
        (['outer.first_pairs=["es-en", "es-en"]'], "names es-en twice"),
    ],
)
def test_first_pairs_that_are_not_learned_from(data: Path, tmp_path: Path, settings: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        meta_train.run(small_config(*settings), data, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_an_interrupted_and_resumed_run_has_the_same_bits(
    data: Path, tmp_path: Path, run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_after, steps = 9, 0
    plain = meta_train.outer_step

    def counted(*arguments: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps == stop_after:
            os.kill(os.getpid(), signal.SIGINT)
        return plain(*arguments)

    monkeypatch.setattr(meta_train, "outer_step", counted)
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt, match="--resume"):
        meta_train.run(small_config(), data, out)
    assert steps == stop_after
    meta_train.run(small_config(), data, out, resume=True)
    assert weights(out / "last") == weights(run_folder / "last")
    assert weights(out / "best") == weights(run_folder / "best")
    assert metrics(out) == metrics(run_folder)


def test_a_killed_run_has_the_same_bits(data: Path, tmp_path: Path, run_folder: Path) -> None:
    """`kill -9` between two checkpoints: metrics that were written after the last one are written again."""
    out = tmp_path / "run"
    overrides = [part for setting in SETTINGS for part in ("--set", setting)]
    config = tmp_path / "empty.toml"
    config.write_text("", encoding="utf-8")
    command = [sys.executable, "-m", "metanmt", "meta-train", str(config), "--data", str(data), "--out", str(out)]
    process = subprocess.Popen([*command, *overrides], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    watch = threading.Timer(240, process.kill)
    watch.start()
    path = out / "metrics.jsonl"
    while process.poll() is None:
        if (out / "last").exists() and json.loads((path.read_text().splitlines() or ["{}"])[-1]).get("phase"):
            process.kill()
    assert process.wait() == -signal.SIGKILL
    watch.cancel()
    meta_train.run(small_config(), data, out, resume=True)
    assert weights(out / "last") == weights(run_folder / "last")
    assert metrics(out) == metrics(run_folder)


def test_an_existing_run_is_refused_without_resume(data: Path, run_folder: Path) -> None:
    before = metrics(run_folder)
    with pytest.raises(UsageError, match="exists already"):
        meta_train.run(small_config(), data, run_folder)
    assert metrics(run_folder) == before


def test_resume_needs_a_checkpoint_and_the_same_configuration(data: Path, run_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no checkpoint to resume"):
        meta_train.run(small_config(), data, tmp_path / "none", resume=True)
    with pytest.raises(UsageError, match="configuration differs"):
        meta_train.run(small_config("inner.steps=3"), data, run_folder, resume=True)


def test_resume_needs_the_same_data(manifest: Path, run_folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.toml"
    other.write_text(manifest.read_text(encoding="utf-8").replace("700", "650"), encoding="utf-8")
    prepare.run(other, tmp_path / "data")
    with pytest.raises(CheckpointError, match="other data"):
        meta_train.run(small_config(), tmp_path / "data", run_folder, resume=True)


def test_a_damaged_checkpoint_is_named(
    run_folder: Path, tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The one before it is used, and leads to the same bits; if that is damaged too, there is nothing to go on from."""
    import shutil

    out = tmp_path / "run"
    shutil.copytree(run_folder, out, symlinks=True)
    state = (out / "last" / "trainer.safetensors").resolve()
    state.write_bytes(state.read_bytes()[:1000])
    meta_train.run(small_config(), data, out, resume=True)
    assert f"The checkpoint {state.parent} is damaged: trainer.safetensors" in capsys.readouterr().err
    assert weights(out / "last") == weights(run_folder / "last")
    assert weights(out / "best") == weights(run_folder / "best")
    assert metrics(out) == metrics(run_folder)
    for state in out.glob("checkpoints/*/trainer.safetensors"):
        state.write_bytes(state.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="damaged"):
        meta_train.run(small_config(), data, out, resume=True)


def test_a_checkpoint_is_never_half_written(run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No space left in the middle of a save: the run still has its former checkpoint, and no trace of the new one."""
    import shutil

    import torch

    from metanmt.data.language import Pair
    from metanmt.meta import run as run_module
    from metanmt.nmt.checkpoint import load_checkpoint

    out = tmp_path / "run"
    shutil.copytree(run_folder, out, symlinks=True)
    model, tokenizer = load_checkpoint(out / "last")
    files = Run(out)
    optimizer = torch.optim.AdamW(model.parameters())
    state = files.load(model, optimizer)
    before = weights(out / "last")

    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run_module, "save_file", full)
    with pytest.raises(OSError, match="No space"):
        files.save(RunState(step=state.step + 1), model, optimizer, tokenizer, Pair("de", "en"))
    assert weights(out / "last") == before
    assert not list(out.rglob("*.tmp"))


def test_out_of_memory_makes_smaller_micro_batches_and_the_same_result(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Memory is made scarce by a loss that refuses micro-batches of more than 250 padded tokens."""
    settings = ("outer.max_target_tokens=2500", "batch.micro_tokens=600", "model.dropout=0.0", "validation.times=1")
    meta_train.run(small_config(*settings), data, tmp_path / "roomy")
    plain = Loss.summed

    def scarce(self: Loss, model: Any, batch: Any) -> Any:
        if model.training and batch.source.shape[0] * max(batch.source.shape[1], batch.labels.shape[1]) > 250:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return plain(self, model, batch)

    monkeypatch.setattr(Loss, "summed", scarce)
    capsys.readouterr()
    meta_train.run(small_config(*settings), data, tmp_path / "scarce")
    said = [line for line in capsys.readouterr().err.splitlines() if "Out of memory" in line]
    assert [word for line in said for word in line.split() if word.isdigit()] == ["300"]
    state = json.loads((tmp_path / "scarce" / "last" / "trainer.json").read_text(encoding="utf-8"))
    assert state["micro_tokens"] == 300
    for size, remembered in ((600, True), (500, False)):
        again = small_config(*settings, f"batch.micro_tokens={size}")
        meta_train.run(again, data, tmp_path / "scarce", resume=True)
        assert ("Micro-batches of 300 tokens, as memory allowed before." in capsys.readouterr().err) == remembered
    ours, theirs = (load_file(tmp_path / name / "last" / "model.safetensors") for name in ("roomy", "scarce"))
    assert relative_error(ours, theirs) < 1e-3
    for one, other in zip(metrics(tmp_path / "roomy"), metrics(tmp_path / "scarce"), strict=True):
        assert one["target_tokens"] == other["target_tokens"]
        for key in ("gradient_norm", "query_loss"):
            assert other.get(key, 0) == pytest.approx(one.get(key, 0), rel=1e-3)


def test_a_device_too_small_for_a_sentence(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(Loss, "summed", full)
    with pytest.raises(MetanmtError, match="too small, even in micro-batches of"):
        meta_train.run(small_config(), data, tmp_path / "run")


def test_memory_that_runs_out_after_the_episodes_is_not_tried_again(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of such a step may have been made, and other processes have gone on."""
    calls = []

    def full(self: torch.optim.Optimizer, closure: None = None) -> None:
        calls.append(1)
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(torch.optim.AdamW, "step", full)
    with pytest.raises(DeviceMemoryError, match="step of the outer optimiser"):
        meta_train.run(small_config("outer.optimizer=adamw"), data, tmp_path / "run")
    assert len(calls) == 1


def test_what_cannot_be_run_leaves_no_folder(data: Path, tmp_path: Path) -> None:
    for setting, cause in (
        ("validation.budget=9999", "meta-dev pair lv-en"),
        ("batch.max_sentence_tokens=1", "too few"),
        ("inner.steps=999", "too few for 1000 batches an episode"),
    ):
        with pytest.raises(MetanmtError, match=cause):
            meta_train.run(small_config(setting), data, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_with_other_pieces(run_folder: Path, tmp_path: Path, manifest: Path) -> None:
    """As many, so that nothing would be missing: but each row of its embeddings stands for another piece."""
    text = manifest.read_text(encoding="utf-8").replace("[tokenizer]", '[tokenizer]\nsource_form = "plain"')
    (tmp_path / "plain.toml").write_text(text, encoding="utf-8")
    prepare.run(tmp_path / "plain.toml", tmp_path / "plain")
    with pytest.raises(CheckpointError, match="another tokenizer than the data") as error:
        meta_train.run(small_config(f"model.checkpoint={run_folder}/best"), tmp_path / "plain", tmp_path / "run")
    assert f"--tokenizer {run_folder}/best" in error.value.remedy
