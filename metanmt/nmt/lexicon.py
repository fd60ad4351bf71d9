"""The universal lexical representation: source embeddings that languages share by the meaning of a piece.

The embedding of a piece x of language k is a mixture of M universal embeddings u and a correction of its own,

    e[x] = sqrt(d) (sum_i a_i u_i + delta_k[x]),    a = softmax((q_k(x) A v_i) / tau)

with fixed vectors q_k (of the language's pieces) and v (of the M commonest pieces of the pivot) in one space. The table
u and the matrix A, the identity at first, are of all languages and move in the outer loop only. The correction delta is
of one language: zero at the start of every episode, it moves in the inner loop and in fine-tuning, and nowhere else.
Marks, tags and bytes skip all this: their embedding is that of the plain table, which target and output use throughout.

Reference: Gu, Hassan, Devlin, Li 2018, "Universal Neural Machine Translation for Extremely Low Resource Languages".
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional
from transformers import M2M100ForConditionalGeneration, PreTrainedModel

from metanmt.config import ModelConfig
from metanmt.data.language import Pair
from metanmt.data.vectors import AlignedVectors, common_vectors
from metanmt.errors import CheckpointError, ConfigError, DataError
from metanmt.runlog import say

LEXICON_FILE, VECTORS_FILE = "lexicon.safetensors", "lexicon_vectors.safetensors"
OUTER = ("universal", "transform")
"""Parameters that only the outer loop moves."""


class Queries:
    """The fixed vectors of every language by id: its own, or else the mean of other languages that have the piece.

    Copies of a model share them. A language without vectors has only the means.
    """

    def __init__(self, vectors: AlignedVectors) -> None:
        self.vectors = vectors
        self.digest = vectors.digest()
        self._common = common_vectors(list(vectors.languages.values()))
        self._tables: dict[tuple[str, torch.device], tuple[Tensor, Tensor]] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> Queries:
        return self

    def table(self, language: str, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return the language's vectors (n + 1, D) on a device, the last of them zero, and the row of every id (V,)."""
        if (language, device) not in self._tables:
            own = self.vectors.languages.get(language)
            rows = torch.full((self.vectors.vocabulary_size,), -1, dtype=torch.long)
            parts: list[Tensor] = []
            for vectors in (self._common, own) if own else (self._common,):
                rows[torch.from_numpy(vectors.ids)] = torch.arange(len(vectors.ids)) + sum(map(len, parts))
                parts.append(torch.from_numpy(vectors.values).half())
            table = torch.cat([*parts, torch.zeros(1, self.vectors.size, dtype=torch.half)])
            rows[rows < 0] = len(table) - 1
            self._tables[language, device] = table.to(device), rows.to(device)
        return self._tables[language, device]


