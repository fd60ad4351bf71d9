"""What a command says while it works: progress on stderr, bars on a terminal and lines elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Protocol, TypeVar

LINE_INTERVAL_SECONDS = 15.0


def speaks() -> bool:
    """Return whether this process speaks: of the many that torchrun starts, only the first does."""
    return os.environ.get("RANK", "0") == "0"


def say(message: str) -> None:
    """Print a line for a person to stderr; stdout is kept for results. Inside `one_display` it is a note."""
    if _display is not None:
        _display.advance(0, message.strip().splitlines()[-1] if message.strip() else "")
    else:
        _print(message)


def warn(message: str) -> None:
    """Print a line that must not be missed: inside `one_display` too, where what `say` says is gone with the next."""
    if _display is not None:
        _display.warn(message)
    else:
        _print(message)


def _print(message: str) -> None:
    if not speaks():
        return
    if sys.stderr.isatty() and "tqdm" in sys.modules:  # a bar may stand there
        sys.modules["tqdm"].tqdm.write(message, file=sys.stderr)
    else:
        print(message, file=sys.stderr, flush=True)


class Display(Protocol):
    """What shows the progress of the work inside it."""

    unit: str

    def advance(self, units: float, note: str = "") -> None:
        """Count `units` more as done; `note` is what is being done."""

    def warn(self, message: str) -> None:
        """Print a line beside the progress."""


AnyDisplay = TypeVar("AnyDisplay", bound=Display)
_display: Display | None = None


@contextmanager
def one_display(display: AnyDisplay) -> Iterator[AnyDisplay]:
    """Show this progress alone: that of the work inside is the note beside it, and counts if it has the same unit."""
    global _display
    _display = display
    try:
        yield display
    finally:
        _display = None


def duration(seconds: float) -> str:
    """Return seconds as a person reads them: '42s', '3m05s', '2h07m'."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


class Progress:
    """Progress of long work with its rate and remaining time.

    On a terminal it is a bar (tqdm); elsewhere a line every fifteen seconds, so that a log file stays readable.

    Args:
        label: what is being done.
        total: how many units there are, or None if that is not known.
        unit: the word for one unit, in the plural ("tokens", "sentences").
        initial: units done before, by the run that is resumed; not counted in the rate.

    Where several pieces of work run at once, `pieces` holds what each is at, by its name.
    """

    def __init__(self, label: str, total: float | None, unit: str, initial: float = 0) -> None:
        self.label, self.total, self.unit = label, total, unit
        self.done = self.initial = initial
        self.note = ""
        self.pieces: dict[str, str] = {}
        self._started = self._last_line = time.monotonic()
        self._bar = None
        self._inside = _display
        if sys.stderr.isatty() and speaks() and self._inside is None:
            from tqdm import tqdm

            self._bar = tqdm(
                desc=label,
                total=total,
                unit=" " + unit,
                initial=initial,
                unit_scale=True,
                leave=False,
                dynamic_ncols=True,
            )

    def advance(self, units: float, note: str = "") -> None:
        """Count `units` more as done; `note` (a loss, a file name) is shown beside the rate."""
        self.done += units
        self.note = note or self.note
        if self._inside is not None:
            self._inside.advance(units if self.unit == self._inside.unit else 0, self._line())
        elif self._bar is not None:
            if self.note:
                self._bar.set_postfix_str(self.note, refresh=False)
            self._bar.update(units)
        elif time.monotonic() - self._last_line >= LINE_INTERVAL_SECONDS:
            self._last_line = time.monotonic()
            _print(self._line())

    def warn(self, message: str) -> None:
        """Print a line beside the progress."""
        _print(message)

    def _line(self) -> str:
        rate = (self.done - self.initial) / max(time.monotonic() - self._started, 1e-9)
        line = f"{self.label}: {self.done:,.0f}"
        if self.total:
            line += f" of {self.total:,.0f}"
        line += f" {self.unit}, {rate:,.0f}/s"
        if self.total and rate > 0:
            line += f", {duration(max(self.total - self.done, 0) / rate)} left"
        notes = "".join(f"\n  {name}: {note}" for name, note in self.pieces.items()) or f"  {self.note}"
        return f"{line}{notes}".rstrip()

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
