"""Where a model lies: a folder, a run, a name on the hub. It is not opened: a wrong path is told without torch."""

from __future__ import annotations

from pathlib import Path

from metanmt.data.hub import fetched
from metanmt.errors import CheckpointError

TUNING_FILE = "fine_tune.json"  # what `fine-tune` writes beside a model
ADAPTER_FILE = "adapter_config.json"  # peft's


def is_adapter(folder: Path) -> bool:
    """Return whether a folder holds an adapter."""
    return (folder / ADAPTER_FILE).is_file()


def is_hub_name(path: Path) -> bool:
    """Return whether a path is none, but may be a name on the Hugging Face hub: OWNER/NAME."""
    return len(path.parts) == 2 and not path.is_absolute() and not path.parent.exists()


def checkpoint_folder(path: Path) -> Path:
    """Return the folder with the model: `path` itself, `path/best` if it is a run, or where OWNER/NAME is fetched to.

    Raises:
        CheckpointError: there is no model.
    """
    for folder in (path, path / "best"):
        if (folder / "config.json").is_file() or is_adapter(folder):
            return folder
    if (path / "config.toml").is_file():
        raise CheckpointError(
            f"The run {path} has not reached its first meta-validation: it has no best checkpoint.",
            f"Let it: metanmt meta-train ... --resume --out {path}; or give {path / 'last'}, if that is there.",
        )
    if is_hub_name(path):
        return fetched(str(path))
    if not path.exists():
        raise CheckpointError(f"There is no folder {path}.", "Give one that meta-train or fine-tune wrote.")
    raise CheckpointError(
        f"{path} is not a checkpoint: it has no config.json.", "Give a folder that meta-train or fine-tune wrote."
    )


def run_of(checkpoint: Path) -> Path | None:
    """Return the meta-training run that a checkpoint lies in: it is the run, its best or last, or one of its steps."""
    folder = checkpoint.resolve()  # best and last lead to RUN/checkpoints/step-N
    places = (folder, folder.parents[1]) if folder.parent.name == "checkpoints" else (folder,)
    return next((place for place in places if (place / "config.toml").is_file()), None)


def start_folder(name: str) -> Path:
    """Return the folder that `model.checkpoint` means: as `checkpoint_folder`, or whatever name on the hub."""
    return checkpoint_folder(Path(name)) if Path(name).is_dir() else fetched(name)
