"""Sets of weights: the initialisation theta and the fast weights phi, moved as whole lists of tensors."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from metanmt.nmt.lexicon import fast_only, same_language

Weights = dict[str, nn.Parameter]


def trainable_weights(model: nn.Module) -> Weights:
    """Return the parameters that may move, by name; tied ones once, frozen ones not at all."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def copy_model(initialization: nn.Module) -> nn.Module:
    """Return a copy of the initialisation, to be overwritten at every episode.

    Frozen parameters are shared: both have the same base under their adapters. A lexicon's correction, which belongs to
    one language, is frozen in the initialisation and free in the copy.
    """
    own = fast_only(initialization)
    frozen = [weight for name, weight in initialization.named_parameters() if not (weight.requires_grad or name in own)]
    copied = copy.deepcopy(initialization, {id(weight): weight for weight in frozen})
    copied.zero_grad()
    for name, weight in copied.named_parameters():
        if name in own:
            weight.requires_grad_(True)
    return copied.train(initialization.training)


@torch.no_grad()
def load_weights(fast_model: nn.Module, initialization: nn.Module) -> None:
    """Set the fast weights to the initialisation, in place; gradients of the fast model are dropped."""
    fast, start = trainable_weights(fast_model), dict(initialization.named_parameters())
    torch._foreach_copy_(list(fast.values()), [start[name] for name in fast])
    same_language(fast_model, initialization)
    fast_model.zero_grad()


@torch.no_grad()
def accumulate_difference(
    initialization: nn.Module, fast_model: nn.Module, names: Collection[str], scale: float
) -> None:
    """Add `scale` times theta - phi to `.grad` of the initialisation, without touching its weights.

    Only to those named, the fast ones. Others have no gradient at all: of one that is zero Muon would make full steps.
    """
    phi = trainable_weights(fast_model)
    theta = {name: weight for name, weight in trainable_weights(initialization).items() if name in names}
    gradients: list[Tensor] = []
    for weight in theta.values():
        weight.grad = torch.zeros_like(weight) if weight.grad is None else weight.grad
        gradients.append(weight.grad)
    torch._foreach_add_(gradients, list(theta.values()), alpha=scale)
    torch._foreach_sub_(gradients, [phi[name] for name in theta], alpha=scale)


@contextmanager
def lent_gradient(initialization: nn.Module, fast_model: nn.Module) -> Iterator[None]:
    """Let the backward passes of the fast model add to `.grad` of the initialisation: no copy, no second sum."""
    theta, phi = trainable_weights(initialization), trainable_weights(fast_model)
    for name, weight in theta.items():
        phi[name].grad = weight.grad
    try:
        yield
    finally:
        for name, weight in theta.items():
            weight.grad = phi[name].grad
        fast_model.zero_grad()
