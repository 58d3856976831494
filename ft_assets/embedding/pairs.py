"""Questions with the passages that answer them, as the encoder and the metrics want them."""

from __future__ import annotations

from dataclasses import dataclass, field

from ft_assets.corpus.collect import PASSAGES
from ft_assets.corpus.cut import Alias
from ft_assets.datasets.passage_index import PassageIndex, read_aliases, resolve_passages
from resources.artifacts import Artifact
from resources.parquet import read_columns, read_rows


@dataclass(frozen=True)
class Passages:
    """The corpus column by column, in its order; `contents` are what is embedded."""

    ids: list[str]
    documents: list[str]
    contents: list[str]
    hashes: list[str]
    aliases: list[Alias] = field(default_factory=list[Alias])
    """Names of passages that judgements may use though their text is another's."""


@dataclass(frozen=True)
class Questions:
    """One split. `qrels`: for each query, passage id -> score. `unresolved` queries name no passage of this corpus."""

    ids: list[str]
    texts: list[str]
    qrels: list[dict[str, int]]
    unresolved: list[str]


def read_passages(passages: Artifact) -> Passages:
    """Ids, documents, contents and content hashes of the `passages` artifact."""
    columns = read_columns(passages.file(PASSAGES), ["passage_id", "document_id", "content", "content_sha256"])
    return Passages(*columns.values(), aliases=read_aliases(passages))


def read_questions(splits: Artifact, split: str, passages: Passages) -> Questions:
    """One split of `retrieval_splits`, its positives resolved to passages; a query without one is set apart by id."""
    index = PassageIndex(zip(passages.ids, passages.documents, strict=True), passages.aliases)
    columns = ["query_id", "query", "positive_ids", "scores"]
    made = Questions([], [], [], [])
    for row in read_rows(splits.file(f"{split}.parquet"), columns):
        named = zip(row["positive_ids"], row["scores"] or [1] * len(row["positive_ids"]), strict=True)
        qrels: dict[str, int] = {}
        for name, score in named:
            for pid in resolve_passages([name], index) if score > 0 else ():
                qrels[pid] = max(int(score), qrels.get(pid, 0))
        if not qrels:
            made.unresolved.append(row["query_id"])
            continue
        made.ids.append(row["query_id"])
        made.texts.append(row["query"])
        made.qrels.append(qrels)
    return made
