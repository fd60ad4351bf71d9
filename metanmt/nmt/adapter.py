"""Adapters: small patches of a frozen base, each stored alone, merged or loaded beside others.

An adapter adds to a projection W the product of two thin matrices, W + alpha/r B A (LoRA: Hu et al. 2021, "LoRA:
Low-Rank Adaptation of Large Language Models"). B starts at zero: a new adapter changes nothing. They are those of
`peft`, and so is the format of their folder:

```
ADAPTER/adapter_config.json, adapter_model.safetensors    what `peft` and `transformers` read
ADAPTER/metanmt_base.json                                 where the base lies, and the digest of its weights
```
"""

from __future__ import annotations

import functools
import hashlib
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from metanmt.config import AdapterConfig, ModelConfig
from metanmt.data.pretrained_tokenizer import PretrainedTokenizer
from metanmt.data.tokenizer import Tokenizer, load_tokenizer
from metanmt.errors import CheckpointError, ConfigError
from metanmt.files import digest, read_object, write_json
from metanmt.nmt.folder import ADAPTER_FILE, start_folder
from metanmt.nmt.model import ADAPTER_PART, fixed_positions, has_adapter, load_model, make_model

WEIGHTS_FILE, BASE_FILE = "adapter_model.safetensors", "metanmt_base.json"
NAME = "default"  # peft's own; a folder holds one adapter, and no name
SHAPE = ("r", "lora_alpha", "target_modules")


@dataclass(frozen=True)
class Base:
    """What an adapter is a patch of: a checkpoint's folder and the digest of its weights."""

    folder: Path
    digest: str

    @classmethod
    def of(cls, folder: Path, tokenizer: Tokenizer) -> Base:
        """Return the checkpoint in a folder as a base.

        Raises:
            CheckpointError: it has another tokenizer, or none: an adapter is stored without.
        """
        if load_tokenizer(folder).digest() != tokenizer.digest():
            raise CheckpointError(
                f"{folder} has another tokenizer than the data.",
                "An adapter takes over that of its base: prepare with it.",
            )
        return cls(folder.resolve(), weights_digest(folder))


def make_with_adapter(model: ModelConfig, adapter: AdapterConfig, tokenizer: Tokenizer) -> PreTrainedModel:
    """Return `make_model`'s model; if only adapters are to be meta-trained, with new ones on its frozen weights.

    Its weights follow from torch's random state.

    Raises:
        CheckpointError: the base cannot be loaded, or has another tokenizer.
    """
    network = make_model(model, tokenizer)
    if model.update == "adapters":
        add_adapter(network, adapter, Base.of(start_folder(model.checkpoint), tokenizer))
    return network


def weights_digest(folder: Path) -> str:
    """Return a SHA-256 of the weights and the configuration of a checkpoint; read again when a file has changed."""
    files = [*sorted(folder.glob("model*.safetensors")), folder / "config.json"]
    return _digest(tuple((path, path.stat().st_size, path.stat().st_mtime_ns) for path in files))


@functools.cache
def _digest(files: tuple[tuple[Path, int, int], ...]) -> str:
    return hashlib.sha256("\n".join(digest(path) for path, _, _ in files).encode()).hexdigest()


def targets(model: PreTrainedModel, config: AdapterConfig) -> list[str]:
    """Return the last names of the projections that get an adapter: those of attention and feed-forward layers.

    Raises:
        ConfigError: a name in `adapter.targets` is no projection of this model.
    """
    output = model.get_output_embeddings()
    linear = [name for name, part in model.named_modules() if isinstance(part, nn.Linear) and part is not output]
    known = sorted({name.rpartition(".")[2] for name in linear})
    if unknown := [name for name in config.targets if name not in known]:
        raise ConfigError(f"adapter.targets names {unknown[0]!r}, no projection.", f"Known: {', '.join(known)}.")
    return sorted(config.targets) or known


def add_adapter(model: PreTrainedModel, config: AdapterConfig, base: Base | None) -> None:
    """Add a new adapter to a model in place and freeze its own weights; the model computes what it did before.

    Args:
        model: one without an adapter.
        config: rank, scale and where.
        base: what the model was loaded from; None for an adapter that is never saved.
    """
    shape = {"r": config.rank, "lora_alpha": config.alpha, "target_modules": targets(model, config)}
    _inject(model, shape, base)


def _inject(model: PreTrainedModel, shape: dict[str, Any], base: Base | None) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    lora = LoraConfig(**shape, task_type="SEQ_2_SEQ_LM", base_model_name_or_path=base and str(base.folder))
    with warnings.catch_warnings(category=FutureWarning, action="ignore"):  # peft's words with transformers
        inject_adapter_in_model(lora, model, NAME)
    model.adapter_base = base


def remove_adapter(model: PreTrainedModel, *, merge: bool) -> None:
    """Take the adapter out of a model in place, its product added to the weights before or not."""
    from peft.tuners.lora import LoraLayer

    layers = [(name, part) for name, part in model.named_modules() if isinstance(part, LoraLayer)]
    for name, layer in layers:
        if merge:
            layer.merge()
        model.set_submodule(name, layer.get_base_layer())
    del model.peft_config, model.adapter_base
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    for parameter in fixed_positions(model).values():
        parameter.requires_grad_(False)


