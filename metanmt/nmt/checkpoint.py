"""Checkpoints: ordinary Hugging Face folders, or adapters of one, written whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForSeq2SeqLM, PreTrainedModel

from metanmt.config import AdapterConfig, ModelConfig
from metanmt.data.language import Pair
from metanmt.data.tokenizer import Tokenizer, load_tokenizer
from metanmt.errors import CheckpointError, MetanmtError, UsageError
from metanmt.files import read_object
from metanmt.nmt.adapter import (
    Base,
    adapter_tokenizer,
    add_adapter,
    load_adapter,
    open_base,
    remove_adapter,
    restore_adapter,
    save_adapter,
)
from metanmt.nmt.folder import TUNING_FILE, checkpoint_folder, is_adapter, start_folder
from metanmt.nmt.lexicon import (
    check_same_vectors,
    folded,
    lexicon_of,
    load_lexicon,
    save_lexicon,
    say_if_unknown,
)
from metanmt.nmt.model import (
    check_vocabulary,
    first_tokens,
    has_adapter,
    load_model,
    make_model,
    set_head,
)
from metanmt.runlog import say
from metanmt.runtime import quiet_transformers


def save_checkpoint(
    folder: Path, model: PreTrainedModel, tokenizer: Tokenizer, pair: Pair | None = None, *, lexicon: bool = False
) -> None:
    """Write model and tokenizer so that plain `transformers` loads and translates with them; an adapter alone.

    A universal lexicon is folded into an ordinary table for the source language of `pair`.

    Args:
        folder: an existing or new folder, normally a temporary one that is renamed afterwards.
        model: saved in float32 safetensors.
        tokenizer: saved beside it, set to the languages of `pair`.
        pair: which pair a plain `AutoTokenizer` is to translate; its first tokens go into the generation
            configuration.
        lexicon: keep a universal lexicon of all languages beside the model, for `load_checkpoint` and `restore`.
    """
    quiet_transformers()
    if has_adapter(model):
        save_adapter(folder, model, tokenizer)
        return
    if pair is not None:
        model.generation_config.update(**first_tokens(model, tokenizer.forced_bos_id(pair)))
    (folded(model, pair.source) if pair is not None else model).save_pretrained(folder)
    if lexicon:
        save_lexicon(folder, model)
    tokenizer.save(folder, pair)


def load_checkpoint(path: Path, pair: Pair | None = None) -> tuple[PreTrainedModel, Tokenizer]:
    """Return model (evaluation mode, CPU) and tokenizer of a checkpoint, or of the best one of a run.

    An adapter comes merged into its base, as an ordinary model.

    Args:
        path: a checkpoint, or a run.
        pair: which pair it is to translate: a universal lexicon is folded for it. Without one it stays, to be adapted.

    Raises:
        CheckpointError: nothing there, damaged, or the tokenizer does not belong to the model.
    """
    folder = checkpoint_folder(path)
    model, tokenizer = load_network(folder), checkpoint_tokenizer(folder)
    check_vocabulary(model, tokenizer, str(folder))
    if pair is not None:
        say_if_unknown(model, pair.source)
        model = folded(model, pair.source)
    return model.eval(), tokenizer


def load_with_adapter(path: Path, config: AdapterConfig) -> tuple[PreTrainedModel, Tokenizer]:
    """Return the model (evaluation mode, CPU) and tokenizer of a checkpoint with an adapter on the frozen model.

    Args:
        path: an adapter, which is taken as it is; or a checkpoint or run, which gets a new one from torch's random
            state.
        config: of a new one.

    Raises:
        CheckpointError: as `load_checkpoint`.
    """
    folder = checkpoint_folder(path)
    if is_adapter(folder):
        model, tokenizer = load_adapter(folder)
        return model.eval(), tokenizer
    model, tokenizer = load_checkpoint(folder)
    if lexicon_of(model):
        raise CheckpointError(
            f"{path} has a universal lexicon, whose weights differ from language to language: no base of adapters.",
            "Fine-tune it with another --update first; that model can be a base.",
        )
    add_adapter(model, config, Base.of(folder, tokenizer))
    return model, tokenizer


def load_network(folder: Path) -> PreTrainedModel:
    """Return the model in a checkpoint's folder; an adapter merged into its base."""
    if not is_adapter(folder):
        return load_lexicon(folder, load_model(str(folder)))
    model, _ = load_adapter(folder)
    remove_adapter(model, merge=True)
    return model


