"""Episodes that meet a language as a new one: what it begins as, the gradient through that, and every learner."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from metanmt.config import BatchConfig, Config, InnerConfig, OuterConfig
from metanmt.data.counterparts import find_counterparts, merged
from metanmt.data.language import Pair
from metanmt.data.tokenizer import SentencePieceTokenizer, train_tokenizer
from metanmt.meta import unseen
from metanmt.meta.initialization import words_of_run
from metanmt.meta.learners import learner_class
from metanmt.meta.outer import outer_optimizer, outer_step
from metanmt.meta.task import Episode, EpisodeSampler, Task
from metanmt.meta.unseen import UnseenLanguage, begun
from metanmt.nmt import beginnings
from metanmt.nmt.loss import Loss
from metanmt.nmt.vocabulary import own_rows
from tests import toy

LOSS = Loss(label_smoothing=0.1)
LANGUAGES = ("de", "sv", "es")
SENTENCES = 300
LEARNERS = ["joint", "aligned", "fomaml", "reptile", "maml", "anil", "meta-sgd", "maml++", "lstm", "learned-optimizer"]


@pytest.fixture(scope="module")
def tokenizer() -> SentencePieceTokenizer:
    lines = [toy.lines(SENTENCES, language=language) for language in LANGUAGES]
    return train_tokenizer((side for part in lines for pair in part for side in pair), ("en", "de"), 700)


@pytest.fixture
def tasks(tokenizer: SentencePieceTokenizer, monkeypatch: pytest.MonkeyPatch) -> list[Task]:
    """Three tasks of a text so small that a piece counts as well known that is read ten times."""
    monkeypatch.setattr(beginnings, "SIZED", 10)
    monkeypatch.setattr(beginnings, "HARDLY_READ", 30)
    monkeypatch.setattr(unseen, "SUPPORTS", (100, 200))
    pairs = [Pair(language, "en") for language in LANGUAGES]
    texts = [toy.make_bitext(tokenizer, toy.lines(SENTENCES, language=pair.source), pair) for pair in pairs]
    size = tokenizer.vocabulary_size
    found = [
        find_counterparts(pair, text, tokenizer.special_ids(), size) for pair, text in zip(pairs, texts, strict=True)
    ]
    made = []
    for pair, text in zip(pairs, texts, strict=True):
        others = merged((part for part, other in zip(found, pairs, strict=True) if other != pair), size)
        language = UnseenLanguage(pair, text, tokenizer, others)
        made.append(Task(pair, text, np.arange(len(text)), unseen=language))
    return made


@pytest.fixture
def into(tasks: list[Task], tokenizer: SentencePieceTokenizer) -> Task:
    """English into German, which is met as a language that was never written."""
    pair, size = Pair("en", "de"), tokenizer.vocabulary_size
    text = toy.make_bitext(tokenizer, [line[::-1] for line in toy.lines(SENTENCES)], pair)
    found = [find_counterparts(task.pair, task.bitext, tokenizer.special_ids(), size) for task in tasks[1:]]
    language = UnseenLanguage(pair, text, tokenizer, merged(found, size), is_target=True)
    return replace(tasks[0], pair=pair, bitext=text, unseen=language)


@pytest.fixture
def theta(tokenizer: SentencePieceTokenizer) -> PreTrainedModel:
    return toy.make_m2m100(tokenizer.vocabulary_size)


def episodes(tasks: list[Task], inner_steps: int, *, share: float = 1.0, query: bool = True) -> list[Episode]:
    sampler = EpisodeSampler(tasks, OuterConfig(meta_batch_size=3), BatchConfig(max_tokens=150, window=2), 0, 1)
    return sampler.meta_batch(0, inner_steps, query=query, unseen_share=share)


def sources(episode: Episode) -> Tensor:
    return torch.cat([part.source.flatten() for batch in episode.batches for part in batch])


def test_it_says_the_same_in_pieces_of_its_own(tasks: list[Task], tokenizer: SentencePieceTokenizer) -> None:
    language, text = tasks[0].unseen, tasks[0].bitext.head(20)
    assert language is not None
    [newcomer] = language.newcomers = language.newcomers[1:]
    read, start = language.read(text, np.random.default_rng(1))
    assert start is not None
    known = tokenizer.vocabulary_size
    own = read.source.ids >= known
    assert 0.1 < own.mean() < 1
    assert set(read.source.ids[own].tolist()) == set(range(known, known + len(start.spelled)))
    assert len(read.source.ids) < len(text.source.ids), "a piece of its own is longer"
    assert np.array_equal(read.target.ids, text.target.ids)
    back = np.where(own, start.beginnings.pieces[np.maximum(0, read.source.ids - known)], read.source.ids)
    grown = newcomer.grown
    texts = [grown.decode([part.tolist()])[0] for part in np.split(back, read.source.offsets[1:-1])]
    assert texts == [line[0] for line in toy.lines(20)]


def test_a_target_says_the_same_in_pieces_of_its_own(into: Task, tokenizer: SentencePieceTokenizer) -> None:
    language, text = into.unseen, into.bitext.head(20)
    assert language is not None
    [newcomer] = language.newcomers = language.newcomers[1:]
    read, start = language.read(text, np.random.default_rng(1))
    assert start is not None
    known, pieces = tokenizer.vocabulary_size, start.beginnings.pieces
    own = read.target.ids >= known
    assert 0.1 < own.mean() < 1
    assert len(read.target.ids) < len(text.target.ids), "a piece of its own is longer"
    assert {*read.target.ids[own], *read.source.ids[read.source.ids >= known]} == {*range(known, known + len(pieces))}
    tag = known + int(np.searchsorted(pieces, tokenizer.targets["de"]))
    assert set(read.source.ids[read.source.offsets[:-1]].tolist()) == {tag}
    assert start.spelled[tag - known] == [tokenizer.targets["en"]], "the mean of those that were learned"
    back = np.where(own, pieces[np.maximum(0, read.target.ids - known)], read.target.ids)
    texts = newcomer.grown.decode([part.tolist() for part in np.split(back, read.target.offsets[1:-1])])
    assert texts == [line[0] for line in toy.lines(20)]


def test_its_own_embeddings_are_not_what_it_begins_as(tasks: list[Task]) -> None:
    """It would be met as a language that was seen."""
    read = [np.bincount(task.bitext.source.ids, minlength=1_000) for task in tasks]
    for number, task in enumerate(tasks):
        assert task.unseen is not None
        others = sum(counts for other, counts in enumerate(read) if other != number)
        alone = np.flatnonzero((read[number] > 0) & (others == 0))
        assert len(alone)
        for newcomer in task.unseen.newcomers:
            assert not np.isin(newcomer.start.beginnings.counterparts, alone).any()


def test_text_that_is_translated_into_it_is_left_out_too(
    tasks: list[Task], theta: PreTrainedModel, tokenizer: SentencePieceTokenizer, tmp_path: Path
) -> None:
    back = Pair("en", "de")
    text = toy.make_bitext(tokenizer, [line[::-1] for line in toy.lines(SENTENCES)], back)
    both = [*tasks, replace(tasks[0], pair=back, bitext=text)]
    met = []
    for some in (tasks, both):
        kept, found = words_of_run(theta, some, tokenizer, tmp_path, True, lambda: False)
        assert kept is not None
        assert set(kept.tables) == {task.pair.target for task in some}
        met.append([newcomer.start.beginnings for task in found if task.unseen for newcomer in task.unseen.newcomers])
    alone, among = met
    assert len(alone) == 2 * len(LANGUAGES)
    for one, other in zip(alone[:2], among[:2], strict=True):
        assert np.array_equal(one.pieces, other.pieces)
        assert np.array_equal(one.counterparts, other.counterparts)
    written = [task.unseen is not None and task.unseen.newcomers[0].start.written for task in found]
    assert written == [False, False, False, True], "of English nothing is known: German is new again, as the target"


def test_a_run_that_is_stopped_meanwhile_keeps_what_it_has(
    tasks: list[Task], theta: PreTrainedModel, tokenizer: SentencePieceTokenizer, tmp_path: Path
) -> None:
    kept, _ = words_of_run(theta, tasks, tokenizer, tmp_path, False, lambda: False)
    assert kept is not None
    kept.save(tmp_path)
    again, same = words_of_run(theta, tasks, tokenizer, tmp_path, True, lambda: True)
    assert again is not None
    assert again.tables.keys() == kept.tables.keys()
    assert same == tasks


def test_the_share_of_episodes(tasks: list[Task]) -> None:
    sampler = EpisodeSampler(tasks, OuterConfig(meta_batch_size=3), BatchConfig(max_tokens=60), 0, 1)
    met = [episode.start is not None for step in range(60) for episode in sampler.meta_batch(step, 1, unseen_share=0.3)]
    assert 0.2 < np.mean(met) < 0.4
    for none, some in zip(sampler.meta_batch(5, 1), sampler.meta_batch(5, 1, unseen_share=0.3), strict=True):
        assert none.target_tokens == some.target_tokens
        assert some.start is not None or torch.equal(sources(none), sources(some)), "others are as they were"


def test_without_another_language_nothing_is_known_of_it(tasks: list[Task], tokenizer: SentencePieceTokenizer) -> None:
    nothing = merged([], tokenizer.vocabulary_size)
    alone = UnseenLanguage(tasks[0].pair, tasks[0].bitext, tokenizer, nothing)
    text = tasks[0].bitext.head(5)
    assert alone.read(text, np.random.default_rng(1)) == (text, None)


@pytest.mark.parametrize("written", [False, True])
def test_the_gradient_goes_through_the_beginning(
    tasks: list[Task], into: Task, theta: PreTrainedModel, written: bool
) -> None:
    """Against finite differences, in float64, along a direction that leaves the sizes of rows, taken as constants."""
    theta = theta.double()
    [episode, *_] = episodes([into] if written else tasks, 0)
    start, query = episode.start, episode.query
    assert start is not None
    assert start.written == written
    assert query is not None
    learner, table = learner_class("joint")(theta, Config()), theta.get_input_embeddings().weight
    with begun(learner.models, start):
        learner.accumulate(theta, query, LOSS, scale=1.0)
    assert table.grad is not None
    whole = table.grad.clone()
    direction = torch.randn(table.shape, dtype=table.dtype)
    with torch.no_grad():
        direction -= table * ((direction * table).sum(1, keepdim=True) / table.square().sum(1, keepdim=True))

    def loss_at(step: float) -> float:
        with torch.no_grad():
            table.add_(direction, alpha=step)
        with begun(learner.models, start):
            value = LOSS.at(theta, dict(theta.named_parameters()), query).item()
        with torch.no_grad():
            table.add_(direction, alpha=-step)
        return value

    derivative = (loss_at(1e-6) - loss_at(-1e-6)) / 2e-6  # small, or it meets kinks
    assert derivative == pytest.approx(float((whole * direction).sum()), rel=1e-4)
    theta.zero_grad()
    with own_rows([theta], start.embeddings(table).detach(), written=written):
        LOSS.backward(theta, query)
    assert table.grad is not None
    without = float((table.grad * direction).sum())
    assert derivative != pytest.approx(without, rel=1e-3), "the part of the counterparts is large enough to be seen"


@pytest.mark.parametrize("name", LEARNERS)
def test_every_learner_meets_new_languages(name: str, tasks: list[Task], into: Task, theta: PreTrainedModel) -> None:
    tasks = [*tasks[1:], into]
    config = Config(inner=InnerConfig(steps=2, learning_rate=0.1, hidden=4), outer=OuterConfig(learner=name))  # type: ignore[arg-type]
    learner = learner_class(name)(theta, config)
    names = [key for key, _ in theta.named_parameters()]
    optimizer = outer_optimizer(theta, learner.own, config.outer)
    report = outer_step(
        theta, episodes(tasks, learner.inner_steps, query=learner.query), optimizer, learner, config.outer, LOSS
    )
    assert not report.skipped
    assert [key for key, _ in theta.named_parameters()] == names, "what was an episode's is gone"
    assert all(weight.grad is not None for key, weight in theta.named_parameters() if "embed_positions" not in key)
    [first, *_] = episodes(tasks, learner.inner_steps, query=learner.query)
    known = theta.get_input_embeddings().num_embeddings
    assert int(sources(first).max()) >= known


def test_rows_of_its_own_are_fast(tasks: list[Task], theta: PreTrainedModel) -> None:
    learner = learner_class("fomaml")(theta, Config(inner=InnerConfig(steps=2, learning_rate=0.1)))
    [episode, *_] = episodes(tasks, 2)
    with begun(learner.models, episode.start):
        slow, fast = (model.get_encoder().embed_tokens.own for model in learner.models)
        learner.load(theta)
        assert torch.equal(slow, fast)
        learner.adapt(episode.support, LOSS)
        assert not torch.equal(slow, fast)
        assert isinstance(slow, nn.Parameter)
    assert not hasattr(theta.get_encoder().embed_tokens, "own")


def test_a_language_that_is_known_is_read_as_ever(tasks: list[Task], theta: PreTrainedModel) -> None:
    [episode, *_] = episodes(tasks, 0, share=0.0)
    before = theta.get_encoder().embed_tokens
    with begun([theta], replace(episode).start):
        assert theta.get_encoder().embed_tokens is before
