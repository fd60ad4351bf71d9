"""The pretrained path from a published checkpoint to a fine-tuned one, for every family, offline."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from transformers import BertTokenizer

from metanmt.cli import main
from metanmt.config import FineTuneConfig, ModelConfig
from metanmt.data.language import Pair
from metanmt.data.pretrained_tokenizer import PretrainedTokenizer
from metanmt.data.tokenizer import load_tokenizer
from metanmt.errors import CheckpointError, UsageError
from metanmt.nmt.checkpoint import load_checkpoint, save_checkpoint
from metanmt.nmt.engine import target_positions
from metanmt.nmt.model import make_model
from metanmt.nmt.translate import translate, translate_ids
from metanmt.nmt.tuning import fine_tune
from tests import toy
from tests.nmt import pretrained

SOURCES, TARGETS = zip(*toy.lines(6), strict=True)
WITH_CODES = ("m2m100", "nllb", "mbart")
TUNING = FineTuneConfig(min_updates=2, max_updates=2, metric="chrf", evaluations=1, max_tokens=400)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("published")
    return {family: pretrained.make(family, root / family) for family in pretrained.FAMILIES}


def open_tokenizer(published: dict[str, Path], family: str) -> PretrainedTokenizer:
    return PretrainedTokenizer(str(published[family]), pretrained.CODES[family])


@pytest.mark.parametrize("family", pretrained.FAMILIES)
def test_sentences_survive_the_tokenizer(published: dict[str, Path], family: str) -> None:
    tokenizer = open_tokenizer(published, family)
    for ids in (tokenizer.encode_source(SOURCES, toy.PAIR), tokenizer.encode_target(SOURCES, toy.PAIR)):
        assert tokenizer.decode(ids) == list(SOURCES)
        assert all(tokenizer.eos_id in sentence for sentence in ids)
        assert all(tokenizer.pad_id not in sentence for sentence in ids)
        assert max(index for sentence in ids for index in sentence) < tokenizer.vocabulary_size
    assert tokenizer.encode_source([], toy.PAIR) == tokenizer.decode([]) == []


@pytest.mark.parametrize("family", pretrained.FAMILIES)
def test_language_codes_stand_where_the_family_has_them(published: dict[str, Path], family: str) -> None:
    tokenizer = open_tokenizer(published, family)
    eos = tokenizer.eos_id
    source, target = tokenizer.encode_source(["a"], toy.PAIR)[0], tokenizer.encode_target(["a"], toy.PAIR)[0]
    forced = tokenizer.forced_bos_id(toy.PAIR)
    german = tokenizer.forced_bos_id(Pair("en", "de"))
    if family not in WITH_CODES:
        assert forced is german is None
        assert source[-1] == target[-1] == eos
        return
    assert None not in (forced, german)
    assert forced != german
    if family == "mbart":
        assert (source[-2:], target[-2:]) == ([eos, german], [eos, forced])
    else:
        assert (source[0], source[-1], target[0], target[-1]) == (german, eos, forced, eos)
    back = tokenizer.encode_source(["a"], Pair("en", "de"))[0]
    assert forced in back, "the other direction has the other code"
    assert tokenizer.encode_source(["a"], toy.PAIR)[0] == source, "and nothing of it stays"


@pytest.mark.parametrize("family", WITH_CODES)
def test_an_unknown_language_code(published: dict[str, Path], family: str) -> None:
    tokenizer = open_tokenizer(published, family)
    for use in (tokenizer.forced_bos_id, lambda pair: tokenizer.encode_source(["a"], pair)):
        for pair in (Pair("xyz", "en"), Pair("en", "xyz")):
            with pytest.raises(UsageError, match="no language code 'xyz'") as error:
                use(pair)
            assert "[tokenizer.codes]" in error.value.remedy
    related = PretrainedTokenizer(
        str(published[family]), {**pretrained.CODES[family], "xyz": pretrained.CODES[family].get("de", "de")}
    )
    assert related.encode_source(["a"], Pair("xyz", "en")) == tokenizer.encode_source(["a"], toy.PAIR)


def test_the_remedy_names_the_nearest_code(published: dict[str, Path]) -> None:
    with pytest.raises(UsageError) as error:
        PretrainedTokenizer(str(published["nllb"]), {"fi": "fin_Latin"}).forced_bos_id(Pair("fi", "en"))
    assert "It has fij_Latn, fin_Latn. Name the pair by its codes" in error.value.remedy
    with pytest.raises(UsageError) as error:
        PretrainedTokenizer(str(published["nllb"]), {}).forced_bos_id(Pair("xq", "en"))
    assert "codes, such as ace_Arab, ace_Latn, acm_Arab." in error.value.remedy


@pytest.mark.parametrize("family", pretrained.FAMILIES)
def test_from_published_to_fine_tuned(published: dict[str, Path], family: str, tmp_path: Path) -> None:
    tokenizer = open_tokenizer(published, family)
    model = make_model(ModelConfig(checkpoint=str(published[family]), dropout=0.0), tokenizer)
    assert model.training
    bitext = toy.make_bitext(tokenizer, list(zip(SOURCES, TARGETS, strict=True)))
    before = toy.weights_hash(model)
    report = fine_tune(model, tokenizer, toy.PAIR, bitext, bitext, TUNING, seed=1, precision="float32")
    assert report.updates == 2
    assert report.history[-1].loss < report.history[0].loss
    assert (toy.weights_hash(model) != before) == (report.best.update > 0)
    ours = translate(model, tokenizer, SOURCES, toy.PAIR, beam=2, label=None)

    save_checkpoint(tmp_path / "tuned", model, tokenizer, toy.PAIR)
    again, loaded = load_checkpoint(tmp_path / "tuned")
    assert toy.weights_hash(again) == toy.weights_hash(model)
    assert isinstance(loaded, PretrainedTokenizer)
    assert loaded.digest() == tokenizer.digest()
    assert loaded.codes == tokenizer.codes
    assert loaded.encode_source(SOURCES, toy.PAIR) == tokenizer.encode_source(SOURCES, toy.PAIR)
    assert translate(again, loaded, SOURCES, toy.PAIR, beam=2, label=None) == ours


@pytest.mark.parametrize("family", WITH_CODES)
def test_translation_begins_as_training_does(published: dict[str, Path], family: str) -> None:
    """The first tokens of a hypothesis are those that the decoder was trained to see."""
    tokenizer = open_tokenizer(published, family)
    model = make_model(ModelConfig(checkpoint=str(published[family])), tokenizer)
    seen: list[list[int]] = []
    hook = model.get_decoder().register_forward_pre_hook(
        lambda _, __, arguments: seen.append(arguments["input_ids"][0].tolist()), with_kwargs=True
    )
    source = tokenizer.encode_source(["eins"], toy.PAIR)
    forced = tokenizer.forced_bos_id(toy.PAIR)
    translate_ids(model, source, beam=1, forced_bos_id=forced)
    hook.remove()
    start = [forced] if family == "mbart" else [tokenizer.eos_id, forced]
    assert [index for step in seen for index in step][: len(start)] == start


def test_a_runaway_translation_ends_where_positions_do(published: dict[str, Path]) -> None:
    """Marian has a table of 512 positions, mBART one of as many here; the others go on."""
    for family in pretrained.FAMILIES:
        tokenizer = open_tokenizer(published, family)
        model = make_model(ModelConfig(checkpoint=str(published[family])), tokenizer)
        assert (target_positions(model) == 512) == (family in ("marian", "mbart"))
        if target_positions(model) > 512:
            continue
        model.generation_config.eos_token_id = None  # it never ends
        source = [tokenizer.encode_source(["eins"], toy.PAIR)[0][:1] * 300]
        [output] = translate_ids(model, source, beam=1, forced_bos_id=tokenizer.forced_bos_id(toy.PAIR))
        assert len(output) == 511


PLAIN = """
import json, sys
sys.modules["metanmt"] = None
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer
results = {}
for family, (folder, longest) in json.loads(sys.argv[1]).items():
    model = AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    batch = tokenizer(sys.argv[2], return_tensors="pt")
    ids = model.generate(**batch, num_beams=1, max_new_tokens=longest, do_sample=False)
    results[family] = tokenizer.batch_decode(ids, skip_special_tokens=True)[0].strip()
