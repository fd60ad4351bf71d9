"""The loss: a golden figure, no trace of padding or of micro-batches, label smoothing by hand."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import MBartConfig, MBartForConditionalGeneration, PreTrainedModel

from metanmt.data.batch import Batch, MicroBatch, make_batch
from metanmt.data.store import Bitext
from metanmt.nmt.loss import CHUNK_TOKENS, Loss, decoder_input, projected_cross_entropy
from metanmt.nmt.model import set_dropout
from tests import toy

SOURCE = [[3, 20, 30, 40, 2], [3, 50, 2]]
LABELS = [[60, 61, 62, 2], [70, 2]]


def micro_batch(extra: int = 0, pad: int = 0) -> MicroBatch:
    """Return two sentences with `extra` columns of padding more than needed."""

    def padded(rows: list[list[int]]) -> torch.Tensor:
        width = max(map(len, rows)) + extra
        return torch.tensor([row + [pad] * (width - len(row)) for row in rows])

    return MicroBatch(padded(SOURCE), padded(LABELS), pad)


def value(loss: Loss, model: PreTrainedModel) -> float:
    with torch.no_grad():
        return float(loss.summed(model, micro_batch()))


def gradient(model: PreTrainedModel, loss: Loss, batch: Batch) -> tuple[float, torch.Tensor]:
    """Return the loss and the whole gradient as one vector."""
    model.zero_grad(set_to_none=True)
    mean = float(loss.backward(model, batch))
    return mean, torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


def test_golden_loss() -> None:
    """The figure was computed once, with float64 weights; it changes only if the model or the loss does."""
    model = toy.make_m2m100(100).eval().double()
    assert value(Loss(), model) == pytest.approx(GOLDEN, rel=1e-6)
    assert value(Loss(label_smoothing=0.1), model) == pytest.approx(GOLDEN_SMOOTHED, rel=1e-6)


GOLDEN, GOLDEN_SMOOTHED = 35.819950, 35.416782


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_label_smoothing_by_hand(smoothing: float) -> None:
    """Loss = -sum over tokens of [(1 - e) log p(y) + e/V sum over v of log p(v)] (Szegedy et al. 2016)."""
    model = toy.make_m2m100(100).eval().double()
    expected = 0.0
    for source, labels in zip(SOURCE, LABELS, strict=True):  # one sentence at a time: no padding at all
        logits = model(
            input_ids=torch.tensor([source]), decoder_input_ids=torch.tensor([[2, *labels[:-1]]])
        ).logits.squeeze(0)
        log_p = (logits - logits.exp().sum(dim=1, keepdim=True).log()).detach()
        for position, label in enumerate(labels):
            expected -= float((1 - smoothing) * log_p[position, label] + smoothing * log_p[position].mean())
    found = value(Loss(label_smoothing=smoothing), model)
    assert found == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_padding_does_not_change_the_loss(smoothing: float) -> None:
    model = toy.make_m2m100(100)
    loss = Loss(label_smoothing=smoothing)
    plain, padded = (gradient(model, loss, Batch((micro_batch(extra),), 6)) for extra in (0, 7))
    assert padded[0] == pytest.approx(plain[0], rel=1e-6)
    assert float((padded[1] - plain[1]).norm() / plain[1].norm()) < 1e-5


def test_the_loss_is_the_mean_over_the_target_tokens() -> None:
    model = toy.make_m2m100(100)
    summed = value(Loss(), model)
    assert gradient(model, Loss(), Batch((micro_batch(),), 6))[0] == pytest.approx(summed / 6, rel=1e-6)


@pytest.mark.parametrize("parts", [2, 8])
def test_accumulation_gives_the_same_gradient(toy_model: PreTrainedModel, toy_bitext: Bitext, parts: int) -> None:
    indices = np.arange(40)
    whole = make_batch(toy_bitext, indices, 100_000, 0)
    assert len(whole.micro_batches) == 1
    cut = Batch(
        tuple(
            micro
            for part in np.array_split(indices, parts)
            for micro in make_batch(toy_bitext, part, 100_000, 0).micro_batches
        ),
        whole.target_tokens,
    )
    assert len(cut.micro_batches) == parts
    one, many = (gradient(toy_model, Loss(label_smoothing=0.1), batch) for batch in (whole, cut))
    assert many[0] == pytest.approx(one[0], rel=1e-6)
    assert float((many[1] - one[1]).norm() / one[1].norm()) < 1e-5


def test_the_gradient_is_added_to_what_is_there(toy_model: PreTrainedModel) -> None:
    batch = Batch((micro_batch(),), 6)
    once = gradient(toy_model, Loss(), batch)[1]
    Loss().backward(toy_model, batch)
    twice = torch.cat([parameter.grad.flatten() for parameter in toy_model.parameters()])
    assert torch.allclose(twice, 2 * once, atol=1e-6)


def test_dropout_is_off_in_evaluation_mode(toy_model: PreTrainedModel) -> None:
    set_dropout(toy_model, 0.5)
    toy_model.eval()
    assert len({value(Loss(), toy_model) for _ in range(3)}) == 1


def test_bfloat16_keeps_weights_and_loss_in_float32(toy_model: PreTrainedModel) -> None:
    loss = Loss(precision="bfloat16").summed(toy_model, micro_batch())
    assert loss.dtype == torch.float32
    loss.backward()
    assert {parameter.grad.dtype for parameter in toy_model.parameters()} == {torch.float32}
    assert float(loss.detach()) == pytest.approx(value(Loss(), toy_model), rel=0.05)


def test_decoder_input_begins_with_the_start_token() -> None:
    labels = torch.tensor([[60, 61, 62, 2], [70, 2, 0, 0]])
    shifted = decoder_input(labels, SimpleNamespace(decoder_start_token_id=9), 0)
    assert shifted.tolist() == [[9, 60, 61, 62], [9, 70, 2, 0]]
    assert labels.tolist() == [[60, 61, 62, 2], [70, 2, 0, 0]], "labels are not modified"


def test_decoder_input_of_mbart_begins_with_the_last_token() -> None:
    """Held against the model's own loss, which shifts by itself (Liu et al. 2020): `X </s> en` after `en X </s>`."""
    labels = torch.tensor([[60, 61, 2, 8], [70, 2, 8, 1]])
    for start in (None, 9):  # a start token in the configuration is that of one target, so it is not heeded
        shape = MBartConfig(
            vocab_size=100,
            d_model=16,
            encoder_layers=1,
            decoder_layers=1,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=16,
            decoder_ffn_dim=16,
            decoder_start_token_id=start,
        )
        assert decoder_input(labels, shape, 1).tolist() == [[8, 60, 61, 2], [8, 70, 2, 8]]
    model = MBartForConditionalGeneration(shape).eval()
    batch = MicroBatch(torch.tensor([[50, 51, 2, 7], [52, 2, 7, 1]]), labels, 1)
    with torch.no_grad():
        own = model(
            input_ids=batch.source, attention_mask=batch.source_mask, labels=labels.masked_fill(labels == 1, -100)
        ).loss
        ours = Loss().summed(model, batch)
    assert float(ours) / 7 == pytest.approx(float(own), rel=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_projected_loss_and_its_gradients(smoothing: float) -> None:
    """Cut into chunks, smoothing in closed form: the same as the plain cross-entropy of the logits."""
    torch.manual_seed(3)
    hidden = torch.randn(2 * CHUNK_TOKENS["cpu"] + 7, 24, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(90, 24, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, 90, (len(hidden),))
    found = projected_cross_entropy(hidden, weight, labels, smoothing)
    plain = functional.cross_entropy(hidden @ weight.T, labels, reduction="sum", label_smoothing=smoothing)
    assert found.item() == pytest.approx(plain.item(), rel=1e-12)
    gradients = [torch.autograd.grad(3 * loss, (hidden, weight)) for loss in (found, plain)]
    for ours, theirs in zip(*gradients, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-9, atol=1e-9)


def test_the_projected_loss_in_bfloat16() -> None:
    """Products are rounded to 8 bits of precision; the sum over a batch is not, and neither is the gradient's."""
    torch.manual_seed(3)
    tokens = 2 * CHUNK_TOKENS["cpu"] + 7
    hidden, weight = torch.randn(tokens, 24, requires_grad=True), torch.randn(90, 24, requires_grad=True)
    labels = torch.randint(0, 90, (tokens,))
    plain = functional.cross_entropy(hidden @ weight.T, labels, reduction="sum", label_smoothing=0.1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = projected_cross_entropy(hidden, weight, labels, 0.1)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(plain.item(), rel=3e-4), "a sum in bfloat16 would be off by 4e-3"
    gradients = [torch.autograd.grad(loss, (hidden, weight)) for loss in (found, plain)]
    for ours, theirs in zip(*gradients, strict=True):
        assert ours.dtype == torch.float32
        assert float((ours - theirs).norm() / theirs.norm()) < 0.01


@pytest.mark.parametrize("moving", ["hidden", "weight"])
def test_the_projected_loss_keeps_no_gradient_of_what_is_frozen(moving: str) -> None:
    """Of a frozen base with 256,000 pieces it would be a gigabyte, and a third of the work."""
    tensors = {"hidden": torch.randn(30, 8), "weight": torch.randn(20, 8)}
    labels = torch.randint(0, 20, (30,))
    tensors[moving].requires_grad_()
    found = projected_cross_entropy(**tensors, labels=labels, label_smoothing=0.1)
    kept = dict(zip(tensors, found.grad_fn.gradients, strict=True))
    assert [name for name, gradient in kept.items() if gradient is not None] == [moving]
    plain = functional.cross_entropy(
        tensors["hidden"] @ tensors["weight"].T, labels, reduction="sum", label_smoothing=0.1
    )
    ours, theirs = (torch.autograd.grad(loss, tensors[moving])[0] for loss in (found, plain))
    assert torch.allclose(ours, theirs, atol=1e-5)


def test_the_projected_loss_without_gradients() -> None:
    hidden, weight, labels = torch.randn(30, 8), torch.randn(20, 8, requires_grad=True), torch.randint(0, 20, (30,))
    found = projected_cross_entropy(hidden, weight, labels, 0.1)
    with torch.inference_mode():
        assert projected_cross_entropy(hidden, weight, labels, 0.1).item() == found.item()
    assert found.requires_grad
