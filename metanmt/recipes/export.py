"""`metanmt export`: write a model as an ordinary checkpoint of its own, an adapter merged into its base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from metanmt.data.language import Pair
from metanmt.data.tokenizer import SentencePieceTokenizer
from metanmt.errors import UsageError
from metanmt.files import OR_OVERWRITE, new_folder, refuse_existing, write_json
from metanmt.nmt.checkpoint import keep_base, load_checkpoint, save_checkpoint, tuned_pair
from metanmt.nmt.folder import checkpoint_folder
from metanmt.nmt.lexicon import lexicon_of
from metanmt.runtime import versions

FACTS_FILE = "export.json"


def run(model: Path, out: Path, pair_name: str | None = None, *, overwrite: bool = False) -> dict[str, Any]:
    """Write the model as a Hugging Face folder that needs nothing beside it, and return what was written.

    Args:
        model: an adapter, which is merged into its base; a checkpoint; or a run, of which it is the best one.
        out: the new folder.
        pair_name: which pair plain `transformers` is to translate, such as "fi-en" (default: what it was adapted to).
        overwrite: replace an existing checkpoint.

    Raises:
        UsageError: the model translates into several languages, or was made for one pair, and none is given.
    """
    refuse_existing(out, overwrite=overwrite, marker=FACTS_FILE, remedy=OR_OVERWRITE)
    keep_base(model, out)
    pair = Pair.parse(pair_name) if pair_name else tuned_pair(model)
    network, tokenizer = load_checkpoint(model, pair)
    if pair is None and isinstance(tokenizer, SentencePieceTokenizer) and len(tokenizer.targets) > 1:
        raise UsageError(f"{model} translates into {', '.join(tokenizer.targets)}.", "Say which: --pair XX-YY.")
    if lexicon_of(network):
        raise UsageError(f"{model} has a universal lexicon, which is written for one pair.", "Give it: --pair XX-YY.")
    with new_folder(out, overwrite=overwrite, refuse=False) as folder:
        save_checkpoint(folder, network, tokenizer, pair)
        facts = {
            "made_from": str(checkpoint_folder(model)),
            "weights_bytes": sum(path.stat().st_size for path in folder.glob("*.safetensors")),
        }
        write_json(folder / FACTS_FILE, {**facts, "versions": versions()})
    return {"model": str(out), **facts}
