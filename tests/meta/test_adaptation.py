"""The inner loop on a model: what moves, by which optimiser."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from metanmt.config import InnerConfig
from metanmt.data.batch import make_batch
from metanmt.data.store import Bitext
from metanmt.meta.adaptation import adapt
from metanmt.nmt.loss import Loss
from metanmt.nmt.model import update_weights
from metanmt.nmt.optimizer import layer_matrices, make_optimizer
from tests import toy

LOSS = Loss(precision="float32")


@pytest.mark.parametrize("update", ["all", "decoder"])
def test_muons_inner_loop_is_that_of_fine_tuning_anew_in_every_episode(
    toy_model: PreTrainedModel, toy_bitext: Bitext, update: str
) -> None:
    support = [make_batch(toy_bitext, np.arange(8 * n, 8 * n + 8), 10_000, 0) for n in range(2)]
    inner = InnerConfig(optimizer="muon", learning_rate=1e-2, update=update)  # type: ignore[arg-type]
    by_hand = copy.deepcopy(toy_model)
    weights = list(update_weights(by_hand, update).values())
    optimizer = make_optimizer(
        "muon", by_hand, [{"params": weights}], learning_rate=1e-2, beta2=0.999, weight_decay=0.0
    )
    for batch in support:
        by_hand.zero_grad()
        LOSS.backward(by_hand, batch)
        optimizer.step()
    fast = copy.deepcopy(toy_model)
    for _ in range(2):
        fast.load_state_dict(toy_model.state_dict())
        adapt(fast, support, inner, LOSS)
        assert toy.weights_hash(fast) == toy.weights_hash(by_hand)
    moved = [not torch.equal(a, b) for a, b in zip(layer_matrices(fast), layer_matrices(toy_model), strict=True)]
    assert all(moved) if update == "all" else 0 < sum(moved) < len(moved)
