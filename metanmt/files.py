"""Files and folders that are never half-written, and no error of a disk without a name."""

from __future__ import annotations

import errno
import fcntl
import glob
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from metanmt.errors import MetanmtError, UsageError
from metanmt.runlog import say

DIGESTS = "digests.json"
OR_OVERWRITE = "Give another --out, or --overwrite to replace it."  # a remedy for an existing output
REPLACED = "replaced."  # in the temporary name of a folder that is about to be replaced


def write_text(path: Path, text: str) -> None:
    """Write a file so that it is either the old one or the new one, whatever happens in between.

    A link stays one, and what it points to is replaced; a device or a pipe is written to. What is no character, as
    in the name of a file that is not UTF-8, is written as an escape.
    """
    content = text.encode("utf-8", errors="backslashreplace")
    with named_errors(path):
        if path.exists() and not path.is_file():
            with path.open("wb") as out:
                out.write(content)
            return
        target = path.resolve()
        temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        try:
            with temporary.open("wb") as out:
                out.write(content)
                out.flush()
                os.fsync(out.fileno())
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
        sync(target.parent)


def write_json(path: Path, value: Any) -> None:
    """Write JSON by `write_text`, indented for a person."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file.

    Raises:
        ValueError: it is damaged: no JSON, not UTF-8, or valid and no object.
    """
    found = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(found, dict):
        raise ValueError(f"{path.name} holds no object")
    return found


@contextmanager
def new_folder(path: Path, *, overwrite: bool = False, refuse: bool = True) -> Iterator[Path]:
    """Yield a temporary folder that becomes `path` when the block ends well, and is removed when it does not.

    Args:
        path: the folder.
        overwrite: an existing one is replaced.
        refuse: to begin where there is one; False if that was done before the work that is now to be saved.

    Raises:
        UsageError: `path` exists and is not empty, and `overwrite` is not given; or another process wrote it
            meanwhile, and what was made here lies beside it.
        OSError: it cannot be written; with the name of a file, whichever library wrote it.
    """
    if refuse:
        refuse_existing(path, overwrite=overwrite)
    with named_errors(path):
        target = path.resolve()  # a link stays one, and what it points to is replaced
        temporary, replaced = (target.with_name(f".{target.name}.{part}{os.getpid()}.tmp") for part in ("", REPLACED))
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        try:
            yield temporary
            _readable_alike(temporary)
            sync_folder(temporary)
            if overwrite and target.exists():
                target.replace(replaced)
            _rename(temporary, target)
            sync(target.parent)
            shutil.rmtree(replaced, ignore_errors=True)
        finally:
            if replaced.exists() and not target.exists():
                replaced.replace(target)
            shutil.rmtree(temporary, ignore_errors=True)


def _readable_alike(folder: Path) -> None:
    """Let whom the umask lets read all files of a new folder: safetensors writes its own for the owner alone."""
    wanted = folder.stat().st_mode & 0o666
    for path in folder.rglob("*"):
        mode = path.stat().st_mode
        if path.is_file() and mode | wanted != mode:
            path.chmod(mode | wanted)


def _rename(finished: Path, path: Path) -> None:
    """Give a finished folder its name; if that is taken meanwhile, another one, and say so."""
    try:
        finished.replace(path)  # over an empty folder too
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        beside = path.with_name(f"{path.name}.{os.getpid()}")
        finished.replace(beside)
        raise UsageError(f"{path} was written meanwhile, by another process.", f"The result is in {beside}.") from None


def remove_folder(path: Path) -> None:
    """Remove a folder; under its name it is there whole or not at all, whatever happens in between."""
    temporary = path.with_name(f".{path.name}.old.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    path.replace(temporary)
    shutil.rmtree(temporary)


def remove_leftovers(folder: Path, pattern: str = ".*.tmp", *, of_the_dead: bool = False) -> None:
    """Remove what killed processes left half-written in a folder: `.NAME.tmp`, `.NAME.PROCESS.tmp`.

    What one was about to replace when it was killed gets its name back.

    Args:
        folder: where.
        pattern: of the names.
        of_the_dead: leave alone what a process that lives may still be writing.
    """
    for path in folder.glob(pattern):
        if of_the_dead and _alive(path.name.split(".")[-2]):
            continue
        name, _, rest = path.name.removeprefix(".").rpartition(f".{REPLACED}")
        if rest and not (folder / name).exists():
            path.replace(folder / name)
        elif path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=of_the_dead)
        else:
            path.unlink()


