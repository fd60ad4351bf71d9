"""Muon for the matrices of layers and AdamW for the rest, as one optimiser."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import PreTrainedModel

from metanmt.config import AdapterConfig
from metanmt.nmt.adapter import passing_adapter
from metanmt.nmt.optimizer import MuonAdamW, layer_matrices, make_optimizer
from metanmt.nmt.vocabulary import own_rows
from tests import toy

RATE = 1e-2
VOCABULARY = 60


@pytest.fixture
def model() -> PreTrainedModel:
    return toy.make_m2m100(VOCABULARY)


def names_of_matrices(model: PreTrainedModel) -> set[str]:
    matrices = {id(matrix) for matrix in layer_matrices(model)}
    return {name for name, weight in model.named_parameters() if id(weight) in matrices}


def optimizer_of(model: PreTrainedModel, name: str = "muon", decay: float = 0.0) -> torch.optim.Optimizer:
    groups = [{"params": list(model.parameters())}]
    return make_optimizer(name, model, groups, learning_rate=RATE, beta2=0.98, weight_decay=decay)  # type: ignore[arg-type]


def step(model: PreTrainedModel, optimizer: torch.optim.Optimizer, seed: int) -> None:
    """Make an update by gradients of this seed, some of whose directions are a hundred times as small as others."""
    random = torch.Generator().manual_seed(seed)
    for weight in model.parameters():
        weight.grad = torch.randn(weight.shape, generator=random)
        if weight.ndim == 2:
            weight.grad *= torch.logspace(0, -2, weight.shape[1])
    optimizer.step()


def test_the_matrices_are_the_projections_of_the_layers(model: PreTrainedModel) -> None:
    names = names_of_matrices(model)
    layers = model.config.encoder_layers, model.config.decoder_layers
    assert len(names) == layers[0] * 6 + layers[1] * 10
    assert all(".layers." in name and name.endswith(".weight") for name in names)
    assert not any("norm" in name or "embed" in name or "shared" in name for name in names)


def test_a_table_with_rows_of_a_language_behind_it_is_none(model: PreTrainedModel) -> None:
    names = names_of_matrices(model)
    with own_rows([model], torch.zeros(2, model.config.d_model), written=True):
        assert names_of_matrices(model) == names


def test_the_factors_of_an_adapter_are_no_matrices_of_a_layer(model: PreTrainedModel) -> None:
    before = len(layer_matrices(model))
    with passing_adapter(model, AdapterConfig(rank=2), wanted=True):
        assert any("lora" in name for name, _ in model.named_parameters())
        assert not any("lora" in name for name in names_of_matrices(model))
        assert len(layer_matrices(model)) == before


def test_a_matrix_moves_in_all_directions_alike_and_the_rest_as_by_adamw(model: PreTrainedModel) -> None:
    other = copy.deepcopy(model)
    before = copy.deepcopy(dict(model.named_parameters()))
    step(model, optimizer_of(model), seed=1)
    step(other, optimizer_of(other, "adamw"), seed=1)
    by_adamw, matrices = dict(other.named_parameters()), names_of_matrices(model)
    for name, weight in model.named_parameters():
        if name not in matrices:
            assert torch.equal(weight, by_adamw[name])
            continue
        moved, asked = (torch.linalg.svdvals(tensor) for tensor in (weight - before[name], weight.grad))
        smallish = len(moved) * 3 // 4
        assert asked[smallish] < asked[0] / 8
        assert moved[smallish] > moved[0] / 2
        assert 0.5 < moved[0] / (0.2 * RATE * max(weight.shape) ** 0.5) < 1.3
        assert not torch.allclose(weight, by_adamw[name], atol=RATE / 10)


def test_the_rate_and_the_decay_of_a_group_hold_for_both(model: PreTrainedModel) -> None:
    weights = list(model.parameters())
    halves = weights[: len(weights) // 2], weights[len(weights) // 2 :]
    groups = [{"params": halves[0], "scale": 1}, {"params": halves[1], "scale": 2, "weight_decay": 0.0}]
    optimizer = make_optimizer("muon", model, groups, learning_rate=RATE, beta2=0.98, weight_decay=0.5)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(weights)
    matrices = {id(matrix) for matrix in layer_matrices(model)}
    kinds = {(group["scale"], id(group["params"][0]) in matrices) for group in optimizer.param_groups}
    assert kinds == {(1, True), (1, False), (2, True), (2, False)}
    for group in optimizer.param_groups:
        assert group["weight_decay"] == (0.5 if group["scale"] == 1 else 0.0)
        group["lr"] = 0.0
    before = toy.weights_hash(model)
    step(model, optimizer, seed=1)
    assert toy.weights_hash(model) == before
    for group in optimizer.param_groups:
        group["lr"] = RATE
    start = [weight.detach().clone() for weight in weights]
    for weight in weights:
        weight.grad = torch.zeros_like(weight)
    optimizer.state.clear()
    optimizer.step()
    for index, (weight, old) in enumerate(zip(weights, start, strict=True)):
        decay = 0.5 if index < len(halves[0]) else 0.0
        torch.testing.assert_close(weight.detach(), old * (1 - RATE * decay))


def test_another_goes_on_from_its_state_with_the_same_bits(model: PreTrainedModel) -> None:
    other = copy.deepcopy(model)
    one, two = optimizer_of(model), optimizer_of(other)
    step(model, one, seed=1)
    other.load_state_dict(model.state_dict())
    two.load_state_dict(copy.deepcopy(one.state_dict()))
    step(model, one, seed=2)
    step(other, two, seed=2)
    assert toy.weights_hash(model) == toy.weights_hash(other)
    assert {frozenset(moments) for moments in two.state.values()} == {
        frozenset({"momentum_buffer"}),
        frozenset({"step", "exp_avg", "exp_avg_sq"}),
    }


@pytest.mark.parametrize("embeddings", [True, False])
def test_one_of_the_two_may_have_nothing_to_do(model: PreTrainedModel, embeddings: bool) -> None:
    chosen = [model.get_input_embeddings().weight] if embeddings else layer_matrices(model)
    optimizer = make_optimizer("muon", model, [{"params": chosen}], learning_rate=RATE, beta2=0.98, weight_decay=0.0)
    before = toy.weights_hash(model)
    step(model, optimizer, seed=1)
    assert toy.weights_hash(model) != before
    assert len(optimizer.state) == len(chosen)


def test_a_weight_without_a_gradient_stays(model: PreTrainedModel) -> None:
    optimizer = optimizer_of(model, decay=0.1)
    assert isinstance(optimizer, MuonAdamW)
    before = toy.weights_hash(model)
    optimizer.step()
    assert toy.weights_hash(model) == before
