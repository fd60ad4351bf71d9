"""What adapting moved, layer by layer: tables, charts, and what they say of rapid learning or feature reuse."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from markupsafe import Markup

from metanmt.comparison.layers import UNBIASED, by_layer, counts, format_measure, labels
from metanmt.pages.charts import Axis, Line, line_chart
from metanmt.pages.reading import Comparison

REUSE = 0.9
"""Linear CKA above which this page calls a representation kept; a convention, not a test."""
MOVEMENT, CKA = "movement", "cka"
TITLES = {MOVEMENT: "How far the weights moved", CKA: "How alike the representations stayed"}
UNITS = {MOVEMENT: "movement (% of the weights' norm)", CKA: "linear CKA (1: the same)"}


def what_moves(comparison: Comparison, key: str) -> dict[str, Any] | None:
    """Return what the page shows of the layers, or None where the comparison has no such analysis.

    Where no adaptation left its initialisation, there are counts only.
    """
    analysed = comparison.found.get("layers")
    if not analysed:
        return None
    rows = [row for row in analysed if row["layers"]]
    names = labels(rows)
    by_system = {(system.arm, system.update): system.style for system in comparison.systems}
    styles = [by_system[row["arm"], row["update"]] for row in rows]
    return {
        "budget": analysed[0]["budget"],
        "counts": counts(analysed),
        "unbiased": all(row.get("cka") == UNBIASED for row in rows),
        "findings": [(name, style, _verdict(row)) for name, style, row in zip(names, styles, rows, strict=True)],
        "against": _against(rows, comparison.found["baseline"]),
        "charts": [(TITLES[measure], _chart(rows, styles, measure, f"{key}-{measure}")) for measure in TITLES],
        "tables": [
            {
                "title": f"{TITLES[measure]}: {UNITS[measure]}",
                "arms": names,
                "layers": {
                    layer: [format_measure(measure, value) for value in values]
                    for layer, values in by_layer(rows, measure).items()
                },
            }
            for measure in TITLES
        ],
    }


def _chart(rows: list[dict[str, Any]], styles: list[int], measure: str, key: str) -> Markup:
    """Return the chart of a measure: layers from input to output, encoder and decoder apart."""
    found = by_layer(rows, measure)
    layers = list(found)
    sides = [layer.split(" ")[0] for layer in layers]
    starts = [number for number, (one, other) in enumerate(pairwise(sides), start=1) if one != other]
    places = [float(number + sum(start <= number for start in starts)) for number in range(len(layers))]
    factor = 100 if measure == MOVEMENT else 1
    lines = []
    for at, (label, style) in enumerate(zip(labels(rows), styles, strict=True)):
        drawn = [(number, values[at]) for number, values in enumerate(found.values()) if values[at] is not None]
        points = [(places[number], factor * value["mean"]) for number, value in drawn if value]
        notes = [f"{layers[number]}: {format_measure(measure, value)}" for number, value in drawn]
        breaks = [at for at, (number, _) in enumerate(drawn) if number in starts]
        lines.append(Line(label, style, points, notes=notes, breaks=breaks))
    ticks = [(place, _short(layer)) for place, layer in zip(places, layers, strict=True)]
    return line_chart(key, f"{TITLES[measure]}, layer by layer", lines, Axis("layer", ticks), UNITS[measure])


def _short(layer: str) -> str:
    """Return a layer's name as an axis shows it: emb, E0 for the encoder's input, E1, En for its norm."""
    side, _, part = layer.partition(" ")
    return {"encoder": "E", "decoder": "D"}[side] + {"input": "0", "norm": "n"}.get(part, part) if part else side[:3]


def _verdict(row: dict[str, Any]) -> str:
    """Return what the figures of one row say: the similarity of the body's layers against `REUSE`."""
    stacked = [item for item in row["layers"] if item["layer"].rpartition(" ")[2].isdecimal()]
    body = stacked[:-1] or stacked
    found = [item for item in body if item[CKA]]
    moved = max((item for item in row["layers"] if item[MOVEMENT]), key=lambda item: item[MOVEMENT]["mean"])
    most = f"most moved: {moved['layer']}, by {100 * moved[MOVEMENT]['mean']:.1f}% of the norm."
    if not found:
        return f"no layer of its body read the same tokens before and after, so that there is no CKA; {most}"
    lowest = min(found, key=lambda item: item[CKA]["mean"])
    below = sum(item[CKA]["mean"] + (item[CKA]["sd"] or 0) < REUSE for item in found)
    if len(found) < len(body):
        text = f"of the {len(body)} layers of its body {len(found)} read the same tokens before and after"
    elif below:
        text = f"{below} of the {len(body)} layers of its body fall below a CKA of {REUSE}, as rapid learning has it"
    elif all(item[CKA]["mean"] - (item[CKA]["sd"] or 0) >= REUSE for item in body):
        text = f"all {len(body)} layers of its body keep a CKA of {REUSE} or more, as feature reuse has it"
    else:
        text = f"the CKA of its body lies about {REUSE}: neither clearly feature reuse nor rapid learning"
    return f"{text} (lowest CKA {lowest[CKA]['mean']:.2f}, {lowest['layer']}); {most}"


def _against(rows: list[dict[str, Any]], baseline: str) -> str:
    """Return in how many layers each arm moved less than the baseline, adapted alike."""
    said = []
    for name, row in zip(labels(rows), rows, strict=True):
        base = next((other for other in rows if (other["arm"], other["update"]) == (baseline, row["update"])), row)
        if base is not row:
            movements = by_layer([row, base], MOVEMENT).values()
            both = [(one["mean"], other["mean"]) for one, other in movements if one and other]
            said.append(f"{name} in {sum(one < other for one, other in both)} of {len(both)}")
    compared = f"Layers whose mean movement is below that of {baseline}, untested: {', '.join(said)}."
    return compared if said else ""
