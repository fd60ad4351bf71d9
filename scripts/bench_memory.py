#!/usr/bin/env python
"""What it is worth to keep the memory that a training step frees, instead of giving it back to the system.

    scripts/bench_memory.py DATA --rounds 5

Each measurement is a process of its own, kept and returned turn about; one thread, processor time, so that other work
on the machine matters little. Page faults are those that an outer step takes.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

WAYS = ("kept", "returned")


def measured(data: Path, way: str, learner: str, steps: int) -> dict[str, float]:
    """Return target tokens a processor second, page faults a step and the peak in MiB, of this process."""
    from metanmt import runtime

    if way == "returned":
        runtime.keep_freed_memory = lambda: None
    import torch
    from bench_arms import Bench, ours

    from metanmt.config_file import load_config
    from metanmt.data.store import TokenStore

    torch.set_num_threads(1)
    runtime.quiet_transformers()
    config = load_config(Path(learner))
    step = ours(Bench(TokenStore.open(data), config, 1), learner, 0 if learner == "joint" else config.inner.steps)
    for number in range(steps):
        step(number)
    before, started = resource.getrusage(resource.RUSAGE_SELF), time.process_time()
    tokens = sum(step(number) for number in range(steps, 3 * steps))
    seconds, after = time.process_time() - started, resource.getrusage(resource.RUSAGE_SELF)
    faults = (after.ru_minflt - before.ru_minflt) / (2 * steps)
    return {"rate": tokens / seconds, "faults": faults, "peak": runtime.peak_memory_bytes() / 2**20}


def main() -> None:
    """Measure each learner both ways, and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--learners", nargs="+", default=["joint", "reptile"])
    parser.add_argument("--steps", type=int, default=8, help="outer steps before measuring; twice as many then")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--one", nargs=2, metavar=("WAY", "LEARNER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measured(arguments.data, *arguments.one, arguments.steps)))
        return
    from metanmt.report import table

    rows = []
    for learner in arguments.learners:
        found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
        for _ in range(arguments.rounds):
            for way in WAYS:
                command = [sys.executable, __file__, str(arguments.data), "--steps", str(arguments.steps)]
                done = subprocess.run([*command, "--one", way, learner], stdout=subprocess.PIPE, check=False)
                if done.returncode:  # which has said why
                    sys.exit(done.returncode)
                found[way].append(json.loads(done.stdout.splitlines()[-1]))
        for way in WAYS:
            rates, faults, peaks = ([item[key] for item in found[way]] for key in ("rate", "faults", "peak"))
            spread = f"{min(rates):,.0f} to {max(rates):,.0f}"
            medians = [f"{statistics.median(values):,.0f}" for values in (rates, faults, peaks)]
            rows.append([learner, way, medians[0], spread, *medians[1:]])
    print(table(["learner", "memory", "tokens a CPU second", "spread", "page faults a step", "peak MiB"], rows))


if __name__ == "__main__":
    main()
