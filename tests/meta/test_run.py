"""The folder of a run: which checkpoints are kept, what is done about a damaged one, what a kill leaves behind."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from metanmt.config import Config, RunConfig
from metanmt.data.tokenizer import SentencePieceTokenizer
from metanmt.errors import CheckpointError, MetanmtError, UsageError
from metanmt.meta.run import Run
from metanmt.meta.state import RunState
from metanmt.nmt.checkpoint import load_checkpoint
from metanmt.nmt.optimizer import make_optimizer
from tests.toy import PAIR, fill, make_m2m100, weights_hash

Save = Callable[..., None]
CONFIG = Config(run=RunConfig(seed=3))


class Trainer:
    """A run whose outer step adds one to every weight."""

    def __init__(self, folder: Path, tokenizer: SentencePieceTokenizer, *, keep: int = 2) -> None:
        self.folder, self.tokenizer = folder, tokenizer
        self.config = replace(CONFIG, run=replace(CONFIG.run, keep=keep))
        self.run = Run.open(folder, self.config, "digest", resume=False)
        self.begin()

    def begin(self) -> None:
        self.model: PreTrainedModel = make_m2m100(self.tokenizer.vocabulary_size)
        groups = [{"params": list(self.model.parameters())}]
        self.optimizer = make_optimizer("muon", self.model, groups, learning_rate=1e-3, beta2=0.98, weight_decay=0.01)
        self.state = RunState()

    def step(self, *, best: bool = False, ends_joint: bool = False) -> None:
        """Move every weight, log, and save."""
        for parameter in self.model.parameters():
            parameter.grad = torch.ones_like(parameter)
        self.optimizer.step()
        step = self.state.step + 1
        self.state = replace(self.state, step=step, best_step=step if best else self.state.best_step)
        self.run.log({"step": step, "loss": 1.0 / step})
        self.run.save(self.state, self.model, self.optimizer, self.tokenizer, PAIR, ends_joint=ends_joint)

    def resume(self) -> RunState:
        """Go on as another process would: nothing but the folder is left of the former one."""
        self.run.close()
        self.begin()
        fill(self.model)
        self.run = Run.open(self.folder, self.config, "digest", resume=True)
        self.state = self.run.load(self.model, self.optimizer)
        return self.state

    def checkpoint(self, step: int) -> Path:
        return self.folder / "checkpoints" / f"step-{step:08d}"

    def steps(self) -> list[int]:
        return sorted(int(path.name.removeprefix("step-")) for path in (self.folder / "checkpoints").iterdir())

    def linked(self, link: str) -> int:
        return int((self.folder / link).resolve(strict=True).name.removeprefix("step-"))

    def logged(self) -> list[int]:
        return [json.loads(line)["step"] for line in (self.folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def trainer(tmp_path: Path, tokenizer: SentencePieceTokenizer) -> Trainer:
    return Trainer(tmp_path / "run", tokenizer)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_the_newest_and_the_best_are_kept(trainer: Trainer) -> None:
    for best in (False, True, False, False, False):
        trainer.step(best=best)
    assert trainer.steps() == [2, 4, 5]
    assert (trainer.linked("best"), trainer.linked("last")) == (2, 5)


def test_keep_is_a_setting(tmp_path: Path, tokenizer: SentencePieceTokenizer) -> None:
    one, three = Trainer(tmp_path / "one", tokenizer, keep=1), Trainer(tmp_path / "three", tokenizer, keep=3)
    for _ in range(4):
        one.step()
        three.step()
    assert one.steps() == [4]
    assert three.steps() == [2, 3, 4]


def test_the_best_of_every_kept_checkpoint_is_kept(trainer: Trainer) -> None:
    """If the newest is damaged, the one before it goes on, and its best has to be there still."""
    for best in (True, False, False, True):
        trainer.step(best=best)
    assert trainer.steps() == [1, 3, 4]
    flip_a_bit(trainer.checkpoint(4) / "model.safetensors")
    assert trainer.resume().step == 3
    assert (trainer.linked("best"), trainer.linked("last")) == (1, 3)


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, Path.unlink], ids=["truncated", "a bit flipped", "missing"])
@pytest.mark.parametrize("name", ["model.safetensors", "trainer.safetensors", "trainer.json", "digests.json"])
def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_it_used(
    damage: Callable[[Path], None], name: str, trainer: Trainer, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer.step(best=True)
    trainer.step()
    hash_before = weights_hash(load_checkpoint(trainer.checkpoint(2))[0])
    trainer.step()
    damage(trainer.checkpoint(3) / name)
    assert trainer.resume().step == 2
    said = capsys.readouterr().err
    assert f"The checkpoint {trainer.checkpoint(3)} is damaged" in said
    assert "step 2" in said
    assert weights_hash(trainer.model) == hash_before
    assert trainer.steps() == [1, 2]
    assert trainer.linked("last") == 2
    assert trainer.logged() == [1, 2]
    trainer.step()
    assert trainer.logged() == [1, 2, 3]


def test_no_whole_checkpoint_is_an_error_that_leaves_everything(trainer: Trainer) -> None:
    trainer.step(best=True)
    trainer.step()
    for step in (1, 2):
        truncate(trainer.checkpoint(step) / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"Every checkpoint of .* is damaged") as error:
        trainer.resume()
    assert "start it anew" in error.value.remedy
    assert trainer.steps() == [1, 2]
    assert trainer.logged() == [1, 2]


def test_a_damaged_best_is_named_and_replaced(trainer: Trainer, capsys: pytest.CaptureFixture[str]) -> None:
    for best in (True, False, False):
        trainer.step(best=best)
    truncate(trainer.checkpoint(1) / "model.safetensors")
    with pytest.raises(CheckpointError, match="No sequence-to-sequence model can be loaded"):
        load_checkpoint(trainer.folder)
    state = trainer.resume()
    assert f"best checkpoint {trainer.checkpoint(1)} is damaged" in capsys.readouterr().err
    assert (state.best_step, trainer.linked("best")) == (3, 3)
    assert state.best_value < -1e9
    trainer.step()
    assert trainer.linked("best") == 3


def test_what_cannot_be_read_is_not_taken_for_damaged(trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network drive that is away for a moment must not cost a checkpoint."""
    from metanmt import files

    def broken(path: Path) -> str:
        raise OSError(5, "Input/output error", str(path))

    trainer.step()
    trainer.step()
    monkeypatch.setattr(files, "digest", broken)
    with pytest.raises(OSError, match="Input/output"):
        trainer.resume()
    assert trainer.steps() == [1, 2]


