"""Inner loops and outer gradients against forms that one can derive by hand (design guide, "Closed forms")."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import get_args

import pytest
import torch

from metanmt.config import InnerConfig, LearnerName, OuterConfig
from metanmt.meta.adaptation import adapt, sign_step
from metanmt.meta.learner import Learner
from metanmt.meta.outer import learning_rate, outer_step
from tests.meta.quadratic import Parabola, Quadratic, Weight, episode_of, learner_of

ALPHA, STEPS, THETA = 0.1, 5, 3.0
SUPPORT, QUERY = Parabola(a=2, c=1), Parabola(a=0.5, c=-1)
INNER = InnerConfig(steps=STEPS, optimizer="sgd", learning_rate=ALPHA)


@pytest.fixture
def theta() -> Weight:
    return Weight(THETA)


def adapted(name: str, theta: Weight, steps: int = STEPS) -> Learner:
    """Return a learner after its inner loop."""
    learner = learner_of(name, theta, replace(INNER, steps=max(1, steps)))
    learner.load(theta)
    learner.adapt([SUPPORT] * steps, Quadratic())  # type: ignore[list-item]
    return learner


def outer_gradient(learner: Learner, theta: Weight, query: Parabola | None = QUERY) -> tuple[float, list[float]]:
    """Return the gradient that the learner adds to the initialisation's, and its query losses."""
    losses = learner.accumulate(theta, query, Quadratic(), scale=1.0)  # type: ignore[arg-type]
    assert theta.shared.grad is not None
    return theta.shared.grad.item(), [loss.item() for loss in losses]


def test_inner_loop_reaches_the_closed_form(theta: Weight) -> None:
    assert adapted("fomaml", theta).fast_model.shared.item() == pytest.approx(1.65536)
    assert theta.shared.item() == THETA
    assert theta.shared.grad is None


def test_reptile_direction(theta: Weight) -> None:
    gradient, query_losses = outer_gradient(adapted("reptile", theta), theta, None)
    assert gradient * ALPHA * STEPS == pytest.approx(1.34464)
    assert query_losses == []


def test_fomaml_gradient(theta: Weight) -> None:
    gradient, query_losses = outer_gradient(adapted("fomaml", theta), theta)
    assert gradient == pytest.approx(1.32768)
    assert query_losses == [pytest.approx(0.25 * (1.65536 + 1) ** 2)]


def test_fomaml_equals_the_gradient_at_an_independent_copy(theta: Weight) -> None:
    learner = adapted("fomaml", theta)
    other = Weight(learner.fast_model.shared.item())
    Quadratic().backward(other, QUERY)
    outer_gradient(learner, theta)
    assert torch.equal(theta.shared.grad, other.shared.grad)  # type: ignore[arg-type]


def test_fomaml_without_inner_steps_is_the_joint_gradient(theta: Weight) -> None:
    gradient, _ = outer_gradient(adapted("fomaml", theta, steps=0), theta)
    assert gradient == pytest.approx(0.5 * (THETA + 1))
    joint = Weight(THETA)
    assert outer_gradient(learner_of("joint", joint), joint)[0] == gradient


def test_reptile_with_one_sgd_step_is_the_gradient(theta: Weight, capsys: pytest.CaptureFixture[str]) -> None:
    gradient, _ = outer_gradient(adapted("reptile", theta, steps=1), theta, None)
    assert gradient == pytest.approx(2 * (THETA - 1))
    assert "is joint training" in capsys.readouterr().err
    adapted("reptile", theta)
    assert capsys.readouterr().err == ""


def test_reptile_is_the_mean_of_the_gradients_along_the_way(theta: Weight) -> None:
    """So that it has the size of a gradient, whatever the rate and the number of steps."""
    gradient, _ = outer_gradient(adapted("reptile", theta), theta, None)
    along = [2 * (1 - 2 * ALPHA) ** step * (THETA - 1) for step in range(STEPS)]
    assert gradient == pytest.approx(sum(along) / STEPS)


