"""Work for the workers of `test_workers`; nothing heavy is imported, so that they start at once."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from metanmt.errors import ConfigError
from metanmt.runlog import Progress, say, warn
from metanmt.runtime import Interruption


def act(folder: Path, item: str) -> None:
    """Do what an item says, in a worker."""
    if item.startswith("slow"):
        try:
            (folder / item).touch()  # here: whoever finds it will find the other too
            time.sleep(60)
        finally:
            (folder / f"{item} saved").touch()
    (folder / item).touch()
    if item == "mistaken":
        raise ConfigError("It is wrong.", "Mend it.")
    if item == "defective":
        raise ZeroDivisionError("a defect")
    if item == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if item == "counting":
        with Progress("inner", 10, "units") as progress:
            progress.advance(4)
        with Progress("other", 10, "sentences") as progress:
            progress.advance(9)
        say("on the way")
        warn("not finite")
        say("on the way")
    if item == "deaf":
        with Interruption() as interruption:
            (folder / "deaf listens").touch()
            while not interruption.requested:
                time.sleep(0.01)
    (folder / f"{item} done").touch()
