"""A joint phase that is taken over from another run: the bits of having trained it, for less."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from metanmt.errors import CheckpointError, MetanmtError, UsageError
from metanmt.meta import joint_phase
from metanmt.recipes import meta_train
from scripts.kill_test import differences, fingerprint
from tests.recipes.conftest import small_config
from tests.recipes.test_meta_train import metrics
from tests.recipes.test_resume import killed_in_step

SHORT = ("outer.max_target_tokens=4000", "validation.times=4", "run.keep=1")


def state(checkpoint: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((checkpoint / "trainer.json").read_text(encoding="utf-8"))
    return found


@pytest.fixture(scope="module")
def joint(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("source") / "joint"
    meta_train.run(small_config(*SHORT, "outer.learner=joint"), data, out)
    return out


@pytest.mark.parametrize("learner", ["fomaml", "reptile", "meta-sgd", "maml++", "joint"])
def test_it_gives_the_bits_of_having_trained_it(learner: str, data: Path, tmp_path: Path, joint: Path) -> None:
    config = small_config(*SHORT, f"outer.learner={learner}", "inner.learning_rate=0.05")
    whole = meta_train.run(config, data, tmp_path / "whole")
    facts = meta_train.run(config, data, tmp_path / "run", joint_phase=joint)
    assert differences(fingerprint(tmp_path / "whole"), fingerprint(tmp_path / "run")) == []
    free = {"run", "elapsed_seconds", "peak_memory_bytes"}
    assert {key: facts[key] for key in facts.keys() - free} == {key: whole[key] for key in whole.keys() - free}


def test_the_phase_is_not_trained_again(
    data: Path, tmp_path: Path, joint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    phase = state(joint / "joint")
    killed_in_step(1, monkeypatch)
    with pytest.raises(SystemExit):
        meta_train.run(small_config(*SHORT), data, tmp_path / "run", joint_phase=joint)
    assert state(tmp_path / "run" / "last") == phase
    assert phase["target_tokens"] == pytest.approx(0.6 * 4000, abs=300)
    assert [line["step"] for line in metrics(tmp_path / "run") if "phase" in line] == [*range(1, phase["step"] + 1)]
    assert f"up to step {phase['step']}, is taken over" in capsys.readouterr().err


def test_what_was_made_of_a_checkpoint_is_not_copied(
    data: Path, tmp_path: Path, joint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Path(shutil.copytree(joint, tmp_path / "source", symlinks=True))
    for name in ("evaluation", "ctranslate2-float32"):
        (source / "joint" / name).mkdir()
        (source / "joint" / name / "file").write_text("made later", encoding="utf-8")
    killed_in_step(1, monkeypatch)
    with pytest.raises(SystemExit):
        meta_train.run(small_config(*SHORT), data, tmp_path / "run", joint_phase=source)
    names = {path.name for path in (tmp_path / "run" / "last").iterdir()}
    assert "trainer.json" in names
    assert not names & {"evaluation", "ctranslate2-float32"}


def test_the_scalars_of_tensorboard_may_be_gone(data: Path, tmp_path: Path, joint: Path) -> None:
    source = Path(shutil.copytree(joint, tmp_path / "source", symlinks=True))
    shutil.rmtree(source / "tensorboard")
    meta_train.run(small_config(*SHORT), data, tmp_path / "run", joint_phase=source)
    assert (tmp_path / "run" / "best").exists()


def test_a_run_that_took_it_over_is_resumed_and_is_a_source_itself(
    data: Path, tmp_path: Path, joint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of meta-sgd, which has learned rates of its own that reptile knows nothing of."""
    config = small_config(*SHORT, "outer.learner=meta-sgd")
    killed_in_step(2, monkeypatch)
    with pytest.raises(SystemExit):
        meta_train.run(config, data, tmp_path / "meta-sgd", joint_phase=joint)
    monkeypatch.undo()
    meta_train.run(config, data, tmp_path / "meta-sgd", resume=True)
    meta_train.run(config, data, tmp_path / "whole")
    assert differences(fingerprint(tmp_path / "whole"), fingerprint(tmp_path / "meta-sgd")) == []
    for source in ("whole", "meta-sgd"):
        other = small_config(*SHORT, "outer.learner=reptile")
        meta_train.run(other, data, tmp_path / f"after-{source}", joint_phase=tmp_path / source)
    assert differences(fingerprint(tmp_path / "after-whole"), fingerprint(tmp_path / "after-meta-sgd")) == []


