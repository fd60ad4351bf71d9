"""From an initialisation to a model of one's own pair: fine-tune."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, get_args

from metanmt.commands.shared import check_at_once, natural, pair_argument, print_json, set_argument
from metanmt.config import Config, Update
from metanmt.errors import ConfigError
from metanmt.runlog import duration
from metanmt.sections import build, override


def _fine_tune_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--init", required=True, metavar="RUN", help="a run or checkpoint; none = from scratch")
    pair_argument(sub)
    sub.add_argument("--out", type=Path, required=True, metavar="TUNED", help="the checkpoint folder to write")
    sub.add_argument("--data", type=Path, metavar="DATA", help="take the text from a prepared data folder")
    sub.add_argument(
        "--budget",
        type=int,
        metavar="WORDS",
        help="target words to draw from the text to adapt on; without spaces two characters of Chinese or Japanese, or "
        "five of Thai, Lao, Khmer or Burmese, count as one",
    )
    sub.add_argument("--train-set", default="train", metavar="NAME", help="set of the data folder (default: train)")
    sub.add_argument("--dev-set", default="dev", metavar="NAME", help="set of the data folder (default: dev)")
    sub.add_argument(
        "--train",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="your own text: two files, or one .tsv (source, tab, target) or .jsonl",
    )
    sub.add_argument("--dev", type=Path, nargs="+", default=[], metavar="FILE", help="your own dev text, likewise")
    sub.add_argument(
        "--replay",
        type=Path,
        metavar="DATA",
        help="the data folder that --init learned from, whose meta-train text is learned beside yours, so that what is "
        "known stays known (default: --data, if it is that); --set fine_tune.replay=0 does without",
    )
    sub.add_argument(
        "--mono",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="text of the target language alone, a sentence a line, but none that you test with: --back translates it, "
        "to be learned beside the pair's own",
    )
    sub.add_argument(
        "--back",
        metavar="TUNED",
        help="a checkpoint that translates the pair the other way round, for --mono, or for what the run's data has of "
        "the target language; init = --init itself, adapted to that first on the same text and kept as OUT-back",
    )
    sub.add_argument("--seed", type=natural, default=1, help="draw of the budget, order, dropout (default: 1)")
    sub.add_argument(
        "--update",
        choices=get_args(Update),
        help="what moves, the rest stays as it is; adapters: a small patch, stored alone; none: nothing, the model is "
        "only evaluated; short for --set fine_tune.update=...",
    )
    sub.add_argument(
        "--new-pieces",
        type=natural,
        metavar="N",
        help="let the text add pieces of the new language's own to the vocabulary, N at most; short for "
        "--set fine_tune.new_pieces=...",
    )
    set_argument(sub)
    sub.add_argument("--overwrite", action="store_true", help="replace an existing checkpoint folder")
    sub.add_argument("--json", action="store_true", help="print the report as JSON")


def _fine_tune_config(arguments: argparse.Namespace) -> Config:
    """Return the settings; one that would change nothing is refused."""
    short = {"update": "fine_tune.update", "new_pieces": "fine_tune.new_pieces"}
    update = [f"{key}={value}" for name, key in short.items() if (value := getattr(arguments, name)) is not None]
    for text in arguments.set:
        if not text.startswith(("fine_tune.", "adapter.", "run.precision", "batch.micro_tokens", "model.")):
            raise ConfigError(f"--set {text} means nothing to fine-tune.", "It takes fine_tune.KEY; see its --help.")
        if text.startswith(("model.checkpoint", "model.update")):
            raise ConfigError(f"--set {text} is for meta-train.", "Here the start is --init, and what moves --update.")
        if arguments.init != "none" and text.startswith("model.") and not text.startswith("model.head"):
            raise ConfigError(f"--set {text} is for a model from scratch.", "Leave it out: the model is --init's.")
        if text.startswith("fine_tune.synthetic") and not arguments.back:
            raise ConfigError(f"--set {text} is for what --back translates.", "Add --back TUNED, or leave it out.")
        if text.startswith("model.dropout"):
            raise ConfigError(f"--set {text} is for meta-train.", "Here it is --set fine_tune.dropout=...")
    config = build(Config, override({}, [*arguments.set, *update]), where="--set")
    shape = next((text for text in arguments.set if text.startswith("adapter.")), None)
    if shape and config.fine_tune.update != "adapters":
        raise ConfigError(f"--set {shape} is for a new adapter.", "Add --update adapters, or leave it out.")
    if config.model.head and config.fine_tune.update != "head":
        raise ConfigError("--set model.head says what update = head moves.", "Add --update head, or leave it out.")
    if arguments.replay and (arguments.init == "none" or not config.fine_tune.replays):
        raise ConfigError(
            "--replay is text beside that of the pair, of which nothing is learned here.",
            "Leave it out: it is for an --init whose weights all move (--update all), and fine_tune.replay above 0.",
        )
    if arguments.back and (config.fine_tune.update == "none" or not config.fine_tune.synthetic):
        raise ConfigError(
            "--back translates text to learn from, of which nothing is learned here.",
            "Leave it out: it is for weights that move (--update), and fine_tune.synthetic above 0.",
        )
    if shape and arguments.init != "none":
        _check_no_adapter(Path(arguments.init), shape)
    return config


def _check_no_adapter(init: Path, shape: str) -> None:
    from metanmt.nmt.folder import checkpoint_folder, is_adapter

    if is_adapter(checkpoint_folder(init)):
        raise ConfigError(
            f"--set {shape} is for a new adapter, and {init} is one that goes on as it is.",
            "Leave it out, or give the base by --init.",
        )


def _fine_tune(arguments: argparse.Namespace) -> None:
    config = _fine_tune_config(arguments)
    check_at_once(
        arguments.pair,
        models=[Path(path) for path in (arguments.init, arguments.back) if path not in ("none", "init", None)],
        data=arguments.data,
        texts=[arguments.train, arguments.dev, arguments.mono],
        out=None if arguments.overwrite else arguments.out,
    )
    if arguments.replay:
        check_at_once(data=arguments.replay)
    from metanmt.nmt.tuning_text import Text
    from metanmt.recipes import fine_tune

    facts = fine_tune.run(
        arguments.init,
        arguments.pair,
        arguments.out,
        Text(
            data=arguments.data,
            train_set=arguments.train_set,
            dev_set=arguments.dev_set,
            budget_words=arguments.budget,
            train_files=arguments.train,
            dev_files=arguments.dev,
            mono_files=arguments.mono,
            back=arguments.back,
        ),
        config.fine_tune,
        model=config.model,
        adapter=config.adapter,
        seed=arguments.seed,
        precision=config.run.precision,
        micro_tokens=config.batch.micro_tokens,
        replay=arguments.replay,
        overwrite=arguments.overwrite,
    )
    if arguments.json:
        print_json(facts)
        _say_if_stopped(facts, arguments.out)
        return
    first, best = facts["history"][0], facts["best"]
    print(
        f"{arguments.out}: dev chrF++ {first['chrf']:.1f} -> {best['chrf']:.1f}, BLEU {first['bleu']:.1f} -> "
        f"{best['bleu']:.1f} (greedy), {_chosen(facts)}, "
        f"{facts['sentences']:,} pairs, {facts['train_words']:,} words, {duration(facts['elapsed_seconds'])}, "
        f"{facts['weights_bytes'] / 1e6:.1f} MB"
    )
    _say_if_stopped(facts, arguments.out)


def _chosen(facts: dict[str, Any]) -> str:
    """Return which weights were kept."""
    if facts["soup"]:
        return f"average of {facts['soup']} runs"
    if facts["best"]["update"] or not facts["updates"]:
        return f"at update {facts['best']['update']} of {facts['updates']}"
    start = "untrained, as it began" if facts["init"] == "none" else "--init's, unchanged"
    if facts.get("aligned_pieces") or facts.get("new_pieces"):
        start = "--init's, with new pieces or aligned ones"
    elif facts.get("new_target"):
        start = "--init's, with a tag for the target"
    return f"no update of {facts['updates']} was better: the model is {start}"


def _say_if_stopped(facts: dict[str, Any], out: Path) -> None:
    if facts["interrupted"]:
        raise KeyboardInterrupt(f"Stopped early; the best weights so far are in {out}.")


COMMANDS = (("fine-tune", _fine_tune_arguments, _fine_tune),)
