"""Markdown tables: one layout for reports, asset pages and documentation."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[object]], numbers: Collection[str] = ()) -> str:
    """Return a Markdown table, without a line break at its end. The columns named in `numbers` are aligned right.

    Cells are Markdown and must not hold a bare `|` or a line break: give other text as `markdown_cell(text)`.

    >>> print(markdown_table(["split", "rows"], [["train", 80], ["test", 20]], numbers=["rows"]))
    | split | rows |
    | --- | ---: |
    | train | 80 |
    | test | 20 |
    """
    rule = ["---:" if name in numbers else "---" for name in columns]
    return "\n".join(f"| {' | '.join(map(str, cells))} |" for cells in (columns, rule, *rows))


def markdown_cell(text: str, most: int | None = None) -> str:
    r"""Return the text on one line, with `|` written as `\|`, cut after `most` characters (None: never)."""
    flat = " ".join(text.split()).replace("|", "\\|")
    return flat if most is None or len(flat) <= most else f"{flat[:most]}…"
