"""Model-agnostic meta-learning, exact: the outer gradient goes through the inner loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from metanmt.config import Config
from metanmt.data.batch import Batch
from metanmt.errors import ConfigError
from metanmt.meta.adaptation import ADAM_EPSILON, Loss
from metanmt.meta.learner import Learner
from metanmt.meta.weights import trainable_weights
from metanmt.nmt.model import update_weights


class MAML(Learner):
    """Moves the initialisation by the derivative of the query loss at phi(theta) with respect to theta.

    The fast weights are functions of the initialisation here, not a copy of the model: the graph of every inner step is
    kept, and memory grows with their number. For the first `inner.first_order_share` of the run each inner gradient is
    taken as a constant, which is FOMAML.

    Raises:
        ConfigError: the update strategy names no parameter, or the model's attention cannot be derived twice.

    Reference: Finn, Abbeel, Levine 2017, "Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks".
    """

    moving = ""
    """The update strategy of the inner loop; empty for `inner.update`."""

    def __init__(self, initialization: nn.Module, config: Config) -> None:
        super().__init__(initialization, config)
        self.update = self.moving or config.inner.update
        update_weights(initialization, self.update)
        attention = getattr(getattr(initialization, "config", None), "_attn_implementation", None)
        if self.inner.first_order_share < 1 and attention not in (None, "eager", "sdpa"):
            raise ConfigError(
                f"The attention kernel {attention} has no second derivative, which {config.outer.learner} needs.",
                "Set inner.first_order_share=1, or give the checkpoint's config.json an ordinary attention: sdpa.",
            )
        self.advance(0.0)

    def advance(self, share_done: float) -> None:
        """Choose the order of the gradient; an exact one costs two further passes of each support batch."""
        share = self.inner.first_order_share
        self.exact = share_done >= share and share < 1
        self.support_passes = 3 if self.exact else 1

    @property
    def models(self) -> list[nn.Module]:
        """The initialisation alone: there is no copy."""
        return [self._initialization]

    def load(self, initialization: nn.Module) -> None:
        """Let the fast weights be the initialisation itself, the root of the graph.

        What is frozen in it and moves in adaptation alone, the correction of a lexicon, starts from a copy.
        """
        moving = update_weights(initialization, self.update)
        held = {name: w.detach().clone().requires_grad_() for name, w in moving.items() if not w.requires_grad}
        self.phi: dict[str, Tensor] = {**trainable_weights(initialization), **held}
        self.fast = list(moving)

    def adapt(self, support: Sequence[Batch], loss: Loss) -> list[Tensor]:
        """Make the inner loop, phi <- phi - rate x gradient, with its graph."""
        losses = []
        for step, batch in enumerate(support):
            value, gradients = self.support_gradients(batch, loss)
            self.phi = {**self.phi, **self.stepped(gradients, step)}
            losses.append(value)
        return losses

    def support_gradients(self, batch: Batch, loss: Loss) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of a support batch, and its gradient by the fast weights; with its graph if that is exact."""
        if not self.exact:
            return loss.gradients_at(self._initialization, self.phi, self.fast, batch)
        value = loss.at(self._initialization, self.phi, batch)
        weights = [self.phi[name] for name in self.fast]
        gradients = torch.autograd.grad(value, weights, create_graph=True, allow_unused=True)
        return value.detach(), {name: g for name, g in zip(self.fast, gradients, strict=True) if g is not None}

    def stepped(self, gradients: Mapping[str, Tensor], step: int) -> dict[str, Tensor]:
        """Return the fast weights after inner step number `step`, counted from 0, along these gradients."""
        sign = self.inner.optimizer == "sign"
        return {
            name: self.phi[name] - self.rate(name, step) * (g / (g.abs() + ADAM_EPSILON) if sign else g)
            for name, g in gradients.items()
        }

    def rate(self, name: str, step: int) -> float | Tensor:
        """Return the inner rate of a parameter at a step."""
        return self.inner.learning_rate

    def accumulate(self, initialization: nn.Module, query: Batch | None, loss: Loss, scale: float) -> list[Tensor]:
        """Add the derivative of the query loss at the fast weights, through all inner steps."""
        assert query is not None, "MAML needs a query set"
        value = through(self.phi, loss, initialization, query, scale)
        self.release()
        return [value]

    def release(self) -> None:
        """Free the graph."""
        super().release()
        self.phi = {}


def through(
    phi: Mapping[str, Tensor], loss: Loss, model: nn.Module, query: Batch, scale: float, *, again: bool = False
) -> Tensor:
    """Add the derivative of `scale` times the query loss at phi to what phi was made from; return that loss.

    First by phi, a micro-batch at a time; then once back through the inner loop.

    Args:
        phi: fast weights, with their graph.
        loss, model, query: the loss of the model on the query set.
        scale: of the gradient.
        again: keep the graph, since another phi of the same inner loop is to follow.
    """
    value, gradients = loss.gradients_at(model, phi, phi.keys(), query)
    outputs = [phi[name] for name in gradients]
    torch.autograd.backward(outputs, [scale * gradient for gradient in gradients.values()], retain_graph=again)
    return value


LEARNER = MAML
