"""Join queries and judgements into one row for each query: its text and the passages that answer it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from expectations.formats.retrieval import QrelRecord, QueryRecord
from expectations.reading import Rejected
from expectations.records.quarantine import set_aside
from ft_assets.datasets.passage_index import PassageIndex


class RetrievalRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A row of retrieval_records: a query and the passages it should find."""

    query_id: str
    query: str
    positive_ids: list[str]
    """Names as the qrels have them (see passage_index.py), best score first."""
    scores: list[int]
    """Scores of `positive_ids`, 1 or more."""
    negative_ids: list[str]
    """Names with a score of 0 or less."""
    language: str
    source: str
    line_no: int


def join_judgements(
    queries: Iterable[QueryRecord], qrels: Iterable[QrelRecord], index: PassageIndex
) -> Iterator[RetrievalRecord | Rejected]:
    """Yield one record for each query, in the order of the queries.

    Quarantined: a judgement of an unknown query (FT-LINK-001) or of an unknown passage (FT-LINK-002), a query without
    an answering passage (FT-LINK-003) with its judgements (FT-LINK-004). Ids and pairs are unique already.
    """
    by_id = {query.query_id: query for query in queries}
    judgements: dict[str, list[QrelRecord]] = {query_id: [] for query_id in by_id}
    for qrel in qrels:
        if qrel.query_id not in by_id:
            yield _reject(qrel, "FT-LINK-001", f"no query has the id {qrel.query_id}.", "add the query to the queries")
        elif not index.resolve(qrel.passage_id):
            yield _reject(qrel, "FT-LINK-002", *_unresolved(qrel.passage_id, index))
        else:
            judgements[qrel.query_id].append(qrel)
    for query in by_id.values():
        judged = judgements[query.query_id]
        positives = sorted((qrel for qrel in judged if qrel.score > 0), key=lambda qrel: -qrel.score)
        if positives:
            yield RetrievalRecord(
                query_id=query.query_id,
                query=query.query,
                positive_ids=[qrel.passage_id for qrel in positives],
                scores=[qrel.score for qrel in positives],
                negative_ids=[qrel.passage_id for qrel in judged if qrel.score <= 0],
                language=query.language,
                source=query.source,
                line_no=query.line_no,
            )
            continue
        reason = f"no judgement names a passage that answers query {query.query_id}."
        fix = "add a judgement with a score of 1 or more, or delete the query"
        yield set_aside("FT-LINK-003", query.source, query.line_no, reason, fix, raw=query.query)
        for qrel in judged:
            yield _reject(qrel, "FT-LINK-004", f"its query {qrel.query_id} is quarantined.", "fix the query first")


def _unresolved(name: str, index: PassageIndex) -> tuple[str, str]:
    """Return the reason why a name means no passage, and the fix."""
    if name in index.disputed:
        reason = f"two documents of the corpus have the id {name} (FT-CORPUS-004 in the quarantine of passages)."
        return reason, "give one of the two another id"
    reason = f"the corpus has no passage, section or document {name}."
    return reason, "correct the id, or add the document to corpus.files"


def _reject(qrel: QrelRecord, code: str, reason: str, fix: str) -> Rejected:
    raw = f"{qrel.query_id}\t{qrel.passage_id}\t{qrel.score}"
    return set_aside(code, qrel.source, qrel.line_no, reason, fix, raw=raw)
