#!/usr/bin/env python
"""Training speed against what a user would pick instead, and against theory; one run, interleaved, medians.

    scripts/bench_training.py DATA                              on a prepared data folder, tiny, this machine's device
    scripts/bench_training.py DATA --size base --max-tokens 16000 --meta-batch 2 --rounds 7
    scripts/bench_training.py DATA --memory                     peak memory of every arm, each in a process of its own

The others are measured where they are installed: `pip install accelerate` for the Seq2SeqTrainer of transformers,
`pip install higher` for its first-order MAML, and joeynmt, without its dependencies but with those that its import
names, since its pins exclude ours. Same shape of model, data, precision, loss and optimiser (AdamW, but in the arm that
says Muon), and the target tokens of an update alike but for joeynmt, which counts padding. Figures are non-padding
target tokens a second of forward-backward passes.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch
from bench_arms import RATE, Bench, Step, higher_fomaml, joeynmt_joint, ours, plain, trainer_rates

from metanmt.config_file import load_config
from metanmt.data.store import TokenStore
from metanmt.nmt.model import parameter_count
from metanmt.nmt.precision import mixed
from metanmt.report import table
from metanmt.runtime import peak_memory_bytes


def step_rates(bench: Bench, step: Step, rounds: int) -> Iterator[float]:
    """Yield target tokens a second of a step, a round at a time."""
    number = 0
    for _ in range(2):
        step(number)
    while rounds:
        bench.wait()
        started, tokens = time.perf_counter(), 0
        for _ in range(bench.updates):
            tokens += step(number)
            number += 1
        bench.wait()
        yield tokens / (time.perf_counter() - started)
        rounds -= 1


def arms(bench: Bench, rounds: int) -> dict[str, Callable[[], Iterator[float]]]:
    """Return what is measured, by name."""

    def timed(make: Callable[[], Step]) -> Callable[[], Iterator[float]]:
        return lambda: step_rates(bench, make(), rounds)

    found: dict[str, Callable[[], Iterator[float]]] = {
        "joint": timed(lambda: ours(bench, "joint", 0)),
        "aligned": timed(lambda: ours(bench, "aligned", 0, unseen_share=0.5)),
        "plain, 1 batch": timed(lambda: plain(bench, 1)),
        "fomaml, k=1": timed(lambda: ours(bench, "fomaml", 1)),
        "plain, 2 batches": timed(lambda: plain(bench, 2)),
        "fomaml, k=4": timed(lambda: ours(bench, "fomaml", 4)),
        "plain, 5 batches": timed(lambda: plain(bench, 5)),
        "reptile, k=4": timed(lambda: ours(bench, "reptile", 4)),
        "plain, 4 batches": timed(lambda: plain(bench, 4)),
    }
    exact = replace(bench, config=replace(bench.config, run=replace(bench.config.run, precision="float32")))
    muon = replace(bench, config=replace(bench.config, outer=replace(bench.config.outer, optimizer="muon")))
    found["joint, muon"] = timed(lambda: ours(muon, "joint", 0))
    if mixed(bench.config.run.precision, bench.where):
        found["joint, float32"] = timed(lambda: ours(exact, "joint", 0))
    if importlib.util.find_spec("accelerate"):
        found["Seq2SeqTrainer"] = lambda: trainer_rates(bench, rounds)
        found["Seq2SeqTrainer, float32"] = lambda: trainer_rates(exact, rounds)
    if importlib.util.find_spec("joeynmt"):
        found["joeynmt"] = timed(lambda: joeynmt_joint(bench))
        found["joeynmt, float32"] = timed(lambda: joeynmt_joint(exact))
    if importlib.util.find_spec("higher"):
        found["higher FOMAML, k=1"] = timed(lambda: higher_fomaml(bench, 1, our_batches=True))
        found["higher FOMAML, k=1, batches drawn at random"] = timed(lambda: higher_fomaml(bench, 1, our_batches=False))
    return found


COMPARED = {  # what each is divided by
    "joint": (
        "Seq2SeqTrainer",
        "Seq2SeqTrainer, float32",
        "joeynmt",
        "joeynmt, float32",
        "joint, float32",
        "plain, 1 batch",
    ),
    "aligned": ("joint",),
    "joint, muon": ("joint",),
    "fomaml, k=1": (
        "higher FOMAML, k=1",
        "higher FOMAML, k=1, batches drawn at random",
        "plain, 2 batches",
    ),
    "fomaml, k=4": ("plain, 5 batches",),
    "reptile, k=4": ("plain, 4 batches",),
}


def measure(bench: Bench, rounds: int) -> str:
    """Return the table of rates and ratios; the arms take turns, so that whatever disturbs disturbs all."""
    running = {name: make() for name, make in arms(bench, rounds).items()}
    rates: dict[str, list[float]] = {name: [] for name in running}
    for _ in range(rounds):
        for name, arm in running.items():
            rates[name].append(next(arm))
    rows = []
    for name, values in rates.items():
        ratios = []
        for other in COMPARED.get(name, ()):
            if other in rates:
                ratio = statistics.median(a / b for a, b in zip(values, rates[other], strict=True))
                ratios.append(f"{ratio:.2f} x {other}")
        spread = f"{min(values):,.0f} to {max(values):,.0f}"
        rows.append([name, f"{statistics.median(values):,.0f}", spread, "; ".join(ratios)])
    return table(["arm", "target tokens/s", "spread", "ratio (median of the rounds)"], rows)


def memory(arguments: argparse.Namespace, names: list[str]) -> str:
    """Return the table of peak memory; each arm runs two updates in a process of its own."""
    peaks = {}
    for name in names:
        command = [sys.executable, __file__, *sys.argv[1:], "--only", name]
        answer = subprocess.run(command, check=True, capture_output=True, text=True)
        peaks[name] = json.loads(answer.stdout.splitlines()[-1])
    rows = [[name, f"{peak['bytes'] / 2**20:,.0f}", f"{peak['weights'] / 2**20:,.1f}"] for name, peak in peaks.items()]
    return table(["arm", "peak MiB", "weights MiB"], rows)


def main() -> None:
    """Measure the arms that are asked for, interleaved, and print rates, ratios and memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--size", default="tiny")
    parser.add_argument("--max-tokens", type=int, default=400, help="target tokens of a logical batch")
    parser.add_argument("--micro-tokens", type=int, default=1_000, help="padded tokens of a forward-backward pass")
    parser.add_argument("--meta-batch", type=int, default=4)
    parser.add_argument("--updates", type=int, default=8, help="a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    settings = [
        f"batch.max_tokens={arguments.max_tokens}",
        f"batch.micro_tokens={arguments.micro_tokens}",
        f"outer.meta_batch_size={arguments.meta_batch}",
        f"run.precision={arguments.precision}",
        "model.dropout=0.0",
        f"inner.learning_rate={RATE}",
        f"outer.learning_rate={RATE}",
        "outer.optimizer=adamw",
    ]
    bench = Bench(TokenStore.open(arguments.data), load_config(Path(arguments.size), settings), arguments.updates)
    if arguments.only:
        bench.updates = 2
        next(arms(bench, 1)[arguments.only]())
        weights = 4 * parameter_count(bench.model())
        print(json.dumps({"bytes": peak_memory_bytes(), "weights": weights}))
    elif arguments.memory:
        print(memory(arguments, list(arms(bench, 1))))
    else:
        count = parameter_count(bench.model())
        print(f"{arguments.size}: {count:,} parameters, vocabulary {bench.tokenizer.vocabulary_size:,}, {bench.where}")
        print(measure(bench, arguments.rounds))


if __name__ == "__main__":
    main()