@pytest.mark.parametrize("name", ["joint", "fomaml", "reptile"])
def test_gradients_add_up_and_leave_the_fast_weights_none(name: str, theta: Weight) -> None:
    learner = adapted(name, theta)
    once, _ = outer_gradient(learner, theta, QUERY if learner.query else None)
    twice, _ = outer_gradient(learner, theta, QUERY if learner.query else None)
    assert twice == pytest.approx(2 * once)
    assert learner.fast_model.shared.grad is None


def test_sign_step_is_the_first_step_of_a_fresh_adam() -> None:
    ours, adams = Weight(THETA), Weight(THETA)
    for _ in range(3):
        for weight in (ours, adams):
            weight.zero_grad()
            Quadratic().backward(weight, SUPPORT)
        torch.optim.Adam(adams.parameters(), lr=0.3).step()
        sign_step([ours.shared], 0.3)
        assert ours.shared.item() == pytest.approx(adams.shared.item(), rel=1e-9)


def test_adams_inner_loop_by_hand() -> None:
    """phi <- phi - alpha g / sqrt(v), v the bias-corrected mean of the squared gradients; anew in every episode."""
    fast = Weight(THETA)
    for _ in range(2):
        with torch.no_grad():
            fast.shared.fill_(THETA)
        adapt(fast, [SUPPORT] * 3, InnerConfig(optimizer="adam", learning_rate=0.3), Quadratic())
        phi, mean, decay = THETA, 0.0, 0.999
        for step in range(1, 4):
            gradient = SUPPORT.a * (phi - SUPPORT.c)
            mean = decay * mean + (1 - decay) * gradient**2
            phi -= 0.3 * gradient / math.sqrt(mean / (1 - decay**step))
        assert fast.shared.item() == pytest.approx(phi, rel=1e-6)


@pytest.mark.parametrize("name", ["joint", "fomaml", "reptile"])
def test_outer_step_averages_over_the_meta_batch(name: str, theta: Weight) -> None:
    learner = learner_of(name, theta, InnerConfig(steps=2, learning_rate=ALPHA))
    optimizer = torch.optim.SGD(theta.parameters(), lr=0.5)
    targets = [Parabola(2, 1), Parabola(0.5, -1), Parabola(1, 4)]
    episodes = [episode_of(learner, task) for task in targets]
    outer_step(theta, episodes, optimizer, learner, OuterConfig(clip_norm=0.0, meta_batch_size=3), Quadratic())
    directions = []
    for task in targets:
        fast = task.c + (1 - ALPHA * task.a) ** learner.inner_steps * (THETA - task.c)
        directions.append((THETA - fast) / (2 * ALPHA) if name == "reptile" else task.a * (fast - task.c))
    assert theta.shared.item() == pytest.approx(THETA - 0.5 * sum(directions) / len(directions))


@pytest.mark.parametrize("name", get_args(LearnerName))
def test_every_learner_descends(name: str, theta: Weight) -> None:
    learner = learner_of(name, theta, InnerConfig(steps=2, learning_rate=ALPHA))
    optimizer = torch.optim.SGD(theta.parameters(), lr=0.1)
    outer, episodes = OuterConfig(clip_norm=0.0, meta_batch_size=1), [episode_of(learner, SUPPORT)]
    for _ in range(50):
        outer_step(theta, episodes, optimizer, learner, outer, Quadratic())
    assert abs(theta.shared.item() - SUPPORT.c) < 0.6 * abs(THETA - SUPPORT.c)


def test_schedules_warm_up_and_decay() -> None:
    def rate(schedule: str, step: int, share: float) -> float:
        return learning_rate(OuterConfig(schedule=schedule, learning_rate=1.0, warmup_steps=10), step, share)  # type: ignore[arg-type]

    assert rate("constant", 0, 0) == pytest.approx(0.1)
    assert rate("constant", 500, 0.9) == 1.0
    assert rate("linear", 500, 0.75) == pytest.approx(0.25)
    assert rate("cosine", 500, 0.5) == pytest.approx(0.5, abs=1e-6)
    assert rate("cosine", 500, 1.0) == pytest.approx(0, abs=1e-6)
    assert rate("inverse-sqrt", 39, 0.0) == pytest.approx(0.5)
