"""Sequence-to-sequence Transformers of the `transformers` library: made from a size, or a pretrained checkpoint."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoModelForSeq2SeqLM, M2M100Config, M2M100ForConditionalGeneration, PreTrainedModel

from metanmt.config import ModelConfig
from metanmt.data.hub import fetched, not_loaded
from metanmt.data.pretrained_tokenizer import FACTS_FILE
from metanmt.data.tokenizer import Tokenizer, load_tokenizer
from metanmt.errors import CheckpointError, ConfigError
from metanmt.nmt.folder import is_adapter, start_folder
from metanmt.nmt.lexicon import LEXICON_FILE, outer_only
from metanmt.runtime import quiet_transformers

# d_model, feed-forward, layers of encoder and of decoder, heads
SIZES: dict[str, tuple[int, int, int, int]] = {
    "tiny": (128, 512, 2, 4),
    "small": (256, 1024, 4, 4),
    "base": (512, 2048, 6, 8),
    "gu2018": (512, 512, 6, 8),
}

ADAPTER_PART = ".lora_"  # in the names of what `peft` adds
PARTS = {
    "all": ("",),
    "embeddings": ("shared", "embed_tokens", "lm_head"),
    "embeddings+encoder": ("shared", "embed_tokens", "lm_head", "encoder."),
    "decoder": ("decoder.", "lm_head"),
}
"""What an update strategy moves, by what the names of parameters hold; a tied matrix has the first of its names."""


def make_model(config: ModelConfig, tokenizer: Tokenizer) -> PreTrainedModel:
    """Return the model of a configuration, in training mode, in float32 on the CPU.

    From scratch it is an M2M100 configuration: pre-norm, sinusoidal positions, SDPA attention, one embedding matrix
    for source, target and output. Embeddings are drawn with a deviation of d_model ** -0.5, so that they, multiplied
    by its root, enter on the scale of the positions (Vaswani et al. 2017; the library's own 0.02 is for wide models:
    with it a narrow one sees little but positions at first); projections as Glorot, Bengio 2010 have it. They follow
    from torch's random state.

    Raises:
        CheckpointError: a pretrained checkpoint that cannot be loaded or has another vocabulary or tokenizer.
    """
    quiet_transformers()
    if config.checkpoint:
        folder = start_folder(config.checkpoint)
        if (folder / LEXICON_FILE).is_file():
            raise ConfigError(
                f"{config.checkpoint} has a universal lexicon: a meta-training cannot start from it.",
                "Start from a checkpoint with plain embeddings, or go on with that run itself: --resume.",
            )
        model = load_model(str(folder))
        check_vocabulary(model, tokenizer, config.checkpoint)
        check_same_tokenizer(folder, tokenizer)
    else:
        width, feed_forward, layers, heads = SIZES[config.size]
        shape = M2M100Config(
            vocab_size=tokenizer.vocabulary_size,
            d_model=width,
            encoder_ffn_dim=feed_forward,
            decoder_ffn_dim=feed_forward,
            encoder_layers=layers,
            decoder_layers=layers,
            encoder_attention_heads=heads,
            decoder_attention_heads=heads,
            encoder_layerdrop=0.0,
            decoder_layerdrop=0.0,
            max_position_embeddings=512,
            pad_token_id=tokenizer.pad_id,
            bos_token_id=tokenizer.eos_id,
            eos_token_id=tokenizer.eos_id,
            decoder_start_token_id=tokenizer.eos_id,
            attn_implementation="sdpa",
            init_std=width**-0.5,
        )
        model = M2M100ForConditionalGeneration(shape)
        model.generation_config.max_length = None
        for part in model.model.modules():
            if isinstance(part, nn.Linear):
                nn.init.xavier_uniform_(part.weight)
    set_head(model, config.head)
    set_dropout(model, config.dropout)
    return model.train()


def load_model(name: str) -> PreTrainedModel:
    """Return a sequence-to-sequence checkpoint from a folder or the hub, in float32.

    Only safetensors weights are read: nothing is ever unpickled.
    """
    quiet_transformers()
    if is_adapter(Path(name)):
        raise CheckpointError(
            f"{name} is an adapter, which is no model alone.", f"metanmt export --model {name} --out FOLDER merges it."
        )
    folder = fetched(name)
    try:
        model, facts = AutoModelForSeq2SeqLM.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise _not_loaded(name, error) from None
    if absent := sorted(facts["missing_keys"]):  # transformers would fill them at random and go on
        raise _not_loaded(name, f"{len(absent)} weights are missing, such as {absent[0]}.")
    return model


def _not_loaded(name: str, reason: object) -> CheckpointError:
    remedy = "Give the folder of a complete Hugging Face checkpoint with safetensors weights."
    return not_loaded("sequence-to-sequence model", name, reason, remedy)


def check_vocabulary(model: PreTrainedModel, tokenizer: Tokenizer, name: str) -> None:
    """Raise a CheckpointError if the tokenizer has ids that the model has no embedding for."""
    check_embeddings(model.get_input_embeddings().weight.shape[0], tokenizer, name)


def check_embeddings(rows: int, tokenizer: Tokenizer, name: str) -> None:
    """Raise a CheckpointError if the tokenizer has more ids than there are rows of embeddings."""
    if tokenizer.vocabulary_size > rows:
        raise CheckpointError(
            f"{name} has {rows:,} embeddings, but the tokenizer {tokenizer.vocabulary_size:,} pieces.",
            "Prepare the data with the checkpoint's own tokenizer: [tokenizer] pretrained = PATH in the manifest.",
        )


def check_same_tokenizer(folder: Path, tokenizer: Tokenizer) -> None:
    """Raise a CheckpointError if a folder that this package wrote has another tokenizer than the data."""
    if (folder / FACTS_FILE).is_file() and load_tokenizer(folder).digest() != tokenizer.digest():
        raise CheckpointError(
            f"{folder} has another tokenizer than the data.",
            f"Its embeddings stand for its own pieces: metanmt prepare ... --tokenizer {folder}; or fine-tune what "
            "it is made of with --new-pieces 0.",
        )


def set_dropout(model: PreTrainedModel, probability: float) -> None:
    """Set dropout on residual branches and attention weights throughout the model; no whole layer is ever dropped."""
    for module in model.modules():
        if hasattr(module, "layerdrop"):  # a layer without a gradient would be no part of the episode
            module.layerdrop = 0.0
        if isinstance(module, nn.Dropout):
            module.p = probability
        elif isinstance(getattr(module, "dropout", None), float | int):
            module.dropout = probability


def first_tokens(model: PreTrainedModel, forced_bos_id: int | None) -> dict[str, int | None]:
    """Return what generation begins with, as settings of `generate`: the same tokens as in training.

    A model with language codes writes its start token, then is forced to write the target's code. The first mBART
    starts with the code itself.
    """
    config = model.config
    if config.model_type == "mbart" and config.decoder_start_token_id != config.eos_token_id:
        return {"decoder_start_token_id": forced_bos_id, "forced_bos_token_id": None}
    return {"forced_bos_token_id": forced_bos_id}


def set_head(model: PreTrainedModel, parts: Sequence[str]) -> None:
    """Let update = "head" move these parts, for good: the model's own configuration keeps them, and so do its copies.

    Args:
        model: whose `config` is changed; it is left alone where `parts` is empty.
        parts: runs of whole components of parameter names, such as "decoder.layers.5" or "shared".

    Raises:
        ConfigError: a part names no parameter.
    """
    if not parts:
        return
    names = [name for name, _ in model.named_parameters()]
    for part in parts:
        if not any(f".{part}." in f".{name}." for name in names):
            known = dict.fromkeys(re.sub(r"(\.\d+)\..*|\.weight$|\.bias$", r"\1", name) for name in names)
            raise ConfigError(
                f"model.head names {part!r}, which no parameter is part of.", f"Parts: {', '.join(known)}."
            )
    model.config.metanmt_head = list(parts)


def update_weights(model: nn.Module, update: str) -> dict[str, nn.Parameter]:
    """Return the parameters that an update strategy moves, by name; tied ones once.

    all, embeddings, embeddings+encoder (Gu et al. 2018); decoder; head (Raghu et al. 2020), which is what `set_head`
    says, or the last layer of the decoder, its final norm and the output projection; adapters; none. With one shared
    embedding matrix "embeddings" moves the output projection too, while "decoder" and "head" leave the matrix as it
    is: they would move what the encoder reads. Of a model with adapters only these ever move, the base under them
    never: "all" are all of them, "decoder" those of the decoder. What languages share of
    a universal lexicon is never moved by an adaptation, nor are positions that are sines.

    Raises:
        ConfigError: the strategy names no parameter of this model.
    """
    never = outer_only(model) | fixed_positions(model).keys()
    parameters = {name: parameter for name, parameter in model.named_parameters() if name not in never}
    adapters = {name for name in parameters if ADAPTER_PART in name}
    if update == "none":
        return {}
    if update == "head":
        parts = _head(model, parameters)
        chosen = {name for name in parameters if any(f".{part}." in f".{name}." for part in parts)}
    elif update == "adapters":
        chosen = adapters
    else:
        chosen = {name for name in parameters if any(_within(name, part) for part in PARTS[update])}
    moving = {
        name: parameter
        for name, parameter in parameters.items()
        if name in chosen and parameter.is_floating_point() and (name in adapters or not adapters)
    }
    if not moving:
        remedy = "Use update = all, or set model.update=adapters." if update == "adapters" else "Use update = all."
        raise ConfigError(f"The update strategy {update!r} names no parameter of this model.", remedy)
    return moving


def fixed_positions(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that are a table of sines and no weights, by name: those of Marian's positions."""
    tables = [(name, part) for name, part in model.named_modules() if "Sinusoidal" in type(part).__name__]
    return {f"{name}.{own}": table for name, part in tables for own, table in part.named_parameters(recurse=False)}


