"""The inner loop: how the fast weights adapt to the support set of an episode."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor, nn

from metanmt.config import InnerConfig
from metanmt.data.batch import Batch
from metanmt.nmt.model import update_weights
from metanmt.nmt.optimizer import make_optimizer

ADAM_EPSILON, ADAM_BETAS = 1e-8, (0.0, 0.999)


class Loss(Protocol):
    """The mean loss of a logical batch and its gradient; `nmt.loss.Loss` is one."""

    def backward(self, model: nn.Module, batch: Batch, scale: float = 1.0) -> Tensor:
        """Add `scale` times the gradient of the mean loss to `.grad` of the model; return the mean loss, detached."""

    def at(self, model: nn.Module, weights: Mapping[str, Tensor], batch: Batch) -> Tensor:
        """Return the mean loss with these weights in the model's place, differentiable twice with respect to them."""

    def gradients_at(
        self, model: nn.Module, weights: Mapping[str, Tensor], names: Collection[str], batch: Batch
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the same loss, and its gradient by those of the named weights that it depends on, as constants."""


def adapt(fast_model: nn.Module, support: Sequence[Batch], inner: InnerConfig, loss: Loss) -> list[Tensor]:
    """Update the fast weights in place, one step a support batch; return the loss before each step.

    First-order: no graph is kept across the steps, so any kernel and any precision may be used.

    Args:
        fast_model: holds phi; on entry equal to the initialisation.
        support: one logical batch a step.
        inner: optimiser, rate, and which parameters are fast.
        loss: what to descend.

    Reference: Finn, Abbeel, Levine 2017, "Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks".
    """
    losses = []
    with only_fast(fast_model, inner.update) as fast:
        step = inner_step(fast_model, fast, inner)
        for batch in support:
            losses.append(loss.backward(fast_model, batch))
            step()
            for weight in fast:
                weight.grad = None
    return losses


def inner_step(fast_model: nn.Module, fast: Sequence[nn.Parameter], inner: InnerConfig) -> Callable[[], object]:
    """Return what moves the fast weights by their gradients, those that have one.

    Adam is one without a first moment; its first step is a sign step. Muon is that of fine-tuning: it for the matrices
    of layers, AdamW for the rest. Both are made afresh here and hold one or two more copies of the weights.

    Reference: Nichol, Achiam, Schulman 2018, "On First-Order Meta-Learning Algorithms", whose inner loop is that Adam.
    """
    if inner.optimizer == "adam":
        return torch.optim.Adam(fast, lr=inner.learning_rate, betas=ADAM_BETAS, eps=ADAM_EPSILON).step
    if inner.optimizer == "muon":
        rates = {"learning_rate": inner.learning_rate, "beta2": ADAM_BETAS[1], "weight_decay": 0.0}
        return make_optimizer("muon", fast_model, [{"params": list(fast)}], **rates).step
    step = sign_step if inner.optimizer == "sign" else sgd_step
    return lambda: step([weight for weight in fast if weight.grad is not None], inner.learning_rate)


@contextmanager
def only_fast(model: nn.Module, update: str) -> Iterator[list[nn.Parameter]]:
    """Yield the fast weights of an update strategy; meanwhile no gradient is computed for the others."""
    fast = update_weights(model, update)
    slow = [weight for name, weight in model.named_parameters() if name not in fast and weight.requires_grad]
    for weight in slow:
        weight.requires_grad_(False)
    try:
        yield [weight for weight in fast.values() if weight.requires_grad]
    finally:
        for weight in slow:
            weight.requires_grad_(True)


@torch.no_grad()
def sgd_step(weights: Sequence[nn.Parameter], learning_rate: float) -> None:
    """Move weights against their gradient: phi <- phi - alpha g."""
    torch._foreach_add_(list(weights), [_gradient(weight) for weight in weights], alpha=-learning_rate)


@torch.no_grad()
def sign_step(weights: Sequence[nn.Parameter], learning_rate: float) -> None:
    """Take the first step of a freshly made Adam, in closed form: phi <- phi - alpha g / (|g| + epsilon).

    With bias correction the first and second moments of one gradient are g and g squared, so that Adam's first step
    is a sign step, which is what the released code of Gu et al. 2018 does in its inner loop.
    """
    steps = [_gradient(weight) / (_gradient(weight).abs() + ADAM_EPSILON) for weight in weights]
    torch._foreach_add_(list(weights), steps, alpha=-learning_rate)


def _gradient(weight: nn.Parameter) -> Tensor:
    assert weight.grad is not None
    return weight.grad