@pytest.mark.parametrize("files", [(), ("config.toml",), ("config.toml", "run.json"), None])
def test_a_run_that_was_killed_before_its_first_checkpoint_starts_again(
    files: tuple[str, ...] | None, trainer: Trainer
) -> None:
    """`files` are what it had written; None: all, and a part of its metrics."""
    if files is None:
        trainer.run.log({"step": 1, "loss": 1.0})
        (trainer.folder / "checkpoints" / ".step-00000001.77.tmp").mkdir(parents=True)
    else:
        for path in trainer.folder.iterdir():
            if path.name not in files:
                path.unlink()
        (trainer.folder / ".config.toml.77.tmp").write_text("[mod")
    assert trainer.resume() == RunState()
    assert not list(trainer.folder.rglob(".*"))
    trainer.step()
    assert trainer.logged() == [1]
    assert trainer.resume().step == 1


def test_leftovers_of_a_kill_are_removed(trainer: Trainer) -> None:
    trainer.step()
    leftovers = trainer.folder / "checkpoints" / ".step-00000002.77.tmp", trainer.folder / ".last.tmp"
    leftovers[0].mkdir()
    (leftovers[0] / "model.safetensors").write_bytes(b"half")
    leftovers[1].symlink_to("checkpoints/step-00000002")
    trainer.resume()
    assert not any(path.is_symlink() or path.exists() for path in leftovers)
    assert trainer.steps() == [1]


def test_a_kill_between_the_checkpoint_and_its_links(trainer: Trainer) -> None:
    trainer.step(best=True)
    trainer.step(best=True)
    for link in ("best", "last"):
        trainer.run.link(link, 1)
    assert trainer.resume().step == 2
    assert (trainer.linked("best"), trainer.linked("last")) == (2, 2)


