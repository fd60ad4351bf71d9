"""Pieces of a language's own, for a vocabulary that was learned from other languages or from little of this one.

References: Lakew, Erofeeva, Negri, Federico, Turchi 2018, "Transfer Learning in Multilingual Neural Machine Translation
with Dynamic Vocabulary"; Garcia, Constant, Parikh, Firat 2021, "Towards Continual Learning for Multilingual Machine
Translation via Vocabulary Substitution". There the old pieces go; here they stay, and with them what is known of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import chain

from metanmt.data.language import Pair
from metanmt.data.store import Bitext, Side
from metanmt.data.tokenizer import SentencePieceTokenizer, Tokenizer, train_tokenizer
from metanmt.errors import ConfigError, CorpusError

NO_TEXT = 256 + 3  # bytes and marks, which a vocabulary has beside the pieces of text
# Times as many pieces as are wanted, and shares of characters with a piece of their own, the rest staying in bytes; the
# first that goes is taken, for a script may have more characters than that.
TRIED = ((1, 0.9995), (1, 0.98), (2, 0.98), (4, 0.98), (8, 0.98))
MOST_SENTENCES = 100_000  # that pieces are learned from, spread over the text
FEWEST = 2  # uses of a piece in the text, or nothing can be learned of it


def with_own_pieces(
    tokenizer: SentencePieceTokenizer, sentences: Sequence[str], most: int, *, of_targets: bool = False
) -> tuple[SentencePieceTokenizer, list[list[int]]]:
    """Return a vocabulary with pieces of a language's own behind those that are there, whose ids stay.

    And the ids that spelled each new piece so far. The pieces are those of a unigram model of the language alone (Kudo
    2018) that the vocabulary lacks and that are used twice or more, with the probabilities that they have there.

    Args:
        tokenizer: the vocabulary.
        sentences: of the language; sources are in the tokenizer's form of sources.
        most: pieces of that unigram model, so that no more than these are new; up to eight times as many if the script
            has more characters, and if it has more than that, there are none.
        of_targets: the language is translated into; else targets are cut as before.
    """
    sentences = sentences[:: -(-len(sentences) // MOST_SENTENCES) or 1]
    learned = _unigram(sentences, most)
    known = set(tokenizer.pieces())
    new = {piece: score for piece, score in learned.items() if piece not in known}
    used = _used(tokenizer.with_pieces(new, of_targets=of_targets), sentences, of_targets=of_targets)
    new = {piece: score for piece, score in new.items() if used[piece] >= FEWEST}
    return tokenizer.with_pieces(new, of_targets=of_targets), tokenizer.spell(list(new))


def recut(text: Bitext, tokenizer: Tokenizer, grown: Tokenizer, pair: Pair) -> Bitext:
    """Return the text cut by a tokenizer that extends the one by which it is; many leave targets as they are."""
    text = replace(text, source=Side.of(grown.encode_source(texts_of(text.source, tokenizer), pair)))
    if grown.target_pieces == tokenizer.target_pieces:
        return text
    return replace(text, target=Side.of(grown.encode_target(texts_of(text.target, tokenizer), pair)))


def texts_of(side: Side, tokenizer: Tokenizer) -> list[str]:
    """Return the sentences that a tokenizer has cut."""
    return tokenizer.decode([side.sentence(index).tolist() for index in range(len(side.offsets) - 1)])


def _unigram(sentences: Sequence[str], most: int) -> dict[str, float]:
    for times, coverage in TRIED:
        with suppress(ConfigError, CorpusError):
            return train_tokenizer(iter(sentences), [], times * most + NO_TEXT, coverage).scored_pieces()
    return {}


def _used(tokenizer: SentencePieceTokenizer, sentences: Sequence[str], *, of_targets: bool) -> Counter[str]:
    """Return how often each piece is used."""
    pieces, cut = tokenizer.pieces(), tokenizer.target_ids if of_targets else tokenizer.ids
    return Counter(pieces[index] for index in chain.from_iterable(cut(sentences)))
