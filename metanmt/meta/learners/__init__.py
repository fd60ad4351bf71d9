"""The learners, a file each: what distinguishes one is its inner loop and its outer gradient."""

from __future__ import annotations

from importlib import import_module

from metanmt.meta.learner import Learner


def learner_class(name: str) -> type[Learner]:
    """Return the learner of this name, one of `config.LearnerName`; `maml++` lives in `maml_plus_plus.py`."""
    module = import_module(f"{__name__}.{name.replace('++', '_plus_plus').replace('-', '_')}")
    found: type[Learner] = module.LEARNER
    return found
