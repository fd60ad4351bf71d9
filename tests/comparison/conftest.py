"""A small comparison, run once: two learners and from scratch, one pair, zero-shot and one budget, two draws."""

from __future__ import annotations

from pathlib import Path

import pytest

from metanmt.recipes import prepare
from tests.recipes.conftest import MANIFEST, SETTINGS

COMPARE = """
name = "toy"
data = "{data}"
set = [{settings}]
budgets = [0, 100]
draws = [1, 2]
beam = 1
test_sets = ["test", "test-late"]
[arms.none]
learner = "none"
[arms.joint]
learner = "joint"
[arms.fomaml]
learner = "fomaml"
"""
MORE = (
    "outer.max_target_tokens=2000",
    "fine_tune.min_updates=3",
    "fine_tune.max_epochs=2",
    "fine_tune.evaluations=1",
    "fine_tune.metric=loss",  # so small a model gains by it, and so its weights move
)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compared")
    (folder / "toy.toml").write_text(MANIFEST, encoding="utf-8")
    prepare.run(folder / "toy.toml", folder / "data")
    return folder / "data"


@pytest.fixture(scope="session")
def file(data: Path) -> Path:
    settings = ", ".join(f'"{setting}"' for setting in (*SETTINGS, *MORE))
    path = data.parent / "compare.toml"
    path.write_text(COMPARE.format(data=data, settings=settings), encoding="utf-8")
    return path
