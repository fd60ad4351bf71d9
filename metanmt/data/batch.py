"""Batches by token budget: logical batches (what the gradient is of) cut into micro-batches (what fits in memory)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metanmt.data.store import Bitext

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class MicroBatch:
    """One forward-backward pass: B sentence pairs, padded to S source and T target tokens.

    `source` is (B, S), `labels` (B, T); both hold the pad id behind the end of a sentence.
    """

    source: Tensor
    labels: Tensor
    pad_id: int

    @property
    def source_mask(self) -> Tensor:
        """1 for a token, 0 for padding, (B, S)."""
        return (self.source != self.pad_id).long()

    @cached_property
    def target_places(self) -> Tensor:
        """Where the N target tokens stand in the flattened labels, (N,)."""
        return (self.labels.flatten() != self.pad_id).nonzero().squeeze(1)

    def to(self, device: torch.device) -> MicroBatch:
        """Return the batch on a device; the copy overlaps with computation where the device allows it."""
        if device.type == "cpu":
            return self
        source, labels, places = (
            part.pin_memory().to(device, non_blocking=True) for part in (self.source, self.labels, self.target_places)
        )
        moved = MicroBatch(source, labels, self.pad_id)
        moved.__dict__["target_places"] = places  # found here: the device would have to be waited for
        return moved


@dataclass(frozen=True)
class Batch:
    """A logical batch: the loss is the mean over all its `target_tokens`, however many micro-batches it is cut into."""

    micro_batches: tuple[MicroBatch, ...]
    target_tokens: int

    def __iter__(self) -> Iterator[MicroBatch]:
        return iter(self.micro_batches)


def make_batch(bitext: Bitext, indices: Indices, micro_tokens: int, pad_id: int) -> Batch:
    """Return the logical batch of these sentence pairs, cut by length into micro-batches.

    Args:
        bitext: where the sentences are.
        indices: which of them.
        micro_tokens: padded tokens (B x the longer of S and T) of a micro-batch; one sentence always fits.
        pad_id: the id behind the end of a sentence.
    """
    source, target = bitext.source.lengths(indices), bitext.target.lengths(indices)
    order = np.lexsort((source, target))
    longest = np.maximum(source, target)[order]
    micro_batches = []
    for part in _cut(longest, micro_tokens):
        chosen = indices[order[part]]
        micro_batches.append(
            MicroBatch(
                torch.from_numpy(bitext.source.padded(chosen, pad_id)),
                torch.from_numpy(bitext.target.padded(chosen, pad_id)),
                pad_id,
            )
        )
    return Batch(tuple(micro_batches), int(target.sum()))


def _cut(lengths: Sequence[int] | Indices, max_tokens: int) -> list[slice]:
    """Return slices of a list of lengths so that rows x longest stays within `max_tokens`."""
    slices, start, longest = [], 0, 0
    for index, length in enumerate(lengths):
        wider = max(longest, int(length))
        if index > start and wider * (index - start + 1) > max_tokens:
            slices.append(slice(start, index))
            start, wider = index, int(length)
        longest = wider
    if len(lengths) > start:
        slices.append(slice(start, len(lengths)))
    return slices


def deal(bitext: Bitext, indices: Indices, hands: int, rng: np.random.Generator) -> list[Indices]:
    """Deal sentence pairs at random into `hands` disjoint parts of about equally many target tokens.

    Every part gets at least one sentence; there must be at least `hands` of them.
    """
    indices = rng.permutation(indices)
    tokens = np.cumsum(bitext.target.lengths(indices))
    cuts = np.searchsorted(tokens, tokens[-1] * np.arange(1, hands) / hands, side="left") + 1
    for hand in range(hands - 1):
        low = cuts[hand - 1] + 1 if hand else 1
        cuts[hand] = np.clip(cuts[hand], low, len(indices) - (hands - 1 - hand))
    return np.split(indices, cuts)


def epoch(bitext: Bitext, max_tokens: int, micro_tokens: int, pad_id: int, seed: tuple[int, ...]) -> Iterator[Batch]:
    """Yield the batches of one epoch: a seeded shuffle cut into equal logical batches of at most `max_tokens`.

    No length sorting across batches: a low-resource corpus has few of them, and each should look like the whole. The
    micro-batches within are sorted, so the padding is small all the same.
    """
    rng = np.random.default_rng(seed)
    total = int(bitext.target.offsets[-1])
    parts = min(max(1, -(-total // max_tokens)), len(bitext))
    for part in deal(bitext, np.arange(len(bitext)), parts, rng):
        yield make_batch(bitext, part, micro_tokens, pad_id)
