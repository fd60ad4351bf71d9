"""The LSTM meta-learner: the fast weights are the cell state of an LSTM."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from metanmt.config import Config
from metanmt.meta.coordinatewise import CoordinatewiseLearner, UpdateRule, preprocessed

KEPT = 0.9999  # of a weight, by the forget gate, before anything is learned
SMALL = 0.01  # deviation of the gates' weights at the start


class CellState(UpdateRule):
    """theta_t = f_t theta_{t-1} - i_t g_t, with learned forget and input gates for each coordinate.

    The gates see a hidden state that an ordinary LSTM makes of the preprocessed gradient and loss, the weight, and
    their own last value. They start near "keep everything, and step by the inner learning rate", which is SGD.
    """

    def __init__(self, hidden: int, learning_rate: float) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(4, hidden)
        self.forget, self.input = nn.Linear(hidden + 2, 1), nn.Linear(hidden + 2, 1)
        for gate, start in ((self.forget, KEPT), (self.input, min(max(learning_rate, 1e-6), 0.99))):
            nn.init.normal_(gate.weight, std=SMALL)
            nn.init.constant_(gate.bias, math.log(start / (1 - start)))

    def forward(self, theta: Tensor, gradients: Sequence[Tensor], losses: Sequence[Tensor]) -> Tensor:
        """Return the cell state after the last step, (C,)."""
        kept, taken = torch.ones_like(theta), torch.zeros_like(theta)
        state = None
        for gradient, loss in zip(gradients, losses, strict=True):
            seen = torch.cat([preprocessed(gradient), preprocessed(loss).expand(len(theta), 2)], dim=1)
            state = self.cell(seen, state)
            kept = self._gate(self.forget, state[0], theta, kept)
            taken = self._gate(self.input, state[0], theta, taken)
            theta = kept * theta - taken * gradient
        return theta

    @staticmethod
    def _gate(gate: nn.Module, hidden: Tensor, theta: Tensor, last: Tensor) -> Tensor:
        opened: Tensor = gate(torch.cat([hidden, theta[:, None], last[:, None]], dim=1)).squeeze(1).sigmoid()
        return opened


class LSTMMetaLearner(CoordinatewiseLearner):
    """Learns the gates and the first cell state, which is the initialisation.

    Reference: Ravi, Larochelle 2017, "Optimization as a Model for Few-Shot Learning".
    """

    def __init__(self, initialization: nn.Module, config: Config) -> None:
        super().__init__(CellState(config.inner.hidden, config.inner.learning_rate), initialization, config)


LEARNER = LSTMMetaLearner
