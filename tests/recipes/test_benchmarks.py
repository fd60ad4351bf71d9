"""The benchmark scripts run, and say what they promise."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
MANIFEST = """
[tokenizer]
vocabulary_size = 330
[[groups]]
role = "meta-test"
pairs = ["fi-en"]
train = ["train"]
test = ["test"]
"""


def rows(script: str, *arguments: str | Path) -> list[list[str]]:
    """Return the cells of the table that a script prints, its header first."""
    command = [sys.executable, str(ROOT / "scripts" / script), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert result.returncode == 0, result.stderr
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in result.stdout.splitlines()]
    return [lines[0], *lines[2:]]


def test_batches(data: Path) -> None:
    header, *found = rows("bench_batches.py", data, "--setting", "100/1000/160", "200/1000/0", "--rounds", "2")
    assert [row[0] for row in found] == ["100/1000/160", "200/1000/0"]
    assert header[1:6] == ["M tokens/s", "slowest", "fastest", "per CPU s", "padding"]
    for row in found:
        assert 0 < float(row[2]) <= float(row[1]) <= float(row[3])
        assert row[5].endswith("%")


def test_prepare(tmp_path: Path) -> None:
    text, work = tmp_path / "text", tmp_path / "work"
    text.mkdir()
    work.mkdir()
    for name, numbers in (("train", range(100)), ("test", range(100, 110))):
        for side, word in (("fi", "lause"), ("en", "sentence")):
            lines = "".join(f"{word} {number * 37} {word[number % 4 :]}\n" for number in numbers)
            (text / f"{name}.{side}").write_text(lines, encoding="utf-8")
    manifest = tmp_path / "my.toml"
    manifest.write_text(MANIFEST, encoding="utf-8")
    header, *found = rows("bench_prepare.py", manifest, "--root", text, "--times", "3", "--work", work)
    assert header == ["corpus", "pairs kept", "seconds", "peak MiB"]
    assert [row[:2] for row in found] == [["3x", "310"], ["3x again", "310"]]
    assert not list(work.iterdir())
