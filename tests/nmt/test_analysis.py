"""Movement and similarity of layers, on cases with a known answer."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from metanmt.data.batch import make_batch
from metanmt.data.store import Bitext
from metanmt.nmt.analysis import layer_of, linear_cka, relative_movement, representations


def test_parameters_belong_to_layers(toy_model: PreTrainedModel) -> None:
    layers = {layer_of(name) for name, _ in toy_model.named_parameters()}
    sides = {f"{side} {part}" for side in ("encoder", "decoder") for part in ("1", "2", "norm")}
    assert layers == {"embeddings", *sides}


def test_only_what_moved_has_moved(toy_model: PreTrainedModel) -> None:
    after = copy.deepcopy(toy_model)
    assert set(relative_movement(toy_model, after).values()) == {0.0}
    with torch.no_grad():
        for name, weight in after.named_parameters():
            if "encoder.layers.1" in name:
                weight.mul_(1.25)
    moved = relative_movement(toy_model, after)
    assert moved.pop("encoder 2") == pytest.approx(0.25)
    assert set(moved.values()) == {0.0}


def test_similarity_of_known_representations() -> None:
    torch.manual_seed(2)
    x = torch.randn(500, 12)
    rotation, _ = torch.linalg.qr(torch.randn(12, 12))
    assert linear_cka(x, x) == pytest.approx(1)
    assert linear_cka(x, 3 * x @ rotation + 5) == pytest.approx(1)
    assert linear_cka(x, torch.randn(500, 12)) < 0.1
    few, dimensions = torch.randn(8, 128), torch.randn(8, 128)
    assert abs(linear_cka(few, dimensions) or 0) < 0.3, "the plain estimate is above 0.9"
    assert linear_cka(few[:3], few[:3]) is None
    half = torch.cat([x[:, :6], torch.randn(500, 6)], dim=1)
    assert 0.3 < linear_cka(x, half) < 0.7


def test_similarity_is_the_unbiased_estimate_by_its_definition() -> None:
    torch.manual_seed(3)
    x, y = torch.randn(30, 5, dtype=torch.double), torch.randn(30, 7, dtype=torch.double)
    y[:, :3] += x[:, :3]

    def hsic(one: torch.Tensor, other: torch.Tensor) -> float:
        """Return it as Song et al. 2012 have it, from kernel matrices."""
        first, second, n = (one @ one.T).fill_diagonal_(0), (other @ other.T).fill_diagonal_(0), len(one)
        product = first @ second
        whole = product.trace() + first.sum() * second.sum() / ((n - 1) * (n - 2)) - 2 * product.sum() / (n - 2)
        return float(whole) / (n * (n - 3))

    assert linear_cka(x, y) == pytest.approx(hsic(x, y) / (hsic(x, x) * hsic(y, y)) ** 0.5)


def test_representations_leave_padding_out(toy_model: PreTrainedModel, toy_bitext: Bitext) -> None:
    model = toy_model.eval()
    indices = np.arange(20)
    small, large = (representations(model, make_batch(toy_bitext, indices, size, 0)) for size in (40, 10_000))
    assert list(small) == [f"{side} {part}" for side in ("encoder", "decoder") for part in ("input", "1", "2")]
    for name, values in small.items():
        lengths = getattr(toy_bitext, "source" if "encoder" in name else "target").lengths(indices)
        assert values.shape == large[name].shape == (int(lengths.sum()), model.config.d_model)
        assert torch.allclose(values, large[name], atol=1e-4)
    assert linear_cka(small["encoder 2"], small["encoder 2"]) == pytest.approx(1)
