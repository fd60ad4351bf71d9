"""Embeddings whose pieces share what is learned of their character n-grams.

An embedding that training never reaches stays as it was drawn, and an unseen language is full of such pieces: of
Romanian's tokens 15% are hardly ever seen in eighteen other languages (docs/RESULTS.md, "The form of sources"). Here
the table is a sum,

    E = W + N G,    N[x, g] = n(x) ** -0.5 for each of the n(x) n-grams g of piece x,

of a row of its own for every piece (W) and the rows of its n-grams (G). So what is learned of *nacional* reaches
*național*. The outer loop moves both, each by the gradient of E; what is stored, and what an inner loop and
fine-tuning move, is the sum: an ordinary table, of source, target and output where these are tied, as in every model
from scratch here.

References: Bojanowski, Grave, Joulin, Mikolov 2017, "Enriching Word Vectors with Subword Information"; Wang, Pham,
Arthur, Neubig 2019, "Multilingual Neural Machine Translation with Soft Decoupled Encoding".
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from metanmt.config import ModelConfig
from metanmt.data.fast_twin import WORD_START
from metanmt.data.source_form import in_form
from metanmt.data.tokenizer import Tokenizer


def ngrams(piece: str, longest: int) -> set[str]:
    """Return what a piece shares with others: its n-grams of 1 to `longest` characters, and itself as a whole.

    In lower case without accents; the mark of a word's beginning counts as a character, but not alone.
    """
    [plain] = in_form([piece], "plain")
    starts = range(len(plain))
    parts = {plain[start : start + size] for size in range(1, longest + 1) for start in starts[: len(plain) - size + 1]}
    return {*parts, f"{plain}$"} - {WORD_START}


class NgramSharing:
    """Lets an optimiser of a model's embeddings move the rows of n-grams too. A copy of the model has none.

    Args:
        table: E (V, d), the embeddings, on their device.
        pieces: of the vocabulary, by id; an n-gram of one piece alone is left out.
        special: ids that share nothing: marks, tags, bytes.
        longest: characters of an n-gram at most.
    """

    def __init__(self, table: nn.Parameter, pieces: Sequence[str], special: Collection[int], longest: int) -> None:
        grams = [[] if index in special else sorted(ngrams(piece, longest)) for index, piece in enumerate(pieces)]
        grams += [[]] * (len(table) - len(pieces))
        found = Counter(itertools.chain.from_iterable(grams))
        rows = {gram: row for row, gram in enumerate(sorted(gram for gram, count in found.items() if count > 1))}
        held = [[rows[gram] for gram in one if gram in rows] for one in grams]
        counts = torch.tensor([len(one) for one in held])
        holders = torch.arange(len(held)).repeat_interleave(counts)
        columns = torch.tensor(list(itertools.chain.from_iterable(held)), dtype=torch.long)
        values = counts[holders].float().rsqrt()
        self.table = table
        self.steps = nn.Parameter(torch.zeros(len(rows), table.shape[1], device=table.device))
        """What an update adds to G (F, d), whose moments the optimiser has; zero between updates, so that E is all."""
        self._spread = _Sparse(holders, columns, values, len(table), table.device)
        self._gather = _Sparse(columns, holders, values, len(rows), table.device)

    def __deepcopy__(self, memo: dict[int, Any]) -> None:
        return None

    @torch.no_grad()
    def draw(self) -> None:
        """Let E begin as N G of a random G, of the deviation that E has, wherever a piece has an n-gram to share."""
        drawn = torch.randn(self.steps.shape).to(self.table.device) * self.table.std()
        composed = self._spread @ drawn
        self.table.copy_(torch.where(composed.any(dim=1, keepdim=True), composed, self.table))

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        """Let each update of an optimiser that has `steps` among its parameters move E by N times the update of G."""
        optimizer.register_step_pre_hook(lambda *_: self._find_gradient())
        optimizer.register_step_post_hook(lambda *_: self._move_table())

    def _find_gradient(self) -> None:
        self.steps.grad = None if self.table.grad is None else self._gather @ self.table.grad

    @torch.no_grad()
    def _move_table(self) -> None:
        self.table.add_(self._spread @ self.steps)
        self.steps.zero_()


class _Sparse:
    """A constant sparse matrix (R, C) by its entries; the product is faster on a CPU than that of torch's layouts."""

    def __init__(self, rows: Tensor, columns: Tensor, values: Tensor, count: int, device: torch.device) -> None:
        order, counts = rows.argsort(stable=True), torch.bincount(rows, minlength=count)
        self.starts = (counts.cumsum(0) - counts).to(device)
        self.columns, self.values = columns[order].to(device), values[order].to(device)

    def __matmul__(self, factor: Tensor) -> Tensor:
        """Return the product (R, d) with a dense matrix (C, d)."""
        return functional.embedding_bag(self.columns, factor, self.starts, mode="sum", per_sample_weights=self.values)


def share_ngrams(model: PreTrainedModel, config: ModelConfig, tokenizer: Tokenizer) -> None:
    """Let the pieces of a model on its device share n-grams from here on, in every optimiser that asks `ngrams_of`.

    The embeddings of a checkpoint stay as they are; those of a model from scratch are drawn anew.
    """
    table = model.get_input_embeddings().weight
    model.ngram_sharing = NgramSharing(
        table, tokenizer.pieces(), frozenset(tokenizer.special_ids()), config.ngram_characters
    )
    if not config.checkpoint:
        model.ngram_sharing.draw()


def ngrams_of(model: nn.Module) -> NgramSharing | None:
    """Return what the pieces of a model share, if they do."""
    return getattr(model, "ngram_sharing", None)
