"""Charts as SVG with axes, units and a legend, drawn by leather: for the companion page and for Dagster's pages.

leather writes presentation attributes only, so a chart may be part of a page whose Content-Security-Policy allows no
inline style, and takes 5 ms (Vega through vl-convert: 73 ms and 84 MB of wheel; matplotlib: 61 ms).
"""

# leather is untyped here
# pyright: basic
from __future__ import annotations

import base64
import math
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple
from urllib.parse import quote

from expectations.markdown import Markdown, markdown_cell

Size = Literal["medium", "large"]
Point = tuple[float, float]
_SIZES: dict[Size, tuple[int, int]] = {"medium": (560, 250), "large": (720, 300)}
# each has a contrast of 3 or more with white and with a dark page
COLORS = ["#2f74e0", "#d9580c", "#2b9348", "#a83fc4", "#d6336c", "#0c8599", "#8a6d00", "#7a7f87"]
_DASHES = [None, "7 3", "2 3"]  # lines that share a colour differ in this
_INK = "#7f8a99"
_POINTS = 400  # more than a large chart has pixels for
_NUMBERS = {"x", "y", "x1", "x2", "y1", "y2", "cx", "cy", "width", "height"}
_SHOWN_AT_ONCE = 999  # characters of Markdown that Dagster's pages show without a click
_URL_SAFE = "/:,=\"'"
_NOT_XML = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
_SVG = "http://www.w3.org/2000/svg"


class Line(NamedTuple):
    """A line of a chart."""

    name: str
    points: Sequence[Point]
    """(step, value) in order of the steps."""
    color: int | None = None
    """Place in `COLORS`, to draw one thing in one colour on several charts; None: the place of the line."""


