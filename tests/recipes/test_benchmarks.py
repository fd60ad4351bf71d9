"""The scripts of benchmarks and experiments run, and do what they promise."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np

from metanmt.data.language import Pair
from metanmt.data.store import TokenStore
from scripts.gpu_evidence import extract
from tests.recipes.conftest import SETTINGS

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


def output(command: list[str | Path], status: int = 0) -> str:
    """Return what a command prints; what it says, if it is to fail."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, env=environment)
    assert result.returncode == status, result.stderr
    return result.stderr if status else result.stdout


def rows(script: str, *arguments: str | Path) -> list[list[str]]:
    """Return the cells of the table that a script prints, its header first."""
    text = output([sys.executable, ROOT / "scripts" / script, *arguments])
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
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


def test_memory(data: Path) -> None:
    header, *found = rows("bench_memory.py", data, "--learners", "joint", "--steps", "1", "--rounds", "1")
    assert header[:3] == ["learner", "memory", "tokens a CPU second"]
    assert [row[:2] for row in found] == [["joint", "kept"], ["joint", "returned"]]
    assert all(float(row[2].replace(",", "")) > 0 for row in found)


def test_utilization(data: Path) -> None:
    text = output(
        [sys.executable, ROOT / "scripts" / "bench_utilization.py", data, "--steps", "2", "--max-tokens", "100"]
    )
    lines = [[cell.strip() for cell in line.split("|")] for line in text.splitlines() if line.startswith("|")]
    found = {cells[1]: cells[2] for cells in lines}
    assert 0 < float(found["utilisation of the model"].rstrip("%")) < 100
    assert 0 <= float(found["padding"].rstrip("%")) < 50
    assert "aten::mm" in found


def test_packed_data_is_a_smaller_data_folder(data: Path, tmp_path: Path) -> None:
    file, whole = tmp_path / "data.tar.xz", TokenStore.open(data)
    sizes = {str(pair): whole.sets(pair)["train"]["target_tokens"] for pair in whole.pairs("meta-train")}
    wanted = sum(sizes.values()) * 2 // 3
    output([sys.executable, ROOT / "scripts" / "pack_data.py", data, file, "--target-tokens", str(wanted)])
    with tarfile.open(file) as archive:
        extract(archive, tmp_path)
    packed = TokenStore.open(tmp_path / "data")
    kept = {str(pair): packed.sets(pair)["train"]["target_tokens"] for pair in packed.pairs("meta-train")}
    assert 0.9 * wanted < sum(kept.values()) <= 1.02 * wanted
    assert all(kept[pair] < size for pair, size in sizes.items() if size == max(sizes.values()))
    pair, found = Pair("de", "en"), packed.bitext(Pair("de", "en"))
    known = {tuple(whole.bitext(pair).source.sentence(i)): i for i in range(len(whole.bitext(pair)))}
    for index in range(len(found)):
        place = known[tuple(found.source.sentence(index))]
        assert np.array_equal(found.target.sentence(index), whole.bitext(pair).target.sentence(place))
        assert found.target_words[index] == whole.bitext(pair).target_words[place]
    unseen = Pair("fi", "en")
    assert packed.sets(unseen) == whole.sets(unseen)
    assert {path.name for path in (tmp_path / "data" / "text" / "fi-en").iterdir()} == {
        f"{name}.{side}" for name in ("dev", "test", "test-late") for side in ("fi", "en")
    }


def test_the_evidence_goes_there_and_comes_back(data: Path, tmp_path: Path) -> None:
    """Stopped at once, then run to its end in another call, then shown elsewhere, where nothing is trained."""
    settings = ", ".join(f'"{item}"' for item in (*SETTINGS, "outer.max_target_tokens=1000", "fine_tune.min_updates=3"))
    lines = ['corpus = "x"', f"set = [{settings}]", "budgets = [0, 100]", "draws = [1]", "beam = 1", "[arms.joint]"]
    comparison = tmp_path / "toy.toml"
    comparison.write_text("\n".join([*lines, 'learner = "joint"']) + "\n", encoding="utf-8")
    packed, out, home = tmp_path / "data.tar.xz", tmp_path / "out", tmp_path / "home"
    output([sys.executable, ROOT / "scripts" / "pack_data.py", data, packed])

    def act(what: str, work: Path, *more: str, status: int = 0) -> str:
        script = ROOT / "scripts" / "gpu_evidence.py"
        command = [sys.executable, script, what, packed, out, work, "--comparisons", comparison, *more]
        return output(command, status=status)

    act("run", tmp_path / "there", "--seconds", "61", "--jobs", "1")
    assert not (out / "toy.md").read_text(encoding="utf-8")
    assert "not complete" in act("show", home, status=1)
    act("run", tmp_path / "there", "--seconds", "400", "--jobs", "1")
    assert list((tmp_path / "there").rglob("*.safetensors"))
    table = act("show", home)
    assert table == (out / "toy.md").read_text(encoding="utf-8")
    assert "| joint" in table
    assert not list(home.rglob("*.safetensors"))
