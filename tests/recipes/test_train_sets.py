"""Several training sets of a pair: each is a task of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from metanmt.cli import main
from metanmt.config import Config
from metanmt.data.language import Pair
from metanmt.data.store import TokenStore
from metanmt.data.tokenizer import load_tokenizer
from metanmt.errors import ConfigError, UsageError
from metanmt.meta.task import load_tasks
from metanmt.recipes import meta_train
from scripts.gpu_evidence import extract
from tests.recipes.conftest import small_config

PACK = str(Path(__file__).parents[2] / "scripts" / "pack_data.py")
MANIFEST = """
name = "kinds"
[tokenizer]
vocabulary_size = 700
[[groups]]
role = "meta-train"
pairs = ["de-en", "sv-en"]
train = [{ embedded = "cldr", sentences = 300 }]
[[groups]]
role = "meta-train"
pairs = ["de-en", "es-en"]
train-late = [{ embedded = "cldr", sentences = 200, skip = 300 }]
[[groups]]
role = "meta-dev"
pairs = ["lv-en"]
train = [{ embedded = "cldr", sentences = 100 }]
train-late = [{ embedded = "cldr", sentences = 100, skip = 200 }]
dev = [{ embedded = "cldr", sentences = 20, skip = 100 }]
"""


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kinds")
    (folder / "kinds.toml").write_text(MANIFEST, encoding="utf-8")
    assert main(["prepare", str(folder / "kinds.toml"), "--out", str(folder / "data")]) == 0
    return folder / "data"


def names(data: Path, config: Config) -> list[str]:
    return [str(task) for task in load_tasks(TokenStore.open(data), config.batch, config.outer)]


def test_every_training_set_is_a_task_or_those_that_are_named(kinds: Path) -> None:
    assert names(kinds, small_config()) == ["de-en", "de-en train-late", "sv-en", "es-en train-late"]
    late = 'outer.train_sets=["train-late"]'
    assert names(kinds, small_config(late)) == ["de-en train-late", "es-en train-late"]
    assert names(kinds, small_config(late, 'outer.pairs=["de-en"]')) == ["de-en train-late"]


def test_a_run_on_one_kind_of_text_draws_from_it_alone(
    kinds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: dict[str, set[str]] = {"de-en": set(), "es-en": set()}
    plain, pad = meta_train.outer_step, load_tokenizer(kinds / "tokenizer").pad_id

    def noted(initialization: object, episodes: object, *arguments: object) -> object:
        for episode in episodes:  # type: ignore[attr-defined]
            rows = [row for batch in episode.batches for part in batch for row in part.labels.tolist()]
            drawn[str(episode.pair)].update(str([token for token in row if token != pad]) for row in rows)
        return plain(initialization, episodes, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(meta_train, "outer_step", noted)
    config = small_config("outer.max_target_tokens=3000", 'outer.train_sets=["train-late"]')
    meta_train.run(config, kinds, tmp_path / "run")
    for pair, sentences in drawn.items():
        side = TokenStore.open(kinds).bitext(Pair.parse(pair), "train-late").target
        assert sentences
        assert sentences <= {str(side.sentence(index).tolist()) for index in range(len(side.offsets) - 1)}


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        (['outer.train_sets=["train-bible"]'], UsageError, "names train-bible"),
        (['outer.train_sets=["train-late"]', 'outer.pairs=["sv-en"]'], UsageError, "names train-late"),
        (['outer.train_sets=["train"]', 'outer.first_pairs=["es-en"]'], UsageError, "es-en, no meta-train pair"),
        (["outer.learner=transfer"], ConfigError, "de-en has train and train-late"),
    ],
)
def test_sets_that_cannot_be_learned_from(
    kinds: Path, settings: list[str], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        names(kinds, small_config(*settings))


def test_transfer_from_one_kind_of_text(kinds: Path) -> None:
    config = small_config("outer.learner=transfer", 'outer.train_sets=["train-late"]')
    assert names(kinds, config) == ["de-en train-late", "es-en train-late"]


def test_prepare_counts_the_training_sets(kinds: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = str(kinds.parent / "kinds.toml")
    assert main(["prepare", manifest, "--out", str(kinds)]) == 0
    facts = json.loads((kinds / "data.json").read_text(encoding="utf-8"))
    sizes = [size for pair in facts["pairs"].values() for name, size in pair["sets"].items() if name != "dev"]
    assert f"{sum(size['sentences'] for size in sizes):,} training pairs" in capsys.readouterr().out


def test_packed_data_keeps_the_training_sets_apart(kinds: Path, tmp_path: Path) -> None:
    file, whole = tmp_path / "data.tar.xz", TokenStore.open(kinds)
    subprocess.run([sys.executable, PACK, str(kinds), str(file), "--target-tokens", "6000"], check=True)
    with tarfile.open(file) as archive:
        extract(archive, tmp_path)
    packed, total = TokenStore.open(tmp_path / "data"), 0
    for pair in whole.pairs("meta-train"):
        assert packed.train_sets(pair) == whole.train_sets(pair)
        for name in packed.train_sets(pair):
            found, known = packed.bitext(pair, name).target, whole.bitext(pair, name).target
            kept, every = ([tuple(side.sentence(i)) for i in range(len(side.offsets) - 1)] for side in (found, known))
            assert 1 < len(kept) < len(every)
            assert set(kept) <= set(every)
            total += packed.sets(pair)[name]["target_tokens"]
    assert 5000 < total <= 6200


@pytest.mark.parametrize(
    ("data", "tokens", "said"),
    [("", "6000", "no data.json.\nGive the folder"), ("data", "0", "0 is not above 0")],
)
def test_what_cannot_be_packed(kinds: Path, tmp_path: Path, data: str, tokens: str, said: str) -> None:
    command = [sys.executable, PACK, str(kinds.parent / data), str(tmp_path / "x"), "--target-tokens", tokens]
    found = subprocess.run(command, check=False, capture_output=True, text=True)
    assert found.returncode == 2
    assert said in found.stderr
    assert not (tmp_path / "x").exists()
