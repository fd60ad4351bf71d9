"""The folder of a meta-training run: configuration, metrics, checkpoints; enough to go on after any interruption.

```
RUN/config.toml          the resolved configuration
RUN/run.json             the data's tokenizer and the versions
RUN/metrics.jsonl        a line every few outer steps, and one a meta-validation
RUN/tensorboard/         the same for TensorBoard
RUN/checkpoints/step-N/  a Hugging Face folder, with trainer.safetensors and trainer.json to resume from
RUN/best, RUN/last       links to two of these
```
A checkpoint folder gets its name only when it is complete and flushed, and the links are replaced in one operation, so
that no moment leaves a run without a whole checkpoint.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import IO, Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel

from metanmt.config import Config, load_config, to_toml
from metanmt.data.language import Pair
from metanmt.data.tokenizer import Tokenizer
from metanmt.errors import CheckpointError, MetanmtError, UsageError
from metanmt.nmt.checkpoint import save_checkpoint
from metanmt.nmt.model import load_model
from metanmt.runtime import new_folder, refuse_existing, versions, write_json, write_text

MOMENTS = ("exp_avg", "exp_avg_sq", "step")


@dataclass(frozen=True)
class RunState:
    """Where a run stands. With (seed, step) as the only source of randomness, this and the weights are all there is."""

    step: int = 0
    target_tokens: int = 0
    gradient_computations: int = 0
    elapsed_seconds: float = 0.0
    saved_at_seconds: float = 0.0
    validations: int = 0
    best_step: int | None = None
    best_value: float = 0.0
    best_metric: str = "chrf"


class Run:
    """Reads and writes the folder of one run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._metrics: IO[str] | None = None
        self._board: Any = None

    @classmethod
    def open(cls, folder: Path, config: Config, digest: str, *, resume: bool) -> Run:
        """Return a new run, or the one to resume.

        Raises:
            UsageError: the folder exists and `resume` is not given; or there is nothing to resume; or the
                configuration or the data differ from those of the run.
        """
        run = cls(folder)
        if not resume:
            refuse_existing(folder)
            folder.mkdir(parents=True, exist_ok=True)
            write_text(folder / "config.toml", to_toml(config))
            write_json(folder / "run.json", {"tokenizer_digest": digest, "versions": versions()})
            return run
        if not (folder / "last").exists():
            raise UsageError(
                f"{folder} has no checkpoint to resume from.", "Start it without --resume, in a new folder."
            )
        if load_config(folder / "config.toml") != config:
            raise UsageError(
                f"The configuration differs from that of the run {folder}.",
                f"Resume with the same one: {folder / 'config.toml'}.",
            )
        if json.loads((folder / "run.json").read_text(encoding="utf-8"))["tokenizer_digest"] != digest:
            raise CheckpointError(
                f"The run {folder} was trained on other data.", "Give the --data it was started with."
            )
        return run

    def log(self, metrics: dict[str, Any]) -> None:
        """Append a line to metrics.jsonl and to TensorBoard."""
        if self._metrics is None:
            from torch.utils.tensorboard.writer import SummaryWriter

            self._metrics = (self.folder / "metrics.jsonl").open("a", encoding="utf-8")
            self._board = SummaryWriter(str(self.folder / "tensorboard"))
        self._metrics.write(json.dumps(metrics) + "\n")
        self._metrics.flush()
        for name, value in _flat(metrics):
            if name not in ("step", "phase"):
                self._board.add_scalar(name, value, metrics["step"])

    def save(
        self,
        state: RunState,
        model: PreTrainedModel,
        optimizer: torch.optim.Optimizer,
        tokenizer: Tokenizer,
        pair: Pair,
    ) -> None:
        """Write a checkpoint; keep it, the best one, and no other."""
        name = f"step-{state.step:08d}"
        with new_folder(self.folder / "checkpoints" / name, overwrite=True) as folder:
            save_checkpoint(folder, model, tokenizer, pair)
            save_file(_optimizer_tensors(model, optimizer), str(folder / "trainer.safetensors"))
            write_json(folder / "trainer.json", asdict(state))
        self._link("last", name)
        if state.best_step is not None:
            self._link("best", f"step-{state.best_step:08d}")
        keep = {(self.folder / link).resolve() for link in ("last", "best")}
        for old in (self.folder / "checkpoints").glob("step-*"):
            if old.resolve() not in keep:
                shutil.rmtree(old)

    def load(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> RunState:
        """Set model and optimiser to the last checkpoint and return where the run stood; later metrics are cut off.

        Raises:
            CheckpointError: the checkpoint is damaged.
        """
        folder = self.folder / "last"
        try:
            values = json.loads((folder / "trainer.json").read_text(encoding="utf-8"))
            state = RunState(**{item.name: values[item.name] for item in fields(RunState)})
            tensors = load_file(folder / "trainer.safetensors")
            model.load_state_dict(load_model(str(folder)).state_dict())
            for name, parameter in model.named_parameters():
                optimizer.state[parameter] = {
                    part: tensors[f"{name}.{part}"].to("cpu" if part == "step" else parameter.device)
                    for part in MOMENTS
                    if f"{name}.{part}" in tensors
                }
        except MetanmtError:
            raise
        except Exception as error:
            raise CheckpointError(
                f"The checkpoint {folder} is damaged: {error}.", "Start the run anew; its other files are unharmed."
            ) from None
        self._cut_metrics(state.step)
        return state

    def close(self) -> None:
        """Flush and close the metrics."""
        if self._metrics is not None:
            self._metrics.close()
            self._board.close()

    def _link(self, link: str, name: str) -> None:
        temporary = self.folder / f".{link}.tmp"
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(os.path.join("checkpoints", name), target_is_directory=True)
        temporary.replace(self.folder / link)

    def _cut_metrics(self, step: int) -> None:
        path = self.folder / "metrics.jsonl"
        if path.exists():
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
            whole = [line for line in lines if line.endswith("\n")]
            write_text(path, "".join(line for line in whole if json.loads(line)["step"] <= step))


def _optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    return {
        f"{name}.{part}": optimizer.state[parameter][part].detach().cpu().contiguous()
        for name, parameter in model.named_parameters()
        for part in MOMENTS
        if parameter in optimizer.state
    }


def _flat(values: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    flat: list[tuple[str, Any]] = []
    for key, value in values.items():
        flat += _flat(value, f"{prefix}{key}/") if isinstance(value, dict) else [(prefix + key, value)]
    return flat
