"""What a checkpoint holds beside the model: the moments of the optimiser, and what the learner learns itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import nn

from metanmt.nmt.ngrams import ngrams_of

MOMENTS = ("exp_avg", "exp_avg_sq", "step", "momentum_buffer")
OWN = "learner."  # before the names of what the learner learns beside the initialisation
NOTHING = nn.Module()


def trainer_tensors(model: nn.Module, own: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Return these tensors by name, on the CPU."""
    tensors = {f"{OWN}{name}": parameter for name, parameter in own.named_parameters()}
    for name, parameter in _learned(model, own):
        moments = optimizer.state.get(parameter, {})
        tensors |= {f"{name}.{part}": moments[part] for part in MOMENTS if part in moments}
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def restore(
    tensors: Mapping[str, torch.Tensor], model: nn.Module, own: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    """Set optimiser and learner to them.

    Those of a joint phase that was taken over from another run have nothing of the learner's: it begins there.

    Raises:
        KeyError: something is missing.
    """
    if any(name.startswith(OWN) for name in tensors):
        with torch.no_grad():
            for name, parameter in own.named_parameters():
                parameter.copy_(tensors[f"{OWN}{name}"])
    for name, parameter in _learned(model, own):
        moments = {part: tensors[f"{name}.{part}"] for part in MOMENTS if f"{name}.{part}" in tensors}
        if moments:
            optimizer.state[parameter] = {
                part: tensor.to(parameter.device, copy=True) for part, tensor in moments.items()
            }


def _learned(model: nn.Module, own: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield every parameter that the optimiser moves, by its name in a checkpoint."""
    yield from model.named_parameters()
    if sharing := ngrams_of(model):
        yield "ngrams", sharing.steps
    yield from ((f"{OWN}{name}", parameter) for name, parameter in own.named_parameters())
