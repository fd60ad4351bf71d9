"""Models: sizes, dropout, what an update strategy moves, and checkpoints that must be refused."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import huggingface_hub
import pytest
import torch
from torch import nn
from transformers import (
    MarianConfig,
    MarianMTModel,
    MBartConfig,
    MBartForConditionalGeneration,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
)

from metanmt.config import FineTuneConfig, ModelConfig
from metanmt.data import hub
from metanmt.data.store import Bitext
from metanmt.data.tokenizer import SentencePieceTokenizer
from metanmt.errors import CheckpointError, ConfigError
from metanmt.nmt.folder import checkpoint_folder
from metanmt.nmt.model import (
    check_vocabulary,
    clip_gradient,
    load_model,
    make_model,
    move_only,
    parameter_count,
    set_dropout,
    set_head,
    update_weights,
)
from metanmt.nmt.tuning import fine_tune
from tests import toy

BART = {
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 16,
    "decoder_ffn_dim": 16,
}


def make(family: str) -> PreTrainedModel:
    """Return a tiny model of a family from its configuration."""
    if family == "m2m100":
        return toy.make_m2m100(60, width=16)
    if family == "marian":
        return MarianMTModel(MarianConfig(vocab_size=60, pad_token_id=59, decoder_start_token_id=59, **BART))
    if family == "marian, two vocabularies":
        shape = MarianConfig(
            vocab_size=60,
            decoder_vocab_size=50,
            share_encoder_decoder_embeddings=False,
            tie_word_embeddings=False,
            pad_token_id=49,
            decoder_start_token_id=49,
            **BART,
        )
        return MarianMTModel(shape)
    if family == "mbart":
        return MBartForConditionalGeneration(MBartConfig(vocab_size=60, **BART))
    return T5ForConditionalGeneration(
        T5Config(vocab_size=60, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0)
    )


FAMILIES = ("m2m100", "marian", "marian, two vocabularies", "mbart", "t5")


def expected_parameters(vocabulary: int, width: int, feed_forward: int, layers: int) -> int:
    """Return the number of parameters of a pre-norm Transformer with one embedding matrix, counted by hand."""
    attention = 4 * (width * width + width)
    block = 2 * width * feed_forward + feed_forward + width
    norm = 2 * width
    encoder = layers * (attention + block + 2 * norm) + norm
    decoder = layers * (2 * attention + block + 3 * norm) + norm
    return vocabulary * width + encoder + decoder


@pytest.mark.parametrize(
    ("size", "width", "feed_forward", "layers", "heads"),
    [("tiny", 128, 512, 2, 4), ("small", 256, 1024, 4, 4), ("base", 512, 2048, 6, 8), ("gu2018", 512, 512, 6, 8)],
)
def test_sizes(
    tokenizer: SentencePieceTokenizer, size: str, width: int, feed_forward: int, layers: int, heads: int
) -> None:
    with torch.device("meta"):  # shapes only
        model = make_model(ModelConfig(size=size), tokenizer)  # type: ignore[arg-type]
    assert parameter_count(model) == expected_parameters(tokenizer.vocabulary_size, width, feed_forward, layers)
    assert model.config.encoder_attention_heads == model.config.decoder_attention_heads == heads


def test_a_model_from_scratch(tokenizer: SentencePieceTokenizer) -> None:
    torch.manual_seed(3)
    model = make_model(ModelConfig(size="tiny", dropout=0.3), tokenizer)
    assert model.training
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert model.config.decoder_start_token_id == tokenizer.eos_id
    assert model.config.pad_token_id == tokenizer.pad_id
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    torch.manual_seed(3)
    again = make_model(ModelConfig(size="tiny", dropout=0.1), tokenizer)
    assert toy.weights_hash(model) == toy.weights_hash(again)


@pytest.mark.parametrize("size", ["tiny", "small"])
def test_tokens_enter_on_the_scale_of_positions(tokenizer: SentencePieceTokenizer, size: str) -> None:
    model = make_model(ModelConfig(size=size), tokenizer)  # type: ignore[arg-type]
    encoder = model.get_encoder()
    tokens = encoder.embed_tokens(torch.arange(4, tokenizer.vocabulary_size))
    assert tokens.std().item() == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize("size", ["tiny", "small"])
def test_projections_keep_the_scale_of_what_they_read(tokenizer: SentencePieceTokenizer, size: str) -> None:
    """Glorot, Bengio 2010: variance 2 / (inputs + outputs), in every one of them, those of the decoder too."""
    model = make_model(ModelConfig(size=size), tokenizer)  # type: ignore[arg-type]
    projections = [part for part in model.model.modules() if isinstance(part, nn.Linear)]
    layers = model.config.encoder_layers
    assert len(projections) == layers * 6 + layers * 10
    for part in projections:
        assert part.weight.var().item() == pytest.approx(2 / sum(part.weight.shape), rel=0.05)
        assert not part.bias.any()


def test_layerdrop_is_off(tokenizer: SentencePieceTokenizer, tmp_path: Path) -> None:
    """A dropped layer has no gradient, which no learner expects; the published M2M100 drops 5% of them."""
    published = toy.make_m2m100(tokenizer.vocabulary_size)
    published.config.encoder_layerdrop = published.config.decoder_layerdrop = 0.05
    published.save_pretrained(tmp_path)
    for config in (ModelConfig(), ModelConfig(checkpoint=str(tmp_path))):
        model = make_model(config, tokenizer)
        assert model.model.encoder.layerdrop == model.model.decoder.layerdrop == 0.0


@pytest.mark.parametrize("family", FAMILIES)
def test_set_dropout_reaches_every_module(family: str) -> None:
    model = make(family)
    set_dropout(model, 0.25)
    found = [module.p for module in model.modules() if isinstance(module, nn.Dropout)]
    found += [module.dropout for module in model.modules() if isinstance(getattr(module, "dropout", None), float)]
    assert len(found) >= 2
    assert set(found) == {0.25}


def test_set_dropout_changes_the_output(toy_model: PreTrainedModel) -> None:
    ids = torch.tensor([[3, 20, 21, 2]])
    set_dropout(toy_model, 0.5)
    assert not torch.equal(*(toy_model(input_ids=ids, decoder_input_ids=ids).logits for _ in range(2)))
    set_dropout(toy_model, 0.0)
    assert torch.equal(*(toy_model(input_ids=ids, decoder_input_ids=ids).logits for _ in range(2)))


@pytest.mark.parametrize("family", FAMILIES)
def test_update_strategies(family: str) -> None:
    model = make(family)
    sines = {id(parameter) for parameter in model.parameters() if not parameter.requires_grad}
    assert bool(sines) == family.startswith("marian")
    everything = {name: parameter for name, parameter in model.named_parameters() if id(parameter) not in sines}
    embeddings = {
        id(module.weight)
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding) and name.split(".")[-1] in ("shared", "embed_tokens")
    } | {id(model.get_output_embeddings().weight)}
    assert update_weights(model, "all").keys() == everything.keys()

    chosen = update_weights(model, "embeddings")
    assert {id(parameter) for parameter in chosen.values()} == embeddings
    assert len(chosen) == len(embeddings), "a tied matrix counts once"

    chosen = update_weights(model, "embeddings+encoder")
    encoder = {id(parameter) for parameter in model.get_encoder().parameters()} - sines
    assert {id(parameter) for parameter in chosen.values()} == embeddings | encoder
    assert not [name for name in chosen if re.search(r"decoder\.(layers|block)|encoder_attn", name)]

    decoder = {id(parameter) for parameter in model.get_decoder().parameters()} - sines
    chosen = {id(parameter) for parameter in update_weights(model, "decoder").values()}
    tied = {id(model.get_input_embeddings().weight)}
    assert chosen == (decoder | {id(model.get_output_embeddings().weight)}) - tied

    head = update_weights(model, "head")
    last = [name for name in head if re.search(r"decoder\.(layers|block)\.", name)]
    assert {re.search(r"\.(\d+)\.", name)[1] for name in last} == {"1" if family == "m2m100" else "0"}
    rest = {name.rpartition(".")[0].removeprefix("model.") for name in head if name not in last}
    assert rest <= {"decoder.layer_norm", "decoder.final_layer_norm", "lm_head"}
    assert not tied & {id(parameter) for parameter in head.values()}
    assert update_weights(model, "none") == {}


def test_the_head_is_configuration(toy_model: PreTrainedModel, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'decoder.layers.2', which no parameter") as error:
        set_head(toy_model, ["shared", "decoder.layers.2"])
    assert "model.decoder.layers.1" in error.value.remedy
    set_head(toy_model, [])
    assert {name.split(".")[1] for name in update_weights(toy_model, "head")} == {"decoder"}
    set_head(toy_model, ["shared", "decoder.layer_norm"])
    expected = {"model.shared.weight", "model.decoder.layer_norm.weight", "model.decoder.layer_norm.bias"}
    assert update_weights(toy_model, "head").keys() == expected
    toy_model.save_pretrained(tmp_path)
    assert update_weights(load_model(str(tmp_path)), "head").keys() == expected, "a checkpoint knows its head"


def test_move_only_freezes_the_rest(toy_model: PreTrainedModel) -> None:
    moving = move_only(toy_model, "embeddings")
    assert [parameter.requires_grad for parameter in toy_model.parameters()].count(True) == len(moving) == 1


@pytest.mark.parametrize("update", ["embeddings", "head", "decoder", "adapters"])
def test_a_strategy_without_parameters(update: str) -> None:
    with pytest.raises(ConfigError) as error:
        update_weights(nn.Linear(2, 2), update)
    assert "update = all" in error.value.remedy


def test_frozen_parameters_do_not_move(
    toy_model: PreTrainedModel, tokenizer: SentencePieceTokenizer, toy_bitext: Bitext
) -> None:
    moving = set(update_weights(toy_model, "embeddings"))
    frozen = [name for name, _ in toy_model.named_parameters() if name not in moving]
    before, moved = toy.weights_hash(toy_model, frozen), toy.weights_hash(toy_model, list(moving))
    settings = FineTuneConfig(update="embeddings", min_updates=3, max_updates=3, metric="loss", warmup_share=0.0)
    fine_tune(toy_model, tokenizer, toy.PAIR, toy_bitext, toy_bitext.head(10), settings, seed=1)
    assert toy.weights_hash(toy_model, frozen) == before
    assert toy.weights_hash(toy_model, list(moving)) != moved
    tied = (toy_model.model.encoder.embed_tokens, toy_model.model.decoder.embed_tokens, toy_model.lm_head)
    assert {module.weight.data_ptr() for module in tied} == {toy_model.model.shared.weight.data_ptr()}
    assert all(parameter.requires_grad for parameter in toy_model.parameters())


def test_clip_gradient() -> None:
    weight = nn.Parameter(torch.zeros(2))
    weight.grad = torch.tensor([3.0, 4.0])
    assert float(clip_gradient([weight], 0.0)) == 5.0
    assert weight.grad.tolist() == [3.0, 4.0]
    assert float(clip_gradient([weight], 1.0)) == 5.0
    assert weight.grad.norm() == pytest.approx(1.0, abs=1e-5)


def test_a_tokenizer_with_more_pieces_than_embeddings(tokenizer: SentencePieceTokenizer) -> None:
    check_vocabulary(toy.make_m2m100(tokenizer.vocabulary_size), tokenizer, "model")
    check_vocabulary(toy.make_m2m100(tokenizer.vocabulary_size + 9), tokenizer, "model")  # padded rows are harmless
    with pytest.raises(CheckpointError, match=r"model has 100 embeddings, but the tokenizer 4\d\d") as error:
        check_vocabulary(toy.make_m2m100(100), tokenizer, "model")
    assert "own tokenizer" in error.value.remedy


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    toy.make_m2m100(60, width=16).save_pretrained(folder)
    return folder


def test_a_folder_that_is_not_there(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A slip must not cost a minute of waiting for the hub without a word."""

    def offline(*arguments: object, **options: object) -> None:
        assert "There is no folder runn/best here: it is looked up on the hub." in capsys.readouterr().err
        raise OSError("We couldn't connect.\nAnd more.")

    monkeypatch.setattr(hub, "reachable", lambda: True)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    for load in (load_model, hub.fetched, checkpoint_folder):
        hub._say_once.cache_clear()
        with pytest.raises(CheckpointError) as error:
            load(Path("runn/best") if load == checkpoint_folder else "runn/best")
        assert error.value.cause == (
            "There is no folder runn/best here, and no sequence-to-sequence model of that name on the hub: "
            "We couldn't connect."
        )


