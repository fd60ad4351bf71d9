"""Almost no inner loop: only the head adapts."""

from __future__ import annotations

from metanmt.meta.learners.maml import MAML


class ANIL(MAML):
    """MAML whose fast weights are the head alone; the outer loop moves everything.

    Reference: Raghu et al. 2020, "Rapid Learning or Feature Reuse? Towards Understanding the Effectiveness of MAML".
    """

    moving = "head"


LEARNER = ANIL
