"""Exact MAML and its kin: the outer gradient against finite differences in float64, and their closed forms."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from metanmt.config import Config, InnerConfig
from metanmt.data.batch import Batch, make_batch
from metanmt.data.store import Bitext
from metanmt.errors import ConfigError
from metanmt.meta.learner import Learner
from metanmt.meta.learners import learner_class
from metanmt.meta.learners.maml_plus_plus import layer_of, step_weights
from metanmt.nmt.loss import Loss
from tests.meta.quadratic import Parabola, Quadratic, Weight, learner_of

LOSS = Loss(label_smoothing=0.1)
INNER = InnerConfig(steps=2, learning_rate=0.3, multi_step_share=0.5)
LEARNERS = ["maml", "anil", "meta-sgd", "maml++"]


@pytest.fixture
def theta(toy_model: PreTrainedModel) -> PreTrainedModel:
    for module in toy_model.modules():
        if isinstance(getattr(module, "dropout", None), float):
            module.dropout = 0.0
    return toy_model.double()


@pytest.fixture
def batches(toy_bitext: Bitext) -> list[Batch]:
    return [make_batch(toy_bitext, np.arange(4 * n, 4 * n + 4), 10_000, 0) for n in range(3)]


def objective(learner: Learner, theta: nn.Module, batches: list[Batch]) -> float:
    """Return what the outer loop descends, at the weights and meta-parameters as they stand."""
    learner.load(theta)
    learner.adapt(batches[:2], LOSS)
    paths = learner.path if hasattr(learner, "path") else [learner.phi]  # type: ignore[attr-defined]
    weights = getattr(learner, "weights", [1.0])
    return sum(w * float(LOSS.at(theta, phi, batches[2])) for w, phi in zip(weights, paths, strict=True))


def shifted(parameters: list[nn.Parameter], direction: list[Tensor], by: float) -> None:
    with torch.no_grad():
        for parameter, part in zip(parameters, direction, strict=True):
            parameter += by * part


@pytest.mark.parametrize("name", LEARNERS)
def test_the_outer_gradient_is_the_derivative_of_the_query_loss(
    name: str, theta: PreTrainedModel, batches: list[Batch]
) -> None:
    learner = learner_class(name)(theta, Config(inner=INNER))
    learner.own.double()
    learner.advance(0.25)
    learner.load(theta)
    learner.adapt(batches[:2], LOSS)
    learner.accumulate(theta, batches[2], LOSS, scale=1.0)
    assert len(learner.learned) == (2 if name in ("meta-sgd", "maml++") else 1)
    for learned in learner.learned:
        parameters = [weight for weight in learned.parameters() if weight.grad is not None]
        generator = torch.Generator().manual_seed(1)
        direction = [torch.randn(w.shape, generator=generator, dtype=torch.float64) for w in parameters]
        length = math.sqrt(sum(float(part.square().sum()) for part in direction))
        direction = [part / length for part in direction]
        stated = sum(float((w.grad * part).sum()) for w, part in zip(parameters, direction, strict=True))  # type: ignore[operator]
        values, step = [], 1e-5
        for by in (step, -2 * step, step):
            shifted(parameters, direction, by)
            values.append(objective(learner, theta, batches))
        assert stated == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-5)


def test_exact_and_first_order_differ_and_zero_rate_makes_them_equal(
    theta: PreTrainedModel, batches: list[Batch]
) -> None:
    def gradient(name: str, **inner: float) -> Tensor:
        model = copy.deepcopy(theta)
        learner = learner_class(name)(model, Config(inner=InnerConfig(steps=2, **inner)))  # type: ignore[arg-type]
        learner.load(model)
        learner.adapt(batches[:2], LOSS)
        learner.accumulate(model, batches[2], LOSS, scale=1.0)
        return torch.cat([w.grad.flatten() for w in model.parameters() if w.grad is not None])

    def distance(one: Tensor, other: Tensor) -> float:
        return float((one - other).norm() / other.norm())

    first = gradient("fomaml", learning_rate=0.3)
    assert distance(gradient("maml", learning_rate=0.3, first_order_share=1.0), first) < 1e-9
    assert distance(gradient("maml", learning_rate=0.3), first) > 1e-3
    assert distance(gradient("maml", learning_rate=0.0), gradient("joint")) < 1e-9


def test_attention_without_a_second_derivative_is_refused(theta: PreTrainedModel) -> None:
    theta.config._attn_implementation_internal = "flash_attention_2"
    with pytest.raises(ConfigError, match="flash_attention_2 has no second derivative"):
        learner_class("maml")(theta, Config())
    learner_class("maml")(theta, Config(inner=InnerConfig(first_order_share=1.0)))


def test_a_head_that_is_not_there_is_refused() -> None:
    theta = Weight(3.0)
    theta.config.metanmt_head = ["decoder"]
    with pytest.raises(ConfigError, match="'head' names no parameter"):
        learner_of("anil", theta)


def test_closed_form() -> None:
    """d L_Q / d theta = (1 - alpha a)^k a_Q (phi - c_Q), the FOMAML gradient times the derivative of phi."""
    theta = Weight(3.0)
    learner = learner_of("maml", theta, InnerConfig(steps=5, learning_rate=0.1))
    learner.load(theta)
    learner.adapt([Parabola(2, 1)] * 5, Quadratic())  # type: ignore[list-item]
    learner.accumulate(theta, Parabola(0.5, -1), Quadratic(), scale=1.0)  # type: ignore[arg-type]
    assert theta.shared.grad is not None
    assert theta.shared.grad.item() == pytest.approx(0.8**5 * 1.32768)


def test_meta_sgd_learns_the_rate_that_solves_the_task() -> None:
    """With L = a/2 (w - c)^2 for every task, one step of rate 1/a ends at c, whatever the initialisation."""
    theta = Weight(3.0)
    learner = learner_of("meta-sgd", theta, InnerConfig(steps=1, learning_rate=0.1))
    [rate] = learner.own.parameters()
    for _ in range(400):
        learner.own.zero_grad()
        for c in (-2.0, 0.0, 5.0):
            learner.load(theta)
            learner.adapt([Parabola(2, c)], Quadratic())  # type: ignore[list-item]
            learner.accumulate(theta, Parabola(2, c), Quadratic(), scale=1 / 3)  # type: ignore[arg-type]
        with torch.no_grad():
            rate -= 0.005 * rate.grad
    assert rate.item() == pytest.approx(0.5, abs=1e-3)


def test_what_an_episode_costs(theta: PreTrainedModel) -> None:
    def passes(name: str, share_done: float, **inner: float) -> tuple[int, int]:
        learner = learner_class(name)(theta, Config(inner=InnerConfig(steps=3, **inner)))  # type: ignore[arg-type]
        learner.advance(share_done)
        return learner.support_passes, learner.query_passes

    assert passes("fomaml", 0.5) == (1, 1)
    assert passes("maml", 0.0) == (3, 1)
    assert [passes("maml", done, first_order_share=0.5) for done in (0.4, 0.6)] == [(1, 1), (3, 1)]
    assert [passes("maml++", done, multi_step_share=0.5) for done in (0.0, 0.4, 0.6)] == [(3, 3), (3, 3), (3, 1)]


def test_multi_step_weights() -> None:
    assert step_weights(4, 0.0, 0.5) == [0.25] * 4
    assert step_weights(4, 0.25, 0.5) == [0.125, 0.125, 0.125, 0.625]
    assert step_weights(4, 0.5, 0.5) == step_weights(4, 0.0, 0.0) == [0, 0, 0, 1]


def test_layers() -> None:
    assert layer_of("model.encoder.layers.3.fc1.weight") == "model.encoder.layers.3"
    assert layer_of("encoder.block.0.layer.1.wo.weight") == "encoder.block.0"
    assert layer_of("model.shared.weight") == "model.shared.weight"
