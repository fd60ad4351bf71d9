"""Adapters: they start as nothing, move alone, are read by peft and transformers, and know their base."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForSeq2SeqLM, PreTrainedModel

from metanmt.config import AdapterConfig, FineTuneConfig, ModelConfig
from metanmt.data.pretrained_tokenizer import PretrainedTokenizer
from metanmt.data.store import Bitext
from metanmt.data.tokenizer import SentencePieceTokenizer
from metanmt.errors import CheckpointError, ConfigError
from metanmt.nmt.adapter import Base, add_adapter, make_with_adapter, passing_adapter, remove_adapter, targets
from metanmt.nmt.checkpoint import load_checkpoint, load_state, load_with_adapter, outline, save_checkpoint
from metanmt.nmt.model import load_model, update_weights
from metanmt.nmt.tuning import fine_tune
from tests import toy
from tests.nmt import pretrained

SMALL = AdapterConfig(rank=2, alpha=4.0)
QUICK = FineTuneConfig(
    update="adapters", min_updates=3, max_updates=3, metric="loss", warmup_share=0.0, learning_rate=0.01
)


@torch.no_grad()
def stir(model: PreTrainedModel, phase: float = 0.0) -> None:
    """Set the second matrices of an adapter, which are zero at first, to something."""
    for number, (name, weight) in enumerate(model.named_parameters()):
        if "lora_B" in name:
            weight.copy_(0.1 * torch.sin(torch.arange(weight.numel()) * 1.3 + number + phase).view(weight.shape))


@torch.no_grad()
def logits(model: PreTrainedModel) -> Tensor:
    ids = torch.tensor([[3, 20, 21, 22, 2]])
    return model.eval()(input_ids=ids, decoder_input_ids=ids).logits


@pytest.fixture
def base(tokenizer: SentencePieceTokenizer, toy_model: PreTrainedModel, tmp_path: Path) -> Path:
    save_checkpoint(tmp_path / "base", toy_model, tokenizer, toy.PAIR)
    return tmp_path / "base"


@pytest.fixture
def patch(base: Path, tokenizer: SentencePieceTokenizer) -> Path:
    """A stored adapter of `base`."""
    return make_patch(base, tokenizer, "patch", 0.0)


def make_patch(base: Path, tokenizer: SentencePieceTokenizer, name: str, phase: float) -> Path:
    model, _ = load_with_adapter(base, SMALL)
    stir(model, phase)
    save_checkpoint(base.parent / name, model, tokenizer)
    return base.parent / name


KNOWN = {"t5": {"q", "k", "v", "o", "wi", "wo"}}


@pytest.mark.parametrize("family", pretrained.FAMILIES)
def test_every_family(family: str, tmp_path: Path, toy_bitext: Bitext) -> None:
    """Targets are found, a new adapter is nothing, only it gets a gradient, and it goes through its folder."""
    folder = pretrained.make(family, tmp_path / family)
    tokenizer = PretrainedTokenizer(str(folder), pretrained.CODES[family])
    plain = load_model(str(folder))
    before, weights = logits(plain), toy.weights_hash(plain)
    found = set(targets(plain, AdapterConfig()))
    assert found == KNOWN.get(family, {"q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"})
    model, _ = load_with_adapter(folder, SMALL)
    assert torch.equal(logits(model), before)
    bitext = toy.make_bitext(tokenizer, toy.lines(20))
    fine_tune(model, tokenizer, toy.PAIR, bitext, bitext.head(5), QUICK, seed=1, precision="float32")
    after = logits(model)
    assert not torch.equal(after, before)
    save_checkpoint(tmp_path / "patch", model, tokenizer, toy.PAIR)
    again, loaded = load_with_adapter(tmp_path / "patch", AdapterConfig())
    assert torch.equal(logits(again), after)
    assert isinstance(loaded, PretrainedTokenizer)
    assert loaded.codes == pretrained.CODES[family]
    assert loaded.encode_source(["3 Stunden"], toy.PAIR) == tokenizer.encode_source(["3 Stunden"], toy.PAIR)
    merged, _ = load_checkpoint(tmp_path / "patch")
    assert torch.allclose(logits(merged), after, atol=1e-4)
    assert [name for name, _ in merged.named_parameters()] == [name for name, _ in plain.named_parameters()]
    remove_adapter(model, merge=False)
    assert toy.weights_hash(model) == weights, "the base has the same bits"
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    assert [name for name in frozen if "embed_positions" not in name] == []
    assert bool(frozen) == (family == "marian")


def test_fine_tuning_moves_the_adapter_alone(base: Path, tokenizer: SentencePieceTokenizer, toy_bitext: Bitext) -> None:
    model, _ = load_with_adapter(base, SMALL)
    own = list(update_weights(model, "adapters"))
    assert update_weights(model, "all").keys() == set(own), "a base never moves"
    assert 0 < len(update_weights(model, "head")) < len(update_weights(model, "decoder")) < len(own)
    under = [name for name, _ in model.named_parameters() if name not in own]
    before, moved = toy.weights_hash(model, under), toy.weights_hash(model, own)
    fine_tune(model, tokenizer, toy.PAIR, toy_bitext, toy_bitext.head(10), QUICK, seed=1)
    assert toy.weights_hash(model, under) == before
    assert toy.weights_hash(model, own) != moved
    assert {name for name, weight in model.named_parameters() if weight.requires_grad} == set(own)
    with pytest.raises(ConfigError, match="'embeddings' names no parameter"):
        update_weights(model, "embeddings")


def test_in_bfloat16_the_adapter_stays_in_float32(
    base: Path, tokenizer: SentencePieceTokenizer, toy_bitext: Bitext
) -> None:
    settings = replace(QUICK, learning_rate=1e-3, min_updates=8, max_updates=8)
    losses = []
    for precision in ("float32", "bfloat16"):
        torch.manual_seed(1)
        model, _ = load_with_adapter(base, SMALL)
        report = fine_tune(model, tokenizer, toy.PAIR, toy_bitext, toy_bitext, settings, seed=1, precision=precision)
        assert {weight.dtype for weight in model.parameters()} == {torch.float32}
        assert report.best.loss < report.history[0].loss
        losses.append(report.best.loss)
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)


def test_others_read_it(base: Path, patch: Path) -> None:
    model, _ = load_with_adapter(patch, SMALL)
    expected = logits(model)
    assert torch.equal(logits(AutoModelForSeq2SeqLM.from_pretrained(patch)), expected)
    bare = AutoModelForSeq2SeqLM.from_pretrained(base)
    assert torch.equal(logits(PeftModel.from_pretrained(bare, patch)), expected)


def test_adapters_beside_others(base: Path, patch: Path, tokenizer: SentencePieceTokenizer) -> None:
    """Several languages on one base in memory, by the means of transformers."""
    alone = {}
    folders = {"de": patch, "fi": make_patch(base, tokenizer, "fi", 1.0)}
    for name, folder in folders.items():
        alone[name] = logits(load_with_adapter(folder, SMALL)[0])
    assert not torch.equal(alone["de"], alone["fi"])
    model = AutoModelForSeq2SeqLM.from_pretrained(base)
    for name, folder in folders.items():
        model.load_adapter(str(folder), adapter_name=name)
    for name in ("de", "fi", "de"):
        model.set_adapter(name)
        assert torch.equal(logits(model), alone[name])


def test_a_passing_adapter_leaves_nothing(toy_model: PreTrainedModel) -> None:
    before = toy.weights_hash(toy_model)
    with passing_adapter(toy_model, SMALL, wanted=True):
        stir(toy_model)
        assert update_weights(toy_model, "adapters")
    assert toy.weights_hash(toy_model) == before
    assert all(parameter.requires_grad for parameter in toy_model.parameters())
    with passing_adapter(toy_model, SMALL, wanted=False):
        assert toy.weights_hash(toy_model) == before


def test_the_base_may_move_along(patch: Path, tmp_path: Path) -> None:
    expected = logits(load_checkpoint(patch)[0])
    (tmp_path / "elsewhere").mkdir()
    for name in ("base", "patch"):
        shutil.move(tmp_path / name, tmp_path / "elsewhere" / name)
    assert torch.equal(logits(load_checkpoint(tmp_path / "elsewhere" / "patch")[0]), expected)


def other_weights(base: Path, patch: Path) -> None:
    model = load_model(str(base))
    with torch.no_grad():
        model.lm_head.weight[7, 7] += 1e-3
    model.save_pretrained(base)


def another_rank(base: Path, patch: Path) -> None:
    config = json.loads((patch / "adapter_config.json").read_text(encoding="utf-8"))
    (patch / "adapter_config.json").write_text(json.dumps({**config, "r": 3}), encoding="utf-8")


SPOILED: dict[str, tuple[Callable[[Path, Path], object], str, str]] = {
    "base gone": (lambda base, patch: shutil.rmtree(base), "is gone", "Bring it back"),
    "another base": (other_weights, "is not the base", "--update adapters"),
    "no base named": (lambda base, patch: (patch / "metanmt_base.json").unlink(), "cannot be read", "Copy"),
    "not JSON": (lambda base, patch: (patch / "adapter_config.json").write_text("{"), "cannot be read", "Copy"),
    "another rank": (another_rank, "not those of its configuration", "Copy"),
    "no weights": (lambda base, patch: (patch / "adapter_model.safetensors").unlink(), "cannot be read", "Copy"),
    "cut off": (
        lambda base, patch: (patch / "adapter_model.safetensors").write_bytes(b"\x10" + 30 * b"\0"),
        "cannot be read",
        "Copy",
    ),
}


@pytest.mark.parametrize("name", SPOILED)
def test_a_spoiled_adapter_is_refused(base: Path, patch: Path, name: str) -> None:
    spoil, cause, remedy = SPOILED[name]
    spoil(base, patch)
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(patch)
    assert cause in error.value.cause
    assert remedy in error.value.remedy


def test_refused_settings(base: Path, patch: Path, tokenizer: SentencePieceTokenizer, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"adapter.targets names 'q_prj'") as error:
        load_with_adapter(base, AdapterConfig(targets=("q_prj",)))
    assert "q_proj" in error.value.remedy
    with pytest.raises(CheckpointError, match="is an adapter") as refused:
        load_model(str(patch))
    assert "metanmt export" in refused.value.remedy
    other = PretrainedTokenizer(str(pretrained.make("t5", tmp_path / "t5")), {})
    with pytest.raises(CheckpointError, match="another tokenizer"):
        Base.of(base, other)


def test_only_some_targets(base: Path) -> None:
    model, _ = load_with_adapter(base, AdapterConfig(rank=2, targets=("q_proj", "v_proj")))
    assert {name.split(".")[-4] for name in update_weights(model, "adapters")} == {"q_proj", "v_proj"}


def test_its_state_is_restored(base: Path, patch: Path, tokenizer: SentencePieceTokenizer) -> None:
    settings = ModelConfig(checkpoint=str(base), update="adapters")
    model = make_with_adapter(settings, SMALL, tokenizer)
    load_state(model, patch)
    assert torch.equal(logits(model), logits(load_with_adapter(patch, SMALL)[0]))


def test_its_state_is_not_restored_on_another_base(
    base: Path, patch: Path, tokenizer: SentencePieceTokenizer, tmp_path: Path
) -> None:
    other = shutil.copytree(base, tmp_path / "other")
    other_weights(other, patch)
    model = make_with_adapter(ModelConfig(checkpoint=str(other), update="adapters"), SMALL, tokenizer)
    with pytest.raises(CheckpointError, match="its weights are others"):
        load_state(model, patch)


def test_an_outline_has_the_names_and_no_weights(base: Path, patch: Path, tokenizer: SentencePieceTokenizer) -> None:
    whole = [name for name, _ in load_model(str(base)).named_parameters()]
    for model in (
        outline(ModelConfig(checkpoint=str(base)), tokenizer),
        outline(ModelConfig(), tokenizer, str(patch)),
    ):
        assert [name for name, _ in model.named_parameters()] == whole
        assert all(parameter.is_meta for parameter in model.parameters())
        add_adapter(model, SMALL, None)
        assert len(update_weights(model, "adapters")) > 0
