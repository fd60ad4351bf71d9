#!/usr/bin/env python
"""How fast outer steps are with a universal lexicon and with a plain table, on the same episodes, turn about.

    metanmt vectors DATA
    scripts/bench_lexicon.py DATA --config tiny --learner joint

Seconds are those of a process' CPU, so that other processes on the machine do not count; the ratio is that of a round,
plain over universal, and what is printed its median and range.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import replace
from pathlib import Path


def main() -> None:
    """Measure both tables turn about and print their rates and ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--config", type=Path, default=Path("tiny"))
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE")
    parser.add_argument("--learner", choices=["joint", "fomaml", "reptile"], default="joint")
    parser.add_argument("--rounds", type=int, default=7, metavar="N")
    parser.add_argument("--steps", type=int, default=8, metavar="N", help="outer steps a round")
    arguments = parser.parse_args()

    import torch

    from metanmt.config_file import load_config
    from metanmt.data.store import TokenStore
    from metanmt.meta.distributed import ALONE
    from metanmt.recipes.meta_train import _Training
    from metanmt.runtime import device

    torch.set_num_threads(1)
    config = load_config(arguments.config, [*arguments.set, f"outer.learner={arguments.learner}"])
    store = TokenStore.open(arguments.data)
    trainings = {
        lexicon: _Training(replace(config, model=replace(config.model, lexicon=lexicon)), store, ALONE)
        for lexicon in ("plain", "universal")
    }
    clock = time.process_time if device().type == "cpu" else time.perf_counter
    sampled = trainings["plain"].learner
    rates: dict[str, list[float]] = {name: [] for name in trainings}
    for number in range(-1, arguments.rounds):  # the first round warms up
        steps = range(arguments.steps * (number + 1), arguments.steps * (number + 2))
        batches = [sampled.meta_batch(trainings["plain"].sampler, step) for step in steps]
        tokens = sum(episode.target_tokens for episodes in batches for episode in episodes)
        for name in sorted(trainings, reverse=bool(number % 2)):
            started = clock()
            for episodes in batches:
                trainings[name].outer_step(trainings[name].learner, episodes)
            if device().type == "cuda":
                torch.cuda.synchronize()
            if number >= 0:
                rates[name].append(tokens / (clock() - started))
    ratios = [universal / plain for universal, plain in zip(rates["universal"], rates["plain"], strict=True)]
    for name, values in rates.items():
        print(f"{name:10} {statistics.median(values):8,.0f} target tokens/s ({min(values):,.0f} to {max(values):,.0f})")
    print(f"ratio      {statistics.median(ratios):8.2f} ({min(ratios):.2f} to {max(ratios):.2f}), {len(ratios)} rounds")


if __name__ == "__main__":
    main()