@pytest.mark.parametrize("name", ["./runn", "../runn/best", "/runn", "~/run", "runs/fomaml/best", "runn/best/"])
def test_what_can_be_no_name_on_the_hub_is_not_looked_up(name: str) -> None:
    for load in (load_model, hub.fetched):
        with pytest.raises(CheckpointError, match="No folder") as error:
            load(name)
        assert error.value.cause == f"No folder {name}."


def damage(folder: Path, how: str) -> None:
    """Break a checkpoint in one way."""
    weights = folder / "model.safetensors"
    if how == "cut short":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif how == "not safetensors":
        weights.write_bytes(b"\xff" * 500)
    elif how == "no config":
        (folder / "config.json").unlink()
    elif how == "config not JSON":
        (folder / "config.json").write_text("{")
    elif how == "config no object":
        (folder / "config.json").write_text("[]")
    elif how == "no weights":
        weights.unlink()
    elif how == "of another model":
        toy.make_m2m100(60, width=32).save_pretrained(folder / "other")
        shutil.copy(folder / "other" / "model.safetensors", weights)
    elif how == "weights missing":
        from safetensors.torch import load_file, save_file

        kept = {name: value for name, value in load_file(weights).items() if "layers.1." not in name}
        save_file(kept, weights, metadata={"format": "pt"})
    else:  # pickled
        weights.unlink()
        torch.save(toy.make_m2m100(60, width=16).state_dict(), folder / "pytorch_model.bin")


@pytest.mark.parametrize(
    "how",
    [
        "cut short",
        "not safetensors",
        "no config",
        "config not JSON",
        "config no object",
        "no weights",
        "of another model",
        "weights missing",
        "pickled",
    ],
)
def test_a_damaged_checkpoint_is_refused(saved: Path, tmp_path: Path, how: str) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(saved, folder)
    assert parameter_count(load_model(str(folder))) > 0
    damage(folder, how)
    with pytest.raises(CheckpointError) as error:
        load_model(str(folder))
    assert str(folder) in error.value.cause
    assert "\n" not in error.value.cause
    assert "safetensors" in error.value.remedy
