"""Text of meta-training that is learned beside a new language's in fine-tuning, so that what is known stays known.

Six hundred updates on a few hundred sentences teach a language's words, and make the model forget how others are said.
References: Chu, Dabre, Kurohashi 2017, "An Empirical Comparison of Domain Adaptation Methods for Neural Machine
Translation" (mixed fine-tuning); Neubig, Hu 2018, "Rapid Adaptation of Neural Machine Translation to New Languages",
who add a related language's text; Robins 1995, "Catastrophic Forgetting, Rehearsal and Pseudorehearsal".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from metanmt.config import BatchConfig, Config, OuterConfig, load_config
from metanmt.data.batch import Batch
from metanmt.data.language import Pair
from metanmt.data.store import TokenStore
from metanmt.errors import ConfigError
from metanmt.files import read_object
from metanmt.meta.run import data_digest
from metanmt.meta.task import EpisodeSampler, Task, chosen_sets, load_task
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
    """

    def __init__(
        self, tasks: Sequence[Task], outer: OuterConfig, tokens: int, *, micro_tokens: int, pad_id: int
    ) -> None:
        count = max(1, round(tokens / BATCH_TOKENS))
        batch = BatchConfig(max_tokens=max(1, tokens // count), micro_tokens=micro_tokens)
        drawn = OuterConfig(meta_batch_size=count, task_sampling=outer.task_sampling, temperature=outer.temperature)
        self.sampler = EpisodeSampler(tasks, drawn, batch, pad_id, seed=0)

    def __call__(self, seed: int, update: int) -> list[Batch]:
        """Return the batches of an update, by its number, in the fine-tuning of a seed."""
        self.sampler.seed = seed
        return [batch for episode in self.sampler.meta_batch(update, 0) for batch in episode.batches]


def tasks_to_replay(init: Path, store: TokenStore, pair: Pair, *, asked: bool) -> tuple[list[Task], OuterConfig]:
    """Return the tasks that a checkpoint's run learned from this data, and how it drew them; none if it did not.

    What is in the pair that is adapted to is left out, of which a budget may have been drawn; and sets of hardly a
    sentence.

    Args:
        init: the checkpoint.
        store: the data.
        pair: that is adapted to.
        asked: whether a user named the data: then, if the run is not known, all its meta-train text, each set alike.
    """
    run, outer, batch = run_of(init), OuterConfig(), BatchConfig()
    if run is not None and data_digest(run) in (None, store.training_digest):
        config = _config_of(run)
        outer, batch = config.outer, config.batch
    elif not asked:
        return [], outer
    tasks = [load_task(store, other, name, batch) for other, name in chosen_sets(store, outer) if other != pair]
    return [task for task in tasks if len(task.usable) > 1], outer


def _config_of(run: Path) -> Config:
    """Return the configuration of a run, with the one pair that it learned from if it is a transfer from one."""
    try:
        config = load_config(run / "config.toml")
    except ConfigError:  # of another version
        return Config()
    if config.outer.learner != "transfer":
        return config
    state = run / "last" / "trainer.json"
    parent = read_object(state).get("parent") if state.is_file() else None
    return replace(config, outer=replace(config.outer, pairs=(str(parent or config.outer.parent),)))
