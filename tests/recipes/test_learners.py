"""Every learner trains from the command's recipe, resumes to the same bits, and says what cannot be."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from metanmt.config_file import load_config
from metanmt.errors import ConfigError, DivergenceError
from metanmt.meta.outer import StepReport
from metanmt.meta.state import beginning
from metanmt.meta.task import Episode
from metanmt.recipes import meta_train
from scripts.kill_test import differences, fingerprint
from tests.recipes.conftest import small_config
from tests.recipes.test_meta_train import metrics
from tests.recipes.test_resume import killed_in_step

SHORT = (
    "outer.max_target_tokens=2500",
    "outer.joint_share=0.3",
    "validation.times=1",
    "run.checkpoint_minutes=0",
    "inner.steps=2",
    "inner.hidden=2",
    "outer.parent_share=0.4",
)
UNSEEN = "outer.unseen_share=0.5"
LARGE = "batch.max_tokens=360"  # few outer steps: those of an LSTM are slow


@pytest.mark.parametrize(
    "learner", ["aligned", "maml", "anil", "meta-sgd", "maml++", "lstm", "learned-optimizer", "transfer"]
)
def test_it_learns_and_resumes_to_the_same_bits(
    learner: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_config(*SHORT, *[LARGE, UNSEEN] * (learner != "transfer"), f"outer.learner={learner}")
    facts = meta_train.run(config, data, tmp_path / "whole")
    assert facts["target_tokens"] >= 2500
    lines = [line for line in metrics(tmp_path / "whole") if "phase" in line]
    fall = 0.15 if learner == "transfer" else 0.3  # its first line comes after the parents were tried
    assert lines[-1]["query_loss"] < lines[0]["query_loss"] - fall
    assert {line["phase"] for line in lines} == ({learner} if learner == "transfer" else {"joint", learner})
    killed_in_step(facts["steps"] - 1, monkeypatch)
    with pytest.raises(SystemExit):
        meta_train.run(config, data, tmp_path / "run")
    monkeypatch.undo()
    meta_train.run(config, data, tmp_path / "run", resume=True)
    assert differences(fingerprint(tmp_path / "whole"), fingerprint(tmp_path / "run")) == []


def test_what_is_learned_first_alone_is_not_aligned_with_others(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, met = meta_train.outer_step, []

    def noted(initialization: Any, episodes: list[Episode], *rest: Any) -> StepReport:
        met.append([(str(episode.pair), episode.start is not None) for episode in episodes])
        return plain(initialization, episodes, *rest)

    monkeypatch.setattr(meta_train, "outer_step", noted)
    first = ('outer.first_pairs=["es-en"]', "outer.first_share=0.5", "outer.unseen_share=1", "outer.joint_share=0")
    meta_train.run(small_config(*SHORT, *first, "outer.learner=aligned"), data, tmp_path / "run")
    begin, end = met[:3], met[-3:]
    assert all(episode == ("es-en", False) for episodes in begin for episode in episodes)
    assert all(new for episodes in end for _, new in episodes)


def test_a_language_alone_cannot_be_met_as_a_new_one(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = small_config(*SHORT, LARGE, UNSEEN, "outer.learner=aligned", 'outer.pairs=["de-en"]')
    meta_train.run(config, data, tmp_path / "run")
    assert "No two languages with text enough" in capsys.readouterr().err


@pytest.mark.parametrize("learner", ["meta-sgd", "lstm"])
def test_what_is_learned_beside_the_initialisation_moves(learner: str, data: Path, tmp_path: Path) -> None:
    meta_train.run(small_config(*SHORT, LARGE, f"outer.learner={learner}"), data, tmp_path / "run")
    tensors = load_file(tmp_path / "run" / "last" / "trainer.safetensors")
    own = {name: tensor for name, tensor in tensors.items() if f"{name}.exp_avg" in tensors}
    assert own
    assert all(name.startswith("learner.") for name in own)
    moved = [tensor for tensor in own.values() if tensor.numel() > 1 and float(tensor.std()) > 0]
    assert len(moved) > len(own) / 2
    assert all(bool(torch.isfinite(tensor).all()) for tensor in own.values())


def test_a_parent_by_name(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = small_config(*SHORT, "outer.learner=transfer", "outer.parent=sv-en")
    facts = meta_train.run(config, data, tmp_path / "run")
    assert "transfer from sv-en" in capsys.readouterr().err
    assert state(tmp_path / "run")["parent"] == "sv-en"
    assert facts["target_tokens"] == pytest.approx(2500, rel=0.1)


def test_the_best_parent_is_tried_for_and_its_cost_is_counted(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    facts = meta_train.run(small_config(*SHORT, "outer.learner=transfer"), data, tmp_path / "run")
    said = capsys.readouterr().err
    losses = {
        line.split()[1].rstrip(":"): float(line.split()[4]) for line in said.splitlines() if line.startswith("parent ")
    }
    assert set(losses) == {"de-en", "sv-en", "es-en"}
    chosen = state(tmp_path / "run")["parent"]
    assert losses[chosen] == min(losses.values())
    assert facts["target_tokens"] == pytest.approx(2500, rel=0.1)
    first = next(line for line in metrics(tmp_path / "run") if "phase" in line)
    assert first["target_tokens"] > 0.4 * 2500


def test_a_parent_that_diverges_merely_loses(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = meta_train.outer_step
    spoiled: list[str] = []

    def diverging(initialization: Any, episodes: Any, *arguments: Any) -> Any:
        report = plain(initialization, episodes, *arguments)
        return replace(report, skipped=True) if episodes[0].pair.source in spoiled else report

    monkeypatch.setattr(meta_train, "outer_step", diverging)
    config = small_config(*SHORT, "outer.learner=transfer", "outer.max_skipped=2")
    meta_train.run(config, data, tmp_path / "plain")
    loser = str(state(tmp_path / "plain")["parent"])
    spoiled = [loser.split("-")[0]]
    meta_train.run(config, data, tmp_path / "run")
    assert f"parent {loser}: The loss or its gradient was not finite in 2 outer steps" in capsys.readouterr().err
    assert state(tmp_path / "run")["parent"] != loser
    assert state(tmp_path / "run")["skipped_in_a_row"] == 0
    spoiled = ["de", "sv", "es"]
    with pytest.raises(DivergenceError):
        meta_train.run(config, data, tmp_path / "none")


def test_a_run_whose_parents_took_all_has_a_checkpoint(data: Path, tmp_path: Path) -> None:
    config = small_config(*SHORT, "outer.learner=transfer", "outer.parent_share=1")
    facts = meta_train.run(config, data, tmp_path / "run")
    assert facts["best_step"] == facts["steps"]
    assert (tmp_path / "run" / "best" / "model.safetensors").is_file()


def test_an_unknown_parent_is_refused_before_anything_is_written(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="sw-en") as error:
        meta_train.run(small_config("outer.learner=transfer", "outer.parent=sw-en"), data, tmp_path / "run")
    assert "sv-en" in error.value.remedy
    assert not (tmp_path / "run").exists()


def state(folder: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((folder / "last" / "trainer.json").read_text(encoding="utf-8"))
    return found


@pytest.mark.parametrize(("learner", "steps", "said"), [("joint", 0, True), ("aligned", 0, True), ("fomaml", 3, False)])
def test_settings_of_an_inner_loop_that_is_not_there(learner: str, steps: int, said: bool) -> None:
    plain, given = (load_config(Path(learner), values) for values in ((), ("inner.learning_rate=0.3",)))
    assert "not used" not in beginning(plain, steps, 10, 2, 1)
    assert ("[inner] is not used" in beginning(given, steps, 10, 2, 1)) == said
