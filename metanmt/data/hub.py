"""Names of checkpoints: a folder here, or else a name on the Hugging Face hub."""

from __future__ import annotations

import functools
from pathlib import Path

from metanmt.errors import CheckpointError
from metanmt.runlog import say


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
    _say_once(f"There is no folder {name} here: it is looked up on the hub.")


_say_once = functools.cache(say)  # model, tokenizer and configuration are each looked up


def not_loaded(what: str, name: str, reason: object, remedy: str) -> CheckpointError:
    """Return the error for a checkpoint from which something cannot be loaded, be it here or on the hub."""
    line = (str(reason).strip() or type(reason).__name__).splitlines()[0]
    if Path(name).is_dir():
        return CheckpointError(f"No {what} can be loaded from {name}: {line}", remedy)
    return CheckpointError(f"There is no folder {name} here, and no {what} of that name on the hub: {line}", remedy)
