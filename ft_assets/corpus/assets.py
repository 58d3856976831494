"""The assets of the corpus: observed files, the passages cut from them, and the glossary counted over them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import dagster as dg
import msgspec
from msgspec import to_builtins

from expectations.markdown import bar_table
from expectations.text.glossary import Term, count_terms, load_terms
from ft_assets.config.from_artifact import settings_of
from ft_assets.config.load import accepted_settings
from ft_assets.config.model import Settings
from ft_assets.corpus.checks import GATES
from ft_assets.corpus.collect import GLOSSARY, PASSAGES, PassagesSummary, collect_passages
from ft_assets.corpus.shards import ShardSource
from ft_assets.corpus.token_limit import limit_values, open_limit
from ft_assets.graph.asset import AssetSpec
from ft_assets.graph.gates import evidence_of
from ft_assets.graph.observe import observed_files
from ft_assets.graph.produce import produce
from ft_assets.graph.quarantine import QUARANTINE, quarantine_table
from ft_assets.graph.source_files import (
    FILES,
    file_inventory,
    inventory_version,
    maps_recipe,
    match_files,
    match_mapped,
    refuse_changed,
    shown_path,
)
from resources.artifacts import Artifact, Staging, write_json
from resources.dagster_resources import ArtifactsResource, QdrantResource
from resources.parquet import Tables, arrow_schema, column_names, read_rows, write_table

_PASSAGES = AssetSpec(
    name="passages",
    group="corpus",
    kinds={"markdown", "parquet"},
    code_version="5",
    description="Documents cut by section and at sentence ends, with offsets into their sources; the rest quarantined.",
    inputs=("corpus_files",),
    reads=("corpus_settings",),
)
_GLOSSARY = AssetSpec(
    name="glossary",
    group="corpus",
    kinds={"yaml", "parquet"},
    code_version="2",
    description="Terms with their other names, and the number of passages that name each term.",
    inputs=("passages",),
    reads=("glossary_files", "corpus_settings"),
    enforces=("passages",),
    gates=(GATES,),
)
SPECS = (_PASSAGES, _GLOSSARY)


class GlossarySummary(msgspec.Struct, frozen=True, kw_only=True):
    """Summary of `glossary`. `terms_met`: terms that a passage names."""

    files: int
    terms: int
    terms_met: int


def _documents(settings: Settings, root: Path) -> list[Path]:
    return list(match_mapped(settings.corpus, "files", root, "corpus"))


def _glossaries(settings: Settings, root: Path) -> list[Path]:
    return match_files(settings.corpus.glossary, root, "corpus.glossary")


corpus_files = observed_files(
    "corpus_files",
    _documents,
    group="corpus",
    kind="markdown",
    description="The documents that corpus.files in config.yaml names; their contents are the version.",
)
glossary_files = observed_files(
    "glossary_files",
    _glossaries,
    group="corpus",
    kind="yaml",
    description="The files that corpus.glossary in config.yaml names; their contents are the version.",
)
_FIRST_ROWS, _WIDE, _CELL = 5, 5, 160  # rows and columns of a table on a page, characters of a value
COLUMNS = {
    "passage_id": "document and position; evidence and search results name it",
    "document_id": "path of the document without its ending",
    "heading": "headings above the passage, from the title down",
    "text": "the passage as it is in the document",
    "content": "what is encoded and searched: headings and text",
    "content_sha256": "version of `content`",
    "source": "file that the row is from",
    "start": "first character of the passage in its document",
    "end": "character after its last one",
    "language": "language of the text (en, zh …)",
    "alias": "another id of the passage, from an earlier version",
    "record_id": "hash of the record's content; the split ledger names it",
    "question": "what is asked",
    "context": "text given with the question",
    "system": "system prompt",
    "history": "earlier turns of the dialogue",
    "reasoning": "thoughts before the answer",
    "answer": "right answer",
    "chosen_answer": "the better answer",
    "rejected_answer": "the worse answer",
    "chosen_score": "score of the better answer",
    "rejected_score": "score of the worse answer",
    "difficulty": "difficulty as the file names it",
    "evidence": "passages that hold the answer",
    "group": "rows of one group go into one split",
    "line_no": "line of the row in its file",
    "split": "train, validation or test",
    "cluster": "rows that go into one split together",
    "dataset": "data set of the record",
    "term": "term of the glossary",
    "passages": "passages that name the term",
    "names": "the term and its other names",
    "occurrences": "how often the passages name the term",
    "chosen": "the better answer",
    "rejected": "the worse answer",
    "margin": "score of the better answer minus that of the worse one",
    "desirable": "whether the answer is a good one",
    "query_id": "id of the question",
    "query": "what is searched for",
    "positive_ids": "passages that answer it",
    "negative_ids": "passages that were judged and do not answer it",
    "scores": "grade of each passage in `positive_ids`",
    "first_seen": "recipe of the ledger that gave the record its split",
    "passage_ids": "passages that the question was made from",
    "kind": "kind of the question or of its answer",
    "made_by": "model that made the row",
    "author": "adapter that asked",
    "attempt": "which try gave it",
    "call_key": "call of the model, by its content",
    "candidate": "question that was wanted",
    "code": "rule that left the row out; empty where it is kept",
    "reason": "why the rule left it out",
    "prompt_tokens": "tokens that the model read",
    "tokens": "tokens that the model wrote",
}
"""Column -> its meaning, for the pages of data sets."""
SOURCES = {"corpus_files": _documents, "glossary_files": _glossaries}
"""Observed asset -> its files."""


@_PASSAGES.asset
def passages(artifacts: ArtifactsResource) -> dg.MaterializeResult[Any]:
    settings = settings_of(artifacts.store(), "corpus")
    root = artifacts.project()
    files = match_mapped(settings, "files", root, "corpus")
    inventory = file_inventory(list(files), root)
    payload = {"payload": settings.payload} if settings.payload else {}
    values = settings.model_dump(include={"max_chars", "min_chars", "traditional"})
    # not from its settings asset: an encoder that is only configured changes nothing until a person asks for a training
    encoder = accepted_settings(Path(artifacts.config_path), artifacts.state()).embedding
    before = artifacts.store().current(_PASSAGES.name)
    limited = limit_values(settings, encoder, before, artifacts.state())
    recipe = _PASSAGES.recipe_from(
        values | payload | maps_recipe([files], root) | limited,
        {"corpus_files": inventory_version(inventory)},
    )

    def compute(staging: Staging) -> Mapping[str, object]:
        write_json(staging.path / FILES, inventory)
        limit = open_limit(limited, encoder, before, artifacts.state())
        source = ShardSource(staging, inventory, before)
        summary = collect_passages(list(files), root, settings, staging.path, files, limit=limit, source=source)
        read = {shown_path(path, root) for path in source.read}
        refuse_changed(_PASSAGES.name, [row for row in inventory if row["document"] in read], source.read, root)
        return to_builtins(summary)

    return produce(artifacts, recipe, compute=compute, metadata=_show_passages)


@_GLOSSARY.asset
def glossary(artifacts: ArtifactsResource, qdrant: QdrantResource) -> dg.MaterializeResult[Any]:
    store = artifacts.store()
    _GLOSSARY.enforce(evidence_of(artifacts, qdrant))
    root = artifacts.project()
    files = match_files(settings_of(store, "corpus").glossary, root, "corpus.glossary")
    inventory = file_inventory(files, root)
    recipe = _GLOSSARY.recipe(artifacts, {"files": inventory_version(inventory)})

    def compute(staging: Staging) -> Mapping[str, object]:
        texts = (row["content"] for row in read_rows(store.require("passages").table(PASSAGES), ["content"]))
        terms = count_terms(load_terms(files), texts)
        write_table(staging.path / GLOSSARY, arrow_schema(Term), terms)
        refuse_changed(_GLOSSARY.name, inventory, files, root)
        met = sum(term.passages > 0 for term in terms)
        return to_builtins(GlossarySummary(files=len(files), terms=len(terms), terms_met=met))

    return produce(artifacts, recipe, compute=compute, metadata=_show_glossary)


def _show_passages(artifact: Artifact) -> Mapping[str, object]:
    path = artifact.table(PASSAGES)
    lengths = (row["end"] - row["start"] for row in read_rows(path, ["start", "end"]))
    return {
        "dagster/row_count": artifact.summary_as(PassagesSummary).passages,
        **table_of(path),
        "length": bar_table(_histogram(lengths), "characters a passage", "passages"),
        "quarantine": quarantine_table(artifact.file(QUARANTINE)),
    }


def _show_glossary(artifact: Artifact) -> Mapping[str, object]:
    path = artifact.file(GLOSSARY)
    terms = sorted(read_rows(path), key=lambda row: -row["passages"])
    shown: dict[str, object] = {
        "dagster/row_count": artifact.summary_as(GlossarySummary).terms,
        **table_of(path),
        "never_met": [row["term"] for row in terms if not row["passages"]][:50],
    }
    if terms:
        shown["coverage"] = bar_table({row["term"]: row["passages"] for row in terms[:7]}, "term", "passages")
    return shown


def table_of(path: Tables) -> dict[str, object]:
    """Return a table for the page of an asset: its columns with their meaning, and its first rows.

    A wide table is several: each has the first column again. Columns without a value are left out.
    """
    columns = [dg.TableColumn(name, kind, description=COLUMNS.get(name)) for name, kind in column_names(path)]
    rows = list(islice(read_rows(path), _FIRST_ROWS))
    shown: dict[str, object] = {
        "dagster/column_schema": dg.MetadataValue.table_schema(dg.TableSchema(columns=columns)),
    }
    first, *others = [column.name for column in columns if any(row[column.name] for row in rows)] or [""]
    for number, begin in enumerate(range(0, len(others), _WIDE), start=1):
        names = [first, *others[begin : begin + _WIDE]]
        records = [dg.TableRecord({name: _cut(row[name]) for name in names}) for row in rows]
        shown["first_rows" if number == 1 else f"first_rows_{number}"] = dg.MetadataValue.table(records)
    return shown


def _cut(value: object) -> str:
    text = "" if value is None else str(value)
    return text if len(text) <= _CELL else f"{text[:_CELL]}…"


def _histogram(lengths: Iterable[int]) -> dict[str, float]:
    edges = (100, 200, 400, 800, 1600)
    counts = dict.fromkeys([*(f"< {edge}" for edge in edges), f">= {edges[-1]}"], 0.0)
    for length in lengths:
        name = next((f"< {edge}" for edge in edges if length < edge), f">= {edges[-1]}")
        counts[name] += 1
    return counts


ASSETS: list[Any] = [corpus_files, glossary_files, passages, glossary]
