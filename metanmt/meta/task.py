"""Tasks and episodes: a language pair, in one kind of text, is a task; an episode is one chance to
adapt to it and be judged.

The sampler is a pure function of (seed, step): nothing of it has to be saved, and a resumed run, or another process,
draws the same episodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from metanmt.config import BatchConfig, OuterConfig
from metanmt.data.batch import Batch, Indices, deal, make_batch
from metanmt.data.language import Pair
from metanmt.data.store import Bitext, TokenStore
from metanmt.errors import ConfigError, CorpusError, UsageError, did_you_mean
from metanmt.meta.distributed import ALONE, Ranks
from metanmt.meta.unseen import Start, UnseenLanguage

SOURCE_SHELVES = 4


@dataclass(frozen=True)
class Task:
    """A training set of a meta-train pair; `usable` are the sentence pairs that are not too long to train on."""

    pair: Pair
    bitext: Bitext
    usable: Indices
    train_set: str = "train"
    unseen: UnseenLanguage | None = None  # how one of its languages is met as a new one; None: never

    def __str__(self) -> str:
        """Return the name of the pair, and of the set where that is not "train"."""
        return str(self.pair) if self.train_set == "train" else f"{self.pair} {self.train_set}"


@dataclass(frozen=True)
class Episode:
    """A support batch for every inner step, and the query set; no sentence pair occurs twice.

    `query` is None for learners that have none (Reptile). `seed` is what dropout in it is drawn from. `start` is what
    embeddings of its own the language begins with, if it is met as a new one.
    """

    pair: Pair
    support: tuple[Batch, ...]
    query: Batch | None
    seed: tuple[int, ...] = (0,)
    start: Start | None = None

    @property
    def batches(self) -> tuple[Batch, ...]:
        """Every logical batch of the episode."""
        return self.support if self.query is None else (*self.support, self.query)

    @property
    def target_tokens(self) -> int:
        """Target tokens of all its batches."""
        return sum(batch.target_tokens for batch in self.batches)


def chosen_sets(store: TokenStore, outer: OuterConfig) -> list[tuple[Pair, str]]:
    """Return the training sets that are learned from, those of a pair in a row; never of a meta-dev or meta-test pair.

    Raises:
        UsageError: `outer.pairs`, `outer.first_pairs` or `outer.train_sets` names another.
        ConfigError: a learner of one task would learn from several sets.
    """
    pairs = named_pairs(store.pairs("meta-train"), outer.pairs, "outer.pairs")
    sets = [(pair, name) for pair in pairs for name in store.train_sets(pair)]
    known = list(dict.fromkeys(name for _, name in sets))
    for name in outer.train_sets:
        if name not in known:
            raise UsageError(
                f"outer.train_sets names {name}, of which no chosen pair has any text.", did_you_mean(name, known)
            )
    chosen = [(pair, name) for pair, name in sets if not outer.train_sets or name in outer.train_sets]
    named_pairs(list(dict.fromkeys(pair for pair, _ in chosen)), outer.first_pairs, "outer.first_pairs")
    for (pair, name), (other, second) in pairwise(chosen):
        if pair == other and outer.learner == "transfer":
            raise ConfigError(
                f"Learner transfer learns from one set of one pair; {pair} has {name} and {second}.",
                f"Name one: --set 'outer.train_sets=[\"{name}\"]'.",
            )
    return chosen


def named_pairs(known: Sequence[Pair], names: Sequence[str], setting: str) -> list[Pair]:
    """Return the pairs of these names, in their known order, or all if no name is given.

    Raises:
        UsageError: a name that is none of them, or is given twice.
    """
    if repeated := [name for name in names if names.count(name) > 1]:
        raise UsageError(f"{setting} names {repeated[0]} twice.", "Name each pair once.")
    for name in names:
        if Pair.parse(name) not in known:
            raise UsageError(f"{setting} names {name}, no meta-train pair here.", did_you_mean(name, map(str, known)))
    return [pair for pair in known if not names or str(pair) in names]


def load_task(store: TokenStore, pair: Pair, train_set: str, batch: BatchConfig) -> Task:
    """Return one training set of a pair as a task; of its sentence pairs some may be usable, or none."""
    bitext = store.bitext(pair, train_set)
    return Task(pair, bitext, bitext.shorter_than(batch.max_sentence_tokens), train_set)


def load_tasks(store: TokenStore, batch: BatchConfig, outer: OuterConfig) -> list[Task]:
    """Return the meta-train tasks of a store that are learned from.

    Raises:
        UsageError, ConfigError: as of `chosen_sets`.
        CorpusError: there is no meta-train pair, or a set has hardly a sentence.
    """
    tasks = [load_task(store, pair, name, batch) for pair, name in chosen_sets(store, outer)]
    for task in tasks:
        if len(task.usable) < 2:
            raise CorpusError(
                f"{task.pair} {task.train_set}: {len(task.usable)} sentence pairs of at most "
                f"{batch.max_sentence_tokens} tokens, too few.",
                "Raise batch.max_sentence_tokens, or give the pair more text.",
            )
    if not tasks:
        raise CorpusError(f"{store.folder} has no meta-train pair.", 'Give role = "meta-train" to some pairs.')
    return tasks


@dataclass(frozen=True)
class Shelves:
    """The sentence pairs of a task on shelves of equally many target tokens, those of a shelf being of like lengths.

    Shelf i is `order[edges[i]:edges[i + 1]]`, an index a sentence pair; `tokens` are its target tokens.
    """

    order: Indices
    edges: Indices
    tokens: Indices

    @classmethod
    def of(cls, task: Task, window: int, wanted: int) -> Shelves:
        """Return shelves that are `window` by target length and `SOURCE_SHELVES` by source length within each.

        They are fewer where a shelf would not hold the `wanted` target tokens of an episode.
        """
        source, target = (side.lengths(task.usable) for side in (task.bitext.source, task.bitext.target))
        total = int(target.sum())
        rows = min(max(1, window), max(1, total // wanted))
        columns = min(SOURCE_SHELVES if window > 1 else 1, max(1, total // (wanted * rows)))
        by_target = _sorted(target * (int(source.max()) + 1) + source)
        row = np.empty(len(target), dtype=np.int64)
        before = np.cumsum(target[by_target]) - target[by_target]
        row[by_target] = np.minimum(before * rows // max(1, total), rows - 1)
        # Sources ascend in one row and descend in the next, so that neighbours are alike across rows as well.
        key = row * (int(source.max()) + 1) + np.where(row % 2, source.max() - source, source)
        order = _sorted(key) if columns > 1 else by_target
        place = np.concatenate([[0], np.cumsum(target[order])])
        cuts = np.searchsorted(place, total * np.arange(1, rows * columns) / (rows * columns))
        edges = np.concatenate([[0], cuts, [len(order)]]).astype(np.int64)
        return cls(task.usable[order], edges, np.diff(place[edges]))

    def draw(self, wanted: int, hands: int, rng: np.random.Generator) -> Indices:
        """Return sentence pairs of about `wanted` target tokens from one shelf, every pair of all equally likely.

        A shelf is drawn by its tokens, and of it a number of pairs that depends on their mean length alone.
        """
        totals = np.cumsum(self.tokens)
        shelf = int(np.searchsorted(totals, rng.integers(totals[-1]), side="right"))
        start, stop = int(self.edges[shelf]), int(self.edges[shelf + 1])
        start, stop = max(0, min(start, stop - hands)), max(stop, min(hands, len(self.order)))
        count = wanted * (stop - start) / int(self.tokens[shelf]) + rng.random()
        count = min(stop - start, max(hands, int(count)))
        return self.order[start + rng.choice(stop - start, count, replace=False)]


def _sorted(keys: Indices) -> Indices:
    """Return the order that sorts keys of 0 or more, equal ones as they stand; small keys are sorted by radix."""
    return np.argsort(keys.astype(np.min_scalar_type(int(keys.max(initial=0)))), kind="stable")


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
        self.outer, self.batch, self.pad_id, self.seed = outer, batch, pad_id, seed
        self._shelves: dict[tuple[Pair, str], Shelves] = {}
        self.only(*tasks)

    def only(self, *tasks: Task) -> None:
        """Draw from these tasks from now on."""
        self.tasks = tasks
        sizes = np.array([len(task.usable) for task in tasks], dtype=float)
        power = 1 / self.outer.temperature if self.outer.task_sampling == "temperature" else 0.0
        self.probabilities = sizes**power / (sizes**power).sum()

    def check(self, hands: int) -> None:
        """Raise a CorpusError if a task has too few sentence pairs for episodes of this many batches."""
        for task in self.tasks:
            if len(task.usable) < hands:
                raise CorpusError(
                    f"{task} has {len(task.usable)} sentence pairs, too few for {hands} batches an episode.",
                    "Lower inner.steps, or give the pair more text.",
                )

    def draw_tasks(self, step: int) -> list[Task]:
        """Return the tasks of a step: different ones as long as there are enough."""
        rng = np.random.default_rng([self.seed, step, 0])
        count = self.outer.meta_batch_size
        chosen = rng.choice(len(self.tasks), count, replace=count > len(self.tasks), p=self.probabilities)
        return [self.tasks[index] for index in chosen]

    def meta_batch(
        self, step: int, inner_steps: int, *, query: bool = True, unseen_share: float = 0.0, ranks: Ranks = ALONE
    ) -> list[Episode]:
        """Return the episodes of a step, each with `inner_steps` support batches and, if asked, a query batch.

        Of several processes, each is given its own share of the episodes.
        """
        tasks = self.draw_tasks(step)
        return [
            self.episode(
                tasks[place], (self.seed, step, 1 + place), inner_steps, query=query, unseen_share=unseen_share
            )
            for place in ranks.share(range(len(tasks)))
        ]

    def episode(
        self, task: Task, seed: tuple[int, ...], inner_steps: int, *, query: bool = True, unseen_share: float = 0.0
    ) -> Episode:
        """Return one episode of sentences drawn at random from those of like lengths.

        All its batches together have `batch.max_tokens` target tokens, however many they are: so every learner makes
        as many outer steps of its tokens as joint training, whose episode is a single batch. Support and query are
        dealt at random from the same draw, so they have the same distribution of lengths, share no sentence, and are
        padded little; every sentence of a task is equally likely. A share of episodes meets the language as a new one.
        """
        rng = np.random.default_rng(seed)
        hands = inner_steps + query
        chosen = self._shelves_of(task).draw(self.batch.max_tokens, hands, rng)
        parts, text, start = deal(task.bitext, chosen, hands, rng), task.bitext, None
        if task.unseen is not None and rng.random() < unseen_share:
            text, start = task.unseen.read(text.take(np.concatenate(parts)), rng)
            parts = np.split(np.arange(len(text)), np.cumsum([len(part) for part in parts])[:-1])
        batches = [
            make_batch(text, part, self.batch.micro_tokens, self.pad_id, self.batch.pass_tokens) for part in parts
        ]
        return Episode(task.pair, tuple(batches[:inner_steps]), batches[-1] if query else None, seed, start)

    def _shelves_of(self, task: Task) -> Shelves:
        """Return the shelves of a task, made when first asked for."""
        key = task.pair, task.train_set
        if key not in self._shelves:
            self._shelves[key] = Shelves.of(task, self.batch.window, self.batch.max_tokens)
        return self._shelves[key]
