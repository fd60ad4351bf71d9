#!/usr/bin/env python
"""Kill meta-training at random moments, resume it each time, and compare every bit with a run that was left alone.

    python scripts/kill_test.py                              50 kills of a small run on the embedded corpus
    python scripts/kill_test.py --kills 3 --tokens 3000      as in the tests
    python scripts/kill_test.py --fresh                      a new interpreter a run, not a fork: slower

Seven kills in ten are SIGKILL, the others SIGTERM or SIGINT. A third of them wait for a checkpoint that is being
written; of a run without a checkpoint, half come within moments of its start. After three in ten SIGKILLs that leave
two checkpoints, a file of the newer one is truncated, as a loss of power may leave it. A run that ends before its kills
are used up is compared, and the next one begins. Exit code 1 if a bit differs.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # a process that forks must have no threads

MANIFEST = """
name = "kills"
[tokenizer]
vocabulary_size = 700
[[groups]]
role = "meta-train"
pairs = ["de-en", "sv-en", "es-en"]
train = [{ embedded = "cldr", sentences = 400 }]
[[groups]]
role = "meta-dev"
pairs = ["lv-en"]
train = [{ embedded = "cldr", sentences = 100 }]
dev = [{ embedded = "cldr", sentences = 20, skip = 100 }]
"""
SETTINGS = (
    "outer.meta_batch_size=2",
    "outer.warmup_steps=5",
    "outer.learning_rate=3e-3",
    "outer.optimizer=muon",  # and AdamW for the embeddings: the moments of both
    "batch.max_tokens=120",
    "validation.times=4",
    "validation.updates=2",
    "validation.budget=100",
    "validation.sentences=4",
    "validation.metric=loss",
    "fine_tune.max_tokens=200",
    "run.log_every=1",
    "run.precision=float32",
    "run.checkpoint_minutes=0.003",
)
SECONDS_FIELDS = ("elapsed_seconds", "saved_at_seconds")
PRELOADED = ("torch", "transformers", "safetensors.torch", "sacrebleu", "metanmt.recipes.prepare")
PRELOADED_FOR_RUNS = ("metanmt.cli", "metanmt.recipes.meta_train", "transformers.models.m2m_100.modeling_m2m_100")


class Process:
    """A metanmt command that runs beside this one: a fork of it, which saves the seconds of importing torch."""

    def __init__(self, arguments: Sequence[str], log: Path, *, fresh: bool) -> None:
        self.code: int | None = None
        if fresh:
            with log.open("ab") as out:
                self.pid = subprocess.Popen([sys.executable, "-m", "metanmt", *arguments], stdout=out, stderr=out).pid
            return
        self.pid = os.fork()
        if self.pid == 0:
            self._become(arguments, log)

    def _become(self, arguments: Sequence[str], log: Path) -> None:
        code = 1
        try:
            out = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            os.dup2(out, 1)
            os.dup2(out, 2)
            from metanmt.cli import main

            code = main(arguments)
        except KeyboardInterrupt:
            code = 130
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(code)

    def ended(self, *, wait: bool = False) -> bool:
        """Return whether it has ended; `code` is then its exit code, or minus the signal that ended it."""
        if self.code is None:
            pid, status = os.waitpid(self.pid, 0 if wait else os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
        return self.code is not None


@dataclass
class Trial:
    """The run that is killed, and how often it was."""

    out: Path
    start: Callable[[Path], Process]
    random: random.Random
    longest_seconds: float
    kills: int = 0
    damaged: int = 0

    def kill_or_finish(self, kills_left: int) -> bool:
        """Start or resume the run and kill it at a random moment; return whether it came to its end before."""
        process = self.start(self.out)
        if kills_left:
            began = time.monotonic()
            self._wait(process)
            if not process.ended():
                kind = self.random.choices([signal.SIGKILL, signal.SIGTERM, signal.SIGINT], [0.7, 0.15, 0.15])[0]
                seconds, saving = time.monotonic() - began, list(self.out.glob("checkpoints/.step-*.tmp"))
                os.kill(process.pid, kind)
                process.ended(wait=True)
                if process.code not in (0, 130, -kind):
                    raise SystemExit(f"{kind.name} made the run end with code {process.code}.")
                self.kills += 1
                left = f"left {_left(self.out)}{', in a save' if saving else ''}"
                power_lost = kind == signal.SIGKILL and self.random.random() < 0.3
                damaged = self._damage() if power_lost else ""
                print(f"kill {self.kills}: {kind.name} after {seconds:.2f} s, {left}{damaged}", flush=True)
        process.ended(wait=not kills_left)
        if process.code not in (None, 0, 130) and process.code > 0:
            raise SystemExit(f"The run ended with code {process.code}; see its log.")
        return process.code == 0

    def _wait(self, process: Process) -> None:
        early = self.random.random() < (0.1 if (self.out / "last").exists() else 0.5)
        until = time.monotonic() + self.random.uniform(0, self.longest_seconds * (0.05 if early else 1))
        in_a_save = not early and self.random.random() < 1 / 3
        while not process.ended():
            if time.monotonic() > until and not in_a_save:
                return
            if in_a_save and time.monotonic() > until and any(self.out.glob("checkpoints/.step-*.tmp")):
                time.sleep(self.random.uniform(0, 0.05))
                return
            time.sleep(0.0005)

    def _damage(self) -> str:
        folders = sorted((self.out / "checkpoints").glob("step-*"))
        if len(folders) < 2:
            return ""
        path = self.random.choice([path for path in sorted(folders[-1].iterdir()) if path.stat().st_size])
        path.write_bytes(path.read_bytes()[: self.random.randrange(path.stat().st_size)])
        self.damaged += 1
        return f"; then {path.name} of the newest truncated"


def _left(out: Path) -> str:
    if not out.exists():
        return "no folder"
    steps = [int(path.name.removeprefix("step-")) for path in out.glob("checkpoints/step-*")]
    halves = len(list(out.rglob(".*.tmp")))
    return (f"step {max(steps)}" if steps else "no checkpoint") + (f" and {halves} half-written" if halves else "")


def fingerprint(out: Path) -> dict[str, Any]:
    """Return everything that a run has to agree in with another: weights, trainer state, metrics, TensorBoard."""
    from safetensors.torch import load_file

    facts: dict[str, Any] = {"metrics.jsonl": (out / "metrics.jsonl").read_text(encoding="utf-8")}
    for link in ("best", "last"):
        for path in sorted((out / link).glob("*.safetensors")):
            for key, tensor in load_file(path).items():
                facts[f"{link}/{path.stem}/{key}"] = hashlib.sha256(tensor.numpy().tobytes()).hexdigest()
        state = json.loads((out / link / "trainer.json").read_text(encoding="utf-8"))
        facts[f"{link}/trainer.json"] = {key: value for key, value in state.items() if key not in SECONDS_FIELDS}
    facts["tensorboard"] = list(scalars(out / "tensorboard"))
    return facts


def scalars(folder: Path) -> Iterator[tuple[str, int, float]]:
    """Yield what TensorBoard shows: name, step and value."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logging.getLogger("tensorboard").setLevel(logging.ERROR)
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    for name in sorted(events.Tags()["scalars"]):
        for event in events.Scalars(name):
            yield name, event.step, event.value


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Return the names of what differs."""
    return [name for name in sorted({*one, *other}) if one.get(name) != other.get(name)]


def main() -> int:
    """Kill, resume and compare; return 1 if a run has other bits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, metavar="N", help="kills in all (default: 50)")
    parser.add_argument("--tokens", type=int, default=12_000, metavar="N", help="cost of a run (default: 12,000)")
    parser.add_argument("--seed", type=int, default=1, help="of the moments (default: 1)")
    parser.add_argument("--fresh", action="store_true", help="a new interpreter a run instead of a fork")
    parser.add_argument("--out", type=Path, help="where it works, and leaves all (default: a temporary folder)")
    arguments = parser.parse_args()
    for module in (*PRELOADED, *PRELOADED_FOR_RUNS):
        importlib.import_module(module)
    folder = arguments.out or Path(tempfile.mkdtemp(prefix="kill-test-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        return kill_test(folder, arguments)
    finally:
        if arguments.out is None:
            shutil.rmtree(folder, ignore_errors=True)


def kill_test(folder: Path, arguments: argparse.Namespace) -> int:
    """Run the test in a folder and return the exit code."""
    (folder / "kills.toml").write_text(MANIFEST, encoding="utf-8")
    (folder / "run.toml").write_text("", encoding="utf-8")
    log = folder / "log.txt"

    def finished(command: Sequence[str]) -> None:
        process = Process(command, log, fresh=arguments.fresh)
        process.ended(wait=True)
        if process.code != 0:
            raise SystemExit(log.read_text(encoding="utf-8"))

    def start(out: Path) -> Process:
        return Process([*train, "--out", str(out), *(["--resume"] if out.exists() else [])], log, fresh=arguments.fresh)

    finished(["prepare", str(folder / "kills.toml"), "--out", str(folder / "data")])
    train = ["meta-train", str(folder / "run.toml"), "--data", str(folder / "data")]
    for setting in (*SETTINGS, f"outer.max_target_tokens={arguments.tokens}"):
        train += ["--set", setting]
    began = time.monotonic()
    finished([*train, "--out", str(folder / "whole")])
    seconds = time.monotonic() - began
    reference = fingerprint(folder / "whole")
    steps = reference["last/trainer.json"]["step"]
    print(f"left alone: {steps} steps, {seconds:.1f} s, {len(reference)} things to compare", flush=True)

    chance = random.Random(arguments.seed)
    kills = damaged = runs = failures = 0
    while kills < arguments.kills:
        trial = Trial(folder / f"killed-{runs}", start, chance, longest_seconds=seconds * 0.7)
        while not trial.kill_or_finish(arguments.kills - kills - trial.kills):
            pass
        kills, damaged, runs = kills + trial.kills, damaged + trial.damaged, runs + 1
        different = differences(reference, fingerprint(trial.out))
        failures += bool(different)
        verdict = f"DIFFERENT in {', '.join(different[:5])}" if different else "the same bits"
        print(f"run {runs}, killed {trial.kills} times: {verdict}", flush=True)
    print(
        f"{kills} kills, {damaged} damaged checkpoints, {runs} runs: "
        f"{f'{failures} DIFFER' if failures else 'every run has the same bits as the one that was left alone'}"
    )
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
