"""`metanmt curve`: score against budget, and what a point of BLEU costs in sentence pairs."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

from metanmt.errors import UsageError
from metanmt.files import write_text
from metanmt.pages.charts import standalone
from metanmt.pages.figures import budget_charts
from metanmt.pages.reading import MEAN, METRICS, Comparison, System, open_comparison
from metanmt.report import table

LEAST_GAIN = 0.05
"""Points below which a gain is none: the price of a point would mean nothing."""


def run(folder: Path, charts: Path | None = None) -> dict[str, Any]:
    """Return the curves of a comparison, each score's mean over pairs and its spread over draws, and its prices.

    Args:
        folder: a finished comparison of at least two budgets.
        charts: folder for the charts as SVG files, one a metric and pair and one of their mean; None for none.

    Raises:
        UsageError: the comparison has one budget only.
    """
    comparison = open_comparison(folder)
    if len(comparison.budgets) < 2:
        raise UsageError(
            f"{folder} has one budget only: there is no curve.", "Give its file more: budgets = [0, 4_000, 16_000]."
        )
    if charts is not None:
        _write_charts(comparison, charts)
    return {
        "test_set": comparison.test_set,
        "pairs": comparison.pairs,
        "budgets": comparison.budgets,
        "curves": [_curve(comparison, system) for system in comparison.systems],
        "signatures": comparison.found["signatures"],
    }


def _curve(comparison: Comparison, system: System) -> dict[str, Any]:
    points = []
    for budget in comparison.budgets:
        row = comparison.row(system, budget)
        if row is not None:
            scores = {
                metric: {
                    "mean": row["scores"][metric][MEAN]["mean"],
                    "sd": comparison.spread_of_mean(system, budget, metric) if budget else None,
                }
                for metric in METRICS
            }
            points.append({"budget": budget, "sentences": row["adaptation"]["sentences"], **scores})
    for one, other in pairwise(points):
        gain = other["bleu"]["mean"] - one["bleu"]["mean"]
        other["pairs_a_point"] = (other["sentences"] - one["sentences"]) / gain if gain > LEAST_GAIN else None
    return {"arm": system.label, "points": points}


def _write_charts(comparison: Comparison, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for metric, drawings in budget_charts(comparison, "curve").items():
        for number, (_, drawing) in enumerate(drawings):
            place = [MEAN, *comparison.pairs][number] if len(comparison.pairs) > 1 else comparison.pairs[0]
            write_text(folder / f"{metric}-{place}.svg", standalone(drawing))


def format_curves(found: dict[str, Any]) -> str:
    """Return the curves for a terminal: a table a metric, and one of prices."""
    budgets = found["budgets"]
    places = f"mean of {', '.join(found['pairs'])} ({found['test_set']})"
    header = [places, *(f"{budget:,} words" if budget else "0" for budget in budgets)]
    lines = []
    for metric, name in METRICS.items():
        body = []
        for curve in found["curves"]:
            by_budget = {point["budget"]: point[metric] for point in curve["points"]}
            body.append([f"{curve['arm']}, {name}", *(_score(by_budget.get(budget)) for budget in budgets)])
        lines += [table(header, body), ""]
    prices = [
        [
            curve["arm"],
            *(_price(next((p for p in curve["points"] if p["budget"] == budget), {})) for budget in budgets[1:]),
        ]
        for curve in found["curves"]
    ]
    title = ["sentence pairs for one more BLEU", *(f"up to {budget:,}" for budget in budgets[1:])]
    lines += [table(title, prices), "", *(f"{METRICS[key]:7} {value}" for key, value in found["signatures"].items())]
    return "\n".join(lines)


def _score(score: dict[str, float | None] | None) -> str:
    if score is None:
        return "-"
    return f"{score['mean']:.1f}" + (f" ± {score['sd']:.1f}" if score["sd"] is not None else "")


def _price(point: dict[str, Any]) -> str:
    price = point.get("pairs_a_point")
    return "-" if price is None else f"{price:,.0f}"
