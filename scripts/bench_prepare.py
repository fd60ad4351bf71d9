#!/usr/bin/env python
"""Seconds and peak memory of `metanmt prepare`, at the corpus as it is, at several times it, and when repeated.

    scripts/bench_prepare.py MANIFEST --root FOLDER [--times 1 4] [--work FOLDER]

Every preparation runs in a process of its own. A corpus of n times is the text n times over: what the manifest calls
training text below the root is copied, plain, with a word of its own at the end of every line of copy 2 to n, so that
no line is dropped as a duplicate. It lies below --work (default: the temporary folder) and is deleted at the end, as
are the prepared folders.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path


def main() -> None:
    """Prepare the collection at every size, each in a process of its own, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--times", type=int, nargs="+", default=[1, 4], metavar="N")
    parser.add_argument("--work", type=Path, help="where copies and prepared folders lie meanwhile")
    parser.add_argument("--one", type=Path, metavar="OUT", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(_child(arguments.manifest, arguments.root, arguments.one)))
        return

    from metanmt.report import table

    rows = []
    for times in arguments.times:
        with tempfile.TemporaryDirectory(dir=arguments.work) as work:
            root = arguments.root if times == 1 else Path(work) / "corpus"
            if times > 1:
                _multiply(arguments.manifest, arguments.root, root, times)
            for name in (f"{times}x", f"{times}x again"):
                command = [sys.executable, __file__, str(arguments.manifest), "--root", str(root)]
                result = subprocess.run(
                    [*command, "--one", str(Path(work) / "data")], stdout=subprocess.PIPE, text=True, check=True
                )
                found = json.loads(result.stdout)
                rows.append([name, f"{found['pairs']:,}", f"{found['seconds']:.1f}", f"{found['mebibytes']:,.0f}"])
    print(table(["corpus", "pairs kept", "seconds", "peak MiB"], rows))


def _child(manifest: Path, root: Path, out: Path) -> dict[str, float]:
    """Prepare in a process below this one, which has no other, and return what it took."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "metanmt", "prepare", str(manifest), "--root", str(root), "--out", str(out)]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    seconds = time.perf_counter() - started
    scale = 2**20 if sys.platform == "darwin" else 2**10
    report = json.loads((out / "data.json").read_text(encoding="utf-8"))["report"]
    return {
        "pairs": sum(item["kept"] for item in report),
        "seconds": seconds,
        "mebibytes": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / scale,
    }


def _multiply(manifest: Path, root: Path, out: Path, times: int) -> None:
    """Write the files of a collection below another root, those of training sets `times` over."""
    from metanmt.data.compression import COMPRESSIONS
    from metanmt.data.manifest import kind_of, load_manifest
    from metanmt.data.sources import read_lines

    items = [entry for item in load_manifest(manifest, root=root).pairs for entry in item.sets.items()]
    if other := next((source for _, sources in items for source in sources if not source.paths), None):
        sys.exit(f"Text of files alone can be had several times over, not {other.kind} {other}. Give --times 1.")
    training = {path: kind_of(name) == "train" for name, sources in items for s in sources for path in s.paths}
    columns = {path: s.columns for _, sources in items for s in sources if s.kind == "jsonl" for path in s.paths}
    for path, multiplied in training.items():
        if not path.is_file():
            continue
        name = path.relative_to(root)
        target = out / (name.with_suffix("") if name.suffix in COMPRESSIONS else name)
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("w", encoding="utf-8", newline="\n") as lines:
            for copy in range(times if multiplied else 1):
                for line in read_lines(path):
                    lines.write(f"{_marked(line, copy, columns.get(path))}\n" if copy else f"{line}\n")


def _marked(line: str, copy: int, columns: Sequence[int | str] | None) -> str:
    """Return a line with a word of its own at its end; of JSONL in the fields of both sides."""
    if columns is None:
        return f"{line} {copy}"
    row = json.loads(line)
    for column in map(str, columns):
        *above, last = column.split(".")
        inner = row
        for key in above:
            inner = inner[key]
        inner[last] = f"{inner[last]} {copy}"
    return json.dumps(row, ensure_ascii=False)


if __name__ == "__main__":
    main()
