"""What the README and the guide say is true: the commands parse, the loop is the program's, the manifest loads."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from metanmt import help_texts
from metanmt.cli import parser
from metanmt.config import Config, InnerConfig, OuterConfig
from metanmt.data.manifest import load_manifest
from metanmt.data.tokenizer import SentencePieceTokenizer
from metanmt.meta.outer import outer_step
from metanmt.meta.task import Episode
from metanmt.nmt.checkpoint import save_checkpoint
from metanmt.nmt.tuning import LARGEST_DEV, SMALLEST_DEV
from tests import toy
from tests.meta.quadratic import Parabola, Quadratic, Weight, episode_of, learner_of
from tests.nmt.test_adapter import make_patch

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
GUIDE = (ROOT / "docs" / "GUIDE.md").read_text(encoding="utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    found = []
    for document in DOCUMENTS:
        for block in blocks("sh", document.read_text(encoding="utf-8")):
            for line in block.replace("\\\n", " ").splitlines():
                found += re.findall(r"(?:^|\| )(metanmt [^<>#|]*)", line)
        found += re.findall(r"`(metanmt [a-z-]+ [^`]*)`", document.read_text(encoding="utf-8"))
    return sorted(set(found))


@pytest.mark.parametrize("command", commands())
def test_every_command_parses(command: str) -> None:
    parser().parse_args(shlex.split(command)[1:])


def test_there_are_commands_of_every_kind() -> None:
    kinds = {command.split()[1] for command in commands()}
    assert kinds == {
        "prepare",
        "vectors",
        "meta-train",
        "fine-tune",
        "translate",
        "evaluate",
        "demo",
        "compare",
        "report",
        "export",
        "curve",
    }


def anchors(document: Path) -> set[str]:
    """Return what links to the headings of a document end in, as GitHub makes it."""
    headings = re.findall(r"^#+ (.*)", document.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_link_and_script_exists() -> None:
    for document in DOCUMENTS:
        for target, anchor in re.findall(r"\]\(([^)#:]*)#?([^):]*)\)", document.read_text(encoding="utf-8")):
            path = document.parent / target if target else document
            assert path.exists(), f"{document.name} links to {target}"
            assert not anchor or anchor in anchors(path), f"{document.name} links to {target}#{anchor}"
    for script in re.findall(r"^scripts/\w+", README, flags=re.MULTILINE):
        assert (ROOT / script).is_file()


def test_the_ten_line_loop_is_the_programs_loop() -> None:
    loop = next(block for block in blocks("python") if "sampler.meta_batch" in block)
    assert len(loop.splitlines()) <= 10
    episodes = [Episode(None, (task,) * 2, task) for task in (Parabola(2, 1), Parabola(0.5, -1))]  # type: ignore[arg-type]
    inner, outer = InnerConfig(steps=2, learning_rate=0.1), OuterConfig(clip_norm=0, meta_batch_size=2)

    class Sampler:
        def meta_batch(self, step: int, inner_steps: int) -> list[Episode]:
            return episodes

    printed, ours = Weight(3.0), Weight(3.0)
    names = {
        "steps": 3,
        "optimizer": torch.optim.SGD(printed.parameters(), lr=0.1),
        "sampler": Sampler(),
        "inner_steps": 2,
        "learner": learner_of("fomaml", printed, inner),
        "initialization": printed,
        "loss": Quadratic(),
        "meta_batch_size": 2,
    }
    exec(loop, names)
    optimizer, learner = torch.optim.SGD(ours.parameters(), lr=0.1), learner_of("fomaml", ours, inner)
    for _ in range(3):
        outer_step(ours, episodes, optimizer, learner, outer, Quadratic())
    assert torch.equal(printed.shared, ours.shared)
    assert printed.shared.item() != 3.0


def test_the_learner_that_contributing_shows_works() -> None:
    [example] = [block for block in blocks("python", CONTRIBUTING) if "LEARNER" in block]
    names: dict[str, Any] = {}
    exec(example, names)
    theta, inner = Weight(3.0), InnerConfig(steps=2, learning_rate=0.1)
    learner = names["LEARNER"](theta, Config(inner=inner))
    episodes = [episode_of(learner, task) for task in (Parabola(2, 1), Parabola(0.5, -1), Parabola(1, 9))]
    optimizer = torch.optim.SGD(theta.parameters(), lr=0.3)
    outer_step(theta, episodes, optimizer, learner, OuterConfig(clip_norm=0, meta_batch_size=3), Quadratic())
    assert theta.shared.item() == pytest.approx(3.0 - 0.3 * (1 + 1 - 1) / 3)


def test_adapters_beside_each_other_load_without_a_report(
    tokenizer: SentencePieceTokenizer, toy_model: PreTrainedModel, tmp_path: Path
) -> None:
    save_checkpoint(tmp_path / "run" / "best", toy_model, tokenizer, toy.PAIR)
    for name in ("fi", "ro"):
        (tmp_path / name).symlink_to(make_patch(tmp_path / "run" / "best", tokenizer, name, 1.0))
    [program] = [block for block in blocks("python", GUIDE) if "load_adapter" in block]
    environment = {name: value for name, value in os.environ.items() if name != "TRANSFORMERS_VERBOSITY"}
    command = [sys.executable, "-c", program]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "LOAD REPORT" not in result.stderr


@pytest.mark.parametrize("text", [README, help_texts.COMMANDS["fine-tune"][1]], ids=["README", "help"])
def test_what_is_held_out_is_what_is_said(text: str) -> None:
    assert re.search(rf"a tenth\b.*\b{SMALLEST_DEV} to {LARGEST_DEV} pairs", text)


def test_the_manifest_loads(tmp_path: Path) -> None:
    path = tmp_path / "guide.toml"
    [manifest] = blocks("toml", GUIDE)
    path.write_text(manifest, encoding="utf-8")
    roles = {str(item.pair): item.role for item in load_manifest(path).pairs}
    assert roles == {"de-en": "meta-train", "cs-en": "meta-train", "lv-en": "meta-dev", "fi-en": "meta-test"}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_nothing_is_left_to_fill_in(document: Path) -> None:
    assert "@@" not in document.read_text(encoding="utf-8")