class UniversalEmbedding(nn.Module):
    """Stands where an encoder has its table: ids (B, S) in, embeddings (B, S, d) out, of the language that was set.

    Every distinct id of a batch is mixed once.

    Args:
        plain: the table of the model (V, d), for special ids.
        vectors: of all languages.
        entries: M, universal embeddings at most: as many as the pivot has pieces, if that is less.
        temperature: tau; the smaller, the fewer universal embeddings a piece takes part in.
    """

    keys: Tensor
    special: Tensor

    def __init__(self, plain: nn.Embedding, vectors: AlignedVectors, entries: int, temperature: float) -> None:
        super().__init__()
        self.plain, self.queries, self.temperature = _twin(plain), Queries(vectors), temperature
        self.scale = float(getattr(plain, "embed_scale", 1.0))
        self.language = vectors.pivot
        pivot = vectors.languages[vectors.pivot]
        width = plain.weight.shape[1]
        self.universal = nn.Parameter(torch.randn(min(entries, len(pivot.ids)), width) * plain.weight.detach().std())
        self.transform = nn.Parameter(torch.eye(vectors.size))
        self.correction = nn.Parameter(torch.zeros_like(plain.weight))
        keys = torch.from_numpy(pivot.values[: len(self.universal)]).half().float()
        special = torch.zeros(vectors.vocabulary_size, dtype=torch.bool)
        special[torch.from_numpy(vectors.special)] = True
        self.register_buffer("keys", keys, persistent=False)
        self.register_buffer("special", special, persistent=False)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Return the scaled embeddings (B, S, d) of ids (B, S)."""
        distinct, places = torch.unique(input_ids, return_inverse=True)
        return functional.embedding(places, self.rows(distinct, self.language)) * self.scale

    def rows(self, ids: Tensor, language: str) -> Tensor:
        """Return the unscaled embeddings (U, d) of ids (U,) of a language, in full precision."""
        with torch.autocast(ids.device.type, enabled=False):
            mixed = self.mixture(ids, language) @ self.universal + self.correction[ids]
            return torch.where(self.special[ids, None], self.plain.weight[ids], mixed)

    def mixture(self, ids: Tensor, language: str) -> Tensor:
        """Return the weight of every universal embedding (U, M); zeros for an id that no language has a vector of."""
        table, rows = self.queries.table(language, ids.device)
        places = rows[ids]
        scores = table[places].float() @ self.transform @ self.keys.T / self.temperature
        return scores.softmax(dim=1) * (places < len(table) - 1).unsqueeze(1)


def _twin(table: nn.Embedding) -> nn.Embedding:
    """Return another module around the same parameter: `torch.func` may swap each module's by itself, once."""
    twin = copy.copy(table)
    twin._parameters = dict(table._parameters)
    return twin


def add_lexicon(model: PreTrainedModel, config: ModelConfig, vectors: AlignedVectors) -> None:
    """Give a model made from scratch the universal embedding on its source side.

    Raises:
        ConfigError: the model is a pretrained one. DataError: the vectors are of another vocabulary.
    """
    if config.checkpoint or not isinstance(model, M2M100ForConditionalGeneration):
        raise ConfigError(
            "A pretrained checkpoint has its own source embeddings, not a universal lexicon.",
            "Leave model.checkpoint empty, or model.lexicon at plain.",
        )
    check_size(model, vectors)
    plain = model.model.shared
    model.model.encoder.embed_tokens = UniversalEmbedding(
        plain, vectors, config.universal_entries, config.lexicon_temperature
    )


def check_size(model: PreTrainedModel, vectors: AlignedVectors) -> None:
    """Raise a DataError if a model and vectors differ in their vocabulary."""
    rows = model.get_input_embeddings().weight.shape[0]
    if rows != vectors.vocabulary_size:
        raise DataError(
            f"The vectors are for {vectors.vocabulary_size:,} pieces, but the model has {rows:,}.",
            "Make the vectors from the data that the model is trained on: metanmt vectors DATA --overwrite",
        )


def lexicon_of(model: nn.Module) -> UniversalEmbedding | None:
    """Return the universal embedding of a model, if it has one."""
    return next((module for module in model.modules() if isinstance(module, UniversalEmbedding)), None)


def set_pair(model: nn.Module, pair: Pair) -> None:
    """Let a model read the source language of a pair from here on."""
    if lexicon := lexicon_of(model):
        lexicon.language = pair.source


def same_language(model: nn.Module, other: nn.Module) -> None:
    """Let a model read the source language that another reads."""
    if (lexicon := lexicon_of(model)) and (followed := lexicon_of(other)):
        lexicon.language = followed.language


def hold_correction(model: nn.Module) -> None:
    """Let the outer loop move everything but a correction, which belongs to one language."""
    if lexicon := lexicon_of(model):
        for part in OUTER:
            getattr(lexicon, part).requires_grad_(True)
        lexicon.correction.requires_grad_(False)


def fast_only(model: nn.Module) -> frozenset[str]:
    """Return the names of the parameters that only an adaptation moves: the correction of a lexicon."""
    lexicon = lexicon_of(model)
    return frozenset(name for name, weight in model.named_parameters() if lexicon and weight is lexicon.correction)


