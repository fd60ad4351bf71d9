"""The average of a model's weights over the last updates, and the best such average so far."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch


class WeightAverage:
    """Polynomial-decay averaging (Shamir and Zhang 2013, "Stochastic gradient descent for non-smooth optimization").

    The weights of update n of N count as in a mean over the last `share` of them: eta is 1 / share - 1.

    Args:
        weights: that an optimiser moves; they themselves are left alone but within `in_place` and by `set_best`.
        share: of the updates so far, the last of them, over which is averaged; 0 for no averaging.
    """

    def __init__(self, weights: Sequence[torch.Tensor], share: float) -> None:
        self.weights = [weight.detach() for weight in weights]
        self.share, self.updates = share, 0
        self.average, self.best = ([weight.clone() for weight in self.weights] for _ in range(2))

    def update(self) -> None:
        """Take in the weights as they are after one more update."""
        torch._foreach_lerp_(self.average, self.weights, 1 / (1 + self.share * self.updates))
        self.updates += 1

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Let the weights be the average within the context, exchanged one by one: memory for the largest is needed."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def keep(self) -> None:
        """Let the best be the average as it is now."""
        torch._foreach_copy_(self.best, self.average)

    def set_best(self) -> None:
        """Set the weights to the best; where none was kept, to what they were in the beginning."""
        torch._foreach_copy_(self.weights, self.best)

    def _swap(self) -> None:
        for weight, average in zip(self.weights, self.average, strict=True):
            value = weight.clone()
            weight.copy_(average)
            average.copy_(value)
