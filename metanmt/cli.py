"""The command line: arguments in, results to stdout, everything else to stderr, exit codes.

The only place that prints results or exits. torch and transformers are imported inside the commands, so that `--help`
and a mistake in the arguments answer at once.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from metanmt import __version__, help_texts
from metanmt.config import Config, build, load_config, override
from metanmt.errors import MetanmtError
from metanmt.runlog import duration, say, speaks

SUCCESS, DEFECT, MISTAKE, INTERRUPTED = 0, 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0, 2 for a user's mistake, 130 for Ctrl-C, 1 for a defect."""
    parsed = parser().parse_args(arguments)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        parsed.command(parsed)
    except MetanmtError as error:
        if parsed.debug:
            raise
        say(f"metanmt: {error.cause}\n         {error.remedy}")
        return MISTAKE
    except OSError as error:
        if parsed.debug or error.errno is None or isinstance(error, BrokenPipeError):
            raise
        say(f"metanmt: {error.filename or 'a file'}: {error.strerror}.\n         {help_texts.remedy_for(error)}")
        return MISTAKE
    except KeyboardInterrupt as stop:
        say(f"metanmt: {str(stop) or 'Stopped; nothing half-written is left behind.'}")
        return INTERRUPTED
    return SUCCESS


def parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    top = argparse.ArgumentParser(
        prog="metanmt", description=help_texts.TOP, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    top.add_argument("--version", action="version", version=f"metanmt {__version__}")
    top.add_argument("--debug", action="store_true", help="show the traceback of a mistake")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, add_arguments, command in (
        ("prepare", _prepare_arguments, _prepare),
        ("meta-train", _meta_train_arguments, _meta_train),
        ("fine-tune", _fine_tune_arguments, _fine_tune),
        ("translate", _translate_arguments, _translate),
        ("evaluate", _evaluate_arguments, _evaluate),
        ("compare", _compare_arguments, _compare),
        ("report", _report_arguments, _report),
        ("demo", _demo_arguments, _demo),
    ):
        summary, epilog = help_texts.COMMANDS[name]
        sub = commands.add_parser(
            name,
            help=summary,
            description=summary,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        sub.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        sub.set_defaults(command=command)
        add_arguments(sub)
    return top


def _prepare_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("manifest", type=Path, metavar="CORPUS.toml", help="the collection's manifest, or a shipped name")
    sub.add_argument("--out", type=Path, required=True, metavar="DATA", help="the data folder to write")
    sub.add_argument("--root", type=Path, metavar="FOLDER", help="where the manifest's relative paths start")
    sub.add_argument(
        "--languages", type=_list, default=[], metavar="XX,YY", help="meta-test languages of the embedded corpus"
    )
    sub.add_argument("--overwrite", action="store_true", help="replace an existing data folder")
    sub.add_argument("--json", action="store_true", help="print the facts as JSON")


def _prepare(arguments: argparse.Namespace) -> None:
    from metanmt.recipes import prepare
    from metanmt.report import table

    facts = prepare.run(
        arguments.manifest,
        arguments.out,
        root=arguments.root,
        languages=arguments.languages,
        overwrite=arguments.overwrite,
    )
    header, rows = facts.pop("table")
    if arguments.json:
        _print_json(facts)
        return
    print(table(header, rows))
    sizes = [item["sets"].get("train", {}) for item in facts["pairs"].values()]
    print(
        f"{arguments.out}: {sum(size.get('sentences', 0) for size in sizes):,} training pairs, "
        f"{sum(size.get('target_tokens', 0) for size in sizes):,} target tokens, vocabulary "
        f"{facts['vocabulary_size']:,}, {duration(facts['elapsed_seconds'])}, "
        f"{facts['peak_memory_bytes'] / 2**20:,.0f} MiB"
    )


def _meta_train_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("config", type=Path, metavar="CONFIG.toml", help="a configuration file, or a shipped name: tiny")
    sub.add_argument("--data", type=Path, required=True, metavar="DATA", help="the prepared data folder")
    sub.add_argument("--out", type=Path, required=True, metavar="RUN", help="the run's folder")
    sub.add_argument("--learner", choices=["fomaml", "reptile", "joint"], help="short for --set outer.learner=...")
    _set_argument(sub)
    sub.add_argument("--resume", action="store_true", help="go on with an interrupted run")
    sub.add_argument("--json", action="store_true", help="print the summary as JSON")


def _meta_train(arguments: argparse.Namespace) -> None:
    path = arguments.config
    learner = [f"outer.learner={arguments.learner}"] if arguments.learner else []
    config = load_config(path, [*arguments.set, *learner])
    from metanmt.recipes import meta_train

    _show(meta_train.run(config, arguments.data, arguments.out, resume=arguments.resume), arguments.json)


def _fine_tune_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--init", required=True, metavar="RUN", help="a run or checkpoint; none = from scratch")
    _pair_argument(sub)
    sub.add_argument("--out", type=Path, required=True, metavar="TUNED", help="the checkpoint folder to write")
    sub.add_argument("--data", type=Path, metavar="DATA", help="take the text from a prepared data folder")
    sub.add_argument("--budget", type=int, metavar="WORDS", help="target words to draw from the training set")
    sub.add_argument("--train-set", default="train", metavar="NAME", help="set of the data folder (default: train)")
    sub.add_argument("--dev-set", default="dev", metavar="NAME", help="set of the data folder (default: dev)")
    sub.add_argument(
        "--train", type=Path, nargs="+", default=[], metavar="FILE", help="your own text: two files, a TSV or a JSONL"
    )
    sub.add_argument("--dev", type=Path, nargs="+", default=[], metavar="FILE", help="your own dev text, likewise")
    sub.add_argument("--seed", type=int, default=1, help="draw of the budget, order, dropout (default: 1)")
    sub.add_argument(
        "--update",
        choices=["all", "embeddings", "embeddings+encoder"],
        help="what moves; short for --set fine_tune.update=...",
    )
    _set_argument(sub)
    sub.add_argument("--overwrite", action="store_true", help="replace an existing checkpoint folder")
    sub.add_argument("--json", action="store_true", help="print the report as JSON")


def _fine_tune(arguments: argparse.Namespace) -> None:
    update = [f"fine_tune.update={arguments.update}"] if arguments.update else []
    config = build(Config, override({}, [*arguments.set, *update]), where="--set")
    if arguments.train and arguments.budget is not None:
        say("--budget draws from your own files too")
    from metanmt.recipes import fine_tune

    facts = fine_tune.run(
        arguments.init,
        arguments.pair,
        arguments.out,
        fine_tune.Text(
            data=arguments.data,
            train_set=arguments.train_set,
            dev_set=arguments.dev_set,
            budget_words=arguments.budget,
            train_files=arguments.train,
            dev_files=arguments.dev,
        ),
        config.fine_tune,
        model=replace(config.model, dropout=config.fine_tune.dropout),
        seed=arguments.seed,
        precision=config.run.precision,
        overwrite=arguments.overwrite,
    )
    if arguments.json:
        _print_json(facts)
        return
    first, best = facts["history"][0], facts["best"]
    print(
        f"{arguments.out}: dev chrF++ {first['chrf']:.1f} -> {best['chrf']:.1f}, BLEU {first['bleu']:.1f} -> "
        f"{best['bleu']:.1f} (greedy) at update {best['update']} of {facts['updates']}, "
        f"{facts['sentences']:,} pairs, {facts['train_words']:,} words, {duration(facts['elapsed_seconds'])}"
    )
    if facts["interrupted"]:
        raise KeyboardInterrupt(f"Stopped early; the best weights so far are in {arguments.out}.")


def _translate_arguments(sub: argparse.ArgumentParser) -> None:
    _model_arguments(sub)


def _translate(arguments: argparse.Namespace) -> None:
    from metanmt.recipes import translate

    translate.run(
        arguments.model,
        arguments.pair,
        beam=arguments.beam,
        length_penalty=arguments.length_penalty,
        batch_tokens=arguments.batch_tokens,
        lines=sys.stdin.buffer,
        out=sys.stdout,
    )


def _evaluate_arguments(sub: argparse.ArgumentParser) -> None:
    _model_arguments(sub)
    sub.add_argument("--data", type=Path, metavar="DATA", help="take the test set from a prepared data folder")
    sub.add_argument("--split", default="test", metavar="NAME", help="set of the data folder (default: test)")
    sub.add_argument("--source", type=Path, metavar="FILE", help="your own source sentences")
    sub.add_argument("--reference", type=Path, metavar="FILE", help="your own reference translations")
    sub.add_argument("--bootstrap", type=int, default=1000, metavar="N", help="resamples for the interval; 0: none")
    sub.add_argument(
        "--out", type=Path, metavar="FOLDER", help="where hypotheses and scores go (default: in the model)"
    )
    sub.add_argument("--json", action="store_true", help="print the scores as JSON")


def _evaluate(arguments: argparse.Namespace) -> None:
    from metanmt.recipes import evaluate
    from metanmt.report import format_scores

    facts = evaluate.run(
        model=arguments.model,
        pair=arguments.pair,
        data=arguments.data,
        split=arguments.split,
        source=arguments.source,
        reference=arguments.reference,
        beam=arguments.beam,
        length_penalty=arguments.length_penalty,
        batch_tokens=arguments.batch_tokens,
        bootstrap=arguments.bootstrap,
        out=arguments.out,
    )
    if arguments.json:
        _print_json(facts)
    else:
        print(format_scores(facts))


def _compare_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("comparison", type=Path, metavar="COMPARE.toml", help="the comparison, or a shipped name")
    sub.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="its folder; what is done is skipped")
    sub.add_argument("--dry-run", action="store_true", help="print what would be run, and its estimated cost")
    sub.add_argument("--json", action="store_true", help="print the tables as JSON")


def _compare(arguments: argparse.Namespace) -> None:
    from metanmt.comparison import compare
    from metanmt.comparison.tables import format_comparison

    if arguments.dry_run:
        print(compare.dry_run(arguments.comparison, arguments.out))
        return
    found = compare.run(arguments.comparison, arguments.out)
    if arguments.json:
        _print_json(found)
    else:
        print(format_comparison(found))


def _report_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("folders", type=Path, nargs="+", metavar="DIR", help="a folder that metanmt compare wrote")
    sub.add_argument("--out", type=Path, default=Path("report.html"), metavar="FILE", help="(default: report.html)")
    sub.add_argument("--budget", type=int, metavar="WORDS", help="whose translations it shows (default: the largest)")
    sub.add_argument("--sentences", type=int, default=60, metavar="N", help="of each test set, at most (default: 60)")


def _report(arguments: argparse.Namespace) -> None:
    from metanmt.pages import page

    size = page.write(arguments.folders, arguments.out, budget=arguments.budget, sentences=arguments.sentences)
    print(f"{arguments.out}: {size / 2**10:,.0f} KiB")


def _demo_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--out", type=Path, default=Path("demo"), metavar="FOLDER", help="where it works (default: demo)")
    sub.add_argument(
        "--languages", type=_list, default=[], metavar="XX,YY", help="try other unseen languages (default: four)"
    )
    sub.add_argument("--budget", type=int, default=2000, metavar="WORDS", help="English words to adapt on")
    sub.add_argument("--tokens", type=int, default=None, metavar="N", help="cost of each meta-training")
    sub.add_argument("--json", action="store_true", help="print the results as JSON")


def _demo(arguments: argparse.Namespace) -> None:
    from metanmt import demo

    results = demo.run(
        arguments.out, languages=arguments.languages, budget_words=arguments.budget, target_tokens=arguments.tokens
    )
    if arguments.json:
        _print_json(results)
    else:
        print(demo.format_results(results))


def _pair_argument(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--pair", required=True, metavar="XX-YY", help="source and target language, such as fi-en")


def _model_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--model", type=Path, required=True, metavar="TUNED", help="a checkpoint, or a run")
    _pair_argument(sub)
    sub.add_argument("--beam", type=int, default=5, metavar="N", help="beam size; 1 is greedy (default: 5)")
    sub.add_argument(
        "--length-penalty", type=float, default=1.0, metavar="X", help="above 1 favours longer (default: 1)"
    )
    sub.add_argument(
        "--batch-tokens", type=int, default=4000, metavar="N", help="source tokens a batch: memory, not result"
    )


def _set_argument(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="override a setting (list below)"
    )


def _list(text: str) -> list[str]:
    return [item for item in text.replace(",", " ").split() if item]


def _show(facts: dict[str, Any], as_json: bool) -> None:
    if not speaks():
        return
    if as_json:
        _print_json(facts)
        return
    for key, value in facts.items():
        print(f"{key.replace('_', ' '):24} {value:,}" if isinstance(value, (int, float)) else f"{key:24} {value}")


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False))
