"""The joint phase of a run, taken over by another: learners that begin with the same one need it trained once."""

from __future__ import annotations

import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file

from metanmt.config import LOGGING, OF_FINE_TUNING_ALONE, Config
from metanmt.config_file import differences, load_config
from metanmt.errors import CheckpointError, UsageError
from metanmt.files import damage, named_errors, new_folder, read_object, write_digests, write_text
from metanmt.meta.moments import OWN
from metanmt.meta.run import JOINT, Run, data_digest
from metanmt.runlog import say

OF_A_LEARNER = ("outer.learner", "outer.unseen_share", "outer.own_rate_scale", "outer.parent", "outer.parent_share")
NOT_OF_THE_PHASE = {*OF_A_LEARNER, *LOGGING, *OF_FINE_TUNING_ALONE}
"""Settings that a joint phase does not depend on, beside those of the inner loop."""
ADDED_LATER = shutil.ignore_patterns("evaluation", "ctranslate2-*")
"""What was made of a checkpoint and put into it, and is no part of it."""


class JointPhase:
    """The end of a run's joint phase, for a run of another learner to go on from.

    What that learns is the same, bit for bit, as if it had trained the phase itself, and counted as if it had.

    Args:
        source: the run that has trained it; it may be running still.
        config: of the new run.
        digest: of the data of the new run.

    Raises:
        UsageError: there is no such run, or it is not through with the phase, or its configuration differs in what the
            phase depends on, or the new run has no such phase.
        CheckpointError: it was trained on other data, or the checkpoint is damaged.
    """

    def __init__(self, source: Path, config: Config, digest: str) -> None:
        self.source = source
        if not (source / "config.toml").is_file():
            raise UsageError(f"{source} is no run.", "Give the folder of a meta-train run by --joint-phase.")
        if config.outer.learner == "transfer":
            raise UsageError("Learner transfer has no joint phase.", "Leave --joint-phase out.")
        if found := _differences(config, load_config(source / "config.toml")):
            raise UsageError(
                f"The joint phase of {source} is another one: {', '.join(found)}.",
                "Give both runs the same settings, learner and inner loop aside; or leave --joint-phase out.",
            )
        if data_digest(source) not in (None, digest):
            raise CheckpointError(f"The run {source} was trained on other data.", "Give the --data it was made from.")
        if not (source / JOINT).is_dir():
            raise UsageError(
                f"{source} has no end of a joint phase (outer.joint_share = {config.outer.joint_share:g}).",
                "Wait until it is through with it, or leave --joint-phase out.",
            )
        if reason := damage(source / JOINT):
            raise CheckpointError(f"{source / JOINT} is damaged: {reason}.", "Leave --joint-phase out.")

    def copy_to(self, run: Run) -> None:
        """Write its checkpoint, the best one up to there, and the metrics into a new run, to be loaded there."""
        with named_errors(self.source):
            self._copy(run)

    def _copy(self, run: Run) -> None:
        state = read_object(self.source / JOINT / "trainer.json")
        # First what is cut, or hidden, behind the step that a run is loaded at: a kill here leaves one to resume.
        if (self.source / "metrics.jsonl").exists():  # a short phase may have nothing to say yet
            write_text(run.folder / "metrics.jsonl", (self.source / "metrics.jsonl").read_text(encoding="utf-8"))
        if (self.source / "tensorboard").is_dir():
            shutil.copytree(self.source / "tensorboard", run.folder / "tensorboard", dirs_exist_ok=True)
        for step in sorted({state["best_step"] or state["step"], state["step"]}):
            with new_folder(run.path(step)) as folder:
                shutil.copytree(Run(self.source).path(step), folder, ignore=ADDED_LATER, dirs_exist_ok=True)
                _without_learner(folder)
        run.link(JOINT, state["step"])
        say(f"The joint phase of {self.source}, up to step {state['step']:,}, is taken over.")


def same_joint_phase(config: Config, other: Config) -> bool:
    """Return whether runs of two configurations begin with the same joint phase."""
    learners = config.outer.learner, other.outer.learner
    return config.outer.joint_share > 0 and "transfer" not in learners and not _differences(config, other)


def _differences(config: Config, other: Config) -> list[str]:
    """Return the settings that differ and matter, each with both values."""
    found = differences(config, other)
    return [words for name, words in found.items() if name not in NOT_OF_THE_PHASE and not name.startswith("inner.")]


def _without_learner(folder: Path) -> None:
    """Take out what the learner of that run learns itself."""
    path = folder / "trainer.safetensors"
    tensors = load_file(path)
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith(OWN)}
    if len(kept) < len(tensors):
        save_file(kept, str(path))
        write_digests(folder)
