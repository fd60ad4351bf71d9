"""A learned optimiser: the update of each coordinate is the free output of an LSTM."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from metanmt.config import Config
from metanmt.meta.coordinatewise import CoordinatewiseLearner, UpdateRule, preprocessed


class FreeUpdate(UpdateRule):
    """theta_t = theta_{t-1} + alpha m(g_t), m a two-layer LSTM over g preprocessed, alpha the inner rate."""

    def __init__(self, hidden: int, learning_rate: float) -> None:
        super().__init__()
        self.first, self.second = nn.LSTMCell(2, hidden), nn.LSTMCell(hidden, hidden)
        self.output = nn.Linear(hidden, 1)
        nn.init.zeros_(self.output.bias)  # no drift that no gradient asked for
        self.learning_rate = learning_rate

    def forward(self, theta: Tensor, gradients: Sequence[Tensor], losses: Sequence[Tensor]) -> Tensor:
        """Return the weights after the last step, (C,)."""
        lower = upper = None
        for gradient in gradients:
            lower = self.first(preprocessed(gradient), lower)
            upper = self.second(lower[0], upper)
            theta = theta + self.learning_rate * self.output(upper[0]).squeeze(1)
        return theta


class LearnedOptimizer(CoordinatewiseLearner):
    """Learns the optimiser, judged by the query loss after the last step, and the initialisation with it.

    Reference: Andrychowicz et al. 2016, "Learning to learn by gradient descent by gradient descent".
    """

    def __init__(self, initialization: nn.Module, config: Config) -> None:
        super().__init__(FreeUpdate(config.inner.hidden, config.inner.learning_rate), initialization, config)


LEARNER = LearnedOptimizer
