"""The quadratic model of the closed forms: L = a/2 (w - c)^2, one weight, a 'batch' is the pair (a, c)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from metanmt.config import Config, InnerConfig
from metanmt.meta.learner import Learner
from metanmt.meta.learners import learner_class
from metanmt.meta.task import Episode


@dataclass(frozen=True)
class Parabola:
    """A stand-in for a logical batch."""

    a: float
    c: float


class Weight(nn.Module):
    """One weight, named like an embedding so that every update strategy moves it."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.shared = nn.Parameter(torch.tensor([value], dtype=torch.float64))
        self.config = SimpleNamespace(metanmt_head=["shared"])


class Quadratic:
    """The loss of the closed forms, with its gradient by autograd."""

    def at(self, model: nn.Module, weights: Mapping[str, Tensor], batch: Parabola) -> Tensor:
        return (0.5 * batch.a * (weights["shared"] - batch.c) ** 2).sum()

    def gradients_at(
        self, model: nn.Module, weights: Mapping[str, Tensor], names: Collection[str], batch: Parabola
    ) -> tuple[Tensor, dict[str, Tensor]]:
        at = {name: weight.detach().requires_grad_() for name, weight in weights.items()}
        loss = self.at(model, at, batch)
        return loss.detach(), dict(zip(names, torch.autograd.grad(loss, [at[name] for name in names]), strict=True))

    def backward(self, model: nn.Module, batch: Parabola, scale: float = 1.0) -> Tensor:
        loss = (0.5 * batch.a * (model.shared - batch.c) ** 2).sum()
        (scale * loss).backward()
        return loss.detach()


def learner_of(name: str, theta: Weight, inner: InnerConfig | None = None) -> Learner:
    """Return a learner of this name for the one weight."""
    return learner_class(name)(theta, Config(inner=inner or InnerConfig()))


def episode_of(learner: Learner, task: Parabola) -> Episode:
    """Return an episode as the learner wants it, with the one task as support and query."""
    return Episode(None, (task,) * learner.inner_steps, task if learner.query else None)  # type: ignore[arg-type]
