"""Learned inner loops: one small recurrent network proposes the update of every coordinate by itself."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from metanmt.data.batch import Batch
from metanmt.meta.adaptation import Loss, only_fast
from metanmt.meta.learner import Learner
from metanmt.meta.weights import trainable_weights

CHUNK = {"cpu": 1 << 11, "cuda": 1 << 19}
"""Coordinates whose recurrence is in memory at a time: what a CPU's cache takes, and what fills a GPU."""

LOG_RANGE = 10.0  # p of the preprocessing: magnitudes from exp(-p) up are seen by their logarithm


class UpdateRule(nn.Module):
    """A recurrence over the inner steps, shared by all coordinates; the learner's own gradients are constants in it."""

    def forward(self, theta: Tensor, gradients: Sequence[Tensor], losses: Sequence[Tensor]) -> Tensor:
        """Return the weights after as many steps as there are gradients.

        Args:
            theta: the initialisation, (C,) for C coordinates.
            gradients: of each inner step, (C,).
            losses: of each inner step, scalars.
        """
        raise NotImplementedError


class CoordinatewiseLearner(Learner):
    """A learner whose inner loop is an `UpdateRule`, learned together with the initialisation.

    The inner loop runs without a graph. The outer gradient then goes back through the recurrence a chunk of coordinates
    at a time, made again from the initialisation and the inner gradients. So memory is that of first-order MAML and
    k + 3 copies of the fast weights for k steps, whatever the hidden size; the rule itself costs
    k (k + 3) / 2 forward passes and one backward pass over every coordinate, an episode.
    """

    def __init__(self, rule: UpdateRule, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]
        self.own = self.rule = rule.to(next(self._initialization.parameters()))

    def adapt(self, support: Sequence[Batch], loss: Loss) -> list[Tensor]:
        """Let the rule propose the fast weights after each step, from the gradients and losses so far."""
        losses: list[Tensor] = []
        self.gradients: list[Tensor] = []
        with only_fast(self.fast_model, self.inner.update) as fast:
            self.start = _flat(fast)
            for batch in support:
                losses.append(loss.backward(self.fast_model, batch))
                self.gradients.append(_flat([_gradient(weight) for weight in fast]))
                self.fast_model.zero_grad()
                moved = torch.empty_like(self.start)
                with torch.no_grad():
                    for part in _chunks(self.start):
                        moved[part] = self.rule(self.start[part], [g[part] for g in self.gradients], losses)
                    for weight, value in zip(fast, _split(moved, fast), strict=True):
                        weight.copy_(value.view_as(weight))
        self.losses = losses
        return losses

    def accumulate(self, initialization: nn.Module, query: Batch | None, loss: Loss, scale: float) -> list[Tensor]:
        """Add the gradient of the query loss, through the recurrence, to that of theta and of the rule."""
        assert query is not None, "a learned optimiser needs a query set"
        value = loss.backward(self.fast_model, query, scale)
        with only_fast(self.fast_model, self.inner.update) as fast:
            arrived = _flat([_gradient(weight) for weight in fast])
            for weight, gradient in zip(fast, _split(self._through_the_rule(arrived), fast), strict=True):
                weight.grad = gradient.view_as(weight)
        theta = trainable_weights(initialization)
        for name, weight in trainable_weights(self.fast_model).items():
            if weight.grad is not None and name in theta:
                old = theta[name].grad
                theta[name].grad = weight.grad if old is None else old.add_(weight.grad)
        self.release()
        return [value]

    def _through_the_rule(self, arrived: Tensor) -> Tensor:
        """Return the gradient at the initialisation from that at the fast weights; the rule's own is added to it."""
        found = torch.empty_like(arrived)
        for part in _chunks(arrived):
            theta = self.start[part].clone().requires_grad_()
            phi = self.rule(theta, [gradient[part] for gradient in self.gradients], self.losses)
            torch.autograd.backward(phi, arrived[part])
            assert theta.grad is not None
            found[part] = theta.grad
        return found

    def release(self) -> None:
        """Free what the episode left."""
        super().release()
        self.gradients, self.losses = [], []


def preprocessed(values: Tensor) -> Tensor:
    """Return each value as two of comparable size, (C, 2): its logarithm and sign, or near zero -1 and e^p times it.

    Reference: Andrychowicz et al. 2016, appendix A; Ravi and Larochelle 2017, section 3.2.
    """
    size = values.abs()
    large = size >= math.exp(-LOG_RANGE)
    log = torch.where(large, size.clamp_min(math.exp(-LOG_RANGE)).log() / LOG_RANGE, -1.0)
    sign = torch.where(large, values.sign(), values * math.exp(LOG_RANGE))
    return torch.stack([log, sign], dim=-1)


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.detach().flatten() for tensor in tensors])


def _split(values: Tensor, like: Sequence[Tensor]) -> Sequence[Tensor]:
    return torch.split(values, [tensor.numel() for tensor in like])


def _gradient(weight: Tensor) -> Tensor:
    return torch.zeros_like(weight) if weight.grad is None else weight.grad


def _chunks(values: Tensor) -> Iterator[slice]:
    size = CHUNK[values.device.type]
    return (slice(start, start + size) for start in range(0, len(values), size))
