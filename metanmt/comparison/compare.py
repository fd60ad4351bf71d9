"""`metanmt compare`: arms at equal cost on unseen pairs, one table; the recipes in the order that a plan gives."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from metanmt.comparison import execute, tables
from metanmt.comparison.plan import CompareConfig, Plan, load_compare, make_plan, to_toml
from metanmt.report import table
from metanmt.runtime import write_json, write_text


def run(file: Path, out: Path, *, data: Path | None = None, root: Path | None = None) -> dict[str, Any]:
    """Run what is missing of a comparison and return its tables as values; they are also written below `out`.

    Beside the tables stand the comparison with every key written out (`comparison.toml`), the command, and where the
    data lies, seen from `out`.

    Args:
        file: the comparison, or the name of a shipped one.
        out: its folder; the same call goes on after an interruption.
        data: a prepared folder, instead of what the file says.
        root: where the text of the file's collection lies, likewise.
    """
    plan, store = execute.run(_given(file, data, root), out)
    places = [text for name, path in (("--data", data), ("--root", root)) if path for text in (name, str(path))]
    found = {
        **tables.collect(plan, store, out),
        "command": shlex.join(["metanmt", "compare", str(file), "--out", str(out), *places]),
        "data": Path(os.path.relpath(store.folder.resolve(), out.resolve())).as_posix(),
    }
    write_text(out / "comparison.toml", to_toml(plan.compare))
    write_json(out / "comparison.json", found)
    write_text(out / "comparison.md", tables.format_comparison(found) + "\n")
    write_text(out / "comparison.csv", tables.as_csv(found))
    return found


def dry_run(file: Path, out: Path, *, data: Path | None = None, root: Path | None = None) -> str:
    """Return what `run` would do and its estimated cost; only data that the comparison names is prepared."""
    compare = _given(file, data, root)
    store = execute.open_data(compare, out)
    plan = make_plan(compare, store)
    return _format_plan(plan, execute.estimate(plan, store, out))


def _given(file: Path, data: Path | None, root: Path | None) -> CompareConfig:
    compare = load_compare(file)
    if data:
        compare = replace(compare, data=str(data), corpus="")
    return replace(compare, root=str(root)) if root else compare


def _format_plan(plan: Plan, costs: Mapping[str, float]) -> str:
    rows = []
    for arm in plan.arms:
        cells = [cell for cell in plan.cells if cell.arm == arm.name]
        missing = [cell for cell in cells if costs[str(cell.path)]]
        adapting = sum(costs[str(cell.path)] for cell in cells)
        rows.append(
            [arm.name, f"{costs.get(arm.name, 0):,.0f}", f"{len(cells)}", f"{len(missing)}", f"{adapting:,.0f}"]
        )
    header = ["arm", "meta-training, tokens left", "results", "missing", "adapting and scoring, tokens left at most"]
    total = f"In all at most {sum(costs.values()):,.0f} target tokens of forward-backward passes."
    return "\n".join([table(header, rows), "", total])
