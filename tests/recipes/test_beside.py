"""What is replayed in fine-tuning: the text that a run learned from, as it was drawn, as much as is asked for."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch

from metanmt.cli import main
from metanmt.config import Config, OuterConfig
from metanmt.data.language import Pair
from metanmt.data.own_pieces import texts_of
from metanmt.data.store import TokenStore
from metanmt.data.tokenizer import load_tokenizer
from metanmt.errors import CheckpointError, UsageError
from metanmt.meta.beside import Known, Replay, Synthetic, tasks_to_replay
from metanmt.meta.task import load_tasks
from metanmt.nmt.tuning_text import Text, tokenized
from metanmt.recipes import fine_tune, prepare
from metanmt.sections import to_toml
from tests.recipes.conftest import ALONE, MANIFEST, small_config
from tests.recipes.test_fine_tune import QUICK, adapt, files

__all__ = ["files"]  # a fixture

LATE = """
[[groups]]
role = "meta-train"
pairs = ["de-en"]
train-late = [{ embedded = "cldr", sentences = 200, skip = 400 }]
"""
FINNISH = Pair("fi", "en")
HINT = "give the run's data by --replay DATA"


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> TokenStore:
    folder = tmp_path_factory.mktemp("replayed")
    (folder / "kinds.toml").write_text(MANIFEST + LATE, encoding="utf-8")
    prepare.run(folder / "kinds.toml", folder / "data")
    return TokenStore.open(folder / "data")


def names(init: Path, store: TokenStore, *, asked: bool = False) -> list[str]:
    return [str(task) for task in tasks_to_replay(init, store, FINNISH, asked=asked)[0]]


def make_run(folder: Path, config: Config, digest: str) -> Path:
    (folder / "checkpoints" / "step-1").mkdir(parents=True)
    (folder / "best").symlink_to(folder / "checkpoints" / "step-1")
    (folder / "config.toml").write_text(to_toml(config), encoding="utf-8")
    (folder / "run.json").write_text(f'{{"data_digest": "{digest}"}}', encoding="utf-8")
    return folder


def test_what_a_run_learned_from_is_replayed(kinds: TokenStore, tmp_path: Path) -> None:
    late = small_config('outer.train_sets=["train-late"]', "outer.task_sampling=temperature", "outer.temperature=2")
    run = make_run(tmp_path / "run", late, kinds.training_digest)
    for init in (run, run / "best", run / "checkpoints" / "step-1"):
        assert names(init, kinds) == ["de-en train-late"]
    assert tasks_to_replay(run, kinds, FINNISH, asked=False)[1].task_sampling == "temperature"


def test_of_other_data_or_of_no_run_text_is_replayed_if_it_is_asked_for(kinds: TokenStore, tmp_path: Path) -> None:
    every = ["de-en", "de-en train-late", "sv-en", "es-en"]
    late = small_config('outer.train_sets=["train-late"]')
    for init in (make_run(tmp_path / "other", late, "another digest"), tmp_path):
        assert names(init, kinds) == []
        assert names(init, kinds, asked=True) == every
    newer = make_run(tmp_path / "newer", late, kinds.training_digest)
    (newer / "config.toml").write_text("[outer]\nof_another_version = 1\n", encoding="utf-8")
    assert names(newer, kinds) == every


def test_of_a_transfer_its_parent_is_replayed(kinds: TokenStore, tmp_path: Path) -> None:
    named = small_config("outer.learner=transfer", "outer.parent=sv-en")
    assert names(make_run(tmp_path / "named", named, kinds.training_digest), kinds) == ["sv-en"]
    found = make_run(tmp_path / "found", small_config("outer.learner=transfer"), kinds.training_digest)
    (found / "last").symlink_to(found / "checkpoints" / "step-1")
    (found / "last" / "trainer.json").write_text('{"parent": "es-en"}', encoding="utf-8")
    assert names(found, kinds) == ["es-en"]
    (found / "last").unlink()  # a copy of what was best alone does not say which it was
    assert names(found, kinds) == ["de-en", "de-en train-late", "sv-en", "es-en"]


def test_a_set_of_hardly_a_sentence_is_left_out(kinds: TokenStore, tmp_path: Path) -> None:
    """As meta-training would not begin with it; another pair's adaptation does not depend on it."""
    short = small_config("batch.max_sentence_tokens=2")
    assert names(make_run(tmp_path / "run", short, kinds.training_digest), kinds) == []


def test_the_pair_that_is_adapted_to_is_left_out(kinds: TokenStore, tmp_path: Path) -> None:
    tasks, _ = tasks_to_replay(tmp_path, kinds, Pair("de", "en"), asked=True)
    assert [str(task) for task in tasks] == ["sv-en", "es-en"]


