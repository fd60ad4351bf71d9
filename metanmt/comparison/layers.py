"""What adapting moved, layer by layer: one adaptation, and the mean of many as values and as tables.

Rapid learning changes what the layers of a network compute, feature reuse leaves it (Raghu et al. 2020, "Rapid Learning
or Feature Reuse? Towards Understanding the Effectiveness of MAML").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from metanmt.comparison.plan import SCRATCH, Cell, Plan
from metanmt.comparison.statistics import mean_and_deviation
from metanmt.data.language import Pair
from metanmt.data.store import TokenStore
from metanmt.nmt.analysis import place_of
from metanmt.recipes import analyze
from metanmt.report import table

SENTENCES = 200
UNBIASED = "unbiased"  # how similarity is estimated, which results of before do not say
OF_EMBEDDINGS = "How far embeddings moved includes what counterparts set at the start."
MEASURES = {"movement": "weights moved, % of their norm", "cka": "similarity of representations (linear CKA)"}


def analyse(plan: Plan, cell: Cell, store: TokenStore, before: str, after: Path) -> dict[str, Any] | None:
    """Return what the adaptation of a cell moved, or None where that is not asked: see `analysed`.

    Args:
        plan: of the comparison.
        cell: one of its adaptations.
        store: whose dev set is represented, or, where the pair has none, the set that is scored.
        before: the initialisation, a run or checkpoint.
        after: what it was adapted to.
    """
    if not analysed(plan, cell):
        return None
    dev_set = plan.compare.dev_set
    split = dev_set if dev_set in store.sets(Pair.parse(cell.pair)) else plan.test_set
    facts = analyze.run(Path(before), after, store.folder, cell.pair, split=split, sentences=SENTENCES)
    return {**{key: facts[key] for key in ("set", "sentences", "layers")}, "cka": UNBIASED}


def analysed(plan: Plan, cell: Cell) -> bool:
    """Return whether a cell is analysed: it adapts an initialisation, on the largest budget."""
    return bool(cell.budget) and cell.budget == max(plan.compare.budgets) and plan.arm(cell.arm).learner != SCRATCH


def collect_layers(plan: Plan, results: Mapping[Cell, dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what adapting on the largest budget moved, a row an arm and update: means over pairs and draws.

    An adaptation of which no update was better than the start is counted as `unmoved` and not in the means. Results
    made before there was this analysis have none and are left out; so is a row without any.

    Args:
        plan: of the comparison.
        results: what is in each cell's `result.json`.
    """
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for cell, result in results.items():
        if analysed(plan, cell) and result.get("analysis"):
            groups.setdefault((cell.arm, cell.update), []).append(result)
    rows = []
    for (arm, update), found in groups.items():
        analyses = [result["analysis"] for result in found if result["adaptation"]["best"]["update"]]
        unbiased = any(analysis.get("cka") == UNBIASED for analysis in analyses)
        moved = [
            analysis["layers"] if analysis.get("cka") == UNBIASED or not unbiased else without_cka(analysis["layers"])
            for analysis in analyses
        ]
        rows.append(
            {
                "arm": arm,
                "update": update,
                "budget": max(plan.compare.budgets),
                "adaptations": len(moved),
                "unmoved": len(found) - len(moved),
                "cka": UNBIASED if unbiased else None,
                "layers": _means(moved),
            }
        )
    return rows


def without_cka(layers: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what an analysis of before found without its similarities, which were estimated in another way."""
    return [{**item, "cka": None} for item in layers]


def _means(adaptations: Sequence[Sequence[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return mean and deviation of each layer's measures, and how many adaptations have it, if not all of them.

    A layer without weights of its own has no movement, one that read other tokens than before no similarity.
    """
    rows = []
    for name in sorted({item["layer"] for layers in adaptations for item in layers}, key=place_of):
        row: dict[str, Any] = {"layer": name}
        for measure in MEASURES:
            found = [item[measure] for layers in adaptations for item in layers if item["layer"] == name]
            values = [value for value in found if value is not None]
            mean, sd = mean_and_deviation(values) if values else (None, None)
            fewer = {"n": len(values)} if len(values) < len(adaptations) else {}
            row[measure] = None if mean is None else {"mean": mean, "sd": sd, **fewer}
        rows.append(row)
    return rows


def by_layer(rows: Sequence[dict[str, Any]], measure: str) -> dict[str, list[dict[str, float] | None]]:
    """Return a measure of every layer that has it, arms side by side."""
    found = {}
    for name in sorted({item["layer"] for row in rows for item in row["layers"]}, key=place_of):
        values = [next((i[measure] for i in row["layers"] if i["layer"] == name), None) for row in rows]
        if any(values):
            found[name] = values
    return found


def labels(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return the name of every row: the arm's, with the update where there are several."""
    several = len({row["update"] for row in rows}) > 1
    return [f"{row['arm']} ({row['update']})" if several else row["arm"] for row in rows]


def counts(rows: Sequence[dict[str, Any]]) -> str:
    """Return how many adaptations of each row left their start."""
    several = zip(labels(rows), rows, strict=True)
    return ", ".join(f"{label} {row['adaptations']} of {row['adaptations'] + row['unmoved']}" for label, row in several)


def format_measure(measure: str, value: dict[str, float] | None) -> str:
    """Return mean and deviation as text, and of how many adaptations if not of all; movement in per cent."""
    if value is None:
        return "-"
    factor, places = (100, 1) if measure == "movement" else (1, 3)
    deviation = "" if value["sd"] is None else f" ± {factor * value['sd']:.{places}f}"
    fewer = f" (of {value['n']})" if "n" in value else ""
    return f"{factor * value['mean']:.{places}f}{deviation}{fewer}"


def format_layers(rows: Sequence[dict[str, Any]]) -> str:
    """Return the tables of what moved, one a measure, arms side by side."""
    if not any(row["adaptations"] for row in rows):
        return f"No adaptation on {rows[0]['budget']:,} target words had an update that was better than its start."
    lines = [
        f"What adapting on {rows[0]['budget']:,} target words moved: mean ± sd over the adaptations (pairs and draws) "
        f"with an update that was better than the start, {counts(rows)}. {OF_EMBEDDINGS}"
    ]
    for measure, title in MEASURES.items():
        body = [
            [layer, *(format_measure(measure, value) for value in values)]
            for layer, values in by_layer(rows, measure).items()
        ]
        lines += ["", table([title, *labels(rows)], body)] if body else []
    return "\n".join(lines)
