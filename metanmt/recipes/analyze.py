"""`metanmt analyze`: which layers an adaptation moved, and which representations it left as they were."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from metanmt.data.batch import make_batch
from metanmt.data.language import Pair
from metanmt.data.store import TokenStore
from metanmt.errors import CheckpointError, UsageError
from metanmt.nmt.analysis import linear_cka, place_of, relative_movement, representations, same_but_for_new_rows
from metanmt.nmt.checkpoint import check_tokenizer, load_checkpoint
from metanmt.nmt.tuning_text import as_read_by
from metanmt.runtime import device, versions

MICRO_TOKENS = 2_000


def run(
    before: Path, after: Path, data: Path, pair_name: str, *, split: str = "dev", sentences: int = 200
) -> dict[str, Any]:
    """Return, layer by layer, the relative movement of the weights and the linear CKA of the representations.

    Of an adaptation with new pieces, what moved is that of the others, and a layer of a side that reads other tokens
    than before has no CKA. How far embeddings moved includes what counterparts set at the start.

    Args:
        before: the initialisation, a run or checkpoint.
        after: what it was adapted to.
        data: the prepared data folder.
        pair_name: such as "fi-en"; its sentences are represented.
        split: which set of the pair.
        sentences: how many of it at most.
    """
    if sentences < 1:
        raise UsageError("There are no sentences to represent.", "Give --sentences a positive number.")
    pair, store = Pair.parse(pair_name), TokenStore.open(data)
    bitext = store.bitext(pair, split).head(sentences)
    models, states = [], []
    for path in (before, after):
        model, tokenizer = load_checkpoint(path, pair)
        check_tokenizer(tokenizer, store.digest, str(path), data)
        text = as_read_by(tokenizer, store, pair, bitext)
        # One by one: in larger batches the order would depend on how long sentences are to each tokenizer.
        each = (make_batch(text, np.array([index]), MICRO_TOKENS, tokenizer.pad_id) for index in range(len(text)))
        models.append(model.to(device()))
        states.append(representations(model, chain.from_iterable(each)))
    if not same_but_for_new_rows(*models):
        raise CheckpointError(
            f"{after} is not an adaptation of {before}: their shapes differ.",
            "Give the run or checkpoint that it was fine-tuned from as --init.",
        )
    pairs = {name: (values, states[1][name]) for name, values in states[0].items()}
    similarity = {name: linear_cka(*both) for name, both in pairs.items() if len(both[0]) == len(both[1])}
    movement = relative_movement(models[0], models[1])
    return {
        "init": str(before),
        "model": str(after),
        "pair": pair_name,
        "set": split,
        "sentences": len(bitext),
        "layers": [
            {"layer": name, "movement": movement.get(name), "cka": similarity.get(name)}
            for name in sorted({*movement, *similarity}, key=place_of)
        ],
        "versions": versions(),
    }
