"""Embeddings of new pieces."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

from metanmt.data.pretrained_tokenizer import PretrainedTokenizer
from metanmt.data.tokenizer import SentencePieceTokenizer
from metanmt.nmt.vocabulary import grow_embeddings, obstacle
from tests.nmt import pretrained

SPELLED = [[5, 6], [7, 8, 8]]


def test_a_new_row_is_the_mean_of_those_that_spelled_it(toy_model: PreTrainedModel) -> None:
    before = toy_model.get_input_embeddings().weight.detach().clone()
    grow_embeddings(toy_model, len(before), SPELLED)
    table = toy_model.get_input_embeddings().weight
    assert torch.equal(table[: len(before)], before)
    torch.testing.assert_close(table[len(before)], (before[5] + before[6]) / 2)
    torch.testing.assert_close(table[len(before) + 1], (before[7] + 2 * before[8]) / 3)
    assert toy_model.get_output_embeddings().weight is table, "still one table"
    assert toy_model.config.vocab_size == len(before) + 2


def test_an_output_of_its_own_grows_too(toy_model: PreTrainedModel) -> None:
    size = toy_model.config.vocab_size
    toy_model.config.tie_word_embeddings = False
    output = nn.Linear(toy_model.config.d_model, size, bias=False)
    toy_model.set_output_embeddings(output)
    rows = output.weight.detach().clone()
    grow_embeddings(toy_model, size, SPELLED)
    assert toy_model.get_input_embeddings().weight is not toy_model.get_output_embeddings().weight
    torch.testing.assert_close(toy_model.get_output_embeddings().weight[size], (rows[5] + rows[6]) / 2)


@pytest.mark.parametrize("update", ["decoder", "head", "none"])
def test_pieces_that_would_never_learn_are_refused(
    toy_model: PreTrainedModel, tokenizer: SentencePieceTokenizer, update: str
) -> None:
    assert f"update = {update} leaves the embeddings alone" in str(
        obstacle(toy_model, tokenizer, update, lexicon=False)
    )


@pytest.mark.parametrize("update", ["all", "embeddings", "embeddings+encoder"])
def test_a_universal_lexicon_cannot_grow(
    toy_model: PreTrainedModel, tokenizer: SentencePieceTokenizer, update: str
) -> None:
    assert obstacle(toy_model, tokenizer, update, lexicon=False) is None
    assert "universal lexicon" in str(obstacle(toy_model, tokenizer, update, lexicon=True))


def test_a_pretrained_vocabulary_is_left_alone(toy_model: PreTrainedModel, tmp_path: Path) -> None:
    tokenizer = PretrainedTokenizer(str(pretrained.make("m2m100", tmp_path / "m2m100")), {})
    assert "not for a pretrained one" in str(obstacle(toy_model, tokenizer, "all", lexicon=False))
