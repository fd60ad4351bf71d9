"""A small prepared data folder and a short run, made once for all recipe tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from metanmt.config import Config
from metanmt.recipes import meta_train, prepare
from metanmt.runlog import Progress
from metanmt.sections import build, override

MANIFEST = """
name = "toy"
[tokenizer]
vocabulary_size = 700
[[groups]]
role = "meta-train"
pairs = ["de-en", "sv-en", "es-en"]
train = [{ embedded = "cldr", sentences = 400 }]
[[groups]]
role = "meta-dev"
pairs = ["lv-en"]
train = [{ embedded = "cldr", sentences = 100 }]
dev = [{ embedded = "cldr", sentences = 20, skip = 100 }]
[[groups]]
role = "meta-test"
pairs = ["fi-en"]
train = [{ embedded = "cldr", sentences = 150 }]
dev = [{ embedded = "cldr", sentences = 20, skip = 150 }]
test = [{ embedded = "cldr", sentences = 30, skip = 170 }]
test-late = [{ embedded = "cldr", sentences = 10, skip = 200 }]
"""
ALONE = """
name = "alone"
[[groups]]
role = "meta-test"
pairs = ["is-en"]
train = [{ embedded = "cldr", sentences = 100 }]
dev = [{ embedded = "cldr", sentences = 20, skip = 100 }]
test = [{ embedded = "cldr", sentences = 20, skip = 120 }]
"""
SETTINGS = (
    "outer.max_target_tokens=6000",
    "outer.meta_batch_size=2",
    "outer.warmup_steps=5",
    "outer.learning_rate=3e-3",
    "batch.max_tokens=120",
    "validation.times=2",
    "validation.updates=2",
    "validation.budget=100",
    "validation.sentences=4",
    "validation.metric=loss",
    "fine_tune.max_tokens=200",
    "run.log_every=1",
    "run.precision=float32",
)


def small_config(*more: str) -> Config:
    return build(Config, override({}, [*SETTINGS, *more]), "tests")


@contextmanager
def stopped_at_step(step: int) -> Iterator[None]:
    """Let a run that is trained within be stopped behind this step, as by Ctrl-C."""
    plain, made = meta_train._Training.step, 0

    def interrupted(self: meta_train._Training, stop_requested: bool, progress: Progress) -> bool:
        nonlocal made
        made += 1
        return plain(self, stop_requested, progress) or made == step

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(meta_train._Training, "step", interrupted)
        yield


@pytest.fixture(scope="session")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("manifest") / "toy.toml"
    path.write_text(MANIFEST, encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory, manifest: Path) -> Path:
    out = tmp_path_factory.mktemp("prepared") / "data"
    prepare.run(manifest, out)
    return out


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    out = tmp_path_factory.mktemp("runs") / "fomaml"
    meta_train.run(small_config(), data, out)
    return out


def relative_error(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    """Return the distance of two sets of weights over the norm of the first."""
    distance = sum(float((ours[name] - theirs[name]).square().sum()) for name in ours)
    return float((distance / sum(float(weight.square().sum()) for weight in ours.values())) ** 0.5)
