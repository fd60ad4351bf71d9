"""Embeddings of new pieces, and of those that a model hardly ever read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

from metanmt.data.counterparts import Counterparts, Table
from metanmt.data.language import Pair
from metanmt.data.pretrained_tokenizer import PretrainedTokenizer
from metanmt.data.store import Bitext, Side
from metanmt.data.tokenizer import SentencePieceTokenizer
from metanmt.nmt.lexicon import folded
from metanmt.nmt.vocabulary import align_embeddings, begin_tag, grow_embeddings, has_one_table, obstacle
from tests import toy
from tests.nmt import pretrained
from tests.nmt.lexicon import universal_model

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


def test_the_folded_tables_of_one_cannot_grow_either(tokenizer: SentencePieceTokenizer) -> None:
    """They would get lost, since `transformers` puts the target's in their places."""
    model = folded(universal_model(tokenizer), "de")
    assert not has_one_table(model)
    assert "tables of their own" in str(obstacle(model, tokenizer, "all", lexicon=False))


def test_a_pretrained_vocabulary_is_left_alone(toy_model: PreTrainedModel, tmp_path: Path) -> None:
    tokenizer = PretrainedTokenizer(str(pretrained.make("m2m100", tmp_path / "m2m100")), {})
    assert "not for a pretrained one" in str(obstacle(toy_model, tokenizer, "all", lexicon=False))


READ, NEVER_READ, ENGLISH = 30, 40, 50


def counterparts(size: int) -> Counterparts:
    """Return those of a run that has read piece 30 often, by which English 50 is expressed, and 40 never."""
    table = Table(np.array([READ]), np.array([ENGLISH]), np.array([20.0]))
    read, written = np.zeros((2, size), dtype=np.int64)
    read[READ], written[ENGLISH] = 5_000, 5_000
    return Counterparts({"en": table}, read, written)


def text(source: int, sentences: int) -> Bitext:
    sides = (Side.of([[piece, 2]] * sentences) for piece in (source, ENGLISH))
    return Bitext(*sides, np.ones(sentences, dtype=np.int64))


def test_a_piece_begins_as_what_its_translation_is_called_elsewhere(toy_model: PreTrainedModel) -> None:
    table = toy_model.get_input_embeddings().weight
    before = table.detach().clone()
    assert align_embeddings(toy_model, counterparts(len(table)), text(NEVER_READ, 4), toy.PAIR, [0, 1, 2]) == 1
    torch.testing.assert_close(table[NEVER_READ], 0.8 * before[READ] + 0.2 * before[NEVER_READ])  # linked four times
    others = torch.arange(len(table)) != NEVER_READ
    assert torch.equal(table[others], before[others])


@pytest.mark.parametrize("index", [READ, ENGLISH])
def test_what_is_well_known_stays(toy_model: PreTrainedModel, index: int) -> None:
    """Pieces that meta-training read, and those that the model writes, which share the table."""
    before = toy_model.get_input_embeddings().weight.detach().clone()
    known = counterparts(len(before))
    assert align_embeddings(toy_model, known, text(index, 4), toy.PAIR, [0, 1, 2]) == 0
    assert torch.equal(toy_model.get_input_embeddings().weight, before)


def test_new_rows_are_aligned(toy_model: PreTrainedModel) -> None:
    size = toy_model.config.vocab_size
    grow_embeddings(toy_model, size, SPELLED)
    table = toy_model.get_input_embeddings().weight
    assert align_embeddings(toy_model, counterparts(size), text(size, 9), toy.PAIR, [0, 1, 2]) == 1
    similar = torch.nn.functional.cosine_similarity(table[size], table[READ], dim=0)
    assert similar > 0.9


def test_another_target_language_tells_nothing(toy_model: PreTrainedModel) -> None:
    known = counterparts(toy_model.config.vocab_size)
    assert align_embeddings(toy_model, known, text(NEVER_READ, 4), Pair("de", "fr"), [0, 1, 2]) == 0


def test_a_new_tag_begins_as_the_mean_of_those_that_were_learned(toy_model: PreTrainedModel) -> None:
    before = toy_model.get_input_embeddings().weight.detach().clone()
    begin_tag(toy_model, {"en": 3, "de": 4, "ka": 5, "fi": 6}, "ka", ["en", "de", "sv"])
    table = toy_model.get_input_embeddings().weight
    torch.testing.assert_close(table[5], (before[3] + before[4]) / 2)
    assert torch.equal(table[[3, 4, 6, 7]], before[[3, 4, 6, 7]])