@contextmanager
def passing_adapter(model: PreTrainedModel, config: AdapterConfig, *, wanted: bool) -> Iterator[None]:
    """Give a model a new adapter for the length of a block, where it is wanted and the model has none of its own."""
    if has_adapter(model) or not wanted:
        yield
        return
    add_adapter(model, config, None)
    try:
        yield
    finally:
        remove_adapter(model, merge=False)


def save_adapter(folder: Path, model: PreTrainedModel, tokenizer: Tokenizer) -> None:
    """Write the adapter of a model, without the base, into an existing or new folder.

    Args:
        folder: normally a temporary one beside the final place: the base is referred to from here as well.
        model: with an adapter that has a base.
        tokenizer: that of the base; of it only the language codes are stored, which are the user's.
    """
    folder.mkdir(parents=True, exist_ok=True)
    base: Base = model.adapter_base
    stored = model.peft_config[NAME].to_dict()
    stored |= {"inference_mode": True, "target_modules": sorted(stored["target_modules"])}
    write_json(folder / ADAPTER_FILE, stored)
    save_file({name: weight.cpu().contiguous() for name, weight in _weights(model).items()}, folder / WEIGHTS_FILE)
    codes = tokenizer.codes if isinstance(tokenizer, PretrainedTokenizer) else {}
    beside = os.path.relpath(base.folder, folder.resolve())
    write_json(folder / BASE_FILE, {"base": str(base.folder), "beside": beside, "digest": base.digest, "codes": codes})


def load_adapter(folder: Path) -> tuple[PreTrainedModel, Tokenizer]:
    """Return a base with the adapter of a folder on it, the base frozen, and its tokenizer.

    Raises:
        CheckpointError: the base is gone or another one, or the adapter is damaged.
    """
    base = open_base(folder)
    model = load_model(str(base.folder))
    try:
        stored = read_object(folder / ADAPTER_FILE)
        _inject(model, {key: stored[key] for key in SHAPE}, base)
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise _damaged(folder, error) from None
    restore_adapter(model, folder)
    return model, adapter_tokenizer(folder)


@torch.no_grad()
def restore_adapter(model: PreTrainedModel, folder: Path) -> None:
    """Set the adapter of a model to the stored one of the same shape.

    Raises:
        CheckpointError: it was made for another base than the model's, or is damaged.
    """
    weights = _weights(model)
    try:
        stored = load_file(folder / WEIGHTS_FILE)
        digest = read_object(folder / BASE_FILE)["digest"]
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise _damaged(folder, error) from None
    if model.adapter_base is not None and model.adapter_base.digest != digest:
        raise CheckpointError(
            f"The base {model.adapter_base.folder} is not the one that {folder} was made for: its weights are others.",
            "Bring that one back, or begin anew on this one, in a new folder.",
        )
    if {name: w.shape for name, w in stored.items()} != {name: w.shape for name, w in weights.items()}:
        raise _damaged(folder, "its weights are not those of its configuration")
    for name, weight in weights.items():
        weight.copy_(stored[name])


def adapter_tokenizer(folder: Path) -> Tokenizer:
    """Return the tokenizer of an adapter: that of its base, with the adapter's own language codes."""
    tokenizer = load_tokenizer(open_base(folder).folder)
    if isinstance(tokenizer, PretrainedTokenizer):
        tokenizer.codes = adapter_codes(folder)
    return tokenizer


def adapter_codes(folder: Path) -> dict[str, str]:
    """Return the code that an adapter has for each language, where it differs from ours."""
    codes: dict[str, str] = read_object(folder / BASE_FILE)["codes"]
    return codes


def open_base(folder: Path) -> Base:
    """Return the base of a stored adapter: where it was, or where it lies as seen from the adapter.

    Raises:
        CheckpointError: it is at neither place, or its weights are others.
    """
    try:
        facts = read_object(folder / BASE_FILE)
        places = [Path(facts["base"]), folder.resolve() / facts["beside"]]
        expected = str(facts["digest"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(folder, error) from None
    there = [place for place in places if (place / "config.json").is_file()]
    for place in there:
        if weights_digest(place) == expected:
            return Base(place.resolve(), expected)
    if there:
        raise CheckpointError(
            f"{there[0]} is not the base that the adapter {folder} was made for: its weights are others.",
            f"Bring that one back, or make the adapter anew: metanmt fine-tune --init {there[0]} --update adapters ...",
        )
    raise CheckpointError(
        f"The base of the adapter {folder} is gone: {places[0]}.",
        "Bring it back to this place; an adapter is no model alone.",
    )


def _weights(model: nn.Module) -> dict[str, Tensor]:
    """Return the weights of the adapter by the names that `peft` stores them under."""
    return {
        f"base_model.model.{name.replace(f'.{NAME}.', '.')}": weight.detach()
        for name, weight in model.named_parameters()
        if ADAPTER_PART in name
    }


def _damaged(folder: Path, reason: object) -> CheckpointError:
    return CheckpointError(f"The adapter {folder} cannot be read: {reason}.", "Copy the folder again, or make it anew.")
