"""Muon: the update of torch's, in the precision of the device, for all matrices of a shape at once."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from metanmt.nmt import muon
from metanmt.nmt.muon import Muon, orthogonalized

RATE, DECAY = 1e-2, 0.1
SHAPES = [(6, 6), (6, 6), (6, 20), (20, 6), (3, 5)]


def weights_and_gradients(seed: int = 1) -> tuple[list[nn.Parameter], list[torch.Tensor]]:
    random = torch.Generator().manual_seed(seed)
    drawn = [torch.randn(shape, generator=random) for shape in SHAPES + SHAPES]
    return [nn.Parameter(weight) for weight in drawn[: len(SHAPES)]], drawn[len(SHAPES) :]


def moved(optimizer_of: type | object, steps: int = 3) -> list[torch.Tensor]:
    weights, gradients = weights_and_gradients()
    optimizer = optimizer_of(weights)  # type: ignore[operator]
    for step in range(steps):
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.grad = gradient * (1 + step)
        optimizer.step()
    return [weight.detach() for weight in weights]


def test_the_update_is_that_of_torch() -> None:
    ours = moved(lambda weights: Muon([{"params": weights}], lr=RATE, weight_decay=DECAY))
    theirs = moved(
        lambda weights: torch.optim.Muon(
            weights, lr=RATE, weight_decay=DECAY, momentum=muon.MOMENTUM, adjust_lr_fn="match_rms_adamw"
        )
    )
    for one, two in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=0.03 * RATE)  # torch's is of eight bits


def test_a_matrix_moves_as_it_would_alone() -> None:
    together = moved(lambda weights: Muon([{"params": weights}], lr=RATE, weight_decay=DECAY))
    alone = moved(lambda weights: Muon([{"params": [weight]} for weight in weights], lr=RATE, weight_decay=DECAY))
    for one, two in zip(together, alone, strict=True):
        torch.testing.assert_close(one, two)


@pytest.mark.parametrize("bfloat16", [True, False])
def test_it_is_orthogonal_in_the_precision_of_the_device(bfloat16: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(muon, "mixed", lambda precision, where: bfloat16)
    matrices = torch.randn(4, 6, 10, generator=torch.Generator().manual_seed(1))
    result = orthogonalized(matrices)
    assert result.dtype == (torch.bfloat16 if bfloat16 else torch.float32)
    one, _, two = torch.linalg.svd(matrices, full_matrices=False)
    values = torch.linalg.svdvals(result.float())
    assert 0.6 < values.min() <= values.max() < 1.25
    back = one.mT @ result.float() @ two.mT  # diagonal, if the singular vectors are the same
    torch.testing.assert_close(back, torch.diag_embed(back.diagonal(dim1=1, dim2=2)), rtol=0, atol=0.05)


def test_a_matrix_without_a_gradient_stays_and_zero_is_no_error() -> None:
    weights, _ = weights_and_gradients()
    before = [weight.detach().clone() for weight in weights]
    optimizer = Muon([{"params": weights}], lr=RATE, weight_decay=0.0)
    optimizer.step()
    assert not optimizer.state
    for weight in weights:
        weight.grad = torch.zeros_like(weight)
    optimizer.step()
    assert all(torch.equal(weight, old) for weight, old in zip(weights, before, strict=True))