@pytest.mark.parametrize(("tokens", "batches"), [(150, 1), (300, 1), (900, 3), (1_000, 3)])
def test_an_update_has_as_many_tokens_as_are_asked_for(kinds: TokenStore, tokens: int, batches: int) -> None:
    outer = OuterConfig()
    tasks = load_tasks(kinds, Config().batch, outer)
    beside = Replay(tasks, outer, tokens, 0.5, micro_tokens=1_000, pad_id=0)
    weighted = [beside(3, update) for update in range(1, 41)]
    assert {weight for update in weighted for _, weight in update} == {0.5 / batches}
    drawn = [[batch for batch, _ in update] for update in weighted]
    assert {len(update) for update in drawn} == {batches}
    sizes = [sum(batch.target_tokens for batch in update) for update in drawn]
    assert np.mean(sizes) == pytest.approx(tokens, rel=0.1)
    one, other, same = (next(iter(update[0][0])).source for update in (weighted[6], beside(4, 7), beside(3, 7)))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert len({str([part.source.tolist() for batch in update for part in batch]) for update in drawn}) == len(drawn)


def test_what_was_translated_back_is_dealt_once_before_it_comes_again(kinds: TokenStore) -> None:
    text = kinds.bitext(FINNISH, "train").head(40)
    total = int(text.target.offsets[-1])

    def dealt(tokens: int, seed: int, start: int) -> list[list[list[int]]]:
        synthetic = Synthetic(text, tokens, 0.5, micro_tokens=1_000, pad_id=0)
        updates = [synthetic(seed, update) for update in range(start, start - (-total // tokens))]
        assert {weight for update in updates for _, weight in update} == {0.5}
        return [[row for batch, _ in update for part in batch for row in part.source.tolist()] for update in updates]

    for tokens in (total // 4, total // 3):
        first = dealt(tokens, 3, 1)
        assert first == dealt(tokens, 3, 1)
        others = dealt(tokens, 3, 1 + len(first)), dealt(tokens, 4, 1)
        assert first not in others
        assert {len(list(chain.from_iterable(updates))) for updates in (first, *others)} == {40}
    assert [len(update) for update in dealt(10 * total, 3, 1)] == [40]


def test_it_is_the_default_of_a_data_folder(
    run_folder: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = Text(data=data, budget_words=200)
    facts = adapt(run_folder, "fi-en", tmp_path / "tuned", text)
    assert "learned again" in capsys.readouterr().err
    without = fine_tune.run(str(run_folder), "fi-en", tmp_path / "without", text, replace(QUICK, replay=0))
    assert HINT not in capsys.readouterr().err
    assert facts["replayed"] == {"data": str(data), "sets": ["de-en", "sv-en", "es-en"]}
    assert facts["config"]["learning_rate"] == 2e-3
    assert without["replayed"] is None
    assert without["config"]["learning_rate"] == 1e-3
    assert (facts["config"]["dropout"], without["config"]["dropout"]) == (0.1, 0.2)
    assert facts["target_tokens"] == pytest.approx(2 * without["target_tokens"], rel=0.2)
    assert facts["history"][0] == without["history"][0]
    assert facts["history"][1] != without["history"][1]


def test_beside_files_of_ones_own(
    run_folder: Path, data: Path, files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = Text(train_files=files)
    assert adapt(run_folder, "is-en", tmp_path / "alone", text)["replayed"] is None
    assert HINT in capsys.readouterr().err
    assert adapt(run_folder, "is-en", tmp_path / "beside", text, replay=data)["replayed"]
    assert HINT not in capsys.readouterr().err
    assert adapt("none", "is-en", tmp_path / "scratch", text)["replayed"] is None
    assert HINT not in capsys.readouterr().err


def test_of_data_that_is_asked_for_and_has_nothing_to_replay(run_folder: Path, data: Path, tmp_path: Path) -> None:
    one = TokenStore.open(data).facts
    alone = Path(shutil.copytree(data, tmp_path / "data"))
    one["pairs"] = {"de-en": one["pairs"]["de-en"], "fi-en": one["pairs"]["fi-en"]}
    (alone / "data.json").write_text(json.dumps(one), encoding="utf-8")
    text = Text(data=data, budget_words=200)
    with pytest.raises(UsageError, match="has no meta-train text but that of de-en: there is nothing to replay"):
        adapt(run_folder, "de-en", tmp_path / "out", text, replay=alone)
    assert adapt(run_folder, "fi-en", tmp_path / "out", text, replay=alone)["replayed"]["sets"] == ["de-en"]


def test_where_what_it_taught_does_not_move_there_is_nothing_to_replay(
    run_folder: Path, data: Path, tmp_path: Path
) -> None:
    for update in ("none", "adapters", "embeddings"):
        settings = replace(QUICK, update=update)
        facts = fine_tune.run(str(run_folder), "fi-en", tmp_path / update, Text(data=data, budget_words=200), settings)
        assert facts["replayed"] is None


def test_mistakes_are_said(
    run_folder: Path,
    data: Path,
    kinds: TokenStore,
    files: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    own = ["--pair", "is-en", "--train", *map(str, files), "--out", str(tmp_path / "tuned"), "--replay", str(data)]
    off = (["--set", "fine_tune.replay=0"], ["--update", "adapters"])
    for more in (["--init", "none"], *(["--init", str(run_folder), *given] for given in off)):
        assert main(["fine-tune", *own, *more]) == 2
        assert "--replay is text beside that of the pair" in capsys.readouterr().err
    assert main(["fine-tune", *own[:-1], str(tmp_path / "nowhere"), "--init", str(run_folder)]) == 2
    assert str(tmp_path / "nowhere") in capsys.readouterr().err
    with pytest.raises(CheckpointError, match="tokenizer"):
        adapt(run_folder, "is-en", tmp_path / "tuned", Text(train_files=files), replay=kinds.folder)
    assert not (tmp_path / "tuned").exists()


def test_data_without_meta_train_text_has_nothing_to_replay(
    run_folder: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = tmp_path / "alone.toml"
    manifest.write_text(ALONE, encoding="utf-8")
    prepare.run(manifest, tmp_path / "data", tokenizer=str(run_folder))
    text = Text(data=tmp_path / "data", budget_words=200)
    assert adapt(run_folder, "is-en", tmp_path / "tuned", text)["replayed"] is None
    assert HINT in capsys.readouterr().err
    assert adapt(run_folder, "is-en", tmp_path / "beside", text, replay=data)["replayed"]


def test_what_is_held_out_is_not_replayed(
    run_folder: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Sentences of an own dev set, and what translates them in any language, on either side."""
    lines = [(data / f"text/de-en/train.{side}").read_text(encoding="utf-8").splitlines()[:12] for side in ("de", "en")]
    store = TokenStore.open(data)
    known = Known(data, *tasks_to_replay(run_folder, store, FINNISH, asked=True))
    tokenizer = load_tokenizer(store.tokenizer_folder)
    dev = [(f"x {number}", line) for number, line in enumerate(lines[1])]
    turned, loud = ([(line, x) for x, line in dev], [(x, f"{line.upper()}!") for x, line in dev])
    for held_out in (dev, turned, loud):
        left = known.without([(tokenized(tokenizer, held_out, FINNISH), tokenizer)])
        assert left
        before, after = (next(task for task in part.tasks if task.pair == Pair("de", "en")) for part in (known, left))
        assert len(before.usable) - len(after.usable) >= 12
        spoken = {*texts_of(after.bitext.take(after.usable).target, tokenizer)}
        assert not spoken & {*lines[1]}
        assert spoken <= {*texts_of(before.bitext.target, tokenizer)}
    assert known.without([(tokenized(tokenizer, [("x", "nowhere")], FINNISH), tokenizer)]) is known
    own = [tmp_path / name for name in ("train.tsv", "dev.tsv")]
    own[0].write_text("".join(f"rivi {number}\tline {number}\n" for number in range(30)), encoding="utf-8")
    own[1].write_text("".join(f"x {number}\t{line}\n" for number, line in enumerate(lines[1])), encoding="utf-8")
    capsys.readouterr()
    for pair in ("fi-en", "en-fi"):  # whose target is new
        adapt(run_folder, pair, tmp_path / pair, Text(train_files=own[:1], dev_files=own[1:]), replay=data)
        assert "sentence pairs to replay are in the dev or test text, and left out" in capsys.readouterr().err
        for path in own:
            rows = (line.split("\t") for line in path.read_text(encoding="utf-8").splitlines())
            path.write_text("".join(f"{other}\t{one}\n" for one, other in rows), encoding="utf-8")
    adapt(run_folder, "fi-en", tmp_path / "2", Text(data=data, budget_words=200), replay=data)
    assert "left out" not in capsys.readouterr().err, "prepare has seen to it"


def test_tasks_are_drawn_as_the_run_drew_them(kinds: TokenStore) -> None:
    """In proportion to their sentences at a temperature of 1; one set there is half as large as the others."""
    outer = OuterConfig(task_sampling="temperature", temperature=1.0)
    tasks = load_tasks(kinds, Config().batch, outer)
    sampler = Replay(tasks, outer, 300, 1.0, micro_tokens=1_000, pad_id=0).sampler
    sizes = np.array([len(task.usable) for task in tasks], dtype=float)
    assert sampler.probabilities == pytest.approx(sizes / sizes.sum())
    assert sizes.min() < 0.6 * sizes.max()
