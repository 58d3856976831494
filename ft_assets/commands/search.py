"""`ft search`: query the released collection as a user does, and show the scores of both arms."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click
import msgspec
from rich.table import Table
from rich.text import Text

from ft_assets.commands.project import Project
from ft_assets.commands.terminal import make_console

if TYPE_CHECKING:
    from ft_assets.retrieval.questions import QueryTerm
    from ft_assets.retrieval.search import SearchAnswer
    from resources.engines.protocol import Arm

_SHOWN_CHARACTERS = 200
_ARMS: dict[str, Arm] = {"fused": "fused", "dense": "dense", "lexical": "sparse"}


def show(text: str) -> Text:
    """Return a text of the data for a terminal: no markup in it counts, and no control character reaches it."""
    return Text("".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text))


def _as_json(text: str, answer: SearchAnswer, note: str, explain: bool) -> dict[str, object]:
    """Return the answer as JSON. `note` is about the collection, `notes` are about the question."""
    hits: list[dict[str, object]] = []
    for hit in answer.hits:
        fields: dict[str, object] = msgspec.to_builtins(hit)
        del fields["terms"]
        if explain:
            fields["terms"] = [{**term._asdict(), "contribution": term.contribution} for term in hit.terms]
        hits.append(fields)
    fields = {
        "query": text,
        "searched_as": answer.question,
        "found": answer.found,
        "notes": answer.notes,
        "hits": hits,
    }
    return {**fields, "note": note} if note else fields


def _explain(terms: Sequence[QueryTerm]) -> str:
    """Return the terms that passage and question share, and those that the passage lacks."""
    shared = [term for term in terms if term.passage_weight]
    missing = [term.text for term in terms if not term.passage_weight]
    parts = [
        f"{term.text} {term.query_weight:.3f} × {term.passage_weight:.3f} = {term.contribution:.4f}" for term in shared
    ]
    return "; ".join([*parts, *([f"not here: {', '.join(missing)}"] if missing else [])])


@click.command("search")
@click.argument("text")
@click.option("-k", "count", type=click.IntRange(min=1), help="Number of passages (default: retrieval.top_k).")
@click.option(
    "--where",
    multiple=True,
    metavar="CONDITION",
    help="Condition on a field of corpus.payload: tenant=a, 'year>=2020' (repeatable; each must hold).",
)
@click.option(
    "--arm",
    type=click.Choice(["fused", "dense", "lexical"]),
    default="fused",
    help="Ranking to show: the released one (default), or that of one arm alone.",
)
@click.option("--explain", is_flag=True, help="Show the weights of the question's terms in each passage.")
@click.option("--unreleased", is_flag=True, help="Search what the alias names, also if it is not what was released.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, passages in full.")
def command(  # noqa: PLR0917 - one for each option
    text: str, count: int | None, where: tuple[str, ...], arm: str, explain: bool, unreleased: bool, as_json: bool
) -> None:
    """Search the released collection.

    \b
    Example: ft search "What does AES-GCM authenticate?" -k 5
    """
    from ft_assets.retrieval.search import Retriever

    project = Project.here()
    with Retriever.open(project.store, project.releases, project.engine, unreleased=unreleased) as retriever:
        answer = retriever.answer(
            [text], count or project.settings.retrieval.top_k, where, arm=_ARMS[arm], explain=explain
        )[0]
    if retriever.note:
        click.echo(f"note: {retriever.note}", err=True)
    if as_json:
        click.echo(json.dumps(_as_json(text, answer, retriever.note, explain), ensure_ascii=False, indent=2))
        return
    for note in answer.notes:
        click.echo(f"note: {show(note)}", err=True)
    hits = answer.hits
    table = Table(box=None, header_style="bold", pad_edge=False)
    reranked = any(hit.rerank is not None for hit in hits)
    figures = (*(["rerank"] if reranked else []), "score", "dense", "sparse")
    for title in (*figures, "passage", "text"):
        table.add_column(title, justify="right" if title in figures else "left")
    for hit in hits:
        content = " ".join(hit.content.split())
        shown = content if len(content) <= _SHOWN_CHARACTERS else f"{content[:_SHOWN_CHARACTERS]}…"
        scores = ["-" if hit.rerank is None else f"{hit.rerank:.4f}"] if reranked else []
        scores += [f"{value:.4f}" for value in (hit.score, hit.dense, hit.sparse)]
        table.add_row(*scores, show(hit.passage_id), show(shown))
        if explain:
            table.add_row(*[""] * (len(figures) + 1), show(_explain(hit.terms)), style="dim")
    console = make_console()
    if not answer.found:
        console.print("nothing found" + (", the nearest passages are:" if hits else ""))
    if hits:
        console.print(table)
