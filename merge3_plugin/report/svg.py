"""Small charts as SVG text, for pages that must stand alone: axes, lines, points with intervals, a legend."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

Point = tuple[float, float]

WIDTH, HEIGHT = 560, 340
LEFT, RIGHT, TOP, BOTTOM = 62, 16, 14, 48
# Colours that people with colour-blindness tell apart (Okabe and Ito 2008), legible on white and on black.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")


@dataclass
class Chart:
    """A chart that is drawn part by part; `svg` gives its text.

    ``x`` and ``y`` are the ranges (low, high) of the axes; with ``log_x`` the horizontal one is logarithmic. Values
    outside the ranges are drawn at their edge.
    """

    title: str
    x_label: str
    y_label: str
    x: Point
    y: Point
    log_x: bool = False
    x_ticks: Sequence[float] | None = None
    _parts: list[str] = field(default_factory=list)
    _legend: list[tuple[str, str]] = field(default_factory=list)

    def line(self, points: Iterable[Point], colour: int, label: str = "", *, dashed: bool = False) -> None:
        """A line through these points; one with a label is in the legend."""
        path = " ".join(f"{self._at_x(x):.1f},{self._at_y(y):.1f}" for x, y in points)
        dash = ' stroke-dasharray="5 4"' if dashed else ""
        self._parts.append(f'<polyline points="{path}" fill="none" stroke="{COLOURS[colour]}" stroke-width="2"{dash}/>')
        self._named(label, colour)

    def diagonal(self) -> None:
        """The line on which both coordinates are equal."""
        low, high = max(self.x[0], self.y[0]), min(self.x[1], self.y[1])
        (x1, y1), (x2, y2) = ((self._at_x(v), self._at_y(v)) for v in (low, high))
        self._parts.append(f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="grid"/>')

    def points(
        self, points: Iterable[Point], colour: int, label: str = "", *, intervals: Iterable[Point] | None = None
    ) -> None:
        """Dots, with a vertical bar from low to high for each of the ``intervals`` (low, high)."""
        places = [(self._at_x(x), self._at_y(y)) for x, y in points]
        for (x, _), (low, high) in zip(places, intervals or (), strict=intervals is not None):
            bar = f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{self._at_y(low):.1f}" y2="{self._at_y(high):.1f}"'
            self._parts.append(f'{bar} stroke="{COLOURS[colour]}" stroke-opacity="0.5"/>')
        self._parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{COLOURS[colour]}"/>' for x, y in places]
        self._named(label, colour)

    def svg(self) -> str:
        """The chart as one ``<svg>`` element, which needs nothing else."""
        title = html.escape(self.title)
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}">'
        )
        return "\n".join([head, f"<title>{title}</title>", *self._axes(), *self._parts, *self._key(), "</svg>"])

    def _named(self, label: str, colour: int) -> None:
        if label:
            self._legend.append((label, COLOURS[colour]))

    def _at_x(self, value: float) -> float:
        scale: Callable[[float], float] = math.log if self.log_x else float
        low, high = scale(self.x[0]), scale(self.x[1])
        share = (scale(value) - low) / (high - low)
        return LEFT + min(max(share, 0.0), 1.0) * (WIDTH - LEFT - RIGHT)

    def _at_y(self, value: float) -> float:
        share = (value - self.y[0]) / (self.y[1] - self.y[0])
        return HEIGHT - BOTTOM - min(max(share, 0.0), 1.0) * (HEIGHT - TOP - BOTTOM)

    def _axes(self) -> list[str]:
        bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
        lines = []
        for value in self.x_ticks or ticks(*self.x):
            x = self._at_x(value)
            lines.append(f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{value:g}</text>')
            lines.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{bottom}" y2="{bottom + 4}" class="axis"/>')
        for value in ticks(*self.y):
            y = self._at_y(value)
            lines.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
            lines.append(f'<line x1="{LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>')
        middle = (TOP + bottom) / 2
        return [
            *lines,
            f'<line x1="{LEFT}" x2="{right}" y1="{bottom}" y2="{bottom}" class="axis"/>',
            f'<text x="{(LEFT + right) / 2}" y="{HEIGHT - 8}" text-anchor="middle">{html.escape(self.x_label)}</text>',
            f'<text x="16" y="{middle}" text-anchor="middle" transform="rotate(-90 16 {middle})">'
            f"{html.escape(self.y_label)}</text>",
        ]

    def _key(self) -> list[str]:
        lines = []
        for place, (label, colour) in enumerate(self._legend):
            y = TOP + 10 + 18 * place
            lines.append(f'<rect x="{WIDTH - RIGHT - 190}" y="{y - 8}" width="14" height="8" fill="{colour}"/>')
            lines.append(f'<text x="{WIDTH - RIGHT - 170}" y="{y}">{html.escape(label)}</text>')
        return lines


def ticks(low: float, high: float, at_most: int = 6) -> list[float]:
    """Round numbers from ``low`` to ``high``, 1, 2 or 5 times a power of ten apart."""
    step = 10.0 ** math.floor(math.log10((high - low) / at_most))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= at_most)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(k * step, 10) for k in range(first, last + 1)]