def test_a_kill_behind_the_checkpoint_that_ends_the_joint_phase(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is known as that, though the links of the run are of the one before; where it is not there, nothing is."""
    trainer.step(best=True)
    with monkeypatch.context() as patch:
        patch.setattr(Run, "link", killed_but_for("joint", Run.link))
        with pytest.raises(RuntimeError, match="killed"):
            trainer.step(best=True, ends_joint=True)
    assert trainer.linked("last") == 1
    assert trainer.resume().step == 2
    assert (trainer.linked("joint"), trainer.linked("last")) == (2, 2)
    shutil.rmtree(trainer.checkpoint(2))
    assert trainer.resume().step == 1
    assert not (trainer.folder / "joint").is_symlink()


def killed_but_for(name: str, link: Callable[..., None]) -> Callable[..., None]:
    def linked(run: Run, wanted: str, step: int | None) -> None:
        if wanted != name:
            raise RuntimeError("killed")
        link(run, wanted, step)

    return linked


def test_the_optimiser_has_the_same_bits(trainer: Trainer) -> None:
    trainer.step()
    before = [dict(trainer.optimizer.state[parameter]) for parameter in trainer.model.parameters()]
    trainer.resume()
    after = [trainer.optimizer.state[parameter] for parameter in trainer.model.parameters()]
    assert len(before) == len(after)
    parts = {part for moments in before for part in moments}
    assert parts == {"step", "exp_avg", "exp_avg_sq", "momentum_buffer"}
    for one, other in zip(before, after, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[part], other[part]) for part in one)


def test_a_checkpoint_before_the_first_update_has_no_moments(trainer: Trainer) -> None:
    """Every step so far was skipped."""
    trainer.run.save(RunState(step=1), trainer.model, trainer.optimizer, trainer.tokenizer, PAIR)
    assert trainer.resume().step == 1
    assert not trainer.optimizer.state


@pytest.mark.parametrize("rest", [b'{"step": 2, "lo', b"\0" * 40, b"\0" * 40 + b"\n", b"\xff\n", b"[]\n", b"3\n"])
def test_metrics_are_cut_whatever_a_loss_of_power_made_of_them(rest: bytes, trainer: Trainer) -> None:
    trainer.step()
    trainer.run.close()
    with (trainer.folder / "metrics.jsonl").open("ab") as file:
        file.write(rest)
    trainer.resume()
    assert trainer.logged() == [1]


def test_a_number_that_is_not_finite_is_null(trainer: Trainer) -> None:
    trainer.run.log({"step": 1, "loss": float("nan"), "adapted": {"loss": float("inf"), "bleu": 3.0}})
    text = (trainer.folder / "metrics.jsonl").read_text(encoding="utf-8")
    assert json.loads(text) == {"step": 1, "loss": None, "adapted": {"loss": None, "bleu": 3.0}}
    assert "NaN" not in text


def test_tensorboard_shows_no_step_twice(trainer: Trainer) -> None:
    from scripts.kill_test import scalars

    for _ in range(2):
        trainer.step()
    trainer.run.log({"step": 3, "loss": 7.0})
    trainer.run.log({"step": 4, "loss": 7.0})
    last = max((trainer.folder / "tensorboard").iterdir())
    last.write_bytes(last.read_bytes()[:-5])
    trainer.resume()
    time.sleep(0.01)
    for _ in range(2):
        trainer.step()
    shown = [(name, step, round(value, 6)) for name, step, value in scalars(trainer.folder / "tensorboard")]
    assert shown == [("loss", step, round(1 / step, 6)) for step in (1, 2, 3, 4)]


def test_two_processes_cannot_write_to_one_run(trainer: Trainer) -> None:
    trainer.step()
    with pytest.raises(UsageError, match="Another process is writing"):
        Run.open(trainer.folder, trainer.config, "digest", resume=True)
    trainer.run.close()
    Run.open(trainer.folder, trainer.config, "digest", resume=True).close()


@pytest.mark.parametrize("content", ["[]", "{"])
def test_damaged_facts_of_a_run(trainer: Trainer, content: str) -> None:
    (trainer.folder / "run.json").write_text(content, encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"run\.json is damaged"):
        trainer.resume()


def test_a_run_that_may_not_be_written_to_is_named(trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not what a link in it leads to."""

    def refused(target: str, link: Path, is_directory: bool) -> None:
        raise PermissionError(13, "Permission denied", target, None, str(link))

    trainer.step()
    monkeypatch.setattr(os, "symlink", refused)
    with pytest.raises(PermissionError) as error:
        trainer.resume()
    assert error.value.filename == str(trainer.folder)


def test_another_folder_is_not_resumed_nor_touched(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "thesis.tex").write_text("")
    (folder / ".thesis.tmp").write_text("")
    with pytest.raises(UsageError, match="no checkpoint to resume"):
        Run.open(folder, CONFIG, "digest", resume=True)
    assert len(list(folder.iterdir())) == 2


def test_a_folder_that_vanished_is_not_made_again(trainer: Trainer) -> None:
    trainer.step()
    shutil.rmtree(trainer.folder)
    with pytest.raises(MetanmtError, match="vanished"):
        trainer.run.save(trainer.state, trainer.model, trainer.optimizer, trainer.tokenizer, PAIR)
    assert not trainer.folder.exists()
