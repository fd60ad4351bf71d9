"""The demo, on the toy collection: every arm for every unseen language, and it goes on after an interruption."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from metanmt import demo
from metanmt.errors import MetanmtError, UsageError
from metanmt.nmt.folder import TUNING_FILE
from metanmt.recipes import evaluate, fine_tune
from tests.recipes.conftest import MANIFEST

TINY = ("fine_tune.min_updates=2", "fine_tune.max_updates=2", "fine_tune.evaluations=1", "fine_tune.dev_sentences=5")
SHORT = ("outer.max_target_tokens=2000", "validation.times=1", "validation.updates=1", "validation.budget=50")


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = tmp_path / "toy.toml"
    manifest.write_text(MANIFEST, encoding="utf-8")
    monkeypatch.setattr(demo, "shipped_manifest", lambda name: manifest)
    monkeypatch.setattr(demo, "TUNING", TINY)
    monkeypatch.setattr(demo, "FROM_SCRATCH", TINY)
    monkeypatch.setattr(demo, "SHORT", (*SHORT, "validation.sentences=3"))


@pytest.mark.usefixtures("small")
def test_the_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "demo"
    plain, calls = evaluate.run, 0

    def interrupted(**arguments: Any) -> dict[str, Any]:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return plain(**arguments)

    monkeypatch.setattr(evaluate, "run", interrupted)
    with pytest.raises(MetanmtError, match="xqx"):
        demo.run(out, budget_words=60, languages=["xqx"])  # a slip, which must not block the folder
    with pytest.raises(KeyboardInterrupt):
        demo.run(out, budget_words=60, jobs=1)
    with pytest.raises(UsageError, match=r"words is larger than the [\d,]+ of fi-en"):
        demo.run(tmp_path / "much", budget_words=10**6, jobs=1)
    with pytest.raises(UsageError, match=r"larger than"):  # and not that the folder is of another demo
        demo.run(tmp_path / "much", budget_words=10**5, jobs=1)
    with pytest.raises(UsageError, match="not of this demo"):
        demo.run(tmp_path / "much", budget_words=60, languages=["is"])
    with pytest.raises(UsageError, match="not of this demo"):
        demo.run(out, budget_words=61)
    results = demo.run(out, budget_words=60, jobs=1)
    learners = ["joint", "fomaml", "aligned"]
    arms = [*(f"{name}, zero-shot" for name in learners), "from scratch", *(f"{name}, adapted" for name in learners)]
    assert [row["arm"] for row in results["rows"]] == arms
    assert len(results["examples"]) == demo.EXAMPLES
    text = demo.format_results(results)
    assert all(arm in text for arm in arms)
    assert "nrefs:1" in text
    printed = capsys.readouterr()
    for command in ("meta-train aligned", f"evaluate --model {out}/run-joint", "fine-tune --init none"):
        assert f"$ metanmt {command}" in printed.err
    assert printed.out == ""


@pytest.mark.usefixtures("small")
def test_an_adaptation_that_was_stopped_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, kinds = tmp_path / "demo", ["at its last update", "before"]
    plain = fine_tune.run

    def stopped(*arguments: Any, **more: Any) -> dict[str, Any]:
        facts = plain(*arguments, **more)
        if kinds and kinds.pop() == "before":
            path = arguments[2] / TUNING_FILE
            path.write_text(path.read_text(encoding="utf-8").replace('"interrupted": false', '"interrupted": true'))
        elif kinds == []:
            return facts
        return {**facts, "stop_requested": True}

    monkeypatch.setattr(fine_tune, "run", stopped)
    tuned = out / "tuned" / "fi-en-from-scratch" / TUNING_FILE
    with pytest.raises(KeyboardInterrupt, match="the same command goes on"):
        demo.run(out, budget_words=60, jobs=1)
    assert '"interrupted": true' in tuned.read_text(encoding="utf-8")
    demo.run(out, budget_words=60, jobs=1)
    assert '"interrupted": false' in tuned.read_text(encoding="utf-8")


@pytest.mark.usefixtures("small")
def test_several_at_a_time_come_to_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With as many threads for each; wherever the folder is read from."""
    threads = torch.get_num_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    try:
        alone = demo.run(tmp_path / "1", budget_words=60, jobs=1)
    finally:
        torch.set_num_threads(threads)
    monkeypatch.chdir(tmp_path)
    demo.run(Path("2"), budget_words=60, jobs=2)
    assert "2 at a time" in capsys.readouterr().err
    monkeypatch.chdir("/")
    again = demo.run(tmp_path / "2", budget_words=60, jobs=2)
    assert [(row["arm"], row["scores"]) for row in again["rows"]] == [
        (row["arm"], row["scores"]) for row in alone["rows"]
    ]
    assert again["examples"] == alone["examples"]


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("language", ["en", "fi-en"])
def test_what_is_no_source_language_leaves_no_folder(tmp_path: Path, language: str) -> None:
    with pytest.raises(UsageError, match=f"--languages names '{language}'") as error:
        demo.run(tmp_path / "demo", languages=[language])
    assert "is,ka" in error.value.remedy
    assert not (tmp_path / "demo").exists()
