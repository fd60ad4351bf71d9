"""Adapters end to end: a patch of a base that stays as it is, meta-learned, resumed, merged, compared."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from metanmt.cli import main
from metanmt.config import AdapterConfig, FineTuneConfig, ModelConfig
from metanmt.data.cldr import sentence_pairs
from metanmt.data.pretrained_tokenizer import PretrainedTokenizer
from metanmt.data.store import TokenStore
from metanmt.errors import CheckpointError, ConfigError, UsageError
from metanmt.nmt import start as starting
from metanmt.nmt.checkpoint import load_checkpoint, load_with_adapter, save_checkpoint
from metanmt.nmt.tuning_text import Text
from metanmt.recipes import analyze, evaluate, export, fine_tune, meta_train, prepare, translate
from scripts.kill_test import differences, fingerprint
from tests import toy
from tests.nmt import pretrained
from tests.recipes.conftest import small_config
from tests.recipes.test_resume import killed_in_step

QUICK = FineTuneConfig(
    update="adapters", max_epochs=1, min_updates=4, max_updates=4, evaluations=1, metric="loss", max_tokens=300,
    learning_rate=5e-3,
)  # fmt: skip
LONGER = {"min_updates": 16, "max_updates": 16, "learning_rate": 2e-3}
SMALL = AdapterConfig(rank=2, alpha=4.0)
SENTENCES = """kaksi tuntia
3 vuotta sitten
Ruotsi ja Norja
maanantai 7. toukokuuta 2018
englanti tai saksa
12 kilometriä; 4 litraa
Etelä-Korea
viisi päivää sitten
""".encode()


def adapt(
    init: Path | str, data: Path, out: Path, pair: str = "fi-en", words: int | None = 200, **more: Any
) -> dict[str, Any]:
    more = {"adapter": SMALL, "precision": "float32", **more}
    config = replace(QUICK, **more.pop("config", {}))
    return fine_tune.run(str(init), pair, out, Text(data=data, budget_words=words), config, **more)


def translated(model: Path, engine: str = "transformers", beam: int = 1) -> str:
    out = io.StringIO()
    translate.run(
        model, "fi-en", beam=beam, length_penalty=1.0, batch_tokens=1000, engine=engine,
        lines=io.BytesIO(SENTENCES), out=out,
    )  # fmt: skip
    return out.getvalue()


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def base(run_folder: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that has learned enough to say something, with the pieces of the data."""
    out = tmp_path_factory.mktemp("base") / "base"
    more = {
        "min_updates": 200,
        "max_updates": 200,
        "max_tokens": 600,
        "new_pieces": 0,
        "replay": 0.0,
    }  # the data's pieces
    config = replace(QUICK, update="all", learning_rate=3e-3, **more)
    fine_tune.run(str(run_folder), "de-en", out, Text(data=data), config, precision="float32")
    return out


