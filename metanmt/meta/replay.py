"""Text of meta-training that is learned beside a new language's in fine-tuning, so that what is known stays known.

Six hundred updates on a few hundred sentences teach a language's words, and make the model forget how others are said.
References: Chu, Dabre, Kurohashi 2017, "An Empirical Comparison of Domain Adaptation Methods for Neural Machine
Translation" (mixed fine-tuning); Neubig, Hu 2018, "Rapid Adaptation of Neural Machine Translation to New Languages",
who add a related language's text; Robins 1995, "Catastrophic Forgetting, Rehearsal and Pseudorehearsal".
"""

from __future__ import annotations

from pathlib import Path

from metanmt.config import BatchConfig, Config, OuterConfig, load_config
from metanmt.data.batch import Batch
from metanmt.data.language import Pair
from metanmt.data.store import TokenStore
from metanmt.errors import ConfigError
from metanmt.meta.run import data_digest
from metanmt.meta.task import EpisodeSampler, Task, load_tasks
from metanmt.nmt.folder import run_of

BATCH_TOKENS = 300  # target tokens of one language in an update, about: the smaller, the more languages


class Replay:
    """Draws the batches that an update is made beside, each of one task, as their run drew them.

    Args:
        tasks: of the run.
        outer: how it draws them.
        tokens: target tokens of an update, of all its batches together.
        micro_tokens: padded tokens of a forward-backward pass.
        pad_id: the id behind the end of a sentence.
        seed: of the fine-tuning.
    """

    def __init__(
        self, tasks: list[Task], outer: OuterConfig, tokens: int, *, micro_tokens: int, pad_id: int, seed: int
    ) -> None:
        count = max(1, round(tokens / BATCH_TOKENS))
        batch = BatchConfig(max_tokens=max(1, tokens // count), micro_tokens=micro_tokens)
        drawn = OuterConfig(meta_batch_size=count, task_sampling=outer.task_sampling, temperature=outer.temperature)
        self._sampler = EpisodeSampler(tasks, drawn, batch, pad_id, seed)

    def __call__(self, update: int) -> list[Batch]:
        """Return the batches of an update, by its number."""
        return [batch for episode in self._sampler.meta_batch(update, 0) for batch in episode.batches]


def tasks_to_replay(init: Path, store: TokenStore, pair: Pair) -> tuple[list[Task], OuterConfig]:
    """Return the tasks that a checkpoint's run learned from, and how it drew them; none if the data has none of them.

    Of a checkpoint whose run is not known, or learned from other data: all meta-train text, each set alike. What is in
    the pair that is adapted to is left out: of that a budget may have been drawn.
    """
    config = _config_of(init, store)
    if not store.pairs("meta-train"):
        return [], config.outer
    tasks = load_tasks(store, config.batch, config.outer)
    return [task for task in tasks if task.pair != pair], config.outer


def _config_of(init: Path, store: TokenStore) -> Config:
    run = run_of(init)
    if run is None or data_digest(run) != store.training_digest:
        return Config()
    try:
        return load_config(run / "config.toml")
    except ConfigError:  # of another version
        return Config()
