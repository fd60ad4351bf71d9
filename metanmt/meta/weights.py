"""Sets of weights: the initialisation theta and the fast weights phi, moved as whole lists of tensors."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from metanmt.nmt.lexicon import free_correction

Weights = dict[str, Tensor]


def trainable_weights(model: nn.Module) -> Weights:
    """Return the parameters that may move, by name; tied ones once, frozen ones not at all."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def make_learner(initialization: nn.Module) -> nn.Module:
    """Return the copy of the initialisation that adapts: made once, overwritten at every episode.

    What moves in the initialisation may move in it, and a lexicon's correction, which belongs to one language.
    """
    learner = copy.deepcopy(initialization)
    free_correction(learner)
    learner.train(initialization.training)
    return learner


@torch.no_grad()
def load_weights(learner: nn.Module, initialization: nn.Module) -> None:
    """Set the fast weights to the initialisation, in place; gradients of the learner are dropped."""
    fast, start = trainable_weights(learner), dict(initialization.named_parameters())
    torch._foreach_copy_(list(fast.values()), [start[name] for name in fast])
    learner.zero_grad(set_to_none=True)


@torch.no_grad()
def accumulate(initialization: nn.Module, gradient: Weights, scale: float) -> None:
    """Add `scale` times a gradient to `.grad` of the initialisation, without touching its weights."""
    old: list[Tensor] = []
    new: list[Tensor] = []
    for name, parameter in trainable_weights(initialization).items():
        if name not in gradient:
            continue
        if parameter.grad is None:
            parameter.grad = gradient[name] * scale
        else:
            old.append(parameter.grad)
            new.append(gradient[name])
    if old:
        torch._foreach_add_(old, new, alpha=scale)
