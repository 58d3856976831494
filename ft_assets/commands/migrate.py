"""`ft migrate`: move what is released to another engine, prove that both answer alike, say what to configure."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import click
from rich.table import Table

from ft_assets.commands.project import Project
from ft_assets.commands.terminal import make_console

if TYPE_CHECKING:
    from ft_assets.retrieval.migrate import Migration


@click.command("migrate")
@click.option("--to", "kind", type=click.Choice(["local", "edge", "server"]), required=True, help="The engine to use.")
@click.option("--url", help="Where the server listens (with --to server). Its key comes from QDRANT_API_KEY.")
@click.option("--sample", type=click.IntRange(min=1), default=32, show_default=True, help="Vectors to ask both with.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(kind: str, url: str | None, sample: int, as_json: bool) -> None:
    """Copy the released collections to another engine and prove counts, contract and scores.

    \b
    The alias there moves last; here nothing is deleted, and config.yaml is yours to change.
    Example: ft migrate --to edge
    """
    from ft_assets.retrieval.migrate import migrate

    if (kind == "server") != bool(url):
        raise click.UsageError("--to server needs --url, and only that.")
    project = Project.here()
    source = project.engine
    target = replace(source, kind=kind, url=url)
    if (source.kind, source.url) == (target.kind, target.url):
        raise click.UsageError(f"qdrant.engine is {source.address} already.")
    book = project.releases.book("collection")
    released = [release.details["collection"] for release in reversed(book.history)] if book else []
    with make_console(sys.stderr).status("opening both engines") as status:

        def show(name: str, written: int, total: int) -> None:
            status.update(f"{name}: {written} of {total} points")

        done = migrate(source, target, released, sample=sample, progress=show)
    if as_json:
        click.echo(json.dumps({"from": source.address, "to": target.address, **asdict(done)}, indent=2))
        return
    console = make_console()
    if done.alias is None:
        console.print(f"nothing is released in {source.address}: there is nothing to move")
        return
    console.print(_table(done))
    console.print(
        f"\n{target.alias} names {done.alias} in both. To serve from {target.address}, set in config.yaml:\n\n"
        f"  qdrant:\n    engine: {kind}" + (f"\n    url: {url}" if url else "") + "\n\n"
        f"then: ft run --group retrieval (encodes and upserts nothing). {source.address} is left as it is.",
        markup=False, soft_wrap=True,
    )  # fmt: skip


def _table(done: Migration) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in ("collection", "points", "written", "scores compared", "largest difference", "ranked alike"):
        table.add_column(title, justify="left" if title == "collection" else "right")
    for one in done.moved:
        alike = ", ".join(f"{arm} {share:.1%}" for arm, share in one.agreement.items())
        table.add_row(one.name, str(one.points), str(one.upserted), str(one.scores), f"{one.largest_difference:.1e}",
                      alike)  # fmt: skip
    return table
