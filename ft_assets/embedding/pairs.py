"""Questions with the passages that answer them, in the form that the encoder and the metrics use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from expectations.violations import Refused, violation
from ft_assets.corpus.collect import PASSAGES
from ft_assets.corpus.cut import Alias
from ft_assets.datasets.passage_index import PassageIndex, read_aliases, resolve_passages
from resources.artifacts import Artifact
from resources.parquet import read_rows, text_column


@dataclass(frozen=True)
class Passages:
    """The corpus column by column, in its order; `contents` are the texts that are embedded, empty if not asked for."""

    ids: Sequence[str]
    documents: Sequence[str]
    contents: Sequence[str]
    hashes: Sequence[str]
    aliases: list[Alias] = field(default_factory=list[Alias])
    """Other names of passages (of duplicates that were left out), which judgements may use."""

    @property
    def document_of(self) -> dict[str, str]:
        """Passage id -> its document."""
        return dict(zip(self.ids, self.documents, strict=True))

    def take(self, rows: Sequence[int]) -> Passages:
        """Return the passages of these rows, in this order."""
        columns = (self.ids, self.documents, self.contents, self.hashes)
        return Passages(*([column[row] for row in rows] for column in columns), aliases=self.aliases)


@dataclass(frozen=True)
class Questions:
    """One split. `qrels`: for each query, passage id -> score. `unresolved` queries name no passage of this corpus."""

    ids: list[str]
    texts: list[str]
    qrels: list[dict[str, int]]
    unresolved: list[str]
    negatives: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    """Query id -> passages judged not to answer it, for the queries that have some."""
    named: list[list[list[str]]] = field(default_factory=list[list[list[str]]])
    """For each query, the passages that each positive judgement names: several where it names a section or document."""
    on_documents: list[str] = field(default_factory=list[str])
    """Queries with a judgement on a document of several passages, all of which then count as right."""


NO_QUESTIONS = Questions([], [], [], [])


def read_passages(passages: Artifact, *, contents: bool = True) -> Passages:
    """Return ids, documents, contents (if they are wanted), content hashes and aliases of the `passages` artifact."""
    path = passages.table(PASSAGES)
    return Passages(
        ids=text_column(path, "passage_id"),
        documents=text_column(path, "document_id"),
        contents=text_column(path, "content") if contents else [],
        hashes=text_column(path, "content_sha256"),
        aliases=read_aliases(passages),
    )


def has_negatives(splits: Artifact, split: str) -> bool:
    """Return whether a query of the split has a passage that was judged not to answer it."""
    return any(row["negative_ids"] for row in read_rows(splits.file(f"{split}.parquet"), ["negative_ids"]))


def read_questions(splits: Artifact, split: str, passages: Passages) -> Questions:
    """Return one split of `retrieval_splits`, its positives and negatives resolved to passages.

    The ids of queries that name no passage of this corpus are in `unresolved`.
    """
    index = PassageIndex(zip(passages.ids, passages.documents, strict=True), passages.aliases)
    columns = ["query_id", "query", "positive_ids", "scores", "negative_ids"]
    questions = Questions([], [], [], [])
    for row in read_rows(splits.file(f"{split}.parquet"), columns):
        names, scores = row["positive_ids"], row["scores"] or [1] * len(row["positive_ids"])
        qrels: dict[str, int] = {}
        named: list[list[str]] = []
        for name, score in zip(names, scores, strict=True):
            named.append(resolve_passages([name], index) if score > 0 else [])
            qrels |= {passage: max(int(score), qrels.get(passage, 0)) for passage in named[-1]}
        if not qrels:
            questions.unresolved.append(row["query_id"])
            continue
        questions.ids.append(row["query_id"])
        questions.texts.append(row["query"])
        questions.qrels.append(qrels)
        questions.named.append([passages for passages in named if passages])
        if any(map(index.is_long_document, names)):
            questions.on_documents.append(row["query_id"])
        if wrong := [passage for passage in resolve_passages(row["negative_ids"], index) if passage not in qrels]:
            questions.negatives[row["query_id"]] = wrong
    return questions


def require_questions(splits: Artifact, split: str, passages: Passages, asset: str) -> Questions:
    """Return one split as `read_questions` does. Raises Refused (FT-EMB-016) if `asset` has no question to use."""
    questions = read_questions(splits, split, passages)
    if not questions.ids:
        message = f"no question of the {split} split names a passage of this corpus."
        none = violation("FT-EMB-016", where=asset, message=message, field="questions", found=0, expected="at least 1")
        raise Refused(f"making {asset}", [none])
    return questions
