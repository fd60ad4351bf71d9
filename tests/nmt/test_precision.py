"""Mixed precision: where it is chosen, near float32 in loss and gradient, attention apart."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from metanmt.data.batch import Batch
from metanmt.nmt import precision
from metanmt.nmt.loss import Loss
from metanmt.nmt.precision import EVEN_TOKENS, attention, autocast, evenly_padded, mixed
from tests.nmt.test_loss import gradient, micro_batch

CPU = torch.device("cpu")


@pytest.mark.parametrize("able", [False, True])
def test_auto_is_bfloat16_where_the_cpu_multiplies_in_it(monkeypatch: pytest.MonkeyPatch, able: bool) -> None:
    monkeypatch.setattr(precision, "cpu_multiplies_bfloat16", lambda: able)
    assert mixed("auto", CPU) is able
    assert mixed("bfloat16", CPU)
    assert not mixed("float32", CPU)
    with autocast("auto", CPU):
        assert torch.is_autocast_enabled("cpu") is able


def test_what_the_cpu_can_is_asked_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    for known, able in (({"avx512_bf16": True}, True), ({"amx_bf16": True}, True), ({"avx512_f": True}, False)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda known=known: known, raising=False)
        precision.cpu_multiplies_bfloat16.cache_clear()
        assert precision.cpu_multiplies_bfloat16() is able
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    precision.cpu_multiplies_bfloat16.cache_clear()
    assert not precision.cpu_multiplies_bfloat16(), "torch < 2.13 does not tell"
    precision.cpu_multiplies_bfloat16.cache_clear()


def test_even_lengths_change_nothing(toy_model: PreTrainedModel) -> None:
    batch = micro_batch()
    even = batch.even(EVEN_TOKENS)
    assert (even.source.shape[1], even.labels.shape[1]) == (8, 8)
    assert evenly_padded(batch, "float32") is batch
    assert evenly_padded(batch, "bfloat16").source.equal(even.source)
    with torch.no_grad():
        losses = [float(Loss().summed(toy_model.eval(), item)) for item in (batch, even)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_the_gradient_is_near_that_in_float32(toy_model: PreTrainedModel) -> None:
    batch = Batch((micro_batch(),), 6)
    (loss, exact), (rounded_loss, rounded) = (
        gradient(toy_model.eval(), Loss(0.1, name), batch) for name in ("float32", "bfloat16")
    )
    assert rounded_loss == pytest.approx(loss, rel=5e-3)
    assert 0.99 < float(functional.cosine_similarity(rounded, exact, dim=0)) < 1 - 1e-6


def test_attention_on_a_cpu_is_in_float32(toy_model: PreTrainedModel) -> None:
    module = toy_model.get_encoder().layers[0].self_attn
    query, key, value = (torch.randn(2, 2, 5, 8) for _ in range(3))
    exact, _ = sdpa_attention_forward(module, query.bfloat16().float(), key.bfloat16().float(), value, None)
    with autocast("bfloat16", CPU):
        found, _ = attention(module, query.bfloat16(), key.bfloat16(), value.bfloat16(), None)
        assert torch.is_autocast_enabled("cpu")
    assert found.dtype == torch.float32
    assert torch.allclose(found, exact, atol=0.02)
    plain, _ = attention(module, query, key, value, None)
    assert torch.equal(plain, sdpa_attention_forward(module, query, key, value, None)[0])


def test_models_use_that_attention(toy_model: PreTrainedModel) -> None:
    """By its name, so that every checkpoint with fused attention does, whoever made it."""
    assert toy_model.config._attn_implementation == "sdpa"
    assert ALL_ATTENTION_FUNCTIONS["sdpa"] is attention
