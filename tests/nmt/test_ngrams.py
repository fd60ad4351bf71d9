"""Shared n-grams: what a piece shares, and that an update is that of a sum of two tables, by autograd."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from metanmt.nmt.ngrams import NgramSharing, ngrams

PIECES = ["<pad>", "▁Nacional", "▁național", "▁nacionale", "▁koo", "q", "▁"]
SPECIAL = {0}


def dense(pieces: list[str], longest: int) -> Tensor:
    """Return N (V, F) by its definition."""
    grams = [set() if index in SPECIAL else ngrams(piece, longest) for index, piece in enumerate(pieces)]
    shared = sorted({gram for one in grams for gram in one if sum(gram in other for other in grams) > 1})
    rows = [[float(gram in one) for gram in shared] for one in grams]
    return torch.tensor([[cell * max(1.0, sum(row)) ** -0.5 for cell in row] for row in rows])


def table(rows: int = len(PIECES)) -> nn.Parameter:
    return nn.Parameter(torch.randn(rows, 8, generator=torch.Generator().manual_seed(1)))


def test_a_piece_is_shared_by_its_characters_without_case_and_accents() -> None:
    assert ngrams("▁Ță", 2) == {"t", "a", "▁t", "ta", "▁ta$"}
    assert ngrams("▁ta", 2) == ngrams("▁Ță", 2) != ngrams("ta", 2)
    assert ngrams("▁", 3) == {"▁$"}
    assert {len(gram) for gram in ngrams("▁nacional", 4) if not gram.endswith("$")} == {1, 2, 3, 4}


def test_it_begins_as_the_sum_of_shared_rows() -> None:
    embeddings = table(len(PIECES) + 2)  # a model may have more rows than there are pieces
    before = embeddings.detach().clone()
    torch.manual_seed(3)
    NgramSharing(embeddings, PIECES, SPECIAL, 3).draw()
    torch.manual_seed(3)
    matrix = dense(PIECES, 3)
    composed = matrix @ (torch.randn(matrix.shape[1], 8) * before.std())
    shares = matrix.any(dim=1)
    assert shares.tolist() == [False, True, True, True, True, False, False]
    torch.testing.assert_close(embeddings[: len(PIECES)][shares].detach(), composed[shares])
    for alone in (0, 5, 6, 7, 8):
        assert torch.equal(embeddings[alone], before[alone]), "it shares nothing"


def sgd(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1)


def adamw(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=0.1, weight_decay=0)


@pytest.mark.parametrize("make", [sgd, adamw])
def test_an_update_is_that_of_a_sum_of_two_tables(make: Callable[[list[nn.Parameter]], torch.optim.Optimizer]) -> None:
    """The same loss of E and of W + N G, with G from zero, each by the same optimiser."""
    embeddings, matrix = table(), dense(PIECES, 4)
    own = nn.Parameter(embeddings.detach().clone())
    shared = nn.Parameter(torch.zeros(matrix.shape[1], 8))
    sharing = NgramSharing(embeddings, PIECES, SPECIAL, 4)
    one, two = make([embeddings, sharing.steps]), make([own, shared])
    sharing.attach(one)
    aims = [torch.randn(len(PIECES), 8, generator=torch.Generator().manual_seed(step)) for step in range(4)]
    for aim in aims:
        for optimizer, value in ((one, lambda: embeddings), (two, lambda: own + matrix @ shared)):
            optimizer.zero_grad()
            ((value() - aim) ** 2)[:3].sum().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    torch.testing.assert_close(embeddings.detach(), (own + matrix @ shared).detach())
    assert not sharing.steps.any()
    unseen = (embeddings - table()).abs().sum(dim=1) > 0
    assert unseen.tolist()[3], "a piece without a gradient of its own moves with those it resembles"
    assert not unseen.tolist()[5], "others do not"


def test_a_frozen_table_stays() -> None:
    embeddings = table()
    sharing = NgramSharing(embeddings, PIECES, SPECIAL, 4)
    optimizer = torch.optim.SGD([sharing.steps], lr=0.1)
    sharing.attach(optimizer)
    optimizer.step()
    assert torch.equal(embeddings, table())


def test_a_copy_has_none() -> None:
    model = nn.Linear(2, 2)
    model.sharing = NgramSharing(table(), PIECES, SPECIAL, 4)  # type: ignore[assignment]
    assert copy.deepcopy(model).sharing is None