def outer_only(model: nn.Module) -> frozenset[str]:
    """Return the names of the parameters that an adaptation leaves alone: what all languages share of a lexicon."""
    lexicon = lexicon_of(model)
    if lexicon is None:
        return frozenset()
    shared = [getattr(lexicon, name) for name in OUTER]
    return frozenset(name for name, weight in model.named_parameters() if any(weight is other for other in shared))


def folded(model: PreTrainedModel, language: str) -> PreTrainedModel:
    """Return a copy with an ordinary source table for this language; a model without a lexicon is returned as it is.

    Source, target and output have tables of their own then, which any `transformers` loads.
    """
    lexicon = lexicon_of(model)
    if lexicon is None:
        return model
    twin = copy.deepcopy(model)
    source = copy.deepcopy(lexicon.plain)
    with torch.no_grad():
        source.weight.copy_(lexicon.rows(torch.arange(len(source.weight), device=source.weight.device), language))
    twin.model.encoder.embed_tokens = source
    twin.lm_head.weight = nn.Parameter(twin.lm_head.weight.detach().clone())
    twin.model.decoder.embed_tokens = copy.deepcopy(twin.model.shared)
    twin.config.tie_word_embeddings = False
    return twin


def say_if_unknown(model: nn.Module, language: str) -> None:
    """Say so if a universal lexicon has no vectors of a language."""
    if (lexicon := lexicon_of(model)) and language not in lexicon.queries.vectors.languages:
        say(f"The lexicon has no vectors of {language}: its pieces take the mean of the other languages'.")


def save_lexicon(folder: Path, model: PreTrainedModel) -> None:
    """Write, beside the folded model, what it takes to read any language, and to go on training."""
    lexicon = lexicon_of(model)
    if lexicon is None:
        return
    tensors = {name: getattr(lexicon, name).detach().cpu().contiguous() for name in OUTER}
    save_file(tensors, str(folder / LEXICON_FILE), {"temperature": json.dumps(lexicon.temperature)})
    lexicon.queries.vectors.save(folder / VECTORS_FILE)


def load_lexicon(folder: Path, model: PreTrainedModel) -> PreTrainedModel:
    """Return a model as it was before it was folded, if its checkpoint has a lexicon; else as it is.

    Raises:
        CheckpointError: the lexicon is damaged.
    """
    path = folder / LEXICON_FILE
    if not path.is_file():
        return model
    try:
        with safe_open(str(path), framework="pt") as file:
            temperature = float(json.loads(file.metadata()["temperature"]))
            tensors = {name: file.get_tensor(name) for name in OUTER}
        vectors = AlignedVectors.load(folder / VECTORS_FILE)
        check_size(model, vectors)
        tie_tables(model)
        lexicon = UniversalEmbedding(model.model.shared, vectors, len(tensors["universal"]), temperature)
        with torch.no_grad():
            for name, tensor in tensors.items():
                getattr(lexicon, name).copy_(tensor)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RuntimeError, DataError):
        raise CheckpointError(f"The lexicon {path} is damaged.", "Copy the checkpoint again.") from None
    model.model.encoder.embed_tokens = lexicon
    return model


def tie_tables(model: PreTrainedModel) -> None:
    """Let target and output share the plain table again."""
    model.config.tie_word_embeddings = True
    model.model.decoder.embed_tokens = _twin(model.model.shared)
    model.lm_head.weight = model.model.shared.weight


def check_same_vectors(model: nn.Module, other: nn.Module, name: str) -> None:
    """Raise a CheckpointError if a run is to go on with other vectors, or another lexicon, than it had."""
    digests = [lexicon.queries.digest if (lexicon := lexicon_of(item)) else None for item in (model, other)]
    if digests[0] != digests[1]:
        raise CheckpointError(
            f"The data's vectors are not those that {name} was trained with.",
            f"Copy {VECTORS_FILE} of that checkpoint over vectors/vectors.safetensors in the data folder.",
        )
