"""Which charts a comparison has: scores against budgets, and the learning curves of its meta-trainings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from metanmt.pages.charts import Axis, Line, line_chart, short_number
from metanmt.pages.reading import MEAN, METRICS, Comparison, System

MOST_POINTS = 120
"""A longer learning curve is averaged over stretches of equal length."""


def budget_charts(comparison: Comparison, key: str) -> dict[str, list[tuple[str, Markup]]]:
    """Return a chart a pair, and one of their mean first, for every metric; none if there is one budget only."""
    budgets = comparison.budgets
    if len(budgets) < 2:
        return {}
    smallest = next(budget for budget in budgets if budget)
    axis = Axis(
        "target words adapted on (logarithmic" + ("; 0: zero-shot)" if budgets[0] == 0 else ")"),
        [(budget, short_number(budget)) for budget in budgets],
        lambda words: math.log1p(2 * words / smallest),
    )
    places = [MEAN, *comparison.pairs] if len(comparison.pairs) > 1 else comparison.pairs
    return {
        metric: [
            (
                f"Mean of {len(comparison.pairs)} pairs" if place == MEAN else place,
                line_chart(
                    f"{key}-{metric}-{number}",
                    f"{name} of {place} against the budget",
                    [_budget_line(comparison, system, metric, place) for system in comparison.systems],
                    axis,
                    f"{name} (points, 0 to 100)",
                ),
            )
            for number, place in enumerate(places)
        ]
        for metric, name in METRICS.items()
    }


def _budget_line(comparison: Comparison, system: System, metric: str, place: str) -> Line:
    points, spread, notes = [], [], []
    for budget in comparison.budgets:
        row = comparison.row(system, budget)
        if row is None:
            continue
        score = row["scores"][metric][place]
        deviation = comparison.spread_of_mean(system, budget, metric) if place == MEAN else score["sd"]
        points.append((budget, score["mean"]))
        spread.append(deviation or 0.0)
        within = "" if deviation is None else f" ± {deviation:.1f}"
        notes.append(f"{budget:,} words: {score['mean']:.1f}{within}" if budget else f"zero-shot: {score['mean']:.1f}")
    return Line(system.label, system.style, points, spread, notes)


def learning_charts(comparison: Comparison, key: str) -> list[tuple[str, Markup]]:
    """Return the learning curves of the arms that were meta-trained: losses, and scores of the meta-dev pairs."""
    styles = arm_styles(comparison)
    logs = {arm: lines for arm in styles if (lines := comparison.metrics(arm))}
    axis = Axis("target tokens of meta-training")
    wanted = [
        ("Query loss", "loss (nats a token)", ["query_loss"]),
        ("Support loss", "loss (nats a token)", ["support_loss"]),
        ("Meta-dev chrF++, adapted", "chrF++ (points, 0 to 100)", ["meta_validation", "adapted", "chrf"]),
        ("Meta-dev BLEU, adapted", "BLEU (points, 0 to 100)", ["meta_validation", "adapted", "bleu"]),
        ("Meta-dev loss, adapted", "loss (nats a token)", ["meta_validation", "adapted", "loss"]),
        ("Meta-dev loss, zero-shot", "loss (nats a token)", ["meta_validation", "zero_shot", "loss"]),
    ]
    charts = []
    for number, (title, unit, path) in enumerate(wanted):
        scored = len(path) > 1
        curves = [Line(arm, styles[arm], _curve(log, path), marked=scored) for arm, log in logs.items()]
        if drawing := line_chart(f"{key}-learning-{number}", f"{title} against target tokens", curves, axis, unit):
            charts.append((title, drawing))
    return charts


def arm_styles(comparison: Comparison) -> dict[str, int]:
    """Return the style of every arm: that of its first system."""
    styles: dict[str, int] = {}
    for system in comparison.systems:
        styles.setdefault(system.arm, system.style)
    return styles


def _curve(log: Sequence[Mapping[str, Any]], path: Sequence[str]) -> list[tuple[float, float]]:
    points = []
    for line in log:
        value: Any = line
        for part in path:
            value = value.get(part) if isinstance(value, Mapping) else None
        if isinstance(value, int | float) and math.isfinite(value):
            points.append((float(line["target_tokens"]), float(value)))
    stretch = math.ceil(len(points) / MOST_POINTS)
    if stretch < 2:
        return points
    stretches = [points[start : start + stretch] for start in range(0, len(points), stretch)]
    return [(sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)) for part in stretches]