def line_chart(
    lines: Iterable[Line], title: str, *, x: str = "step", y: str = "", size: Size = "large", ink: str = "currentColor"
) -> str:
    """Return the lines over `x` as SVG; "" if no line has a value.

    `y`: name and unit of the values. `ink`: colour of text; an image that is not part of a page needs a fixed one.
    """
    import leather

    drawn = [Line(line.name, _thin(_finite(line.points)), line.color) for line in lines]
    drawn = [line for line in drawn if line.points]
    if not drawn:
        return ""
    chart = leather.Chart()
    for place, (name, points, chosen) in enumerate(drawn):
        n = place if chosen is None else chosen
        color, dash = COLORS[n % len(COLORS)], _DASHES[n // len(COLORS) % len(_DASHES)]
        if len(points) == 1:  # a line of one point is invisible
            chart.add_dots(points, name=name, fill_color=color)
        else:
            chart.add_line(points, name=name, stroke_color=color, stroke_dasharray=dash)
    xs = [point[0] for line in drawn for point in line.points]
    ys = [point[1] for line in drawn for point in line.points]
    chart.add_x_scale(*_span(xs))
    chart.add_y_scale(*_span(ys))
    chart.add_x_axis(name=x, tick_formatter=_tick)
    chart.add_y_axis(name=y or None, tick_formatter=_tick)
    return _draw(chart, title, _SIZES[size], ink)


def line_image(lines: Iterable[Line], title: str, *, x: str = "step", y: str = "") -> Markdown:
    """Return `line_chart` as a Markdown image, for a page that shows no SVG of its own, light or dark."""
    svg = line_chart(lines, title, x=x, y=y, ink=_INK)
    data = base64.b64encode(svg.encode()).decode()
    return Markdown(f"![{markdown_cell(title)}](data:image/svg+xml;base64,{data})" if svg else f"_{title}: no values_")


def small_line_image(lines: Iterable[Line], title: str) -> Markdown:
    """Return the lines in at most `_SHOWN_AT_ONCE` characters: no axes, but their first and last values in words.

    All lines have one scale. For more lines than fit, the words alone.
    """
    drawn = [Line(line.name, _finite(line.points)) for line in lines]
    drawn = [line for line in drawn if line.points]
    if not drawn:
        return Markdown(f"_{title}: no values_")
    words = " · ".join(
        f"{markdown_cell(line.name)} {line.points[0][1]:.4g} → {line.points[-1][1]:.4g}" for line in drawn
    )
    (left, right), (low, high) = (_span([point[axis] for line in drawn for point in line.points]) for axis in (0, 1))

    def picture(most: int) -> str:
        polylines = [
            f'<polyline stroke="{COLORS[n % len(COLORS)]}" points="{",".join(map(str, corners))}"/>'
            for n, line in enumerate(drawn)
            for corners in [
                [
                    part
                    for x, y in _thin([*line.points], most)
                    for part in (round(240 * (x - left) / (right - left)), round(46 - 44 * (y - low) / (high - low)))
                ]
            ]
        ]
        svg = f'<svg xmlns="{_SVG}" width="240" height="48" fill="none" stroke-width="2">{"".join(polylines)}</svg>'
        return f"![{markdown_cell(title)}](data:image/svg+xml,{quote(svg, safe=_URL_SAFE)}) {words}"

    fitting = (picture(most) for most in range(100, 3, -4))
    return Markdown(next((one for one in fitting if len(one) <= _SHOWN_AT_ONCE), words))


def _finite(points: Sequence[Point]) -> list[Point]:
    return [(float(x), float(y)) for x, y in points if math.isfinite(x) and math.isfinite(y)]


def _thin(points: list[Point], most: int = _POINTS) -> list[Point]:
    """Return `most` points, or two more. Of each part of the line the lowest and the highest stay: no peak is lost."""
    if len(points) <= most:
        return points
    step = 2 * len(points) / most
    parts = (points[int(n * step) : int((n + 1) * step)] for n in range(most // 2))
    kept = {points[0], points[-1]}
    for part in parts:
        kept |= {min(part, key=lambda p: p[1]), max(part, key=lambda p: p[1])}
    return sorted(kept)


def _span(values: Sequence[float]) -> tuple[float, float]:
    """Return the range of an axis. leather would show 0 to 1 for equal values, and not the values."""
    low, high = min(values), max(values)
    if high - low > 1e-9 * max(abs(low), abs(high)):
        return low, high
    around = abs(low) * 0.1 or 1.0
    return low - around, high + around


def _tick(value: object, index: int, count: int) -> str:
    del index, count
    number = float(str(value))
    return f"{number:,.0f}" if abs(number) >= 10_000 and number == int(number) else f"{number:.4g}"


def _draw(chart: object, title: str, size: tuple[int, int], ink: str) -> str:
    from leather import theme

    theme.margin = 0.03
    theme.tick_color = theme.zero_color = "#88888855"
    theme.title_color = theme.legend_color = theme.axis_title_color = theme.label_color = "currentColor"
    for name in ("title", "legend", "axis_title", "tick"):
        setattr(theme, f"{name}_font_family", "system-ui, sans-serif")
        setattr(theme, f"{name}_font_size", 12)
        setattr(theme, f"{name}_font_char_width", 7)
        setattr(theme, f"{name}_font_char_height", 12)
    theme.axis_title_gap, theme.legend_gap = 12, 6
    width, height = size
    group = chart.to_svg_group(width, height)  # type: ignore[attr-defined]
    del group[0]  # the background: the page's own shows
    root = ET.Element(
        "svg", {"xmlns": _SVG, "viewBox": f"0 0 {width} {height}", "width": str(width), "height": str(height)}
    )
    root.attrib |= {"role": "img", "class": "chart", "aria-label": title}
    ET.SubElement(root, "title").text = title
    root.append(group)
    for element in root.iter():
        for key, value in element.attrib.items():
            if value == "currentColor":
                element.set(key, ink)
            elif key in _NUMBERS and element is not root:
                element.set(key, f"{float(value):.5g}")
            elif key == "d":
                element.set(key, " ".join(p if p.isalpha() else f"{float(p):.5g}" for p in value.split()))
    # names may hold any character, and XML allows not all of them
    return _NOT_XML.sub("", ET.tostring(root, "unicode"))
