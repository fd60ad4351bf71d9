"""Batches: what is in them, how little is padded, how many passes they take."""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
import pytest

from metanmt.data.batch import _cuts, make_batch
from metanmt.data.store import Bitext, Side

PAD = 0


def bitext(sentences: int, seed: int = 1) -> Bitext:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 40, sentences)
    sources = [[1 + index] * int(n) for index, n in enumerate(lengths + rng.integers(0, 20, sentences))]
    targets = [[1 + index] * int(n) for index, n in enumerate(lengths)]
    return Bitext(Side.of(sources), Side.of(targets), lengths)


@pytest.mark.parametrize("pass_tokens", [None, 100])
@pytest.mark.parametrize(("sentences", "micro_tokens"), [(1, 10), (7, 50), (200, 400), (200, 10), (3000, 100_000)])
def test_every_pair_is_in_one_micro_batch_within_its_limit(
    sentences: int, micro_tokens: int, pass_tokens: int | None
) -> None:
    text, indices = bitext(sentences), np.random.default_rng(2).permutation(sentences)
    batch = make_batch(text, indices, micro_tokens, PAD, pass_tokens)
    rows = [int(row[0]) for micro in batch for row in micro.labels]
    assert sorted(rows) == list(range(1, sentences + 1))
    for micro in batch:
        assert [int(row[0]) for row in micro.source] == [int(row[0]) for row in micro.labels]
        longest = max(micro.source.shape[1], micro.labels.shape[1])
        assert len(micro.source) == 1 or len(micro.source) * longest <= micro_tokens
    assert batch.target_tokens == int(text.target.offsets[-1]) == sum(int((m.labels != PAD).sum()) for m in batch)


def test_a_batch_of_nothing_has_no_micro_batches() -> None:
    for pass_tokens in (None, 100):
        batch = make_batch(bitext(5), np.array([], dtype=np.int64), 100, PAD, pass_tokens)
        assert (batch.micro_batches, batch.target_tokens) == ((), 0)


@pytest.mark.parametrize("pass_tokens", [0, 10, 40, 10_000])
@pytest.mark.parametrize("micro_tokens", [30, 90, 10_000])
def test_the_cuts_are_the_best_there_are(pass_tokens: int, micro_tokens: int) -> None:
    for seed in range(5):
        source, target = np.random.default_rng(seed).integers(1, 30, (2, 9))
        source.sort()

        def cost(places: tuple[int, ...], source: np.ndarray = source, target: np.ndarray = target) -> float:
            total = 0.0
            for start, stop in pairwise((0, *places, 9)):
                wide = source[start:stop].max(), target[start:stop].max()
                if stop - start > 1 and (stop - start) * max(wide) > micro_tokens:
                    return float("inf")
                total += (stop - start) * sum(wide) + pass_tokens
            return total

        best = min(cost(places) for count in range(9) for places in combinations(range(1, 9), count))
        found, places = _cuts(source, target, micro_tokens, pass_tokens)
        assert found == best == cost(tuple(places[1:-1]))


def test_a_dear_pass_means_fewer_passes_and_more_padding() -> None:
    def made(pass_tokens: int) -> tuple[int, float]:
        batch = make_batch(bitext(1000), np.arange(1000), 16_000, PAD, pass_tokens)
        padded = sum(micro.source.numel() + micro.labels.numel() for micro in batch)
        real = sum(int((part != PAD).sum()) for micro in batch for part in (micro.source, micro.labels))
        return len(batch.micro_batches), 1 - real / padded

    (many, little), (few, much) = made(100), made(10_000)
    assert few <= 5 < many
    assert little < 0.2 < much
