"""Resume is exact: kills at random moments, two runs of one seed, steps that were skipped, runs that diverge."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from metanmt.config_file import load_config
from metanmt.errors import CheckpointError, DeviceMemoryError, DivergenceError, UsageError
from metanmt.meta.outer import StepReport
from metanmt.nmt import tuning
from metanmt.nmt.checkpoint import load_checkpoint
from metanmt.nmt.engine import TransformersEngine
from metanmt.nmt.loss import Loss
from metanmt.recipes import meta_train
from metanmt.sections import to_toml
from scripts.kill_test import differences, fingerprint
from tests.recipes.conftest import small_config
from tests.recipes.test_meta_train import metrics

ROOT = Path(__file__).parents[2]
SHORT = ("outer.max_target_tokens=2500", "validation.times=1")


def test_three_kills_at_random_moments() -> None:
    """`scripts/kill_test.py` with its fifty kills is for a change of what a run writes."""
    command = [sys.executable, str(ROOT / "scripts" / "kill_test.py"), "--kills", "3", "--tokens", "2500"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "3 kills" in result.stdout
    assert "every run has the same bits" in result.stdout


def test_two_runs_of_one_seed_have_the_same_bits(data: Path, tmp_path: Path, run_folder: Path) -> None:
    meta_train.run(small_config(), data, tmp_path / "again")
    assert differences(fingerprint(run_folder), fingerprint(tmp_path / "again")) == []


def test_another_seed_has_others(data: Path, tmp_path: Path) -> None:
    for seed in (1, 2):
        meta_train.run(small_config(*SHORT, f"run.seed={seed}"), data, tmp_path / str(seed))
    assert "last/model/model.shared.weight" in differences(fingerprint(tmp_path / "1"), fingerprint(tmp_path / "2"))


def killed_in_step(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the outer step of this number, counted from now, raise what no run survives."""
    plain, steps = meta_train.outer_step, 0

    def counted(*arguments: Any) -> StepReport:
        nonlocal steps
        steps += 1
        if steps == number:
            raise SystemExit("killed")
        return plain(*arguments)

    monkeypatch.setattr(meta_train, "outer_step", counted)


