"""Several processes under torchrun: the same weights as one, and a run that survives the death of one."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from metanmt.config import Config
from metanmt.config_file import load_config
from metanmt.data.store import TokenStore
from metanmt.data.tokenizer import load_tokenizer
from metanmt.errors import ConfigError, UsageError
from metanmt.meta.distributed import Ranks
from metanmt.nmt.model import make_model
from metanmt.recipes import meta_train
from tests.recipes.conftest import SETTINGS, relative_error, small_config

MORE = (
    "outer.max_target_tokens=4000",
    "model.dropout=0.2",
    "outer.meta_batch_size=3",
    "outer.joint_share=0.3",
    "outer.optimizer=adamw",
)


def tiny(*settings: str) -> Config:
    """Return the configuration that `torchrun` is given."""
    return load_config(Path("tiny"), [*SETTINGS, *settings])


def torchrun(
    data: Path, out: Path, *more: str, config: str = "tiny", settings: tuple[str, ...] = MORE
) -> subprocess.Popen[str]:
    """Start two processes that meta-train together, as the help says; by a file of settings, or a small one."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "metanmt", "meta-train", config, "--data", str(data), "--out", str(out), *more]
    for setting in (*SETTINGS, *settings) if config == "tiny" else ():
        command += ["--set", setting]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def smooth(data: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A start without ReLUs: sums in another order, as of two processes, may move a unit across the kink of one.

    That is 3e-5 of the weights, with one seed on one processor and with another on the next.
    """
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("smooth")
    make_model(tiny().model, load_tokenizer(TokenStore.open(data).tokenizer_folder)).save_pretrained(folder)
    facts = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert facts["activation_function"] == "relu"
    (folder / "config.json").write_text(json.dumps({**facts, "activation_function": "gelu"}), encoding="utf-8")
    return f"model.checkpoint={folder}"


@pytest.mark.parametrize(
    ("learner", "optimizer", "largest_error"),
    [
        ("fomaml", "adamw", 1e-5),
        ("joint", "adamw", 1e-5),  # with languages that are met as new ones
        ("meta-sgd", "adamw", 1e-5),
        ("transfer", "adamw", 1e-5),
        ("fomaml", "muon", 1e-3),  # makes its matrices orthogonal in bfloat16, which has 8 bits
    ],
)
def test_two_processes_equal_one(
    learner: str, optimizer: str, largest_error: float, data: Path, smooth: str, tmp_path: Path
) -> None:
    settings = (*MORE, smooth, f"outer.learner={learner}", f"outer.optimizer={optimizer}")
    if learner == "joint":
        settings = (*settings, "outer.unseen_share=1", "outer.joint_share=0")
    started = torchrun(data, tmp_path / "two", "--json", settings=settings)
    meta_train.run(tiny(*settings), data, tmp_path / "one")
    stdout, stderr = started.communicate(timeout=240)
    assert started.returncode == 0, stderr
    facts = json.loads(stdout)
    assert facts["processes"] == 2
    one, two = (
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    )
    assert len(one) == len(two) > 5
    for ours, theirs in zip(one, two, strict=True):
        assert ours.keys() == theirs.keys()
        for key in ("step", "target_tokens", "gradient_computations"):
            assert ours.get(key) == theirs.get(key)
        assert theirs.get("query_loss", 0) == pytest.approx(ours.get("query_loss", 0), rel=1e-4)
    for name in ("last", "best"):
        ours, theirs = (load_file(tmp_path / count / name / "model.safetensors") for count in ("one", "two"))
        assert relative_error(ours, theirs) < largest_error
    own = [
        {key: tensor for key, tensor in load_file(path / "last" / "trainer.safetensors").items() if key in beside}
        for path in (tmp_path / "one", tmp_path / "two")
        if (beside := learned_beside(path))
    ]
    assert len(own) == (2 if learner == "meta-sgd" else 0)
    assert not own or relative_error(*own) < largest_error


def test_two_processes_take_a_joint_phase_over(data: Path, smooth: str, tmp_path: Path) -> None:
    settings = (*MORE, smooth, "outer.learner=meta-sgd")
    joint = tiny(*MORE, smooth, "outer.learner=joint")
    meta_train.run(joint, data, tmp_path / "joint")
    started = torchrun(data, tmp_path / "two", "--joint-phase", str(tmp_path / "joint"), settings=settings)
    meta_train.run(tiny(*settings), data, tmp_path / "one", joint_phase=tmp_path / "joint")
    _, stderr = started.communicate(timeout=240)
    assert started.returncode == 0, stderr
    assert stderr.count("is taken over") == 1
    ours, theirs = (load_file(tmp_path / name / "last" / "model.safetensors") for name in ("one", "two"))
    assert relative_error(ours, theirs) < 1e-5


def learned_beside(run: Path) -> set[str]:
    """Return the names of what the learner of a run learns beside the initialisation."""
    names = load_file(run / "last" / "trainer.safetensors").keys()
    return {name for name in names if name.startswith("learner.") and f"{name}.exp_avg" in names}


def test_a_process_that_dies_ends_the_job_and_the_run_goes_on(data: Path, tmp_path: Path) -> None:
    out, long = tmp_path / "run", (*MORE, "outer.max_target_tokens=400000", "validation.times=200")
    started = torchrun(data, out, settings=long)
    try:
        deadline = time.monotonic() + 120
        while not (out / "last").exists() and time.monotonic() < deadline:
            time.sleep(0.2)
        children = subprocess.run(["pgrep", "-P", str(started.pid)], capture_output=True, text=True, check=True)
        os.kill(int(children.stdout.split()[1]), signal.SIGKILL)
        _, stderr = started.communicate(timeout=120)
    finally:
        started.kill()
    assert started.returncode != 0
    assert "SIGKILL" in stderr
    assert f"it goes on by: torchrun ... -m metanmt meta-train {out / 'config.toml'}" in stderr
    reached = saved_step(out)
    again = torchrun(data, out, "--resume", settings=long)
    deadline = time.monotonic() + 120
    while saved_step(out) <= reached and time.monotonic() < deadline:
        time.sleep(0.2)
    again.send_signal(signal.SIGTERM)
    _, stderr = again.communicate(timeout=120)
    assert saved_step(out) > reached, stderr


def saved_step(out: Path) -> int:
    return int(json.loads((out / "last" / "trainer.json").read_text())["step"])


def test_more_processes_than_tasks(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meta_train, "joined_ranks", lambda: nullcontext(Ranks(rank=0, size=2)))
    with pytest.raises(ConfigError, match="2 processes cannot share 1 tasks a step"):
        meta_train.run(small_config("outer.meta_batch_size=1"), data, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("mistakes", "ends"), [(0, False), (1, True)])
def test_the_other_processes_end_with_a_mistake_of_the_first(
    mistakes: int, ends: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Ranks, "total", lambda ranks, failed: [mistakes])
    stopped = None
    try:
        with Ranks(rank=1, size=2).together():
            pass
    except SystemExit as stop:
        stopped = stop.code
    assert stopped == (2 if ends else None)
    with pytest.raises(UsageError), Ranks(rank=0, size=2).together():
        raise UsageError("cause", "remedy")


def test_a_resumed_run_with_other_settings_is_refused_once(data: Path, run_folder: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(run_folder, tmp_path / "run", symlinks=True))
    started = torchrun(data, run, "--resume", settings=("outer.clip_norm=3",))
    _, stderr = started.communicate(timeout=120)
    assert started.returncode != 0
    assert stderr.count("The configuration differs from that of the run") == 1
    assert "Connection closed by peer" not in stderr


def test_damage_that_the_first_process_finds_is_said_once(data: Path, run_folder: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(run_folder, tmp_path / "run", symlinks=True))
    for weights in run.glob("checkpoints/*/model.safetensors"):
        weights.write_bytes(b"damaged")
    started = torchrun(data, run, "--resume", config=str(run / "config.toml"))
    _, stderr = started.communicate(timeout=120)
    assert started.returncode != 0
    assert stderr.count(f"Every checkpoint of {run} is damaged") == 1
    assert "Connection closed by peer" not in stderr
