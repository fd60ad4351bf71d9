#!/usr/bin/env python
"""Which share of the device's matrix rate training reaches, and where the rest of the time goes.

    scripts/bench_utilization.py DATA --size base --max-tokens 16000 --micro-tokens 32000 --meta-batch 1     on a GPU
    scripts/bench_utilization.py DATA                                                                  tiny, on a CPU

The matrix rate is measured in the same run: the fastest of several large products in the precision that training uses.
FLOPs are counted by PyTorch in real steps, forward and backward: matrix products, and fused attention on a GPU. The
batches have padding, whose share is given beside it and taken off for the utilisation of the model. The profile is the
self time of operators, those of the device where there is one.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from bench_arms import Bench, Step, ours
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from metanmt.config_file import load_config
from metanmt.data.store import TokenStore
from metanmt.nmt.model import parameter_count
from metanmt.nmt.precision import autocast
from metanmt.report import table
from metanmt.runtime import quiet_transformers

WARM_UP = 3
SIDES = {"cuda": (4096, 8192, 16384), "cpu": (512, 1024, 2048)}


def matrix_rate(bench: Bench) -> float:
    """Return the FLOP/s of the fastest product of two square matrices."""
    best = 0.0
    for side in SIDES[bench.where.type]:
        one, other = (torch.randn(side, side, device=bench.where) for _ in range(2))
        with autocast(bench.config.run.precision, bench.where):
            for _ in range(WARM_UP):
                one @ other
            for _ in range(5):
                bench.wait()
                started = time.perf_counter()
                one @ other
                bench.wait()
                best = max(best, 2 * side**3 / (time.perf_counter() - started))
    return best


def counted_flops(bench: Bench, step: Step, numbers: range) -> tuple[int, int]:
    """Return FLOPs and target tokens of these steps.

    The projection to the vocabulary is taken as 6 operations for a target token and weight, forward and backward: newer
    versions of PyTorch have an operator for it and the loss, into which the counter does not look.
    """
    with FlopCounterMode(display=False) as counter:
        tokens = sum(step(number) for number in numbers)
    hidden = hasattr(functional, "linear_cross_entropy")
    model = bench.model()
    projection = 6 * model.config.d_model * model.config.vocab_size * tokens if hidden else 0
    return counter.get_total_flops() + projection, tokens


def padding(bench: Bench, steps: range) -> float:
    """Return the share of padding in the tokens of both sides of these steps."""
    sampler, real, padded = bench.sampler(1), 0, 0
    for number in steps:
        for episode in sampler.meta_batch(number, 0):
            for batch in episode.batches:
                for part in batch:
                    real += int((part.source != part.pad_id).sum()) + int((part.labels != part.pad_id).sum())
                    padded += part.source.numel() + part.labels.numel()
    return 1 - real / padded


def seconds_a_step(bench: Bench, step: Step, numbers: range) -> list[float]:
    """Return the seconds of each of these steps."""
    found = []
    for number in numbers:
        bench.wait()
        started = time.perf_counter()
        step(number)
        bench.wait()
        found.append(time.perf_counter() - started)
    return found


def profiled(bench: Bench, step: Step, numbers: range, rows: int) -> list[list[str]]:
    """Return the operators that take most of these steps: name, share, calls a step."""
    cuda = bench.where.type == "cuda"
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]) as found:
        for number in numbers:
            step(number)
        bench.wait()
    key = "self_device_time_total" if cuda else "self_cpu_time_total"
    events: list[Any] = sorted(found.key_averages(), key=lambda event: -getattr(event, key))
    total = sum(getattr(event, key) for event in events) or 1
    return [
        [event.key[:60], f"{getattr(event, key) / total:.1%}", f"{event.count / len(numbers):,.0f}"]
        for event in events[:rows]
    ]


def main() -> None:
    """Measure rates and profile, and print the shares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--size", default="tiny")
    parser.add_argument("--max-tokens", type=int, default=400, help="target tokens of a logical batch")
    parser.add_argument("--micro-tokens", type=int, default=1_000, help="padded tokens of a forward-backward pass")
    parser.add_argument("--meta-batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--rows", type=int, default=15, help="of the profile")
    arguments = parser.parse_args()
    quiet_transformers()
    config = load_config(Path(arguments.size), ["outer.learner=joint"])
    batch = replace(config.batch, max_tokens=arguments.max_tokens, micro_tokens=arguments.micro_tokens)
    outer = replace(config.outer, meta_batch_size=arguments.meta_batch)
    run = replace(config.run, precision=arguments.precision)
    bench = Bench(TokenStore.open(arguments.data), replace(config, batch=batch, outer=outer, run=run), 1)
    step = ours(bench, "joint", 0)
    for number in range(WARM_UP):
        step(number)
    numbers = range(WARM_UP, WARM_UP + arguments.steps)
    rates = [matrix_rate(bench)]
    seconds = sum(seconds_a_step(bench, step, numbers))
    rates.append(matrix_rate(bench))
    flops, tokens = counted_flops(bench, step, numbers)
    rate, share = statistics.mean(rates), padding(bench, numbers)
    reached = flops / seconds
    rows = [
        ["weights", f"{parameter_count(bench.model()):,}"],
        ["target tokens/s", f"{tokens / seconds:,.0f}"],
        ["matrix rate measured, TFLOP/s", " and ".join(f"{item / 1e12:,.3g}" for item in rates)],
        ["reached with padding, TFLOP/s", f"{reached / 1e12:,.3g} ({reached / rate:.1%})"],
        ["padding", f"{share:.1%}"],
        ["utilisation of the model", f"{reached * (1 - share) / rate:.1%}"],
    ]
    print(table([str(bench.where), ""], rows))
    print()
    print(table(["operator", "self time", "calls a step"], profiled(bench, step, numbers[:5], arguments.rows)))


if __name__ == "__main__":
    main()
