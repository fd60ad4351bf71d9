#!/usr/bin/env python
"""Comparisons on a GPU machine that can be had for minutes and reached with small files only.

    scripts/gpu_evidence.py pack FOLDER packed.tar.xz              at home: prepare the europe text, pack its tokens
    scripts/gpu_evidence.py run packed.tar.xz OUT --seconds 540    there: work for so long, bring what is done into OUT
    scripts/gpu_evidence.py show packed.tar.xz OUT                 at home again: the tables, also in evidence/NAME

`run` goes on where it was stopped, while its folder (`evidence`) is still there. What it brings back are translations,
scores and logs, in parts of 15 MiB, not the weights. The comparisons, one after another, share data and meta-trainings;
`--comparisons FILE ...` takes others than evidence and evidence-bible. Where metanmt is not installed, set PYTHONPATH.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PART_BYTES, PARTS = 15 << 20, "evidence.tar.xz."
BROUGHT = ("*/results/*/*/*/*", "runs/*/*.json", "runs/*/*.jsonl", "runs/*/config.toml")
STOP_SECONDS = 60  # that a stopped comparison has to save its state, and this script to pack
METANMT = [sys.executable, "-m", "metanmt"]


def extract(archive: tarfile.TarFile, folder: Path) -> None:
    """Unpack an archive of plain files; of anything else it is refused, where Python can (from 3.11.4 on)."""
    archive.extractall(folder, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))


def unpack(packed: Path, folder: Path) -> Path:
    """Return the data folder of a packed file, unpacked once; another file's data is refused."""
    digest = hashlib.sha256(packed.read_bytes()).hexdigest()
    noted = folder / "packed.sha256"
    if noted.is_file() and noted.read_text() != digest:
        sys.exit(f"{folder} holds other data than {packed}. Give another folder, or remove it.")
    if not noted.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(folder / "data", ignore_errors=True)
        try:
            with tarfile.open(packed) as archive:
                extract(archive, folder)
        except tarfile.ReadError:
            sys.exit(f"{packed} is no packed file. Make one: scripts/gpu_evidence.py pack FOLDER packed.tar.xz")
        noted.write_text(digest)
    return folder / "data"


def compare(comparison: str, work: Path, *more: str) -> list[str]:
    """Return the command of a comparison in the folder of work."""
    out = work / Path(comparison).stem
    shared = ["--data", str(work / "data"), "--runs", str(work / "runs")]
    return [*METANMT, "compare", comparison, "--out", str(out), *shared, *more]


def pack(folder: Path, packed: Path) -> None:
    """Prepare the europe collection, and write its tokens as one small file."""
    packed.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=packed.parent) as work:
        data = Path(work) / "data"
        prepare = ["prepare", str(ROOT / "corpora" / "europe.toml"), "--root", str(folder), "--out", str(data)]
        subprocess.run([*METANMT, *prepare], check=True)
        subprocess.run([sys.executable, str(ROOT / "scripts" / "pack_data.py"), str(data), str(packed)], check=True)


def run(packed: Path, out: Path, comparisons: list[str], work: Path, seconds: float, jobs: int) -> int:
    """Run the comparisons for so long, bring back what there is, and return the exit status."""
    until = time.monotonic() + seconds - STOP_SECONDS
    unpack(packed, work)
    out.mkdir(parents=True, exist_ok=True)
    status = 0
    for comparison in comparisons:
        left = until - time.monotonic()
        table = out / f"{Path(comparison).stem}.md"
        status = stopped_after(left, compare(comparison, work, "--jobs", str(jobs)), table) if left > 0 else 130
        if status:
            break
    bring(work, out)
    print("Stopped; the same command goes on." if status == 130 else f"Done, exit status {status}.", file=sys.stderr)
    return 0 if status == 130 else status


def stopped_after(seconds: float, command: list[str], table: Path) -> int:
    """Return the exit status of a command whose output is a file; 130 if it had to be stopped, by Ctrl-C as well."""
    with table.open("w", encoding="utf-8") as file:
        # What a shell starts in the background ignores Ctrl-C, and so would its children.
        process = subprocess.Popen(command, stdout=file, preexec_fn=heed_interrupts)
        try:
            return process.wait(seconds)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            process.send_signal(signal.SIGINT)
        try:
            process.wait(STOP_SECONDS / 2)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        return 130


def heed_interrupts() -> None:
    """Let a new process be stopped by SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def bring(work: Path, out: Path) -> None:
    """Write results and logs, not the weights, into parts of one archive."""
    for old in out.glob(f"{PARTS}*"):
        old.unlink()
    files = [path for pattern in BROUGHT for path in work.glob(pattern) if path.is_file()]
    whole = out / "evidence.tar.xz"
    with tarfile.open(whole, "w:xz") as archive:
        for path in sorted(files):
            if not any(part.startswith(".") for part in path.relative_to(work).parts):
                archive.add(path, path.relative_to(work))
    with whole.open("rb") as file:
        number = 0
        while part := file.read(PART_BYTES):
            (out / f"{PARTS}{number:02d}").write_bytes(part)
            number += 1
    whole.unlink()


def show(packed: Path, out: Path, work: Path, comparisons: list[str]) -> int:
    """Print the tables of what came back; nothing is trained here."""
    unpack(packed, work)
    parts = sorted(out.glob(f"{PARTS}*"))
    if not parts:
        sys.exit(f"{out} has no {PARTS}*: `run` brings them.")
    with tempfile.TemporaryFile() as whole:
        for part in parts:
            whole.write(part.read_bytes())
        whole.seek(0)
        with tarfile.open(fileobj=whole) as archive:
            extract(archive, work)
    for comparison in comparisons:
        planned = subprocess.run(compare(comparison, work, "--dry-run", "--json"), check=True, stdout=subprocess.PIPE)
        if left := json.loads(planned.stdout)["target_tokens"]:
            print(f"{comparison} is not complete: {left:,.0f} target tokens are left.", file=sys.stderr)
            return 1
        subprocess.run(compare(comparison, work), check=True)
    return 0


def main() -> None:
    """Pack, run or show, as asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("pack", "run", "show"))
    parser.add_argument("first", type=Path, help="pack: the text; run, show: the packed file")
    parser.add_argument("second", type=Path, help="pack: the packed file; run, show: what is brought back")
    parser.add_argument("work", type=Path, nargs="?", default=Path("evidence"), help="folder to work in: evidence")
    parser.add_argument("--comparisons", nargs="+", default=["evidence", "evidence-bible"], metavar="FILE")
    parser.add_argument("--seconds", type=float, default=540, help=f"run: in all, {STOP_SECONDS} of them to stop in")
    parser.add_argument("--jobs", type=int, default=8, help="run: processes that share the GPU")
    given = parser.parse_args()
    for path in (given.first, *((given.second,) if given.what == "show" else ())):
        if not path.exists():
            sys.exit(f"There is no {path}.")
    if given.what == "pack":
        try:
            pack(given.first, given.second)
        except subprocess.CalledProcessError as error:  # which has said why
            sys.exit(error.returncode)
    elif given.what == "run":
        sys.exit(run(given.first, given.second, given.comparisons, given.work, given.seconds, given.jobs))
    else:
        sys.exit(show(given.first, given.second, given.work, given.comparisons))


if __name__ == "__main__":
    main()
