"""The folder of a meta-training run: configuration, metrics, checkpoints; enough to go on after any interruption.

```
RUN/config.toml          the resolved configuration
RUN/run.json             a digest of the data, and the versions
RUN/metrics.jsonl        a line every few outer steps, and one a meta-validation
RUN/tensorboard/         the same for TensorBoard
RUN/checkpoints/step-N/  a Hugging Face folder, or an adapter alone (nmt/adapter.py); with trainer.safetensors and
                         trainer.json to resume from, and digests.json to check them by
RUN/best, RUN/last       links to two of these
RUN/joint                and to the end of the joint phase, which other runs may go on from (meta/joint_phase.py)
```
A checkpoint folder gets its name only when it is complete and flushed, after the metrics up to it, and loses it before
it is removed; the links are replaced in one operation. So no moment leaves a run without a whole checkpoint, once it
has one, and a run that has none yet starts again from its first step.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import IO, Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel

from metanmt.config import FREE_IN_A_RUN, Config
from metanmt.config_file import differences, load_config, located
from metanmt.data.counterparts import Counterparts
from metanmt.data.language import Pair
from metanmt.data.tokenizer import Tokenizer
from metanmt.errors import CheckpointError, MetanmtError, UsageError
from metanmt.files import (
    damage,
    lock_folder,
    named_errors,
    new_folder,
    read_object,
    refuse_existing,
    remove_folder,
    remove_leftovers,
    write_digests,
    write_json,
    write_text,
)
from metanmt.meta.board import Board, finite
from metanmt.meta.moments import NOTHING, restore, trainer_tensors
from metanmt.meta.state import RunState
from metanmt.nmt.checkpoint import load_state, save_checkpoint
from metanmt.runlog import warn
from metanmt.runtime import versions
from metanmt.sections import to_toml

JOINT = "joint"  # the link to the end of the joint phase


class Run:
    """Reads and writes the folder of one run.

    Args:
        folder: of the run.
        keep: newest checkpoints to keep, beside the best one.
    """

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self.folder = folder
        self.keep = keep
        self._metrics: IO[str] | None = None
        self._board: Board | None = None
        self._purge_step: int | None = None
        self._last_kind: tuple[int | None, bool] = (None, False)
        self._refit = False
        self._lock: int | None = None
        self.counterparts: Counterparts | None = None  # written into every checkpoint

    @classmethod
    def open(cls, folder: Path, config: Config, digest: str, *, resume: bool, data: Path | None = None) -> Run:
        """Return a new run, or the one to resume, locked for this process until it is closed.

        Raises:
            UsageError: the folder exists and `resume` is not given; or it is no run to resume; or another process is
                at it; or the configuration or the data differ from those of the run. Settings in `FREE_IN_A_RUN` may
                differ.
        """
        check_run(folder, config, digest, resume=resume)
        folder.mkdir(parents=True, exist_ok=True)
        run = cls(folder, config.run.keep)
        run._lock = lock_folder(folder)
        try:
            run._make_or_check(config, digest, data)
        except BaseException:
            run.close()
            raise
        return run

    def _make_or_check(self, config: Config, digest: str, data: Path | None) -> None:
        """Write what a new run has, or a killed one has not yet; refuse to go on with another configuration or data."""
        before = _same_as_before(self.folder, config, digest)
        if before != located(config):  # in what may change on the way, if there is one
            write_text(self.folder / "config.toml", to_toml(located(config)))
        path = self.folder / "run.json"
        facts = read_object(path) if path.exists() else {"data_digest": digest, "versions": versions()}
        write_json(path, {**facts, "data": data and str(data.resolve())})
        self._refit = before is not None and before.batch.micro_tokens != config.batch.micro_tokens
        remove_leftovers(self.folder)
        remove_leftovers(self.folder / "checkpoints")

    def log(self, metrics: dict[str, Any]) -> None:
        """Append a line to metrics.jsonl and to TensorBoard; a number that is not finite is null."""
        metrics = finite(metrics)
        kind = metrics["step"], "meta_validation" in metrics
        if kind == self._last_kind:
            return  # a meta-validation that was logged, but not saved, before a kill
        self._last_kind = kind
        path = self.folder / "metrics.jsonl"
        with named_errors(path):
            if self._metrics is None:
                self._metrics = path.open("a", encoding="utf-8")
            self._metrics.write(json.dumps(metrics, allow_nan=False) + "\n")
            self._metrics.flush()
        with named_errors(self.folder / "tensorboard"):
            if self._board is None:
                self._board = Board(self.folder / "tensorboard", self._purge_step)
            self._board.add(metrics["step"], {name: value for name, value in metrics.items() if name != "step"})

    def save(
        self,
        state: RunState,
        model: PreTrainedModel,
        optimizer: torch.optim.Optimizer,
        tokenizer: Tokenizer,
        pair: Pair,
        own: nn.Module = NOTHING,
        *,
        ends_joint: bool = False,
    ) -> None:
        """Write a checkpoint, then delete all but the newest `keep`, the end of the joint phase, and the best of each.

        Raises:
            CheckpointError: the run's folder is not there any more.
        """
        if not (self.folder / "config.toml").is_file():
            raise CheckpointError(
                f"The run's folder {self.folder} has vanished, or what was in it.",
                "Bring it back (is its disk still there?) and resume, or start the run anew.",
            )
        if self._metrics is not None and self._board is not None:
            os.fsync(self._metrics.fileno())
            self._board.sync()
        if ends_joint:  # before it is there: whatever kills the run, a checkpoint that ends the phase has the link
            self.link(JOINT, state.step)
        with new_folder(self.path(state.step), overwrite=True) as folder:
            save_checkpoint(folder, model, tokenizer, pair, lexicon=True)
            if self.counterparts is not None:
                self.counterparts.save(folder)
            save_file(trainer_tensors(model, own, optimizer), str(folder / "trainer.safetensors"))
            write_json(folder / "trainer.json", asdict(state))
            write_digests(folder)
        self.link("last", state.step)
        self.link("best", state.best_step)
        kept = {*self._steps()[-self.keep :], *(step for step in self._steps() if self._ends_joint(step))}
        keep = kept | {_best_step(self.path(step)) for step in kept}
        for step in self._steps():
            if step not in keep:
                remove_folder(self.path(step))

    def load(self, model: PreTrainedModel, optimizer: torch.optim.Optimizer, own: nn.Module = NOTHING) -> RunState:
        """Set everything that is learned to the newest whole checkpoint and return where the run stood.

        A damaged checkpoint is named, and the one before it is used. What the run wrote after that one is removed. A
        run without a checkpoint starts from its first step. Of several processes the one that holds the lock loads
        first; the others only read.

        Raises:
            CheckpointError: every checkpoint is damaged.
        """
        if self._lock is None:
            return self._read(self._steps()[-1], model, optimizer, own) if self._steps() else RunState()
        damaged = {step: damage(self.path(step)) for step in self._steps()}
        whole = [step for step, reason in damaged.items() if reason is None]
        newest = max(whole, default=0)
        for step, reason in damaged.items():
            if reason is not None and step > newest:
                warn(f"The checkpoint {self.path(step)} is damaged: {reason}.")
        if damaged and not whole:
            raise CheckpointError(
                f"Every checkpoint of {self.folder} is damaged; the newest: {damaged[max(damaged)]}.",
                "Copy the run again if there is another copy, or start it anew in a new folder.",
            )
        state = self._read(newest, model, optimizer, own) if whole else RunState()
        if state.step < max(damaged, default=0):
            warn(f"Going on from the one before, step {state.step}.")
        for step in damaged:
            if step > newest:
                remove_folder(self.path(step))
        self.link("last", newest if whole else None)
        if not any(map(self._ends_joint, whole)):
            self.link(JOINT, None)
        state = self._with_whole_best(state, whole)
        if self._refit:  # to another device, perhaps
            state = replace(state, micro_tokens=0)
        self.link("best", state.best_step)
        self._cut_metrics(state.step)
        self._purge_step = state.step + 1
        return state

    def close(self) -> None:
        """Close the metrics and let other processes have the folder."""
        lock, self._lock = self._lock, None
        try:
            with named_errors(self.folder / "metrics.jsonl"):
                if self._metrics is not None:
                    self._metrics.close()
                if self._board is not None:
                    self._board.close()
        finally:
            self._metrics = self._board = None
            if lock is not None:
                os.close(lock)

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def path(self, step: int) -> Path:
        """Return where the checkpoint of a step lies."""
        return self.folder / "checkpoints" / f"step-{step:08d}"

    def _steps(self) -> list[int]:
        """Return the steps of the checkpoints, ascending."""
        names = (path.name.removeprefix("step-") for path in (self.folder / "checkpoints").glob("step-*"))
        return sorted(int(name) for name in names if name.isdecimal())

    def _read(self, step: int, model: PreTrainedModel, optimizer: torch.optim.Optimizer, own: nn.Module) -> RunState:
        folder = self.path(step)
        try:
            values = read_object(folder / "trainer.json")
            state = RunState(**{item.name: values.get(item.name, item.default) for item in fields(RunState)})
            load_state(model, folder)
            restore(load_file(folder / "trainer.safetensors"), model, own, optimizer)
        except MetanmtError:
            raise
        except Exception as error:
            raise CheckpointError(
                f"The checkpoint {folder} cannot be resumed from: {error}.",
                "Resume with the version of metanmt that wrote it, or start the run anew.",
            ) from None
        return state

    def _with_whole_best(self, state: RunState, whole: list[int]) -> RunState:
        """Return the state; if its best checkpoint is damaged, that is named and the last one stands in for it."""
        if state.best_step is None or state.best_step in whole:
            return state
        warn(
            f"The best checkpoint {self.path(state.best_step)} is damaged or missing: the last one stands in for it "
            "until the next meta-validation."
        )
        return replace(state, best_step=state.step, best_value=-math.inf)

    def _ends_joint(self, step: int) -> bool:
        return (self.folder / JOINT).resolve() == self.path(step).resolve()

    def link(self, link: str, step: int | None) -> None:
        """Let a link of the run lead to the checkpoint of a step, or remove it."""
        if step is None:
            (self.folder / link).unlink(missing_ok=True)
            return
        temporary = self.folder / f".{link}.tmp"
        with named_errors(self.folder):
            temporary.unlink(missing_ok=True)
            temporary.symlink_to(os.path.join("checkpoints", self.path(step).name), target_is_directory=True)
            temporary.replace(self.folder / link)

    def _cut_metrics(self, step: int) -> None:
        """Keep the lines up to a step; a kill or a loss of power may have left the rest in any form."""
        path = self.folder / "metrics.jsonl"
        if not path.exists():
            return
        kept = []
        for line in path.read_bytes().splitlines(keepends=True):
            try:
                if not line.endswith(b"\n") or json.loads(line)["step"] > step:
                    break
            except (ValueError, TypeError, KeyError):
                break
            kept.append(line.decode("utf-8"))
        write_text(path, "".join(kept))
        last = json.loads(kept[-1]) if kept else {"step": None}
        self._last_kind = last["step"], "meta_validation" in last


def check_run(folder: Path, config: Config, digest: str, *, resume: bool) -> None:
    """Refuse a run that cannot be begun, or gone on with, before anything is computed; it is as in `Run.open`."""
    if not resume:
        refuse_existing(folder, remedy="Give another --out, or --resume to go on with it.", in_place=True)
    elif not _is_run(folder):
        raise UsageError(f"{folder} has no checkpoint to resume from.", "Start it without --resume, in a new folder.")
    else:
        _same_as_before(folder, config, digest)


def _same_as_before(folder: Path, config: Config, digest: str) -> Config | None:
    """Return the configuration of a run, if it has one yet; refuse another one than that, and other data."""
    path = folder / "config.toml"
    before = load_config(path) if path.exists() else None
    found = differences(config, before) if before else {}
    if changed := [words for name, words in found.items() if name not in FREE_IN_A_RUN]:
        remedy = f"Resume with the same one: {path}."
        if "outer.max_target_tokens" in found:
            remedy += f" Its rates follow its length; a longer run can start from it: --set model.checkpoint={folder}"
        raise UsageError(f"The configuration differs from that of the run {folder}: {', '.join(changed)}.", remedy)
    if data_digest(folder) not in (None, digest):
        raise CheckpointError(f"The run {folder} was trained on other data.", "Give the --data it was started with.")
    return before


def data_digest(folder: Path) -> str | None:
    """Return the digest of the data that a run was made from; None if an earlier version did not note it.

    Raises:
        CheckpointError: the file that says so is damaged.
    """
    path = folder / "run.json"
    try:
        return read_object(path).get("data_digest") if path.is_file() else None
    except ValueError:
        raise CheckpointError(f"{path} is damaged.", "Copy the run again, or start it anew in a new folder.") from None


def _is_run(folder: Path) -> bool:
    """Return whether a folder is a run's, be it one that was killed before it had written anything."""
    if (folder / "config.toml").is_file():
        return True
    return folder.is_dir() and all(path.match(".*.tmp") for path in folder.iterdir())


def _best_step(folder: Path) -> int | None:
    """Return the best step when a checkpoint was written: to resume from the one, the other is needed."""
    try:
        step = read_object(folder / "trainer.json")["best_step"]
    except (OSError, ValueError, KeyError):
        return None
    return int(step) if step is not None else None
