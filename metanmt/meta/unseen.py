"""Episodes in which a meta-train language is met as an unseen one will be: the new language is rehearsed.

Fine-tuning gives a new language pieces of its own, and lets these, and pieces that the run hardly knows, begin as
mixtures of what their translations are called in the languages of meta-training (`nmt.beginnings`). A model that has
never read such a mixture has to learn to from a few hundred sentences. Here it learns to in meta-training: for a share
of the episodes their language is taken as new. Its sentences are cut with pieces of its own; these, and the pieces that
the other languages hardly have, begin as mixtures of the embeddings of the others, by a word alignment of as little
text as users have. The new language is the source, or the target where the source is known from other pairs: then the
rows are of the decoder and the output too. So the episode's initialisation is a function of theta and of a support
text, in closed form, and the outer gradient goes through it: the embeddings of all languages learn to be good
counterparts.

An initialisation in closed form from the support set, and a gradient through it, are also what Proto-MAML has for its
classifier (Triantafillou et al. 2020, "Meta-Dataset"); that episodes should be what a test will be is the principle of
Vinyals et al. 2016, "Matching Networks for One Shot Learning".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import copy
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
        written: the language is the target.
    """

    beginnings: Beginnings
    spelled: Sequence[Sequence[int]]
    written: bool = False

    def embeddings(self, table: Tensor) -> Tensor:
        """Return the rows (n, d), a function of the table (V, d) that may be derived."""
        counts = [0, *map(len, self.spelled)]
        ids, offsets = (torch.tensor(part, device=table.device) for part in (list(chain(*self.spelled)), counts))
        before = functional.embedding_bag(ids.long(), table, offsets.cumsum(0)[:-1], mode="mean")
        return self.beginnings.embeddings(table, before)

    def take(self, rows: Ids) -> Start:
        """Return what some of the rows begin as, by their places here."""
        return Start(self.beginnings.take(rows), [self.spelled[row] for row in rows.tolist()], self.written)

    def with_mean(self, piece: int, others: Sequence[int]) -> Start:
        """Return it with a row for one more piece, which begins as the mean of others."""
        begun = self.beginnings
        place = int(np.searchsorted(begun.pieces, piece))
        begun = replace(
            begun,
            pieces=np.insert(begun.pieces, place, piece),
            offsets=np.insert(begun.offsets, place, begun.offsets[place]),
            linked=np.insert(begun.linked, place, 0.0),
        )
        return replace(self, beginnings=begun, spelled=[*self.spelled[:place], others, *self.spelled[place:]])


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
        cut = recut(text, self.tokenizer, self.grown, self.pair)
        target = self._with_own(cut.target) if self.start.written else cut.target
        return replace(cut, source=self._with_own(cut.source), target=target)

    def reader(self) -> SentencePieceTokenizer:
        """Return a tokenizer that decodes ids as `read` gives them."""
        known, pieces = self.tokenizer.vocabulary_size, self.start.beginnings.pieces.tolist()
        reader = copy(self.grown)
        reader.decode = lambda ids: self.grown.decode(  # type: ignore[method-assign]
            [[pieces[index - known] if index >= known else index for index in sentence] for sentence in ids]
        )
        return reader

    def _with_own(self, side: Side) -> Side:
        pieces = self.start.beginnings.pieces
        rows = np.searchsorted(pieces, side.ids)
        own = pieces[np.minimum(rows, len(pieces) - 1)] == side.ids
        return Side(np.where(own, self.tokenizer.vocabulary_size + rows, side.ids), side.offsets)


def meet(
    pair: Pair,
    text: Bitext,
    tokenizer: SentencePieceTokenizer,
    counterparts: Counterparts,
    *,
    known: bool,
    is_target: bool = False,
) -> Newcomer | None:
    """Return a language as fine-tuning would meet it with a text; None if nothing is known of its words.

    Args:
        pair: of the language.
        text: of it, cut by the tokenizer.
        tokenizer: of the run.
        counterparts: in the text of other languages.
        known: what the run knows of the pieces that begin anew counts too, as it does in fine-tuning; otherwise they
            are taken as never seen.
        is_target: the language is the target.
    """
    other = pair.source if is_target else pair.target
    if other not in counterparts.tables:
        return None
    side = text.target if is_target else text.source
    grown, spelled = with_own_pieces(tokenizer, texts_of(side, tokenizer), NEEDED, of_targets=is_target)
    text = recut(text, tokenizer, grown, pair)
    turned = (text.turned(), pair.turned()) if is_target else (text, pair)
    found = find_beginnings(counterparts, *turned, grown.special_ids(), grown.vocabulary_size)
    if found is None or not len(found.pieces):
        return None
    size, tags = tokenizer.vocabulary_size, tokenizer.targets
    before = [spelled[piece - size] if piece >= size else [piece] * known for piece in found.pieces.tolist()]
    start = Start(found, before, written=is_target)
    if is_target:
        start = start.with_mean(tags[pair.target], [tags[known] for known in counterparts.tables if known in tags])
    return Newcomer(pair, tokenizer, grown, start)


class UnseenLanguage:
    """A language of a task, as if it had never been seen.

    Its supports are drawn from the training set once. An episode's sentences may be in one; few are, of a large set.

    Args:
        pair: of the task.
        bitext: its training set.
        tokenizer: of the run.
        others: the counterparts in the text of the other languages.
        is_target: it is the target; else the source.
    """

    def __init__(
        self,
        pair: Pair,
        bitext: Bitext,
        tokenizer: SentencePieceTokenizer,
        others: Counterparts,
        *,
        is_target: bool = False,
    ) -> None:
        sizes = sorted({min(size, len(bitext) // 2) for size in SUPPORTS})  # a small text is not all support
        texts = (bitext.take(np.random.default_rng(size).permutation(len(bitext))[:size]) for size in sizes)
        met = (meet(pair, text, tokenizer, others, known=False, is_target=is_target) for text in texts)
        self.newcomers = [newcomer for newcomer in met if newcomer is not None]

    def read(self, text: Bitext, rng: np.random.Generator) -> tuple[Bitext, Start | None]:
        """Return sentence pairs of the task as a new language's, and what the rows begin as that ids V and on mean.

        They are as they were, and there is no start, where nothing is known of its words.
        """
        if not self.newcomers:
            return text, None
        newcomer = self.newcomers[rng.integers(len(self.newcomers))]
        read, size = newcomer.read(text), newcomer.tokenizer.vocabulary_size
        ids = np.concatenate([read.source.ids, read.target.ids])
        own = ids >= size
        if not own.any():
            return text, None
        used, rows = np.unique(ids[own] - size, return_inverse=True)
        ids[own] = size + rows
        source, target = np.split(ids, [len(read.source.ids)])
        sides = Side(source, read.source.offsets), Side(target, read.target.offsets)
        return Bitext(*sides, read.target_words), newcomer.start.take(used)


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
    with own_rows(models, rows.detach(), written=start.written) as own:
        yield
    if own.grad is not None:
        torch.autograd.backward([rows], [own.grad])
