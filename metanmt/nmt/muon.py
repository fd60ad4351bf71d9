"""Muon: momentum whose update of a matrix is made orthogonal, for all matrices of a shape at once."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from metanmt.nmt.precision import mixed

MOMENTUM = 0.95
ITERATIONS = 5
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the polynomial a x + b x^3 + c x^5, which takes singular values in five iterations to between 0.7 and 1.2."""


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov momentum and decoupled weight decay; updates have the size of AdamW's (Liu et al. 2025).

    The update is that of `torch.optim.Muon(..., adjust_lr_fn="match_rms_adamw")`, which iterates in bfloat16 on every
    device, a matrix at a time. A CPU that does not multiply in bfloat16 takes forty times as long for that as in
    float32; so here the precision is the device's, and matrices of one shape, or of its transpose, go together.

    Args:
        groups: matrices, and what each group has of its own.
        lr: the rate, as of AdamW.
        weight_decay: decoupled.

    References:
        Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks".
        Liu et al. 2025, "Muon is Scalable for LLM Training", arXiv:2502.16982.
    """

    def __init__(self, groups: Iterable[dict[str, object]], *, lr: float, weight_decay: float) -> None:
        super().__init__(groups, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Make an update of every matrix that has a gradient."""
        for group in self.param_groups:
            stacks: dict[tuple[object, ...], list[Tensor]] = {}
            for weight in group["params"]:
                if weight.grad is not None:
                    stacks.setdefault((weight.device, weight.dtype, *sorted(weight.shape)), []).append(weight)
            for matrices in stacks.values():
                self._move(matrices, group["lr"], group["weight_decay"])

    def _move(self, matrices: list[Tensor], rate: float, weight_decay: float) -> None:
        """Make an update of matrices of one shape or of its transpose."""
        tall = [matrix.shape[0] > matrix.shape[1] for matrix in matrices]
        gradients = [_gradient(matrix) for matrix in matrices]
        for matrix in matrices:
            if "momentum_buffer" not in self.state[matrix]:
                self.state[matrix]["momentum_buffer"] = torch.zeros_like(matrix)
        momenta = [self.state[matrix]["momentum_buffer"] for matrix in matrices]
        torch._foreach_lerp_(momenta, gradients, 1 - MOMENTUM)
        ahead = torch._foreach_lerp(gradients, momenta, MOMENTUM)
        updates = orthogonalized(torch.stack(_turned(ahead, tall))).to(matrices[0].dtype)
        torch._foreach_mul_(matrices, 1 - rate * weight_decay)
        scale = 0.2 * max(matrices[0].shape) ** 0.5
        torch._foreach_add_(matrices, _turned(updates, tall), alpha=-scale * rate)


def orthogonalized(matrices: Tensor) -> Tensor:
    """Return U V^T of each matrix U S V^T, roughly: with singular values between 0.7 and 1.2, by Newton-Schulz.

    In bfloat16 where the device multiplies in it, else in float32; the result is in that precision.

    Args:
        matrices: (N, R, C), no more rows than columns, or it takes longer.
    """
    a, b, c = COEFFICIENTS
    result = matrices.to(torch.bfloat16 if mixed("auto", matrices.device) else torch.float32)
    result = result / torch.linalg.matrix_norm(result, keepdim=True).clamp(min=1e-7)
    for _ in range(ITERATIONS):
        gram = result @ result.mT
        result = torch.baddbmm(result, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), result, beta=a)
    return result


def _turned(matrices: Iterable[Tensor], chosen: Iterable[bool]) -> list[Tensor]:
    return [matrix.T if turn else matrix for matrix, turn in zip(matrices, chosen, strict=True)]


def _gradient(matrix: Tensor) -> Tensor:
    assert matrix.grad is not None
    return matrix.grad
