"""Format `retrieval_pair`: a query with texts that answer it and texts that do not, for the embedding model.

Dialects: FlagEmbedding's rows, questions with the texts of the laws that answer them (STARD), and the canonical form.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import msgspec

from expectations.formats.dialect import (
    Dialect,
    Extras,
    Place,
    Policy,
    RowError,
    choose_language,
    content_id,
    refuse_empty,
    refuse_residue,
    refuse_special_tokens,
    simplified,
    stated_id,
    tidy,
)
from expectations.formats.versions import VERSIONS
from expectations.text.cleaning import comparison_key

FORMAT = "retrieval_pair"
VERSION = VERSIONS[FORMAT]
NO_IN_BATCH = "no_in_batch_neg"
"""A file, or a folder, whose name ends so holds queries whose texts are no negatives for each other."""


class RetrievalPairRecord(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One query, as the embedding model is trained on it."""

    record_id: str
    query: str
    positives: list[str]
    negatives: list[str]
    """Empty when none were mined yet."""
    positive_scores: list[float] | None
    """A teacher's scores, one for each positive, for distillation; null without."""
    negative_scores: list[float] | None
    prompt: str
    """The instruction given with the query; empty for the run's own."""
    task_type: str
    """FlagEmbedding's `type`: normal, symmetric_class, symmetric_clustering, symmetric_sts; empty when not said."""
    in_batch_negatives: bool
    """Whether the texts of other queries of the batch may serve as negatives."""
    language: str
    group: str
    """Rows of one group never fall into different splits; empty when alone."""
    source: str
    line_no: int


Texts = list[str | list[Any]]
"""A list of texts; lists within it are read only to be refused with a reason of their own."""


class CanonicalRow(Extras, kw_only=True):
    query: str
    positives: Texts
    negatives: Texts | None = None
    record_id: str | None = None
    positive_scores: list[float] | None = None
    negative_scores: list[float] | None = None
    prompt: str | None = None
    task_type: str | None = None
    in_batch_negatives: bool = True


class FlagEmbeddingRow(Extras, kw_only=True):
    query: str
    pos: Texts
    neg: Texts | None = None
    pos_scores: list[float] | None = None
    neg_scores: list[float] | None = None
    prompt: str | None = None
    type: str | None = None
    batch_size: int | None = None
    no_in_batch_neg: bool = False


class StatutesRow(Extras, rename={"question": "问题", "statutes": "相关法规", "id": "query_id"}, kw_only=True):
    id: str | int | None = None
    question: str
    statutes: dict[str, str]


def _build(
    row: Extras,
    place: Place,
    policy: Policy,
    *,
    fields: tuple[str, str, str],
    query: str,
    positives: Texts,
    negatives: Texts | None = None,
    scores: tuple[list[float] | None, list[float] | None] = (None, None),
    prompt: str | None = None,
    task_type: str | None = None,
    in_batch_negatives: bool = True,
    record_id: str = "",
) -> RetrievalPairRecord:
    """The rules that hold for every dialect; `fields` are what it calls query, positives and negatives."""
    asked = tidy(query, f"$.{fields[0]}", place)
    refuse_empty("FT-PAIR-002", f"$.{fields[0]}", asked)
    if not positives:
        raise RowError("FT-PAIR-003", f"$.{fields[1]}", "found no positive")
    answering = _texts(positives, fields[1], place, "FT-PAIR-003")
    others = _texts(negatives or [], fields[2], place, "FT-PAIR-004")
    _refuse_overlap(answering, others, fields[2])
    for given, texts, field in zip(scores, (answering, others), _SCORE_FIELDS[fields[1]], strict=True):
        _refuse_scores(given, len(texts), f"$.{field}")
    if not place.plain:
        texts = {fields[0]: asked}
        texts |= {f"{fields[1]}[{n}]": text for n, text in enumerate(answering)}
        texts |= {f"{fields[2]}[{n}]": text for n, text in enumerate(others)}
        refuse_special_tokens("FT-PAIR-008", place, **texts)
        refuse_residue(place, **texts)
    name = record_id or stated_id(row.id, place) or content_id(FORMAT, asked, answering, others)
    if policy.traditional != "keep":
        asked = simplified(asked, policy)
        answering, others = ([simplified(text, policy) for text in texts] for texts in (answering, others))
    return RetrievalPairRecord(
        record_id=name,
        query=asked,
        positives=answering,
        negatives=others,
        positive_scores=scores[0],
        negative_scores=scores[1],
        prompt=tidy(prompt, "$.prompt", place),
        task_type=tidy(task_type, "$.type", place),
        in_batch_negatives=in_batch_negatives,
        language=choose_language(row.language, asked),
        group=tidy(row.group, "$.group", place),
        source=place.source,
        line_no=place.line,
    )


