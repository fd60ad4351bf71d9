"""Line charts as SVG: axes with titles and units, every line told by colour, dashes, marker and a label at its end.

Colours are classes (`c0` to `c5`) that the page's style sheet fills in, so that one drawing serves light and dark.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from markupsafe import Markup, escape

WIDTH, HEIGHT = 400.0, 270.0
LEFT, TOP, BOTTOM = 72.0, 14.0, 46.0
COLOURS = 6
DASHES = ("", "7 3", "2 3", "9 3 2 3", "5 2 1 2 1 2")
MARKERS = ("circle", "square", "triangle", "diamond", "cross", "plus", "down")
LABEL_HEIGHT = 13.0
LETTER_WIDTH, LONGEST_LABEL = 7.7, 16


@dataclass(frozen=True)
class Line:
    """One line of a chart.

    Attributes:
        label: what stands at its end.
        style: its number, which fixes colour, dashes and marker.
        points: (x, y), from the left.
        spread: the half height of the band at each point; empty without a band.
        notes: what a pointer shows at each point; empty to show the numbers.
        marked: whether every point has its marker, rather than the last one only.
        breaks: the numbers of points that no line leads to from the one before.
    """

    label: str
    style: int
    points: Sequence[tuple[float, float]]
    spread: Sequence[float] = ()
    notes: Sequence[str] = ()
    marked: bool = True
    breaks: Collection[int] = ()


@dataclass(frozen=True)
class Axis:
    """An axis: its title with the unit, its ticks as (value, text), and where a value lies."""

    title: str
    ticks: Sequence[tuple[float, str]] = ()
    scale: Callable[[float], float] = field(default=float)


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Return round values from below `low` to above `high`, about `count` of them."""
    if high <= low:
        low, high = (0.0, 1.0) if low == 0 else (low - 0.5, high + 0.5)
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * 0.999)
    first = math.floor(low / step + 1e-9)
    last = math.ceil(high / step - 1e-9)
    return [round(index * step, 10) for index in range(first, last + 1)]


def short_number(value: float) -> str:
    """Return a number as an axis shows it: 1.5k, 20M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def line_chart(key: str, title: str, lines: Sequence[Line], x: Axis, y_title: str) -> Markup:
    """Return a chart as an SVG element.

    Args:
        key: an identifier, unique on the page.
        title: what it shows, for a reader who cannot see it.
        lines: what is drawn; those without points are left out.
        x: the horizontal axis; without ticks it starts at 0 and they are chosen.
        y_title: title of the vertical axis, with the unit.
    """
    drawn = [line for line in lines if line.points]
    if not drawn:
        return Markup("")
    frame = _Frame.of(drawn, x)
    parts = [
        f'<svg class="chart" viewBox="0 0 {WIDTH:g} {HEIGHT:g}" role="img" aria-labelledby="{escape(key)}">',
        f'<title id="{escape(key)}">{escape(title)}</title>',
        *frame.axes(x.title, y_title),
    ]
    parts += [_band(line, frame) for line in drawn if any(line.spread)]
    parts += [_path(line, frame) for line in drawn]
    parts += [_markers(line, frame) for line in drawn]
    parts += _labels(drawn, frame)
    return Markup("".join([*parts, "</svg>"]))


def standalone(chart: Markup) -> str:
    """Return a chart as a file of its own, in the page's light colours, for programs that know no CSS variables."""
    sheet = (Path(__file__).parent / "report.css").read_text(encoding="utf-8")
    palette = dict(re.findall(r"--(\w+): (#\w+);", sheet[: sheet.index("@media")]))
    style = ""
    for rule in re.findall(r"^\.(?:chart|line|band|whisker|marker|leader|label)\b.*", sheet, flags=re.MULTILINE):
        selector, body = rule.split(" {")
        if "var(--c)" not in body:
            style += rule
        else:
            names = [f"c{number}" for number in range(COLOURS)]
            style += "".join(f".{n}{selector}, .{n} {selector} {{{body}".replace("(--c)", f"(--{n})") for n in names)
    style = re.sub(r"var\(--(\w+)\)", lambda found: palette[found[1]], style)
    start, end = str(chart).split(">", 1)
    size = f'xmlns="http://www.w3.org/2000/svg" width="{WIDTH:g}" height="{HEIGHT:g}"'
    return f'{start} {size}><style>{style}</style><rect width="100%" height="100%" fill="#fff"/>{end}\n'