@pytest.fixture(scope="module")
def patch(base: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("patches") / "fi"
    facts = adapt(base, data, out, config=LONGER)
    assert facts["best"]["update"] > 0, "it has moved"
    return out


def test_the_base_and_every_other_language_stay_the_same(base: Path, patch: Path, data: Path, tmp_path: Path) -> None:
    whole = digests(base)
    own, plain = translated(patch), translated(base)
    assert own.split()
    assert own != plain
    facts = adapt(base, data, tmp_path / "lv", "lv-en", seed=2, config=LONGER)
    assert facts["best"]["loss"] < facts["history"][0]["loss"]
    assert facts["updates"] == LONGER["max_updates"]
    assert digests(base) == whole
    assert (translated(patch), translated(base)) == (own, plain)
    assert sorted(path.name for path in (tmp_path / "lv").iterdir()) == [
        "adapter_config.json", "adapter_model.safetensors", "fine_tune.json", "metanmt_base.json",
    ]  # fmt: skip
    size = sum(path.stat().st_size for path in (tmp_path / "lv").iterdir())
    assert facts["weights_bytes"] < size < 200_000 < (base / "model.safetensors").stat().st_size


def test_the_same_seed_gives_the_same_bits(base: Path, patch: Path, data: Path, tmp_path: Path) -> None:
    for seed, same in ((1, True), (2, False)):
        adapt(base, data, tmp_path / str(seed), seed=seed, config=LONGER)
        weights = [digests(folder)["adapter_model.safetensors"] for folder in (patch, tmp_path / str(seed))]
        assert (weights[0] == weights[1]) == same


def test_a_new_adapter_starts_from_the_base(base: Path, data: Path, tmp_path: Path) -> None:
    nothing = adapt(base, data, tmp_path / "nothing", config={"update": "none"})
    assert nothing["updates"] == 0
    assert nothing["history"] == [nothing["best"]]
    assert toy.weights_hash(load_checkpoint(tmp_path / "nothing")[0]) == toy.weights_hash(load_checkpoint(base)[0])
    patch = adapt(base, data, tmp_path / "patch")
    assert patch["history"][0] == pytest.approx(nothing["best"]), "the unadapted model is the base"


def test_an_adapter_is_a_model_for_every_command(base: Path, patch: Path, data: Path, tmp_path: Path) -> None:
    facts = export.run(patch, tmp_path / "merged", "fi-en")
    assert facts["weights_bytes"] == (tmp_path / "merged" / "model.safetensors").stat().st_size
    assert "adapter_config.json" not in digests(tmp_path / "merged")
    for engine in ("transformers", "ctranslate2"):
        assert translated(patch, engine) == translated(tmp_path / "merged", engine) != ""
    assert translated(patch, "ctranslate2") == translated(patch, "transformers")
    scores = evaluate.run(model=patch, pair="fi-en", data=data, beam=1, bootstrap=0, out=tmp_path / "scores")
    assert scores["sentences"] == 30
    layers = analyze.run(base, patch, data, "fi-en")["layers"]
    moved = {layer["layer"]: layer["movement"] for layer in layers}
    assert moved["embeddings"] == 0.0
    assert moved["encoder 1"] > 0
    with pytest.raises(UsageError, match="exists already"):
        export.run(patch, tmp_path / "merged")
    assert main(["export", "--model", str(patch), "--out", str(tmp_path / "merged"), "--overwrite", "--json"]) == 0


def test_it_goes_on_to_be_adapted(base: Path, patch: Path, data: Path, tmp_path: Path) -> None:
    first = json.loads((patch / "fine_tune.json").read_text(encoding="utf-8"))
    gently = LONGER | {"learning_rate": 1e-3}
    again = adapt(patch, data, tmp_path / "again", words=None, adapter=AdapterConfig(rank=8), config=gently)
    assert again["best"]["update"] > 0, "it has moved"
    assert again["history"][0]["loss"] == pytest.approx(first["best"]["loss"], rel=1e-5)
    stored = [load_file(folder / "adapter_model.safetensors") for folder in (patch, tmp_path / "again")]
    assert {k: w.shape for k, w in stored[0].items()} == {k: w.shape for k, w in stored[1].items()}
    assert not all(torch.equal(stored[0][key], stored[1][key]) for key in stored[0])
    whole = adapt(patch, data, tmp_path / "whole", config={"update": "all"})
    assert whole["history"][0]["loss"] == pytest.approx(first["best"]["loss"], rel=1e-5)
    assert (tmp_path / "whole" / "config.json").is_file(), "moved as a whole, it is an ordinary checkpoint"


META = ("model.update=adapters", "adapter.rank=2", "outer.max_target_tokens=2500", "run.checkpoint_minutes=0")


@pytest.fixture(scope="module")
def meta_learned(base: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("meta") / "run"
    meta_train.run(small_config(*META, f"model.checkpoint={base}"), data, out)
    return out


def test_an_adapter_is_meta_learned(base: Path, meta_learned: Path, data: Path, tmp_path: Path) -> None:
    best = load_file(meta_learned / "best" / "adapter_model.safetensors")
    assert any(bool(weight.any()) for name, weight in best.items() if "lora_B" in name), "it has moved"
    assert not (meta_learned / "best" / "model.safetensors").exists()
    assert len(load_file(meta_learned / "last" / "trainer.safetensors")) == 3 * len(best)
    assert translated(meta_learned)
    zero_shot = adapt(meta_learned, data, tmp_path / "none", config={"update": "none"})
    tuned = adapt(meta_learned, data, tmp_path / "fi", config={"learning_rate": 1e-3})
    assert tuned["history"][0]["loss"] == pytest.approx(zero_shot["best"]["loss"], rel=1e-5)
    assert tuned["best"]["loss"] < tuned["history"][0]["loss"]
    named = json.loads((tmp_path / "fi" / "metanmt_base.json").read_text(encoding="utf-8"))
    assert Path(named["base"]) == base.resolve(), "a patch of the base, not of the run"
    shutil.copytree(tmp_path / "fi", base.parent / "moved")
    assert load_checkpoint(base.parent / "moved")


@pytest.mark.parametrize("learner", ["joint", "reptile"])
def test_every_learner_learns_an_adapter(base: Path, data: Path, tmp_path: Path, learner: str) -> None:
    before = digests(base)["model.safetensors"]
    more = ("outer.max_target_tokens=1500", "inner.update=head", f"outer.learner={learner}", f"model.checkpoint={base}")
    meta_train.run(small_config(*META, "outer.joint_share=0", *more), data, tmp_path / "run")
    moved = load_file(tmp_path / "run" / "last" / "adapter_model.safetensors")
    moved = {name for name, weight in moved.items() if "lora_B" in name and bool(weight.any())}
    assert any(".encoder." in name for name in moved) == (learner == "joint"), "Reptile moves what its inner loop moves"
    assert any(".decoder.layers.1." in name for name in moved)
    assert digests(base)["model.safetensors"] == before


def test_resume_is_exact(
    base: Path, meta_learned: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_config(*META, f"model.checkpoint={base}")
    killed_in_step(4, monkeypatch)
    with pytest.raises(SystemExit):
        meta_train.run(config, data, tmp_path / "run")
    assert (tmp_path / "run" / "last").exists()
    meta_train.run(config, data, tmp_path / "run", resume=True)
    assert differences(fingerprint(meta_learned), fingerprint(tmp_path / "run")) == []


def test_meta_validation_by_adapters(data: Path, tmp_path: Path) -> None:
    """A whole model is meta-trained, and chosen by how well an adapter adapts it."""
    config = small_config("outer.max_target_tokens=1500", "adapter.rank=2", "fine_tune.update=adapters")
    meta_train.run(config, data, tmp_path / "run")
    other = small_config("outer.max_target_tokens=1500", "adapter.rank=2")
    meta_train.run(other, data, tmp_path / "other")
    names = load_file(tmp_path / "run" / "last" / "model.safetensors").keys()
    assert not [name for name in names if "lora" in name or "base_layer" in name]
    weights = [load_checkpoint(tmp_path / name / "last")[0] for name in ("run", "other")]
    assert toy.weights_hash(weights[0]) == toy.weights_hash(weights[1]), "validation leaves the training as it is"
    scores = [(tmp_path / name / "metrics.jsonl").read_text(encoding="utf-8") for name in ("run", "other")]
    assert scores[0] != scores[1]


def test_what_makes_no_sense_is_refused(base: Path, patch: Path, data: Path, tmp_path: Path) -> None:
    for update in ("none", "adapters"):
        with pytest.raises(UsageError, match="has learned nothing"):
            adapt("none", data, tmp_path / "out", config={"update": update})
    with pytest.raises(ConfigError, match=r"'decoder\.layers\.9', which no parameter"):
        adapt(base, data, tmp_path / "out", config={"update": "head"}, model=ModelConfig(head=("decoder.layers.9",)))
    for settings, message in (
        (("model.update=adapters",), "no base"),
        (("inner.update=none",), "moves nothing"),
        (("inner.update=adapters",), "'adapters' names no parameter"),
        (("fine_tune.update=adapters", 'adapter.targets=["q"]'), "names 'q', no projection"),
        (("model.update=adapters", f"model.checkpoint={base}", "inner.update=embeddings"), "'embeddings' names no"),
        (("model.update=adapters", f"model.checkpoint={base}", "adapter.rank=0"), "adapter.rank must be"),
        (("model.update=adapters", f"model.checkpoint={base}", "adapter.alpha=0"), "adapter.alpha must be"),
    ):
        with pytest.raises(ConfigError, match=message):
            meta_train.run(small_config(*settings), data, tmp_path / "run")
    with pytest.raises(CheckpointError, match="is an adapter"):
        meta_train.run(small_config("model.update=adapters", f"model.checkpoint={patch}"), data, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_adapter_keeps_its_shape_and_says_so(
    patch: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["fine-tune", "--init", str(patch), "--pair", "fi-en", "--out", str(tmp_path / "out"), "--data", "none"]
    assert main([*arguments, "--update", "adapters", "--set", "adapter.rank=16"]) == 2
    said = capsys.readouterr().err
    assert f"--set adapter.rank=16 is for a new adapter, and {patch} is one" in said
    assert "give the base" in said


def test_the_base_of_an_adapter_is_not_replaced(
    base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = Path(shutil.copytree(base, tmp_path / "own" / "base")).parent
    patch = tmp_path / "patch"
    adapt(own / "base", data, patch)
    for folder in (own, own / "base"):
        for facts in ("fine_tune.json", "export.json"):
            (folder / facts).write_text("{}", encoding="utf-8")
    whole = digests(own)

    def loaded(*arguments: Any) -> None:
        raise AssertionError("refused before any work")

    loaders = (export, "load_checkpoint"), (starting, "load_checkpoint"), (starting, "load_with_adapter")
    for module, name in loaders:
        monkeypatch.setattr(module, name, loaded)
    (tmp_path / "link").symlink_to(own / "base")
    for out in (own / "base", own, tmp_path / "link"):
        for start, update in ((own / "base", "adapters"), (patch, "adapters"), (patch, "all"), (patch, "none")):
            with pytest.raises(UsageError, match="would replace the base of the adapter"):
                adapt(start, data, out, overwrite=True, config={"update": update})
        with pytest.raises(UsageError, match="would replace the base of the adapter"):
            export.run(patch, out, overwrite=True)
    assert digests(own) == whole


def test_ones_own_files(base: Path, tmp_path: Path) -> None:
    tsv = tmp_path / "my.tsv"
    tsv.write_text("".join(f"{one}\t{other}\n" for one, other in sentence_pairs("is", 60)), encoding="utf-8")
    arguments = ["fine-tune", "--init", str(base), "--pair", "is-en", "--train", str(tsv), "--update", "adapters"]
    arguments += ["--out", str(tmp_path / "is"), "--set", "adapter.rank=2", "--set", "fine_tune.max_updates=3"]
    assert main([*arguments, "--set", "fine_tune.min_updates=3", "--set", "fine_tune.metric=loss"]) == 0
    assert json.loads((tmp_path / "is" / "adapter_config.json").read_text(encoding="utf-8"))["r"] == 2


def test_text_is_prepared_for_an_adapter(patch: Path, data: Path, manifest: Path, tmp_path: Path) -> None:
    """By the tokenizer of its base, as the remedy of fine-tune says."""
    facts = prepare.run(manifest, tmp_path / "new", tokenizer=str(patch))
    assert facts["tokenizer_digest"] == TokenStore.open(data).digest


def test_text_is_prepared_with_the_language_codes_of_an_adapter(tmp_path: Path) -> None:
    """They are the user's; the base has no pair of de and en."""
    folder = pretrained.make("nllb", tmp_path / "nllb")
    tokenizer = PretrainedTokenizer(str(folder), pretrained.CODES["nllb"])
    save_checkpoint(tmp_path / "patch", load_with_adapter(folder, AdapterConfig(rank=2))[0], tokenizer, toy.PAIR)
    for side, lines in zip(("de", "en"), zip(*toy.lines(20), strict=True), strict=True):
        (tmp_path / f"train.{side}").write_text("\n".join(lines[:15]), encoding="utf-8")
        (tmp_path / f"test.{side}").write_text("\n".join(lines[15:]), encoding="utf-8")
    groups = '[[groups]]\nrole = "meta-test"\npairs = ["de-en"]\ntrain = ["train"]\ntest = ["test"]\n'
    (tmp_path / "own.toml").write_text(groups, encoding="utf-8")
    with pytest.raises(UsageError, match="no language code 'de'"):
        prepare.run(tmp_path / "own.toml", tmp_path / "data", tokenizer=str(folder))
    facts = prepare.run(tmp_path / "own.toml", tmp_path / "data", tokenizer=str(tmp_path / "patch"))
    assert facts["tokenizer_digest"] == tokenizer.digest()
