"""Mixed precision: matrix products in bfloat16 where the device multiplies in it, weights and losses in float32."""

from __future__ import annotations

import functools
import os
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from metanmt.data.batch import MicroBatch
from metanmt.runtime import keep_freed_memory

# Each kernel that oneDNN compiles takes half a megabyte, and it keeps 1,024 of them; to compile one again is cheap.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
keep_freed_memory()

CPU_FEATURES = ("avx512_bf16", "amx_bf16")
EVEN_TOKENS = 8


def mixed(precision: str, where: torch.device) -> bool:
    """Return whether matrix products are in bfloat16 on a device: if asked, or by "auto" where that is faster."""
    if precision != "auto":
        return precision == "bfloat16"
    if where.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return where.type == "cpu" and cpu_multiplies_bfloat16()


@functools.cache
def cpu_multiplies_bfloat16() -> bool:
    """Return whether the CPU has instructions for it, as Zen 4 and Sapphire Rapids do."""
    known: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # torch < 2.13 does not tell
    return any(known.get(name, False) for name in CPU_FEATURES)


def autocast(precision: str, where: torch.device) -> AbstractContextManager[Any]:
    """Return the context for forward passes in a precision: "float32", "bfloat16" or "auto"."""
    return torch.autocast(where.type, dtype=torch.bfloat16) if mixed(precision, where) else nullcontext()


def evenly_padded(batch: MicroBatch, precision: str) -> MicroBatch:
    """Return the batch as it is best multiplied: on a CPU in bfloat16, of lengths that are multiples of 8.

    Kernels are compiled there for every shape that is new, in a quarter of a millisecond, so fewer shapes are faster.
    """
    where = batch.source.device
    return batch.even(EVEN_TOKENS) if where.type == "cpu" and mixed(precision, where) else batch


def attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """Return scaled dot-product attention as `transformers` calls it, on a CPU always in float32.

    There the gradient of the fused kernel is three times slower in bfloat16.
    """
    exact = query.device.type == "cpu" and query.dtype == torch.bfloat16
    if exact:
        query, key, value = query.float(), key.float(), value.float()
    with torch.autocast("cpu", enabled=False) if exact else nullcontext():
        output: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, mask, **options)
    return output


AttentionInterface.register("sdpa", attention)
