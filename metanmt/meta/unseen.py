"""Episodes in which a meta-train language is met as an unseen one will be: the new language is rehearsed.

Fine-tuning gives a new language pieces of its own, and lets these, and pieces that the run hardly knows, begin as
mixtures of what their translations are called in the languages of meta-training (`nmt.beginnings`). A model that has
never read such a mixture has to learn to from a few hundred sentences. Here it learns to in meta-training: for a share
of the episodes their language is taken as new. Its sentences are cut with pieces of its own; these, and the pieces that
the other languages hardly have, begin as mixtures of the embeddings of the others, by a word alignment of as little
text as users have. So the episode's initialisation is a function of theta and of a support text, in closed form, and
the outer gradient goes through it: the embeddings of all languages learn to be good counterparts.

An initialisation in closed form from the support set, and a gradient through it, are also what Proto-MAML has for its
classifier (Triantafillou et al. 2020, "Meta-Dataset"); that episodes should be what a test will be is the principle of
Vinyals et al. 2016, "Matching Networks for One Shot Learning".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from metanmt.data.alignment import Ids
from metanmt.data.counterparts import Counterparts
from metanmt.data.language import Pair
from metanmt.data.own_pieces import recut, texts_of, with_own_pieces
from metanmt.data.store import Bitext, Side
from metanmt.data.tokenizer import SentencePieceTokenizer
from metanmt.nmt.beginnings import Beginnings, find_beginnings
from metanmt.nmt.tuning_text import NEEDED
from metanmt.nmt.vocabulary import own_rows

SUPPORTS = (600, 2_500)  # sentence pairs that a language is met with, as a new one has: 4,000 and 16,000 words


@dataclass(frozen=True)
class Start:
    """What the rows of embeddings begin as that an episode's language has of its own.

    Args:
        beginnings: of n rows.
        spelled: of each row, the ids that spelled its piece before; none where that tells nothing.
    """

    beginnings: Beginnings
    spelled: Sequence[Sequence[int]]

    def embeddings(self, table: Tensor) -> Tensor:
        """Return the rows (n, d), a function of the table (V, d) that may be derived."""
        counts = [0, *map(len, self.spelled)]
        ids, offsets = (torch.tensor(part, device=table.device) for part in (list(chain(*self.spelled)), counts))
        before = functional.embedding_bag(ids.long(), table, offsets.cumsum(0)[:-1], mode="mean")
        return self.beginnings.embeddings(table, before)

    def take(self, rows: Ids) -> Start:
        """Return what some of the rows begin as, by their places here."""
        return Start(self.beginnings.take(rows), [self.spelled[row] for row in rows.tolist()])


@dataclass(frozen=True)
class Newcomer:
    """A language as fine-tuning would meet it with some text.

    Args:
        pair: of the language.
        tokenizer: of the run, of V pieces.
        grown: the same with pieces of the language's own.
        start: what rows of embeddings of its own begin as, one for each piece of `start.beginnings`.
    """

    pair: Pair
    tokenizer: SentencePieceTokenizer
    grown: SentencePieceTokenizer
    start: Start

    def read(self, text: Bitext) -> Bitext:
        """Return text that the run's tokenizer has cut as cut by its own, ids V and on for the rows of its own."""
        cut = recut(text, self.tokenizer, self.grown, self.pair).source
        pieces = self.start.beginnings.pieces
        rows = np.searchsorted(pieces, cut.ids)
        own = pieces[np.minimum(rows, len(pieces) - 1)] == cut.ids
        return replace(text, source=Side(np.where(own, self.tokenizer.vocabulary_size + rows, cut.ids), cut.offsets))


def meet(
    pair: Pair, text: Bitext, tokenizer: SentencePieceTokenizer, counterparts: Counterparts, *, known: bool
) -> Newcomer | None:
    """Return a language as fine-tuning would meet it with a text; None if nothing is known of its words.

    Args:
        pair: of the language.
        text: of it, cut by the tokenizer.
        tokenizer: of the run.
        counterparts: in the text of other languages.
        known: what the run knows of the pieces that begin anew counts too, as it does in fine-tuning; otherwise they
            are taken as never seen.
    """
    if pair.target not in counterparts.tables:
        return None
    grown, spelled = with_own_pieces(tokenizer, texts_of(text.source, tokenizer), NEEDED)
    text = recut(text, tokenizer, grown, pair)
    found = find_beginnings(counterparts, text, pair, grown.special_ids(), grown.vocabulary_size)
    if found is None or not len(found.pieces):
        return None
    size = tokenizer.vocabulary_size
    before = [spelled[piece - size] if piece >= size else [piece] * known for piece in found.pieces.tolist()]
    return Newcomer(pair, tokenizer, grown, Start(found, before))


class UnseenLanguage:
    """The source language of a task, as if it had never been seen.

    Its supports are drawn from the training set once. An episode's sentences may be in one; few are, of a large set.

    Args:
        pair: of the task.
        bitext: its training set.
        tokenizer: of the run.
        others: the counterparts in the text of the other languages.
    """

    def __init__(self, pair: Pair, bitext: Bitext, tokenizer: SentencePieceTokenizer, others: Counterparts) -> None:
        sizes = sorted({min(size, len(bitext) // 2) for size in SUPPORTS})  # a small text is not all support
        texts = (bitext.take(np.random.default_rng(size).permutation(len(bitext))[:size]) for size in sizes)
        met = (meet(pair, text, tokenizer, others, known=False) for text in texts)
        self.newcomers = [newcomer for newcomer in met if newcomer is not None]

    def read(self, text: Bitext, rng: np.random.Generator) -> tuple[Bitext, Start | None]:
        """Return sentence pairs of the task as a new language's, and what the rows begin as that ids V and on mean.

        They are as they were, and there is no start, where nothing is known of its words.
        """
        if not self.newcomers:
            return text, None
        newcomer = self.newcomers[rng.integers(len(self.newcomers))]
        read, size = newcomer.read(text), newcomer.tokenizer.vocabulary_size
        own = read.source.ids >= size
        if not own.any():
            return text, None
        used, rows = np.unique(read.source.ids[own] - size, return_inverse=True)
        ids = read.source.ids.copy()
        ids[own] = size + rows
        return replace(read, source=Side(ids, read.source.offsets)), newcomer.start.take(used)


@contextmanager
def begun(models: Sequence[PreTrainedModel], start: Start | None) -> Iterator[None]:
    """Let models read the language of an episode that begins as a new one, meanwhile.

    Afterwards the gradient of its rows is added to that of the embeddings that they are a mixture of.

    Args:
        models: the initialisation first, and a copy of it if there is one.
        start: of the episode; None for one of a language that is known.
    """
    if start is None:
        yield
        return
    rows = start.embeddings(models[0].get_input_embeddings().weight)
    with own_rows(models, rows.detach()) as own:
        yield
    if own.grad is not None:
        torch.autograd.backward([rows], [own.grad])
