"""Small SVG plots as one Markdown image, for metadata: readable on an asset page, under 1000 characters each."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape

MAX_CHARS = 1000
_WIDTH, _HEIGHT = 240, 60
_FIRST, _SECOND = "#36c", "#c63"


def sparkline(values: Sequence[float], second: Sequence[float] = (), title: str = "plot") -> str:
    """Return a line of `values` from left to right and, on the same scale, a `second` one; long series are thinned."""
    series = [(_FIRST, list(values)), (_SECOND, list(second))]
    present = [*values, *second]
    if not present:
        return f"_{title}: no values_"
    low, high = min(present), max(present)
    for points in (48, 32, 24, 16, 8):
        lines = "".join(_polyline(color, _thin(line, points), low, high) for color, line in series if line)
        caption = f'<text y="{_HEIGHT + 11}">{low:.4g} … {high:.4g}</text>'
        image = _markdown(title, _HEIGHT + 14, lines + caption)
        if len(image) < MAX_CHARS:
            return image
    return f"_{title}: {low:.4g} … {high:.4g}_"


def bars(values: Mapping[str, float], title: str = "plot") -> str:
    """Return one horizontal bar for each name, in the order given; names that do not fit are summed up as `others`."""
    if not values:
        return f"_{title}: no values_"
    for count in range(min(len(values), 8), 0, -1):
        items = list(values.items())
        if len(items) > count:
            items = [*items[: count - 1], ("others", sum(value for _, value in items[count - 1 :]))]
        image = _markdown(title, 15 * len(items), _bars(items))
        if len(image) < MAX_CHARS:
            return image
    return f"_{title}: {len(values)} values_"


def histogram(counts: Sequence[int], low: float, high: float, title: str = "plot") -> str:
    """Return one column for each count, over equal steps from `low` to `high`."""
    if not any(counts):
        return f"_{title}: no values_"
    width, top = _WIDTH / len(counts), max(counts)
    heights = [max(round((_HEIGHT - 2) * count / top), 1) if count else 0 for count in counts]
    step = f"h{max(int(width) - 1, 1)}V{_HEIGHT}z"
    boxes = "".join(f"M{round(n * width)} {_HEIGHT}v-{height}{step}" for n, height in enumerate(heights) if height)
    caption = f'<text y="{_HEIGHT + 11}">{low:.4g} … {high:.4g}, at most {top}</text>'
    image = _markdown(title, _HEIGHT + 14, f'<path fill="{_FIRST}" d="{boxes}"/>{caption}')
    return image if len(image) < MAX_CHARS else f"_{title}: {low:.4g} … {high:.4g}_"


def _bars(items: Sequence[tuple[str, float]]) -> str:
    top = max((abs(value) for _, value in items), default=0.0) or 1.0
    boxes = "".join(
        f"M99 {15 * n + 2}h{max(round(90 * abs(v) / top), 1)}v11" + "H99z" for n, (_, v) in enumerate(items)
    )
    labels = "".join(
        f'<tspan x="0" y="{15 * n + 12}">{escape(name[:15])}</tspan><tspan x="192">{value:.4g}</tspan>'
        for n, (name, value) in enumerate(items)
    )
    return f'<path fill="{_FIRST}" d="{boxes}"/><text>{labels}</text>'


def _polyline(color: str, values: Sequence[float], low: float, high: float) -> str:
    span = (high - low) or 1.0
    step = _WIDTH / max(len(values) - 1, 1)
    points = " ".join(f"{round(n * step)},{round((_HEIGHT - 4) * (high - v) / span) + 2}" for n, v in enumerate(values))
    return f'<polyline fill="none" stroke="{color}" points="{points}"/>'


def _thin(values: Sequence[float], points: int) -> Sequence[float]:
    """Return at most `points` values, evenly spaced, with the first and the last."""
    if len(values) <= points:
        return values
    last = len(values) - 1
    return [values[round(n * last / (points - 1))] for n in range(points)]


def _markdown(title: str, height: int, body: str) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" font-size="11">'
    return f"![{title}](data:image/svg+xml;base64,{base64.b64encode(f'{head}{body}</svg>'.encode()).decode()})"
