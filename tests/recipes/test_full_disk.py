"""Meta-training on a disk that fills up, for real and in play: its last good checkpoint stays, and resume goes on."""

from __future__ import annotations

import errno
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from metanmt.cli import MISTAKE, main
from metanmt.meta import run as run_module
from metanmt.recipes import meta_train
from scripts.kill_test import differences, fingerprint
from tests.recipes.conftest import SETTINGS

SHORT = ("outer.max_target_tokens=2500", "validation.times=1", "run.checkpoint_minutes=0")


def arguments(data: Path, out: Path) -> list[str]:
    (data.parent / "empty.toml").write_text("", encoding="utf-8")
    settings = [part for setting in (*SETTINGS, *SHORT) for part in ("--set", setting)]
    return ["meta-train", str(data.parent / "empty.toml"), "--data", str(data), "--out", str(out), *settings]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, data: Path) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("whole") / "run"
    assert main(arguments(data, out)) == 0
    return fingerprint(out)


@pytest.mark.parametrize("where", ["checkpoint", "metrics"])
def test_a_full_disk(
    where: str,
    data: Path,
    tmp_path: Path,
    whole: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """`capsys` sees two lines, exit code 2; `--resume` ends with the bits of a run that had space."""
    count = 0

    def full(*given: Any, **more: Any) -> None:
        nonlocal count
        count += 1
        if count > 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        plain(*given, **more)

    target, name = (run_module, "save_file") if where == "checkpoint" else (run_module.Board, "add")
    plain = getattr(target, name)
    monkeypatch.setattr(target, name, full)
    out = tmp_path / "run"
    assert main(arguments(data, out)) == MISTAKE
    said = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("fomaml: ")]
    assert len(said) == 2, said
    assert "No space left on device" in said[0]
    assert str(out) in said[0]
    assert "--resume" in said[1]
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == ["step-00000002", "step-00000003"]
    assert not list(out.rglob(".*.tmp"))
    monkeypatch.undo()
    assert main([*arguments(data, out), "--resume"]) == 0
    assert differences(whole, fingerprint(out)) == []


def test_a_really_full_disk(data: Path, tmp_path: Path, whole: dict[str, Any]) -> None:
    """A file system of 14 MiB, in a mount namespace of its own; the run is copied off it and goes on."""
    probe = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    disk, out = tmp_path / "disk", tmp_path / "run"
    disk.mkdir()
    mount = f"mount -t tmpfs -o size=14m none {disk}"
    if not shutil.which("unshare") or subprocess.run([*probe, mount], capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    command = " ".join([sys.executable, "-m", "metanmt", *arguments(data, disk / "run")])
    script = f"{mount} && {{ {command}; code=$?; cp -a {disk / 'run'} {out}; exit $code; }}"
    result = subprocess.run([*probe, script], capture_output=True, text=True, check=False)
    said = result.stderr.splitlines()
    assert result.returncode == MISTAKE, said
    assert "No space left on device" in said[-2]
    assert "--resume" in said[-1]
    assert "Traceback" not in result.stderr
    assert not list(out.rglob(".*.tmp"))
    assert main([*arguments(data, out), "--resume"]) == 0
    assert differences(whole, fingerprint(out)) == []


@pytest.mark.parametrize("what", ["the folder", "its checkpoints"])
def test_a_folder_that_vanishes(
    what: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plain, steps, out = meta_train.outer_step, 0, tmp_path / "run"

    def counted(*given: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps == 3:
            shutil.rmtree(out if what == "the folder" else out / "checkpoints")
        return plain(*given)

    monkeypatch.setattr(meta_train, "outer_step", counted)
    if what == "the folder":
        assert main(arguments(data, out)) == MISTAKE
        said = capsys.readouterr().err.splitlines()
        assert "vanished" in said[-2]
        assert "resume" in said[-1]
        assert not out.exists()
    else:
        assert main(arguments(data, out)) == 0
        assert (out / "best" / "model.safetensors").is_file()