def swatch(style: int) -> Markup:
    """Return a short line with its marker, for a legend."""
    return Markup(
        f'<svg class="swatch" viewBox="0 0 36 14" aria-hidden="true"><g class="c{style % COLOURS}">'
        f'<path class="line" d="M1 7H35"{_dashes(style)}/>{_marker(style, 18, 7, 4)}</g></svg>'
    )


@dataclass(frozen=True)
class _Frame:
    """Where values lie on the drawing."""

    x_ticks: Sequence[tuple[float, str]]
    y_ticks: Sequence[float]
    x_scale: Callable[[float], float]
    x_range: tuple[float, float]
    right: float

    @classmethod
    def of(cls, lines: Sequence[Line], x: Axis) -> _Frame:
        """Return the frame that all lines, with their spread and their labels at the right, fit into."""
        values = [value for line in lines for value, _ in line.points]
        lows, highs = [], []
        for line in lines:
            spread = line.spread or [0.0] * len(line.points)
            lows += [y - half for (_, y), half in zip(line.points, spread, strict=True)]
            highs += [y + half for (_, y), half in zip(line.points, spread, strict=True)]
        low, high = min(lows), max(highs)
        if 0 < low < 0.4 * high:
            low = 0.0
        if min(y for line in lines for _, y in line.points) >= 0:
            low = max(low, 0.0)
        round_values = [value for value in nice_ticks(0, max(values), 4) if value <= max(values)]
        ticks = x.ticks or [(value, short_number(value)) for value in round_values]
        ends = [x.scale(value) for value in (*values, *(value for value, _ in ticks))]
        longest = max(min(len(line.label), LONGEST_LABEL) for line in lines)
        span = (min(ends), max(ends) if max(ends) > min(ends) else min(ends) + 1)
        return cls(ticks, nice_ticks(low, high), x.scale, span, WIDTH - 16 - LETTER_WIDTH * longest)

    def x(self, value: float) -> float:
        """Return where a value stands from the left, in units of the drawing."""
        low, high = self.x_range
        return LEFT + 8 + (self.x_scale(value) - low) / (high - low) * (self.right - LEFT - 16)

    def y(self, value: float) -> float:
        """Return where a value stands from the top, in units of the drawing."""
        low, high = self.y_ticks[0], self.y_ticks[-1]
        return HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - TOP - BOTTOM)

    def axes(self, x_title: str, y_title: str) -> list[str]:
        """Return grid, ticks and titles as SVG elements."""
        floor = HEIGHT - BOTTOM
        middle = max((LEFT + self.right) / 2, LETTER_WIDTH * 0.45 * len(x_title))
        parts = ['<g class="axes">']
        for value in self.y_ticks:
            y = self.y(value)
            parts.append(f'<path class="grid" d="M{LEFT:g} {y:.1f}H{self.right:.1f}"/>')
            parts.append(f'<text x="{LEFT - 6:g}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
        free = -math.inf
        for value, text in self.x_ticks:
            x, half = self.x(value), LETTER_WIDTH * len(text) / 2
            parts.append(f'<path class="tick" d="M{x:.1f} {floor:g}v4"/>')
            if x - half > free:
                parts.append(f'<text x="{x:.1f}" y="{floor + 17:g}" text-anchor="middle">{escape(text)}</text>')
                free = x + half + 4
        parts.append(f'<path class="floor" d="M{LEFT:g} {floor:g}H{self.right:.1f}"/>')
        parts.append(
            f'<text class="axis-title" x="{middle:.1f}" y="{HEIGHT - 8:g}" text-anchor="middle">'
            f"{escape(x_title)}</text>"
        )
        centre = (TOP + floor) / 2
        parts.append(
            f'<text class="axis-title" x="13" y="{centre:g}" text-anchor="middle" '
            f'transform="rotate(-90 13 {centre:g})">{escape(y_title)}</text></g>'
        )
        return parts


def _dashes(style: int) -> str:
    dashes = DASHES[style % len(DASHES)]
    return f' stroke-dasharray="{dashes}"' if dashes else ""


def _path(line: Line, frame: _Frame) -> str:
    lifted = {0, *line.breaks}
    steps = "".join(
        f"{'M' if number in lifted else 'L'}{frame.x(x):.1f} {frame.y(y):.1f}"
        for number, (x, y) in enumerate(line.points)
    )
    return f'<path class="line c{line.style % COLOURS}" d="{steps}"{_dashes(line.style)}/>'


def _band(line: Line, frame: _Frame) -> str:
    over = [(frame.x(x), frame.y(y + s)) for (x, y), s in zip(line.points, line.spread, strict=True)]
    under = [
        (frame.x(x), frame.y(max(y - s, frame.y_ticks[0]))) for (x, y), s in zip(line.points, line.spread, strict=True)
    ]
    outline = "L".join(f"{x:.1f} {y:.1f}" for x, y in [*over, *reversed(under)])
    whiskers = "".join(
        f"M{x:.1f} {top:.1f}V{bottom:.1f}M{x - 3:.1f} {top:.1f}h6M{x - 3:.1f} {bottom:.1f}h6"
        for (x, top), (_, bottom) in zip(over, under, strict=True)
        if bottom - top > 0.5
    )
    colour = f"c{line.style % COLOURS}"
    return f'<path class="band {colour}" d="M{outline}Z"/><path class="whisker {colour}" d="{whiskers or "M0 0"}"/>'


def _markers(line: Line, frame: _Frame) -> str:
    notes = line.notes or [f"{short_number(x)}: {y:.3g}" for x, y in line.points]
    chosen = list(zip(line.points, notes, strict=True))
    parts = []
    for (x, y), note in chosen if line.marked else chosen[-1:]:
        mark = _marker(line.style, frame.x(x), frame.y(y), 4)
        parts.append(f"<g><title>{escape(line.label)}, {escape(note)}</title>{mark}</g>")
    return f'<g class="c{line.style % COLOURS}">{"".join(parts)}</g>'


def _marker(style: int, x: float, y: float, r: float) -> str:
    name = MARKERS[style % len(MARKERS)]
    path = {
        "circle": f"M{x - r:.1f} {y:.1f}a{r} {r} 0 1 0 {2 * r} 0a{r} {r} 0 1 0 {-2 * r} 0Z",
        "square": f"M{x - r:.1f} {y - r:.1f}h{2 * r}v{2 * r}h{-2 * r}Z",
        "triangle": f"M{x:.1f} {y - r - 1:.1f}l{r + 1} {2 * r}h{-2 * r - 2}Z",
        "diamond": f"M{x:.1f} {y - r - 1:.1f}l{r + 1} {r + 1}l{-r - 1} {r + 1}l{-r - 1} {-r - 1}Z",
        "cross": f"M{x - r:.1f} {y - r:.1f}l{2 * r} {2 * r}m0 {-2 * r}l{-2 * r} {2 * r}",
        "plus": f"M{x - r:.1f} {y:.1f}h{2 * r}M{x:.1f} {y - r:.1f}v{2 * r}",
        "down": f"M{x:.1f} {y + r + 1:.1f}l{r + 1} {-2 * r}h{-2 * r - 2}Z",
    }[name]
    return f'<path class="marker{" open" if name in ("cross", "plus") else ""}" d="{path}"/>'


def _labels(lines: Sequence[Line], frame: _Frame) -> list[str]:
    """Return the labels at the lines' ends, moved apart where they would overlap."""
    ends = sorted((frame.y(line.points[-1][1]), index) for index, line in enumerate(lines))
    heights = [height for height, _ in ends]
    for at in range(1, len(heights)):
        heights[at] = max(heights[at], heights[at - 1] + LABEL_HEIGHT)
    over = heights[-1] - (HEIGHT - BOTTOM)
    for at in range(len(heights) - 1, -1, -1):
        ceiling = heights[at + 1] - LABEL_HEIGHT if at + 1 < len(heights) else heights[at] - max(0.0, over)
        heights[at] = min(heights[at], ceiling)
    parts = []
    for (end, index), height in zip(ends, heights, strict=True):
        line = lines[index]
        text = line.label if len(line.label) <= LONGEST_LABEL else line.label[: LONGEST_LABEL - 1] + "…"
        x = frame.x(line.points[-1][0])
        colour = f"c{line.style % COLOURS}"
        parts.append(f'<path class="leader {colour}" d="M{x + 6:.1f} {end:.1f}L{frame.right + 4:.1f} {height:.1f}"/>')
        parts.append(
            f'<text class="label {colour}" x="{frame.right + 7:.1f}" y="{height + 4:.1f}">{escape(text)}</text>'
        )
    return parts
