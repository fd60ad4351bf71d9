"""Reptile: towards the adapted weights."""

from __future__ import annotations

from torch import Tensor, nn

from metanmt.data.batch import Batch
from metanmt.meta.adaptation import Loss
from metanmt.meta.learner import Learner
from metanmt.meta.weights import accumulate_difference


class Reptile(Learner):
    """Moves the initialisation towards the adapted weights: its outer gradient is theta - phi.

    With one plain SGD inner step this is the inner learning rate times the ordinary gradient, which the tests use.

    Reference: Nichol, Achiam, Schulman 2018, "On First-Order Meta-Learning Algorithms".
    """

    query = False

    def accumulate(self, initialization: nn.Module, query: Batch | None, loss: Loss, scale: float) -> list[Tensor]:
        """Add the direction from the adapted weights back to the initialisation; there is no query loss."""
        accumulate_difference(initialization, self.fast_model, scale)
        return []


LEARNER = Reptile