def has_adapter(model: nn.Module) -> bool:
    """Return whether a model has adapters, so that its own weights are a base that never moves."""
    return any(ADAPTER_PART in name for name, _ in model.named_parameters())


def _within(name: str, part: str) -> bool:
    if part.endswith("."):
        return name.startswith(part) or f".{part}" in name.replace("decoder.encoder_attn", "")
    return part in name


def _head(model: nn.Module, names: Iterable[str]) -> list[str]:
    """Return the parts of the head: the model's own, or the default one."""
    if chosen := getattr(getattr(model, "config", None), "metanmt_head", None):
        return list(chosen)
    layers = {found[0] for name in names if (found := re.search(r"decoder\.(?:layers|block)\.\d+", name))}
    last = sorted(layers, key=lambda part: int(part.rpartition(".")[2]))[-1:]
    return [*last, "decoder.layer_norm", "decoder.final_layer_norm", "lm_head"]


def move_only(model: nn.Module, update: str) -> list[nn.Parameter]:
    """Freeze everything that the strategy does not move, and return what it moves.

    Raises:
        ConfigError: the strategy names no parameter of this model.
    """
    chosen = update_weights(model, update)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in chosen)
    return list(chosen.values())


def parameter_count(model: nn.Module) -> int:
    """Return the number of parameters, tied ones once."""
    return sum(parameter.numel() for parameter in model.parameters())


def clip_gradient(parameters: Iterable[nn.Parameter], largest: float) -> Any:
    """Clip the global norm of the gradient to `largest` (0: leave it) and return the norm before, as a tensor."""
    return torch.nn.utils.clip_grad_norm_(parameters, largest or float("inf"))
