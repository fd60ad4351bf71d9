"""Aligned episodes: no inner loop of steps, but a start in closed form."""

from __future__ import annotations

from torch import nn

from metanmt.config import Config
from metanmt.meta.learners.joint import Joint
from metanmt.runlog import say


class Aligned(Joint):
    """Joint training that meets its languages as new ones: what adapts is what they begin as (`meta.unseen`).

    For `outer.unseen_share` of the episodes the embeddings of the language are a function of theta and of a support
    text, the mixtures that its word alignment says; the outer gradient of the query loss goes through that. Other
    learners may do so besides their inner loop; this one has no other, and costs what joint training costs.

    References: as of `meta.unseen`; of inner loops in closed form, Bertinetto, Henriques, Torr, Vedaldi 2019,
    "Meta-Learning with Differentiable Closed-Form Solvers".
    """

    def __init__(self, initialization: nn.Module, config: Config) -> None:
        super().__init__(initialization, config)
        if not self.unseen_share:
            say("aligned without outer.unseen_share is joint training: give it a share, such as 0.5.")


LEARNER = Aligned
