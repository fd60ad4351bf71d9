"""Work in parallel processes: the same results, one display, and an orderly end whatever happens to whom."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from metanmt.cli import main
from metanmt.comparison import workers
from metanmt.comparison.workers import Piece, job_count, run_all, thread_count
from metanmt.errors import ConfigError, MetanmtError
from metanmt.runlog import Progress
from tests.comparison.acting import act


def run_two(folder: Path, items: Sequence[str], progress: Progress | None = None) -> None:
    pieces = [Piece(item, item, 10.0) for item in items]
    run_all(pieces, functools.partial(act, folder), 2, progress or Progress("test", 10 * len(items), "units"))


def wait_for(*paths: Path) -> None:
    deadline = time.monotonic() + 60
    while not all(path.exists() for path in paths):
        assert time.monotonic() < deadline, f"{paths} are not there"
        time.sleep(0.02)


def children() -> set[int]:
    """Return the running processes whose parent is this one."""
    found = subprocess.run(["ps", "-o", "pid=,args=", "--ppid", str(os.getpid())], capture_output=True, text=True)
    return {int(line.split()[0]) for line in found.stdout.splitlines() if "spawn_main" in line}


def test_a_piece_waits_for_the_one_it_needs(tmp_path: Path) -> None:
    pieces = [Piece("a", "a", 1), Piece("b", "b", 1, after="a"), Piece("c", "c", 1)]
    pool = workers._Pool(pieces, print, 2, Progress("test", 3, "units"))
    assert pool.ready() == pieces[0]
    pool.waiting.remove(pieces[0])
    assert pool.ready() == pieces[1]
    pool.waiting.insert(0, pieces[0])
    pool.waiting.reverse()
    assert pool.ready() == pieces[2]


def test_one_display_counts_what_all_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Recorded(Progress):
        advances: tuple[float, ...] = ()

        def advance(self, units: float, note: str = "") -> None:
            self.advances += (units,)
            super().advance(units, note)

    progress = Recorded("test", 30, "units")
    run_two(tmp_path, ["counting", "b", "c"], progress)
    assert progress.done == 30
    assert 4 in progress.advances
    assert 9 not in progress.advances
    assert progress.pieces == {}
    assert capsys.readouterr().err.splitlines() == ["counting: not finite"], "what must not be missed, and no more"
    assert {path.name for path in tmp_path.glob("* done")} == {"counting done", "b done", "c done"}
    assert not children()


def test_one_at_a_time_warns_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_all([Piece("counting", "counting", 10)], functools.partial(act, tmp_path), 1, Progress("test", 10, "units"))
    assert capsys.readouterr().err.splitlines() == ["not finite"]


def test_a_log_says_what_each_is_at() -> None:
    progress = Progress("compare", 100, "units")
    progress.pieces.update({"joint": "meta-train: 5 of 10", "none/fi-en": "fine-tune: 1 of 2"})
    lines = progress._line().split("\n")
    assert lines[0].startswith("compare: 0 of 100 units")
    assert lines[1:] == ["  joint: meta-train: 5 of 10", "  none/fi-en: fine-tune: 1 of 2"]


@pytest.mark.parametrize(
    ("item", "kind", "cause"),
    [
        ("mistaken", ConfigError, "It is wrong"),
        ("defective", ZeroDivisionError, "a defect"),
        ("killed", MetanmtError, "at work on killed was killed by SIGKILL"),
    ],
)
def test_an_error_ends_all_and_the_others_save(item: str, kind: type[Exception], cause: str, tmp_path: Path) -> None:
    with pytest.raises(kind, match=cause) as error:
        run_two(tmp_path, [item, "slow"])
    assert not children()
    assert not (tmp_path / "slow done").exists()
    assert (tmp_path / "slow saved").exists() or not (tmp_path / "slow").exists()
    if item == "killed":
        assert "fewer --jobs" in error.value.remedy
    else:
        assert "in act" in error.value.__notes__[0]
    if item == "mistaken":
        assert error.value.remedy == "Mend it."


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm_wait_until_the_workers_have_saved(kind: signal.Signals, tmp_path: Path) -> None:
    def interrupt() -> None:
        wait_for(tmp_path / "slow 1", tmp_path / "slow 2")
        os.kill(os.getpid(), kind)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt, match="the same command goes on"):
        run_two(tmp_path, ["slow 1", "slow 2", "never"])
    assert (tmp_path / "slow 1 saved").exists()
    assert (tmp_path / "slow 2 saved").exists()
    assert not (tmp_path / "never").exists()
    assert not children()


def test_a_worker_that_ends_its_piece_instead_of_leaving_is_asked_again(tmp_path: Path) -> None:
    """A stop that comes in the last moment of a piece is swallowed by it."""
    threading.Thread(target=lambda: (wait_for(tmp_path / "deaf listens"), os.kill(os.getpid(), signal.SIGINT))).start()
    with pytest.raises(KeyboardInterrupt, match="the same command goes on"):
        run_two(tmp_path, ["deaf", "slow", "never"])
    assert (tmp_path / "deaf done").exists()
    assert not (tmp_path / "never").exists()
    assert not children()


def test_how_many_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "core_count", lambda: 16)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert [job_count(None, 100), job_count(None, 3), job_count(None, 0), job_count(20, 100)] == [8, 3, 1, 20]
    assert thread_count(4) == 1  # the tests set OMP_NUM_THREADS=1
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert [thread_count(1), thread_count(5), thread_count(20)] == [16, 3, 1]
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert job_count(None, 100) == 2
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert list(workers._gpus()) == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, 5")
    assert list(workers._gpus()) == ["3", "5"]


def test_no_jobs_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["compare", "cldr", "--out", "never", "--jobs", "0"])
    assert stop.value.code == 2
    assert "0 is not above 0" in capsys.readouterr().err


def test_a_dry_run_as_json(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(file), "--out", str(tmp_path / "out"), "--dry-run", "--json"]) == 0
    planned: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert [arm["arm"] for arm in planned["arms"]] == ["none", "joint", "fomaml"]
    assert [arm["meta_training_target_tokens"] for arm in planned["arms"]] == [0, 2000, 2000]
    assert len(planned["results"]) == 8
    costs = [cell["target_tokens"] for cell in planned["results"]]
    assert planned["target_tokens"] == pytest.approx(4000 + sum(costs))
    assert min(costs) > 0
    assert not (tmp_path / "out").exists()
