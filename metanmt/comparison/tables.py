"""What a comparison found: as values, and as tables for a terminal, Markdown and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metanmt.comparison.execute import load_counts, load_result, load_summary
from metanmt.comparison.layers import collect_layers, format_layers
from metanmt.comparison.plan import Arm, Cell, Plan
from metanmt.comparison.statistics import (
    METRICS,
    Difference,
    PairDifference,
    mean_and_deviation,
    mean_difference,
    paired_difference,
    pooled,
)
from metanmt.data.language import Pair
from metanmt.data.store import TokenStore, text_files
from metanmt.files import digest
from metanmt.nmt.score import scorer
from metanmt.report import table
from metanmt.runlog import duration

NAMES = {"bleu": "BLEU", "chrf": "chrF++"}
POINTS = 100.0
"""What no lead exceeds; the interval of two draws may, where many comparisons are corrected for."""
Group = tuple[str, int, str]
"""Arm, budget, update: what the draws and pairs of are gathered in one row."""


def collect(plan: Plan, store: TokenStore, out: Path) -> dict[str, Any]:
    """Return everything that the tables show: scores, differences from the baseline, costs, signatures.

    `rows` are the scores on the test set that every pair has; `other_test_sets` holds those on each other one.
    """
    cells: dict[Group, dict[str, list[Cell]]] = {}
    for cell in plan.cells:
        by_pair = cells.setdefault((cell.arm, cell.budget, cell.update), {})
        by_pair.setdefault(cell.pair, []).append(cell)
    baseline = plan.compare.baseline
    compared = [group for group in cells if group[0] != baseline and (baseline, *group[1:]) in cells]
    tested = {
        name: [pair for pair in plan.pairs if name in plan.test_sets(store, pair)] for name in plan.compare.test_sets
    }
    places = sum(len(pairs) + (len(pairs) > 1) for pairs in tested.values())  # the mean is looked at as well
    comparisons = max(1, len(compared) * places * len(METRICS))
    results_of = {cell: load_result(cell, out) for cell in plan.cells}
    scored = _Scored(plan, store, out, cells, results_of, compared, comparisons)
    main, *others = (scored.on(test_set, pairs) for test_set, pairs in tested.items())
    for row in main["rows"]:
        drawn = cells[row["arm"], row["budget"], row["update"]]
        row["adaptation"] = _adaptation([results_of[cell] for found in drawn.values() for cell in found])
    signatures = {pair: _signatures(results_of, pair, plan.test_set) for pair in plan.pairs}
    return {
        "name": plan.compare.name,
        "train_set": plan.compare.train_set,
        "back_translation": plan.compare.back_translation,
        "draws": list(plan.compare.draws),
        "baseline": baseline,
        "confidence": plan.compare.confidence,
        "comparisons": comparisons,
        **main,
        "other_test_sets": others,
        "layers": collect_layers(plan, results_of),
        "training": [_training(plan, arm, out) for arm in plan.arms if arm.trained],
        "signatures": {
            metric: "; ".join(sorted({found[metric] for found in signatures.values()})) for metric in METRICS
        },
        "signatures_of_pairs": signatures,
    }


def _signatures(results: Mapping[Cell, Mapping[str, Any]], pair: str, test_set: str) -> dict[str, str]:
    """Return the signatures of a pair's scores; those of its target language, on whichever set."""
    found = [result["scores"][test_set] for cell, result in results.items() if cell.pair == pair]
    return {metric: "; ".join(sorted({scores[metric]["signature"] for scores in found})) for metric in METRICS}


@dataclass(frozen=True)
class _Scored:
    """The scores of all results, by test set."""

    plan: Plan
    store: TokenStore
    out: Path
    cells: Mapping[Group, Mapping[str, Sequence[Cell]]]
    results_of: Mapping[Cell, Mapping[str, Any]]
    compared: Sequence[Group]
    comparisons: int

    def on(self, test_set: str, pairs: Sequence[str]) -> dict[str, Any]:
        """Return the rows of one test set, which these pairs have."""
        digests = {pair: digests_of(self.store.folder, pair, test_set) for pair in pairs}
        shared = same_sentences(digests)
        return {
            "test_set": test_set,
            "pairs": list(pairs),
            "digests": {pair: list(both) for pair, both in digests.items()},
            "shared_sentences": _groups(shared),
            "rows": [self._row(group, test_set, shared) for group in self.cells],
        }

    def _row(self, group: Group, test_set: str, shared: Mapping[str, str]) -> dict[str, Any]:
        """Return the scores of a group, and its leads over the baseline if it is compared with that.

        Args:
            group: arm, budget, update.
            test_set: its name.
            shared: of each pair that has it, the first whose sentences are the same.
        """
        arm, budget, update = group
        row: dict[str, Any] = {"arm": arm, "budget": budget, "update": update, "scores": {}, "lead": {}}
        drawn = {pair: self.cells[group][pair] for pair in shared}
        for metric in METRICS:
            spread = {pair: mean_and_deviation(self._values(found, test_set, metric)) for pair, found in drawn.items()}
            row["scores"][metric] = {pair: {"mean": mean, "sd": sd} for pair, (mean, sd) in spread.items()}
            row["scores"][metric]["mean"] = {"mean": _mean([mean for mean, _ in spread.values()]), "sd": None}
            if group in self.compared:
                other = self.cells[self.plan.compare.baseline, budget, update]
                apart = [self._lead(found, other[pair], test_set, metric) for pair, found in drawn.items()]
                leads = dict(zip(drawn, pooled(apart), strict=True))
                mean = mean_difference(apart, list(shared.values()))
                row["lead"][metric] = {
                    place: lead_facts(lead, self.plan.compare.confidence, self.comparisons)
                    for place, lead in {**leads, "mean": mean}.items()
                }
        return row

    def _values(self, drawn: Sequence[Cell], test_set: str, metric: str) -> list[float]:
        return [self.results_of[cell]["scores"][test_set][metric]["score"] for cell in drawn]

    def _lead(self, ours: Sequence[Cell], theirs: Sequence[Cell], test_set: str, metric: str) -> PairDifference:
        system, baseline = (load_counts(cells, self.out, test_set, metric) for cells in (ours, theirs))
        return paired_difference(system, baseline, scorer(metric))


