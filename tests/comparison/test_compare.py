"""A comparison from file to table: complete, resumable, fair, and refused before anything is trained."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from metanmt.cli import main
from metanmt.comparison import compare, execute
from metanmt.comparison.plan import load_compare, make_plan
from metanmt.comparison.tables import format_comparison
from metanmt.data.store import TokenStore
from metanmt.errors import CheckpointError, MetanmtError
from metanmt.nmt.score import score


@pytest.fixture(scope="module")
def finished(file: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """The comparison, killed on the way and finished by the same command."""
    out = tmp_path_factory.mktemp("comparison") / "out"
    command = [sys.executable, "-m", "metanmt", "compare", str(file), "--out", str(out)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"}) as started:
        deadline = time.monotonic() + 120
        while len(list(out.glob("results/*/*/[0-9z]*/result.json"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        started.send_signal(signal.SIGKILL)
    before = {path: path.stat().st_mtime_ns for path in out.glob("results/*/*/[0-9z]*/result.json")}
    assert 2 <= len(before) < 8
    found = compare.run(file, out)
    assert all(path.stat().st_mtime_ns == when for path, when in before.items())
    return found, out


def test_every_cell_is_there_and_nothing_else(finished: tuple[dict[str, Any], Path]) -> None:
    found, out = finished
    groups = {(row["arm"], row["budget"]) for row in found["rows"]}
    assert groups == {("none", 100), ("joint", 0), ("joint", 100), ("fomaml", 0), ("fomaml", 100)}
    assert not list(out.rglob("*.safetensors")) or all("runs" in path.parts for path in out.rglob("*.safetensors"))
    assert not list(out.rglob(".*.tmp"))
    names = {path.name for path in (out / "results" / "joint" / "fi-en" / "100-all-2").iterdir()}
    assert names == {"result.json", "hypotheses.txt", "counts.npz"}


def test_scores_and_leads_are_those_of_the_hypotheses(finished: tuple[dict[str, Any], Path], data: Path) -> None:
    found, out = finished
    references = (data / "text" / "fi-en" / "test.en").read_text(encoding="utf-8").splitlines()
    means = {}
    for arm in ("joint", "fomaml"):
        values = []
        for draw in (1, 2):
            path = out / "results" / arm / "fi-en" / f"100-all-{draw}" / "hypotheses.txt"
            hypotheses = path.read_text(encoding="utf-8").split("\n")[:-1]
            values.append(score(hypotheses, references, ter=False)["chrf"]["score"])
        row = next(row for row in found["rows"] if (row["arm"], row["budget"]) == (arm, 100))
        means[arm] = sum(values) / 2
        assert row["scores"]["chrf"]["fi-en"]["mean"] == pytest.approx(means[arm])
    assert row["lead"]["chrf"]["fi-en"]["value"] == pytest.approx(means["fomaml"] - means["joint"])
    assert found["comparisons"] == 6


def test_the_cost_is_equal_and_stated(finished: tuple[dict[str, Any], Path]) -> None:
    found, _ = finished
    costs = {row["arm"]: row["target_tokens"] for row in found["training"]}
    assert costs.keys() == {"joint", "fomaml"}
    assert costs["joint"] == pytest.approx(costs["fomaml"], rel=0.3)
    text = format_comparison(found)
    for part in ("BLEU", "chrF++", "version:", "Zero-shot", "corrected for 6 comparisons", "peak MiB"):
        assert part in text


def test_the_files_beside_it(finished: tuple[dict[str, Any], Path], file: Path, data: Path) -> None:
    found, out = finished
    assert json.loads((out / "comparison.json").read_text(encoding="utf-8")) == found
    assert (out / "comparison.md").read_text(encoding="utf-8") == format_comparison(found) + "\n"
    assert load_compare(out / "comparison.toml") == load_compare(file)
    assert (out / found["data"]).resolve() == data.resolve()
    assert found["command"] == f"metanmt compare {file} --out {out}"
    with (out / "comparison.csv").open(encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    assert len(rows) == 5 * 2 * 2  # groups, metrics, the pair and the mean
    assert all(row["signature"] for row in rows)


def test_it_becomes_a_page(finished: tuple[dict[str, Any], Path], tmp_path: Path) -> None:
    found, out = finished
    assert main(["report", str(out), "--out", str(tmp_path / "report.html")]) == 0
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    for row in found["rows"]:
        assert f'<data value="{row["scores"]["chrf"]["fi-en"]["mean"]}">' in page
    assert page.count("data-number=") == 30
    assert found["signatures"]["chrf"] in page


def test_a_finished_comparison_is_not_run_again(
    finished: tuple[dict[str, Any], Path], file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*arguments: Any, **named: Any) -> Any:
        raise AssertionError("run again")

    monkeypatch.setattr(execute.meta_train, "run", never)
    monkeypatch.setattr(execute, "_run_cell", never)
    assert compare.run(file, finished[1]) == finished[0]
    assert "at most 0 target tokens" in compare.dry_run(file, finished[1])


def test_another_setting_runs_its_cells_anew(finished: tuple[dict[str, Any], Path], file: Path, data: Path) -> None:
    other = file.with_name("other.toml")
    other.write_text(file.read_text().replace("beam = 1", "beam = 2"), encoding="utf-8")
    plan, store = make_plan(load_compare(other), TokenStore.open(data)), TokenStore.open(data)
    assert not any(execute.done(plan, cell, store, finished[1]) for cell in plan.cells)


def test_a_changed_arm_is_refused(finished: tuple[dict[str, Any], Path], file: Path) -> None:
    other = file.with_name("changed.toml")
    text = file.read_text().replace('learner = "fomaml"', 'learner = "fomaml"\nset = ["inner.steps=2"]')
    other.write_text(text, encoding="utf-8")
    with pytest.raises(CheckpointError, match="another configuration than arm fomaml"):
        compare.run(other, finished[1])


MISTAKES = [
    ("[arms.joint]", "[arms.jiont]", "No arm is called 'joint'", "jiont"),
    ('learner = "fomaml"', 'learner = "fomal"', "'fomal'", "fomaml"),
    ("budgets = [0, 100]", "budgets = [0, 100000]", "larger than fi-en's", "smaller"),
    ("budgets = [0, 100]", "budgets = [2]", "too small for fi-en", "zero-shot"),
    ("draws = [1, 2]", "draws = [1, 1]", "The draws are", "once"),
    ("beam = 1", 'pairs = ["fii-en"]', "no pair fii-en", "fi-en"),
    ("beam = 1", 'pairs = ["de-en"]', "no set 'test'", "train"),
    ("beam = 1", "beams = 1", "Unknown key 'beams'", "beam"),
    ('learner = "fomaml"', 'checkpoint = "nowhere"', "not a checkpoint", "folder"),
    ('learner = "fomaml"', 'learner = "fomaml"\ncheckpoint = "x"', "not given once", "either"),
    ('learner = "fomaml"', 'learner = "fomaml"\nset = ["outer.max_target_tokens=9"]', "differ in their cost", "top"),
    ('learner = "fomaml"', 'learner = "fomaml"\nset = ["fine_tune.metric=bleu"]', "selection in fine-tuning", "top"),
    ('learner = "fomaml"', 'learner = "fomaml"\nset = ["validation.updates=9"]', "selection of the check", "top"),
    ("budgets = [0, 100]", "budgets = 100", "100", "list"),
    ("beam = 1", 'updates = ["all", "adapters"]', "Arm none is trained from scratch", "Leave out"),
    ("beam = 1", 'updates = ["adaptors"]', "'adaptors'", "adapters"),
    ('learner = "fomaml"', 'learner = "fomaml"\nset = ["inner.update=adapters"]', "'adapters' names no", "all"),
    ('learner = "fomaml"', 'learner = "fomaml"\nset = [\'model.head=["x"]\']', "model.head names 'x'", "Parts"),
    ('learner = "fomaml"', 'learner = "fomaml"\nset = ["model.update=adapters"]', "no base", "model.checkpoint"),
    ("beam = 1", "confidence = 95.0", "confidence is 95.0", "0.95"),
    ("[arms.fomaml]", '[arms."a/../../evil"]', "cannot name an arm", "letters"),
    ("validation.budget=100", "validation.budget=100000", "validation.budget is 100,000 words", "or less"),
]


@pytest.mark.parametrize(
    ("old", "new", "cause", "remedy"), MISTAKES, ids=[item[1].split("\n")[-1] for item in MISTAKES]
)
def test_mistakes_are_refused_before_anything_is_trained(
    file: Path, tmp_path: Path, old: str, new: str, cause: str, remedy: str
) -> None:
    path = tmp_path / "wrong.toml"
    text = file.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(MetanmtError) as error:
        compare.run(path, tmp_path / "out")
    assert cause in error.value.cause
    assert remedy in error.value.remedy
    assert not (tmp_path / "out").exists()


def test_update_strategies_are_cells(finished: tuple[dict[str, Any], Path], file: Path, tmp_path: Path) -> None:
    """A trained run as the arm: its adaptations differ, in what moves and in the score, and it stays as it is."""
    run = finished[1] / "runs" / "joint"
    before = hashlib.sha256((run / "best" / "model.safetensors").read_bytes()).hexdigest()
    text = file.read_text(encoding="utf-8").partition("[arms.none]")[0].replace("[1, 2]", "[1]")
    names = ("none", "all", "decoder", "head", "adapters")
    text = text.replace("beam = 1", f"beam = 1\nupdates = {json.dumps(names)}")
    path = tmp_path / "updates.toml"
    path.write_text(
        f'{text}[arms.joint]\ncheckpoint = "{run}"\nset = ["adapter.rank=2", "fine_tune.metric=loss"]\n',
        encoding="utf-8",
    )
    found = compare.run(path, tmp_path / "out")
    rows = {row["update"]: row for row in found["rows"] if row["budget"] == 100}
    assert set(rows) == set(names)
    cells = tmp_path / "out" / "results" / "joint" / "fi-en"
    losses = {
        name: json.loads((cells / f"100-{name}-1" / "result.json").read_text())["adaptation"]["best"]["loss"]
        for name in names
    }
    assert len(set(losses.values())) == len(names)
    hypotheses = [(cells / name / "hypotheses.txt").read_text() for name in ("zero-shot", "100-none-1")]
    assert hypotheses[0] == hypotheses[1]
    assert hashlib.sha256((run / "best" / "model.safetensors").read_bytes()).hexdigest() == before


def test_shipped_comparisons_parse() -> None:
    for path in Path(execute.__file__).parent.glob("*.toml"):
        assert load_compare(Path(path.stem)).arms
