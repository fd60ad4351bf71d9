"""MAML++: learned rates for each layer and step, the loss of every step, and first order before second."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from metanmt.config import Config
from metanmt.data.batch import Batch
from metanmt.meta.adaptation import Loss
from metanmt.meta.learners.maml import MAML, through
from metanmt.nmt.model import update_weights

LAYER = re.compile(r"^(.*?\.(?:layers?|block|h)\.\d+)\.")


class MAMLPlusPlus(MAML):
    """MAML with what makes it stable: a rate for each layer and step, learned; the multi-step loss, annealed.

    For the first `inner.multi_step_share` of the run the query loss after every inner step counts: all alike at first,
    the earlier ones less and less, none but the last one at the end. `inner.first_order_share` is the paper's
    derivative-order annealing; its cosine annealing of the outer rate is `outer.schedule = "cosine"`. What it says of
    batch normalisation does not concern a Transformer.

    Reference: Antoniou, Edwards, Storkey 2019, "How to Train Your MAML".
    """

    def __init__(self, initialization: nn.Module, config: Config) -> None:
        self.weights = [0.0] * config.inner.steps
        super().__init__(initialization, config)
        layers = sorted({layer_of(name) for name in update_weights(initialization, self.update)})
        where = next(initialization.parameters())
        rates = torch.full((config.inner.steps,), config.inner.learning_rate, device=where.device, dtype=where.dtype)
        self.rates = {layer: nn.Parameter(rates.clone()) for layer in layers}
        self.own = nn.ParameterDict({layer.replace(".", "/"): rate for layer, rate in self.rates.items()})

    def advance(self, share_done: float) -> None:
        """Choose the order of the gradient and the weights of the steps' losses; each that counts costs a pass."""
        super().advance(share_done)
        self.weights = step_weights(self.inner_steps, share_done, self.inner.multi_step_share)
        self.query_passes = sum(weight > 0 for weight in self.weights)

    def adapt(self, support: Sequence[Batch], loss: Loss) -> list[Tensor]:
        """Make the inner loop, and keep the fast weights after every step."""
        self.path: list[dict[str, Tensor]] = []
        return super().adapt(support, loss)

    def stepped(self, gradients: Mapping[str, Tensor], step: int) -> dict[str, Tensor]:
        """Return the fast weights after a step, and remember them."""
        moved = super().stepped(gradients, step)
        self.path.append({**self.phi, **moved})
        return moved

    def rate(self, name: str, step: int) -> float | Tensor:
        """Return the learned rate of a parameter's layer at a step, a scalar; of a language's rows the first."""
        layer = layer_of(name)
        return self.rates[layer][step] if layer in self.rates else super().rate(name, step)

    def accumulate(self, initialization: nn.Module, query: Batch | None, loss: Loss, scale: float) -> list[Tensor]:
        """Add the derivative of the weighted query losses after each inner step; return the loss after the last."""
        assert query is not None, "MAML++ needs a query set"
        last = torch.zeros(())
        counted = [(weight, phi) for weight, phi in zip(self.weights, self.path, strict=True) if weight]
        for number, (weight, phi) in enumerate(counted, start=1):
            last = through(phi, loss, initialization, query, scale * weight, again=number < len(counted))
        self.release()
        return [last]

    def release(self) -> None:
        """Free the graphs."""
        super().release()
        self.path = []


def layer_of(name: str) -> str:
    """Return the layer of a parameter by its name: "model.encoder.layers.0", or the parameter itself outside layers."""
    found = LAYER.match(name)
    return found[1] if found else name


def step_weights(steps: int, share_done: float, multi_step_share: float) -> list[float]:
    """Return the weight of each inner step's query loss, summing to 1: even at first, all on the last in the end."""
    early = max(0.0, 1 - share_done / multi_step_share) / steps if multi_step_share else 0.0
    return [early] * (steps - 1) + [1 - early * (steps - 1)]


LEARNER = MAMLPlusPlus