def same_sentences(sides: Mapping[str, tuple[str, str]]) -> dict[str, str]:
    """Return for every pair the first of those whose test set holds the same sentences: one side is alike in both.

    FLORES-200 is such a set: every language translates the same English sentences. Sets that overlap in part only, as
    verses of a Bible do, are taken as different ones, so that the interval of their mean is somewhat too narrow.

    Args:
        sides: digests of source and target of each pair's test set.
    """
    first: dict[str, str] = {}
    for pair, own in sides.items():
        alike = {first[other] for other in first if {*sides[other]} & {*own}}
        earliest = next((other for other in first if other in alike), pair)
        first = {other: earliest if group in alike else group for other, group in first.items()} | {pair: earliest}
    return first


def digests_of(data: Path, name: str, test_set: str) -> tuple[str, str]:
    """Return the digests of source and target of a pair's test set."""
    source, target = map(digest, text_files(data, Pair.parse(name), test_set))
    return source, target


def percent(share: float) -> str:
    """Return a confidence as text, such as 95% or 99.5%."""
    return f"{100 * share:.10g}%"


def _groups(first: Mapping[str, str]) -> list[list[str]]:
    groups = [[pair for pair, other in first.items() if other == name] for name in dict.fromkeys(first.values())]
    return [group for group in groups if len(group) > 1]


def lead_facts(lead: Difference, confidence: float, comparisons: int) -> dict[str, float]:
    """Return a lead with its interval, which ends where the scale of the scores does."""
    low, high = (max(-POINTS, min(POINTS, end)) for end in lead.interval(confidence, comparisons))
    return {"value": lead.value, "low": low, "high": high, "p_value": lead.p_value(comparisons)}


