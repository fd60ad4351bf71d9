"""What meta-training does with adapters: the base is shared between initialisation and learner, and never moves."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch

from metanmt.config import AdapterConfig, Config, InnerConfig, LearnerName, ModelConfig, OuterConfig
from metanmt.data.batch import make_batch
from metanmt.data.store import Bitext
from metanmt.data.tokenizer import SentencePieceTokenizer
from metanmt.meta.learners import learner_class
from metanmt.meta.outer import outer_optimizer, outer_step
from metanmt.meta.task import Episode
from metanmt.meta.weights import load_weights, trainable_weights
from metanmt.nmt.adapter import make_with_adapter
from metanmt.nmt.checkpoint import save_checkpoint
from metanmt.nmt.loss import Loss
from tests import toy


@pytest.mark.parametrize("name", get_args(LearnerName))
def test_only_adapters_move(name: str, tokenizer: SentencePieceTokenizer, toy_bitext: Bitext, tmp_path: Path) -> None:
    save_checkpoint(tmp_path, toy.make_m2m100(tokenizer.vocabulary_size), tokenizer)
    settings = ModelConfig(checkpoint=str(tmp_path), update="adapters", dropout=0.0)
    theta = make_with_adapter(settings, AdapterConfig(rank=2), tokenizer)
    inner, outer = InnerConfig(steps=2, hidden=3), OuterConfig(meta_batch_size=1, learning_rate=1e-2)
    learner = learner_class(name)(theta, Config(settings, inner=inner, outer=outer))
    phi = learner.fast_model
    assert trainable_weights(phi).keys() == trainable_weights(theta).keys()
    assert all("lora_" in weight for weight in trainable_weights(theta))
    for (weight, one), other in zip(theta.named_parameters(), phi.parameters(), strict=True):
        assert (one is other) == (weight not in trainable_weights(theta)), "the base takes memory once"
    base = [weight for weight in dict(theta.named_parameters()) if "lora_" not in weight]
    before, moved = toy.weights_hash(theta, base), toy.weights_hash(theta, list(trainable_weights(theta)))
    support, query = (make_batch(toy_bitext, np.arange(start, start + 8), 500, 0) for start in (0, 8))
    episode = Episode(None, (support,) * learner.inner_steps, query if learner.query else None)  # type: ignore[arg-type]
    optimizer = outer_optimizer(theta, learner.own, outer)
    for _ in range(2):
        outer_step(theta, [episode], optimizer, learner, outer, Loss())
    assert toy.weights_hash(theta, base) == before == toy.weights_hash(phi, base)
    assert toy.weights_hash(theta, list(trainable_weights(theta))) != moved
    load_weights(phi, theta)
    assert all(torch.equal(weight, trainable_weights(phi)[key]) for key, weight in trainable_weights(theta).items())
