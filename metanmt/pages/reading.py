"""The folder of a finished comparison, read for a page; nothing is computed anew but what the tables leave out."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from metanmt.comparison.execute import HYPOTHESES
from metanmt.data.language import Pair
from metanmt.data.sources import read_lines
from metanmt.data.store import FACTS_FILE, text_files
from metanmt.errors import MetanmtError, UsageError

METRICS = {"bleu": "BLEU", "chrf": "chrF++"}
MEAN = "mean"
ResultKey = tuple[str, str, int, str, int]
"""Arm, pair, budget, update, draw."""


@dataclass(frozen=True)
class System:
    """An arm, adapted in one way: a line of a chart and a row of a table.

    Attributes:
        arm: its name.
        update: which parameters move in adapting.
        label: the arm's name, with the update where the comparison has several.
        style: its number among the systems, alike in every chart.
    """

    arm: str
    update: str
    label: str
    style: int


@dataclass(frozen=True)
class Comparison:
    """What a comparison's folder holds."""

    folder: Path
    found: dict[str, Any]
    results: dict[ResultKey, Path]
    data: Path | None

    @property
    def name(self) -> str:
        """Its title."""
        return str(self.found["name"] or f"Comparison {self.folder.resolve().name}")

    @property
    def runs(self) -> Path:
        """Where its meta-trainings lie."""
        return self.folder / str(self.found["runs"])

    @property
    def test_set(self) -> str:
        """The set that every pair is scored on; charts and translations are of this one."""
        return str(self.found["test_set"])

    @property
    def pairs(self) -> list[str]:
        """The unseen pairs."""
        return list(self.found["pairs"])

    @property
    def budgets(self) -> list[int]:
        """The budgets, from the smallest."""
        return sorted({row["budget"] for row in self.found["rows"]})

    @property
    def systems(self) -> list[System]:
        """The arms in their order, once for every update that they have; zero-shot belongs to each of them."""
        rows = self.found["rows"]
        adapted = list(dict.fromkeys((row["arm"], row["update"]) for row in rows if row["budget"]))
        updates = list(dict.fromkeys(update for _, update in adapted))
        found: list[System] = []
        for arm in dict.fromkeys(row["arm"] for row in rows):
            for update in [update for update in updates if (arm, update) in adapted] or ["none"]:
                label = f"{arm} ({update})" if len(updates) > 1 else arm
                found.append(System(arm, update, label, len(found)))
        return found

    def systems_at(self, budget: int) -> list[System]:
        """Return those that may have been run at a budget: zero-shot one an arm."""
        first: dict[str, System] = {}
        for system in self.systems:
            first.setdefault(system.arm, system)
        return self.systems if budget else list(first.values())

    def row(self, system: System, budget: int) -> dict[str, Any] | None:
        """Return the scores of a system at a budget, or None if it was not run there."""
        update = system.update if budget else "none"
        wanted = (system.arm, budget, update)
        return next((row for row in self.found["rows"] if (row["arm"], row["budget"], row["update"]) == wanted), None)

    def path(self, system: System, pair: str, budget: int) -> Path | None:
        """Return the folder of a system's first draw, or None if it was not run there."""
        update, draw = (system.update, self.found["draws"][0]) if budget else ("none", 0)
        return self.results.get((system.arm, pair, budget, update, draw))

    def spread_of_mean(self, system: System, budget: int, metric: str) -> float | None:
        """Return the deviation over draws of the mean over pairs; the tables have it for each pair only."""
        by_draw: dict[int, list[float]] = {}
        for (arm, _, other, update, draw), path in self.results.items():
            if (arm, other, update) == (system.arm, budget, system.update):
                by_draw.setdefault(draw, []).append(_score(path, self.test_set, metric))
        means = [float(np.mean(values)) for values in by_draw.values()]
        return float(np.std(means, ddof=1)) if len(means) > 1 else None

    def metrics(self, arm: str) -> list[dict[str, Any]]:
        """Return the lines that a meta-training logged."""
        path = self.runs / arm / "metrics.jsonl"
        try:
            return [json.loads(line) for line in read_lines(path)] if path.is_file() else []
        except json.JSONDecodeError as error:
            raise MetanmtError(f"{path} is damaged: {error}.", "Copy the run again, or move that file away.") from None

    def text(self, pair: str) -> tuple[list[str], list[str]] | None:
        """Return sources and references of a pair's test set, or None if its text is not here."""
        if self.data is None:
            return None
        paths = self.text_files(pair)
        if not all(path.is_file() for path in paths):
            return None
        source, reference = (list(read_lines(path)) for path in paths)
        return source, reference

    def text_files(self, pair: str) -> tuple[Path, Path]:
        """Return where the two sides of a pair's test set lie."""
        return text_files(self.data or self.folder, Pair.parse(pair), self.test_set)

    def versions(self) -> list[dict[str, str]]:
        """Return the different sets of versions that its results were made with."""
        found = [read_json(path / "result.json")["versions"] for path in self.results.values()]
        return [json.loads(text) for text in dict.fromkeys(json.dumps(item, sort_keys=True) for item in found)]