def test_a_run_without_a_checkpoint_is_resumed_from_its_start(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_config(*SHORT)
    meta_train.run(config, data, tmp_path / "whole")
    killed_in_step(4, monkeypatch)
    with pytest.raises(SystemExit):
        meta_train.run(config, data, tmp_path / "run")
    assert not (tmp_path / "run" / "last").exists()
    assert len(metrics(tmp_path / "run")) == 3
    with pytest.raises(CheckpointError, match="has not reached its first meta-validation"):
        load_checkpoint(tmp_path / "run")
    with pytest.raises(UsageError, match="exists already"):
        meta_train.run(config, data, tmp_path / "run")
    meta_train.run(config, data, tmp_path / "run", resume=True)
    assert differences(fingerprint(tmp_path / "whole"), fingerprint(tmp_path / "run")) == []


def not_finite(when: Callable[[int], bool], monkeypatch: pytest.MonkeyPatch) -> None:
    """Spoil the gradient of every batch whose number of target tokens fulfils `when`: as repeatable as a bad batch."""
    plain = Loss.backward

    def spoiled(self: Loss, model: Any, batch: Any, scale: float = 1.0) -> torch.Tensor:
        loss = plain(self, model, batch, scale)
        if when(batch.target_tokens):
            next(model.parameters()).grad.fill_(float("nan"))
        return loss

    monkeypatch.setattr(Loss, "backward", spoiled)


def test_skipped_steps_are_counted_and_the_same_after_a_resume(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = small_config("outer.max_target_tokens=4000", "outer.max_skipped=100", "run.checkpoint_minutes=0")
    not_finite(lambda tokens: tokens % 4 == 1, monkeypatch)
    facts = meta_train.run(config, data, tmp_path / "whole")
    assert 0 < facts["skipped_steps"] < facts["steps"]
    assert "not finite; the step is skipped" in capsys.readouterr().err
    lines = [line for line in metrics(tmp_path / "whole") if "phase" in line]
    skipped = [line for before, line in zip([None, *lines], lines, strict=False) if grew(before, line)]
    assert len(skipped) == lines[-1]["skipped_steps"] == facts["skipped_steps"]
    assert all(line["gradient_norm"] is None for line in skipped)
    assert all(line["gradient_norm"] is not None for line in lines if line not in skipped)
    killed_in_step(skipped[0]["step"] + 1, monkeypatch)
    with pytest.raises(SystemExit):
        meta_train.run(config, data, tmp_path / "run")
    meta_train.run(config, data, tmp_path / "run", resume=True)
    assert differences(fingerprint(tmp_path / "whole"), fingerprint(tmp_path / "run")) == []


def grew(before: dict[str, Any] | None, line: dict[str, Any]) -> bool:
    return line["skipped_steps"] > (before["skipped_steps"] if before else 0)


def test_a_run_that_diverges_stops_and_says_what_to_try(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    not_finite(lambda tokens: True, monkeypatch)
    with pytest.raises(DivergenceError, match=r"3 outer steps in a row, up to step 3\.") as error:
        meta_train.run(small_config("outer.max_skipped=3"), data, tmp_path / "run")
    for word in ("outer.learning_rate", "outer.warmup_steps", "float32"):
        assert word in error.value.remedy
    assert len(metrics(tmp_path / "run")) == 3


@pytest.mark.parametrize("when", ["in the step before", "while it adapts", "before the last one"])
def test_a_stop_does_not_wait_for_a_meta_validation(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """It is made when the run goes on, with the same result."""
    config = small_config("outer.max_target_tokens=2500", "validation.times=2")
    whole = meta_train.run(config, data, tmp_path / "whole")
    [first, last] = [line["step"] for line in metrics(tmp_path / "whole") if "meta_validation" in line]
    assert last == whole["steps"]
    target, name = (tuning, "clip_gradient") if when == "while it adapts" else (meta_train, "outer_step")
    plain, calls = getattr(target, name), 0
    evaluate, evaluated = tuning.evaluate_dev, 0

    def interrupting(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == {"in the step before": first, "while it adapts": 1, "before the last one": last}[when]:
            os.kill(os.getpid(), signal.SIGINT)
        return plain(*arguments)

    def counted(*arguments: Any) -> Any:
        nonlocal evaluated
        evaluated += 1
        return evaluate(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(target, name, interrupting)
        patch.setattr(tuning, "evaluate_dev", counted)
        stopped_at = last if when == "before the last one" else first
        with pytest.raises(KeyboardInterrupt, match=f"Stopped at step {stopped_at}; it goes on by"):
            meta_train.run(config, data, tmp_path / "run")
    assert len([line for line in metrics(tmp_path / "run") if "meta_validation" in line]) == (stopped_at == last)
    assert evaluated == {"in the step before": 0, "while it adapts": 1, "before the last one": 2}[when]
    meta_train.run(config, data, tmp_path / "run", resume=True)
    assert differences(fingerprint(tmp_path / "whole"), fingerprint(tmp_path / "run")) == []


def test_a_stop_while_parents_are_tried_keeps_the_trial(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_config("outer.max_target_tokens=2500", "outer.learner=transfer", "validation.times=1")
    meta_train.run(config, data, tmp_path / "whole")
    plain, calls = meta_train.MetaValidation.zero_shot_loss, 0

    def interrupting(*arguments: Any) -> float:
        nonlocal calls
        calls += 1
        if calls == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return plain(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(meta_train.MetaValidation, "zero_shot_loss", interrupting)
        with pytest.raises(KeyboardInterrupt, match="it goes on by"):
            meta_train.run(config, data, tmp_path / "run")
    assert (tmp_path / "run" / "last" / "trainer.json").is_file()
    meta_train.run(config, data, tmp_path / "run", resume=True)
    assert differences(fingerprint(tmp_path / "whole"), fingerprint(tmp_path / "run")) == []


@pytest.mark.parametrize("other", [(), ("batch.micro_tokens=123",)])
def test_a_kill_between_a_meta_validation_and_its_checkpoint(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: tuple[str, ...]
) -> None:
    """The checkpoint before it is of the same step, where the run was stopped; its line is logged once.

    Also where it would be another one, by other micro-batches.
    """
    config = small_config(*SHORT)
    meta_train.run(config, data, tmp_path / "whole")
    save = meta_train.Run.save

    def killed(self: Any, state: Any, *arguments: Any, **options: Any) -> None:
        if state.validations:
            raise SystemExit("killed")
        save(self, state, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(meta_train.MetaValidation, "__call__", lambda *_, **__: os.kill(os.getpid(), signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            meta_train.run(config, data, tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(meta_train.Run, "save", killed)
        with pytest.raises(SystemExit):
            meta_train.run(config, data, tmp_path / "run", resume=True)
    meta_train.run(small_config(*SHORT, *other), data, tmp_path / "run", resume=True)
    assert len([line for line in metrics(tmp_path / "run") if "meta_validation" in line]) == 1
    if other:
        return
    theirs, ours = fingerprint(tmp_path / "whole"), fingerprint(tmp_path / "run")
    assert differences(theirs, ours) in ([], ["tensorboard"])  # which may show a point twice
    assert set(theirs["tensorboard"]) == set(ours["tensorboard"])


@pytest.mark.parametrize("where", ["evaluate_dev", "_accumulate_gradient", "translate_ids"])
def test_memory_that_runs_out_in_a_meta_validation_costs_nothing(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """However small batches are made there: its errors are those of fine-tuning and of search."""
    config = small_config(*SHORT)
    meta_train.run(config, data, tmp_path / "whole")
    plain = getattr(tuning, where)

    def full(*arguments: Any, **more: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    def cramped(*arguments: Any, **more: Any) -> Any:
        with pytest.MonkeyPatch.context() as inside:
            inside.setattr(Loss, "summed", full)
            inside.setattr(TransformersEngine, "search", full)
            return plain(*arguments, **more)

    with monkeypatch.context() as patch:
        patch.setattr(tuning, where, cramped)
        with pytest.raises(DeviceMemoryError, match="too small for a meta-validation; step"):
            meta_train.run(config, data, tmp_path / "run")
    meta_train.run(config, data, tmp_path / "run", resume=True)
    assert differences(fingerprint(tmp_path / "whole"), fingerprint(tmp_path / "run")) == []


def test_what_differs_is_said_before_anything_else(data: Path, run_folder: Path) -> None:
    """Also where the other configuration could not be run at all."""
    with pytest.raises(UsageError, match=r"outer.pairs is \(\) there and \('xx-en',\) here, run.seed is 1 there"):
        meta_train.run(small_config("outer.pairs=['xx-en']", "run.seed=2"), data, run_folder, resume=True)


def test_an_existing_run_is_refused_before_anything_is_computed(data: Path, run_folder: Path) -> None:
    with pytest.raises(UsageError, match="exists already"):
        meta_train.run(small_config("outer.pairs=['xx-en']"), data, run_folder)


def test_a_run_on_a_checkpoint_is_resumed_from_any_folder(
    data: Path, tmp_path: Path, run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "base").symlink_to(run_folder)
    monkeypatch.chdir(tmp_path)
    relative = small_config("outer.max_target_tokens=300", "validation.times=1", "model.checkpoint=base/best")
    meta_train.run(relative, data, tmp_path / "run")
    own = load_config(tmp_path / "run" / "config.toml")
    assert own.model.checkpoint == str(run_folder.resolve() / "best"), "the link to the best one keeps its name"
    meta_train.run(relative, data, tmp_path / "run", resume=True)
    monkeypatch.chdir("/")
    meta_train.run(own, data, tmp_path / "run", resume=True)


def test_a_run_that_names_its_checkpoint_as_it_was_given_is_resumed_too(
    data: Path, tmp_path: Path, run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As earlier versions wrote it."""
    monkeypatch.chdir(run_folder.parent)
    relative = small_config(
        "outer.max_target_tokens=300", "validation.times=1", f"model.checkpoint={run_folder.name}/best"
    )
    meta_train.run(relative, data, tmp_path / "run")
    path = tmp_path / "run" / "config.toml"
    path.write_text(to_toml(relative), encoding="utf-8")
    meta_train.run(relative, data, tmp_path / "run", resume=True)
    assert load_config(path).model.checkpoint == str(run_folder / "best")


def test_what_changes_no_result_may_change_on_the_way(data: Path, tmp_path: Path, run_folder: Path) -> None:
    folder = Path(shutil.copytree(run_folder, tmp_path / "run", symlinks=True))
    changed = small_config("batch.micro_tokens=321", "run.keep=5", "run.log_every=7", "run.checkpoint_minutes=1")
    meta_train.run(changed, data, folder, resume=True)
    assert load_config(folder / "config.toml") == changed
    with pytest.raises(UsageError, match="configuration differs"):
        meta_train.run(small_config("batch.max_tokens=77"), data, folder, resume=True)
