"""Meta-SGD: a learned inner rate for every parameter."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from metanmt.config import Config
from metanmt.meta.learners.maml import MAML
from metanmt.nmt.model import update_weights


class MetaSGD(MAML):
    """MAML with phi = theta - rate * gradient, the rate being as large as theta and learned with it.

    Every rate starts at `inner.learning_rate`; it may become negative. Costs another copy of the weights, and two of
    the outer optimiser's moments.

    Reference: Li et al. 2017, "Meta-SGD: Learning to Learn Quickly for Few-Shot Learning".
    """

    def __init__(self, initialization: nn.Module, config: Config) -> None:
        super().__init__(initialization, config)
        fast = update_weights(initialization, self.update)
        self.rates = {
            name: nn.Parameter(torch.full_like(weight, config.inner.learning_rate)) for name, weight in fast.items()
        }
        self.own = nn.ParameterDict({name.replace(".", "/"): rate for name, rate in self.rates.items()})

    def rate(self, name: str, step: int) -> float | Tensor:
        """Return the learned rates of a parameter, of its shape; the same at every step.

        The rows that an episode's language has of its own are no parameter of the model; they move at the first rate.
        """
        return self.rates[name] if name in self.rates else super().rate(name, step)


LEARNER = MetaSGD
