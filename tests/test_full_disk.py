"""No space, no permission, a limit on file sizes: one line of cause, one of remedy, and nothing good is lost."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from safetensors import SafetensorError

from metanmt.cli import MISTAKE, main
from metanmt.errors import UsageError
from metanmt.files import damage, named_errors, new_folder, refuse_existing, remove_leftovers, write_digests, write_text

ROOT = Path(__file__).parents[1]
NUMBERS = {
    errno.ENOSPC: "--resume",
    errno.EDQUOT: "--resume",
    errno.EFBIG: "ulimit",
    errno.EROFS: "written to",
    errno.EACCES: "permissions",
    errno.EPERM: "permissions",
    errno.EIO: "disk",
    errno.ENOENT: "path",
    errno.ENOTDIR: "path",
}


@pytest.mark.parametrize("number", NUMBERS, ids=lambda number: errno.errorcode[number])
def test_one_line_of_cause_and_one_of_remedy(
    number: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from metanmt.recipes import prepare

    def failing(*arguments: Any, **more: Any) -> None:
        with named_errors(Path("some/folder")):
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(prepare, "run", failing)
    assert main(["prepare", "cldr", "--out", "never"]) == MISTAKE
    cause, remedy = capsys.readouterr().err.rstrip("\n").split("\n")
    assert cause == f"metanmt: some/folder: {os.strerror(number)}."
    assert NUMBERS[number] in remedy


def test_errors_of_rust_libraries_are_errors_of_the_operating_system(tmp_path: Path) -> None:
    """safetensors and tokenizers tell them in their text only."""
    with pytest.raises(OSError, match="No space left") as error, named_errors(tmp_path / "model"):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    assert (error.value.errno, error.value.filename) == (errno.ENOSPC, str(tmp_path / "model"))
    with pytest.raises(SafetensorError), named_errors(tmp_path):
        raise SafetensorError("Error while deserializing header: header too small")
    with pytest.raises(UsageError), named_errors(tmp_path):
        raise UsageError("It says (os error 28) itself.", "Keep it.")


def test_a_real_limit_reaches_safetensors_too(tmp_path: Path) -> None:
    program = (
        "import pathlib, resource, torch\n"
        "from safetensors.torch import save_file\n"
        "from metanmt.files import new_folder\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))\n"
        "try:\n"
        "    with new_folder(pathlib.Path('new')) as folder:\n"
        "        save_file({'weight': torch.zeros(100_000)}, str(folder / 'model.safetensors'))\n"
        "except OSError as error:\n"
        "    print(error.errno, error.filename)\n"
    )
    result = run([sys.executable, "-c", program], tmp_path)
    assert result.stdout.split() == [str(errno.EFBIG), "new"], result.stderr
    assert list(tmp_path.iterdir()) == []


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_write_text_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "config.toml"
    write_text(path, "old")

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space") as error:
        write_text(path, "new")
    assert error.value.filename == str(path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_overwritten_folder_is_there_whole(tmp_path: Path) -> None:
    path = tmp_path / "tuned"
    with new_folder(path) as folder:
        (folder / "a").write_text("old")
    with new_folder(path, overwrite=True) as folder:
        (folder / "a").write_text("new")
        assert (path / "a").read_text() == "old"
    assert (path / "a").read_text() == "new"


@pytest.mark.parametrize("calls", [1, 2])
def test_a_folder_being_overwritten_survives_a_kill(tmp_path: Path, calls: int) -> None:
    """The process dies behind the first rename, when neither folder has the name, and behind the second."""
    with new_folder(tmp_path / "tuned") as folder:
        (folder / "a").write_text("old")
    program = (
        "import os, pathlib\n"
        "from metanmt.files import new_folder\n"
        "rename, calls = pathlib.Path.replace, []\n"
        "def renamed(path, target):\n"
        "    rename(path, target)\n"
        "    calls.append(target)\n"
        f"    if len(calls) == {calls}:\n"
        "        os._exit(9)\n"
        "pathlib.Path.replace = renamed\n"
        "with new_folder(pathlib.Path('tuned'), overwrite=True) as folder:\n"
        "    (folder / 'a').write_text('new')\n"
    )
    assert run([sys.executable, "-c", program], tmp_path).returncode == 9
    assert (tmp_path / "tuned").exists() == (calls == 2)
    remove_leftovers(tmp_path)
    assert [item.name for item in tmp_path.iterdir()] == ["tuned"]
    assert (tmp_path / "tuned" / "a").read_text() == ("old" if calls == 1 else "new")


def test_a_folder_that_another_process_wrote_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "tuned"

    def write() -> None:
        with new_folder(path) as folder:
            (folder / "a").write_text("mine")
            path.mkdir()
            (path / "a").write_text("theirs")

    with pytest.raises(UsageError, match="meanwhile") as error:
        write()
    assert (path / "a").read_text() == "theirs"
    [beside] = [item for item in tmp_path.iterdir() if item != path]
    assert (beside / "a").read_text() == "mine"
    assert str(beside) in error.value.remedy


def test_work_that_is_done_is_not_lost_where_the_name_was_taken_before_it_is_saved(tmp_path: Path) -> None:
    (tmp_path / "tuned").mkdir()
    (tmp_path / "tuned" / "a").write_text("theirs")

    def save(*, refuse: bool) -> None:
        with new_folder(tmp_path / "tuned", refuse=refuse) as folder:
            (folder / "a").write_text("mine")

    with pytest.raises(UsageError, match="exists already"):
        save(refuse=True)
    with pytest.raises(UsageError, match="meanwhile"):
        save(refuse=False)
    assert {(item / "a").read_text() for item in tmp_path.iterdir()} == {"mine", "theirs"}


def test_a_link_to_a_folder_stays_one(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    path = tmp_path / "link"
    path.symlink_to("disk")
    for text in ("first", "second"):
        with new_folder(path, overwrite=True) as folder:
            (folder / "a").write_text(text)
    assert path.is_symlink()
    assert (tmp_path / "disk" / "a").read_text() == "second"
    assert sorted(item.name for item in tmp_path.iterdir()) == ["disk", "link"]


@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="there is no second file system")
def test_a_link_to_another_file_system(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as other:
        link = tmp_path / "link"
        link.symlink_to(Path(other) / "new")  # which is not there yet
        for text in ("first", "second"):
            with new_folder(link, overwrite=True) as folder:
                (folder / "a").write_text(text)
        assert (Path(other) / "new" / "a").read_text() == "second"


def test_where_the_process_works_may_be_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with new_folder(tmp_path / "new") as folder:
        (folder / "a").write_text("saved")
    assert (tmp_path / "new" / "a").read_text() == "saved"


def test_what_was_to_be_replaced_comes_back_if_it_could_not_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "tuned"
    with new_folder(path) as folder:
        (folder / "a").write_text("old")
    rename, calls = Path.replace, 0

    def failing(this: Path, target: Path) -> Path:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise OSError(errno.EIO, "Input/output error")
        return rename(this, target)

    monkeypatch.setattr(Path, "replace", failing)
    with pytest.raises(OSError, match="Input/output"), new_folder(path, overwrite=True) as folder:
        (folder / "a").write_text("new")
    assert (path / "a").read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_process_was_replacing_is_found_before_the_work(tmp_path: Path) -> None:
    left = tmp_path / ".tuned.replaced.999999999.tmp"
    left.mkdir()
    (left / "a").write_text("old")
    with pytest.raises(UsageError, match="exists already"):
        refuse_existing(tmp_path / "tuned")
    assert (tmp_path / "tuned" / "a").read_text() == "old"


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_whom_the_umask_lets_may_read(tmp_path: Path, umask: int, mode: int) -> None:
    """Libraries write some files for their owner alone."""
    before = os.umask(umask)
    try:
        with new_folder(tmp_path / "new") as folder:
            (folder / "weights").touch(mode=0o600)
    finally:
        os.umask(before)
    assert (tmp_path / "new" / "weights").stat().st_mode & 0o777 == mode


def test_folders_that_could_not_be_put_in_place_are_refused_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for path in (Path(), Path(".."), tmp_path.parent):
        with pytest.raises(UsageError, match="the folder you are in"), new_folder(path, overwrite=True):
            raise AssertionError
    with pytest.raises(UsageError, match="mount point") as error:
        refuse_existing(Path("/proc"), overwrite=True)
    assert "/proc/NAME" in error.value.remedy
    refuse_existing(Path(), in_place=True)
    (tmp_path / "mine").mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name == "mine")
    refuse_existing(tmp_path / "mine", in_place=True)
    with pytest.raises(PermissionError) as refused:
        refuse_existing(tmp_path / "mine")
    assert refused.value.filename == str(tmp_path)


def test_digests_tell_any_change(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"one")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "c").write_bytes(b"")
    assert damage(tmp_path) == "digests.json is missing"
    write_digests(tmp_path)
    assert damage(tmp_path) is None
    (tmp_path / "b" / "c").write_bytes(b"x")
    assert damage(tmp_path) == "b/c is not what was written"
    (tmp_path / "b" / "c").unlink()
    assert damage(tmp_path) == "c is missing"
    (tmp_path / "digests.json").write_text("[1]")
    assert damage(tmp_path) == "digests.json is not what was written"
