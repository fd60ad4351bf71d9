"""Checkpoints: ordinary Hugging Face folders, written whole or not at all."""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedModel

from metanmt.data.language import Pair
from metanmt.data.tokenizer import Tokenizer, load_tokenizer
from metanmt.errors import CheckpointError
from metanmt.nmt.lexicon import check_same_vectors, folded, load_lexicon, save_lexicon, say_if_unknown
from metanmt.nmt.model import check_vocabulary, first_tokens, load_model
from metanmt.runtime import quiet_transformers


def save_checkpoint(
    folder: Path, model: PreTrainedModel, tokenizer: Tokenizer, pair: Pair | None = None, *, lexicon: bool = False
) -> None:
    """Write model and tokenizer so that plain `transformers` loads and translates with them.

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
    if pair is not None:
        model.generation_config.update(**first_tokens(model, tokenizer.forced_bos_id(pair)))
    (folded(model, pair.source) if pair is not None else model).save_pretrained(folder)
    if lexicon:
        save_lexicon(folder, model)
    tokenizer.save(folder, pair)


def load_checkpoint(path: Path, pair: Pair | None = None) -> tuple[PreTrainedModel, Tokenizer]:
    """Return model (evaluation mode, CPU) and tokenizer of a checkpoint, or of the best one of a run.

    Args:
        path: a checkpoint, or a run.
        pair: which pair it is to translate: a universal lexicon is folded for it. Without one it stays, to be adapted.

    Raises:
        CheckpointError: nothing there, damaged, or the tokenizer does not belong to the model.
    """
    folder = checkpoint_folder(path)
    model = load_lexicon(folder, load_model(str(folder)))
    tokenizer = load_tokenizer(folder)
    check_vocabulary(model, tokenizer, str(folder))
    if pair is not None:
        say_if_unknown(model, pair.source)
        model = folded(model, pair.source)
    return model.eval(), tokenizer


def restore(model: PreTrainedModel, folder: Path) -> None:
    """Set the weights of a model in training to those of its checkpoint.

    Raises:
        CheckpointError: it cannot be loaded, or was trained with other vectors.
    """
    saved = load_lexicon(folder, load_model(str(folder)))
    check_same_vectors(model, saved, str(folder))
    model.load_state_dict(saved.state_dict())


def checkpoint_folder(path: Path) -> Path:
    """Return the folder with the model: `path` itself, or `path/best` if it is a meta-training run."""
    for folder in (path, path / "best"):
        if (folder / "config.json").is_file():
            return folder
    if (path / "config.toml").is_file():
        raise CheckpointError(
            f"The run {path} has not reached its first meta-validation: it has no best checkpoint.",
            f"Let it: metanmt meta-train ... --resume --out {path}; or give {path / 'last'}, if that is there.",
        )
    raise CheckpointError(
        f"{path} is not a checkpoint: it has no config.json.", "Give a folder that meta-train or fine-tune wrote."
    )


def check_tokenizer(tokenizer: Tokenizer, digest: str, checkpoint: str, data: Path) -> None:
    """Raise a CheckpointError if a checkpoint and a data folder have different tokenizers."""
    if tokenizer.digest() != digest:
        raise CheckpointError(
            f"{data} was prepared with another tokenizer than that of {checkpoint}.",
            "Use the data folder that the run was trained on, or give your text by --train.",
        )
