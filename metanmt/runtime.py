"""The machine: device, random state, interruption, memory, versions."""

from __future__ import annotations

import ctypes
import functools
import os
import platform
import resource
import signal
import sys
import time
from contextlib import suppress
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of mallopt(3)
MOST_FILES = 65_536
LARGEST_MMAP_THRESHOLD = 32 * 2**20  # that glibc takes
# Tokens of a batch that is translated. On a GPU a step takes as long for a few of them as for thousands.
CPU_BATCH_TOKENS, GPU_BATCH_TOKENS = 4_000, 64_000


def raise_file_limit() -> None:
    """Let this process and its children have as many files open as it may: each set of a data folder takes five."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(ValueError, OSError):  # some systems allow less than they say
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


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


def keep_freed_memory() -> None:
    """Let the C library keep what is freed for the next allocation, where it is glibc.

    A training step allocates and frees the same hundreds of megabytes. By default glibc returns large blocks to the
    system at once, and the system fills the pages of the next ones with zeros, one fault each: an eighth of the time of
    `tiny` on a CPU. What is kept is no more than the largest step took.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(M_MMAP_THRESHOLD, LARGEST_MMAP_THRESHOLD)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


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
