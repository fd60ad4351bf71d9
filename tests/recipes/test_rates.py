"""The rate of fine-tuning where nobody has chosen one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from metanmt.nmt import tuning
from metanmt.nmt.tuning_text import Text
from metanmt.recipes import fine_tune
from tests.recipes.test_fine_tune import QUICK, adapt


def test_a_rate_that_gains_nothing_is_lowered_once(
    run_folder: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Unless somebody chose it. The trial before is part of what the result has cost."""
    losses, plain = [5.0, 6.0, 5.0, 4.0, 5.0, 6.0], tuning.evaluate_dev
    monkeypatch.setattr(tuning, "evaluate_dev", lambda *given: replace(plain(*given), loss=losses.pop(0)))
    text = Text(data=data, budget_words=200)
    facts = adapt(run_folder, "fi-en", tmp_path / "tuned", text)
    assert "once more at a rate of 0.0007" in capsys.readouterr().err
    assert facts["config"]["learning_rate"] == pytest.approx(2e-3 / 3)
    assert [(item["update"], item["loss"]) for item in facts["history"]] == [(0, 5.0), (4, 6.0), (8, 4.0)]
    assert (facts["updates"], facts["best"]["update"]) == (8, 8)
    chosen = replace(QUICK, learning_rate=1e-3)
    facts = fine_tune.run(str(run_folder), "fi-en", tmp_path / "chosen", text, chosen)
    assert (facts["updates"], facts["best"]["update"]) == (4, 0)
