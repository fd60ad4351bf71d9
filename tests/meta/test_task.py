"""Episodes: a pure function of (seed, step), disjoint, of the right size, little padding."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from metanmt.config import BatchConfig, OuterConfig
from metanmt.data.batch import Batch
from metanmt.data.language import Pair
from metanmt.data.store import Bitext, Side
from metanmt.errors import CorpusError
from metanmt.meta.task import Episode, EpisodeSampler, Shelves, Task

PAD = 0
BATCH = BatchConfig(max_tokens=200, window=6)


def task(name: str, sentences: int, first_id: int = 1) -> Task:
    """Return a task whose sentence i consists of the id first_id + i, repeated as often as it is long."""
    lengths = np.random.default_rng(3).integers(2, 40, sentences)
    side = Side.of([[first_id + index] * int(length) for index, length in enumerate(lengths)])
    bitext = Bitext(side, side, lengths)
    return Task(Pair(name, "en"), bitext, np.arange(sentences))


def sentences(batch: Batch) -> set[int]:
    return {int(row[0]) for part in batch for row in part.labels}


def sampler(tasks: list[Task], seed: int = 1, **outer: object) -> EpisodeSampler:
    return EpisodeSampler(tasks, OuterConfig(meta_batch_size=2, **outer), BATCH, PAD, seed)  # type: ignore[arg-type]


def fingerprint(episodes: list[Episode]) -> list[list[int]]:
    return [sorted(sentences(batch)) for episode in episodes for batch in episode.batches]


def test_a_step_is_a_pure_function_of_seed_and_step() -> None:
    tasks = [task("de", 900), task("fr", 900, 2000)]
    first = sampler(tasks)
    for step in range(5):
        first.meta_batch(step, 1)
    assert fingerprint(first.meta_batch(7, 2)) == fingerprint(sampler(tasks).meta_batch(7, 2))
    assert fingerprint(first.meta_batch(7, 2)) != fingerprint(first.meta_batch(8, 2))
    assert fingerprint(first.meta_batch(7, 2)) != fingerprint(sampler(tasks, seed=2).meta_batch(7, 2))


def test_support_and_query_share_no_sentence() -> None:
    episodes = sampler([task("de", 300), task("fr", 300)])
    for step in range(30):
        for episode in episodes.meta_batch(step, 3):
            seen: set[int] = set()
            for batch in episode.batches:
                assert sentences(batch)
                assert not seen & sentences(batch)
                seen |= sentences(batch)


def test_batches_have_the_size_that_was_asked_for() -> None:
    drawn = sampler([task("de", 5000), task("fr", 5000)])
    sizes = [e.target_tokens for step in range(80) for e in drawn.meta_batch(step, 0)]
    assert np.mean(sizes) == pytest.approx(BATCH.max_tokens, rel=0.1)
    assert max(sizes) < 1.6 * BATCH.max_tokens
    assert Episode(Pair("de", "en"), (), None).target_tokens == 0


@pytest.mark.parametrize(("inner_steps", "query"), [(1, True), (4, False), (3, True)])
def test_an_episode_costs_the_same_however_many_batches_it_has(inner_steps: int, query: bool) -> None:
    drawn = sampler([task("de", 5000), task("fr", 5000)])
    episodes = [e for step in range(80) for e in drawn.meta_batch(step, inner_steps, query=query)]
    assert np.mean([e.target_tokens for e in episodes]) == pytest.approx(BATCH.max_tokens, rel=0.1)
    sizes = np.array([[b.target_tokens for b in e.batches] for e in episodes])
    assert sizes.mean(axis=0) == pytest.approx(BATCH.max_tokens / (inner_steps + query), rel=0.3)


def test_every_sentence_is_equally_likely() -> None:
    """Length sorting must not favour short or long sentences."""
    one = task("de", 400)
    drawn = sampler([one, one])
    counts = np.zeros(401)
    for step in range(400):
        for episode in drawn.meta_batch(step, 0):
            counts[list(sentences(episode.query))] += 1  # type: ignore[arg-type]
    lengths = one.bitext.target.lengths(np.arange(400))
    shorter = lengths < np.median(lengths)
    assert counts[1:].min() > 0
    assert counts[1:][shorter].mean() == pytest.approx(counts[1:][~shorter].mean(), rel=0.15)


def test_a_window_saves_padding() -> None:
    def padding(window: int) -> float:
        drawn = EpisodeSampler(
            [task("de", 5000)], OuterConfig(meta_batch_size=1), BatchConfig(600, 4000, window), PAD, 1
        )
        parts = [p for step in range(30) for e in drawn.meta_batch(step, 0) for b in e.batches for p in b]
        return 1 - sum(int((p.labels != PAD).sum()) for p in parts) / sum(p.labels.numel() for p in parts)

    assert padding(20) < 0.08 < padding(1)


def test_tasks_are_drawn_without_repetition_and_by_temperature() -> None:
    tasks = [task("de", 3200), task("fr", 100)]
    uniform = sampler(tasks)
    assert all({t.pair.source for t in uniform.draw_tasks(step)} == {"de", "fr"} for step in range(10))
    by_size = sampler(tasks, task_sampling="temperature", temperature=5.0)
    assert by_size.probabilities == pytest.approx([2 / 3, 1 / 3])
    assert uniform.probabilities == pytest.approx([0.5, 0.5])


def test_reptile_draws_no_query() -> None:
    episode = sampler([task("de", 500), task("fr", 500)]).meta_batch(0, 2, query=False)[0]
    assert episode.query is None
    assert len(episode.batches) == 2


def test_too_few_sentences_for_an_episode() -> None:
    with pytest.raises(CorpusError, match="too few"):
        sampler([task("de", 6), task("fr", 3)]).check(6)
    sampler([task("de", 6), task("fr", 3)]).check(3)


def two_sided(sentences: int) -> Task:
    """Return a task whose source and target lengths go together, but not closely; targets are sentence numbers."""
    rng = np.random.default_rng(4)
    lengths = rng.integers(2, 60, sentences)
    source = Side.of([[1] * int(n) for n in np.maximum(1, lengths * rng.lognormal(0.3, 0.3, sentences))])
    target = Side.of([[1 + index] * int(n) for index, n in enumerate(lengths)])
    return Task(Pair("de", "en"), Bitext(source, target, lengths), np.arange(sentences))


@pytest.mark.parametrize(("sentences", "window", "shelves"), [(6000, 8, 32), (6000, 1, 1), (100, 8, 3), (20, 8, 1)])
def test_shelves_hold_every_sentence_once_and_equal_shares(sentences: int, window: int, shelves: int) -> None:
    one = two_sided(sentences)
    made = Shelves.of(one, window, 1000)
    assert sorted(made.order.tolist()) == list(range(sentences))
    assert len(made.tokens) == shelves
    assert made.tokens.sum() == one.bitext.target.lengths(one.usable).sum()
    assert made.tokens.max() - made.tokens.min() <= 2 * 60


def test_a_shelf_has_sentences_of_like_lengths_on_both_sides() -> None:
    one = two_sided(20_000)

    def spread(window: int) -> tuple[float, float]:
        made = Shelves.of(one, window, 1000)
        parts = [made.order[start:stop] for start, stop in pairwise(made.edges)]
        source, target = one.bitext.source, one.bitext.target
        return tuple(float(np.mean([side.lengths(part).std() for part in parts])) for side in (source, target))  # type: ignore[return-value]

    assert spread(16)[0] < spread(1)[0] / 3
    assert spread(16)[1] < spread(1)[1] / 8


def test_every_sentence_is_drawn_as_often_as_any_other() -> None:
    one = two_sided(600)
    made = Shelves.of(one, 4, 400)
    assert len(made.tokens) > 8
    rng, rounds = np.random.default_rng(5), 30_000
    counts = np.zeros(600)
    for _ in range(rounds):
        drawn = made.draw(400, 2, rng)
        counts[drawn] += 1
        assert len(set(drawn.tolist())) == len(drawn) >= 2
    expected = rounds * 400 / made.tokens.sum()
    assert counts.mean() == pytest.approx(expected, rel=0.01)
    by_shelf = [counts[made.order[start:stop]].mean() for start, stop in pairwise(made.edges)]
    assert by_shelf == pytest.approx([expected] * len(by_shelf), rel=0.06)
    short = one.bitext.target.lengths(one.usable) < 20
    assert counts[short].mean() == pytest.approx(counts[~short].mean(), rel=0.03)


def test_a_shelf_with_fewer_sentences_than_hands_takes_from_its_neighbour() -> None:
    side = Side.of([[1] * 50] * 8)
    eight = Task(Pair("de", "en"), Bitext(side, side, np.full(8, 50)), np.arange(8))
    made = Shelves.of(eight, 8, 50)
    assert len(made.tokens) == 8
    for seed in range(40):
        assert len(set(made.draw(50, 3, np.random.default_rng(seed)).tolist())) == 3
