"""What the embeddings of a new language's pieces begin as: mixtures of what their translations are called elsewhere."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from metanmt.data.alignment import Floats, Ids, align
from metanmt.data.counterparts import Counterparts
from metanmt.data.language import Pair
from metanmt.data.store import Bitext

HARDLY_READ, HARDLY_WRITTEN = 2_000, 50  # times that the meta-train text has a piece on a side
SIZED = 200  # times that pieces are read whose size others are given
LONGEST = 120  # tokens a side of a sentence pair that tells how pieces are translated: there are few
LEAST_HEARD = 3.0  # links of a target piece in the meta-train text
LEAST_SHARE = 0.1  # of the links of a piece that count


@dataclass(frozen=True)
class Beginnings:
    """What each of some pieces begins as: a mean of other pieces' embeddings, in the size of well trained ones.

    Args:
        pieces: their ids (n,), ascending.
        offsets: where the counterparts of each begin and end, (n + 1,).
        counterparts: ids of known pieces, (m,).
        shares: of each in the mean of its row, (m,).
        linked: how often each piece was linked with its translations, (n,): so many parts of the mean to one of what
            the row was.
        trained: ids of the pieces that are well trained.
    """

    pieces: Ids
    offsets: Ids
    counterparts: Ids
    shares: Floats
    linked: Floats
    trained: Ids

    @property
    def aligned(self) -> int:
        """How many of the pieces have counterparts; others begin as they would otherwise."""
        return int((self.linked > 0).sum())

    def take(self, rows: Ids) -> Beginnings:
        """Return the beginnings of some of the pieces, by their places here."""
        counts = np.diff(self.offsets)[rows]
        offsets = np.concatenate([[0], np.cumsum(counts)])
        places = np.arange(offsets[-1]) + np.repeat(self.offsets[rows] - offsets[:-1], counts)
        return replace(
            self,
            pieces=self.pieces[rows],
            offsets=offsets,
            counterparts=self.counterparts[places],
            shares=self.shares[places],
            linked=self.linked[rows],
        )

    def embeddings(self, table: Tensor, before: Tensor) -> Tensor:
        """Return what the rows begin as (n, d), a function of the table that may be derived.

        Args:
            table: the embeddings of known pieces, (V, d) or more.
            before: what the rows would be otherwise, (n, d).
        """
        parts = self.counterparts, self.offsets[:-1], self.trained
        ids, offsets, trained = (_moved(torch.from_numpy(part), table.device) for part in parts)
        shares, linked = (
            _moved(torch.from_numpy(part).to(table.dtype), table.device) for part in (self.shares, self.linked)
        )
        means = functional.embedding_bag(ids, table, offsets, mode="sum", per_sample_weights=shares)
        size = table.detach()[trained].norm(dim=1).mean()
        trust = (linked / (linked + 1))[:, None]
        mixed: Tensor = before + trust * (size * functional.normalize(means, dim=1) - before)
        return mixed


def _moved(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on a device, which is not waited for."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def find_beginnings(
    counterparts: Counterparts, text: Bitext, pair: Pair, special: Collection[int], rows: int
) -> Beginnings | None:
    """Return what the pieces of a language begin as that the counterparts' languages hardly have; None if unknown.

    Those are the new pieces, and others that the meta-train text has at most 2,000 times on its source sides and 50 on
    its target sides. A word alignment of the text says by which target pieces e a piece x is translated, p(e | x); the
    counterparts, by which source pieces e is expressed in the languages of meta-training, c(s | e). The row becomes the
    mean of the E[s] by sum_e p(e | x) c(s | e).

    Args:
        counterparts: of a vocabulary of V pieces.
        text: in the new language, cut into these and new pieces.
        pair: of it.
        special: ids that are no piece of text.
        rows: ids there are, the new ones last.
    """
    called, known = counterparts.tables.get(pair.target), len(counterparts.source_counts)
    trained = np.flatnonzero(counterparts.source_counts >= SIZED)
    if called is None or not len(trained):
        return None
    heard = np.bincount(called.target, called.weight, minlength=rows).astype(np.float64)
    found = align([text], special, rows, LONGEST)
    kept = heard[found.target] >= LEAST_HEARD
    piece, target, counts = found.source[kept], found.target[kept], found.links[kept]
    linked = np.bincount(piece, counts, minlength=rows).astype(np.float64)
    hardly = (counterparts.source_counts <= HARDLY_READ) & (counterparts.target_counts <= HARDLY_WRITTEN)
    moving = np.concatenate([hardly, np.ones(rows - known, dtype=bool)])
    share = counts / linked[piece]
    likely = (share > LEAST_SHARE) & moving[piece]
    piece, target, share = piece[likely], target[likely], share[likely]

    # The product of two sparse matrices, p(e | x) and c(s | e): each link of x and e with each counterpart of e.
    order = np.argsort(called.target, kind="stable")
    ends = np.cumsum(np.bincount(called.target, minlength=rows))
    counts = np.diff(ends, prepend=0)[target]
    places = order[np.arange(counts.sum()) + np.repeat(ends[target] - np.cumsum(counts), counts)]
    weight = np.repeat(share, counts) * called.weight[places] / heard[called.target[places]]
    types, places = np.unique(np.repeat(piece, counts) * known + called.source[places], return_inverse=True)
    weight = np.bincount(places, weight, minlength=len(types)).astype(np.float64)
    pieces = np.union1d(types // known, np.arange(known, rows))
    of = np.searchsorted(pieces, types // known)
    offsets = np.concatenate([[0], np.cumsum(np.bincount(of, minlength=len(pieces)))])
    shares = weight / np.bincount(of, weight)[of]
    aligned = np.diff(offsets) > 0
    return Beginnings(pieces, offsets, types % known, shares, np.where(aligned, linked[pieces], 0.0), trained)
