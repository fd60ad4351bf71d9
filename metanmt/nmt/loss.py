"""The training loss and its gradient over a logical batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import M2M100ForConditionalGeneration, PreTrainedModel

from metanmt.data.batch import Batch, MicroBatch
from metanmt.runtime import autocast

LOSS_CHUNK = 256  # target tokens whose logits exist at one time: they fit in a CPU's cache, and fill a GPU


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
        if not isinstance(model, M2M100ForConditionalGeneration):
            return self._logits_loss(model, batch)
        places = batch.target_places
        labels = batch.labels.flatten()[places]
        with autocast(self.precision, batch.source.device):
            hidden = model.model(**_inputs(model, batch)).last_hidden_state.flatten(0, 1)[places]
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
        whole = nn.Module()
        whole.model, whole.forward = model, lambda part: self._logits_loss(model, part)
        named = {f"model.{name}": weight for name, weight in weights.items()}
        total = torch.zeros((), device=model.device)
        with sdpa_kernel(SDPBackend.MATH):
            for micro_batch in batch:
                total = total + functional_call(whole, named, (micro_batch.to(model.device),))
        return total / batch.target_tokens


def projected_cross_entropy(hidden: Tensor, weight: Tensor, labels: Tensor, label_smoothing: float) -> Tensor:
    """Return the summed cross-entropy of `hidden @ weight.T`, without ever holding the logits of a whole batch.

    They would be the largest tensor by far: V times N. Label smoothing comes for the price of one product a token,
    since the logits are linear in `hidden`: (1 - e) log p(y) + e mean log p = log p(y) - e h (w_y - mean w).

    Args:
        hidden: the decoder's output at the target tokens, (N, D).
        weight: output projection, (V, D).
        labels: target ids, (N,).
        label_smoothing: e, the share of the probability that is spread evenly over the vocabulary.
    """
    if torch.is_autocast_enabled(hidden.device.type):
        precision = torch.get_autocast_dtype(hidden.device.type)
        hidden, weight = hidden.to(precision), weight.to(precision)
    if not hasattr(functional, "linear_cross_entropy"):  # torch < 2.13
        logits = _at_least_float32(functional.linear(hidden, weight))
        return functional.cross_entropy(logits, labels, reduction="sum", label_smoothing=label_smoothing)
    options = nn.LinearCrossEntropyOptions(batch_chunk_size=LOSS_CHUNK, chunking_method=None)
    loss = functional.linear_cross_entropy(hidden, weight, labels, reduction="sum", options=options)
    if label_smoothing:
        even = weight.mean(dim=0)
        loss = loss + label_smoothing * _at_least_float32(hidden * (weight[labels] - even)).sum()
    return _at_least_float32(loss)


def _at_least_float32(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _inputs(model: PreTrainedModel, batch: MicroBatch) -> dict[str, Any]:
    return {
        "input_ids": batch.source,
        "attention_mask": batch.source_mask,
        "decoder_input_ids": decoder_input(batch.labels, model.config, batch.pad_id),
        "use_cache": False,
    }


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
