"""The optimisers of many updates, in the outer loop and in fine-tuning: AdamW, or Muon for the matrices of layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from metanmt.config import OptimizerName
from metanmt.nmt.model import ADAPTER_PART
from metanmt.nmt.muon import Muon

Groups = Sequence[dict[str, Any]]

BETA1 = 0.9  # of AdamW's first moment


def make_optimizer(
    name: OptimizerName, model: nn.Module, groups: Groups, *, learning_rate: float, beta2: float, weight_decay: float
) -> torch.optim.Optimizer:
    """Return an optimiser of these groups of parameters.

    Args:
        name: adamw (Loshchilov, Hutter 2019), or muon for the matrices of layers and adamw for everything else.
        model: what the matrices belong to.
        groups: as torch's optimisers take them, each with "params" and whatever it has of its own.
        learning_rate: of both: Muon's updates are scaled to the size of AdamW's (Liu et al. 2025).
        beta2: decay of AdamW's second moment.
        weight_decay: decoupled, of both.
    """
    if name == "muon":
        return MuonAdamW(groups, layer_matrices(model), lr=learning_rate, beta2=beta2, weight_decay=weight_decay)
    return _adamw(groups, lr=learning_rate, beta2=beta2, weight_decay=weight_decay)


def layer_matrices(model: nn.Module) -> list[torch.Tensor]:
    """Return the matrices of a model's layers: its projections.

    Not the output's, which is often the embeddings', whatever stands around it; nor the two thin factors of an adapter.
    """
    ends = (getattr(model, f"get_{end}_embeddings", lambda: None)() for end in ("input", "output"))
    tables = {id(weight) for part in ends if part is not None for weight in part.parameters()}
    return [
        part.weight
        for name, part in model.named_modules()
        if isinstance(part, nn.Linear) and id(part.weight) not in tables and ADAPTER_PART not in name
    ]


class MuonAdamW(torch.optim.Optimizer):
    """Muon for the matrices of layers, AdamW for embeddings, biases and norms, as one optimiser.

    Muon's update is the momentum's nearest orthogonal matrix: every direction of a matrix moves alike, however small
    its gradient. So where it is found in bfloat16, gradients that differ in their last bits, as sums in another order
    do, give updates that differ by thousandths.

    Args:
        groups: parameters and what each group has of its own; matrices and others may be mixed.
        matrices: those that are Muon's.
        lr: of both.
        beta2: decay of AdamW's second moment.
        weight_decay: of both.
    """

    def __init__(
        self, groups: Groups, matrices: Sequence[torch.Tensor], *, lr: float, beta2: float, weight_decay: float
    ) -> None:
        muon, adamw = _split(groups, {id(matrix) for matrix in matrices})
        self._parts: list[torch.optim.Optimizer] = []
        if muon:
            self._parts.append(Muon(muon, lr=lr, weight_decay=weight_decay))
        if adamw:
            self._parts.append(_adamw(adamw, lr=lr, beta2=beta2, weight_decay=weight_decay))
        super().__init__([group for part in self._parts for group in part.param_groups], {})
        self._share()

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Make an update of every parameter that has a gradient."""
        for part in self._parts:
            part.step()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Set groups and moments to those of another optimiser of the same parameters."""
        super().load_state_dict(state_dict)
        self._share()

    def _share(self) -> None:
        """Let both work on the groups and the moments of this optimiser, which the outside reads and sets."""
        first = 0
        for part in self._parts:
            count = len(part.param_groups)
            part.param_groups, part.state = self.param_groups[first : first + count], self.state
            first += count


def _adamw(groups: Groups, *, lr: float, beta2: float, weight_decay: float) -> torch.optim.AdamW:
    return torch.optim.AdamW(list(groups), lr=lr, betas=(BETA1, beta2), weight_decay=weight_decay, fused=True)


def _split(groups: Groups, chosen: set[int]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the groups of the chosen parameters and those of the others, none of them empty."""
    halves: tuple[list[dict[str, Any]], list[dict[str, Any]]] = ([], [])
    for group in groups:
        for half, wanted in zip(halves, (True, False), strict=True):
            params = [weight for weight in group["params"] if (id(weight) in chosen) == wanted]
            if params:
                half.append({**group, "params": params})
    return halves
