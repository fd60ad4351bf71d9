"""Sets of weights: the initialisation theta and the fast weights phi, moved as whole lists of tensors."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

Weights = dict[str, nn.Parameter]


def trainable_weights(model: nn.Module) -> Weights:
    """Return the parameters that may move, by name; tied ones once, frozen ones not at all."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def copy_model(initialization: nn.Module) -> nn.Module:
    """Return a copy of the initialisation, to be overwritten at every episode.

    Frozen parameters are shared: both have the same base under their adapters.
    """
    frozen = {id(weight): weight for weight in initialization.parameters() if not weight.requires_grad}
    copied = copy.deepcopy(initialization, dict(frozen))
    copied.zero_grad()
    return copied.train(initialization.training)


@torch.no_grad()
def load_weights(fast_model: nn.Module, initialization: nn.Module) -> None:
    """Set the fast weights to the initialisation, in place; gradients of the fast model are dropped."""
    fast, start = trainable_weights(fast_model), trainable_weights(initialization)
    torch._foreach_copy_(list(fast.values()), [start[name] for name in fast])
    fast_model.zero_grad()


@torch.no_grad()
def accumulate_difference(initialization: nn.Module, fast_model: nn.Module, scale: float) -> None:
    """Add `scale` times theta - phi to `.grad` of the initialisation, without touching its weights."""
    theta, phi = trainable_weights(initialization), trainable_weights(fast_model)
    gradients: list[Tensor] = []
    for weight in theta.values():
        weight.grad = torch.zeros_like(weight) if weight.grad is None else weight.grad
        gradients.append(weight.grad)
    torch._foreach_add_(gradients, list(theta.values()), alpha=scale)
    torch._foreach_sub_(gradients, list(phi.values()), alpha=scale)


@contextmanager
def lent_gradient(initialization: nn.Module, fast_model: nn.Module) -> Iterator[None]:
    """Let the backward passes of the fast model add to `.grad` of the initialisation: no copy, no second sum."""
    theta, phi = trainable_weights(initialization), trainable_weights(fast_model)
    for name, weight in phi.items():
        weight.grad = theta[name].grad
    try:
        yield
    finally:
        for name, weight in phi.items():
            theta[name].grad, weight.grad = weight.grad, None
