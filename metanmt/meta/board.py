"""Metrics for TensorBoard, written at once: what `SummaryWriter` holds back in its thread is lost with a kill."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Board:
    """Appends scalars to a new event file of a TensorBoard folder.

    Args:
        folder: made if it is not there.
        purge_step: of a resumed run, the first step to come: what earlier files say of it and of later ones is hidden.
    """

    def __init__(self, folder: Path, purge_step: int | None) -> None:
        from tensorboard.compat.proto.event_pb2 import SessionLog
        from tensorboard.summary.writer.record_writer import RecordWriter

        folder.mkdir(exist_ok=True)
        self._file = (folder / f"events.out.tfevents.{time.time():.6f}").open("wb")
        self._records = RecordWriter(self._file)
        self._write(file_version="brain.Event:2")
        if purge_step is not None:
            self._write(step=purge_step, session_log=SessionLog(status=SessionLog.START))

    def add(self, step: int, scalars: Mapping[str, Any]) -> None:
        """Append the values of a step; what is nested gets names such as "adapted/bleu"."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=name, simple_value=value) for name, value in flat(scalars).items()]
        self._write(step=step, summary=Summary(value=values))

    def sync(self) -> None:
        """Flush to the disk."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, **event: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self._records.write(Event(wall_time=time.time(), **event).SerializeToString())
        self._file.flush()


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Return the numbers in nested values by the path to them; text and what is missing are left out."""
    numbers: dict[str, float] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            numbers |= flat(value, f"{prefix}{key}/")
        elif isinstance(value, int | float):
            numbers[prefix + key] = float(value)
    return numbers


def finite(value: Any) -> Any:
    """Return nested values with None for every number that is not finite: JSON knows no NaN."""
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
