"""The training loss and its gradient over a logical batch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from metanmt.data.batch import Batch, MicroBatch
from metanmt.runtime import autocast


@dataclass(frozen=True)
class Loss:
    """Cross-entropy with label smoothing, summed over the non-padding target tokens.

    It is divided by their number in the whole logical batch, so that cutting the batch into micro-batches changes
    memory and nothing else.
    """

    label_smoothing: float = 0.0
    precision: str = "float32"

    def summed(self, model: PreTrainedModel, batch: MicroBatch) -> Tensor:
        """Return the loss summed over the target tokens of a micro-batch, a float32 scalar."""
        with autocast(self.precision, batch.source.device):
            logits = model(
                input_ids=batch.source,
                attention_mask=batch.source_mask,
                decoder_input_ids=decoder_input(batch.labels, model.config, batch.pad_id),
                use_cache=False,
            ).logits
        return functional.cross_entropy(
            logits.flatten(0, 1).float(),
            batch.labels.flatten(),
            ignore_index=batch.pad_id,
            reduction="sum",
            label_smoothing=self.label_smoothing,
        )

    def backward(self, model: PreTrainedModel, batch: Batch) -> Tensor:
        """Add the gradient of the mean loss of a logical batch to `.grad`; return that loss, detached."""
        total = torch.zeros((), device=model.device)
        for micro_batch in batch:
            loss = self.summed(model, micro_batch.to(model.device)) / batch.target_tokens
            torch.autograd.backward(loss)
            total += loss.detach()
        return total


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
