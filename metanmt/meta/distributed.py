"""Many processes: ranks share the tasks of a meta-batch, and only the outer gradient travels between them.

Every rank holds the same initialisation, draws only its own tasks (the sampler is a pure function of seed and step) and
adapts to them by itself. The gradients of all are summed, and every rank takes the same outer step, so that N processes
compute what one would, but for the order of the sum. Start them by torchrun:

    torchrun --nproc-per-node N -m metanmt meta-train ...
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
from torch import Tensor, distributed, nn

from metanmt.errors import ConfigError
from metanmt.meta.weights import trainable_weights

BUCKET_ELEMENTS = 16 << 20  # of one reduction, 64 MiB in float32: large enough for the bandwidth, several in flight
MISTAKE = 2  # the exit code of one, as in `metanmt.cli`
LONGEST_WAIT = timedelta(hours=6)  # for the first rank, while it validates

Item = TypeVar("Item")


@dataclass(frozen=True)
class Ranks:
    """This process among those of the run; without torchrun, the only one."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the one that validates, writes and reports."""
        return self.rank == 0

    def share(self, items: Sequence[Item]) -> list[Item]:
        """Return this rank's part of the items that every rank knows; together they are all of them, once."""
        return list(items[self.rank :: self.size])

    def check(self, meta_batch_size: int) -> None:
        """Raise a ConfigError if a rank would have no task to adapt to."""
        if self.size > meta_batch_size:
            raise ConfigError(
                f"{self.size} processes cannot share {meta_batch_size} tasks a step.",
                f"Start at most {meta_batch_size} processes, or set outer.meta_batch_size={self.size}.",
            )

    @contextmanager
    def together(self) -> Iterator[None]:
        """A context in which the first process may find a mistake of the user's: the others then end in silence.

        Without it they would wait for the first, and end with a traceback when it has gone.
        """
        failed = True
        try:
            yield
            failed = False
        finally:
            others_too = self.total(failed)[0]
        if others_too:
            raise SystemExit(MISTAKE)

    def command(self, *words: object) -> str:
        """Return a command of metanmt as it is typed, under torchrun where there are many processes."""
        return "torchrun ... -m " * (self.size > 1) + shlex.join(["metanmt", *map(str, words)])

    def total(self, *counts: int) -> list[int]:
        """Return the sums of these counts over all ranks. They travel between the CPUs: no GPU is waited for."""
        if self.size == 1:
            return list(counts)
        sums = torch.tensor(counts, dtype=torch.int64)
        distributed.all_reduce(sums)
        return [int(count) for count in sums]

    def mean(self, values: Sequence[float]) -> float:
        """Return the mean over the values of all ranks."""
        sums = torch.tensor([sum(values), float(len(values))], dtype=torch.float64)
        if self.size > 1:
            distributed.all_reduce(sums)
        return float(sums[0] / sums[1])

    def sum_gradients(self, learned: nn.Module) -> None:
        """Sum `.grad` over all ranks, in flat buckets that are reduced while the next is filled.

        A weight without a gradient on this rank counts as zero; one without on any has none afterwards either.
        """
        weights = list(trainable_weights(learned).values())
        if self.size == 1 or not weights:
            return
        for weight, ranks_with in zip(
            weights, self.total(*(weight.grad is not None for weight in weights)), strict=True
        ):
            if weight.grad is None and ranks_with:
                weight.grad = torch.zeros_like(weight)
        started = []
        for bucket in _buckets([weight.grad for weight in weights if weight.grad is not None]):
            flat = torch.cat([gradient.flatten() for gradient in bucket])
            started.append((bucket, flat, distributed.all_reduce(flat, async_op=True)))
        for bucket, flat, work in started:
            work.wait()
            parts = torch.split(flat, [gradient.numel() for gradient in bucket])
            torch._foreach_copy_(bucket, [part.view_as(old) for part, old in zip(parts, bucket, strict=True)])


ALONE = Ranks()


def is_of_a_lost_process(error: RuntimeError) -> bool:
    """Return whether an error says that another process is gone: of NCCL by its class, of gloo by its words alone."""
    return isinstance(error, distributed.DistError) or "gloo" in str(error)


def _buckets(gradients: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    for gradient in gradients:
        full = sum(item.numel() for item in bucket) + gradient.numel() > BUCKET_ELEMENTS
        if bucket and (full or gradient.dtype != bucket[0].dtype):
            yield bucket
            bucket = []
        bucket.append(gradient)
    if bucket:
        yield bucket


@contextmanager
def joined_ranks() -> Iterator[Ranks]:
    """Yield this process' rank among those that torchrun started, connected to each other; alone without torchrun."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Ranks()
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=LONGEST_WAIT)
    try:
        yield Ranks(distributed.get_rank(), size)
    finally:
        distributed.destroy_process_group()
