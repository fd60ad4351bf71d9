"""The universal lexicon: the formula in numpy, folding for plain `transformers`, what moves when, refusals."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSeq2SeqLM

from metanmt.config import FineTuneConfig, ModelConfig
from metanmt.data.language import Pair
from metanmt.data.store import Bitext
from metanmt.data.tokenizer import SentencePieceTokenizer
from metanmt.errors import CheckpointError, ConfigError, DataError
from metanmt.nmt.checkpoint import load_checkpoint, load_state, save_checkpoint
from metanmt.nmt.engine import open_engine
from metanmt.nmt.lexicon import (
    LEXICON_FILE,
    VECTORS_FILE,
    UniversalEmbedding,
    add_lexicon,
    check_same_vectors,
    folded,
    lexicon_of,
)
from metanmt.nmt.model import make_model, update_weights
from metanmt.nmt.translate import translate
from metanmt.nmt.tuning import fine_tune
from tests import toy
from tests.nmt.lexicon import SETTINGS, make_vectors, universal_model
from tests.nmt.test_checkpoint import PLAIN

SENTENCES = [german for german, _ in toy.lines(6)]


def lexicon(model: torch.nn.Module) -> UniversalEmbedding:
    found = lexicon_of(model)
    assert found is not None
    return found


def expected_row(module: UniversalEmbedding, index: int, language: str) -> np.ndarray:
    """Return the embedding of one id by the formula, a piece at a time, in float64."""
    vectors = module.queries.vectors
    scale = module.plain.weight.shape[1] ** 0.5
    if index in vectors.special:
        return scale * module.plain.weight[index].detach().double().numpy()
    correction = module.correction[index].detach().double().numpy()
    own = vectors.languages.get(language)
    if own is not None and index in own.ids:
        query = own.values[list(own.ids).index(index)].astype(float)
    else:
        others = [
            v.values[list(v.ids).index(index)].astype(float) for v in vectors.languages.values() if index in v.ids
        ]
        if not others:
            return scale * correction
        query = np.mean(others, axis=0)
        query = (query / np.linalg.norm(query)).astype(np.float16).astype(float)
    pivot = vectors.languages["en"].values.astype(float)
    universal, transform = (w.detach().double().numpy() for w in (module.universal, module.transform))
    scores = np.array([query @ transform @ pivot[place] / module.temperature for place in range(len(universal))])
    weights = np.exp(scores - scores.max())
    return scale * (weights / weights.sum() @ universal + correction)


@pytest.mark.parametrize("language", ["de", "fi", "en", "xx"])
def test_an_embedding_is_the_formula(tokenizer: SentencePieceTokenizer, language: str) -> None:
    model = universal_model(tokenizer)
    lexicon(model).language = language
    ids = torch.arange(tokenizer.vocabulary_size).view(1, -1)
    found = model.model.encoder.embed_tokens(ids)[0].detach().double().numpy()
    wanted = np.array([expected_row(lexicon(model), index, language) for index in ids[0].tolist()])
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-4)


def test_every_distinct_id_is_mixed_once(tokenizer: SentencePieceTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    model = universal_model(tokenizer)
    asked: list[int] = []
    plain = UniversalEmbedding.mixture
    monkeypatch.setattr(
        UniversalEmbedding, "mixture", lambda self, ids, language: asked.append(len(ids)) or plain(self, ids, language)
    )
    ids = torch.tensor([[300, 301, 300, 2], [301, 301, 302, 2]])
    found = model.model.encoder.embed_tokens(ids)
    assert asked == [4]
    assert torch.equal(found[0, 0], found[0, 2])


@pytest.mark.parametrize("language", ["de", "fi"])
def test_a_folded_model_computes_the_same(tokenizer: SentencePieceTokenizer, toy_bitext: Bitext, language: str) -> None:
    model = universal_model(tokenizer)
    lexicon(model).language = language
    twin = folded(model, language)
    assert lexicon_of(twin) is None
    source = torch.from_numpy(toy_bitext.source.padded(np.arange(8), tokenizer.pad_id))
    inputs = {
        "input_ids": source,
        "attention_mask": (source != tokenizer.pad_id).long(),
        "decoder_input_ids": torch.tensor([[2, 300]] * 8),
    }
    with torch.inference_mode():
        torch.testing.assert_close(twin(**inputs).logits, model(**inputs).logits, rtol=1e-5, atol=1e-5)
    assert lexicon_of(model) is not None, "folding leaves the model alone"
    assert model.lm_head.weight is model.model.shared.weight


@pytest.fixture(scope="module")
def trained(tokenizer: SentencePieceTokenizer) -> torch.nn.Module:
    """A model with a lexicon that has learned a few sentences, so that its translations mean something."""
    torch.manual_seed(1)
    model = universal_model(tokenizer, width=64)
    with torch.no_grad():
        lexicon(model).correction.zero_()
    bitext = toy.make_bitext(tokenizer, toy.LEARNED)
    settings = FineTuneConfig(
        learning_rate=3e-3,
        dropout=0.0,
        metric="loss",
        min_updates=150,
        max_updates=150,
        max_tokens=2_000,
        evaluations=2,
    )
    fine_tune(model, tokenizer, toy.PAIR, bitext, bitext, settings, seed=1, precision="float32")
    return model


def test_plain_transformers_translates_a_checkpoint_identically(
    trained: torch.nn.Module, tokenizer: SentencePieceTokenizer, tmp_path: Path
) -> None:
    save_checkpoint(tmp_path, trained, tokenizer, toy.PAIR)
    assert not (tmp_path / LEXICON_FILE).exists()
    result = subprocess.run(
        [sys.executable, "-c", PLAIN, str(tmp_path), json.dumps(SENTENCES)], capture_output=True, text=True, check=True
    )
    answer = json.loads(result.stdout.splitlines()[-1])
    assert not answer["ours"]
    lexicon(trained).language = "de"
    for beam in (1, 5):
        ours = [translate(trained, tokenizer, [line], toy.PAIR, beam=beam)[0] for line in SENTENCES]
        assert ours == answer["found"][str(beam)]
        assert len(set(ours)) > 2, "the model says different things"


def test_ctranslate2_translates_a_folded_checkpoint_identically(
    trained: torch.nn.Module, tokenizer: SentencePieceTokenizer, tmp_path: Path
) -> None:
    pytest.importorskip("ctranslate2")
    save_checkpoint(tmp_path, trained, tokenizer, toy.PAIR)
    fast, slow = (open_engine(tmp_path, name)[0] for name in ("ctranslate2", "transformers"))
    assert [translate(e, tokenizer, SENTENCES, toy.PAIR) for e in (fast, fast)] == [
        translate(e, tokenizer, SENTENCES, toy.PAIR) for e in (slow, trained)
    ]


def test_a_run_translates_every_language_and_goes_on_with_the_same_bits(
    trained: torch.nn.Module, tokenizer: SentencePieceTokenizer, tmp_path: Path
) -> None:
    initialization = copy.deepcopy(trained)
    with torch.no_grad():
        lexicon(initialization).correction.zero_()
    save_checkpoint(tmp_path, initialization, tokenizer, toy.PAIR, lexicon=True)
    assert lexicon_of(AutoModelForSeq2SeqLM.from_pretrained(tmp_path, use_safetensors=True)) is None
    again = universal_model(tokenizer, width=64)
    load_state(again, tmp_path)
    assert toy.weights_hash(again) == toy.weights_hash(initialization)
    assert again.lm_head.weight is again.model.shared.weight is again.model.decoder.embed_tokens.weight
    for language in ("de", "fi"):
        pair = Pair(language, "en")
        lexicon(again).language = language
        engine, _ = open_engine(tmp_path, pair=pair)
        assert engine.name == "transformers"
        assert translate(engine, tokenizer, SENTENCES, pair) == translate(again, tokenizer, SENTENCES, pair)
    rows = [
        load_checkpoint(tmp_path, Pair(language, "en"))[0].model.encoder.embed_tokens.weight
        for language in ("de", "fi")
    ]
    assert not torch.equal(*rows)
    resumed, _ = load_checkpoint(tmp_path)
    assert lexicon_of(resumed) is not None, "without a pair it stays, to be adapted"


@pytest.mark.parametrize("update", ["all", "embeddings", "embeddings+encoder"])
def test_an_adaptation_moves_the_correction_and_not_what_languages_share(
    tokenizer: SentencePieceTokenizer, toy_bitext: Bitext, update: str
) -> None:
    model = universal_model(tokenizer)
    names = update_weights(model, update)
    prefix = "model.encoder.embed_tokens."
    assert prefix + "correction" in names
    before = {name: weight.detach().clone() for name, weight in lexicon(model).named_parameters()}
    settings = FineTuneConfig(update=update, min_updates=3, max_updates=3, metric="loss", evaluations=3)  # type: ignore[arg-type]
    report = fine_tune(model, tokenizer, toy.PAIR, toy_bitext, toy_bitext, settings, seed=1, precision="float32")
    assert report.best.update > 0
    after = dict(lexicon(model).named_parameters())
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"correction", "plain.weight"}


def test_what_does_not_fit_is_refused(
    tokenizer: SentencePieceTokenizer, tmp_path: Path, toy_model: torch.nn.Module
) -> None:
    vectors = make_vectors(tokenizer)
    with pytest.raises(DataError, match="but the model has 77"):
        add_lexicon(toy.make_m2m100(77), SETTINGS, vectors)
    with pytest.raises(ConfigError, match="pretrained checkpoint"):
        add_lexicon(toy_model, ModelConfig(checkpoint="some", lexicon="universal"), vectors)
    model = universal_model(tokenizer)
    with pytest.raises(CheckpointError, match="vectors are not those"):
        check_same_vectors(model, toy_model, "run")
    save_checkpoint(tmp_path, model, tokenizer, toy.PAIR, lexicon=True)
    with pytest.raises(CheckpointError, match="vectors are not those"):
        load_state(toy_model, tmp_path)
    (tmp_path / VECTORS_FILE).write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="is damaged"):
        load_checkpoint(tmp_path)


def test_a_model_from_a_configuration(tokenizer: SentencePieceTokenizer) -> None:
    model = make_model(SETTINGS, tokenizer)
    add_lexicon(model, SETTINGS, make_vectors(tokenizer))
    module = lexicon(model)
    assert module.universal.shape == (30, 128)
    assert torch.equal(module.transform, torch.eye(12))
    assert not module.correction.any()
    assert copy.deepcopy(model).model.encoder.embed_tokens.queries is module.queries, "copies share the vectors"
