"""Sequence-to-sequence Transformers of the `transformers` library: made from a size, or a pretrained checkpoint."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoModelForSeq2SeqLM, M2M100Config, M2M100ForConditionalGeneration, PreTrainedModel

from metanmt.config import ModelConfig
from metanmt.data.tokenizer import Tokenizer
from metanmt.errors import CheckpointError, ConfigError
from metanmt.nmt.lexicon import outer_only
from metanmt.runtime import quiet_transformers

# d_model, feed-forward, layers of encoder and of decoder, heads
SIZES: dict[str, tuple[int, int, int, int]] = {
    "tiny": (128, 512, 2, 4),
    "small": (256, 1024, 4, 4),
    "base": (512, 2048, 6, 8),
    "gu2018": (512, 512, 6, 8),
}


def make_model(config: ModelConfig, tokenizer: Tokenizer) -> PreTrainedModel:
    """Return the model of a configuration, in training mode, in float32 on the CPU.

    From scratch it is an M2M100 configuration: pre-norm, sinusoidal positions, SDPA attention, one embedding matrix
    for source, target and output. Its weights follow from torch's random state.

    Raises:
        CheckpointError: a pretrained checkpoint that cannot be loaded or has another vocabulary.
    """
    quiet_transformers()
    if config.checkpoint:
        model = load_model(config.checkpoint)
        check_vocabulary(model, tokenizer, config.checkpoint)
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
        )
        model = M2M100ForConditionalGeneration(shape)
        model.generation_config.max_length = None
    set_dropout(model, config.dropout)
    return model.train()


def load_model(name: str) -> PreTrainedModel:
    """Return a sequence-to-sequence checkpoint from a folder or the hub, in float32.

    Only safetensors weights are read: nothing is ever unpickled.
    """
    quiet_transformers()
    try:
        model, facts = AutoModelForSeq2SeqLM.from_pretrained(
            name, dtype=torch.float32, use_safetensors=True, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise _not_loaded(name, (str(error).strip() or type(error).__name__).splitlines()[0]) from None
    if absent := sorted(facts["missing_keys"]):  # transformers would fill them at random and go on
        raise _not_loaded(name, f"{len(absent)} weights are missing, such as {absent[0]}.")
    return model


def _not_loaded(name: str, reason: str) -> CheckpointError:
    return CheckpointError(
        f"No sequence-to-sequence model can be loaded from {name}: {reason}",
        "Give the folder of a complete Hugging Face checkpoint with safetensors weights.",
    )


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


def update_weights(model: nn.Module, update: str) -> dict[str, nn.Parameter]:
    """Return the parameters that an update strategy moves, by name; tied ones once.

    Strategies (Gu et al. 2018): all; embeddings; embeddings+encoder. With one shared embedding matrix "embeddings"
    moves the output projection too. What languages share of a universal lexicon is never moved by an adaptation.

    Raises:
        ConfigError: the strategy names no parameter of this model.
    """
    parts = {
        "all": ("",),
        "embeddings": ("shared", "embed_tokens", "lm_head"),
        "embeddings+encoder": ("shared", "embed_tokens", "lm_head", "encoder."),
    }[update]
    shared = outer_only(model)
    chosen = {
        name: parameter
        for name, parameter in model.named_parameters()
        if name not in shared and any(_within(name, part) for part in parts) and parameter.is_floating_point()
    }
    if not chosen:
        raise ConfigError(f"The update strategy {update!r} names no parameter of this model.", "Use update = all.")
    return chosen


def _within(name: str, part: str) -> bool:
    if part.endswith("."):
        return name.startswith(part) or f".{part}" in name.replace("decoder.encoder_attn", "")
    return part in name


def move_only(model: nn.Module, update: str) -> list[nn.Parameter]:
    """Freeze everything that the strategy does not move, and return what it moves."""
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
