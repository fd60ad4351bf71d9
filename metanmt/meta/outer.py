"""The outer loop: how episodes move the initialisation, whatever the learner."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from metanmt.config import OuterConfig
from metanmt.errors import DeviceMemoryError
from metanmt.meta.adaptation import Loss
from metanmt.meta.distributed import ALONE, Ranks
from metanmt.meta.learner import Learner
from metanmt.meta.task import Episode
from metanmt.meta.unseen import begun
from metanmt.meta.weights import trainable_weights
from metanmt.nmt.lexicon import outer_only, set_pair
from metanmt.nmt.model import clip_gradient
from metanmt.nmt.ngrams import ngrams_of
from metanmt.nmt.optimizer import make_optimizer
from metanmt.runtime import seed_torch


@dataclass(frozen=True)
class StepReport:
    """What an outer step measured; tensors stay on the device until somebody asks.

    A step is skipped, and moves nothing, if a loss or the gradient is not finite.
    """

    support_losses: list[Tensor]
    query_losses: list[Tensor]
    gradient_norm: Tensor
    skipped: bool


def outer_step(
    initialization: nn.Module,
    episodes: Sequence[Episode],
    optimizer: torch.optim.Optimizer,
    learner: Learner,
    outer: OuterConfig,
    loss: Loss,
    ranks: Ranks = ALONE,
) -> StepReport:
    """Move the initialisation by one meta-batch of episodes, and return the losses on the way.

    Of several processes each brings its own share of the episodes; all of them move alike.

    Raises:
        torch.OutOfMemoryError: in an episode; nothing has moved, and the step may be made again with smaller batches.
        DeviceMemoryError: after the episodes, where other processes would not make it again, nor smaller batches help.
    """
    support_losses: list[Tensor] = []
    query_losses: list[Tensor] = []
    optimizer.zero_grad()
    for episode in episodes:
        seed_torch(*episode.seed)  # dropout
        set_pair(initialization, episode.pair)
        with begun(learner.models, episode.start):  # a language that is met as a new one has embeddings of its own
            learner.load(initialization)  # fast weights start at the initialisation
            support_losses += learner.adapt(episode.support, loss)  # the inner loop
            query_losses += learner.accumulate(initialization, episode.query, loss, scale=1 / outer.meta_batch_size)
    with _no_second_try():
        norms = []
        for learned in learner.learned:
            ranks.sum_gradients(learned)
            norms.append(clip_gradient(learned.parameters(), outer.clip_norm))
        [failed] = ranks.total(not all_finite([*norms, *support_losses, *query_losses]))
        if not failed:
            optimizer.step()
    return StepReport(support_losses, query_losses, norms[0], skipped=failed > 0)


@contextmanager
def _no_second_try() -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError:
        raise DeviceMemoryError(
            "The memory of the device is too small for the step of the outer optimiser.",
            "In a new run, choose a smaller model.size, or outer.optimizer=muon, which keeps fewer moments than adamw.",
        ) from None


def all_finite(values: Sequence[Tensor]) -> bool:
    """Return whether no value is infinite or not a number; a GPU is waited for once, however many there are."""
    return bool(torch.stack(list(values)).isfinite().all())


def outer_optimizer(initialization: nn.Module, own: nn.Module, outer: OuterConfig) -> torch.optim.Optimizer:
    """Return the optimiser of what is learned.

    Args:
        initialization: its trainable weights, those that a lexicon's languages share without decay; and what its pieces
            share, if they do.
        own: what the learner learns beside it; a group with a rate of its own, and no decay towards zero.
        outer: optimiser, rates and decay.
    """
    weights, undecayed = trainable_weights(initialization), outer_only(initialization)
    sharing = ngrams_of(initialization)
    groups: list[dict[str, Any]] = [
        {"params": [weight for name, weight in weights.items() if name not in undecayed], "rate_scale": 1.0},
        {"params": [weights[name] for name in sorted(undecayed)], "rate_scale": 1.0, "weight_decay": 0.0},
        {"params": [sharing.steps] if sharing else [], "rate_scale": 1.0, "weight_decay": 0.0},
        {"params": list(own.parameters()), "rate_scale": outer.own_rate_scale, "weight_decay": 0.0},
    ]
    optimizer = make_optimizer(
        outer.optimizer,
        initialization,
        [group for group in groups if group["params"]],
        learning_rate=outer.learning_rate,
        beta2=outer.adam_beta2,
        weight_decay=outer.weight_decay,
    )
    if sharing:
        sharing.attach(optimizer)
    return optimizer


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the outer learning rate of every group, each by its scale."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["rate_scale"]


def learning_rate(outer: OuterConfig, step: int, share_done: float) -> float:
    """Return the outer learning rate of a step: linear warm-up, then the decay of the schedule.

    Args:
        outer: peak rate, warm-up and schedule.
        step: outer steps done before this one.
        share_done: share of the run's cost that is spent, 0 to 1; linear and cosine decay follow it, so that runs of
            equal cost decay alike however many steps they take.
    """
    warmup = min(1.0, (step + 1) / max(1, outer.warmup_steps))
    match outer.schedule:
        case "linear":
            decay = max(0.0, 1 - share_done)
        case "cosine":
            decay = 0.5 * (1 + math.cos(min(1.0, share_done) * math.pi))
        case "inverse-sqrt":
            decay = math.sqrt(max(1, outer.warmup_steps) / max(step + 1, outer.warmup_steps, 1))
        case "constant":
            decay = 1.0
    return outer.learning_rate * warmup * decay
