"""Embeddings of pieces that a model does not know when it is adapted: new ones, and those that it hardly ever read."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from metanmt.data.counterparts import Counterparts
from metanmt.data.language import Pair
from metanmt.data.store import Bitext
from metanmt.data.tokenizer import SentencePieceTokenizer, Tokenizer
from metanmt.errors import ConfigError
from metanmt.nmt.beginnings import find_beginnings
from metanmt.nmt.lexicon import lexicon_of
from metanmt.nmt.model import update_weights

LEAVE_OUT = "Leave fine_tune.new_pieces (--new-pieces) out."


def has_one_table(model: PreTrainedModel) -> bool:
    """Return whether both sides have the same embeddings: they do not where a universal lexicon was folded."""
    table = model.get_input_embeddings().weight
    return all(part.embed_tokens.weight is table for part in (model.get_encoder(), model.get_decoder()))


def obstacle(
    model: PreTrainedModel | None, tokenizer: Tokenizer, update: str, *, lexicon: bool = False
) -> ConfigError | None:
    """Return why the vocabulary of a model cannot gain pieces in an adaptation, or None.

    Args:
        model: which it may be by names and shapes alone; None for one that is made for the vocabulary.
        tokenizer: of the model.
        update: what moves.
        lexicon: the model has a universal lexicon, which its names and shapes alone may not tell.
    """
    if not isinstance(tokenizer, SentencePieceTokenizer):
        return ConfigError("New pieces are for a vocabulary that metanmt learned, not for a pretrained one.", LEAVE_OUT)
    if lexicon or (model is not None and lexicon_of(model) is not None):
        return ConfigError("A universal lexicon has no embeddings for new pieces.", LEAVE_OUT)
    if model is None:
        return None
    table = model.get_input_embeddings().weight
    if not has_one_table(model):
        return ConfigError(
            "Its sides have tables of their own, as from a universal lexicon, which cannot grow.", LEAVE_OUT
        )
    moving = {} if update == "adapters" else update_weights(model, update)
    if not any(weight is table for weight in moving.values()):
        return ConfigError(
            f"New pieces would stay as they begin: update = {update} leaves the embeddings alone.",
            f"{LEAVE_OUT[:-1]}, or let all or the embeddings move: --update all.",
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

    Args:
        model: embeddings (V, d), changed in place.
        counterparts: of the meta-training that the model is from.
        train: what is adapted on, the new language on its source side: turned, if that is the target.
        pair: of it, likewise.
        special: ids that are no piece of text.

    Returns:
        how many rows moved.
    """
    table = model.get_input_embeddings().weight
    found = find_beginnings(counterparts, train, pair, special, len(table))
    if found is None:
        return 0
    rows = torch.from_numpy(found.pieces).to(table.device)
    table[rows] = found.embeddings(table, before=table[rows])
    return found.aligned


@torch.no_grad()
def begin_tag(model: PreTrainedModel, tags: Mapping[str, int], language: str, known: Collection[str]) -> None:
    """Let the tag of a language that was never translated into begin as the mean of those of languages that were.

    Args:
        model: embeddings (V, d), changed in place.
        tags: id of the tag of every target language.
        language: the new one.
        known: the others.
    """
    table = model.get_input_embeddings().weight
    table[tags[language]] = table[[index for other, index in tags.items() if other in known]].mean(dim=0)


class OwnRows(nn.Module):
    """Replaces an embedding table: ids below V read the shared table, ids from V on the rows of one language.

    Ids (B, S) in, embeddings (B, S, d) out.

    Args:
        plain: the table (V, d) of the encoder, or of the decoder.
        own: rows of ids V and on, (n, d).
    """

    def __init__(self, plain: nn.Embedding, own: nn.Parameter) -> None:
        super().__init__()
        self.plain, self.own = plain, own
        self.scale = float(getattr(plain, "embed_scale", 1.0))

    def forward(self, input_ids: Tensor) -> Tensor:
        """Return the scaled embeddings (B, S, d) of ids (B, S)."""
        known = self.plain.weight.shape[0]
        places = input_ids - known
        own = functional.embedding(places.clamp_min(0), self.own) * self.scale
        return torch.where((places >= 0)[..., None], own, self.plain(input_ids.clamp_max(known - 1)))


class OwnOutput(nn.Module):
    """Replaces an output projection, likewise: hidden states (..., d) in, logits (..., V + n) out."""

    def __init__(self, plain: nn.Linear, own: nn.Parameter) -> None:
        super().__init__()
        self.plain, self.own = plain, own

    @property
    def weight(self) -> Tensor:
        """The projection of known and own pieces, (V + n, d)."""
        return torch.cat([self.plain.weight, self.own])

    def forward(self, hidden: Tensor) -> Tensor:
        """Return the logits."""
        return functional.linear(hidden, self.weight)


@contextmanager
def own_rows(models: Sequence[PreTrainedModel], rows: Tensor, *, written: bool = False) -> Iterator[nn.Parameter]:
    """Give models more rows of embeddings for the time being, each a copy of them; yield the first model's.

    Args:
        models: which may be copies of each other.
        rows: (n, d).
        written: targets and output have them too; else the encoder alone.
    """
    copies = [nn.Parameter(rows.clone()) for _ in models]
    with ExitStack() as stack:
        for model, own in zip(models, copies, strict=True):
            encoder, decoder = model.get_encoder(), model.get_decoder()
            stack.enter_context(_instead(encoder, "embed_tokens", OwnRows(encoder.embed_tokens, own)))
            if written:
                stack.enter_context(_instead(decoder, "embed_tokens", OwnRows(decoder.embed_tokens, own)))
                stack.enter_context(_instead(model, "lm_head", OwnOutput(model.lm_head, own)))
        yield copies[0]


@contextmanager
def _instead(owner: nn.Module, name: str, module: nn.Module) -> Iterator[None]:
    """Let a module stand in the place of one of another's for the time being."""
    before = getattr(owner, name)
    setattr(owner, name, module)
    try:
        yield
    finally:
        setattr(owner, name, before)
