"""`ft search`: what a terminal shows of texts and ids that hold markup or control characters."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from rich.table import Table

from ft_assets.commands.search import show


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a [/b]", "a [/b]"),
        ("[red]no colour[/red]", "[red]no colour[/red]"),
        (":smile: [link=https://example.org]x[/link]", ":smile: [link=https://example.org]x[/link]"),
        ("a\x1b[31mred\x07", "a\\x1b[31mred\\x07"),
        ("密钥\u202e", "密钥\\u202e"),
    ],
)
def test_ids_and_texts_are_shown_as_they_are_and_control_nothing(text: str, shown: str) -> None:
    out = io.StringIO()
    table = Table(box=None)
    table.add_column("passage")
    table.add_row(show(text))
    Console(file=out, width=140, force_terminal=True, color_system=None).print(table)
    assert shown in out.getvalue()
    assert "\x1b" not in out.getvalue()
