"""Tables for a terminal, aligned whatever the script, and readable as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from metanmt.runlog import duration


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table with aligned columns: the first to the left, columns of figures to the right."""
    from rich.cells import cell_len

    lines = [list(header), *map(list, rows)]
    widths = [max(cell_len(line[column]) for line in lines) for column in range(len(header))]
    figures = [
        column > 0 and all(row[column][:1].isdigit() or row[column][:1] in "-+" for row in rows)
        for column in range(len(header))
    ]

    def cell(text: str, column: int) -> str:
        space = " " * (widths[column] - cell_len(text))
        return space + text if figures[column] else text + space

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell(text, column) for column, text in enumerate(cells)) + " |"

    rule = (
        "|" + "|".join("-" * (w + 1) + (":" if right else "-") for w, right in zip(widths, figures, strict=True)) + "|"
    )
    return "\n".join([line(header), rule, *map(line, rows)])


def format_scores(facts: Mapping[str, Any]) -> str:
    """Return an evaluation as `metanmt evaluate` prints it: score, interval and signature of every metric."""
    lines = [f"{facts['pair']} {facts['set']}: {facts['sentences']:,} sentences, {duration(facts['elapsed_seconds'])}"]
    for score in facts["scores"].values():
        interval = (
            "" if score["interval"] is None else f" (resampled {score['mean']:.2f} ± {score['interval']:.2f}, 95%)"
        )
        lines.append(f"{score['name']:8} {score['score']:6.2f}{interval}  {score['signature']}")
    lines.append(f"hypotheses: {facts['hypotheses']}")
    return "\n".join(lines)
