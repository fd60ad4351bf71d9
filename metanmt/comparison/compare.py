"""`metanmt compare`: arms at equal cost on unseen pairs, one table; the recipes in the order that a plan gives."""

from __future__ import annotations

import os
import shlex
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from metanmt.comparison import execute, tables
from metanmt.comparison.checks import check_runs, checked_plan
from metanmt.comparison.plan import CompareConfig, load_compare, to_toml
from metanmt.files import write_json, write_text
from metanmt.report import table


def run(
    file: Path,
    out: Path,
    *,
    data: Path | None = None,
    root: Path | None = None,
    runs: Path | None = None,
    jobs: int | None = None,
) -> dict[str, Any]:
    """Run what is missing of a comparison and return its tables as values; they are also written below `out`.

    Beside the tables stand the comparison with every key written out (`comparison.toml`), the command, and where the
    data and the meta-trainings lie, seen from `out`.

    Args:
        file: the comparison, or the name of a shipped one.
        out: its folder; the same call goes on after an interruption.
        data: a prepared folder, instead of what the file says.
        root: where the text of the file's collection lies, likewise.
        runs: where the meta-trainings lie, likewise.
        jobs: how many pieces of work run at a time; the result does not depend on it, but on the threads of each.
    """
    given = {"--data": data, "--root": root, "--runs": runs}
    plan, store = execute.run(_given(file, data, root, runs), out, jobs)
    places = [text for name, path in given.items() if path for text in (name, str(path))]
    found = {
        **tables.collect(plan, store, out),
        "command": shlex.join(["metanmt", "compare", str(file), "--out", str(out), *places]),
        "data": _seen_from(out, store.folder),
        "runs": _seen_from(out, Path(plan.compare.runs) if plan.compare.runs else out / "runs"),
    }
    write_text(out / "comparison.toml", to_toml(plan.compare))
    write_json(out / "comparison.json", found)
    write_text(out / "comparison.md", tables.format_comparison(found) + "\n")
    write_text(out / "comparison.csv", tables.as_csv(found))
    return found


def _seen_from(out: Path, folder: Path) -> str:
    return Path(os.path.relpath(folder.resolve(), out.resolve())).as_posix()


def dry_run(
    file: Path, out: Path, *, data: Path | None = None, root: Path | None = None, runs: Path | None = None
) -> dict[str, Any]:
    """Return what `run` would do and its estimated cost; only data that the comparison names is prepared.

    Costs are in target tokens of forward-backward passes: at most what is left to be spent.
    """
    compare = _given(file, data, root, runs)
    store = execute.open_data(compare, out)
    plan = checked_plan(compare, store)
    check_runs(plan, store, out)
    costs = execute.estimate(plan, store, out)
    cells = [{**asdict(cell), "folder": str(cell.path), "target_tokens": costs[str(cell.path)]} for cell in plan.cells]
    return {
        "name": compare.name,
        "data": str(store.folder),
        "arms": [{"arm": arm.name, "meta_training_target_tokens": costs.get(arm.name, 0)} for arm in plan.arms],
        "results": cells,
        "target_tokens": sum(costs.values()),
    }


def _given(file: Path, data: Path | None, root: Path | None, runs: Path | None) -> CompareConfig:
    compare = load_compare(file)
    if data:
        compare = replace(compare, data=str(data), corpus="")
    if runs:
        compare = replace(compare, runs=str(runs))
    return replace(compare, root=str(root)) if root else compare


def format_plan(planned: dict[str, Any]) -> str:
    """Return what `dry_run` found as a table for a terminal."""
    rows = []
    for arm in planned["arms"]:
        costs = [cell["target_tokens"] for cell in planned["results"] if cell["arm"] == arm["arm"]]
        missing = sum(cost > 0 for cost in costs)
        meta_training = f"{arm['meta_training_target_tokens']:,.0f}"
        rows.append([arm["arm"], meta_training, f"{len(costs)}", f"{missing}", f"{sum(costs):,.0f}"])
    header = ["arm", "meta-training, tokens left", "results", "missing", "adapting and scoring, tokens left at most"]
    total = f"In all at most {planned['target_tokens']:,.0f} target tokens of forward-backward passes."
    return "\n".join([table(header, rows), "", total])
