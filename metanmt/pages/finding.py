"""The finding of a comparison in plain words, made from its numbers."""

from __future__ import annotations

import math
from typing import Any

from metanmt.comparison.plan import SCRATCH
from metanmt.comparison.tables import percent
from metanmt.pages.reading import MEAN, METRICS, Comparison, System

LEADING_METRIC = "chrf"
"""It moves before BLEU does where translations are poor."""


def significant(lead: dict[str, float]) -> int:
    """Return 1 or -1 where the interval of a lead excludes zero, else 0."""
    return (lead["low"] > 0) - (lead["high"] < 0)


def signed(value: float) -> str:
    """Return a difference with its sign, to one decimal."""
    text = f"{value:+.1f}".replace("-", "−")
    return "0.0" if text.endswith("0.0") and len(text) == 4 else text


def finding(comparison: Comparison) -> list[str]:
    """Return the finding as sentences: the largest budget first, then the others, then what limits it."""
    budgets = [budget for budget in reversed(comparison.budgets) if _scored(comparison, budget)]
    sentences = [_at_budget(comparison, budgets[0])]
    sentences += [_in_short(comparison, budget) for budget in budgets[1:]]
    return [*sentences, *_limits(comparison)]


def words_of(budget: int) -> str:
    """Return a budget in words."""
    return f"adapted on {budget:,} target words" if budget else "zero-shot"


def _scored(comparison: Comparison, budget: int, metric: str = LEADING_METRIC) -> list[tuple[float, System, Any]]:
    """Return the systems at a budget with their mean score and row, the best first."""
    rows = [(system, comparison.row(system, budget)) for system in comparison.systems_at(budget)]
    found = [(row["scores"][metric][MEAN]["mean"], system, row) for system, row in rows if row]
    return sorted(found, key=lambda item: -item[0])


def _at_budget(comparison: Comparison, budget: int) -> str:
    scored = _scored(comparison, budget)
    value, system, row = scored[0]
    pairs, baseline = comparison.pairs, comparison.found["baseline"]
    where = f"the mean of {len(pairs)} unseen pairs" if len(pairs) > 1 else f"the unseen pair {pairs[0]}"
    if _level(scored):
        return f"{_capital(words_of(budget))}, all arms are level on {where}: chrF++ {value:.1f}."
    name = f"{_named(system, budget)}, the baseline," if system.arm == baseline else _named(system, budget)
    text = f"{_capital(words_of(budget))}, {name} scores highest on {where}: chrF++ {value:.1f}."
    if len(scored) == 1:
        return text + " No other arm was run there."
    lead = row["lead"].get(LEADING_METRIC)
    if lead:
        text += f" That is {_against(lead[MEAN], _baseline(comparison, system, budget), comparison)}"
        if len(pairs) > 1:
            ahead = sum(lead[pair]["value"] > 0 for pair in pairs)
            sure = sum(significant(lead[pair]) > 0 for pair in pairs)
            text += f" It is ahead on {ahead} of {len(pairs)} pairs, significantly on {sure}."
    elif system.arm == baseline and (following := _next(scored, budget)):
        nearest, other = following
        text += f" The next, {_named(nearest, budget)}, is {_against(other[MEAN], 'it', comparison)}"
    best_bleu = _scored(comparison, budget, "bleu")[0]
    agrees = best_bleu[1] == system
    text += f" BLEU {'puts the same arm first' if agrees else f'puts {_named(best_bleu[1], budget)} first'} "
    return text + f"({best_bleu[0]:.1f})."


def _baseline(comparison: Comparison, system: System, budget: int) -> str:
    """Return the name of the baseline that is adapted as a system is, which its lead is over."""
    arm = str(comparison.found["baseline"])
    if not budget:
        return arm
    return next(item.label for item in comparison.systems if (item.arm, item.update) == (arm, system.update))


def _next(scored: list[tuple[float, System, Any]], budget: int) -> tuple[System, Any] | None:
    """Return the best system that is adapted as the first is and compared with it, and its lead; None without one."""
    for _, system, row in scored[1:]:
        if row["lead"].get(LEADING_METRIC) and (not budget or system.update == scored[0][1].update):
            return system, row["lead"][LEADING_METRIC]
    return None


def _against(lead: dict[str, float], other: str, comparison: Comparison) -> str:
    value = lead["value"]
    side = f"{abs(value):.1f} points {'above' if value > 0 else 'below'}" if abs(value) >= 0.05 else "level with"
    words = "a significant difference" if significant(lead) else "not a significant difference"
    level = percent(comparison.found["confidence"])
    interval = f"{level} interval {signed(lead['low'])} to {signed(lead['high'])}"
    return f"{side} {other} ({interval}): {words}."


def _in_short(comparison: Comparison, budget: int) -> str:
    scored = _scored(comparison, budget)
    value, system, row = scored[0]
    if _level(scored):
        return f"{_capital(words_of(budget))}, all arms are level: chrF++ {value:.1f}."
    text = f"{_capital(words_of(budget))}, {_named(system, budget)} leads with chrF++ {value:.1f}"
    lead = row["lead"].get(LEADING_METRIC)
    if lead:
        sure = "significant" if significant(lead[MEAN]) else "not significant"
        against = _baseline(comparison, system, budget)
        text += f", {signed(lead[MEAN]['value'])} against {against} ({sure})"
    elif system.arm == comparison.found["baseline"] and (following := _next(scored, budget)):
        nearest, other = following
        sure = "significant" if significant(other[MEAN]) else "not significant"
        text += f"; the next, {_named(nearest, budget)}, stands {signed(other[MEAN]['value'])} from it ({sure})"
    return text + "."


def _limits(comparison: Comparison) -> list[str]:
    found = comparison.found
    best = max(
        score["mean"] for row in found["rows"] for place, score in row["scores"]["bleu"].items() if place != MEAN
    )
    limits = []
    if best < 1:
        limits.append(
            f"No {METRICS['bleu']} reaches 1 ({best:.2f} at best): none of these translate usefully, "
            "and a lead says little."
        )
    draws = len(found["draws"]) if any(row["budget"] for row in found["rows"]) else math.inf
    if draws == 1:
        limits.append("There is one support draw: what others would give is not in the intervals.")
    elif draws < 3:
        limits.append(
            f"There are only {draws} support draws, so the spread over draws is poorly known and the intervals are "
            "wide."
        )
    return limits


def _named(system: System, budget: int) -> str:
    label = system.label if budget else system.arm
    return f"training from scratch ({label})" if system.arm == SCRATCH else label


def _level(scored: list[tuple[float, System, Any]]) -> bool:
    """Return whether all have the same score, as far as it is shown."""
    return len(scored) > 1 and f"{scored[0][0]:.1f}" == f"{scored[-1][0]:.1f}"


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
