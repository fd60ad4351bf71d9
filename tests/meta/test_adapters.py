"""What meta-training does with adapters: the base is shared between initialisation and learner, and never moves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from metanmt.config import AdapterConfig, Config, InnerConfig, ModelConfig, OuterConfig
from metanmt.data.batch import make_batch
from metanmt.data.store import Bitext
from metanmt.data.tokenizer import SentencePieceTokenizer
from metanmt.meta.outer import LEARNERS, make_optimizer, outer_step
from metanmt.meta.task import Episode
from metanmt.meta.weights import load_weights, make_learner, trainable_weights
from metanmt.nmt.adapter import make_with_adapter
from metanmt.nmt.checkpoint import save_checkpoint
from metanmt.nmt.loss import Loss
from tests import toy


@pytest.mark.parametrize("name", LEARNERS)
def test_only_adapters_move(name: str, tokenizer: SentencePieceTokenizer, toy_bitext: Bitext, tmp_path: Path) -> None:
    save_checkpoint(tmp_path, toy.make_m2m100(tokenizer.vocabulary_size), tokenizer)
    settings = ModelConfig(checkpoint=str(tmp_path), update="adapters", dropout=0.0)
    theta = make_with_adapter(settings, AdapterConfig(rank=2), tokenizer)
    phi = make_learner(theta)
    assert trainable_weights(phi).keys() == trainable_weights(theta).keys()
    assert all("lora_" in weight for weight in trainable_weights(theta))
    for (weight, one), other in zip(theta.named_parameters(), phi.parameters(), strict=True):
        assert (one is other) == (weight not in trainable_weights(theta)), "the base takes memory once"
    base = [weight for weight in dict(theta.named_parameters()) if "lora_" not in weight]
    before, moved = toy.weights_hash(theta, base), toy.weights_hash(theta, list(trainable_weights(theta)))
    learner = LEARNERS[name]
    support, query = (make_batch(toy_bitext, np.arange(start, start + 8), 500, 0) for start in (0, 8))
    episode = Episode(None, (support,) * 2 if learner.inner_loop else (), query if learner.query else None)  # type: ignore[arg-type]
    config = Config(settings, inner=InnerConfig(steps=2), outer=OuterConfig(meta_batch_size=1, learning_rate=1e-2))
    optimizer = make_optimizer(theta, config.outer)
    for _ in range(2):
        outer_step(theta, phi, [episode], optimizer, learner, config, Loss())
    assert toy.weights_hash(theta, base) == before == toy.weights_hash(phi, base)
    assert toy.weights_hash(theta, list(trainable_weights(theta))) != moved
    load_weights(phi, theta)
    assert all(torch.equal(weight, trainable_weights(phi)[key]) for key, weight in trainable_weights(theta).items())
