"""Tasks and episodes: a language pair is a task; an episode is one chance to adapt to it and be judged.

The sampler is a pure function of (seed, step): nothing of it has to be saved, and a resumed run, or another process,
draws the same episodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from metanmt.config import BatchConfig, OuterConfig
from metanmt.data.batch import Batch, Indices, deal, make_batch
from metanmt.data.language import Pair
from metanmt.data.store import Bitext, TokenStore
from metanmt.errors import CorpusError
from metanmt.meta.distributed import ALONE, Ranks


@dataclass(frozen=True)
class Task:
    """A meta-train pair with its text; `usable` are the sentence pairs that are not too long to train on."""

    pair: Pair
    bitext: Bitext
    usable: Indices
    mean_target_tokens: float


@dataclass(frozen=True)
class Episode:
    """A support batch for every inner step, and the query set; no sentence pair occurs twice.

    `query` is None for learners that have none (Reptile). `seed` is what dropout in it is drawn from.
    """

    pair: Pair
    support: tuple[Batch, ...]
    query: Batch | None
    seed: tuple[int, ...] = (0,)

    @property
    def target_tokens(self) -> int:
        """Target tokens that the episode costs in forward-backward passes."""
        return sum(batch.target_tokens for batch in self.batches)

    @property
    def batches(self) -> tuple[Batch, ...]:
        """Every logical batch of the episode: each is one gradient computation."""
        return self.support if self.query is None else (*self.support, self.query)


def load_tasks(store: TokenStore, batch: BatchConfig) -> list[Task]:
    """Return the meta-train tasks of a store; a meta-dev or meta-test pair is never one.

    Raises:
        CorpusError: there is no meta-train pair, or one has too few sentences for an episode.
    """
    tasks = []
    for pair in store.pairs("meta-train"):
        bitext = store.bitext(pair, "train")
        usable = bitext.shorter_than(batch.max_sentence_tokens)
        if len(usable) < 2:
            raise CorpusError(
                f"{pair} has {len(usable)} sentence pairs of at most {batch.max_sentence_tokens} tokens: too few.",
                "Raise batch.max_sentence_tokens, or give the pair more text.",
            )
        probe = usable[:: max(1, len(usable) // 10_000)]
        tasks.append(Task(pair, bitext, usable, float(bitext.target.lengths(probe).mean())))
    if not tasks:
        raise CorpusError(f"{store.folder} has no meta-train pair.", 'Give role = "meta-train" to some pairs.')
    return tasks


class EpisodeSampler:
    """Draws meta-batches of episodes.

    Args:
        tasks: what to draw from.
        outer: meta-batch size and task sampling.
        batch: token budgets and the window.
        pad_id: the id behind the end of a sentence.
        seed: of the run.
    """

    def __init__(self, tasks: Sequence[Task], outer: OuterConfig, batch: BatchConfig, pad_id: int, seed: int) -> None:
        self.tasks, self.outer, self.batch, self.pad_id, self.seed = tasks, outer, batch, pad_id, seed
        sizes = np.array([len(task.usable) for task in tasks], dtype=float)
        power = 1 / outer.temperature if outer.task_sampling == "temperature" else 0.0
        self.probabilities = sizes**power / (sizes**power).sum()

    def draw_tasks(self, step: int) -> list[Task]:
        """Return the tasks of a step: different ones as long as there are enough."""
        rng = np.random.default_rng([self.seed, step, 0])
        count = self.outer.meta_batch_size
        chosen = rng.choice(len(self.tasks), count, replace=count > len(self.tasks), p=self.probabilities)
        return [self.tasks[index] for index in chosen]

    def meta_batch(self, step: int, inner_steps: int, *, query: bool = True, ranks: Ranks = ALONE) -> list[Episode]:
        """Return the episodes of a step, each with `inner_steps` support batches and, if asked, a query batch.

        Of several processes, each is given its own share of them.
        """
        tasks = self.draw_tasks(step)
        return [
            self.episode(tasks[place], (self.seed, step, 1 + place), inner_steps, query=query)
            for place in ranks.share(range(len(tasks)))
        ]

    def episode(self, task: Task, seed: tuple[int, ...], inner_steps: int, *, query: bool = True) -> Episode:
        """Return one episode, cut from a window of random sentences sorted by length.

        Support and query are dealt at random from the same cut, so they have the same distribution of lengths, share
        no sentence, and are padded little; every sentence of a task is equally likely.
        """
        rng = np.random.default_rng(seed)
        hands = inner_steps + query
        wanted = self.batch.max_tokens * hands
        count = min(len(task.usable), max(hands, round(wanted * self.batch.window / task.mean_target_tokens)))
        window = task.usable[rng.choice(len(task.usable), count, replace=False)]
        lengths = task.bitext.target.lengths(window)
        order = np.lexsort((task.bitext.source.lengths(window), lengths))
        cuts = max(1, round(int(lengths.sum()) / wanted))
        place = np.cumsum(lengths[order]) - lengths[order]
        cut = int(rng.integers(cuts))
        inside = (place * cuts // max(1, int(lengths.sum()))) == cut
        chosen = window[order[inside]]
        if len(chosen) < hands:
            chosen = window[order[-hands:]]
        if len(chosen) < hands:
            raise CorpusError(
                f"{task.pair} has {len(task.usable)} sentence pairs, too few for {hands} batches an episode.",
                "Lower inner.steps, or give the pair more text.",
            )
        batches = [
            make_batch(task.bitext, part, self.batch.micro_tokens, self.pad_id)
            for part in deal(task.bitext, chosen, hands, rng)
        ]
        return Episode(task.pair, tuple(batches[:inner_steps]), batches[-1] if query else None, seed)