def open_comparison(folder: Path) -> Comparison:
    """Return a finished comparison.

    Raises:
        MetanmtError: the folder is none, or it is unfinished.
    """
    path = folder / "comparison.json"
    if not path.is_file():
        if (folder / "runs").is_dir() or (folder / "results").is_dir():
            raise MetanmtError(
                f"{folder} is an unfinished comparison: it has no comparison.json.",
                f"Run its command again, `metanmt compare ... --out {folder}`: it does only what is missing.",
            )
        raise UsageError(f"{folder} is not a comparison's folder.", "Give one that `metanmt compare --out` wrote.")
    found = read_json(path)
    if (
        not isinstance(found, dict)
        or not {"rows", "pairs", "draws", "baseline", "train_set", "test_set", "other_test_sets"} <= found.keys()
    ):
        raise UsageError(
            f"{path} is not a comparison's, or that of an earlier version.",
            "Give a folder that `metanmt compare --out` wrote; after an older one, run its command again.",
        )
    data = folder / found.get("data", "data")
    here = data if (data / FACTS_FILE).is_file() and _is_scored_text(data, found) else None
    return Comparison(folder, found, _results(folder, found), here)


def _is_scored_text(data: Path, found: dict[str, Any]) -> bool:
    """Return whether a data folder has the test sentences that were scored, as far as it has their text."""
    for pair, scored in found.get("digests", {}).items():  # comparisons of before do not say
        paths = text_files(data, Pair.parse(pair), found["test_set"])
        if all(path.is_file() for path in paths) and [digest(path) for path in paths] != scored:
            return False
    return True


def _results(folder: Path, found: dict[str, Any]) -> dict[ResultKey, Path]:
    """Return the folder of every result that the tables are made of; those of other settings stay out."""
    there: dict[ResultKey, Path] = {}
    for path in sorted(folder.glob("results/*/*/*/result.json")):
        cell = read_json(path).get("cell", {})
        if "draw" not in cell:  # of an earlier version
            continue
        key = (cell["arm"], cell["pair"], cell["budget"], cell["update"], cell["draw"])
        if (path.parent / HYPOTHESES.format(found["test_set"])).is_file():
            there[key] = path.parent
    wanted: list[ResultKey] = [
        (row["arm"], pair, row["budget"], row["update"], draw)
        for row in found["rows"]
        for pair in found["pairs"]
        for draw in (found["draws"] if row["budget"] else [0])
    ]
    if missing := [key for key in wanted if key not in there]:
        arm, pair, budget, _, draw = missing[0]
        raise MetanmtError(
            f"{folder} is unfinished: {len(missing)} of {len(wanted)} results are missing, "
            f"the first of arm {arm} on {pair}, {budget:,} words, draw {draw}.",
            f"Run its command again, `metanmt compare ... --out {folder}`: it does only what is missing.",
        )
    return {key: there[key] for key in wanted}


def _score(result: Path, test_set: str, metric: str) -> float:
    return float(read_json(result / "result.json")["scores"][test_set][metric]["score"])


def read_json(path: Path) -> Any:
    """Return what a JSON file holds.

    Raises:
        MetanmtError: it is damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise MetanmtError(
            f"{path} is damaged: {error}.", "Remove it and run the comparison's command again."
        ) from None


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
