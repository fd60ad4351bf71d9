#!/usr/bin/env python
"""How fast each engine translates a test set, and how often it says the same as `transformers`.

  python scripts/bench_translate.py --model tuned --data data --pair fi-en
  python scripts/bench_translate.py --model tuned --data data --pair fi-en --sentences 200 --rounds 7 --json bench.json

The engines take turns, round by round, in one process with as many threads as OMP_NUM_THREADS allows; the first round
is not counted. A figure is the median of the rounds, with the slowest and the fastest beside it.
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch

from metanmt.cli import MISTAKE
from metanmt.commands.shared import positive
from metanmt.data.language import Pair
from metanmt.data.sources import read_lines
from metanmt.data.store import text_files
from metanmt.data.tokenizer import Tokenizer
from metanmt.errors import MetanmtError
from metanmt.files import write_json
from metanmt.nmt.engine import Engine, open_engine
from metanmt.nmt.score import score
from metanmt.nmt.translate import translate
from metanmt.report import table
from metanmt.runlog import Progress, say
from metanmt.runtime import versions

ENGINES = (("transformers", "float32"), ("ctranslate2", "float32"), ("ctranslate2", "int8"))
BEAMS = (5, 1)


@dataclass
class Way:
    """One engine at one beam size, with what was measured of it."""

    engine: Engine
    beam: int
    seconds: list[float] = field(default_factory=list)
    found: list[str] = field(default_factory=list)


def main() -> int:
    """Print what each engine takes and how often it says the same; return 2 for a mistake."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="a checkpoint, or a run")
    parser.add_argument("--data", type=Path, required=True, help="the prepared data folder")
    parser.add_argument("--pair", required=True, metavar="XX-YY")
    parser.add_argument("--split", default="test", metavar="NAME")
    parser.add_argument("--sentences", type=positive, default=500, metavar="N", help="the first N of the set")
    parser.add_argument("--rounds", type=positive, default=5, metavar="N")
    parser.add_argument("--batch-tokens", type=int, metavar="N", help="default: as metanmt translate")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures")
    arguments = parser.parse_args()
    try:
        measure(arguments)
    except MetanmtError as error:
        say(f"{error.cause}\n{error.remedy}")
        return MISTAKE
    return 0


def measure(arguments: argparse.Namespace) -> None:
    """Run the rounds and print the table."""
    pair = Pair.parse(arguments.pair)
    sources, references = (
        list(read_lines(path))[: arguments.sentences] for path in text_files(arguments.data, pair, arguments.split)
    )
    opened = [open_engine(arguments.model, *engine) for engine in ENGINES]
    tokenizer = opened[0][1]
    ways = [Way(engine, beam) for engine, _ in opened for beam in BEAMS]
    with Progress("bench", (arguments.rounds + 1) * len(ways), "translations") as progress:
        for number in range(arguments.rounds + 1):
            for way in ways:
                started = time.perf_counter()
                way.found = translate(
                    way.engine,
                    tokenizer,
                    sources,
                    pair,
                    beam=way.beam,
                    batch_tokens=arguments.batch_tokens,
                    label=None,
                )
                if number:
                    way.seconds.append(time.perf_counter() - started)
                progress.advance(1)
    facts = [figures(way, ways, tokenizer, pair, references) for way in ways]
    print(table(["engine", "beam", "seconds", "(range)", "sent./s", "tokens/s", "speed", "BLEU", "same"], rows(facts)))
    print(
        f"{len(sources):,} sentences of {pair} {arguments.split}, medians of {arguments.rounds} rounds in turn, "
        f"{torch.get_num_threads()} thread(s) of {os.cpu_count()} cores; tokens are of the output; same: as "
        f"transformers at that beam; BLEU {facts[0]['signature']}"
    )
    if arguments.json:
        write_json(arguments.json, {"versions": versions(), "threads": torch.get_num_threads(), "ways": facts})


def figures(way: Way, ways: list[Way], tokenizer: Tokenizer, pair: Pair, references: list[str]) -> dict[str, Any]:
    """Return what was measured of one way, beside `transformers` at the same beam size."""
    basis = next(other for other in ways if other.beam == way.beam)
    seconds = median(way.seconds)
    bleu = score(way.found, references, ter=False)["bleu"]
    tokens = sum(map(len, tokenizer.encode_target(way.found, pair)))
    return {
        "engine": way.engine.name,
        "beam": way.beam,
        "seconds": way.seconds,
        "median_seconds": seconds,
        "sentences_per_second": len(way.found) / seconds,
        "tokens_per_second": tokens / seconds,
        "speed": median(basis.seconds) / seconds,
        "bleu": bleu["score"],
        "signature": bleu["signature"],
        "same": sum(a == b for a, b in zip(way.found, basis.found, strict=True)) / len(way.found),
    }


def rows(facts: list[dict[str, Any]]) -> list[list[str]]:
    """Return the figures as the table's cells."""
    return [
        [
            f"{fact['engine']}",
            f"{fact['beam']}",
            f"{fact['median_seconds']:.2f}",
            f"{min(fact['seconds']):.2f}-{max(fact['seconds']):.2f}",
            f"{fact['sentences_per_second']:,.0f}",
            f"{fact['tokens_per_second']:,.0f}",
            f"{fact['speed']:.2f}x",
            f"{fact['bleu']:.2f}",
            f"{fact['same']:.1%}",
        ]
        for fact in facts
    ]


if __name__ == "__main__":
    raise SystemExit(main())
