"""The training loss and its gradient over a logical batch."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.func import functional_call
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import M2M100ForConditionalGeneration, PreTrainedModel

from metanmt.data.batch import Batch, MicroBatch
from metanmt.nmt.precision import autocast, evenly_padded

CHUNK_TOKENS = {"cpu": 256, "cuda": 2_048}  # target tokens whose logits exist at one time


@dataclass(frozen=True)
class Loss:
    """Cross-entropy with label smoothing, summed over the non-padding target tokens.

    It is divided by their number in the whole logical batch, so that cutting the batch into micro-batches changes
    memory and nothing else.
    """

    label_smoothing: float = 0.0
    precision: str = "float32"

    def summed(self, model: PreTrainedModel, batch: MicroBatch) -> Tensor:
        """Return the loss summed over the target tokens of a micro-batch, a scalar in the weights' precision."""
        batch = evenly_padded(batch, self.precision)
        if not isinstance(model, M2M100ForConditionalGeneration):
            return self._logits_loss(model, batch)
        places = batch.target_places
        labels = batch.labels.flatten()[places]
        with autocast(self.precision, batch.source.device):
            inputs = _inputs(model, batch) | _ready_mask(model, batch)
            hidden = model.model(**inputs).last_hidden_state.flatten(0, 1)[places]
            return projected_cross_entropy(hidden, model.lm_head.weight, labels, self.label_smoothing)

    def _logits_loss(self, model: PreTrainedModel, batch: MicroBatch) -> Tensor:
        places = batch.target_places
        with autocast(self.precision, batch.source.device):
            logits = model(**_inputs(model, batch)).logits.flatten(0, 1)[places]
        return functional.cross_entropy(
            _at_least_float32(logits),
            batch.labels.flatten()[places],
            reduction="sum",
            label_smoothing=self.label_smoothing,
        )

    def backward(self, model: PreTrainedModel, batch: Batch, scale: float = 1.0) -> Tensor:
        """Add `scale` times the gradient of the mean loss of a logical batch to `.grad`; return that loss, detached."""
        total = torch.zeros((), device=model.device)
        for micro_batch in batch:
            loss = self.summed(model, micro_batch.to(model.device)) / batch.target_tokens
            torch.autograd.backward(loss * scale)
            total += loss.detach()
        return total

    def at(self, model: PreTrainedModel, weights: Mapping[str, Tensor], batch: Batch) -> Tensor:
        """Return the mean loss of a logical batch with other weights than the model's, differentiable twice.

        Fused attention has no second derivative, so this takes the kernel of plain matrix products, and ordinary
        logits: more memory than `backward`, and slower.

        Args:
            model: not modified; weights that are not given are its own.
            weights: by the names of the model's parameters; tied ones once.
            batch: the logical batch.
        """
        total = torch.zeros((), device=model.device)
        with sdpa_kernel(SDPBackend.MATH):
            for micro_batch in batch:
                total = total + _call_with(weights, model, self._logits_loss, micro_batch)
        return total / batch.target_tokens

    def gradients_at(
        self, model: PreTrainedModel, weights: Mapping[str, Tensor], names: Collection[str], batch: Batch
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the mean loss of a logical batch with other weights than the model's, and its gradient.

        Memory is that of one micro-batch, as in `backward`.

        Args:
            model, weights, batch: as for `at`.
            names: of the weights to derive by; the result has those that the loss depends on, without a graph.
        """
        leaves = {name: weight.detach().requires_grad_(name in names) for name, weight in weights.items()}
        total = torch.zeros((), device=model.device)
        for micro_batch in batch:
            loss = _call_with(leaves, model, self.summed, micro_batch) / batch.target_tokens
            torch.autograd.backward(loss)
            total += loss.detach()
        return total, {name: grad for name, leaf in leaves.items() if (grad := leaf.grad) is not None}


def _call_with(
    weights: Mapping[str, Tensor],
    model: PreTrainedModel,
    loss: Callable[[PreTrainedModel, MicroBatch], Tensor],
    batch: MicroBatch,
) -> Tensor:
    """Return the loss of a model with other weights in the place of its own."""
    whole = nn.Module()
    whole.model, whole.forward = model, lambda part: loss(model, part)
    named = {f"model.{name}": weight for name, weight in weights.items()}
    result: Tensor = functional_call(whole, named, (batch.to(model.device),))
    return result


def projected_cross_entropy(hidden: Tensor, weight: Tensor, labels: Tensor, label_smoothing: float) -> Tensor:
    """Return the summed cross-entropy of `hidden @ weight.T`, without ever holding the logits of a whole batch.

    They would be the largest tensor by far: V times N. Label smoothing comes for the price of one product a token,
    since the logits are linear in `hidden`: (1 - e) log p(y) + e mean log p = log p(y) - e h (w_y - mean w).
    Under autocast the products are in its precision; the logarithms, the sum and what adds up to the gradients are not.

    Args:
        hidden: the decoder's output at the target tokens, (N, D).
        weight: output projection, (V, D).
        labels: target ids, (N,).
        label_smoothing: e, the share of the probability that is spread evenly over the vocabulary.
    """
    where = hidden.device.type
    precision = torch.get_autocast_dtype(where) if torch.is_autocast_enabled(where) else hidden.dtype
    if not torch.is_grad_enabled():
        hidden, weight = hidden.detach(), weight.detach()
    with torch.autocast(where, enabled=False):
        arguments = hidden, weight, labels, label_smoothing, precision
        total: Tensor = _ProjectedCrossEntropy.apply(*arguments)  # type: ignore[no-untyped-call]
    return total


class _ProjectedCrossEntropy(torch.autograd.Function):
    """Loss and gradient in one pass over chunks of tokens: dL/dh = p W - e mean w - (1 - e) w_y, and dL/dW likewise.

    The gradient, of the size of what needs one of `hidden` and `weight`, waits for `backward` and is scaled in place
    there, once.
    """

    @staticmethod
    def forward(
        context: Any,
        hidden: Tensor,
        weight: Tensor,
        labels: Tensor,
        label_smoothing: float,
        precision: torch.dtype,
    ) -> Tensor:
        """Return the summed loss; keep the gradients that are needed."""
        exact = torch.promote_types(hidden.dtype, torch.float32)
        inputs, outputs = hidden.to(precision), weight.to(precision)
        even = outputs.mean(dim=0, dtype=exact)
        total = torch.zeros((), dtype=exact, device=hidden.device)
        hidden_gradient, weight_gradient = (
            torch.zeros(tensor.shape, dtype=exact, device=hidden.device) if needed else None
            for tensor, needed in zip((hidden, weight), context.needs_input_grad, strict=False)
        )
        size = CHUNK_TOKENS.get(hidden.device.type, len(hidden))
        for start in range(0, len(hidden), size):
            part, label = inputs[start : start + size], labels[start : start + size, None]
            logits = part @ outputs.t()
            log_p = torch.log_softmax(logits, dim=1, dtype=exact)
            total -= log_p.gather(1, label).sum()
            if label_smoothing:
                total += label_smoothing * (logits.gather(1, label).sum(dtype=exact) - (part.to(exact) @ even).sum())
            if hidden_gradient is None and weight_gradient is None:
                continue
            p = torch.exp(log_p, out=log_p if precision == exact else logits)
            if hidden_gradient is not None:
                hidden_gradient[start : start + size] = p @ outputs
            if weight_gradient is not None and precision == exact:
                weight_gradient.addmm_(p.t(), part)
            elif weight_gradient is not None:
                weight_gradient += p.t() @ part
        if hidden_gradient is not None:
            hidden_gradient -= label_smoothing * even + (1 - label_smoothing) * weight[labels]
        if weight_gradient is not None:
            weight_gradient -= label_smoothing / len(weight) * hidden.sum(dim=0)
            weight_gradient.index_add_(0, labels, hidden.to(exact), alpha=label_smoothing - 1)
        context.gradients = hidden_gradient, weight_gradient
        return total

    @staticmethod
    @once_differentiable
    def backward(context: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients that were kept, times that of the loss."""
        gradients = [None if gradient is None else gradient.mul_(scale) for gradient in context.gradients]
        del context.gradients
        return (*gradients, None, None, None)


def _at_least_float32(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _inputs(model: PreTrainedModel, batch: MicroBatch) -> dict[str, Any]:
    return {
        "input_ids": batch.source,
        "attention_mask": batch.source_mask,
        "decoder_input_ids": decoder_input(batch.labels, model.config, batch.pad_id),
        "use_cache": False,
    }


def _ready_mask(model: PreTrainedModel, batch: MicroBatch) -> dict[str, Tensor | None]:
    """Return the mask as fused attention takes it, (B, 1, 1, S); `transformers` would ask the device for its values."""
    if model.config._attn_implementation != "sdpa":
        return {}
    return {"attention_mask": (batch.source != batch.pad_id)[:, None, None, :] if batch.padded_source else None}


def decoder_input(labels: Tensor, config: object, pad_id: int) -> Tensor:
    """Return the labels (B, T) shifted right by one, with the decoder's start token first.

    mBART has none: the last token of the labels, the language's code or the end mark, comes first (Liu et al. 2020).
    """
    shifted = labels.roll(1, dims=1)
    start = getattr(config, "decoder_start_token_id", None)
    if start is None or getattr(config, "model_type", "") == "mbart":
        last = (labels != pad_id).sum(dim=1, keepdim=True) - 1
        shifted[:, 0] = labels.gather(1, last).squeeze(1)
    else:
        shifted[:, 0] = start
    return shifted
