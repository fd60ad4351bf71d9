"""Which meta-train pair to transfer from."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from metanmt.errors import ConfigError, DivergenceError, did_you_mean
from metanmt.meta.task import Task
from metanmt.runlog import say


@dataclass
class Trial:
    """A candidate and where its short training ended."""

    task: Task
    loss: float
    step: int
    weights: Mapping[str, torch.Tensor]
    optimizer: Mapping[str, Any]


def named_parent(tasks: Sequence[Task], name: str) -> Task:
    """Return the task of this pair.

    Raises:
        ConfigError: it is not a meta-train pair.
    """
    for task in tasks:
        if str(task.pair) == name:
            return task
    names = [str(task.pair) for task in tasks]
    cause = f"The parent {name!r} is not a meta-train pair, or outer.pairs leaves it out."
    raise ConfigError(cause, did_you_mean(name, [*names, "auto"]))


def choose_parent(
    tasks: Sequence[Task],
    model: nn.Module,
    make_optimizer: Callable[[], torch.optim.Optimizer],
    train: Callable[[Task, torch.optim.Optimizer], int],
    zero_shot_loss: Callable[[], float],
) -> Trial:
    """Return the candidate whose short training serves the meta-dev pairs best, and leave nothing of the others.

    Every task trains the same initial weights for as many tokens; the one with the least zero-shot loss on the dev sets
    wins, and the run goes on from where its trial ended. A loss, since translations of models this young score 0. One
    that diverges has lost.

    Args:
        tasks: the candidates.
        model: the initial weights; the winner's afterwards.
        make_optimizer: returns a fresh optimiser of the model.
        train: trains the model on a task for its share of the cost; returns the steps made.
        zero_shot_loss: of the model as it stands, on the meta-dev pairs.

    Raises:
        DivergenceError: every one of them diverges.
    """
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    best: Trial | None = None
    for task in tasks:
        model.load_state_dict(start)
        optimizer = make_optimizer()
        try:
            step = train(task, optimizer)
        except DivergenceError as error:
            if best is None and task is tasks[-1]:
                raise
            say(f"parent {task.pair}: {error.cause}")
            continue
        loss = zero_shot_loss()
        loss = loss if math.isfinite(loss) else math.inf
        say(f"parent {task.pair}: zero-shot loss {loss:.3f} on the meta-dev pairs")
        if best is None or loss < best.loss:
            weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
            best = Trial(task, loss, step, weights, optimizer.state_dict())
    assert best is not None
    model.load_state_dict(best.weights)
    return best
