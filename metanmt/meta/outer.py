"""The outer loop: how episodes move the initialisation. One function a learner; joint training is the one without
an inner loop.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from metanmt.config import Config, OuterConfig
from metanmt.data.batch import Batch
from metanmt.meta.adaptation import Backward, adapt
from metanmt.meta.distributed import ALONE, Ranks
from metanmt.meta.task import Episode
from metanmt.meta.weights import Weights, accumulate, load_weights, trainable_weights
from metanmt.nmt.lexicon import set_pair
from metanmt.nmt.model import clip_gradient
from metanmt.runtime import seed_torch


class OuterGradient(Protocol):
    """Returns the direction against which the initialisation moves, by parameter name."""

    def __call__(
        self, initialization: nn.Module, learner: nn.Module, query: Batch | None, loss: Backward
    ) -> tuple[Weights, Tensor | None]:
        """Return the gradient and the query loss, if there is one."""


def fomaml_gradient(
    initialization: nn.Module, learner: nn.Module, query: Batch | None, loss: Backward
) -> tuple[Weights, Tensor | None]:
    """Return the gradient of the query loss at the fast weights, to be applied to the initialisation.

    Without an inner step the fast weights are the initialisation, and this is the gradient of joint multilingual
    training: the baseline is the same code.

    Args:
        initialization: theta; unused, kept so that every outer gradient has one signature.
        learner: holds the fast weights phi after `adapt`; its `.grad` is overwritten.
        query: the logical batch to judge phi by.
        loss: mean loss over the query's target tokens.

    Reference: Finn, Abbeel, Levine 2017, section 5.2 ("first-order approximation").
    """
    assert query is not None, "FOMAML needs a query set"
    learner.zero_grad(set_to_none=True)
    query_loss = loss.backward(learner, query)
    gradient = {name: w.grad for name, w in trainable_weights(learner).items() if w.grad is not None}
    return gradient, query_loss


@torch.no_grad()
def reptile_gradient(
    initialization: nn.Module, learner: nn.Module, query: Batch | None, loss: Backward
) -> tuple[Weights, Tensor | None]:
    """Return the direction from the adapted weights back to the initialisation, theta - phi.

    With one plain SGD inner step this is the inner learning rate times the ordinary gradient, which the tests use.

    Args:
        initialization: theta, not modified.
        learner: holds the fast weights phi after `adapt`.
        query: unused; kept so that every outer gradient has one signature.
        loss: unused, likewise.

    Reference: Nichol, Achiam, Schulman 2018, "On First-Order Meta-Learning Algorithms".
    """
    theta, phi = trainable_weights(initialization), trainable_weights(learner)
    moved = torch._foreach_sub(list(theta.values()), [phi[name] for name in theta])
    return dict(zip(theta, moved, strict=True)), None


@dataclass(frozen=True)
class Learner:
    """What distinguishes a learner: its outer gradient, whether it adapts, and whether it is judged on a query set."""

    outer_gradient: OuterGradient
    inner_loop: bool
    query: bool


LEARNERS: dict[str, Learner] = {
    "joint": Learner(fomaml_gradient, inner_loop=False, query=True),
    "fomaml": Learner(fomaml_gradient, inner_loop=True, query=True),
    "reptile": Learner(reptile_gradient, inner_loop=True, query=False),
}


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
    fast_model: nn.Module,
    episodes: Sequence[Episode],
    optimizer: torch.optim.Optimizer,
    learner: Learner,
    config: Config,
    loss: Backward,
    ranks: Ranks = ALONE,
) -> StepReport:
    """Move the initialisation by one meta-batch of episodes, and return the losses on the way.

    Of several processes each brings its own share of the episodes; all of them move alike.
    """
    support_losses: list[Tensor] = []
    query_losses: list[Tensor] = []
    optimizer.zero_grad()
    for episode in episodes:
        seed_torch(*episode.seed)  # dropout
        set_pair(fast_model, episode.pair)
        load_weights(fast_model, initialization)  # fast weights start at the initialisation
        support_losses += adapt(fast_model, episode.support, config.inner, loss)
        gradient, query_loss = learner.outer_gradient(initialization, fast_model, episode.query, loss)
        accumulate(initialization, gradient, scale=1 / config.outer.meta_batch_size)
        query_losses += [] if query_loss is None else [query_loss]
    ranks.sum_gradients(initialization)
    norm = clip_gradient(initialization.parameters(), config.outer.clip_norm)
    [failed] = ranks.total(not all_finite([norm, *support_losses, *query_losses]))
    if not failed:
        optimizer.step()
    return StepReport(support_losses, query_losses, norm, skipped=failed > 0)


def all_finite(values: Sequence[Tensor]) -> bool:
    """Return whether no value is infinite or not a number; a GPU is waited for once, however many there are."""
    return bool(torch.stack(list(values)).isfinite().all())


def make_optimizer(initialization: nn.Module, outer: OuterConfig) -> torch.optim.AdamW:
    """Return AdamW over the trainable weights, as one kernel (Loshchilov, Hutter 2019)."""
    return torch.optim.AdamW(
        list(trainable_weights(initialization).values()),
        lr=outer.learning_rate,
        betas=(0.9, outer.adam_beta2),
        weight_decay=outer.weight_decay,
        fused=True,
    )


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
