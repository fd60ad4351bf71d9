"""Pieces of work in parallel processes: who does what next, one progress display, and an orderly end whatever happens.

torch is imported in a worker only after its number of threads and its GPU are set.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from types import FrameType
from typing import Any

from metanmt.errors import MetanmtError
from metanmt.runlog import Progress, one_display
from metanmt.runtime import Interruption

STOPPED = "Stopped; the same command goes on."
SIGNALS = (signal.SIGINT, signal.SIGTERM)
MOST_JOBS = 8
POLL_SECONDS = 0.2
RELAY_SECONDS = 0.2
LEAVE_SECONDS = 10.0

Work = Callable[[Any], None]


@dataclass(frozen=True)
class Piece:
    """One piece of work.

    Args:
        name: for a person, and for `after`.
        item: what the work is called with; it can be pickled.
        cost: in the unit of the display.
        after: the piece of this list that must be done first.
    """

    name: str
    item: Any
    cost: float
    after: str | None = None


def core_count() -> int:
    """Return how many CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def job_count(asked: int | None, pieces: int) -> int:
    """Return how many pieces run at a time: as asked; else one a GPU; else one a core, at most `MOST_JOBS`."""
    import torch

    usual = torch.cuda.device_count() or min(core_count(), MOST_JOBS)
    return max(1, min(usual if asked is None else asked, pieces))


def run_all(pieces: Sequence[Piece], work: Work, jobs: int, progress: Progress) -> None:
    """Call `work` on every piece, `jobs` at a time; one alone runs in this process, with all its threads.

    Args:
        pieces: in the order in which they are wanted, each behind the one that it needs.
        work: it can be pickled, is called with the item of a piece, and stops at SIGTERM by a KeyboardInterrupt.
        jobs: how many at a time.
        progress: the display of them all.

    Raises:
        KeyboardInterrupt: Ctrl-C or SIGTERM; the workers have saved what they save.
        MetanmtError: a worker was killed.
        Exception: the first error of the work; the other workers were stopped.
    """
    if jobs > 1:
        _Pool(pieces, work, jobs, progress).run()
        return
    with one_display(progress):
        for piece in pieces:
            before = progress.done
            work(piece.item)
            progress.advance(piece.cost - (progress.done - before), f"{piece.name} done")


class _Pool:
    """The workers, seen from the process that the user started."""

    def __init__(self, pieces: Sequence[Piece], work: Work, jobs: int, progress: Progress) -> None:
        self.waiting, self.progress = list(pieces), progress
        start = _Start(work, progress.unit, thread_count(jobs))
        gpus = _gpus() or (None,)
        self.starts = [replace(start, gpu=gpus[number % len(gpus)]) for number in range(jobs)]
        self.workers: list[_Worker] = []

    def run(self) -> None:
        """Work until nothing is left."""
        with Interruption() as interruption:
            try:
                while self.waiting or any(worker.piece for worker in self.workers):
                    if interruption.requested:
                        raise KeyboardInterrupt(STOPPED)
                    self.assign()
                    self.listen()
            except BaseException:
                self.stop()
                raise
            finally:
                self.close()

    def assign(self) -> None:
        """Give every worker that has nothing to do the first piece that is ready."""
        while ready := self.ready():
            worker = next((worker for worker in self.workers if not worker.piece), None)
            if worker is None:
                if len(self.workers) == len(self.starts):
                    return
                worker = _Worker(self.starts[len(self.workers)])
                self.workers.append(worker)
            self.waiting.remove(ready)
            worker.give(ready)
            self.progress.pieces[ready.name] = "starting"

    def ready(self) -> Piece | None:
        """Return the first piece that waits for no other."""
        undone = {piece.name for piece in self.waiting}
        undone |= {worker.piece.name for worker in self.workers if worker.piece}
        return next((piece for piece in self.waiting if piece.after not in undone), None)

    def listen(self) -> None:
        """Take what the workers have to say; return after a moment without."""
        for worker in _speaking(self.workers):
            try:
                message = worker.connection.recv()
            except (EOFError, OSError):
                raise worker.death() from None
            piece = worker.piece
            assert piece, "a worker without work has nothing to say"
            if isinstance(message, _Advance):
                worker.counted += message.units
                if message.note:
                    self.progress.pieces[piece.name] = message.note
                self.progress.advance(message.units, f"{piece.name}: {message.note}" if message.note else "")
            elif isinstance(message, _Warning):
                self.progress.warn(f"{piece.name}: {message.text}")
            elif isinstance(message, BaseException):
                raise message
            else:
                del self.progress.pieces[piece.name]
                self.progress.advance(piece.cost - worker.counted, f"{piece.name} done")
                worker.piece = None

    def stop(self) -> None:
        """Ask the workers to save and leave, and wait until they have."""
        self.progress.pieces.clear()
        self.progress.advance(0, "stopping; what is in hand is saved")
        for worker in self.workers:
            worker.process.terminate()
        there = list(self.workers)
        while there:
            for worker in _speaking(there):
                try:
                    message = worker.connection.recv()  # so that none waits for room to speak
                except Exception:
                    there.remove(worker)  # it has left
                else:
                    if not isinstance(message, _Advance | _Warning):  # it is through, and waits for the next piece
                        worker.process.terminate()

    def close(self) -> None:
        """End the workers: they have nothing left to save, or the user would not wait for it."""
        for worker in self.workers:
            worker.process.kill()
            worker.process.join()
            worker.connection.close()


