"""Batches: every sentence once, token budgets kept, equal parts."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from metanmt.data.batch import Batch, deal, epoch, make_batch
from metanmt.data.store import Bitext, Side

PAD = 0


def make_bitext(count: int, longest: int = 30) -> Bitext:
    """Return sentences of random lengths; the tokens of sentence i are all i + 1, so that it can be recognised."""
    rng = np.random.default_rng(5)
    sides = [
        Side.of([[index + 1] * int(length) for index, length in enumerate(rng.integers(1, longest + 1, count))])
        for _ in range(2)
    ]
    return Bitext(sides[0], sides[1], sides[1].lengths(np.arange(count)))


def rows(batch: Batch) -> list[tuple[int, int]]:
    """Return (sentence, its target tokens) of every row."""
    found = []
    for part in batch:
        assert torch.equal(part.source[:, 0], part.labels[:, 0])
        found += [(int(row[0]) - 1, int((row != PAD).sum())) for row in part.labels]
    return found


@pytest.mark.parametrize("micro_tokens", [1, 64, 500, 10**9])
def test_every_sentence_once_whatever_the_micro_batch(micro_tokens: int) -> None:
    bitext = make_bitext(50)
    chosen = np.arange(3, 47)
    batch = make_batch(bitext, chosen, micro_tokens, PAD)
    found = rows(batch)
    assert sorted(sentence for sentence, _ in found) == chosen.tolist()
    assert batch.target_tokens == sum(tokens for _, tokens in found) == int(bitext.target.lengths(chosen).sum())
    for part in batch:
        height, width = part.source.shape[0], max(part.source.shape[1], part.labels.shape[1])
        assert height * width <= micro_tokens or height == 1
        assert torch.equal(part.source_mask, (part.source != PAD).long())
    assert (len(batch.micro_batches) == 1) == (micro_tokens > 500)


def test_parts_are_disjoint_whole_and_about_equal() -> None:
    bitext = make_bitext(300)
    parts = deal(bitext, np.arange(300), 7, np.random.default_rng(1))
    assert sorted(np.concatenate(parts).tolist()) == list(range(300))
    sizes = [int(bitext.target.lengths(part).sum()) for part in parts]
    assert max(sizes) - min(sizes) <= 2 * 30


def test_no_part_is_larger_than_another_on_average() -> None:
    """The support and query batches of an episode come from one deal; the first is not to hold more than the last."""
    bitext = make_bitext(40)
    mean = np.zeros(4)
    for seed in range(2_000):
        mean += [
            bitext.target.lengths(part).sum() for part in deal(bitext, np.arange(40), 4, np.random.default_rng(seed))
        ]
    mean /= 2_000
    assert max(mean) - min(mean) < 0.02 * sum(mean) / 4


@pytest.mark.parametrize("hands", [1, 2, 5])
def test_every_hand_gets_a_sentence(hands: int) -> None:
    """One sentence outweighs all others together; still nobody goes empty."""
    side = Side.of([[1] * 1000, [1], [1], [1], [1]])
    bitext = Bitext(side, side, np.ones(5))
    for seed in range(50):
        parts = deal(bitext, np.arange(5), hands, np.random.default_rng(seed))
        assert sorted(np.concatenate(parts).tolist()) == list(range(5))
        assert min(map(len, parts)) >= 1


def test_an_epoch_is_every_sentence_once_and_reproducible() -> None:
    bitext = make_bitext(120)
    batches = list(epoch(bitext, 200, 100, PAD, (1, 2)))
    assert sorted(sentence for batch in batches for sentence, _ in rows(batch)) == list(range(120))
    assert len(batches) == -(-int(bitext.target.offsets[-1]) // 200)
    again, other = ([rows(batch) for batch in epoch(bitext, 200, 100, PAD, seed)] for seed in ((1, 2), (1, 3)))
    assert [rows(batch) for batch in batches] == again != other
