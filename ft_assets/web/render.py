"""Views as HTML: templates with escaping, figures with four digits, charts as SVG."""

from __future__ import annotations

import re
import time
from functools import cache
from pathlib import Path
from typing import cast

import msgspec
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ft_assets.web.trainings import Chart
from resources.charts import Line, line_chart
from resources.memo import Memo
from resources.telemetry import duration

STATIC = Path(__file__).parent / "static"
_drawn: Memo[Markup] = Memo(64)  # by the content of the chart
_LONG_NUMBER = re.compile(r"-?\d+\.\d{3,}(e-?\d+)?")  # no version such as 2.10, and no id
_MINUTE, _HOUR, _DAY = 60, 3600, 86400


def render(template: str, view: object, *, export: bool = False, **more: object) -> str:
    """Return a view as one HTML page. `export`: self-contained, without links, forms and scripts."""
    style = Markup((STATIC / "style.css").read_text("utf-8")) if export else ""  # noqa: S704 - a file of this package
    return _environment().get_template(template).render(view=view, export=export, style=style, **more)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("ft_assets.web"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "figure": figure,
        "figures": figures,
        "signed": signed,
        "duration": took,
        "when": when,
        "ago": ago,
        "size": size,
        "visible": visible,
        "clip": clip,
        "draw": draw,
        "markdown": markdown,
    }
    return environment


def figure(value: object) -> str:
    """Return a number with 4 significant digits, thousands apart; "–" for none."""
    match value:
        case None:
            return "–"
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case float():
            return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"
        case _:
            return str(value)


def figures(text: str) -> str:
    """Return a value that `flatten` made text of, with the numbers in it as `figure` shows them."""
    if not (text.startswith(("[", "{")) or _LONG_NUMBER.fullmatch(text)):
        return text
    try:
        return msgspec.json.encode(_rounded(msgspec.json.decode(text))).decode()
    except msgspec.DecodeError:  # a text that begins like a list
        return text


def _rounded(value: object) -> object:
    match value:
        case float():
            return float(f"{value:.4g}") if abs(value) < 10_000 else round(value)
        case list():
            return [_rounded(one) for one in cast("list[object]", value)]
        case dict():
            return {name: _rounded(one) for name, one in cast("dict[str, object]", value).items()}
        case _:
            return value


def signed(value: float) -> str:
    """Return a difference with its sign."""
    return f"{value:+.3f}"


def took(seconds: float | None) -> str:
    """Return a duration; "–" for none."""
    return "–" if seconds is None else duration(seconds)


def when(seconds: float | None) -> str:
    """Return a time of this machine, to the minute."""
    return "–" if seconds is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def ago(seconds: float) -> str:
    """Return how long ago a time is."""
    past = max(time.time() - seconds, 0)
    if past < 2 * _MINUTE:
        return "now"
    if past < 2 * _HOUR:
        return f"{past // _MINUTE:.0f} min ago"
    return f"{past // _HOUR:.0f} h ago" if past < 2 * _DAY else f"{past // _DAY:.0f} days ago"


def size(count: int) -> str:
    """Return a number of bytes."""
    return (
        f"{count:,} B"
        if count < 10_000
        else f"{count / 1e3:,.0f} kB"
        if count < 10_000_000
        else f"{count / 1e6:,.0f} MB"
    )


def visible(value: object) -> str:
    """Return a text in which control characters and marks of direction are visible escapes; lines stay lines."""
    text = "" if value is None else str(value)
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


def clip(value: object, most: int = 160) -> str:
    """Return the beginning of a text on one line."""
    text = " ".join(visible(value).split())
    return text if len(text) <= most else f"{text[:most]}…"


def draw(chart: Chart) -> Markup:
    """Return a chart as SVG. The same curves are drawn once."""
    return _drawn.get(msgspec.json.encode(chart), lambda: _draw(chart))


def _draw(chart: Chart) -> Markup:
    lines = [Line(curve.name, curve.points, curve.color) for curve in chart.curves]
    return Markup(line_chart(lines, chart.title, y=chart.unit, size="medium"))  # noqa: S704 - names are escaped by the XML writer


def markdown(text: str) -> Markup:
    """Return Markdown as HTML. HTML in it stays text, and its links are only those that are safe."""
    from markdown_it import MarkdownIt

    _, front, body = text.partition("---\n") if text.startswith("---\n") else ("", "", text)
    body = body.partition("\n---\n")[2] if front else body
    rules = MarkdownIt("commonmark", {"html": False}).enable("table").disable("image")
    # a long line of code is scrolled to by keyboard
    return Markup(rules.render(body).replace("<pre>", '<pre tabindex="0">'))  # noqa: S704 - html is off
