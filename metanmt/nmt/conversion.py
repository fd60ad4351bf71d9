"""Checkpoints in the format of CTranslate2: converted once, kept beside the checkpoint, made anew when it changes."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from metanmt.files import new_folder, read_object, write_json
from metanmt.nmt.checkpoint import base_folder, load_network
from metanmt.nmt.lexicon import LEXICON_FILE
from metanmt.runlog import say

FACTS_FILE = "metanmt_conversion.json"
KINDS = ("model*.safetensors", "adapter_model.safetensors", "*config.json")
POSITIONS = 2_048
CANNOT_WRITE = (errno.EACCES, errno.EPERM, errno.EROFS)
# Settings of generation_config.json that `generate` is given otherwise by us, or that do not change a search.
HARMLESS = {
    "_from_model_config", "bos_token_id", "decoder_start_token_id", "early_stopping", "eos_token_id",
    "forced_bos_token_id", "length_penalty", "max_length", "max_new_tokens", "num_beams", "pad_token_id",
    "transformers_version", "use_cache",
}  # fmt: skip


def obstacle(folder: Path) -> str | None:
    """Return why CTranslate2 cannot translate a checkpoint as `transformers` does, or None if it can."""
    try:
        config = read_object(folder / "config.json")
        path = folder / "generation_config.json"
        generation = read_object(path) if path.is_file() else {}
    except ValueError:
        return "its configuration is damaged"
    if (folder / LEXICON_FILE).is_file():
        return "it is a run with a universal lexicon, not yet fine-tuned to one language"
    if config.get("model_type") != "m2m_100":
        return f"it is a model of type {config.get('model_type')}, not m2m_100"
    if unusual := sorted(name for name in generation.keys() - HARMLESS if generation[name] not in (None, False)):
        return f"its generation_config.json sets {', '.join(unusual)}"
    if isinstance(generation.get("eos_token_id"), list):
        return "it has several end marks"
    return None


@contextmanager
def converted(folder: Path, quantization: str) -> Iterator[Path]:
    """Yield the folder of a converted checkpoint, which is complete and belongs to the present weights.

    It is `ctranslate2-QUANTIZATION` in the checkpoint; a temporary one where that cannot be written. An adapter is
    converted merged into its base, so that its folder grows to the size of a whole model.

    Args:
        folder: the checkpoint.
        quantization: float32 or int8.
    """
    cache, digest = folder / f"ctranslate2-{quantization}", _digest(folder)
    if _is_current(cache, digest):
        yield cache
        return
    try:
        with _one_at_a_time(folder):
            if not _is_current(cache, digest):
                say(f"converting {folder} for ctranslate2, {quantization}")
                with new_folder(cache, overwrite=True) as new:
                    _convert(folder, new, quantization, digest)
    except OSError as error:
        if error.errno not in CANNOT_WRITE:
            raise
        say(f"{folder} cannot be written to: the conversion is not kept")
        with tempfile.TemporaryDirectory(prefix="metanmt-") as temporary:
            _convert(folder, Path(temporary), quantization, digest)
            yield Path(temporary)
    else:
        yield cache


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Wait until no other process converts this checkpoint; on a file system without locks nothing waits."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def vocabulary_size(conversion: Path) -> int:
    """Return how many ids a converted checkpoint has."""
    return int(_facts(conversion)["vocabulary_size"])


def _is_current(cache: Path, digest: str) -> bool:
    try:
        facts = _facts(cache)
        return bool(facts["digest"] == digest and facts["bytes"] == _sizes(cache))
    except (OSError, ValueError, KeyError):
        return False


def _sizes(conversion: Path) -> dict[str, int]:
    """Return the size of every file, in bytes: a copy may have left one out, or a part of it."""
    return {path.name: path.stat().st_size for path in sorted(conversion.iterdir()) if path.name != FACTS_FILE}


def _facts(conversion: Path) -> dict[str, Any]:
    return read_object(conversion / FACTS_FILE)


def _digest(folder: Path) -> str:
    """Return a SHA-256 of what a conversion is made from: weights, configurations, of a base too, and converter."""
    digest = hashlib.sha256(f"1 {version('ctranslate2')}".encode())
    files = [path for place in {folder, base_folder(folder)} for kind in KINDS for path in place.glob(kind)]
    for path in sorted(files):
        digest.update(f"\n{path.name} {path.stat().st_size}\n".encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _convert(folder: Path, out: Path, quantization: str, digest: str) -> None:
    from ctranslate2.converters import TransformersConverter

    model = load_network(folder)
    for name in ("decoder_start_token_id", "eos_token_id"):
        if (index := getattr(model.generation_config, name)) is not None:
            setattr(model.config, name, index)
    for side in (model.get_encoder(), model.get_decoder()):
        positions, pad = side.embed_positions, side.embed_positions.padding_idx
        rows = max(POSITIONS, positions.weights.shape[0])  # transformers makes more when it needs them
        positions.make_weights(rows, positions.embedding_dim, pad)
        positions.offset = pad + 1  # where positions begin; the converter takes it for 2, as if padding were always 1
    ids = _Ids(model.config)
    converter = TransformersConverter(str(base_folder(folder)))
    converter.load_model = lambda *_, **__: model
    converter.load_tokenizer = lambda *_, **__: ids
    converter.convert(str(out), quantization=quantization, force=True)
    write_json(out / FACTS_FILE, {"digest": digest, "vocabulary_size": ids.size, "bytes": _sizes(out)})


class _Ids:
    """What the converter asks of a tokenizer: every token is the name of its id, so that ids pass unchanged."""

    def __init__(self, config: Any) -> None:
        self.size: int = config.vocab_size
        self.bos_token, self.eos_token, self.unk_token = str(config.bos_token_id), str(config.eos_token_id), "0"
        self.special_tokens_map: dict[str, Any] = {}

    def get_vocab(self) -> dict[str, int]:
        """Return every token with its id."""
        return {str(index): index for index in range(self.size)}

    def convert_ids_to_tokens(self, index: int) -> str:
        """Return the token of an id."""
        return str(index)
