"""What a learner is: how fast weights adapt within an episode, and what the outer loop is told of the outcome.

The learners themselves are in `metanmt.meta.learners`, a file each.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from torch import Tensor, nn

from metanmt.config import Config
from metanmt.data.batch import Batch
from metanmt.meta.adaptation import Loss, adapt
from metanmt.meta.distributed import ALONE, Ranks
from metanmt.meta.task import Episode, EpisodeSampler
from metanmt.meta.weights import copy_model, load_weights


class Learner:
    """A first-order learner: its inner loop runs on a copy of the model, in place. Each file of `learners` has one.

    Args:
        initialization: theta, which the outer loop moves.
        config: of the run.
    """

    query = True
    """Whether an episode has a query set to judge the fast weights by."""

    support_passes = query_passes = 1
    """Forward-backward passes that a support batch and the query batch cost."""

    one_task = False
    """Whether it learns from a single task, the parent."""

    def __init__(self, initialization: nn.Module, config: Config) -> None:
        self.inner = config.inner
        self.inner_steps = config.inner.steps
        self.unseen_share = config.outer.unseen_share
        self.own = nn.Module()
        """What is meta-learned beside the initialisation; saved, reduced and clipped by itself."""
        self._initialization = initialization

    @property
    def learned(self) -> list[nn.Module]:
        """What the outer loop moves: the initialisation, and what this learner learns beside it, if anything."""
        own = [self.own] if any(True for _ in self.own.parameters()) else []
        return [self._initialization, *own]

    @property
    def models(self) -> list[nn.Module]:
        """The models that an episode runs through: the initialisation, and the copy of it if there is one."""
        return [self._initialization, self.fast_model]

    @cached_property
    def fast_model(self) -> nn.Module:
        """The copy of the model that holds the fast weights phi: made once, overwritten at every episode."""
        return copy_model(self._initialization)

    def advance(self, share_done: float) -> None:
        """Take note of how much of the run is done, 0 to 1, before an outer step; for what is annealed."""

    def meta_batch(self, sampler: EpisodeSampler, step: int, ranks: Ranks = ALONE) -> list[Episode]:
        """Return the episodes of a step, or of several processes this one's share, with the batches that it wants."""
        return sampler.meta_batch(step, self.inner_steps, query=self.query, unseen_share=self.unseen_share, ranks=ranks)

    def load(self, initialization: nn.Module) -> None:
        """Let the fast weights start at the initialisation."""
        load_weights(self.fast_model, initialization)

    def adapt(self, support: Sequence[Batch], loss: Loss) -> list[Tensor]:
        """Make the inner loop, one step a support batch; return the loss before each step."""
        return adapt(self.fast_model, support, self.inner, loss)

    def accumulate(self, initialization: nn.Module, query: Batch | None, loss: Loss, scale: float) -> list[Tensor]:
        """Add `scale` times the outer gradient to `.grad` of the initialisation; return the query losses.

        Args:
            initialization: theta; its weights are not modified.
            query: the logical batch to judge phi by; None for a learner without a query set.
            loss: mean loss over the target tokens of a batch.
            scale: one over the size of the meta-batch.
        """
        raise NotImplementedError

    def release(self) -> None:
        """Free what an episode that could not be finished has left."""
        if "fast_model" in self.__dict__:
            self.fast_model.zero_grad()

    def cost(self, episode: Episode) -> tuple[int, int]:
        """Return what an episode costs: target tokens in forward-backward passes, and gradient computations."""
        support = sum(batch.target_tokens for batch in episode.support)
        query = episode.query.target_tokens if episode.query else 0
        tokens = self.support_passes * support + self.query_passes * query
        return tokens, self.support_passes * len(episode.support) + self.query_passes * (episode.query is not None)
