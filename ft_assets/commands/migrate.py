"""`ft migrate`: copy the released collections to another engine and check that both engines answer alike."""

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
@click.option("--url", help="URL of the server (with --to server). Its key comes from QDRANT_API_KEY.")
@click.option(
    "--sample",
    type=click.IntRange(min=1),
    default=32,
    show_default=True,
    help="Number of stored vectors to query both engines with.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(kind: str, url: str | None, sample: int, as_json: bool) -> None:
    """Copy the released collections to another engine and check counts, contract and scores.

    \b
    The alias there moves last. Nothing is deleted here, and you change config.yaml yourself.
    Example: ft migrate --to edge
    """
    from ft_assets.config.model import login_in_address
    from ft_assets.retrieval.migrate import migrate

    if reason := login_in_address("--url", url):
        raise click.UsageError(reason)
    if (kind == "server") != bool(url):
        raise click.UsageError("--to server needs --url, and the other engines take none.")
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
        console.print(f"nothing is released in {source.address}: there is nothing to copy")
        return
    console.print(_table(done))
    lines = [
        "",
        f"{target.alias} names {done.alias} in both. To serve from {target.address}, set in config.yaml:",
        "",
        "  qdrant:",
        f"    engine: {kind}",
        *([f"    url: {url}"] if url else []),
        "",
        f"then: ft run --group retrieval (encodes and upserts nothing). {source.address} is left as it is.",
    ]
    console.print("\n".join(lines), markup=False, soft_wrap=True)


def _table(done: Migration) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in ("collection", "points", "written", "scores compared", "largest difference", "equal answers"):
        table.add_column(title, justify="left" if title == "collection" else "right")
    for one in done.moved:
        equal = ", ".join(f"{arm} {share:.1%}" for arm, share in one.agreement.items())
        counts = (str(one.points), str(one.upserted), str(one.scores))
        table.add_row(one.name, *counts, f"{one.largest_difference:.1e}", equal)
    return table
