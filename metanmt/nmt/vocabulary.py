"""Embeddings for pieces that a vocabulary gains when its model is adapted."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from metanmt.errors import ConfigError
from metanmt.nmt.model import update_weights


def check_growing(model: PreTrainedModel, update: str, *, lexicon: bool) -> None:
    """Raise a ConfigError if new pieces would learn nothing from an update strategy, or cannot be added.

    Args:
        model: which it may be by names and shapes alone.
        update: what moves.
        lexicon: the model has a universal lexicon.
    """
    if lexicon:
        raise ConfigError(
            "A universal lexicon has no embeddings for new pieces.", "Leave fine_tune.new_pieces (--new-pieces) out."
        )
    table = model.get_input_embeddings().weight
    if not any(weight is table for weight in update_weights(model, update).values()):
        raise ConfigError(
            f"New pieces would stay as they begin: update = {update} leaves the embeddings alone.",
            "Leave fine_tune.new_pieces (--new-pieces) out, or let all or the embeddings move: --update all.",
        )


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
