"""Gradient accumulation changes memory and nothing else: in the inner loop, the outer loop, and fine-tuning."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from metanmt.config import Config, FineTuneConfig, InnerConfig, OuterConfig
from metanmt.data.batch import Batch, MicroBatch, make_batch
from metanmt.data.store import Bitext
from metanmt.data.tokenizer import SentencePieceTokenizer
from metanmt.meta.adaptation import adapt
from metanmt.meta.learners import learner_class
from metanmt.meta.outer import outer_optimizer, outer_step
from metanmt.meta.task import Episode
from metanmt.nmt.loss import Loss
from metanmt.nmt.model import update_weights
from metanmt.nmt.tuning import fine_tune
from tests import toy

LOSS = Loss(label_smoothing=0.1, precision="float32")
CONFIG = Config(
    inner=InnerConfig(steps=2, learning_rate=0.01),
    outer=OuterConfig(clip_norm=0.0, meta_batch_size=2, learner="fomaml"),
)


def cut(batch: Batch, parts: int) -> Batch:
    """Return the same logical batch in this many micro-batches."""
    whole = batch.micro_batches[0]
    rows = zip(whole.source.tensor_split(parts), whole.labels.tensor_split(parts), strict=True)
    return Batch(tuple(MicroBatch(source, labels, whole.pad_id) for source, labels in rows), batch.target_tokens)


def episodes(bitext: Bitext, parts: int) -> list[Episode]:
    """Return two episodes of two support batches and a query set, eight sentences each."""
    batches = [cut(make_batch(bitext, np.arange(8 * n, 8 * n + 8), 10_000, 0), parts) for n in range(6)]
    return [Episode(toy.PAIR, tuple(batches[:2]), batches[2]), Episode(toy.PAIR, tuple(batches[3:5]), batches[5])]


def test_halving_keeps_every_sentence(toy_bitext: Bitext) -> None:
    batch: Batch | None = make_batch(toy_bitext, np.arange(9), 10_000, 0)
    counts = []
    while batch is not None:
        assert sum(len(part.source) for part in batch) == 9
        assert sum(int((part.labels != 0).sum()) for part in batch) == batch.target_tokens
        counts.append(len(batch.micro_batches))
        batch = batch.halved()
    assert counts[0] == 1
    assert counts[-1] == 9


def distance(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> float:
    """Return the relative error between two lists of tensors."""
    squares = sum(float((a - b).detach().double().square().sum()) for a, b in zip(ours, theirs, strict=True))
    return (squares / sum(float(a.detach().double().square().sum()) for a in ours)) ** 0.5


@pytest.mark.parametrize("parts", [2, 8])
def test_the_inner_loop_moves_alike(toy_model: PreTrainedModel, toy_bitext: Bitext, parts: int) -> None:
    moved = []
    for count in (1, parts):
        learner = copy.deepcopy(toy_model)
        adapt(learner, episodes(toy_bitext, count)[0].support, CONFIG.inner, LOSS)
        pairs = zip(learner.parameters(), toy_model.parameters(), strict=True)
        moved.append([(new - old).detach() for new, old in pairs])
    assert distance(*moved) < 1e-4  # of the movement itself, a hundredth of the weights
    assert any(float(part.abs().max()) > 0 for part in moved[0])


@pytest.mark.parametrize("learner", ["joint", "fomaml", "maml", "maml++"])
@pytest.mark.parametrize("parts", [2, 8])
def test_the_outer_gradient_is_the_same(
    toy_model: PreTrainedModel, toy_bitext: Bitext, parts: int, learner: str
) -> None:
    gradients = []
    for count in (1, parts):
        initialization = copy.deepcopy(toy_model)
        optimizer = torch.optim.SGD(initialization.parameters(), lr=0.0)
        found = episodes(toy_bitext, count)
        if learner == "joint":
            found = [replace(episode, support=()) for episode in found]
        made = learner_class(learner)(initialization, CONFIG)
        outer_step(initialization, found, optimizer, made, CONFIG.outer, LOSS)
        gradients.append([weight.grad for weight in initialization.parameters() if weight.grad is not None])
    assert distance(*gradients) < 1e-5


@pytest.mark.parametrize("exact", [False, True])
def test_a_graph_through_the_inner_loop_holds_one_micro_batch_of_the_query(
    toy_model: PreTrainedModel, toy_bitext: Bitext, *, exact: bool
) -> None:
    """What is saved for backward, at most at a time, beyond the inner loop's own graph."""
    inner = replace(CONFIG.inner, first_order_share=0.0 if exact else 1.0)
    learner = learner_class("maml")(toy_model, replace(CONFIG, inner=inner))
    held = Held()
    peaks = []
    for parts in (1, 8):
        episode = episodes(toy_bitext, parts)[0]
        learner.load(toy_model)
        with held:
            learner.adapt(episode.support, LOSS)
            before, held.most = held.now, 0
            learner.accumulate(toy_model, episode.query, LOSS, scale=1.0)
        peaks.append(held.most - before)
    assert 0 < peaks[1] < peaks[0] / 3


