"""Arms that begin with the same joint phase train it once, unless there is a process for each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from metanmt.comparison.checks import checked_plan
from metanmt.comparison.execute import missing, run, sharing
from metanmt.comparison.plan import ArmConfig, CompareConfig, load_compare
from metanmt.config import Config
from metanmt.data.store import TokenStore
from metanmt.recipes import meta_train


@pytest.fixture
def compare(file: Path) -> CompareConfig:
    return load_compare(file)


def with_arms(compare: CompareConfig, **arms: tuple[str, ...]) -> CompareConfig:
    """Return the comparison with further arms, each of the learner that its name begins with."""
    more = {name: ArmConfig(learner=name.partition("_")[0], set=settings) for name, settings in arms.items()}  # type: ignore[arg-type]
    return CompareConfig(**{**vars(compare), "arms": {**compare.arms, **more}})


def order(compare: CompareConfig, data: Path, out: Path, jobs: int) -> dict[str, tuple[str | None, float]]:
    store = TokenStore.open(data)
    plan = checked_plan(compare, store)
    pieces = sharing(plan, out, missing(plan, store, out), jobs)
    return {piece.name: (piece.after, piece.cost) for piece in pieces if piece.name in compare.arms}


def test_what_waits_for_whom_and_costs_less(compare: CompareConfig, data: Path, tmp_path: Path) -> None:
    compare = with_arms(
        compare,
        fomaml_two=("inner.steps=2",),
        reptile=(),
        fomaml_later=("outer.joint_share=0.9",),
        joint_slow=("outer.learning_rate=1e-4",),
        fomaml_slow=("outer.learning_rate=1e-4",),
        transfer=(),
        maml=("outer.joint_share=0",),
    )
    alone = order(compare, data, tmp_path / "out", jobs=9)
    [cost] = {cost for _, cost in alone.values()}
    assert {after for after, _ in alone.values()} == {None}
    shared = order(compare, data, tmp_path / "out", jobs=2)
    assert shared == {
        "joint": (None, cost),
        "fomaml": ("joint", pytest.approx(0.4 * cost)),
        "fomaml_two": ("joint", pytest.approx(0.4 * cost)),
        "reptile": (None, cost),  # a shorter one, its own
        "fomaml_later": (None, cost),
        "joint_slow": (None, cost),
        "fomaml_slow": ("joint_slow", pytest.approx(0.4 * cost)),
        "transfer": (None, cost),
        "maml": (None, cost),
    }


def test_it_is_taken_over_from_a_run_that_is_complete_too(
    compare: CompareConfig, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources: dict[str, Path | None] = {}
    plain = meta_train.run

    def watched(config: Config, data: Path, out: Path, *, resume: bool, joint_phase: Path | None) -> dict[str, Any]:
        sources[out.name] = joint_phase
        return plain(config, data, out, resume=resume, joint_phase=joint_phase)

    monkeypatch.setattr(meta_train, "run", watched)
    out = tmp_path / "out"
    run(compare, out, jobs=1)
    assert sources == {"joint": None, "fomaml": out / "runs" / "joint"}
    more = with_arms(compare, anil=())
    assert order(more, data, out, jobs=1) == {"anil": (None, pytest.approx(0.4 * 2000))}
    run(more, out, jobs=1)
    assert sources["anil"] == out / "runs" / "joint"


def test_a_damaged_one_is_trained_again(compare: CompareConfig, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(compare, out, jobs=1)
    (out / "runs" / "joint" / "joint" / "trainer.safetensors").write_bytes(b"short")
    run(with_arms(compare, anil=()), out, jobs=1)
    assert (out / "runs" / "anil" / "summary.json").is_file()
