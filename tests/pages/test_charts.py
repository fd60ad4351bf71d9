"""Charts: round ticks, and lines that are told apart without their colour."""

from __future__ import annotations

import itertools
import re

import pytest

from metanmt.pages.charts import Axis, Line, line_chart, nice_ticks


def test_lines_differ_without_their_colour() -> None:
    lines = [Line(f"arm {style}", style, [(0, style), (1, style + 1)]) for style in range(8)]
    drawing = line_chart("key", "title", lines, Axis("x"), "y")
    dashes = re.findall(r'class="line c\d"[^>]*?(stroke-dasharray="[^"]*")?/>', drawing)
    shapes = [re.sub(r"[M\d.\- ]", "", path) for path in re.findall(r'class="marker[^"]*" d="([^"]*)"', drawing)][::2]
    assert len({(dash, shape) for dash, shape in zip(dashes, shapes, strict=True)}) == len(lines)
    heights = [float(height) for height in re.findall(r'class="label c\d" x="[\d.]+" y="([\d.]+)"', drawing)]
    assert min(b - a for a, b in itertools.pairwise(heights)) >= 12.9


def test_an_axis_of_nothing_but_zeros_begins_at_zero() -> None:
    assert nice_ticks(0, 0)[0] == 0


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.03, 0.041), (12, 87), (-3, 4), (5, 5), (0, 3e7)])
def test_ticks_are_round_and_hold_the_values(low: float, high: float) -> None:
    ticks = nice_ticks(low, high)
    assert ticks[0] <= low <= high <= ticks[-1]
    assert 2 <= len(ticks) <= 9


def test_a_chart_of_one_point_or_none() -> None:
    assert line_chart("key", "title", [Line("a", 0, [])], Axis("x"), "y") == ""
    assert "NaN" not in line_chart("key", "title", [Line("a", 0, [(0, 0)], [0.0])], Axis("x"), "y")
