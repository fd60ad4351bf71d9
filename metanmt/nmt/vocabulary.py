"""Embeddings of pieces that a model does not know when it is adapted: new ones, and those that it hardly ever read."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from metanmt.data.alignment import Floats, Ids, align
from metanmt.data.counterparts import Counterparts
from metanmt.data.language import Pair
from metanmt.data.store import Bitext
from metanmt.data.tokenizer import SentencePieceTokenizer, Tokenizer
from metanmt.errors import ConfigError
from metanmt.nmt.model import update_weights

HARDLY_READ, HARDLY_WRITTEN = 2_000, 50  # times that the meta-train text has a piece on a side
SIZED = 200  # times that pieces are read whose size others are given
LONGEST = 120  # tokens a side of a sentence pair that tells how pieces are translated: there are few
LEAST_HEARD = 3.0  # links of a target piece in the meta-train text
LEAST_SHARE = 0.1  # of the links of a piece that count
NONE = "Leave fine_tune.new_pieces (--new-pieces) out."


def obstacle(model: PreTrainedModel | None, tokenizer: Tokenizer, update: str, *, lexicon: bool) -> ConfigError | None:
    """Return why the vocabulary of a model cannot gain pieces in an adaptation, or None.

    Args:
        model: which it may be by names and shapes alone; None for one that is made for the vocabulary.
        tokenizer: of the model.
        update: what moves.
        lexicon: the model has a universal lexicon.
    """
    if not isinstance(tokenizer, SentencePieceTokenizer):
        return ConfigError("New pieces are for a vocabulary that metanmt learned, not for a pretrained one.", NONE)
    if lexicon:
        return ConfigError("A universal lexicon has no embeddings for new pieces.", NONE)
    if model is None:
        return None
    table = model.get_input_embeddings().weight
    moving = {} if update == "adapters" else update_weights(model, update)
    if not any(weight is table for weight in moving.values()):
        return ConfigError(
            f"New pieces would stay as they begin: update = {update} leaves the embeddings alone.",
            f"{NONE[:-1]}, or let all or the embeddings move: --update all.",
        )
    return None


@torch.no_grad()
def grow_embeddings(model: PreTrainedModel, size: int, spelled: Sequence[Sequence[int]]) -> None:
    """Give a model in place a row of embeddings for every new piece: the mean of those that spelled it before.

    That is what Gee, Zugarini, Rigutini, Torroni 2022 ("Fast Vocabulary Transfer for Language Model Compression")
    begin with.

    Args:
        model: its embeddings, and the output's if they are not the same, have rows for `size` pieces.
        size: of the vocabulary so far.
        spelled: of every new piece, the ids that it has been spelled with.
    """
    model.resize_token_embeddings(size + len(spelled), mean_resizing=False)
    tables = {part.weight for part in (model.get_input_embeddings(), model.get_output_embeddings())}
    for table in tables:
        for row, parts in enumerate(spelled, start=size):
            table[row] = table[list(parts)].mean(dim=0)


@torch.no_grad()
def align_embeddings(
    model: PreTrainedModel, counterparts: Counterparts, train: Bitext, pair: Pair, special: Collection[int]
) -> int:
    """Let pieces that meta-training hardly saw begin as what their translations are called in its languages.

    Those are new pieces, and others that the meta-train text has at most 2,000 times on its source sides and 50 on
    its target sides. A word alignment of the text says by which target pieces a piece x is translated, p(e | x); the
    counterparts, by which source pieces e is expressed in the languages of meta-training, and so their mean A(e). The
    row becomes sum_e p(e | x) A(e), in the size of embeddings that are well trained: n parts of it to one of what it
    was, if x was linked n times.

    Args:
        model: embeddings (V, d), changed in place.
        counterparts: of the meta-training that the model is from.
        train: what is adapted on.
        pair: of it.
        special: ids that are no piece of text.

    Returns:
        how many rows moved.
    """
    table = model.get_input_embeddings().weight
    rows, known = len(table), len(counterparts.source_counts)
    called = counterparts.tables.get(pair.target)
    if called is None:
        return 0
    anchors, heard = _weighted_means(table, called.target, called.source, called.weight)
    links = align([train], special, rows, LONGEST)
    kept = (links.target < known) & (heard[np.minimum(links.target, known - 1)] >= LEAST_HEARD)
    source, target, counts = links.source[kept], links.target[kept], links.agreed[kept]
    linked = np.bincount(source, counts, minlength=rows)
    share = counts / linked[source]
    likely = share > LEAST_SHARE
    means, _ = _weighted_means(anchors, source[likely], target[likely], share[likely])
    trained = np.flatnonzero(counterparts.source_counts >= SIZED)
    if not len(trained):
        return 0
    size = table[torch.from_numpy(trained).to(table.device)].norm(dim=1).mean()
    hardly = (counterparts.source_counts <= HARDLY_READ) & (counterparts.target_counts <= HARDLY_WRITTEN)
    moving = np.concatenate([hardly, np.ones(rows - known, dtype=bool)]) & (
        np.bincount(source[likely], minlength=rows) > 0
    )
    moved = torch.from_numpy(np.flatnonzero(moving)).to(table.device)
    trust = torch.from_numpy(linked[moving] / (linked[moving] + 1)).to(table)[:, None]
    table[moved] += trust * (size * torch.nn.functional.normalize(means[moved], dim=1) - table[moved])
    return len(moved)


def _weighted_means(table: Tensor, row: Ids, of: Ids, weight: Floats) -> tuple[Tensor, Floats]:
    """Return (V, d), row by row the mean of other rows of a table by weight, and the sum of weights of each, (V,)."""
    heard = np.bincount(row, weight, minlength=len(table)).astype(np.float64)
    ids, others = (torch.from_numpy(numbers).to(table.device) for numbers in (row, of))
    parts = table[others] * torch.from_numpy(weight).to(table)[:, None]
    sums = torch.zeros_like(table).index_add_(0, ids, parts)
    return sums / torch.from_numpy(np.maximum(heard, 1e-9)).to(table)[:, None], heard