def test_a_source_that_has_logged_nothing_yet(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = ("outer.max_target_tokens=4000", "validation.times=1", "run.log_every=100")
    killed_in_step(13, monkeypatch)
    with pytest.raises(SystemExit):
        meta_train.run(small_config(*settings, "outer.learner=joint"), data, tmp_path / "joint")
    monkeypatch.undo()
    assert not (tmp_path / "joint" / "metrics.jsonl").exists()
    meta_train.run(small_config(*settings), data, tmp_path / "run", joint_phase=tmp_path / "joint")
    meta_train.run(small_config(*settings), data, tmp_path / "whole")
    assert differences(fingerprint(tmp_path / "whole"), fingerprint(tmp_path / "run")) == []


@pytest.mark.parametrize("copied", [0, 1])
def test_a_kill_while_it_is_copied_leaves_a_run_to_resume(
    copied: int, data: Path, tmp_path: Path, joint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_config(*SHORT)
    done = 0

    def killed(folder: Path) -> None:
        nonlocal done
        if done == copied:
            raise SystemExit("killed")
        done += 1

    with monkeypatch.context() as patch:
        patch.setattr(joint_phase, "_without_learner", killed)
        with pytest.raises(SystemExit):
            meta_train.run(config, data, tmp_path / "run", joint_phase=joint)
    assert len([*(tmp_path / "run").glob("checkpoints/step-*")]) == copied
    meta_train.run(config, data, tmp_path / "run", resume=True)
    meta_train.run(config, data, tmp_path / "whole")
    assert differences(fingerprint(tmp_path / "whole"), fingerprint(tmp_path / "run")) == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["outer.learning_rate=1e-3"], r"outer.learning_rate is 0.003 there and 0.001 here"),
        (["outer.joint_share=0.5", "run.seed=2"], r"outer.joint_share is .*, run.seed is 1 there and 2 here"),
        (["fine_tune.dropout=0.3"], r"fine_tune.dropout"),
        (["outer.learner=transfer"], r"Learner transfer has no joint phase"),
    ],
)
def test_another_phase_is_refused_and_leaves_no_folder(
    settings: list[str], message: str, data: Path, tmp_path: Path, joint: Path
) -> None:
    with pytest.raises(UsageError, match=message):
        meta_train.run(small_config(*SHORT, *settings), data, tmp_path / "run", joint_phase=joint)
    assert not (tmp_path / "run").exists()


def test_runs_that_have_none(data: Path, tmp_path: Path, joint: Path) -> None:
    def refused(source: Path, error: type[MetanmtError], message: str, *settings: str) -> None:
        with pytest.raises(error, match=message):
            meta_train.run(small_config(*SHORT, *settings), data, tmp_path / "run", joint_phase=source)
        assert not (tmp_path / "run").exists()

    refused(tmp_path / "nothing", UsageError, "nothing is no run")
    without = tmp_path / "without"
    meta_train.run(small_config(*SHORT, "outer.joint_share=0"), data, without)
    assert not (without / "joint").is_symlink()
    refused(without, UsageError, r"no end of a joint phase \(outer.joint_share = 0\)", "outer.joint_share=0")
    damaged = tmp_path / "damaged"
    shutil.copytree(joint, damaged, symlinks=True)
    (damaged / "joint" / "trainer.safetensors").write_bytes(b"short")
    refused(damaged, CheckpointError, "is damaged")
    (damaged / "run.json").write_text('{"data_digest": "other"}', encoding="utf-8")
    refused(damaged, CheckpointError, "other data")


def test_the_end_of_the_phase_is_kept_and_a_damaged_one_is_made_again(
    data: Path, tmp_path: Path, joint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_config(*SHORT)
    killed_in_step(state(joint / "joint")["step"] + 1, monkeypatch)
    with pytest.raises(SystemExit):
        meta_train.run(config, data, tmp_path / "run")
    monkeypatch.undo()
    (tmp_path / "run" / "joint" / "trainer.safetensors").write_bytes(b"short")
    meta_train.run(config, data, tmp_path / "run", resume=True)
    meta_train.run(config, data, tmp_path / "after", joint_phase=tmp_path / "run")
    assert differences(fingerprint(tmp_path / "run"), fingerprint(tmp_path / "after")) == []
    kept = {path.resolve() for path in (tmp_path / "run" / "checkpoints").iterdir()}
    links = {(tmp_path / "run" / link).resolve() for link in ("joint", "best", "last")}
    best_before = state(tmp_path / "run" / "joint")["best_step"]
    assert kept == links | {(tmp_path / "run" / "checkpoints" / f"step-{best_before:08d}").resolve()}
