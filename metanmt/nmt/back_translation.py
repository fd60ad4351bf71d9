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
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np

from metanmt.config import FineTuneConfig
from metanmt.data.cleaning import CleaningRules, clean
from metanmt.data.language import Pair
from metanmt.data.leakage import HeldOut
from metanmt.data.own_pieces import texts_of
from metanmt.data.source_form import SourceForm, in_form
from metanmt.data.store import Bitext
from metanmt.data.tokenizer import source_form_of
from metanmt.errors import CorpusError, UsageError
from metanmt.nmt.checkpoint import checkpoint_tokenizer, tuned_chrf, tuned_pair
from metanmt.nmt.engine import open_engine
from metanmt.nmt.folder import checkpoint_folder
from metanmt.nmt.translate import translate
from metanmt.nmt.tuning import batch_tokens, planned_updates
from metanmt.nmt.tuning_text import SentencePairs, Text, Tokenised, tokenized
from metanmt.runlog import Progress, say, warn

BEAM = 5
BY_INIT = "init"  # `Text.back`: adapt the initialisation to the other direction first, on the same pairs
PROGRESS_LINES = 10_000  # that are read between two signs of it
# chrF++ on its dev set below which a model that translates back is warned of: of 13.7 and 15.0 did harm, of 21.0 good.
WEAK = 17.0
MOST_SENTENCES = 50_000  # four minutes of a thread at the size `tiny`


def check_back(text: Text, pair: Pair) -> None:
    """Raise a UsageError if what translates back was fine-tuned for another pair, or cannot write the source."""
    if text.back in (None, BY_INIT):
        return
    tuned = tuned_pair(Path(text.back))
    if tuned not in (None, pair.turned()):
        raise UsageError(
            f"--back {text.back} was fine-tuned for {tuned}; what is learned is {pair}.",
            f"Give a checkpoint that translates {pair.turned()}.",
        )
    checkpoint_tokenizer(checkpoint_folder(Path(text.back))).encode_source([], pair.turned())


def sentences_seen(read: Tokenised, config: FineTuneConfig) -> int:
    """Return how many sentences that are translated back the updates of a fine-tuning see, 50,000 at most."""
    a_sentence = int(read.train.target.offsets[-1]) / len(read.train)
    tokens = planned_updates(read.train, config) * config.synthetic * batch_tokens(read.train, config)
    return min(MOST_SENTENCES, math.ceil(tokens / a_sentence))


def turned(text: Text, read: Tokenised) -> Text:
    """Return a text as it was drawn, with what is held out of it, for the pair the other way round.

    What was its source is in the form that the model reads sources in.
    """
    if (form := source_form_of(read.tokenizer)) != "written":
        say(f"Note: what it learns to write is in the form that sources have here, {form}: enough to translate back.")

    def lines(part: Bitext) -> SentencePairs:
        sides = (texts_of(side, read.tokenizer) for side in (part.target, part.source))
        return list(zip(*sides, strict=True))

    files = [text.data] if text.data else text.train_files
    return Text(train_files=files, pairs={"train": lines(read.train), "dev": lines(read.dev)})


def drawn_lines(
    lines: Iterable[str], language: str, held_out: HeldOut, most: int, seed: int, form: SourceForm = "written"
) -> tuple[list[str], dict[str, Any]]:
    """Return sentences to translate back, cleaned and drawn at random, and how many there are.

    Args:
        lines: text of the target language alone.
        language: that one.
        held_out: the sentences that are left out, as `held_out_by` has them.
        most: sentences to translate.
        seed: of the draw.
        form: in which the sources of what is held out are known.

    Raises:
        CorpusError: nothing is left of the lines.
    """
    rng = np.random.default_rng([seed, 23])
    drawn: list[str] = []
    left = 0
    with Progress(f"read text of {language}", None, "lines") as progress:
        cleaned = clean(((line, line) for line in lines), CleaningRules(keep_identical=True), Counter())
        for count, (line, _) in enumerate(cleaned, start=1):
            if count % PROGRESS_LINES == 0:
                progress.advance(PROGRESS_LINES)
            if held_out.leaks(in_form([line], form)[0], line):
                continue
            left += 1
            if left <= most:
                drawn.append(line)
            elif (place := int(rng.integers(left))) < most:  # every line is as likely to stay (Vitter 1985)
                drawn[place] = line
    if not drawn:
        raise CorpusError(
            f"No sentence of the text of {language} alone is not in the pairs, the dev set or a test set.",
            "Give other text by --mono.",
        )
    say(f"Of {left:,} sentences of {language} {len(drawn):,} are going to be translated back")
    return drawn, {"sentences": left, "translated": len(drawn)}


def with_back_translation(
    read: Tokenised, drawn: Sequence[str], back: Path, pair: Pair, *, needed: bool = True
) -> tuple[Tokenised, dict[str, Any]]:
    """Return a text with sentence pairs beside it whose targets are text of the target language alone, and its facts.

    What became nonsense is left out, by the rules of `metanmt.data.cleaning`.

    Args:
        read: the text, drawn and with a dev set.
        drawn: sentences of the target language.
        back: a checkpoint that translates these.
        pair: that is adapted to.
        needed: nothing that is usable is an error; else it is said, and the text is returned as it is.

    Raises:
        CorpusError: what became of them is of no use.
    """
    chrf = tuned_chrf(back)
    if chrf is not None and chrf < WEAK:
        warn(
            f"Note: {back} has {chrf:.1f} chrF++ on its dev set. A model that hardly translates has nothing to teach, "
            "and may do harm: compare with what is learned without --back."
        )
    engine, tokenizer = open_engine(back, pair=pair.turned())
    sources = translate(engine, tokenizer, drawn, pair.turned(), beam=BEAM, label=f"translate {pair.turned()}")
    pairs = list(clean(zip(sources, drawn, strict=True), CleaningRules(), Counter()))
    facts = {"back": str(back), "back_chrf": chrf, "usable": len(pairs)}
    if pairs:
        return replace(read, synthetic=tokenized(read.tokenizer, pairs, pair)), facts
    nothing = f"Of {len(drawn):,} sentences that {back} translated none is of a length that a translation has."
    if needed:
        how = f"See what it makes of them: metanmt translate --model {quote(str(back))} --pair {pair.turned()}"
        raise CorpusError(nothing, how)
    warn(f"{nothing} So {pair} is learned from its pairs alone.")
    return read, facts