_SCORE_FIELDS = {
    "pos": ("pos_scores", "neg_scores"),
    "positives": ("positive_scores", "negative_scores"),
    "相关法规": ("", ""),
}


def _texts(texts: Texts, field: str, place: Place, empty: str) -> list[str]:
    """The cleaned texts of a list; RowError on one that is a list itself or empty."""
    cleaned: list[str] = []
    for n, text in enumerate(texts):
        path = f"$.{field}[{n}]"
        if not isinstance(text, str):
            raise RowError("FT-PAIR-006", path, f"found a list of {len(text)}, expected text")
        cleaned.append(tidy(text, path, place))
        refuse_empty(empty, path, cleaned[-1])
    return cleaned


def _refuse_overlap(positives: Sequence[str], negatives: Sequence[str], field: str) -> None:
    """RowError when a negative says the same as a positive."""
    keys = {comparison_key(text) for text in positives}
    for n, text in enumerate(negatives):
        if comparison_key(text) in keys:
            raise RowError("FT-PAIR-005", f"$.{field}[{n}]", f"a positive says the same: {text[:60]!r}")


def _refuse_scores(scores: list[float] | None, count: int, path: str) -> None:
    if scores is None:
        return
    if len(scores) != count:
        raise RowError("FT-PAIR-007", path, f"found {len(scores)} scores for {count} texts")
    for n, score in enumerate(scores):
        if not math.isfinite(score):
            raise RowError("FT-PAIR-007", f"{path}[{n}]", f"found {score}, expected a finite number")


def _from_canonical(row: CanonicalRow, _raw: Any, place: Place, policy: Policy) -> RetrievalPairRecord:
    return _build(
        row,
        place,
        policy,
        fields=("query", "positives", "negatives"),
        query=row.query,
        positives=row.positives,
        negatives=row.negatives,
        scores=(row.positive_scores, row.negative_scores),
        prompt=row.prompt,
        task_type=row.task_type,
        in_batch_negatives=row.in_batch_negatives,
        record_id=stated_id(row.record_id, place, "$.record_id"),
    )


def _from_flag_embedding(row: FlagEmbeddingRow, _raw: Any, place: Place, policy: Policy) -> RetrievalPairRecord:
    stem = place.source.rpartition("/")[2].partition(".")[0]
    alone = row.no_in_batch_neg or stem.endswith(NO_IN_BATCH) or place.folder.endswith(NO_IN_BATCH)
    return _build(
        row,
        place,
        policy,
        fields=("query", "pos", "neg"),
        query=row.query,
        positives=row.pos,
        negatives=row.neg,
        scores=(row.pos_scores, row.neg_scores),
        prompt=row.prompt,
        task_type=row.type,
        in_batch_negatives=not alone,
    )


def _from_statutes(row: StatutesRow, _raw: Any, place: Place, policy: Policy) -> RetrievalPairRecord:
    return _build(
        row,
        place,
        policy,
        fields=("问题", "相关法规", "negatives"),
        query=row.question,
        positives=list(row.statutes.values()),
    )


DIALECTS = (
    Dialect(
        name="flag-embedding",
        kind=FORMAT,
        marks=("query", "pos"),
        tells=("neg", "pos_scores", "neg_scores", "prompt", "type"),
        row=FlagEmbeddingRow,
        convert=_from_flag_embedding,
    ),
    Dialect(
        name="stard",
        kind=FORMAT,
        marks=("query_id", "问题", "相关法规"),
        row=StatutesRow,
        convert=_from_statutes,
    ),
    Dialect(
        name="retrieval_pair",
        kind=FORMAT,
        marks=("query", "positives"),
        tells=("negatives", "positive_scores", "negative_scores", "in_batch_negatives"),
        row=CanonicalRow,
        convert=_from_canonical,
        canonical=True,
    ),
)
