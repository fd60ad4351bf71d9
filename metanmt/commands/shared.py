"""What several commands share: arguments, and printing results to stdout."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from metanmt.runlog import speaks
from metanmt.runtime import CPU_BATCH_TOKENS, GPU_BATCH_TOKENS


def pair_argument(sub: argparse.ArgumentParser) -> None:
    """Add --pair."""
    sub.add_argument("--pair", required=True, metavar="XX-YY", help="source and target language, such as fi-en")


def model_arguments(sub: argparse.ArgumentParser) -> None:
    """Add what every command has that translates."""
    sub.add_argument("--model", type=Path, required=True, metavar="TUNED", help="a checkpoint, or a run")
    pair_argument(sub)
    sub.add_argument("--beam", type=positive, default=5, metavar="N", help="beam size; 1 is greedy (default: 5)")
    sub.add_argument(
        "--length-penalty", type=length_penalty, default=1.0, metavar="X", help="above 1 favours longer (default: 1)"
    )
    sub.add_argument(
        "--batch-tokens",
        type=positive,
        metavar="N",
        help="source tokens a batch: memory and speed, not result "
        f"(default: {CPU_BATCH_TOKENS:,} on a CPU, {GPU_BATCH_TOKENS:,} on a GPU)",
    )
    sub.add_argument(
        "--engine",
        choices=["auto", "transformers", "ctranslate2"],
        default="auto",
        help="what searches; auto (default): the fastest installed that gives the same result",
    )
    sub.add_argument(
        "--quantization",
        choices=["float32", "int8"],
        default="float32",
        help="int8 is smaller and differs a little; with --engine ctranslate2 only (default: float32)",
    )


def set_argument(sub: argparse.ArgumentParser) -> None:
    """Add --set."""
    sub.add_argument(
        "--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="override a setting (list below)"
    )


def check_at_once(
    pair: str | None = None,
    *,
    models: Iterable[Path] = (),
    data: Path | None = None,
    texts: Iterable[Sequence[Path]] = (),
    out: Path | None = None,
) -> None:
    """Raise a MetanmtError for what a recipe would not accept, before seconds are spent on importing torch.

    Args:
        pair: such as "fi-en".
        models: checkpoints or runs that are read.
        data: a prepared data folder; it has the pair, if one is given.
        texts: a user's own files, one or two each.
        out: a folder that must not be there yet.
    """
    from metanmt.data.language import Pair
    from metanmt.data.sources import missing_file
    from metanmt.data.store import TokenStore
    from metanmt.files import OR_OVERWRITE, refuse_existing
    from metanmt.nmt.folder import checkpoint_folder

    language = None if pair is None else Pair.parse(pair)
    for path in (path for paths in texts for path in paths if not path.is_file()):
        raise missing_file(path)
    if data is not None:
        store = TokenStore.open(data)
        if language is not None:
            store.sets(language)
    if out is not None:
        refuse_existing(out, remedy=OR_OVERWRITE)
    for model in models:
        checkpoint_folder(model)


def items(text: str) -> list[str]:
    """Return the items of a list written with commas."""
    return [item for item in text.replace(",", " ").split() if item]


def language_file(text: str) -> tuple[str, Path]:
    """Return the language and the file that "fi=wiki.fi.vec" names, for argparse."""
    language, equals, path = text.partition("=")
    if not (language and equals and path):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form LANGUAGE=FILE")
    return language, Path(path)


def show(facts: dict[str, Any], as_json: bool) -> None:
    """Print what a command did: for a person, or as JSON."""
    if not speaks():
        return
    if as_json:
        print_json(facts)
        return
    for key, value in facts.items():
        shown = "unknown" if value is None else f"{value:,}" if isinstance(value, (int, float)) else value
        print(f"{key.replace('_', ' '):24} {shown}")


def positive(text: str) -> int:
    """Return a whole number above 0, for argparse."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not above 0")
    return value


def natural(text: str) -> int:
    """Return a whole number of 0 or more, for argparse."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{value} is negative")
    return value


def resamples(text: str) -> int:
    """Return how many resamples a confidence interval is made of, for argparse: one gives none."""
    value = natural(text)
    if value == 1:
        raise argparse.ArgumentTypeError("1 gives no interval; give 0 for none, or 2 or more")
    return value


def length_penalty(text: str) -> float:
    """Return a finite number of 0 or more, for argparse."""
    value = float(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a number of 0 or more")
    return value


def print_json(value: Any) -> None:
    """Print a value as JSON."""
    print(json.dumps(value, indent=2, ensure_ascii=False))