def load_state(model: PreTrainedModel, folder: Path) -> None:
    """Set the weights of a model to those that `save_checkpoint` wrote of it: the whole, or its adapter.

    Raises:
        CheckpointError: it cannot be loaded, or was trained with other vectors.
    """
    if has_adapter(model):
        restore_adapter(model, folder)
        return
    saved = load_network(folder)
    check_same_vectors(model, saved, str(folder))
    model.load_state_dict(saved.state_dict())


def checkpoint_tokenizer(folder: Path) -> Tokenizer:
    """Return the tokenizer of a checkpoint's folder; of an adapter, that of its base."""
    return adapter_tokenizer(folder) if is_adapter(folder) else load_tokenizer(folder)


def base_folder(folder: Path) -> Path:
    """Return the folder with the configuration of the model: that of the base, for an adapter."""
    return open_base(folder).folder if is_adapter(folder) else folder


def tuned_pair(path: Path) -> Pair | None:
    """Return which pair a checkpoint was fine-tuned for; None if for none, or if that is not known."""
    try:
        return Pair.parse(_tuning_facts(path)["pair"])
    except (KeyError, TypeError, AttributeError, UsageError):
        return None


def tuned_chrf(path: Path) -> float | None:
    """Return the chrF++ of a fine-tuned checkpoint on its dev set; None if it was not chosen by scores, or is none."""
    try:
        return float(_tuning_facts(path)["best"]["chrf"]) or None  # it is 0 where the loss chose
    except (KeyError, TypeError, ValueError):
        return None


def _tuning_facts(path: Path) -> dict[str, Any]:
    try:
        return read_object(checkpoint_folder(path) / TUNING_FILE)
    except (OSError, ValueError, MetanmtError):
        return {}


def say_if_tuned_for_another(path: Path, pair: Pair) -> None:
    """Say so if a checkpoint was fine-tuned to translate from another language."""
    tuned = tuned_pair(path)
    if tuned is not None and tuned.source != pair.source:
        say(f"Note: {checkpoint_folder(path)} was fine-tuned for {tuned}, from another language than that of {pair}.")


def keep_base(path: Path, out: Path, *, as_base: bool = False) -> None:
    """Raise a UsageError if an output folder would replace the base of an adapter, which is no model without it.

    Args:
        path: a checkpoint or run that is read; of an adapter, the base is not to be replaced.
        out: the output folder, which is replaced as a whole.
        as_base: an adapter is about to be made on `path`.
    """
    folder = checkpoint_folder(path)
    if (as_base or is_adapter(folder)) and base_folder(folder).resolve().is_relative_to(out.resolve()):
        raise UsageError(f"--out {out} would replace the base of the adapter.", "Give another --out.")


def outline(model: ModelConfig, tokenizer: Tokenizer, checkpoint: str = "") -> PreTrainedModel:
    """Return a model by the names and shapes of its parameters alone: without weights, without memory.

    Args:
        model: its configuration, which may name a checkpoint.
        tokenizer: for a model from scratch.
        checkpoint: a run or checkpoint to take instead; of an adapter, the base.

    Raises:
        CheckpointError: the checkpoint is not there.
        ConfigError: `model.head` names no parameter.
    """
    folder = checkpoint_folder(Path(checkpoint)) if checkpoint else model.checkpoint and start_folder(model.checkpoint)
    with torch.device("meta"):
        if not folder:
            return make_model(model, tokenizer)
        path = base_folder(folder) / "config.json"
        try:
            values = read_object(path)
        except ValueError:
            raise CheckpointError(f"{path} is damaged.", "Copy the checkpoint again, or make it anew.") from None
        network = AutoModelForSeq2SeqLM.from_config(AutoConfig.for_model(**values))
    set_head(network, model.head)
    return network


def check_tokenizer(tokenizer: Tokenizer, digest: str, checkpoint: str, data: Path) -> None:
    """Raise a CheckpointError if a checkpoint does not have the tokenizer of a data folder, or one that extends it."""
    if digest not in (tokenizer.digest(), *getattr(tokenizer, "extends", ())):
        raise CheckpointError(
            f"{data} was prepared with another tokenizer than that of {checkpoint}.",
            f"Use the data it was trained on, or prepare this text anew: metanmt prepare ... --tokenizer {checkpoint}",
        )
