"""The user's mistakes: one line of cause, one line of remedy.

Everything that a user can do wrong is raised as a `MetanmtError`; the command line prints it without a traceback and
exits with code 2. Any other exception is a defect of this program and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class MetanmtError(Exception):
    """A mistake that the user can mend.

    Args:
        cause: what is wrong, in one line, with the name of the file, key or language.
        remedy: what to do about it, in one line.
    """

    def __init__(self, cause: str, remedy: str) -> None:
        super().__init__(cause)
        self.cause = cause
        self.remedy = remedy

    def __reduce__(self) -> tuple[type[MetanmtError], tuple[str, str], dict[str, object]]:
        """Return what it is made from, so that it passes from one process to another."""
        return type(self), (self.cause, self.remedy), self.__dict__


class ConfigError(MetanmtError):
    """A configuration or manifest that cannot be used."""


class CorpusError(MetanmtError):
    """Text that cannot be used: missing, misaligned, not UTF-8, empty, leaking."""


class DataError(MetanmtError):
    """A prepared data folder that cannot be used."""


class CheckpointError(MetanmtError):
    """A checkpoint that is missing, damaged, or of another tokenizer."""


class DivergenceError(MetanmtError):
    """A training whose loss or gradient is not a finite number any more."""


class DeviceMemoryError(MetanmtError):
    """A device whose memory is too small, however small the batches are made."""


class UsageError(MetanmtError):
    """Arguments that contradict each other or the files that they name."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a remedy that names the nearest of the `known` names, or lists them all."""
    choices = sorted(known)
    nearest = difflib.get_close_matches(name, choices, n=1, cutoff=0.61)
    if nearest:
        return f"Did you mean {nearest[0]!r}?"
    return f"Known: {', '.join(choices) or 'none'}."
