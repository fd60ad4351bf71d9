"""Several models side by side: compare, report, demo."""

from __future__ import annotations

import argparse
from pathlib import Path

from metanmt.commands.shared import items, positive, print_json


def _compare_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("comparison", type=Path, metavar="COMPARE.toml", help="the comparison, or a shipped name")
    sub.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="its folder; what is done is skipped")
    sub.add_argument("--data", type=Path, metavar="DATA", help="a prepared folder, instead of what the file says")
    sub.add_argument("--root", type=Path, metavar="FOLDER", help="where the text of the file's collection lies")
    sub.add_argument(
        "--runs", type=Path, metavar="FOLDER", help="where the meta-trainings lie, to share them (default: OUT/runs)"
    )
    sub.add_argument(
        "--jobs",
        type=positive,
        metavar="N",
        help="pieces of work at a time, each in its process (default: one a GPU, else one a CPU core, at most 8)",
    )
    sub.add_argument("--dry-run", action="store_true", help="print what would be run, and its estimated cost")
    sub.add_argument("--json", action="store_true", help="print the tables, or with --dry-run the plan, as JSON")


def _compare(arguments: argparse.Namespace) -> None:
    from metanmt.comparison import compare
    from metanmt.comparison.tables import format_comparison

    places = {"data": arguments.data, "root": arguments.root, "runs": arguments.runs}
    if arguments.dry_run:
        found = compare.dry_run(arguments.comparison, arguments.out, **places)
    else:
        found = compare.run(arguments.comparison, arguments.out, jobs=arguments.jobs, **places)
    if arguments.json:
        print_json(found)
    else:
        print(compare.format_plan(found) if arguments.dry_run else format_comparison(found))


def _curve_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("folder", type=Path, metavar="DIR", help="a folder that metanmt compare wrote")
    sub.add_argument("--charts", type=Path, metavar="FOLDER", help="write the curves there as SVG files")
    sub.add_argument("--json", action="store_true", help="print the curves as JSON")


def _curve(arguments: argparse.Namespace) -> None:
    from metanmt.pages import curve

    found = curve.run(arguments.folder, arguments.charts)
    if arguments.json:
        print_json(found)
    else:
        print(curve.format_curves(found))


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
        "--languages", type=items, default=[], metavar="XX,YY", help="try other unseen languages (default: four)"
    )
    sub.add_argument("--budget", type=positive, default=2000, metavar="WORDS", help="English words to adapt on")
    sub.add_argument("--tokens", type=positive, default=None, metavar="N", help="cost of each meta-training")
    sub.add_argument(
        "--jobs",
        type=positive,
        metavar="N",
        help="pieces of work at a time (default: one a GPU, else one a CPU core, at most 4, of a gigabyte each)",
    )
    sub.add_argument("--json", action="store_true", help="print the results as JSON")


def _demo(arguments: argparse.Namespace) -> None:
    from metanmt import demo

    results = demo.run(
        arguments.out,
        languages=arguments.languages,
        budget_words=arguments.budget,
        target_tokens=arguments.tokens,
        jobs=arguments.jobs,
    )
    if arguments.json:
        print_json(results)
    else:
        print(demo.format_results(results))


COMMANDS = (
    ("compare", _compare_arguments, _compare),
    ("curve", _curve_arguments, _curve),
    ("report", _report_arguments, _report),
    ("demo", _demo_arguments, _demo),
)