def _adaptation(results: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return the mean cost of an adaptation: sentences, updates, target tokens; seconds include the translation.

    Where text is translated back, how many pairs of that were usable, and in how many adaptations none.
    """
    keys = ("sentences", "updates", "target_tokens", "peak_memory_bytes")
    means = {key: _mean([result["adaptation"].get(key, 0) for result in results]) for key in keys}
    means["elapsed_seconds"] = _mean([result["elapsed_seconds"] for result in results])
    if back := [result["monolingual"] for result in results if result.get("monolingual")]:
        means |= {"usable": _mean([found["usable"] for found in back]), "nothing_usable": _none_usable(back)}
    return means


def _none_usable(back: Sequence[dict[str, Any]]) -> int:
    """Return of how many adaptations nothing that was translated back was of use."""
    return sum(not found["usable"] for found in back)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _training(plan: Plan, arm: Arm, out: Path) -> dict[str, Any]:
    return {"arm": arm.name, **(load_summary(plan, arm, out) or {})}


def format_comparison(found: dict[str, Any]) -> str:
    """Return the tables, readable on a terminal and as Markdown."""
    baseline = found["baseline"]
    lines = [f"# {found['name']}", ""] if found["name"] else []
    draws, seeds = len(found["draws"]), ", ".join(map(str, found["draws"]))
    drawn = f"{draws} draws (seeds {seeds}), mean ± sd." if draws > 1 else f"one draw (seed {seeds})."
    adapted = f"Adapted on the set {found['train_set']}{beside_of(found)}, {drawn} "
    lines.append((adapted if any(row["budget"] for row in found["rows"]) else "") + f"Scored on {found['test_set']}.")
    if any(row["lead"] for row in found["rows"]):
        lines.append(
            f"In brackets the lead over {baseline}; * where its {percent(found['confidence'])} interval, paired over "
            f"sentences {'and draws ' if draws > 1 else ''}and corrected for {found['comparisons']} comparisons, "
            "excludes zero. Each arm is one meta-training: what another of its seeds would give is not in the interval."
        )
    lines += _score_tables(found)
    for other in found["other_test_sets"]:
        lines += ["", f"The same models on the set {other['test_set']}.", *_score_tables(other)]
    if found["layers"]:
        lines += ["", format_layers(found["layers"])]
    if found["training"]:
        lines += ["", "Cost of meta-training:", "", _training_table(found["training"])]
    if any(row["budget"] for row in found["rows"]):
        lines += [
            "",
            "Cost of an adaptation (seconds with its translation; memory the most that its process had held):",
            "",
            _adaptation_table(found["rows"]),
        ]
    lines += ["", *(f"{NAMES[metric]:7} {signature}" for metric, signature in found["signatures"].items())]
    return "\n".join(lines)


def beside_of(found: dict[str, Any]) -> str:
    """Return what is said of text that was translated back, and of the adaptations that had no use of it."""
    if not found.get("back_translation"):  # comparisons of before do not say
        return ""
    none = sum(row["adaptation"].get("nothing_usable", 0) for row in found["rows"])
    return " and on text translated back" + (f" (of which nothing was usable in {none:,} adaptations)" if none else "")


def _score_tables(scored: dict[str, Any]) -> list[str]:
    """Return the lines of the tables of one test set."""
    lines = [sharing_note(group) for group in scored["shared_sentences"]]
    pairs, rows = scored["pairs"], scored["rows"]
    for budget, update in sorted({(row["budget"], row["update"]) for row in rows}):
        alike = [row for row in rows if (row["budget"], row["update"]) == (budget, update)]
        moves = "" if update in ("all", "none") else f", {update} moving"
        lines += ["", f"Adapted on {budget:,} target words{moves}:" if budget else "Zero-shot:"]
        for metric in METRICS:
            body = [[row["arm"], *(_cell(row, metric, pair) for pair in [*pairs, "mean"])] for row in alike]
            lines += ["", table([NAMES[metric], *pairs, "mean"], body)]
    return lines


def sharing_note(pairs: Sequence[str]) -> str:
    """Return what is to be said of pairs that are tested on the same sentences."""
    return (
        f"The test sets of {', '.join(pairs[:-1])} and {pairs[-1]} translate the same sentences, which are resampled "
        "together for the interval of the mean."
    )


def _cell(row: dict[str, Any], metric: str, pair: str) -> str:
    score = row["scores"][metric][pair]
    text = f"{score['mean']:.1f}" + ("" if score["sd"] is None else f" ± {score['sd']:.1f}")
    if metric in row["lead"]:
        lead = row["lead"][metric][pair]
        star = "*" if lead["low"] > 0 or lead["high"] < 0 else ""
        text += f" ({lead['value']:+.1f}{star})"
    return text


def _training_table(rows: Sequence[dict[str, Any]]) -> str:
    header = ["arm", "parameters", "target tokens", "gradients", "outer steps", "time", "peak MiB", "meta-dev"]
    body = []
    for row in rows:
        key = next(key for key in row if "best_meta_dev" in key)
        best = "–" if row[key] is None else f"{key.removeprefix('best_meta_dev_')} {row[key]:.1f}"
        memory = f"{row['peak_memory_bytes'] / 2**20:,.0f}"
        size = f"{row['parameters']:,}" if "parameters" in row else ""  # runs of before do not say
        counts = [f"{row[key]:,}" for key in ("target_tokens", "gradient_computations", "steps")]
        body.append([row["arm"], size, *counts, duration(row["elapsed_seconds"]), memory, best])
    return table(header, body)


def _adaptation_table(rows: Sequence[dict[str, Any]]) -> str:
    back = any("usable" in row["adaptation"] for row in rows)
    header = [
        "arm",
        "budget",
        "update",
        "sentences",
        *["translated back"] * back,
        "updates",
        "target tokens",
        "seconds",
    ]
    header.append("peak MiB")
    keys = ["sentences", *["usable"] * back, "updates", "target_tokens", "elapsed_seconds"]
    body = []
    for row in rows:
        if row["budget"]:
            cost = row["adaptation"]
            counts = [f"{cost.get(key, 0):,.0f}" for key in keys]
            memory = f"{cost['peak_memory_bytes'] / 2**20:,.0f}"
            body.append([row["arm"], f"{row['budget']:,}", row["update"], *counts, memory])
    return table(header, body)


def as_csv(found: dict[str, Any]) -> str:
    """Return one line a test set, arm, budget, update, pair and metric."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    keys, facts = ["arm", "budget", "update"], ["value", "low", "high", "p_value"]
    ends = ["pair", "metric", "mean", "sd", "lead", *facts[1:], "signature"]
    writer.writerow(["train_set", "test_set", *keys, *ends])
    for scored in (found, *found["other_test_sets"]):
        for row in scored["rows"]:
            start = [found["train_set"], scored["test_set"], *(row[key] for key in keys)]
            for metric, by_place in row["scores"].items():
                for pair, score in by_place.items():
                    lead = row["lead"].get(metric, {}).get(pair, {})
                    values = [score["mean"], score["sd"], *(lead.get(key, "") for key in facts)]
                    signature = found["signatures_of_pairs"].get(pair, found["signatures"])[metric]
                    writer.writerow([*start, pair, metric, *values, signature])
    return text.getvalue()
