"""`ft search`: query the released collection as a user does, and show the scores of both arms."""

from __future__ import annotations

import json

import click
import msgspec
from rich.table import Table
from rich.text import Text

from ft_assets.commands.project import Project
from ft_assets.commands.terminal import make_console

_SHOWN_CHARACTERS = 200


def show(text: str) -> Text:
    """Return a text of the data for a terminal: no markup in it counts, and no control character reaches it."""
    return Text("".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text))


@click.command("search")
@click.argument("text")
@click.option("-k", "count", type=click.IntRange(min=1), help="Number of passages (default: retrieval.top_k).")
@click.option(
    "--where",
    multiple=True,
    metavar="CONDITION",
    help="Condition on a field of corpus.payload: tenant=a, 'year>=2020' (repeatable; each must hold).",
)
@click.option("--unreleased", is_flag=True, help="Search what the alias names, also if it is not what was released.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, passages in full.")
def command(text: str, count: int | None, where: tuple[str, ...], unreleased: bool, as_json: bool) -> None:
    """Search the released collection.

    \b
    Example: ft search "What does AES-GCM authenticate?" -k 5
    """
    from ft_assets.retrieval.search import Retriever

    project = Project.here()
    with Retriever.open(project.store, project.releases, project.engine, unreleased=unreleased) as retriever:
        hits = retriever.search([text], count or project.settings.retrieval.top_k, where)[0]
    if retriever.note:
        click.echo(f"note: {retriever.note}", err=True)
    if as_json:
        answer = {"query": text, "hits": msgspec.to_builtins(hits)} | (
            {"note": retriever.note} if retriever.note else {}
        )
        click.echo(json.dumps(answer, ensure_ascii=False, indent=2))
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in ("score", "dense", "sparse", "passage", "text"):
        table.add_column(title, justify="right" if title in {"score", "dense", "sparse"} else "left")
    for hit in hits:
        content = " ".join(hit.content.split())
        shown = content if len(content) <= _SHOWN_CHARACTERS else f"{content[:_SHOWN_CHARACTERS]}…"
        scores = [f"{value:.4f}" for value in (hit.score, hit.dense, hit.sparse)]
        table.add_row(*scores, show(hit.passage_id), show(shown))
    console = make_console()
    console.print(table if hits else "nothing found")
