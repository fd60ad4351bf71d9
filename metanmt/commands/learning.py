"""From text to an initialisation: prepare, vectors, meta-train."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import get_args

from metanmt.commands.shared import (
    check_at_once,
    items,
    language_file,
    natural,
    positive,
    print_json,
    set_argument,
    show,
)
from metanmt.config import LearnerName
from metanmt.config_file import load_config
from metanmt.errors import UsageError
from metanmt.limits import check_used
from metanmt.runlog import duration


def _prepare_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("manifest", type=Path, metavar="CORPUS.toml", help="the collection's manifest, or a shipped name")
    sub.add_argument("--out", type=Path, required=True, metavar="DATA", help="the data folder to write")
    sub.add_argument("--root", type=Path, metavar="FOLDER", help="where the manifest's relative paths start")
    sub.add_argument(
        "--languages", type=items, default=[], metavar="XX,YY", help="meta-test languages of the embedded corpus"
    )
    sub.add_argument(
        "--both-directions",
        action="store_true",
        help="take every pair the other way round too, of the same text: for runs that are to learn to translate into "
        "new languages",
    )
    sub.add_argument(
        "--tokenizer",
        default="",
        metavar="RUN",
        help="use the tokenizer of a run, checkpoint or data folder, to fine-tune that run on this text",
    )
    sub.add_argument(
        "--overwrite", action="store_true", help="replace an existing data folder, even one that is up to date"
    )
    sub.add_argument("--json", action="store_true", help="print the facts as JSON")


def _prepare(arguments: argparse.Namespace) -> None:
    from metanmt.data.manifest import kind_of
    from metanmt.recipes import prepare
    from metanmt.report import table

    facts = prepare.run(
        arguments.manifest,
        arguments.out,
        root=arguments.root,
        languages=arguments.languages,
        both_directions=arguments.both_directions,
        tokenizer=arguments.tokenizer,
        overwrite=arguments.overwrite,
    )
    header, rows = facts.pop("table")
    if arguments.json:
        print_json(facts)
        return
    print(table(header, rows))
    every = [(kind_of(name), size) for item in facts["pairs"].values() for name, size in item["sets"].items()]
    sizes = [size for kind, size in every if kind == "train"]
    print(
        f"{arguments.out}: {sum(size['sentences'] for size in sizes):,} training pairs, "
        f"{sum(size['target_tokens'] for size in sizes):,} target tokens, vocabulary "
        f"{facts['vocabulary_size']:,}, {duration(facts['elapsed_seconds'])}, "
        f"{facts['peak_memory_bytes'] / 2**20:,.0f} MiB"
    )


def _vectors_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "data", type=Path, metavar="DATA", help="the prepared data folder; its folder `vectors` is written"
    )
    sub.add_argument(
        "--vec",
        type=language_file,
        action="append",
        default=[],
        metavar="XX=FILE",
        help="aligned vectors of a language, .vec or .vec.gz; without, its vectors are learned from the text",
    )
    sub.add_argument("--size", type=positive, default=64, metavar="N", help="dimensions of learned ones (default: 64)")
    sub.add_argument(
        "--sentences", type=positive, default=50_000, metavar="N", help="of a language to learn from (default: 50000)"
    )
    sub.add_argument(
        "--words", type=positive, default=200_000, metavar="N", help="of a file to read at most (default: 200000)"
    )
    sub.add_argument("--seed", type=natural, default=1, help="of learning, and of what is held out (default: 1)")
    sub.add_argument("--overwrite", action="store_true", help="replace vectors that are there")
    sub.add_argument("--json", action="store_true", help="print the report as JSON")


def _vectors(arguments: argparse.Namespace) -> None:
    from metanmt.recipes import vectors
    from metanmt.report import table

    facts = vectors.run(
        arguments.data,
        files=dict(arguments.vec),
        size=arguments.size,
        sentences=arguments.sentences,
        words=arguments.words,
        seed=arguments.seed,
        overwrite=arguments.overwrite,
    )
    if arguments.json:
        print_json(facts)
        return
    columns = ("from", "pieces", "identical", "numerals", "aligned", "dictionary", "held_out")
    rows = [
        [
            language,
            *(str(item.get(name, "-")) for name in columns),
            *(f"{100 * item[name]:.1f}" if name in item else "-" for name in ("precision_1", "precision_5")),
        ]
        for language, item in facts["languages"].items()
    ]
    print(table(["language", *(name.replace("_", " ") for name in columns), "P@1 %", "P@5 %"], rows))
    print(f"{facts['vectors']}: {facts['size']} dimensions, {duration(facts['elapsed_seconds'])}")


def _meta_train_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("config", type=Path, metavar="CONFIG.toml", help="a configuration file, or a shipped name: tiny")
    sub.add_argument("--data", type=Path, required=True, metavar="DATA", help="the prepared data folder")
    sub.add_argument("--out", type=Path, required=True, metavar="RUN", help="the run's folder")
    sub.add_argument(
        "--learner",
        choices=get_args(LearnerName),
        help="this learner, with its own inner loop; short for --set outer.learner=...",
    )
    sub.add_argument("--parent", metavar="PAIR", help="for --learner transfer: the parent pair, or auto")
    sub.add_argument(
        "--lexicon", choices=["plain", "ngrams", "universal"], help="embeddings; short for --set model.lexicon=..."
    )
    set_argument(sub)
    sub.add_argument(
        "--resume",
        action="store_true",
        help="go on with an interrupted run, by the same settings: RUN/config.toml has them",
    )
    sub.add_argument(
        "--joint-phase",
        type=Path,
        metavar="RUN",
        help="take the joint phase of that run over instead of training it again: the same settings, another learner",
    )
    sub.add_argument("--json", action="store_true", help="print the summary as JSON")


def _meta_train(arguments: argparse.Namespace) -> None:
    path = arguments.config
    short = {"learner": "outer.learner", "parent": "outer.parent", "lexicon": "model.lexicon"}
    given = [f"{key}={value}" for name, key in short.items() if (value := getattr(arguments, name))]
    config = load_config(path, [*arguments.set, *given])
    check_used(config, arguments.set)
    if arguments.resume and arguments.joint_phase:
        raise UsageError("--joint-phase is for a new run.", "Leave it out: --resume goes on from where the run stands.")
    check_at_once(data=arguments.data)
    from metanmt.recipes import meta_train

    facts = meta_train.run(
        config, arguments.data, arguments.out, resume=arguments.resume, joint_phase=arguments.joint_phase
    )
    show(facts, arguments.json)


COMMANDS = (
    ("prepare", _prepare_arguments, _prepare),
    ("vectors", _vectors_arguments, _vectors),
    ("meta-train", _meta_train_arguments, _meta_train),
)
