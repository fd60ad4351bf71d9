"""Inner loops and outer gradients against forms that one can derive by hand (design guide, "Closed forms")."""

from __future__ import annotations

import pytest
import torch

from metanmt.config import Config, InnerConfig, OuterConfig
from metanmt.meta.adaptation import adapt, sign_step
from metanmt.meta.outer import LEARNERS, fomaml_gradient, learning_rate, outer_step, reptile_gradient
from metanmt.meta.task import Episode
from metanmt.meta.weights import load_weights, make_learner
from tests.meta.quadratic import Parabola, Quadratic, Weight

ALPHA, STEPS, THETA = 0.1, 5, 3.0
SUPPORT, QUERY = Parabola(a=2, c=1), Parabola(a=0.5, c=-1)
INNER = InnerConfig(steps=STEPS, optimizer="sgd", learning_rate=ALPHA)


@pytest.fixture
def theta() -> Weight:
    return Weight(THETA)


def adapted(theta: Weight, inner: InnerConfig = INNER, steps: int = STEPS) -> Weight:
    phi = make_learner(theta)
    load_weights(phi, theta)
    adapt(phi, [SUPPORT] * steps, inner, Quadratic())
    return phi


def test_inner_loop_reaches_the_closed_form(theta: Weight) -> None:
    assert adapted(theta).shared.item() == pytest.approx(1.65536)
    assert theta.shared.item() == THETA


def test_reptile_direction(theta: Weight) -> None:
    gradient, query_loss = reptile_gradient(theta, adapted(theta), None, Quadratic())
    assert gradient["shared"].item() == pytest.approx(1.34464)
    assert query_loss is None


def test_fomaml_gradient(theta: Weight) -> None:
    gradient, query_loss = fomaml_gradient(theta, adapted(theta), QUERY, Quadratic())
    assert gradient["shared"].item() == pytest.approx(1.32768)
    assert query_loss is not None
    assert query_loss.item() == pytest.approx(0.25 * (1.65536 + 1) ** 2)


def test_fomaml_equals_the_gradient_at_an_independent_copy(theta: Weight) -> None:
    phi = adapted(theta)
    other = Weight(phi.shared.item())
    Quadratic().backward(other, QUERY)
    gradient, _ = fomaml_gradient(theta, phi, QUERY, Quadratic())
    assert torch.equal(gradient["shared"], other.shared.grad)


def test_fomaml_without_inner_steps_is_the_joint_gradient(theta: Weight) -> None:
    gradient, _ = fomaml_gradient(theta, adapted(theta, steps=0), QUERY, Quadratic())
    assert gradient["shared"].item() == pytest.approx(0.5 * (THETA + 1))


def test_reptile_with_one_sgd_step_is_alpha_times_the_gradient(theta: Weight) -> None:
    gradient, _ = reptile_gradient(theta, adapted(theta, steps=1), None, Quadratic())
    assert gradient["shared"].item() == pytest.approx(ALPHA * 2 * (THETA - 1))


def test_sign_step_is_the_first_step_of_a_fresh_adam() -> None:
    ours, adams = Weight(THETA), Weight(THETA)
    for _ in range(3):
        for weight in (ours, adams):
            weight.zero_grad()
            Quadratic().backward(weight, SUPPORT)
        torch.optim.Adam(adams.parameters(), lr=0.3).step()
        sign_step([ours.shared], 0.3)
        assert ours.shared.item() == pytest.approx(adams.shared.item(), rel=1e-9)


@pytest.mark.parametrize("name", sorted(LEARNERS))
def test_outer_step_averages_over_the_meta_batch(name: str) -> None:
    learner = LEARNERS[name]
    theta, steps = Weight(THETA), 2 if learner.inner_loop else 0
    phi = make_learner(theta)
    optimizer = torch.optim.SGD(theta.parameters(), lr=0.5)
    targets = [Parabola(2, 1), Parabola(0.5, -1), Parabola(1, 4)]
    episodes = [
        Episode(None, (task,) * steps, task if learner.query else None)  # type: ignore[arg-type]
        for task in targets
    ]
    config = Config(inner=INNER, outer=OuterConfig(clip_norm=0.0, meta_batch_size=3))
    outer_step(theta, phi, episodes, optimizer, learner, config, Quadratic())
    directions = []
    for task in targets:
        fast = task.c + (1 - ALPHA * task.a) ** steps * (THETA - task.c)
        directions.append(THETA - fast if name == "reptile" else task.a * (fast - task.c))
    assert theta.shared.item() == pytest.approx(THETA - 0.5 * sum(directions) / len(directions))


def test_schedules_warm_up_and_decay() -> None:
    def rate(schedule: str, step: int, share: float) -> float:
        return learning_rate(OuterConfig(schedule=schedule, learning_rate=1.0, warmup_steps=10), step, share)  # type: ignore[arg-type]

    assert rate("constant", 0, 0) == pytest.approx(0.1)
    assert rate("constant", 500, 0.9) == 1.0
    assert rate("linear", 500, 0.75) == pytest.approx(0.25)
    assert rate("cosine", 500, 0.5) == pytest.approx(0.5, abs=1e-6)
    assert rate("cosine", 500, 1.0) == pytest.approx(0, abs=1e-6)
    assert rate("inverse-sqrt", 39, 0.0) == pytest.approx(0.5)
