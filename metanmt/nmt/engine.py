"""Engines: what searches a translation. `transformers` runs any model anywhere, CTranslate2 ours faster on a CPU."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from metanmt.data.language import Pair
from metanmt.data.tokenizer import Tokenizer
from metanmt.errors import UsageError
from metanmt.nmt.checkpoint import (
    base_folder,
    checkpoint_tokenizer,
    load_checkpoint,
    say_if_tuned_for_another,
)
from metanmt.nmt.conversion import converted, obstacle, vocabulary_size
from metanmt.nmt.folder import checkpoint_folder
from metanmt.nmt.model import check_embeddings, first_tokens
from metanmt.runtime import device

# Without a length penalty CTranslate2 ends a search sooner than `transformers`. This one leaves every score as it is.
NONE_BUT_NO_SHORT_CUT = 1e-9


class Engine(Protocol):
    """Searches the translations of a batch."""

    name: str

    @property
    def device(self) -> str:
        """The kind of device that it searches on: "cpu" or "cuda"."""

    def search(
        self, batch: Sequence[Sequence[int]], *, beam: int, length_penalty: float, longest: int, first: int | None
    ) -> list[list[int]]:
        """Return the best target of every source, end mark included.

        Args:
            batch: complete encoder input, sources of about the same length.
            beam: hypotheses kept; 1 is greedy search. It ends when that many are complete.
            length_penalty: exponent of the length, end mark included, by which a log-probability is divided.
            longest: tokens of a target, however long the search would go on.
            first: the id that every target must begin with, or None.
        """


class TransformersEngine:
    """Translates by a live model, on its device; its training mode is restored."""

    name = "transformers"

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model

    @property
    def device(self) -> str:
        """That of the model, wherever it has been moved to."""
        return str(self.model.device.type)

    @torch.inference_mode()
    def search(
        self, batch: Sequence[Sequence[int]], *, beam: int, length_penalty: float, longest: int, first: int | None
    ) -> list[list[int]]:
        """Return the best target of every source by `generate`."""
        model, pad = self.model, self.model.config.pad_token_id
        ids = pad_sequence([torch.tensor(source) for source in batch], batch_first=True, padding_value=pad)
        ids = ids.to(model.device)
        was_training = model.training
        model.eval()
        try:
            generated = model.generate(
                input_ids=ids,
                attention_mask=(ids != pad).long(),
                num_beams=beam,
                do_sample=False,
                length_penalty=length_penalty,
                early_stopping=beam > 1,
                max_new_tokens=min(longest, target_positions(model) - 1),
                **first_tokens(model, first),
            )
        finally:
            model.train(was_training)
        return [
            _to_the_end(hypothesis, model.generation_config.eos_token_id) for hypothesis in generated[:, 1:].tolist()
        ]


class CTranslate2Engine:
    """Translates by CTranslate2 on the CPU, with as many threads as torch has.

    Its beam search is that of `transformers` with early stopping, down to what counts as length, as long as the end
    mark is part of its hypotheses.

    Args:
        conversion: a folder of `converted`.
        quantization: float32 or int8.
    """

    device = "cpu"

    def __init__(self, conversion: Path, quantization: str) -> None:
        import ctranslate2

        if quantization not in ctranslate2.get_supported_compute_types("cpu"):
            raise UsageError(f"This processor cannot compute in {quantization}.", "Leave --quantization at float32.")
        self.name = f"ctranslate2 {ctranslate2.__version__} {quantization}"
        self._tokens = [str(index) for index in range(vocabulary_size(conversion))]
        self._translator: Any = ctranslate2.Translator(
            str(conversion), device="cpu", compute_type=quantization, intra_threads=torch.get_num_threads()
        )

    def search(
        self, batch: Sequence[Sequence[int]], *, beam: int, length_penalty: float, longest: int, first: int | None
    ) -> list[list[int]]:
        """Return the best target of every source by `translate_batch`."""
        found = self._translator.translate_batch(
            [[self._tokens[index] for index in source] for source in batch],
            target_prefix=None if first is None else [[self._tokens[first]]] * len(batch),
            beam_size=beam,
            length_penalty=length_penalty or NONE_BUT_NO_SHORT_CUT,
            max_decoding_length=longest,
            min_decoding_length=0,
            max_input_length=0,
            return_end_token=True,
        )
        return [[int(token) for token in result.hypotheses[0]] for result in found]


def open_engine(
    path: Path, engine: str = "auto", quantization: str = "float32", pair: Pair | None = None
) -> tuple[Engine, Tokenizer]:
    """Return the engine and the tokenizer of a checkpoint, or of the best one of a run.

    Args:
        path: a checkpoint, or a run.
        engine: transformers; ctranslate2; or auto, the fastest that is installed and gives the same result.
        quantization: float32; or int8, for ctranslate2 only, of which the result differs.
        pair: which pair is translated; a run with a universal lexicon needs it.

    Raises:
        UsageError: the engine is not installed, or cannot do what is asked.
        CheckpointError: there is no checkpoint, or it is damaged.
    """
    if quantization != "float32" and engine != "ctranslate2":
        raise UsageError(f"{quantization} is not for the engine {engine}.", "Add --engine ctranslate2.")
    folder = checkpoint_folder(path).resolve()  # the best checkpoint of a run may change meanwhile
    if pair is not None:
        say_if_tuned_for_another(folder, pair)
    installed, reason = find_spec("ctranslate2") is not None, obstacle(base_folder(folder))
    if engine == "ctranslate2":
        if not installed:
            raise UsageError(
                "ctranslate2 is not installed.", "pip install 'metanmt[fast]', or use --engine transformers."
            )
        if reason:
            raise UsageError(f"ctranslate2 cannot translate {folder}: {reason}.", "Use --engine transformers.")
    elif engine == "transformers" or not installed or reason or device().type != "cpu":
        model, tokenizer = load_checkpoint(folder, pair)
        return TransformersEngine(model.to(device())), tokenizer
    tokenizer = checkpoint_tokenizer(folder)
    with converted(folder, quantization) as conversion:
        check_embeddings(vocabulary_size(conversion), tokenizer, str(folder))
        return CTranslate2Engine(conversion, quantization), tokenizer


def target_positions(model: PreTrainedModel) -> int:
    """Return how many tokens a target may have: the rows of a table of positions, no limit without one."""
    positions = getattr(model.get_decoder(), "embed_positions", None)
    if not isinstance(positions, nn.Embedding):
        return sys.maxsize
    return positions.num_embeddings - int(getattr(positions, "offset", 0))


def _to_the_end(ids: list[int], end: int | Sequence[int] | None) -> list[int]:
    """Return the ids up to the first end mark: `generate` fills up with padding or with end marks."""
    ends = {end} if isinstance(end, int) else set(end or ())
    return ids[: next((place for place, index in enumerate(ids, start=1) if index in ends), None)]