@dataclass(frozen=True)
class _Start:
    """What a worker starts with: the work, the unit of the display, its threads and its GPU."""

    work: Work
    unit: str
    threads: int
    gpu: str | None = None


class _Worker:
    """One worker, seen from the process that started it."""

    def __init__(self, start: _Start) -> None:
        self.piece: Piece | None = None
        self.counted = 0.0
        context = multiprocessing.get_context("spawn")  # a fork would inherit threads, locks and the GPU
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, start.unit, start.threads, start.gpu), daemon=True)
        with _signals_held():
            self.process.start()
        theirs.close()
        self.send(start.work)

    def give(self, piece: Piece) -> None:
        """Send a piece of work."""
        self.piece, self.counted = piece, 0.0
        self.send(piece.item)

    def send(self, value: Any) -> None:
        """Send a value; if the worker has died, `listen` finds out."""
        with suppress(OSError):
            self.connection.send(value)

    def death(self) -> MetanmtError:
        """Return the error for a worker that ended unasked."""
        self.process.join(LEAVE_SECONDS)
        code = self.process.exitcode or 0
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        name = self.piece.name if self.piece else "nothing"
        return MetanmtError(
            f"The process at work on {name} {how}; what was done before is kept.",
            "If memory ran out, give fewer --jobs; the same command goes on.",
        )


def _speaking(workers: Sequence[_Worker]) -> list[_Worker]:
    """Return those of the workers that have something to say or have left, after a moment at most."""
    ready = wait([worker.connection for worker in workers], POLL_SECONDS)
    return [worker for worker in workers if worker.connection in ready]


def thread_count(jobs: int) -> int:
    """Return the threads of each worker: its share of the cores, but no more than OMP_NUM_THREADS, if that is given."""
    share = max(1, core_count() // jobs)
    most = os.environ.get("OMP_NUM_THREADS", "")
    return min(share, int(most)) if most.isdecimal() and int(most) else share


def _gpus() -> Sequence[str]:
    """Return the names of the GPUs that this process may use, as CUDA_VISIBLE_DEVICES takes them."""
    import torch

    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = given.split(",") if given else [str(number) for number in range(torch.cuda.device_count())]
    return [name.strip() for name in names][: torch.cuda.device_count()]


@contextmanager
def _signals_held() -> Iterator[None]:
    """Hold Ctrl-C and SIGTERM back, in a process started here too, until it is ready for them."""
    resource_tracker.ensure_running()  # starting it would let them through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@dataclass(frozen=True)
class _Advance:
    """What a worker says on the way."""

    units: float
    note: str


@dataclass(frozen=True)
class _Warning:
    """What a worker says that must not be missed."""

    text: str


class _Relay:
    """The display of a worker: it passes on what is done, a few times a second."""

    def __init__(self, connection: Connection, unit: str) -> None:
        self.connection, self.unit = connection, unit
        self._units, self._last = 0.0, 0.0

    def advance(self, units: float, note: str = "") -> None:
        """Count `units` more as done, and tell when it is time to."""
        self._units += units
        if time.monotonic() - self._last >= RELAY_SECONDS:
            self.connection.send(_Advance(self._units, note))
            self._units, self._last = 0.0, time.monotonic()

    def warn(self, message: str) -> None:
        """Tell at once."""
        self.connection.send(_Warning(message))


def _serve(connection: Connection, unit: str, threads: int, gpu: str | None) -> None:
    """Take the work, then do the pieces that come, until none comes any more or the process is asked to stop."""
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to all; the parent passes it on as SIGTERM
    signal.signal(signal.SIGTERM, _stop)
    os.environ["OMP_NUM_THREADS"] = str(threads)
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    with suppress(KeyboardInterrupt, EOFError):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        work = connection.recv()  # imports what it needs, torch among it
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(threads)
        while True:
            connection.send(_result(work, connection.recv(), _Relay(connection, unit)))


def _result(work: Work, item: Any, display: _Relay) -> Exception | None:
    """Return the error of a piece of work, as it can be sent, or None if it went well."""
    try:
        with one_display(display):
            work(item)
    except Exception as error:
        return _portable(error)
    return None


def _portable(error: Exception) -> Exception:
    """Return an error with its traceback as a note: of our own and Python's kinds as it is, others as a RuntimeError.

    A library's own kind may not pass from one process to another.
    """
    text = f"In the worker:\n{''.join(traceback.format_exception(error)).rstrip()}"
    if not isinstance(error, MetanmtError) and type(error).__module__ != "builtins":
        error = RuntimeError(f"{type(error).__name__}: {error}")
    error.add_note(text)
    return error


def _stop(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt(STOPPED)


def _leave_with_parent() -> None:
    """End this process at once when the one that started it has ended, in whatever way."""
    parent = multiprocessing.parent_process()
    assert parent, "only a worker does this"
    parent.join()
    os._exit(1)
