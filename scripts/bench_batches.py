#!/usr/bin/env python
"""How fast episodes are drawn and how little of them is padding, on one core, without a model.

    scripts/bench_batches.py DATA                            GPU-size and laptop-size batches
    scripts/bench_batches.py DATA --setting 4000/32000/160   max_tokens/micro_tokens/pass_tokens of your own

Tokens are target tokens without padding; padding is the share of padded positions of both sides;
"per CPU s" leaves out the time in which other processes had the core. Times are medians of the rounds,
each of as many meta-batches as make up a million tokens, or fifty; all that a process makes once is made before.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

SETTINGS = ["16000/16000/160", "16000/4000/160", "300/1000/160"]


def main() -> None:
    """Measure the batcher on a data folder and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--setting", nargs="+", default=SETTINGS, metavar="MAX/MICRO/PASS")
    parser.add_argument("--meta-batch", type=int, default=4, metavar="EPISODES")
    parser.add_argument("--window", type=int, metavar="N", help="default: that of the configuration")
    parser.add_argument("--inner-steps", type=int, default=1, metavar="N")
    parser.add_argument("--rounds", type=int, default=5, metavar="N")
    arguments = parser.parse_args()

    import torch

    from metanmt.report import table

    torch.set_num_threads(1)
    header = [
        "max/micro/pass",
        "M tokens/s",
        "slowest",
        "fastest",
        "per CPU s",
        "padding",
        "of source",
        "of target",
        "passes",
        "first",
    ]
    print(table(header, [_measure(arguments, setting) for setting in arguments.setting]))


def _measure(arguments: argparse.Namespace, setting: str) -> list[str]:
    import numpy as np

    from metanmt.config import BatchConfig, OuterConfig
    from metanmt.data.store import TokenStore
    from metanmt.data.tokenizer import load_tokenizer
    from metanmt.meta.task import Episode, EpisodeSampler, load_tasks

    max_tokens, micro_tokens, pass_tokens = map(int, setting.split("/"))
    window = {} if arguments.window is None else {"window": arguments.window}
    batch = BatchConfig(max_tokens=max_tokens, micro_tokens=micro_tokens, pass_tokens=pass_tokens, **window)
    store = TokenStore.open(arguments.data)
    pad_id = load_tokenizer(store.tokenizer_folder).pad_id
    started = time.perf_counter()
    tasks = load_tasks(store, batch, OuterConfig())
    outer = OuterConfig(meta_batch_size=arguments.meta_batch)
    sampler = EpisodeSampler(tasks, outer, batch, pad_id, seed=1)
    for task in tasks:
        sampler.episode(task, np.random.default_rng(0), arguments.inner_steps)
    first = time.perf_counter() - started
    steps = min(50, max(1, 1_000_000 // (max_tokens * arguments.meta_batch)))
    rates, cpu_rates, positions, real, passes, count = [], [], [0, 0], [0, 0], 0, 0
    for number in range(arguments.rounds):
        drawn: list[Episode] = []
        started, started_cpu = time.perf_counter(), time.process_time()
        for step in range(number * steps, (number + 1) * steps):
            drawn += sampler.meta_batch(step, arguments.inner_steps)
        seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - started_cpu
        tokens = sum(episode.target_tokens for episode in drawn) / 1e6
        rates.append(tokens / seconds)
        cpu_rates.append(tokens / max(cpu_seconds, 1e-9))
        for part in (part for episode in drawn for part in episode.batches):
            passes, count = passes + len(part.micro_batches), count + 1
            for micro in part:
                for side, ids in enumerate((micro.source, micro.labels)):
                    positions[side] += ids.numel()
                    real[side] += int((ids != pad_id).sum())
    figures = [statistics.median(rates), min(rates), max(rates), statistics.median(cpu_rates)]
    padding = [1 - sum(real) / sum(positions), *(1 - r / p for r, p in zip(real, positions, strict=True))]
    return [
        setting,
        *(f"{figure:.2f}" for figure in figures),
        *(f"{share:.1%}" for share in padding),
        f"{passes / count:.1f}",
        f"{first:.2f} s",
    ]


if __name__ == "__main__":
    main()
