"""Batches by token budget: logical batches (what the gradient is of) cut into micro-batches (what fits in memory)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from metanmt.data.store import Bitext

Indices = NDArray[np.int64]
BLOCKS = 64
TOO_LARGE = 1 << 62


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

    @cached_property
    def padded_source(self) -> bool:
        """Whether any source is padded."""
        return bool((self.source == self.pad_id).any())

    def even(self, multiple: int) -> MicroBatch:
        """Return the batch padded to lengths S and T that are multiples of a number."""
        source, labels = (
            functional.pad(side, (0, -side.shape[1] % multiple), value=self.pad_id)
            for side in (self.source, self.labels)
        )
        return MicroBatch(source, labels, self.pad_id)

    def to(self, device: torch.device) -> MicroBatch:
        """Return the batch on a device; the copy overlaps with computation where the device allows it."""
        if device.type == "cpu":
            return self
        source, labels, places = (
            part.pin_memory().to(device, non_blocking=True) for part in (self.source, self.labels, self.target_places)
        )
        moved = MicroBatch(source, labels, self.pad_id)
        # Found here: the device would have to be waited for.
        moved.__dict__.update(target_places=places, padded_source=self.padded_source)
        return moved


@dataclass(frozen=True)
class Batch:
    """A logical batch: the loss is the mean over all its `target_tokens`, however many micro-batches it is cut into."""

    micro_batches: tuple[MicroBatch, ...]
    target_tokens: int

    def __iter__(self) -> Iterator[MicroBatch]:
        return iter(self.micro_batches)

    def halved(self) -> Batch | None:
        """Return the same sentences in micro-batches of half as many, or None if each has one already."""
        parts = [
            MicroBatch(source, labels, micro.pad_id)
            for micro in self.micro_batches
            for source, labels in zip(micro.source.tensor_split(2), micro.labels.tensor_split(2), strict=True)
            if len(source)
        ]
        return Batch(tuple(parts), self.target_tokens) if len(parts) > len(self.micro_batches) else None


def make_batch(
    bitext: Bitext, indices: Indices, micro_tokens: int, pad_id: int, pass_tokens: int | None = None
) -> Batch:
    """Return the logical batch of these sentence pairs, cut by length into micro-batches.

    Args:
        bitext: where the sentences are.
        indices: which of them.
        micro_tokens: padded tokens (B x the longer of S and T) of a micro-batch; one sentence always fits.
        pad_id: the id behind the end of a sentence.
        pass_tokens: padding, of both sides together, that one more micro-batch must save; None for micro-batches that
            are filled one after another.
    """
    source, target = bitext.source.lengths(indices), bitext.target.lengths(indices)
    order = np.lexsort((source, target))
    if pass_tokens is None:
        edges = _filled(np.maximum(source, target)[order], micro_tokens)
    else:
        order, edges = _least_padded(source, target, micro_tokens, pass_tokens)
    micro_batches = []
    for start, stop in pairwise(edges):
        chosen = indices[order[start:stop]]
        micro_batches.append(
            MicroBatch(
                torch.from_numpy(bitext.source.padded(chosen, pad_id)),
                torch.from_numpy(bitext.target.padded(chosen, pad_id)),
                pad_id,
            )
        )
    return Batch(tuple(micro_batches), int(target.sum()))


def _filled(lengths: Indices, max_tokens: int) -> list[int]:
    """Return where to cut a list of lengths so that rows x longest stays within `max_tokens`: 0, ..., the end."""
    edges, longest = [0], 0
    for index, length in enumerate(lengths.tolist()):
        longest = max(longest, length)
        if index > edges[-1] and longest * (index - edges[-1] + 1) > max_tokens:
            edges.append(index)
            longest = length
    return [*edges, len(lengths)] if len(lengths) else edges


def _least_padded(
    source: Indices, target: Indices, micro_tokens: int, pass_tokens: int
) -> tuple[NDArray[np.intp], list[int]]:
    """Return an order and where to cut it: by source length or by the sum of both, whichever costs less.

    The first is better where the targets are of one length already, the second elsewhere.
    """
    orders = [np.lexsort((target, source)), np.lexsort((source, source + target))]
    plans = [_cuts(source[order], target[order], micro_tokens, pass_tokens) for order in orders]
    best = int(plans[1][0] < plans[0][0])
    return orders[best], plans[best][1]


def _cuts(source: Indices, target: Indices, micro_tokens: int, pass_tokens: int) -> tuple[int, list[int]]:
    """Return the least cost at which rows can be cut into micro-batches in this order, and where: 0, ..., the end.

    The cost is the padded tokens of both sides and `pass_tokens` for every micro-batch. The cuts are found by dynamic
    programming from the end, over blocks of a few rows.
    """
    longest = np.maximum(source, target)
    rows = max(1, min(len(source) // BLOCKS, micro_tokens // max(1, int(longest.max(initial=0)))))
    edges = np.append(np.arange(0, len(source), rows), len(source))
    blocks = len(edges) - 1
    if not blocks:
        return 0, [0]
    width = np.maximum.reduceat(longest, edges[:-1])
    reach = min(blocks, int(micro_tokens // max(1, width.min()) // rows) + 1)
    ahead = np.arange(blocks)[:, None] + np.arange(reach)
    inside = np.minimum(ahead, blocks - 1)
    wide_source, wide_target = (
        np.maximum.accumulate(np.maximum.reduceat(side, edges[:-1])[inside], axis=1) for side in (source, target)
    )
    height = edges[inside + 1] - edges[:-1, None]
    area = height * (wide_source + wide_target) + pass_tokens
    too_large = (height * np.maximum(wide_source, wide_target) > micro_tokens) | (ahead >= blocks)
    too_large[:, 0] = False
    area[too_large] = TOO_LARGE
    costs, following = np.zeros(blocks + 1 + reach, dtype=np.int64), [0] * blocks
    for block in range(blocks - 1, -1, -1):
        total = area[block] + costs[block + 1 : block + 1 + reach]
        chosen = int(total.argmin())
        costs[block], following[block] = total[chosen], block + 1 + chosen
    places = [0]
    while places[-1] < blocks:
        places.append(following[places[-1]])
    return int(costs[0]), edges[places].tolist()


def deal(bitext: Bitext, indices: Indices, hands: int, rng: np.random.Generator) -> list[Indices]:
    """Deal sentence pairs at random into `hands` disjoint parts of about equally many target tokens.

    Every part gets at least one sentence; there must be at least `hands` of them.
    """
    indices = rng.permutation(indices)
    tokens = bitext.target.lengths(indices)
    # A sentence across a border goes to the side where more of it lies: else the earlier parts would be the larger.
    middles = np.cumsum(tokens) - tokens / 2
    cuts = np.searchsorted(middles, int(tokens.sum()) * np.arange(1, hands) / hands)
    for hand in range(hands - 1):
        low = cuts[hand - 1] + 1 if hand else 1
        cuts[hand] = np.clip(cuts[hand], low, len(indices) - (hands - 1 - hand))
    return np.split(indices, cuts)


def batch_count(bitext: Bitext, max_tokens: int) -> int:
    """Return how many logical batches of at most `max_tokens` target tokens an epoch has."""
    return min(max(1, -(-int(bitext.target.offsets[-1]) // max_tokens)), len(bitext))


def epoch(bitext: Bitext, max_tokens: int, micro_tokens: int, pad_id: int, seed: tuple[int, ...]) -> Iterator[Batch]:
    """Yield the batches of one epoch: a seeded shuffle cut into equal logical batches of at most `max_tokens`.

    No length sorting across batches: a low-resource corpus has few of them, and each should look like the whole. The
    micro-batches within are sorted, so the padding is small all the same.
    """
    rng = np.random.default_rng(seed)
    for part in deal(bitext, np.arange(len(bitext)), batch_count(bitext, max_tokens), rng):
        yield make_batch(bitext, part, micro_tokens, pad_id)
