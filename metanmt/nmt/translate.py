"""Translation: beam search over length-sorted batches, order kept, long input in segments."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from itertools import pairwise

import torch
from transformers import PreTrainedModel

from metanmt.data.cleaning import normalise
from metanmt.data.language import Pair
from metanmt.data.tokenizer import Tokenizer
from metanmt.errors import DeviceMemoryError
from metanmt.nmt.engine import Engine, TransformersEngine
from metanmt.runlog import Progress
from metanmt.runtime import CPU_BATCH_TOKENS, GPU_BATCH_TOKENS

Sources = Sequence[Sequence[int]]
LONGEST_SOURCE = 256
# Where a long sentence may be cut, best first: behind a mark and its space (but not inside 3.5), or a mark that none
# follows, such as the Chinese full stop; then at spaces.
CUTS = (
    re.compile(r"(?<=[.!?…।؟])\s+|(?<=[。！？])\s*"),
    re.compile(r"(?<=[,;:،])\s+|(?<=[，、；：])\s*"),
    re.compile(r"\s+"),
)


def translate_ids(
    engine: Engine | PreTrainedModel,
    sources: Sources,
    *,
    beam: int = 5,
    length_penalty: float = 1.0,
    batch_tokens: int | None = None,
    forced_bos_id: int | None = None,
    label: str | None = None,
) -> list[list[int]]:
    """Return the target ids of tokenised sources, in their order, special tokens included.

    Args:
        engine: what searches; a model stands for `TransformersEngine` with it.
        sources: complete encoder input.
        beam: hypotheses kept; 1 is greedy search.
        length_penalty: exponent of the length by which a hypothesis' log-probability is divided (beam search).
        batch_tokens: sources x longest source x beam of a batch: memory and speed; never the result, but for beam
            search without an end, which goes on as long as the batch's longest source allows. None: 4,000 on a CPU,
            64,000 on a GPU.
        forced_bos_id: the id that the output must begin with, for models with target-language codes.
        label: for a progress bar, or None.

    Raises:
        DeviceMemoryError: the memory of the device is too small for one sentence.
    """
    if isinstance(engine, PreTrainedModel):
        engine = TransformersEngine(engine)
    if batch_tokens is None:
        batch_tokens = CPU_BATCH_TOKENS if engine.device == "cpu" else GPU_BATCH_TOKENS
    order = sorted(range(len(sources)), key=lambda index: -len(sources[index]))
    outputs: list[list[int]] = [[] for _ in sources]
    tokens = sum(map(len, sources))  # by which the time that is left can be told, though the longest come first
    with Progress(label, tokens, "source tokens") if label else nullcontext() as progress:
        for part in _batches(order, sources, batch_tokens, beam):
            search = partial(
                engine.search,
                beam=beam,
                length_penalty=length_penalty,
                longest=_bound(len(sources[part[0]])),
                first=forced_bos_id,
            )
            found = _in_memory(search, [sources[index] for index in part])
            for index, hypothesis in zip(part, found, strict=True):
                outputs[index] = hypothesis[: _bound(len(sources[index]))]
            if progress:
                progress.advance(sum(len(sources[index]) for index in part), f"{len(sources):,} sentences")
    return outputs


def _in_memory(search: Callable[[Sources], list[list[int]]], batch: Sources) -> list[list[int]]:
    """Return what a search finds; where memory runs out, of one half and then of the other."""
    try:
        return search(batch)
    except torch.OutOfMemoryError:
        if len(batch) == 1:
            raise DeviceMemoryError(
                f"The memory of the device is too small for a source of {len(batch[0]):,} tokens.",
                "Lower --beam, or cut the sentence.",
            ) from None
    torch.cuda.empty_cache()
    middle = len(batch) // 2
    return _in_memory(search, batch[:middle]) + _in_memory(search, batch[middle:])


def translate(
    engine: Engine | PreTrainedModel,
    tokenizer: Tokenizer,
    sentences: Sequence[str],
    pair: Pair,
    *,
    beam: int = 5,
    length_penalty: float = 1.0,
    batch_tokens: int | None = None,
    longest_source: int = LONGEST_SOURCE,
    label: str | None = "translating",
) -> list[str]:
    """Return the translation of each sentence, in their order; an empty sentence stays empty.

    Sentences are normalised as training text is. One of more than `longest_source` tokens is cut at sentence ends, else
    at clauses, else at spaces, else anywhere; its parts are translated by themselves and joined.
    """

    def tokens(text: str) -> int:
        return len(tokenizer.encode_source([text], pair)[0])

    sentences = [normalise(sentence) for sentence in sentences]
    encoded = tokenizer.encode_source(sentences, pair)
    pieces: list[list[int]] = []
    owners: list[int] = []
    for index, (sentence, ids) in enumerate(zip(sentences, encoded, strict=True)):
        if not sentence.strip():
            continue
        if len(ids) <= longest_source:
            parts = [ids]
        else:
            parts = tokenizer.encode_source(list(segments(sentence, tokens, longest_source)), pair)
        pieces += parts
        owners += [index] * len(parts)
    outputs = translate_ids(
        engine,
        pieces,
        beam=beam,
        length_penalty=length_penalty,
        batch_tokens=batch_tokens,
        forced_bos_id=tokenizer.forced_bos_id(pair),
        label=label,
    )
    joined: list[list[str]] = [[] for _ in sentences]
    for owner, text in zip(owners, tokenizer.decode(outputs), strict=True):
        joined[owner].append(text.strip())
    return [re.sub(r"[\r\n]+", " ", " ".join(part for part in parts if part)) for parts in joined]


def segments(sentence: str, tokens: Callable[[str], int], longest: int) -> Iterator[str]:
    """Yield parts of a sentence of at most `longest` tokens, cut at the best places that make them fit.

    Args:
        sentence: what to cut; nothing but white space is lost.
        tokens: counts the tokens of a text.
        longest: tokens of a part; a part of one character is not cut further.
    """
    if tokens(sentence) <= longest or len(sentence) < 2:
        yield sentence
        return
    for cut in CUTS:
        places = [0, *(match.end() for match in cut.finditer(sentence)), len(sentence)]
        parts = [part for start, end in pairwise(places) if (part := sentence[start:end]).strip()]
        if len(parts) > 1:
            for part in _packed(parts, tokens, longest):
                yield from segments(part, tokens, longest)
            return
    middle = len(sentence) // 2
    yield from segments(sentence[:middle], tokens, longest)
    yield from segments(sentence[middle:], tokens, longest)


def _packed(parts: Sequence[str], tokens: Callable[[str], int], longest: int) -> Iterator[str]:
    """Yield runs of neighbouring parts, joined as they were, as long as they fit."""
    run = parts[0]
    for part in parts[1:]:
        if tokens((run + part).strip()) <= longest:
            run += part
        else:
            yield run.strip()
            run = part
    yield run.strip()


def _bound(source_tokens: int) -> int:
    """Return how many target tokens a source may give: enough for any real translation, an end to a runaway one."""
    return 2 * source_tokens + 20


def _batches(
    order: Iterable[int], sources: Sequence[Sequence[int]], batch_tokens: int, beam: int
) -> Iterator[list[int]]:
    part: list[int] = []
    for index in order:  # the longest first, so the first of a part is its longest
        if part and (len(part) + 1) * len(sources[part[0]]) * beam > batch_tokens:
            yield part
            part = []
        part.append(index)
    if part:
        yield part
