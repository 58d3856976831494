"""`ft rollback`: move what serves back to an earlier release."""

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
    """Move the pointer of what serves to an earlier release, in one step.

    What you leave is not released again by itself: only once something new was made, or by --to.

    \b
    Example: ft rollback collection --to 3f2a9c01d4e5
    """
    project = Project.here()
    which = cast("ReleaseKind", kind)
    if only_list:
        _print_history(project, which)
        return
    before = project.releases.current(which)
    target = project.releases.target(which, version)
    require_kept(project.store, target)
    if which == "collection":
        # the alias and the pointer move together
        from ft_assets.retrieval.release import rollback_collection

        rollback_collection(project.releases, project.engine, target)
    else:
        project.releases.point(which, target)
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
        said = "rolled back from" if release.version in book.withheld else ""
        table.add_row("●" if release.version == book.current else "", release.version, at, made_of, said)
    console.print(table)