def _alive(process: str) -> bool:
    try:
        os.kill(int(process), 0)
    except (ProcessLookupError, ValueError):
        return False
    except PermissionError:
        pass
    return True


def refuse_existing(
    path: Path,
    *,
    overwrite: bool = False,
    marker: str = "",
    remedy: str = "Give another --out.",
    in_place: bool = False,
) -> None:
    """Refuse an output folder that cannot be made at the end of the work, before it begins.

    What a killed process left of it is mended first.

    Args:
        path: the output folder.
        overwrite: an existing one may be replaced, but never a file, nor a folder of another kind.
        marker: a file that every folder of this kind has.
        remedy: what to do about an existing one.
        in_place: it is written into as it stands, not put in place as a whole.

    Raises:
        UsageError: it exists with something in it, so that a result would be overwritten; or it is none that could be.
        OSError: it cannot be written.
    """
    target = path.resolve()
    remove_leftovers(target.parent, f".{glob.escape(target.name)}.*.tmp", of_the_dead=True)
    if path.is_file():
        raise UsageError(f"{path} is a file, not a folder.", "Give another --out.")
    if overwrite and marker and path.exists() and any(path.iterdir()) and not (path / marker).is_file():
        raise UsageError(
            f"{path} is not replaced: it has no {marker}, so this command did not write it.", "Give another --out."
        )
    if path.exists() and not overwrite and any(path.iterdir()):
        raise UsageError(f"{path} exists already.", remedy)
    if not in_place and (target.is_mount() or _is_inside(target)):
        kind = "a file system's mount point" if target.is_mount() else "the folder you are in"
        raise UsageError(
            f"{path} is {kind}, which cannot be put in place as a whole.", f"Give --out {path / 'NAME'} in it."
        )
    check_writable(target if in_place and target.exists() else target.parent)


def _is_inside(folder: Path) -> bool:
    """Return whether this process works in a folder, or below it."""
    try:
        return Path.cwd().is_relative_to(folder)
    except FileNotFoundError:  # where it works has been removed
        return False


def check_writable(folder: Path) -> None:
    """Raise an OSError if a folder, or the one that it would have to be made in, cannot be written to."""
    there = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    if not there.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(there))
    if not os.access(there, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(there))


def sync_folder(folder: Path) -> None:
    """Flush every file below a folder to the disk, so that a rename after it never shows a half-written one."""
    for path in [*folder.rglob("*"), folder]:
        sync(path)


def sync(path: Path) -> None:
    """Flush a file, or the names in a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def lock_folder(folder: Path) -> int:
    """Return a handle that locks a folder until it is closed or this process ends, in whatever way.

    Raises:
        UsageError: another process has locked it.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise UsageError(
            f"Another process is writing to {folder}.", "Wait for it, stop it, or give another --out."
        ) from None
    except OSError:
        say(f"{folder} lies on a file system without locks; take care that one process writes to it.")
    return handle


@contextmanager
def named_errors(path: Path) -> Iterator[None]:
    """Give an error of the operating system the name of a file where it has none, or two: a link and where that leads.

    Libraries written in Rust raise their own errors, with the number of the operating system's in the text; they
    become an OSError here.
    """
    try:
        yield
    except OSError as error:
        if error.errno is not None and (error.filename is None or error.filename2 is not None):
            raise OSError(error.errno, os.strerror(error.errno), str(path)) from error
        raise
    except MetanmtError:
        raise
    except Exception as error:
        if number := re.search(r"\(os error (\d+)\)", str(error)):
            code = int(number.group(1))
            raise OSError(code, os.strerror(code), str(path)) from error
        raise


def write_digests(folder: Path) -> None:
    """Write the SHA-256 of every other file below a folder to its `digests.json`."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path != folder / DIGESTS]
    write_json(folder / DIGESTS, {path.relative_to(folder).as_posix(): digest(path) for path in files})


def damage(folder: Path) -> str | None:
    """Return what is wrong with a folder by its `digests.json`, or None if it is whole.

    A file that is there but cannot be read, for want of permission or a broken disk, is an OSError and no damage.
    """
    try:
        digests = read_object(folder / DIGESTS)
        changed = [name for name, value in digests.items() if digest(folder / name) != value]
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except ValueError:
        return f"{DIGESTS} is not what was written"
    return f"{changed[0]} is not what was written" if changed else None


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
