"""With a model: translate, evaluate, analyze, export."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from metanmt.commands.shared import check_at_once, model_arguments, pair_argument, print_json, resamples, show
from metanmt.errors import UsageError


def _translate_arguments(sub: argparse.ArgumentParser) -> None:
    model_arguments(sub)


def _translate(arguments: argparse.Namespace) -> None:
    check_at_once(arguments.pair, models=[arguments.model])
    from metanmt.recipes import translate

    if sys.stdin is None or sys.stdout is None:
        raise UsageError("Standard input or output is closed.", "Call it so: metanmt translate ... < in.txt > out.txt")
    translate.run(
        arguments.model,
        arguments.pair,
        beam=arguments.beam,
        length_penalty=arguments.length_penalty,
        batch_tokens=arguments.batch_tokens,
        engine=arguments.engine,
        quantization=arguments.quantization,
        lines=sys.stdin.buffer,
        out=sys.stdout,
    )


def _evaluate_arguments(sub: argparse.ArgumentParser) -> None:
    model_arguments(sub)
    sub.add_argument("--data", type=Path, metavar="DATA", help="take the test set from a prepared data folder")
    sub.add_argument("--split", default="test", metavar="NAME", help="set of the data folder (default: test)")
    sub.add_argument(
        "--source",
        type=Path,
        metavar="FILE",
        help="your own source sentences, or one .tsv (source, tab, target) or .jsonl with both sides",
    )
    sub.add_argument("--reference", type=Path, metavar="FILE", help="your own reference translations")
    sub.add_argument(
        "--bootstrap", type=resamples, default=1000, metavar="N", help="resamples for the interval; 0: none"
    )
    sub.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="where hypotheses and scores go (default: folder evaluation in the model)",
    )
    sub.add_argument("--json", action="store_true", help="print the scores as JSON")


def _evaluate(arguments: argparse.Namespace) -> None:
    own = [path for path in (arguments.source, arguments.reference) if path]
    check_at_once(arguments.pair, models=[arguments.model], data=arguments.data, texts=[own])
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
        engine=arguments.engine,
        quantization=arguments.quantization,
        bootstrap=arguments.bootstrap,
        out=arguments.out,
    )
    if arguments.json:
        print_json(facts)
    else:
        print(format_scores(facts))


def _analyze_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--init", type=Path, required=True, metavar="RUN", help="what was adapted, a run or checkpoint")
    sub.add_argument("--model", type=Path, required=True, metavar="TUNED", help="what it became")
    sub.add_argument("--data", type=Path, required=True, metavar="DATA", help="the prepared data folder")
    pair_argument(sub)
    sub.add_argument(
        "--split", default="dev", metavar="NAME", help="set whose sentences are represented (default: dev)"
    )
    sub.add_argument("--sentences", type=int, default=200, metavar="N", help="how many of it at most (default: 200)")
    sub.add_argument("--json", action="store_true", help="print the layers as JSON")


def _analyze(arguments: argparse.Namespace) -> None:
    check_at_once(arguments.pair, models=[arguments.init, arguments.model], data=arguments.data)
    from metanmt.recipes import analyze
    from metanmt.report import table

    facts = analyze.run(
        arguments.init,
        arguments.model,
        arguments.data,
        arguments.pair,
        split=arguments.split,
        sentences=arguments.sentences,
    )
    if arguments.json:
        print_json(facts)
        return
    figures = [[layer["layer"], *(_figure(layer[key]) for key in ("movement", "cka"))] for layer in facts["layers"]]
    print(table(["layer", "weights moved, relative", "similarity (linear CKA)"], figures))


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _export_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--model", type=Path, required=True, metavar="TUNED", help="an adapter, a checkpoint, or a run")
    sub.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="the checkpoint folder to write")
    sub.add_argument("--pair", metavar="XX-YY", help="what plain transformers is to translate, such as fi-en")
    sub.add_argument("--overwrite", action="store_true", help="replace an existing checkpoint folder")
    sub.add_argument("--json", action="store_true", help="print the facts as JSON")


def _export(arguments: argparse.Namespace) -> None:
    check_at_once(arguments.pair, models=[arguments.model], out=None if arguments.overwrite else arguments.out)
    from metanmt.recipes import export

    show(export.run(arguments.model, arguments.out, arguments.pair, overwrite=arguments.overwrite), arguments.json)


COMMANDS = (
    ("translate", _translate_arguments, _translate),
    ("evaluate", _evaluate_arguments, _evaluate),
    ("analyze", _analyze_arguments, _analyze),
    ("export", _export_arguments, _export),
)
