"""Markdown tables: one layout for reports, asset pages and documentation."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence

_MARKUP = re.compile(r"[\\`*\[\]<>|~&]|(?<!\w)_|_(?!\w)|^[#+-]")

_BAR, _NAME, _RANGES = 10, 40, 10  # characters of the longest bar and name, rows of a histogram


class Markdown(str):
    """Text that a page shows as Markdown. Any other text is shown as it is, since it may come from data."""

    __slots__ = ()


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[object]], numbers: Collection[str] = ()) -> Markdown:
    """Return a Markdown table, without a line break at its end. The columns named in `numbers` are aligned right.

    Cells are Markdown and must not hold a bare `|` or a line break: give other text as `markdown_cell(text)`.

    >>> print(markdown_table(["split", "rows"], [["train", 80], ["test", 20]], numbers=["rows"]))
    | split | rows |
    | --- | ---: |
    | train | 80 |
    | test | 20 |
    """
    rule = ["---:" if name in numbers else "---" for name in columns]
    return Markdown("\n".join(f"| {' | '.join(map(str, cells))} |" for cells in (columns, rule, *rows)))


def markdown_cell(text: str, most: int | None = None) -> str:
    r"""Return text that may come from data as one line of a cell, cut after `most` characters (None: never).

    It is shown as it is: nothing in it is HTML, an image, a link or emphasis.

    >>> print(markdown_cell("a | b <img src=x> ![x](http://example.com/x.png)"))
    a \| b \<img src=x\> !\[x\](http://example.com/x.png)
    """
    flat = " ".join(text.split())
    return _MARKUP.sub(r"\\\g<0>", flat if most is None or len(flat) <= most else f"{flat[:most]}…")


def bar_table(values: Mapping[str, float], title: str, figure: str = "rows") -> Markdown:
    """Return one row with a bar for each name, in the order given: exact figures, which no page has to draw.

    `figure`: name and unit of the values. A bar begins at 0.

    >>> print(bar_table({"train": 80, "test": 20}, "split"))
    | split | rows |  |
    | --- | ---: | --- |
    | train | 80 | ██████████ |
    | test | 20 | ██▌ |
    """
    top = max(map(abs, values.values()), default=0.0) or 1.0
    halves = {name: round(2 * _BAR * abs(value) / top) for name, value in values.items()}
    bars = {name: "█" * (count // 2) + "▌" * (count % 2) for name, count in halves.items()}
    rows = [(markdown_cell(name, _NAME), _shown(value), bars[name]) for name, value in values.items()]
    return markdown_table([title, figure, ""], rows, numbers=[figure])


def _shown(value: float) -> str:
    """Return four significant digits, or all of a count."""
    return f"{value:,.0f}" if value == int(value) else f"{value:.4g}"


def histogram_table(counts: Sequence[int], low: float, high: float, title: str, figure: str = "rows") -> Markdown:
    """Return one row for each of at most ten equal ranges from `low` to `high`."""
    if not any(counts):
        return Markdown(f"#### No {figure}")
    together = -(-len(counts) // _RANGES)
    step = (high - low) / len(counts)
    parts = {
        f"{low + n * step:.4g} to {low + min(n + together, len(counts)) * step:.4g}": sum(counts[n : n + together])
        for n in range(0, len(counts), together)
    }
    return bar_table(parts, title, figure)
