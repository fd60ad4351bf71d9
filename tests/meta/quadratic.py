"""The quadratic model of the closed forms: L = a/2 (w - c)^2, one weight, a 'batch' is the pair (a, c)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


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


class Quadratic:
    """The loss of the closed forms, with its gradient by autograd."""

    def backward(self, model: nn.Module, batch: Parabola) -> Tensor:
        loss = (0.5 * batch.a * (model.shared - batch.c) ** 2).sum()
        loss.backward()
        return loss.detach()
