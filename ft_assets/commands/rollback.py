"""`ft rollback`: make an earlier release serve again."""

from __future__ import annotations

import time
from typing import cast

import click
from rich.table import Table

from ft_assets.commands.project import Project
from ft_assets.commands.terminal import make_console
from resources.releases import ReleaseKind, require_kept


@click.command("rollback")
@click.argument("kind", type=click.Choice(["adapter", "collection"]))
@click.option("--to", "version", metavar="VERSION", help="The release to serve (default: the one before the current).")
@click.option("--list", "only_list", is_flag=True, help="Show the releases and change nothing.")
def command(kind: str, version: str | None, only_list: bool) -> None:
    """Make an earlier release serve again, in one step.

    The release that you leave is not released again automatically before another one is. To return to it, use --to.

    \b
    Example: ft rollback collection --to 3f2a9c01d4e5
    """
    project = Project.here()
    release_kind = cast("ReleaseKind", kind)
    if only_list:
        _print_history(project, release_kind)
        return
    before = project.releases.current(release_kind)
    target = project.releases.target(release_kind, version)
    require_kept(project.store, target)
    if release_kind == "collection":
        # the alias and the pointer move together
        from ft_assets.retrieval.release import rollback_collection

        rollback_collection(project.releases, project.engine, target)
    else:
        project.releases.point(release_kind, target)
    click.echo(f"{kind}: {before.version if before else 'none'} -> {target.version}")


def _print_history(project: Project, kind: ReleaseKind) -> None:
    book = project.releases.book(kind)
    console = make_console()
    if book is None:
        console.print(f"no {kind} was ever released")
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in ("", "version", "released at", "made of", ""):
        table.add_column(title)
    for release in reversed(book.history):
        made_of = ", ".join(f"{asset} {recipe[:12]}" for asset, recipe in sorted(release.artifacts.items()))
        at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(release.released_at))
        current = "●" if release.version == book.current else ""
        note = "rolled back" if release.version in book.withheld else ""
        table.add_row(current, release.version, at, made_of, note)
    console.print(table)
