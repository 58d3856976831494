"""`ft report`: write what serves, on what evidence, and the difference to the release before it, as one HTML file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

from ft_assets.commands.project import Project


@click.command("report")
@click.argument("release", required=False)
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("report.html"),
    show_default=True,
    help="The file to write.",
)
def command(release: str | None, output: Path) -> None:
    """Write what serves, on what evidence, and the difference to the release before it, as one HTML file.

    It needs no server and no network; without RELEASE it shows both kinds that serve.

    \b
    Example: ft report 3f2a9c01d4e5 --output report.html
    """
    from ft_assets.web.export import export_report

    write_page(lambda: export_report(Project.here(), release), output)


def write_page(export: Callable[[], str], output: Path) -> None:
    """Write an exported page, and print its path. Raises click.UsageError for a name that does not exist."""
    from ft_assets.web.project import NotFound
    from resources.files import write_text

    try:
        page = export()
    except NotFound as missing:
        raise click.UsageError(str(missing)) from missing
    write_text(output, page)
    click.echo(output)
