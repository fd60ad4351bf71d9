"""Transfer learning: joint training on one parent pair alone."""

from __future__ import annotations

from metanmt.meta.learners.joint import Joint


class Transfer(Joint):
    """Ordinary training on a parent pair, which `outer.parent` names or `meta.parent.choose_parent` finds.

    Reference: Zoph, Yuret, May, Knight 2016, "Transfer Learning for Low-Resource Neural Machine Translation".
    """

    one_task = True


LEARNER = Transfer
