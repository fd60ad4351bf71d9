"""First-order MAML, the paper's learner."""

from __future__ import annotations

from torch import Tensor, nn

from metanmt.data.batch import Batch
from metanmt.meta.adaptation import Loss
from metanmt.meta.learner import Learner
from metanmt.meta.weights import lent_gradient


class FirstOrderMAML(Learner):
    """Moves the initialisation by the gradient of the query loss at the fast weights.

    References: Finn, Abbeel, Levine 2017, section 5.2 ("first-order approximation"); Gu et al. 2018.
    """

    def accumulate(self, initialization: nn.Module, query: Batch | None, loss: Loss, scale: float) -> list[Tensor]:
        """Add the gradient of the query loss, taken at phi, to that of theta."""
        assert query is not None, "FOMAML needs a query set"
        with lent_gradient(initialization, self.fast_model):
            return [loss.backward(self.fast_model, query, scale)]


LEARNER = FirstOrderMAML
