"""A loss or gradient that is not finite moves nothing."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
from torch import Tensor

from metanmt.config import InnerConfig, LearnerName, OuterConfig
from metanmt.meta.outer import StepReport, all_finite, outer_step
from tests.meta.quadratic import Parabola, Quadratic, Weight, episode_of, learner_of

PLAIN = Parabola(2, 1)


class InfiniteLoss(Quadratic):
    """A finite gradient, but a loss of infinity."""

    def backward(self, model: torch.nn.Module, batch: Parabola, scale: float = 1.0) -> Tensor:
        return super().backward(model, batch, scale) + (math.inf if batch.c == -1 else 0)


def one_step(
    weight: Weight, optimizer: torch.optim.Optimizer, batch: Parabola, loss: Quadratic, name: str = "joint"
) -> StepReport:
    learner = learner_of(name, weight, InnerConfig(steps=1))
    episodes = [episode_of(learner, task) for task in (PLAIN, batch)]
    return outer_step(weight, episodes, optimizer, learner, OuterConfig(clip_norm=1.0), loss)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", get_args(LearnerName))
def test_a_gradient_that_is_not_finite_moves_neither_weights_nor_moments(name: str, value: float) -> None:
    weight, loss = Weight(3.0), Quadratic()
    optimizer = torch.optim.AdamW(weight.parameters(), lr=0.1, weight_decay=0.1)
    assert not one_step(weight, optimizer, PLAIN, loss, name).skipped
    theta = weight.shared.detach().clone()
    moments = {key: item.clone() for key, item in optimizer.state[weight.shared].items()}
    assert one_step(weight, optimizer, Parabola(1, value), loss, name).skipped
    assert torch.equal(weight.shared, theta)
    assert all(torch.equal(item, optimizer.state[weight.shared][key]) for key, item in moments.items())
    assert not one_step(weight, optimizer, PLAIN, loss, name).skipped
    assert weight.shared.isfinite().all()


def test_an_infinite_loss_with_a_finite_gradient_is_skipped_too() -> None:
    weight = Weight(3.0)
    optimizer = torch.optim.AdamW(weight.parameters(), lr=0.1)
    assert one_step(weight, optimizer, Parabola(1, -1), InfiniteLoss()).skipped
    assert weight.shared.item() == 3.0
    assert not optimizer.state


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_all_finite(value: float) -> None:
    assert all_finite([torch.tensor(1.0), torch.tensor(-1e38)])
    assert not all_finite([torch.tensor(1.0), torch.tensor(value), torch.tensor(2.0)])
