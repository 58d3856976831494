"""`ft compare`: write two trainings, or two releases of one kind, next to each other as one HTML file."""

from __future__ import annotations

from pathlib import Path

import click

from ft_assets.commands.project import Project
from ft_assets.commands.report import write_page


@click.command("compare")
@click.argument("before")
@click.argument("after")
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("compare.html"),
    show_default=True,
    help="The file to write.",
)
def command(before: str, after: str, output: Path) -> None:
    """Write two trainings, or two releases of one kind, next to each other as one HTML file.

    BEFORE and AFTER are recipe ids of trainings or versions of releases; their beginnings are enough.

    \b
    Example: ft compare 7a25092a d271ed82
    """
    from ft_assets.web.export import export_comparison

    write_page(lambda: export_comparison(Project.here(), before, after), output)