class Held(torch.autograd.graph.saved_tensors_hooks):
    """Counts the numbers that are saved for backward: now, and at most since `most` was set."""

    def __init__(self) -> None:
        super().__init__(self.pack, lambda kept: kept.tensor)
        self.now = self.most = 0

    def pack(self, tensor: torch.Tensor) -> Kept:
        self.now += tensor.numel()
        self.most = max(self.most, self.now)
        return Kept(tensor, self)


class Kept:
    """A saved tensor, until the graph lets go of it."""

    def __init__(self, tensor: torch.Tensor, held: Held) -> None:
        self.tensor, self.held = tensor, held

    def __del__(self) -> None:
        self.held.now -= self.tensor.numel()


def test_fine_tuning_ends_alike(
    toy_model: PreTrainedModel, toy_bitext: Bitext, tokenizer: SentencePieceTokenizer
) -> None:
    settings = FineTuneConfig(
        dropout=0.0, metric="loss", max_tokens=200, min_updates=5, max_updates=5, evaluations=1, learning_rate=1e-4
    )
    ended = []
    for micro_tokens in (10_000, 60, 20):
        model = copy.deepcopy(toy_model)
        fine_tune(
            model,
            tokenizer,
            toy.PAIR,
            toy_bitext,
            toy_bitext.head(10),
            settings,
            seed=1,
            precision="float32",
            micro_tokens=micro_tokens,
        )
        ended.append([weight.detach() for weight in model.parameters()])
    assert distance(ended[0], list(toy_model.parameters())) > 1e-5
    for other in ended[1:]:
        assert distance(ended[0], other) < 1e-5


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_reptile_moves_only_what_its_inner_loop_moves(
    toy_model: PreTrainedModel, toy_bitext: Bitext, optimizer: str
) -> None:
    """A joint phase leaves moments behind; of a gradient of zeros Muon would go on making full steps with them."""
    config = Config(
        inner=InnerConfig(steps=2, learning_rate=0.1, update="embeddings+encoder"),
        outer=OuterConfig(meta_batch_size=2, learner="reptile", optimizer=optimizer, learning_rate=1e-2),  # type: ignore[arg-type]
    )
    learner, joint = (learner_class(name)(toy_model, config) for name in ("reptile", "joint"))
    moving = outer_optimizer(toy_model, learner.own, config.outer)
    outer_step(toy_model, episodes(toy_bitext, 1), moving, joint, config.outer, LOSS)
    before = {name: weight.detach().clone() for name, weight in toy_model.named_parameters()}
    for _ in range(3):
        outer_step(toy_model, episodes(toy_bitext, 1), moving, learner, config.outer, LOSS)
    moved = {name for name, weight in toy_model.named_parameters() if not torch.equal(weight, before[name])}
    assert moved == set(update_weights(toy_model, "embeddings+encoder"))
