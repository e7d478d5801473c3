"""Small charts as inline SVG: drawn here in full, coloured by the page's style sheet, every text escaped.

A chart names its colours by tone (`s0` … `s7` for arms, `teacher`), so that light, dark and print differ in the style
sheet only. A mark with `data-tip` shows that text when it is pointed at.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

WIDTH = 420.0
LEFT, TOP, BOTTOM = 46.0, 12.0, 36.0
_CHARACTER = 6.6  # mean advance of the page's font at 12 px
_LABEL_GAP = 14.0

Format = Callable[[float], str]


@dataclass(frozen=True, slots=True)
class Series:
    """A line: points in order of `x`, and optionally the range around each of them."""

    name: str
    tone: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()


@dataclass(frozen=True, slots=True)
class Strip:
    """A row of single measurements with their centre marked and written out."""

    name: str
    tone: str
    values: Sequence[float]
    centre: float
    text: str


@dataclass(frozen=True, slots=True)
class Interval:
    """A difference with its interval; `significant` fills the mark."""

    name: str
    value: float
    low: float | None
    high: float | None
    text: str
    significant: bool | None


@dataclass(frozen=True, slots=True)
class Axis:
    """Maps values to pixels, linearly or by their logarithm."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """The pixel of a value."""
        low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        share = ((math.log(value) if self.log else value) - low) / (high - low)
        return round(self.start + share * (self.end - self.start), 2)

    def ticks(self, count: int) -> list[float]:
        """About `count` round values within the axis."""
        if self.log:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            factors = (1,) if len(powers) > 4 else (1, 2, 5) if len(powers) < 3 else (1, 3)
            marks = [factor * 10.0**power for power in powers for factor in factors]
            return [mark for mark in marks if self.low * (1 - 1e-9) <= mark <= self.high * (1 + 1e-9)]
        step = _step(self.high - self.low, count)
        first = math.ceil(self.low / step - 1e-6)
        return [index * step for index in range(first, math.floor(self.high / step + 1e-6) + 1)]


def number(value: float) -> str:
    """A short tick label.

    >>> number(0.25), number(1500.0), number(2e-05)
    ('0.25', '1,500', '2e−05')
    """
    if value and (abs(value) < 1e-3 or abs(value) >= 1e6):
        return f"{value:.3g}".replace("-", "−")
    return f"{round(value, 6):,.10g}".replace("-", "−")


def percent(value: float) -> str:
    """A fraction as a short tick label: `percent(0.975)` is "97.5 %"."""
    return f"{number(100 * value)} %"


def _step(span: float, count: int) -> float:
    raw = span / max(count, 1)
    size = 10.0 ** math.floor(math.log10(raw))
    return next(size * factor for factor in (1, 2, 2.5, 5, 10) if raw <= size * factor * (1 + 1e-9))


def _bounds(
    values: Sequence[float], *, floor: float | None = None, ceiling: float | None = None
) -> tuple[float, float]:
    """Round bounds around values, with room; never empty, and inside [floor, ceiling] where these are given."""
    low, high = min(values), max(values)
    if high - low <= 1e-12 * max(abs(low), abs(high), 1e-300):
        room = abs(low) * 0.1 or 0.5
        low, high = low - room, high + room
    step = _step(high - low, 4)
    low, high = math.floor(low / step + 1e-6) * step, math.ceil(high / step - 1e-6) * step
    return (low if floor is None else max(low, floor)), (high if ceiling is None else min(high, ceiling))


def clip(text: str, width: float) -> str:
    """The text, cut with an ellipsis where it would be wider than `width` pixels."""
    room = max(int(width / _CHARACTER), 2)
    return text if len(text) <= room else text[: room - 1].rstrip() + "…"


def spread_labels(wanted: Sequence[float], low: float, high: float, gap: float = _LABEL_GAP) -> list[float]:
    """Positions near the wanted ones, in their order, at least `gap` apart and inside [low, high] as far as that fits.

    >>> spread_labels([10.0, 10.0], 0.0, 100.0, gap=10.0)
    [5.0, 15.0]
    """
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    blocks: list[list[float]] = []  # [first position, how many labels]
    for rank in order:
        blocks.append([min(max(wanted[rank], low), high), 1])
        while len(blocks) > 1 and blocks[-1][0] < blocks[-2][0] + gap * blocks[-2][1]:
            position, size = blocks.pop()
            before, count = blocks[-1]
            centre = ((before + gap * (count - 1) / 2) * count + (position + gap * (size - 1) / 2) * size) / (
                count + size
            )
            first = centre - gap * (count + size - 1) / 2
            blocks[-1] = [max(min(first, high - gap * (count + size - 1)), low), count + size]
    placed = [0.0] * len(wanted)
    positions = [first + gap * index for first, count in blocks for index in range(int(count))]
    for rank, position in zip(order, positions, strict=True):
        placed[rank] = round(position, 2)
    return placed


def _svg(height: float, description: str, parts: Sequence[Markup], *, width: float = WIDTH) -> Markup:
    return Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        f"{width:g}", f"{height:g}", description, Markup("\n").join(parts)
    )


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> Markup:
    return Markup('<text x="{}" y="{}" class="{}" text-anchor="{}">{}</text>').format(
        round(x, 2), round(y, 2), kind or "tick", anchor, text
    )


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    return Markup('<line x1="{}" y1="{}" x2="{}" y2="{}" class="{}"/>').format(
        *(round(value, 2) for value in (x1, y1, x2, y2)), kind
    )


def _dot(x: float, y: float, radius: float, kind: str, tip: str = "") -> Markup:
    extra = Markup(' data-tip="{}"').format(tip) if tip else Markup("")
    return Markup('<circle cx="{}" cy="{}" r="{}" class="{}"{}/>').format(
        round(x, 2), round(y, 2), round(radius, 2), kind, extra
    )


def _path(points: Sequence[tuple[float, float]], kind: str, *, closed: bool = False) -> Markup:
    steps = "L".join(f"{x:g} {y:g}" for x, y in points)
    return Markup('<path d="M{}" class="{}"/>').format(steps + ("Z" if closed else ""), kind)


def line_chart(
    series: Sequence[Series],
    *,
    description: str,
    x_label: str,
    x_format: Format = number,
    y_format: Format = number,
    floor: float | None = None,
    ceiling: float | None = None,
    log_y: bool = False,
    height: float = 250.0,
) -> Markup:
    """Lines with their ranges, each named at its right end.

    Args:
        series: What to draw; points that are not finite are left out.
        description: What the chart shows, for those who do not see it.
        x_label: The horizontal axis.
        x_format: How its ticks read.
        y_format: How its ticks read.
        floor: The vertical axis goes no lower.
        ceiling: The vertical axis goes no higher.
        log_y: A logarithmic vertical axis; every value must be positive.
        height: In pixels at a width of 420.

    Raises:
        ValueError: There is no finite point to draw.
    """
    kept = [(one, _finite_points(one)) for one in series]
    kept = [(one, points) for one, points in kept if points]
    if not kept:
        raise ValueError("Expected argument `series` to hold a finite point, but it holds none.")
    flat = [value for _, points in kept for point in points for value in point[1:]]
    xs = [point[0] for _, points in kept for point in points]
    right = min(max(len(one.name) for one, _ in kept) * _CHARACTER + 16, 156.0)
    low, high = (min(flat), max(flat)) if log_y else _bounds(flat, floor=floor, ceiling=ceiling)
    if log_y and low == high:
        low, high = low / 2, high * 2
    x_low, x_high = (min(xs), max(xs)) if min(xs) < max(xs) else (min(xs) - 0.5, max(xs) + 0.5)
    x = Axis(x_low, x_high, LEFT, WIDTH - right)
    y = Axis(low, high, height - BOTTOM, TOP, log=log_y)
    parts = []
    for tick in y.ticks(4):
        parts += [
            _line(LEFT, y(tick), WIDTH - right, y(tick), "grid"),
            _text(LEFT - 8, y(tick) + 4, y_format(tick), "", "end"),
        ]
    for tick in x.ticks(4):
        parts += [
            _line(x(tick), height - BOTTOM, x(tick), height - BOTTOM + 4, "rule"),
            _text(x(tick), height - BOTTOM + 17, x_format(tick), "", "middle"),
        ]
    parts += [
        _line(LEFT, height - BOTTOM, WIDTH - right, height - BOTTOM, "rule"),
        _text(WIDTH - right, height - 2, x_label, "axis", "end"),
    ]
    for one, points in kept:
        if any(top > bottom for _, _, bottom, top in points):
            edge = [(x(a), y(top)) for a, _, _, top in points] + [
                (x(a), y(bottom)) for a, _, bottom, _ in reversed(points)
            ]
            parts.append(_path(edge, f"band {one.tone}", closed=True))
    for one, points in kept:
        if len(points) > 1:
            parts.append(_path([(x(a), y(b)) for a, b, _, _ in points], f"line {one.tone}"))
        shown = "dot" if len(points) <= 12 else "dot quiet"
        for a, b, bottom, top in points[:: max(1, len(points) // 60)]:
            span = f" ({y_format(bottom)} to {y_format(top)})" if top > bottom else ""
            tip = f"{one.name}: {y_format(b)}{span} at {x_label} {x_format(a)}"
            parts.append(_dot(x(a), y(b), 3.2, f"{shown} {one.tone}", tip))
    ends = spread_labels([y(points[-1][1]) for _, points in kept], TOP, height - BOTTOM)
    for (one, points), position in zip(kept, ends, strict=True):
        end = x(points[-1][0])
        if position != y(points[-1][1]) or end < WIDTH - right:
            parts.append(_line(end + 4, y(points[-1][1]), WIDTH - right + 8, position, f"lead {one.tone}"))
        parts.append(_text(WIDTH - right + 10, position + 4, clip(one.name, right - 10), f"name {one.tone}"))
    return _svg(height, description, parts)


def _finite_points(one: Series) -> list[tuple[float, float, float, float]]:
    low, high = one.low or one.y, one.high or one.y
    rows = zip(one.x, one.y, low, high, strict=True)
    return [row for row in rows if all(value is not None and math.isfinite(value) for value in row)]


def reliability_chart(
    confidence: Sequence[float], accuracy: Sequence[float], count: Sequence[float], *, tone: str, description: str
) -> Markup:
    """Accuracy against confidence, a dot a bin with an area by its samples; the diagonal is perfect calibration.

    Bars below show how many samples each bin holds. Empty bins are left out.
    """
    width, base, foot = 250.0, 212.0, 280.0
    x, y = Axis(0, 1, 46, width - 12), Axis(0, 1, base, 28)
    total = sum(value for value in count if math.isfinite(value)) or 1.0
    bins = [
        (a, b, n)
        for a, b, n in zip(confidence, accuracy, count, strict=True)
        if n and math.isfinite(a) and math.isfinite(b)
    ]
    parts = [_text(0, 12, "Accuracy", "axis"), _text(width - 12, foot + 34, "Confidence", "axis", "end")]
    for tick in (0.0, 0.5, 1.0):
        parts += [
            _line(x(0), y(tick), x(1), y(tick), "grid"),
            _text(x(0) - 8, y(tick) + 4, percent(tick), "", "end"),
            _text(x(tick), foot + 17, percent(tick), "", "middle"),
        ]
    parts += [
        _line(x(0), y(0), x(1), y(1), "ideal"),
        _line(x(0), foot, x(1), foot, "rule"),
        _text(x(0) + 2, base + 18, "Samples", "tick"),
    ]
    most = max((n for _, _, n in bins), default=1.0)
    for a, b, n in bins:
        parts.append(_line(x(a), y(a), x(a), y(b), f"gap {tone}"))
        bar = max(44 * n / most, 1.0)
        parts.append(
            Markup('<rect x="{}" y="{}" width="9" height="{}" class="bar {}" data-tip="{}"/>').format(
                round(x(a) - 4.5, 2),
                round(foot - bar, 2),
                round(bar, 2),
                tone,
                f"{n:,.0f} samples at {percent(round(a, 3))} confidence",
            )
        )
    if len(bins) > 1:
        parts.append(_path([(x(a), y(b)) for a, b, _ in bins], f"line thin {tone}"))
    for a, b, n in bins:
        tip = f"Confidence {percent(round(a, 3))}, accuracy {percent(round(b, 3))}, {n:,.0f} samples"
        parts.append(_dot(x(a), y(b), 3 + 7 * math.sqrt(n / total), f"dot {tone}", tip))
    return _svg(foot + 40, description, parts, width=width)


def strip_chart(
    rows: Sequence[Strip], *, description: str, x_format: Format = number, from_zero: bool = False
) -> Markup:
    """Rows of measurements on one axis: a dot each, a tick at the centre, name and centre written above.

    Raises:
        ValueError: There is no finite value to draw.
    """
    kept = [(row, [value for value in row.values if math.isfinite(value)]) for row in rows]
    kept = [(row, values) for row, values in kept if values]
    if not kept:
        raise ValueError("Expected argument `rows` to hold a finite value, but it holds none.")
    flat = [value for _, values in kept for value in values] + ([0.0] if from_zero else [])
    log = from_zero and min(flat[:-1]) > 0 and max(flat) / min(flat[:-1]) > 30
    low, high = (min(flat[:-1]) / 1.2, max(flat) * 1.2) if log else _bounds(flat)
    pitch, foot = 42.0, 42.0 * len(kept) + 6
    x = Axis(low, high, 12, WIDTH - 18, log=log)
    parts = []
    for tick in x.ticks(4):
        parts += [_line(x(tick), 0, x(tick), foot, "grid"), _text(x(tick), foot + 16, x_format(tick), "", "middle")]
    parts.append(_line(12, foot, WIDTH - 18, foot, "rule"))
    for index, (row, values) in enumerate(kept):
        level = pitch * index + 30
        parts += [
            _line(12, level, WIDTH - 18, level, "track"),
            _text(12, level - 12, clip(row.name, 250), f"name {row.tone}"),
            _text(WIDTH - 18, level - 12, row.text, f"value {row.tone}", "end"),
        ]
        many = "dot faint" if len(values) > 12 else "dot open"
        thinned = sorted(values)[:: max(1, len(values) // 80)]
        parts += [_dot(x(value), level, 4, f"{many} {row.tone}", f"{row.name}: {x_format(value)}") for value in thinned]
        if math.isfinite(row.centre):
            parts.append(_line(x(row.centre), level - 8, x(row.centre), level + 8, f"centre {row.tone}"))
    return _svg(foot + 22, description, parts)


def interval_chart(rows: Sequence[Interval], *, description: str, x_format: Format = number) -> Markup:
    """Differences with their intervals around a line at zero; a filled mark is a significant difference.

    Raises:
        ValueError: There is no finite difference to draw.
    """
    kept = [row for row in rows if math.isfinite(row.value)]
    if not kept:
        raise ValueError("Expected argument `rows` to hold a finite difference, but it holds none.")
    ends = [end for row in kept for end in (row.low, row.high) if end is not None and math.isfinite(end)]
    low, high = _bounds([0.0, *ends, *(row.value for row in kept)])
    pitch, foot = 48.0, 48.0 * len(kept) + 4
    x = Axis(low, high, 24, WIDTH - 24)
    parts = []
    for tick in x.ticks(4):
        parts += [_line(x(tick), 0, x(tick), foot, "grid"), _text(x(tick), foot + 16, x_format(tick), "", "middle")]
    parts.append(_line(x(0), 0, x(0), foot, "zero"))
    for index, row in enumerate(kept):
        level = pitch * index + 34
        kind = "interval" if row.significant else "interval unsure"
        parts += [
            _text(12, level - 15, clip(row.name, WIDTH - 40 - len(row.text) * _CHARACTER), "name ink"),
            _text(WIDTH - 18, level - 15, row.text, "value ink", "end"),
        ]
        if row.low is not None and row.high is not None and math.isfinite(row.low) and math.isfinite(row.high):
            parts.append(_line(x(row.low), level, x(row.high), level, kind))
            parts += [_line(x(end), level - 4, x(end), level + 4, kind) for end in (row.low, row.high)]
        parts.append(
            _dot(x(row.value), level, 5, f"estimate {'' if row.significant else 'unsure'}", f"{row.name}: {row.text}")
        )
    return _svg(foot + 22, description, parts)


def swatch(tone: str, name: str) -> Markup:
    """A name with its colour, as it stands in running text and tables."""
    return Markup('<span class="swatch {}" aria-hidden="true"></span>{}').format(tone, escape(name))
