"""Back-translation: to text of the target language alone, a model of the other direction writes the sources.

A community has more sentences of its language than sentence pairs. With sources that are translated, be it badly, and
targets that people wrote, they teach what the language is written like.

References: Sennrich, Haddow, Birch 2016, "Improving Neural Machine Translation Models with Monolingual Data"; Hoang,
Koehn, Haffari, Cohn 2018, "Iterative Back-Translation for Neural Machine Translation"; Burlot, Yvon 2018, "Using
Monolingual Data in Neural Machine Translation: a Systematic Study".
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from metanmt.config import FineTuneConfig
from metanmt.data.cleaning import CleaningRules, clean
from metanmt.data.language import Pair
from metanmt.data.own_pieces import texts_of
from metanmt.data.store import TokenStore
from metanmt.errors import CorpusError, UsageError
from metanmt.nmt.checkpoint import tuned_pair
from metanmt.nmt.engine import open_engine
from metanmt.nmt.translate import translate
from metanmt.nmt.tuning import batch_tokens, planned_updates
from metanmt.nmt.tuning_text import Text, Tokenised, held_out_by, tokenized
from metanmt.runlog import say

BEAM = 5


def check_back(text: Text, pair: Pair) -> None:
    """Raise a UsageError if what translates back was fine-tuned for another pair than this one the other way round."""
    tuned = None if text.back is None else tuned_pair(text.back)
    if tuned not in (None, pair.turned()):
        raise UsageError(
            f"--back {text.back} was fine-tuned for {tuned}; what is learned is {pair}.",
            f"Give a checkpoint that translates {pair.turned()}.",
        )


def sentences_seen(read: Tokenised, config: FineTuneConfig) -> int:
    """Return of how many sentences that are translated back the updates of a fine-tuning see each once."""
    a_sentence = int(read.train.target.offsets[-1]) / len(read.train)
    return math.ceil(
        planned_updates(read.train, config) * config.synthetic * batch_tokens(read.train, config) / a_sentence
    )


def with_back_translation(
    read: Tokenised,
    lines: Iterable[str],
    back: Path,
    pair: Pair,
    store: TokenStore | None,
    config: FineTuneConfig,
    seed: int,
    facts: dict[str, Any],
) -> Tokenised:
    """Return a text with sentence pairs beside it whose targets are text of the target language alone.

    As many as the updates will see once, drawn at random; none that are in the text, or in what is chosen and judged
    by. What became nonsense is left out, by the rules of `metanmt.data.cleaning`.

    Args:
        read: the text, drawn and with a dev set.
        lines: of the target language.
        back: a checkpoint that translates these.
        pair: that is adapted to.
        store: the data folder that the text is of, if it is of one.
        config: of the fine-tuning.
        seed: of the draw.
        facts: how many sentences there are, and how many pairs of them, is noted in it.

    Raises:
        CorpusError: nothing is left of the lines, or of what became of them.
    """
    known, held_out = set(texts_of(read.train.target, read.tokenizer)), held_out_by(read, pair, store)
    cleaned = clean(((line, line) for line in lines), CleaningRules(keep_identical=True), Counter())
    found = [line for line, _ in cleaned if line not in known and not held_out.leaks(line, line)]
    if not found:
        raise CorpusError(
            f"No sentence of the text of {pair.target} alone is not in the pairs, the dev set or a test set.",
            "Give other text by --mono.",
        )
    drawn = np.sort(np.random.default_rng([seed, 23]).permutation(len(found))[: sentences_seen(read, config)])
    say(f"Of {len(found):,} sentences {len(drawn):,} are translated back into {pair.source}")
    engine, tokenizer = open_engine(back, pair=pair.turned())
    targets = [found[index] for index in drawn]
    sources = translate(engine, tokenizer, targets, pair.turned(), beam=BEAM, label=f"translate {pair.turned()}")
    pairs = list(clean(zip(sources, targets, strict=True), CleaningRules(), Counter()))
    if not pairs:
        raise CorpusError(
            f"Of {len(drawn):,} sentences that {back} translated none is of a length that a translation has.",
            f"See what it makes of them: metanmt translate --model {back} --pair {pair.turned()}",
        )
    facts["monolingual"] = {"sentences": len(found), "translated": len(drawn), "learned": len(pairs)}
    return replace(read, synthetic=tokenized(read.tokenizer, pairs, pair))
