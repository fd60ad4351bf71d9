"""Which values the settings may have, and where each of them means something."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from metanmt.errors import ConfigError

if TYPE_CHECKING:
    from metanmt.config import Config


@dataclass(frozen=True)
class Range:
    """Which numbers a setting may be.

    Args:
        words: "... must WORDS", for the message.
        remedy: what to give instead.
        low, high: the least and the largest.
        below, above: they are not themselves in it.
        special: one number more, which stands for a default.
    """

    words: str
    remedy: str
    low: float = -math.inf
    high: float = math.inf
    above: float = -math.inf
    below: float = math.inf
    special: float | None = None

    def __contains__(self, value: float) -> bool:
        within = self.low <= value <= self.high and self.above < value < self.below
        return within or value == self.special


COUNT = Range("be at least 1", "Give a positive number.", low=1)
NOT_NEGATIVE = Range("not be negative", "Give 0 or more.", low=0)
POSITIVE = Range("be above 0", "Give a positive number, such as 0.05.", above=0)
SHARE = Range("lie between 0 and 1", "Give a share, such as 0.6.", low=0, high=1)
PIECES = Range("not be below -1", "Give 0 for none, or -1 for as many as are needed.", low=-1)
PROBABILITY = Range("lie between 0 and 1, and not be 1", "Give a number such as 0.1.", low=0, below=1)


FOR_UNIVERSAL = ("is for a universal lexicon", "Add --lexicon universal, or leave it out.")

USES: tuple[tuple[str, Callable[[Config], bool], str, str], ...] = (
    (
        "adapter.",
        lambda config: "adapters" in (config.model.update, config.inner.update, config.fine_tune.update),
        "is for adapters",
        "Add --set model.update=adapters, or leave it out.",
    ),
    (
        "model.size",
        lambda config: not config.model.checkpoint,
        "is for a model from scratch",
        "Leave it out: the model is that of model.checkpoint.",
    ),
    (
        "model.universal_entries",
        lambda config: config.model.lexicon == "universal",
        *FOR_UNIVERSAL,
    ),
    (
        "model.lexicon_temperature",
        lambda config: config.model.lexicon == "universal",
        *FOR_UNIVERSAL,
    ),
    (
        "model.ngram_characters",
        lambda config: config.model.lexicon == "ngrams",
        "is for embeddings that share n-grams",
        "Add --lexicon ngrams, or leave it out.",
    ),
    (
        "inner.",
        lambda config: config.outer.learner not in ("joint", "aligned", "transfer"),
        "is for a learner with an inner loop",
        "Leave it out, or choose another --learner.",
    ),
    (
        "inner.first_order_share",
        lambda config: config.outer.learner in ("maml", "anil", "meta-sgd", "maml++"),
        "is for the learners with exact gradients",
        "Leave it out, or choose --learner maml, anil, meta-sgd or maml++.",
    ),
    (
        "inner.multi_step_share",
        lambda config: config.outer.learner == "maml++",
        "is for --learner maml++",
        "Leave it out, or choose that learner.",
    ),
    (
        "inner.hidden",
        lambda config: config.outer.learner in ("lstm", "learned-optimizer"),
        "is for the learners with an LSTM",
        "Leave it out, or choose --learner lstm or learned-optimizer.",
    ),
    (
        "outer.temperature",
        lambda config: config.outer.task_sampling == "temperature",
        "is for sampling by temperature",
        "Add --set outer.task_sampling=temperature, or leave it out.",
    ),
    (
        "outer.first_share",
        lambda config: bool(config.outer.first_pairs),
        "is the share of outer.first_pairs, of which there are none",
        "Add --set outer.first_pairs=..., or leave it out.",
    ),
    (
        "outer.parent_share",
        lambda config: config.outer.learner == "transfer",
        "is for --learner transfer",
        "Leave it out, or choose that learner.",
    ),
    (
        "fine_tune.synthetic",
        lambda config: False,
        "is for what fine-tune --back translates",
        "Leave it out: here nothing is translated back.",
    ),
)
"""The beginning of a setting's name, whether it changes anything in a configuration, and what to say if not."""


def check_ranges(config: Config) -> None:
    """Raise a ConfigError for a value that no run could use."""
    for section in fields(config):
        values = getattr(config, section.name)
        for item in fields(values):
            within, value = item.metadata["within"], getattr(values, item.name)
            if within is not None and value not in within:
                raise ConfigError(f"{section.name}.{item.name} must {within.words}.", within.remedy)


def check_used(
    config: Config, given: Iterable[str], updates: Collection[str] = (), *, back_translation: bool = False
) -> None:
    """Raise a ConfigError for a setting that was given and would change nothing.

    Args:
        config: what came of them.
        given: the settings, each "section.key=value".
        updates: strategies of fine-tuning, beside the configuration's own.
        back_translation: text is translated back.
    """
    elsewhere = {"adapter.": "adapters" in updates, "fine_tune.synthetic": back_translation}
    if config.model.head and "head" not in (config.inner.update, config.fine_tune.update, *updates):
        raise ConfigError(
            "model.head says what update = head moves, and nothing has that here.",
            "Set inner.update=head (or fine_tune.update=head), or leave it out.",
        )
    for text in given:
        for beginning, used, reason, remedy in USES:
            if text.strip().startswith(beginning) and not (used(config) or elsewhere.get(beginning)):
                raise ConfigError(f"--set {text} {reason}.", remedy)