print(json.dumps(results))
"""


def test_plain_transformers_translates_the_same(published: dict[str, Path], tmp_path: Path) -> None:
    """The languages are set in what is saved: one process for all families, without metanmt."""
    ours, arguments = {}, {}
    for family in pretrained.FAMILIES:
        tokenizer = open_tokenizer(published, family)
        model = make_model(ModelConfig(checkpoint=str(published[family])), tokenizer)
        save_checkpoint(tmp_path / family, model, tokenizer, toy.PAIR)
        ours[family] = translate(model, tokenizer, SOURCES[:1], toy.PAIR, beam=1, label=None)[0]
        longest = 2 * len(tokenizer.encode_source(SOURCES[:1], toy.PAIR)[0]) + 20
        arguments[family] = (str(tmp_path / family), longest)
    command = [sys.executable, "-I", "-c", PLAIN, json.dumps(arguments), SOURCES[0]]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout.splitlines()[-1]) == ours


def test_another_vocabulary_has_another_digest(published: dict[str, Path]) -> None:
    digests = {open_tokenizer(published, family).digest() for family in pretrained.FAMILIES}
    assert len(digests) == len(pretrained.FAMILIES)


def test_a_tokenizer_of_another_family(published: dict[str, Path]) -> None:
    tokenizer = open_tokenizer(published, "nllb")
    with pytest.raises(CheckpointError, match="embeddings, but the tokenizer"):
        make_model(ModelConfig(checkpoint=str(published["marian"])), tokenizer)


def test_no_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="No tokenizer can be loaded from") as error:
        PretrainedTokenizer(str(tmp_path), {})
    assert str(tmp_path) in error.value.cause
    assert error.value.remedy
    with pytest.raises(CheckpointError, match=r"No folder .*none"):
        PretrainedTokenizer(str(tmp_path / "none"), {})


def test_a_folder_without_our_facts_is_a_pretrained_one(published: dict[str, Path]) -> None:
    assert isinstance(load_tokenizer(published["m2m100"]), PretrainedTokenizer)


def test_weights_are_read_in_float32(published: dict[str, Path], tmp_path: Path) -> None:
    tokenizer = open_tokenizer(published, "t5")
    model = make_model(ModelConfig(checkpoint=str(published["t5"])), tokenizer).to(torch.bfloat16)
    model.save_pretrained(tmp_path)
    again = make_model(ModelConfig(checkpoint=str(tmp_path)), tokenizer)
    assert {parameter.dtype for parameter in again.parameters()} == {torch.float32}


def test_a_tokenizer_without_an_end_mark_is_none_of_a_translation_model(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n", encoding="utf-8")
    BertTokenizer(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="no padding or no end mark"):
        PretrainedTokenizer(str(tmp_path), {})


def test_by_a_name_on_the_hub(published: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands that the guide gives, with a checkpoint that was fetched before."""
    repository = tmp_path / "cache" / "models--acme--nllb"
    shutil.copytree(published["nllb"], repository / "snapshots" / "1")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("1", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for name, sentences in zip(("my.lv", "my.en"), zip(*toy.lines(24), strict=True), strict=True):
        Path(name).write_text("".join(f"{line}\n" for line in sentences), encoding="utf-8")
    pair = ["--pair", "deu_Latn-eng_Latn"]
    updates = ["--set", "fine_tune.min_updates=2", "--set", "fine_tune.max_updates=2"]
    tuning = ["--train", "my.lv", "my.en", "--update", "adapters", *updates, "--out", "tuned"]
    assert main(["fine-tune", "--init", "acme/nllb", *pair, *tuning]) == 0
    test = ["--source", "my.lv", "--reference", "my.en", "--beam", "1"]
    assert main(["evaluate", "--model", "tuned", *pair, *test]) == 0
    assert main(["evaluate", "--model", "acme/nllb", *pair, *test]) == 2
    assert main(["evaluate", "--model", "acme/nllb", *pair, *test, "--out", "scores"]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"cache", "my.lv", "my.en", "tuned", "scores"}
