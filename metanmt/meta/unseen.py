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

from metanmt.data.counterparts import Counterparts
from metanmt.data.language import Pair
from metanmt.data.own_pieces import recut, texts_of, with_own_pieces
from metanmt.data.store import Bitext, Side
from metanmt.data.tokenizer import SentencePieceTokenizer
from metanmt.nmt.beginnings import Beginnings, find_beginnings
from metanmt.nmt.vocabulary import own_rows

SUPPORTS = (600, 2_500)  # sentence pairs that a language is met with, as a new one has: 4,000 and 16,000 words
PIECES = 1_000  # of its own, at most


@dataclass(frozen=True)
class Start:
    """What the rows of embeddings begin as that an episode's language has of its own.

    Args:
        beginnings: of n rows.
        spelled: of each row, the ids that spelled its piece before; none for a piece that was there.
    """

    beginnings: Beginnings
    spelled: Sequence[Sequence[int]]

    def embeddings(self, table: Tensor) -> Tensor:
        """Return the rows (n, d), a function of the table (V, d) that may be derived."""
        counts = [0, *map(len, self.spelled)]
        ids, offsets = (torch.tensor(part, device=table.device) for part in (list(chain(*self.spelled)), counts))
        before = functional.embedding_bag(ids.long(), table, offsets.cumsum(0)[:-1], mode="mean")
        return self.beginnings.embeddings(table, before)


@dataclass(frozen=True)
class Newcomer:
    """A language as fine-tuning would meet it with some text: its vocabulary, and how that begins."""

    tokenizer: SentencePieceTokenizer
    start: Start


class UnseenLanguage:
    """The source language of a task, as if it had never been seen.

    Args:
        pair: of the task.
        bitext: its training set.
        tokenizer: of the run.
        others: the counterparts in the text of the other languages.
    """

    def __init__(self, pair: Pair, bitext: Bitext, tokenizer: SentencePieceTokenizer, others: Counterparts) -> None:
        self.pair, self.tokenizer = pair, tokenizer
        met = (self._met(bitext, support, others) for support in SUPPORTS)
        self.newcomers = [newcomer for newcomer in met if newcomer is not None]

    def _met(self, bitext: Bitext, support: int, others: Counterparts) -> Newcomer | None:
        """Return the language as it is met with so many sentence pairs; None if nothing is known of its words."""
        text = bitext.take(np.random.default_rng(support).permutation(len(bitext))[:support])
        grown, spelled = with_own_pieces(self.tokenizer, texts_of(text.source, self.tokenizer), PIECES)
        text = recut(text, self.tokenizer, grown, self.pair)
        found = find_beginnings(others, text, self.pair, grown.special_ids(), grown.vocabulary_size)
        if found is None:
            return None
        known = self.tokenizer.vocabulary_size
        parts = [spelled[piece - known] if piece >= known else () for piece in found.pieces.tolist()]
        return Newcomer(grown, Start(found, parts))

    def read(self, text: Bitext, rng: np.random.Generator) -> tuple[Bitext, Start | None]:
        """Return sentence pairs of the task as a new language's, and what the rows begin as that ids V and on mean.

        They are as they were, and there is no start, where nothing is known of its words.
        """
        if not self.newcomers:
            return text, None
        newcomer = self.newcomers[rng.integers(len(self.newcomers))]
        cut = recut(text, self.tokenizer, newcomer.tokenizer, self.pair).source
        pieces = newcomer.start.beginnings.pieces
        places = np.searchsorted(pieces, cut.ids)
        own = pieces[np.minimum(places, len(pieces) - 1)] == cut.ids
        used, rows = np.unique(places[own], return_inverse=True)
        if not len(used):
            return text, None
        ids = cut.ids.copy()
        ids[own] = self.tokenizer.vocabulary_size + rows
        start = Start(newcomer.start.beginnings.take(used), [newcomer.start.spelled[place] for place in used.tolist()])
        return replace(text, source=Side(ids, cut.offsets)), start


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
