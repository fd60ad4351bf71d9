"""The machine: device, random state, interruption, files that are never half-written."""

from __future__ import annotations

import fcntl
import functools
import hashlib
import json
import os
import platform
import re
import resource
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from metanmt.errors import MetanmtError, UsageError
from metanmt.runlog import say

if TYPE_CHECKING:
    import torch

DIGESTS = "digests.json"


def device() -> torch.device:
    """Return the GPU if there is one, else the CPU."""
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def seed_torch(*entropy: int) -> None:
    """Seed torch from a tuple such as (seed, step), so that no random state has to be saved with a run."""
    import numpy as np
    import torch

    torch.manual_seed(int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> 1))


@functools.cache
def quiet_transformers() -> None:
    """Silence the warnings and progress bars of `transformers`; downloads from the hub keep theirs.

    What matters of it becomes an error of ours. TRANSFORMERS_VERBOSITY in the environment brings the warnings back.
    """
    from huggingface_hub.utils import are_progress_bars_disabled, enable_progress_bars
    from transformers.utils import logging

    hub_is_silent = are_progress_bars_disabled()
    logging.disable_progress_bar()
    if not hub_is_silent:
        enable_progress_bars()
    if "TRANSFORMERS_VERBOSITY" not in os.environ:
        logging.set_verbosity_error()


def peak_memory_bytes() -> int:
    """Return the largest resident size of this process so far; on a GPU its allocated device memory."""
    if "torch" in sys.modules:
        import torch

        if torch.cuda.is_available():
            return int(torch.cuda.max_memory_allocated())
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


def versions() -> dict[str, str]:
    """Return the versions that a figure depends on."""
    from importlib.metadata import version

    names = ("metanmt", "torch", "transformers", "sentencepiece", "sacrebleu", "numpy")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


class Interruption:
    """A context in which Ctrl-C and SIGTERM only set `requested`, so that the step in hand is finished and saved.

    A second Ctrl-C ends the program at once. Two within a second are one: a terminal and torchrun both send it.
    """

    requested = False

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if not self.requested:
            self.requested, self._since = True, now
        elif signum == signal.SIGINT and now - self._since > 1:
            raise KeyboardInterrupt

    def __enter__(self) -> Interruption:
        self._previous = {kind: signal.signal(kind, self._handle) for kind in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *error: object) -> None:
        for kind, handler in self._previous.items():
            signal.signal(kind, handler)


def write_text(path: Path, text: str) -> None:
    """Write a file so that it is either the old one or the new one, whatever happens in between."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with named_errors(path):
        try:
            with temporary.open("w", encoding="utf-8", newline="\n") as out:
                out.write(text)
                out.flush()
                os.fsync(out.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    sync(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Write JSON by `write_text`, indented for a person."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


@contextmanager
def new_folder(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary folder that becomes `path` when the block ends well, and is removed when it does not.

    Raises:
        UsageError: `path` exists and is not empty, and `overwrite` is not given.
        OSError: it cannot be written; with the name of a file, whichever library wrote it.
    """
    refuse_existing(path, overwrite=overwrite)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with named_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in path.parent.glob(f".{path.name}.*.tmp"):
            if not _alive(left.name.split(".")[-2]):  # the process that wrote it was killed
                shutil.rmtree(left, ignore_errors=True)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        try:
            yield temporary
            sync_folder(temporary)
            if path.exists():
                remove_folder(path)
            temporary.replace(path)
            sync(path.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def remove_folder(path: Path) -> None:
    """Remove a folder; under its name it is there whole or not at all, whatever happens in between."""
    temporary = path.with_name(f".{path.name}.old.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    path.replace(temporary)
    shutil.rmtree(temporary)


def remove_leftovers(folder: Path) -> None:
    """Remove what a killed process left half-written in a folder: `.NAME.tmp`."""
    for path in folder.glob(".*.tmp"):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _alive(process: str) -> bool:
    try:
        os.kill(int(process), 0)
    except (ProcessLookupError, ValueError):
        return False
    except PermissionError:
        pass
    return True


def refuse_existing(
    path: Path, *, overwrite: bool = False, marker: str = "", remedy: str = "Give another --out."
) -> None:
    """Raise a UsageError if the output folder exists with something in it, so that no result is overwritten.

    Args:
        path: the output folder.
        overwrite: an existing one may be replaced, but never a file, nor a folder of another kind.
        marker: a file that every folder of this kind has.
        remedy: what to do about an existing one.
    """
    if path.is_file():
        raise UsageError(f"{path} is a file, not a folder.", "Give another --out.")
    if overwrite and marker and path.exists() and any(path.iterdir()) and not (path / marker).is_file():
        raise UsageError(
            f"{path} is not replaced: it has no {marker}, so this command did not write it.", "Give another --out."
        )
    if path.exists() and not overwrite and any(path.iterdir()):
        raise UsageError(f"{path} exists already.", remedy)
    with named_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(path.parent, os.W_OK):
        raise UsageError(f"{path.parent} cannot be written to.", "Check its permissions, or give another --out.")


def sync_folder(folder: Path) -> None:
    """Flush every file below a folder to the disk, so that a rename after it never shows a half-written one."""
    for path in [*folder.rglob("*"), folder]:
        sync(path)


def sync(path: Path) -> None:
    """Flush a file, or the names in a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def lock_folder(folder: Path) -> int:
    """Return a handle that locks a folder until it is closed or this process ends, in whatever way.

    Raises:
        UsageError: another process has locked it.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise UsageError(
            f"Another process is writing to {folder}.", "Wait for it, stop it, or give another --out."
        ) from None
    except OSError:
        say(f"{folder} lies on a file system without locks; take care that one process writes to it.")
    return handle


@contextmanager
def named_errors(path: Path) -> Iterator[None]:
    """Give an error of the operating system the name of the file that it has none of.

    Libraries written in Rust raise their own errors, with the number of the operating system's in the text; they
    become an OSError here.
    """
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            raise OSError(error.errno, os.strerror(error.errno), str(path)) from error
        raise
    except MetanmtError:
        raise
    except Exception as error:
        if number := re.search(r"\(os error (\d+)\)", str(error)):
            code = int(number.group(1))
            raise OSError(code, os.strerror(code), str(path)) from error
        raise


def write_digests(folder: Path) -> None:
    """Write the SHA-256 of every file below a folder to its `digests.json`."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    write_json(folder / DIGESTS, {path.relative_to(folder).as_posix(): digest(path) for path in files})


def damage(folder: Path) -> str | None:
    """Return what is wrong with a folder by its `digests.json`, or None if it is whole.

    A file that is there but cannot be read, for want of permission or a broken disk, is an OSError and no damage.
    """
    try:
        digests = json.loads((folder / DIGESTS).read_bytes())
        changed = [name for name, value in digests.items() if digest(folder / name) != value]
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (ValueError, AttributeError):
        return f"{DIGESTS} is not what was written"
    return f"{changed[0]} is not what was written" if changed else None


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
