"""What an adaptation changed: how far the weights of each layer moved, and whether its representations stayed.

Rapid learning moves the body of a network, feature reuse only its head (Raghu et al. 2020, "Rapid Learning or Feature
Reuse? Towards Understanding the Effectiveness of MAML"). The same two measures are taken here of a translation model.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from metanmt.data.batch import MicroBatch
from metanmt.nmt.loss import decoder_input

EMBEDDINGS = "embeddings"
FEWEST_TOKENS = 4  # that a similarity without bias can be computed from


def layer_of(name: str) -> str:
    """Return the layer that a parameter belongs to: "embeddings", "encoder 1" and so on from 1, "encoder norm"."""
    if found := re.search(r"(encoder|decoder)\.(?:layers|block)\.(\d+)\.", name):
        return f"{found[1]} {int(found[2]) + 1}"
    if found := re.search(r"(encoder|decoder)\..*norm", name):
        return f"{found[1]} norm"
    return EMBEDDINGS


def place_of(layer: str) -> tuple[bool, bool, int]:
    """Return what layers are sorted by from input to output: embeddings, encoder, decoder, each with its norm last."""
    side, _, part = layer.partition(" ")
    number = {"": 0, "input": 0, "norm": 1_000}.get(part)
    return layer != EMBEDDINGS, side == "decoder", int(part) if number is None else number


def same_but_for_new_rows(before: nn.Module, after: nn.Module) -> bool:
    """Return whether two models have the same weights by name and shape, the second perhaps with more embeddings."""
    shapes = [{name: tuple(weight.shape) for name, weight in model.named_parameters()} for model in (before, after)]
    return shapes[0].keys() == shapes[1].keys() and all(
        new == old or (layer_of(name) == EMBEDDINGS and new[0] > old[0] and new[1:] == old[1:])
        for (name, old), new in zip(shapes[0].items(), shapes[1].values(), strict=True)
    )


def relative_movement(before: nn.Module, after: nn.Module) -> dict[str, float]:
    """Return the distance that each layer's weights moved, over their norm before.

    Args:
        before, after: the same architecture; tied weights count once, as embeddings, new rows of which do not.
    """
    moved: dict[str, float] = {}
    norms: dict[str, float] = {}
    new = dict(after.named_parameters())
    for name, old in before.named_parameters():
        layer = layer_of(name)
        change = new[name].detach()[: len(old)] - old.detach()
        moved[layer] = moved.get(layer, 0.0) + float(change.double().square().sum())
        norms[layer] = norms.get(layer, 0.0) + float(old.detach().double().square().sum())
    return {layer: (moved[layer] / norms[layer]) ** 0.5 if norms[layer] else 0.0 for layer in moved}


@torch.inference_mode()
def representations(model: PreTrainedModel, batches: Iterable[MicroBatch]) -> dict[str, Tensor]:
    """Return what each layer puts out at the tokens of some sentences, (N, D), padding left out.

    Args:
        model: in evaluation mode.
        batches: sentence pairs; the decoder reads the references.
    """
    parts: dict[str, list[Tensor]] = {}
    for batch in batches:
        batch = batch.to(model.device)
        found = model(
            input_ids=batch.source,
            attention_mask=batch.source_mask,
            decoder_input_ids=decoder_input(batch.labels, model.config, batch.pad_id),
            output_hidden_states=True,
            use_cache=False,
        )
        for side, states, tokens in (
            ("encoder", found.encoder_hidden_states, batch.source != batch.pad_id),
            ("decoder", found.decoder_hidden_states, batch.labels != batch.pad_id),
        ):
            for number, state in enumerate(states):
                name = f"{side} {number}" if number else f"{side} input"
                parts.setdefault(name, []).append(state[tokens].float().cpu())
    return {name: torch.cat(pieces) for name, pieces in parts.items()}


def linear_cka(one: Tensor, other: Tensor) -> float | None:
    """Return the linear centred kernel alignment of two sets of representations: 1 is the same, about 0 unrelated.

    It does not change when either is rotated or scaled (Kornblith et al. 2019, "Similarity of Neural Network
    Representations Revisited"). By the unbiased estimate of the Hilbert-Schmidt independence criterion (Song et al.
    2012, "Feature Selection via Dependence Maximization"), as Nguyen, Raghu, Kornblith 2021 have it: the plain one
    calls few tokens of many dimensions alike.

    Args:
        one, other: representations of the same N tokens, (N, D) each.

    Returns:
        None where there are fewer than four tokens.
    """
    if len(one) < FEWEST_TOKENS:
        return None
    x, y = (values.double() - values.double().mean(dim=0) for values in (one, other))
    scale = _dependence(x, x) * _dependence(y, y)
    return _dependence(x, y) / scale**0.5 if scale > 0 else 1.0


def _dependence(x: Tensor, y: Tensor) -> float:
    """Return the unbiased HSIC of linear kernels K and L with empty diagonals, from features (N, D)."""
    count = len(x)
    diagonals = x.square().sum(dim=1), y.square().sum(dim=1)
    rows = [part @ part.sum(dim=0) - own for part, own in zip((x, y), diagonals, strict=True)]
    trace = (x.T @ y).square().sum() - diagonals[0] @ diagonals[1]
    sums = rows[0].sum() * rows[1].sum() / ((count - 1) * (count - 2))
    return float(trace + sums - 2 * (rows[0] @ rows[1]) / (count - 2)) / (count * (count - 3))
