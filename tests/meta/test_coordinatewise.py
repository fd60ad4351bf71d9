"""The LSTM meta-learner and the learned optimiser: gates, preprocessing, and the gradient through the recurrence."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from metanmt.config import Config, InnerConfig
from metanmt.meta import coordinatewise
from metanmt.meta.coordinatewise import CoordinatewiseLearner, UpdateRule, preprocessed
from metanmt.meta.learners import learner_class
from metanmt.meta.learners.learned_optimizer import FreeUpdate
from metanmt.meta.learners.lstm import KEPT, CellState
from tests.meta.quadratic import Parabola, Quadratic, Weight

RULES = {"lstm": CellState, "learned-optimizer": FreeUpdate}


def test_preprocessing() -> None:
    values = torch.tensor([math.exp(-3), -1.0, -math.exp(-10) / 2, 0.0])
    expected = torch.tensor([[-0.3, 1.0], [0.0, -1.0], [-1.0, -0.5], [-1.0, 0.0]])
    assert torch.allclose(preprocessed(values), expected, atol=1e-6)


def test_the_cell_state_starts_as_sgd() -> None:
    rule = CellState(hidden=5, learning_rate=0.1)
    for gate in (rule.forget, rule.input):
        torch.nn.init.zeros_(gate.weight)
    theta, gradient = torch.tensor([2.0, -1.0]), torch.tensor([0.5, -4.0])
    after = rule(theta, [gradient, gradient], [torch.tensor(1.0)] * 2)
    assert torch.allclose(after, KEPT**2 * theta - (1 + KEPT) * 0.1 * gradient)


@pytest.mark.parametrize("name", RULES)
def test_coordinates_do_not_see_each_other(name: str) -> None:
    rule = RULES[name](hidden=5, learning_rate=0.1)
    theta, gradient, losses = torch.randn(7), torch.randn(7), [torch.tensor(2.0)]
    whole = rule(theta, [gradient], losses)
    assert torch.allclose(whole[3:4], rule(theta[3:4], [gradient[3:4]], losses), atol=1e-7)


class Line(torch.nn.Module):
    """Five weights, named like an embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = torch.nn.Parameter(torch.linspace(-1, 2, 5, dtype=torch.float64))


@pytest.mark.parametrize("chunk", [2, 1 << 15])
@pytest.mark.parametrize("name", RULES)
def test_the_outer_gradient_is_that_of_the_whole_recurrence(
    name: str, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Inner gradients and losses being constants; made again in chunks or held at once."""
    monkeypatch.setitem(coordinatewise.CHUNK, "cpu", chunk)
    theta, support, query = Line(), [Parabola(2, 1), Parabola(1, 0)], Parabola(0.5, -1)
    learner = learner_class(name)(theta, Config(inner=InnerConfig(steps=2, learning_rate=0.1, hidden=4)))
    assert isinstance(learner, CoordinatewiseLearner)
    learner.own.double()
    learner.load(theta)
    learner.adapt(support, Quadratic())  # type: ignore[arg-type]
    gradients, losses = learner.gradients, learner.losses
    phi = learner.fast_model.shared.detach().clone()
    learner.accumulate(theta, query, Quadratic(), scale=0.5)  # type: ignore[arg-type]
    found = [theta.shared.grad, *(p.grad for p in learner.own.parameters())]

    theta.shared.grad = None
    learner.own.zero_grad()
    rule: UpdateRule = learner.rule
    after: Tensor = rule(theta.shared, gradients, losses)
    assert torch.allclose(after, phi)
    (0.5 * (0.5 * query.a * (after - query.c) ** 2).sum()).backward()
    expected = [theta.shared.grad, *(p.grad for p in learner.own.parameters())]
    for ours, theirs in zip(found, expected, strict=True):
        assert ours is not None
        assert theirs is not None
        assert torch.allclose(ours, theirs, rtol=1e-9, atol=1e-15)


def test_it_learns_to_solve_the_task_in_a_step() -> None:
    """Learning the gates alone lets one inner step come nearer to any parabola's minimum."""
    theta = Weight(3.0)
    learner = learner_class("lstm")(theta, Config(inner=InnerConfig(steps=1, learning_rate=0.05)))
    learner.own.double()
    optimizer = torch.optim.Adam(learner.own.parameters(), lr=0.02)
    history = []
    for _ in range(150):
        optimizer.zero_grad()
        losses = []
        for c in (-2.0, 0.0, 5.0):
            learner.load(theta)
            learner.adapt([Parabola(2, c)], Quadratic())  # type: ignore[list-item]
            losses += learner.accumulate(theta, Parabola(2, c), Quadratic(), scale=1 / 3)  # type: ignore[arg-type]
        optimizer.step()
        history.append(float(sum(losses)))
    assert history[-1] < history[0] / 10
