"""Joint multilingual training: no inner loop. The baseline of every other learner, under the same outer loop."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from metanmt.config import Config
from metanmt.data.batch import Batch
from metanmt.meta.adaptation import Loss
from metanmt.meta.learner import Learner


class Joint(Learner):
    """Moves the initialisation by the ordinary gradient of the query loss; FOMAML with 0 inner steps, without the copy.

    Reference: Johnson et al. 2017, "Google's Multilingual Neural Machine Translation System".
    """

    def __init__(self, initialization: nn.Module, config: Config) -> None:
        super().__init__(initialization, config)
        self.inner_steps = 0

    @property
    def models(self) -> list[nn.Module]:
        """The initialisation alone: there is no copy."""
        return [self._initialization]

    def load(self, initialization: nn.Module) -> None:
        """Do nothing: there are no fast weights."""

    def adapt(self, support: Sequence[Batch], loss: Loss) -> list[Tensor]:
        """Return no loss: there is no inner loop."""
        return []

    def accumulate(self, initialization: nn.Module, query: Batch | None, loss: Loss, scale: float) -> list[Tensor]:
        """Add the gradient of the query loss at the initialisation itself."""
        assert query is not None, "joint training needs a query set"
        return [loss.backward(initialization, query, scale)]


LEARNER = Joint
