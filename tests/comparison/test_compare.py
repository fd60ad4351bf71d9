"""A comparison from file to table: complete, resumable, fair, and refused before anything is trained."""

from __future__ import annotations

import csv
import hashlib
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metanmt.cli import main
from metanmt.comparison import compare, execute, tables
from metanmt.comparison.checks import checked_plan
from metanmt.comparison.plan import Cell, load_compare
from metanmt.comparison.statistics import Difference
from metanmt.comparison.tables import as_csv, format_comparison
from metanmt.data.store import TokenStore
from metanmt.errors import CheckpointError
from metanmt.nmt.score import score

RESULTS = "results/*/*/[0-9z]*/result.json"  # the complete ones


@pytest.fixture(scope="module")
def finished(file: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """The comparison in two processes, killed on the way and finished by the same command."""
    out = tmp_path_factory.mktemp("comparison") / "out"
    command = [sys.executable, "-m", "metanmt", "compare", str(file), "--out", str(out), "--jobs", "2"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as started:
        deadline = time.monotonic() + 120
        while len(list(out.glob(RESULTS))) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        started.send_signal(signal.SIGKILL)
        _, said = started.communicate(timeout=20)  # ends when no worker holds the pipe any more
    assert "10 pieces of work, 2 at a time; CPU threads of each: 1" in said
    before = {path: path.stat().st_mtime_ns for path in out.glob(RESULTS)}
    assert 2 <= len(before) < 8
    found = compare.run(file, out, jobs=2)
    assert all(path.stat().st_mtime_ns == when for path, when in before.items())
    return found, out


def test_every_cell_is_there_and_nothing_else(finished: tuple[dict[str, Any], Path]) -> None:
    found, out = finished
    groups = {(row["arm"], row["budget"]) for row in found["rows"]}
    assert groups == {("none", 100), ("joint", 0), ("joint", 100), ("fomaml", 0), ("fomaml", 100)}
    assert not list(out.rglob("*.safetensors")) or all("runs" in path.parts for path in out.rglob("*.safetensors"))
    assert not list(out.rglob(".*.tmp"))
    names = {path.name for path in (out / "results" / "joint" / "fi-en" / "100-all-2").iterdir()}
    files = {f"{test_set}.{what}" for test_set in ("test", "test-late") for what in ("hypotheses.txt", "counts.npz")}
    assert names == {"result.json", *files}


def contents(out: Path) -> dict[str, bytes]:
    """Return what a comparison found and the weights of its runs, without how long it took."""
    names = ("test.counts.npz", "test.hypotheses.txt", "model.safetensors")
    files = {str(path.relative_to(out)): path.read_bytes() for name in names for path in out.rglob(name)}
    results = {str(path.relative_to(out)): json.loads(path.read_text(encoding="utf-8")) for path in out.glob(RESULTS)}
    return files | {name: json.dumps([facts["digest"], facts["scores"]]).encode() for name, facts in results.items()}


def test_results_depend_on_neither_the_number_of_jobs_nor_a_kill(
    finished: tuple[dict[str, Any], Path], file: Path, tmp_path: Path
) -> None:
    compare.run(file, tmp_path / "alone", jobs=1)
    expected = contents(tmp_path / "alone")
    assert len(expected) >= 3 * 8 + 2
    assert contents(finished[1]) == expected


def test_scores_and_leads_are_those_of_the_hypotheses(finished: tuple[dict[str, Any], Path], data: Path) -> None:
    found, out = finished
    references = (data / "text" / "fi-en" / "test.en").read_text(encoding="utf-8").splitlines()
    means = {}
    for arm in ("joint", "fomaml"):
        values = []
        for draw in (1, 2):
            path = out / "results" / arm / "fi-en" / f"100-all-{draw}" / "test.hypotheses.txt"
            hypotheses = path.read_text(encoding="utf-8").split("\n")[:-1]
            values.append(score(hypotheses, references, ter=False)["chrf"]["score"])
        row = next(row for row in found["rows"] if (row["arm"], row["budget"]) == (arm, 100))
        means[arm] = sum(values) / 2
        assert row["scores"]["chrf"]["fi-en"]["mean"] == pytest.approx(means[arm])
    assert row["lead"]["chrf"]["fi-en"]["value"] == pytest.approx(means["fomaml"] - means["joint"])
    assert found["comparisons"] == 12


def test_every_test_set_is_scored_by_the_same_model(finished: tuple[dict[str, Any], Path], data: Path) -> None:
    found, out = finished
    (other,) = found["other_test_sets"]
    assert (found["test_set"], other["test_set"], other["pairs"]) == ("test", "test-late", ["fi-en"])
    for row in other["rows"]:
        name = f"{row['budget']}-{row['update']}-1" if row["budget"] else "zero-shot"
        hypotheses = (out / "results" / row["arm"] / "fi-en" / name / "test-late.hypotheses.txt").read_text(
            encoding="utf-8"
        )
        references = (data / "text" / "fi-en" / "test-late.en").read_text(encoding="utf-8").splitlines()
        if not row["budget"]:
            expected = score(hypotheses.split("\n")[:-1], references, ter=False)["chrf"]["score"]
            assert row["scores"]["chrf"]["fi-en"]["mean"] == pytest.approx(expected)
        assert ("chrf" in row["lead"]) == (row["arm"] != "joint" and (row["arm"], row["budget"]) != ("none", 0))
    assert "The same models on the set test-late." in format_comparison(found)
    assert as_csv(found).count("\ntrain,test-late,") == sum(len(item["scores"]["chrf"]) * 2 for item in other["rows"])


def test_a_comparison_of_fewer_test_sets_has_nothing_left_to_do(
    finished: tuple[dict[str, Any], Path], file: Path, tmp_path: Path
) -> None:
    """And one that shares the meta-trainings has only its adaptations; neither reads them from other data."""
    fewer = tmp_path / "fewer.toml"
    text = file.read_text(encoding="utf-8")
    fewer.write_text(text.replace('["test", "test-late"]', '["test-late"]'), encoding="utf-8")
    planned = compare.dry_run(fewer, finished[1])
    assert planned["target_tokens"] == 0
    planned = compare.dry_run(fewer, tmp_path / "out", runs=finished[1] / "runs")
    assert {arm["meta_training_target_tokens"] for arm in planned["arms"]} == {0}
    assert all(cell["target_tokens"] > 0 for cell in planned["results"])
    other = tmp_path / "data"
    shutil.copytree(load_compare(file).data, other)
    facts = json.loads((other / "data.json").read_text(encoding="utf-8"))
    facts["pairs"]["de-en"]["sets"]["train"]["sentences"] -= 1
    (other / "data.json").write_text(json.dumps(facts), encoding="utf-8")
    with pytest.raises(CheckpointError, match="meta-trained on other data"):
        compare.run(file, tmp_path / "out", data=other, runs=finished[1] / "runs")


def test_the_cost_is_equal_and_stated(finished: tuple[dict[str, Any], Path]) -> None:
    found, _ = finished
    costs = {row["arm"]: row["target_tokens"] for row in found["training"]}
    assert costs.keys() == {"joint", "fomaml"}
    assert costs["joint"] == pytest.approx(costs["fomaml"], rel=0.3)
    text = format_comparison(found)
    size = f"{found['training'][0]['parameters']:,}"
    for part in ("BLEU", "chrF++", "version:", "Zero-shot", "corrected for 12 comparisons", "peak MiB", size):
        assert part in text


def test_what_adapting_moved_is_there_for_every_initialisation(finished: tuple[dict[str, Any], Path]) -> None:
    found, out = finished
    assert [(row["arm"], row["budget"]) for row in found["layers"]] == [("joint", 100), ("fomaml", 100)]
    assert all(row["adaptations"] + row["unmoved"] == 2 for row in found["layers"])
    for arm in ("joint", "fomaml"):
        results = [load(out / "results" / arm / "fi-en" / f"100-all-{draw}" / "result.json") for draw in (1, 2)]
        assert all(result["analysis"]["set"] == "dev" for result in results)
        assert all(result["analysis"]["sentences"] == 20 for result in results)
        moved = [result for result in results if result["adaptation"]["best"]["update"]]
        assert moved, "the test needs an adaptation that moved"
        row = next(row for row in found["layers"] if row["arm"] == arm)
        assert [item["layer"] for item in row["layers"]] == [item["layer"] for item in moved[0]["analysis"]["layers"]]
        for number, item in enumerate(row["layers"]):
            for measure in ("movement", "cka"):
                values = [result["analysis"]["layers"][number][measure] for result in moved]
                assert (item[measure] and item[measure]["mean"]) == (
                    values[0] and pytest.approx(sum(values) / len(values))
                )
            assert item["movement"] is None or 0 < item["movement"]["mean"] < 1
            assert item["cka"] is None or 0 < item["cka"]["mean"] <= 1 + 1e-9
    assert load(out / "results" / "none" / "fi-en" / "100-all-1" / "result.json")["analysis"] is None
    assert load(out / "results" / "joint" / "fi-en" / "zero-shot" / "result.json")["analysis"] is None
    text = format_comparison(found)
    for part in ("What adapting on 100 target words moved", "| encoder 1 ", "linear CKA", "joint 2 of 2"):
        assert part in text


def load(path: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return value


def test_an_interval_ends_where_scores_do(finished: tuple[dict[str, Any], Path]) -> None:
    """Two draws and many comparisons: Student's interval may be wider than the scale of 0 to 100."""
    found, _ = finished
    leads = [lead for row in found["rows"] for by_place in row["lead"].values() for lead in by_place.values()]
    assert all(-100 <= lead["low"] <= lead["value"] <= lead["high"] <= 100 for lead in leads)
    wide = Difference(value=1.0, parts=((9.0, 1),), draws=2)
    assert wide.interval(0.95, 48)[1] > 1_000
    assert tables.lead_facts(wide, 0.95, 48)["high"] == 100


def test_pairs_that_translate_the_same_sentences_are_said(finished: tuple[dict[str, Any], Path]) -> None:
    assert finished[0]["shared_sentences"] == []
    note = format_comparison({**finished[0], "shared_sentences": [["fi-en", "tr-en", "en-ro"]]})
    assert "fi-en, tr-en and en-ro translate the same sentences, which are resampled together" in note


def test_the_files_beside_it(finished: tuple[dict[str, Any], Path], file: Path, data: Path) -> None:
    found, out = finished
    assert json.loads((out / "comparison.json").read_text(encoding="utf-8")) == found
    assert (out / "comparison.md").read_text(encoding="utf-8") == format_comparison(found) + "\n"
    assert load_compare(out / "comparison.toml") == load_compare(file)
    assert (out / found["data"]).resolve() == data.resolve()
    assert found["command"] == f"metanmt compare {file} --out {out}"
    with (out / "comparison.csv").open(encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    assert len(rows) == 2 * 5 * 2 * 2  # test sets, groups, metrics, the pair and the mean
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
    planned = compare.dry_run(file, finished[1])
    assert planned["target_tokens"] == 0
    assert "at most 0 target tokens" in compare.format_plan(planned)


def test_another_setting_runs_its_cells_anew(finished: tuple[dict[str, Any], Path], file: Path, data: Path) -> None:
    other = file.with_name("other.toml")
    other.write_text(file.read_text().replace("beam = 1", "beam = 2"), encoding="utf-8")
    plan, store = checked_plan(load_compare(other), TokenStore.open(data)), TokenStore.open(data)
    assert not any(execute.done(plan, cell, store, finished[1]) for cell in plan.cells)


def test_what_may_change_in_the_middle_of_a_run_may_change_here(
    finished: tuple[dict[str, Any], Path], file: Path, data: Path
) -> None:
    other = file.with_name("kept.toml")
    settings = 'learner = "fomaml"\nset = ["run.keep=3", "batch.micro_tokens=500"]'
    other.write_text(file.read_text().replace('learner = "fomaml"', settings), encoding="utf-8")
    assert compare.dry_run(other, finished[1])["target_tokens"] == 0
    text = file.read_text().replace("fine_tune.max_epochs=2", "fine_tune.max_epochs=3")
    assert text != file.read_text()
    other.write_text(text, encoding="utf-8")
    again = compare.dry_run(other, finished[1])
    assert again["target_tokens"] > 0, "adaptations are others then"
    assert not any(arm["meta_training_target_tokens"] for arm in again["arms"]), "runs are not"


def test_what_is_damaged_is_made_again(
    finished: tuple[dict[str, Any], Path], file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = Path(shutil.copytree(finished[1], tmp_path / "out", symlinks=True))
    result, counts, hypotheses = sorted(out.glob("results/joint/fi-en/*"))
    (result / "result.json").write_text('{"scores": ', encoding="utf-8")
    (counts / "test.counts.npz").write_bytes((counts / "test.counts.npz").read_bytes()[:-40])
    (hypotheses / "test-late.hypotheses.txt").unlink()
    (out / "runs" / "joint" / "summary.json").write_text("{", encoding="utf-8")
    (out / "runs" / "fomaml" / "last" / "trainer.json").write_text("{", encoding="utf-8")
    assert compare.dry_run(file, out)["target_tokens"] > 0
    found = compare.run(file, out)
    assert "made again: 3 in" in capsys.readouterr().err
    assert [row["scores"] for row in found["rows"]] == [row["scores"] for row in finished[0]["rows"]]
    assert json.loads((out / "before.json").read_text(encoding="utf-8")) == finished[0], "not lost"


def test_a_changed_arm_is_refused(finished: tuple[dict[str, Any], Path], file: Path) -> None:
    other = file.with_name("changed.toml")
    text = file.read_text().replace('learner = "fomaml"', 'learner = "fomaml"\nset = ["inner.steps=2"]')
    other.write_text(text, encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"another configuration than arm fomaml has now: \w+\.\w+ is"):
        compare.run(other, finished[1])
    with pytest.raises(CheckpointError, match="another configuration than arm fomaml"):
        compare.dry_run(other, finished[1])


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
    hypotheses = [(cells / name / "test.hypotheses.txt").read_text() for name in ("zero-shot", "100-none-1")]
    assert hypotheses[0] == hypotheses[1]
    assert hashlib.sha256((run / "best" / "model.safetensors").read_bytes()).hexdigest() == before


@pytest.mark.parametrize("shared", [True, False])
def test_pairs_of_one_test_set_are_resampled_together(
    finished: tuple[dict[str, Any], Path],
    file: Path,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    shared: bool,
) -> None:
    """A second pair with the first one's results: no surer on the same references, surer on others."""

    def made_up(cells: Sequence[Cell], out: Path, test_set: str, metric: str) -> list[Any]:
        values = [np.random.default_rng([cell.draw, len(cell.arm)]).normal(size=30) for cell in cells]
        return [np.stack([value, np.ones(30)], axis=1) for value in values]

    monkeypatch.setattr(tables, "load_counts", made_up)
    monkeypatch.setattr(tables, "scorer", lambda name: lambda sums: sums[0] / sums[1])
    shutil.copytree(finished[1], tmp_path / "out")
    shutil.copytree(data, tmp_path / "data")
    for results in (tmp_path / "out" / "results").iterdir():
        shutil.copytree(results / "fi-en", results / "sv-en")
        for path in results.glob("sv-en/*/result.json"):
            path.write_text(path.read_text(encoding="utf-8").replace("tok:13a", "tok:zh"), encoding="utf-8")
    text = tmp_path / "data" / "text"
    shutil.copytree(text / "fi-en", text / "sv-en", dirs_exist_ok=True)
    for name in ("test.sv", "test-late.sv"):
        (text / "sv-en" / name).write_text("another source\n", encoding="utf-8")
    if not shared:
        (text / "sv-en" / "test.en").write_text("other references\n", encoding="utf-8")
    store = TokenStore.open(tmp_path / "data")
    store.facts["pairs"]["sv-en"] = store.facts["pairs"]["fi-en"]
    plan = checked_plan(load_compare(file), store)
    again = tuple(replace(cell, pair="sv-en") for cell in plan.cells)
    found = tables.collect(replace(plan, pairs=("fi-en", "sv-en"), cells=plan.cells + again), store, tmp_path / "out")
    assert re.findall(r"tok:\w+", found["signatures"]["bleu"]) == ["tok:13a", "tok:zh"], "those of all pairs"
    ends = {line.split(",")[5]: line.split(",")[-1] for line in as_csv(found).splitlines() if ",bleu," in line}
    assert ["tok:zh" in ends[pair] for pair in ("fi-en", "sv-en")] == [False, True], "each pair's own"
    assert found["shared_sentences"] == ([["fi-en", "sv-en"]] if shared else [])
    row = next(row for row in found["rows"] if (row["arm"], row["budget"]) == ("fomaml", 0))
    widths = {place: lead["high"] - lead["low"] for place, lead in row["lead"]["chrf"].items()}
    assert 0 < widths["fi-en"] == pytest.approx(widths["sv-en"], rel=1e-9), "a sum's order is the machine's"
    assert widths["mean"] == pytest.approx(widths["fi-en"]) if shared else widths["mean"] < 0.8 * widths["fi-en"]
