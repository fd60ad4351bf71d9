"""Embeddings for pieces that a vocabulary gains when its model is adapted."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from metanmt.data.tokenizer import SentencePieceTokenizer, Tokenizer
from metanmt.errors import ConfigError
from metanmt.nmt.model import update_weights

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
    if not any(weight is table for weight in update_weights(model, update).values()):
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
