"""Names of checkpoints: a folder here, or else a name on the Hugging Face hub."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from socket import getaddrinfo
from urllib.parse import urlsplit
from urllib.request import getproxies

from metanmt.errors import CheckpointError
from metanmt.runlog import say

FILES = ("*.json", "*.model", "*.safetensors", "*.spm", "*.txt")  # of a checkpoint: model, tokenizer, settings


@functools.cache
def fetched(name: str) -> Path:
    """Return the folder of a checkpoint, by folder or hub name; what of one on the hub is not here yet is fetched.

    Where its weights are no safetensors, which alone are read, the copy is taken that the hub's own converter made.

    Raises:
        CheckpointError: there is none.
    """
    if Path(name).is_dir():
        return Path(name)
    look_up(name)
    from huggingface_hub import HfApi, snapshot_download

    def snapshot(revision: str) -> Path:
        return Path(snapshot_download(name, revision=revision, allow_patterns=[*FILES], ignore_patterns=["*/*"]))

    try:
        folder = snapshot("main")
        complete = (path for path in (folder, *sorted(folder.parent.iterdir())) if any(path.glob("*.safetensors")))
        if found := next(complete, None):
            return found
        from transformers.safetensors_conversion import get_conversion_pr_reference

        return snapshot(get_conversion_pr_reference(HfApi(), name))
    except Exception as error:  # its HTTP library has errors of its own, another from version to version
        remedy = "Give the folder of a complete Hugging Face checkpoint with safetensors weights."
        raise not_loaded("sequence-to-sequence model", name, error, remedy) from None


def look_up(name: str) -> None:
    """Say of a name that is no folder that it is looked up on the hub: without a network that takes a while.

    Raises:
        CheckpointError: it is no folder, and can be no name on the hub either.
    """
    if Path(name).is_dir():
        return
    if name.count("/") > 1 or name.startswith(("/", ".", "~")):
        remedy = "Write the home folder out in place of ~." if name.startswith("~") else "Check the path."
        raise CheckpointError(f"No folder {name}.", remedy)
    if reachable():
        _say_once(f"There is no folder {name} here: it is looked up on the hub.")
    else:
        _say_once(f"There is no folder {name} here, and no network: it is sought among what was fetched before.")


def reachable() -> bool:
    """Return whether the hub's address can be found; if not, let no library of its ask for it, again and again."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    if getproxies():  # which find it for us
        return True
    try:
        getaddrinfo(urlsplit(constants.ENDPOINT).hostname, None)
    except OSError:
        constants.HF_HUB_OFFLINE = True
    return not constants.HF_HUB_OFFLINE


_say_once = functools.cache(say)  # model, tokenizer and configuration are each looked up


def not_loaded(what: str, name: str, reason: object, remedy: str) -> CheckpointError:
    """Return the error for a checkpoint from which something cannot be loaded, be it here or on the hub."""
    line = (str(reason).strip() or type(reason).__name__).splitlines()[0]
    if "HF_HUB_OFFLINE" in line and not os.environ.get("HF_HUB_OFFLINE"):  # which `reachable` has set
        line = "it was not fetched before, and there is no network"
    if Path(name).is_dir():
        return CheckpointError(f"No {what} can be loaded from {name}: {line}", remedy)
    return CheckpointError(f"There is no folder {name} here, and no {what} of that name on the hub: {line}", remedy)
