"""Reptile: towards the adapted weights."""

from __future__ import annotations

from torch import Tensor, nn

from metanmt.config import Config
from metanmt.data.batch import Batch
from metanmt.meta.adaptation import Loss
from metanmt.meta.learner import Learner
from metanmt.meta.weights import accumulate_difference
from metanmt.nmt.model import update_weights
from metanmt.runlog import say


class Reptile(Learner):
    """Moves the initialisation towards the adapted weights: its outer gradient is (theta - phi) / (alpha k).

    With plain SGD in the inner loop that is the mean of the gradients along its k steps, and with one step the
    gradient. The paper's direction is theta - phi, for an outer loop of plain SGD, whose rate makes up for the inner
    loop's. AdamW and Muon have no such rate: their moments, which begin in a joint phase, are of the size of
    gradients, and so is `outer.clip_norm`. A direction smaller by alpha k would stand still until they have forgotten.

    Reference: Nichol, Achiam, Schulman 2018, "On First-Order Meta-Learning Algorithms".
    """

    query = False

    def __init__(self, initialization: nn.Module, config: Config) -> None:
        super().__init__(initialization, config)
        name = config.outer.learner.capitalize()
        if self.inner_steps == 1 and self.inner.optimizer == "sgd":
            say(f"{name} with one inner step of SGD is joint training: give it more, such as --set inner.steps=4.")
        if config.model.lexicon == "universal":
            say(f"{name} learns the table of a universal lexicon in its joint phase alone: --learner fomaml goes on.")

    def accumulate(self, initialization: nn.Module, query: Batch | None, loss: Loss, scale: float) -> list[Tensor]:
        """Add the direction from the adapted weights back to the initialisation; there is no query loss."""
        length = self.inner.learning_rate * self.inner_steps
        fast = update_weights(self.fast_model, self.inner.update)
        accumulate_difference(initialization, self.fast_model, fast, scale / length if length else 0.0)
        return []


LEARNER = Reptile
