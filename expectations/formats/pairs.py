"""Format `retrieval_pair`: a query with texts that answer it and texts that do not, for the embedding model.

Dialects: FlagEmbedding's rows, those of sentence-transformers (anchor, positive, negative), queries with passages as
objects (Tevatron, MIRACL), questions with the texts of the laws that answer them (STARD), MS MARCO's triples of texts,
and the canonical form.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, cast

import msgspec

from expectations.formats.build import (
    choose_language,
    content_id,
    numbered,
    refuse_residue,
    refuse_special_tokens,
    simplified,
    stated_id,
    tidy,
    tidy_required,
)
from expectations.formats.columns import is_bare_id, is_table_row
from expectations.formats.dialect import Dialect, Extras, Format, Keys, Place, ReadPolicy, Record, RowError
from expectations.text.cleaning import comparison_key, comparison_key_of_clean

NO_IN_BATCH = "no_in_batch_neg"
"""A file, or a folder, whose name ends so holds queries whose texts are no negatives for each other."""


class RetrievalPairRecord(Record, frozen=True, kw_only=True, gc=False):
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
    """FlagEmbedding's `type`: normal, symmetric_class, symmetric_clustering, symmetric_sts; empty when not given."""
    in_batch_negatives: bool
    """True if the texts of other queries of the batch may serve as negatives."""
    language: str
    group: str
    """Rows of one group never fall into different splits; empty when alone."""
    source: str
    line_no: int


def not_trained_on(record: RetrievalPairRecord) -> list[str]:
    """Return the fields of a record that BEIR has no place for, so that no training of the encoder sees them."""
    given = (
        ("prompt", bool(record.prompt)),
        ("positive_scores", record.positive_scores is not None),
        ("negative_scores", record.negative_scores is not None),
        ("in_batch_negatives", not record.in_batch_negatives),
        ("group", bool(record.group)),
    )
    return [name for name, is_given in given if is_given]


def explain_not_trained_on(rows: Mapping[str, int]) -> str:
    """Return a note on these fields, each with its number of rows: what is kept where, and why it is not used."""
    named = ", ".join(f"`{name}` ({count} row{'s' * (count != 1)})" for name, count in rows.items())
    return (
        f"not used in training: {named}; the records keep them, but BEIR's files, which the encoder is trained from, "
        "have no place for them (`embedding.query_prompt` is one prompt for all queries)"
    )


RawTexts = list[str | list[Any]]
"""A list of texts; lists within it are read only to be refused with a reason of their own."""


class RetrievalPairRow(Extras, kw_only=True):
    query: str
    positives: RawTexts
    negatives: RawTexts | None = None
    record_id: str | None = None
    positive_scores: list[float] | None = None
    negative_scores: list[float] | None = None
    prompt: str | None = None
    task_type: str | None = None
    in_batch_negatives: bool = True


class FlagEmbeddingRow(Extras, kw_only=True):
    query: str
    pos: RawTexts
    neg: RawTexts | None = None
    pos_scores: list[float | None] | None = None
    neg_scores: list[float | None] | None = None
    prompt: str | None = None
    type: str | None = None
    batch_size: int | None = None
    no_in_batch_neg: bool = False


_MOST_NEGATIVES = 64


class AnchorRow(Extras, kw_only=True):
    positive: str | RawTexts
    anchor: str | None = None
    query: str | None = None
    question: str | None = None
    negative: str | RawTexts | None = None


MinedRow: Any = msgspec.defstruct(
    "MinedRow",
    [(f"negative_{n}", str | None, None) for n in range(_MOST_NEGATIVES + 1)],
    bases=(AnchorRow,),
    kw_only=True,
)
"""With columns `negative_1`, `negative_2` …, as sentence-transformers writes mined negatives."""


class Judged(msgspec.Struct, kw_only=True):
    """A passage of a query. `docid` is its name in the corpus."""

    text: str
    title: str | None = None
    docid: str | int | None = None


class PassagesRow(Extras, kw_only=True):
    query: str
    positive_passages: list[Judged]
    negative_passages: list[Judged] | None = None
    query_id: str | int | None = None


class StatutesRow(Extras, rename={"question": "问题", "statutes": "相关法规", "id": "query_id"}, kw_only=True):
    id: str | int | None = None
    question: str
    statutes: dict[str, str]


class Fields(msgspec.Struct, frozen=True):
    """The names that a dialect has for the fields; empty where it has none."""

    query: str
    positives: str
    negatives: str
    positive_scores: str = ""
    negative_scores: str = ""


_CANONICAL = Fields("query", "positives", "negatives", "positive_scores", "negative_scores")
_FLAG_EMBEDDING = Fields("query", "pos", "neg", "pos_scores", "neg_scores")
_TEVATRON = Fields("query", "positive_passages", "negative_passages")
_TRIPLE = Fields("[0]", "[1]", "[2]")
_STARD = Fields("问题", "相关法规", "negatives")


class Contrast(msgspec.Struct, kw_only=True, gc=False):
    """A query with its texts as a dialect gives them, not yet cleaned."""

    fields: Fields
    query: str
    positives: RawTexts
    negatives: RawTexts | None = None
    positive_scores: list[float] | None = None
    negative_scores: list[float] | None = None
    prompt: str | None = None
    task_type: str | None = None
    in_batch_negatives: bool = True
    record_id: str = ""


def _build(row: Extras, given: Contrast, place: Place, policy: ReadPolicy) -> RetrievalPairRecord:
    """Return the record of a query with its texts; RowError when it breaks a rule, the same in every dialect."""
    fields = given.fields
    query_at, positives_at, negatives_at = (
        f"${name}" if name.startswith("[") else f"$.{name}"
        for name in (fields.query, fields.positives, fields.negatives)
    )
    query = tidy_required("FT-PAIR-002", given.query, query_at, place)
    if not given.positives:
        raise RowError("FT-PAIR-003", positives_at, "found no positive")
    positives = _tidy_texts("FT-PAIR-003", given.positives, positives_at, place)
    negatives = _tidy_texts("FT-PAIR-004", given.negatives or [], negatives_at, place)
    _refuse_overlap(positives, negatives, negatives_at)
    _refuse_scores(given.positive_scores, len(positives), f"$.{fields.positive_scores}")
    _refuse_scores(given.negative_scores, len(negatives), f"$.{fields.negative_scores}")
    if not place.plain:
        texts = [(query_at, query), *numbered(positives_at, positives), *numbered(negatives_at, negatives)]
        refuse_special_tokens("FT-PAIR-008", texts)
        refuse_residue(texts, place)
    record_id = given.record_id or stated_id(row.id, place) or content_id("retrieval_pair", query, positives, negatives)
    if policy.traditional != "keep":
        query = simplified(query, policy)
        positives, negatives = simplified(positives, policy), simplified(negatives, policy)
    return RetrievalPairRecord(
        record_id=record_id,
        query=query,
        positives=positives,
        negatives=negatives,
        positive_scores=given.positive_scores,
        negative_scores=given.negative_scores,
        prompt=tidy(given.prompt, "$.prompt", place),
        task_type=tidy(given.task_type, "$.type", place),
        in_batch_negatives=given.in_batch_negatives,
        language=choose_language(row.language, query),
        group=tidy(row.group, "$.group", place),
        source=place.source,
        line_no=place.line,
    )


def _tidy_texts(empty: str, texts: RawTexts, path: str, place: Place) -> list[str]:
    """Return the cleaned texts of a list; RowError on one that is a list itself, or empty (`empty`)."""
    cleaned: list[str] = []
    for n, text in enumerate(texts):
        at = f"{path}[{n}]"
        if not isinstance(text, str):
            raise RowError("FT-PAIR-006", at, f"found a list of {len(text)}, expected text")
        cleaned.append(tidy_required(empty, text, at, place))
    return cleaned


def _refuse_overlap(positives: Sequence[str], negatives: Sequence[str], path: str) -> None:
    """Refuse a negative whose text is that of a positive (RowError)."""
    keys = {comparison_key(text) for text in positives}
    for n, text in enumerate(negatives):
        if comparison_key(text) in keys:
            raise RowError("FT-PAIR-005", f"{path}[{n}]", f"a positive has the same text: {text[:60]!r}")


def _refuse_scores(scores: list[float] | None, count: int, path: str) -> None:
    """Refuse scores that are not one finite number for each text (RowError)."""
    if scores is None:
        return
    if len(scores) != count:
        raise RowError("FT-PAIR-007", path, f"found {len(scores)} scores for {count} texts")
    for n, score in enumerate(scores):
        if not math.isfinite(score):
            raise RowError("FT-PAIR-007", f"{path}[{n}]", f"found {score}, expected a finite number")


def _from_canonical(row: RetrievalPairRow, _raw: object, place: Place, policy: ReadPolicy) -> RetrievalPairRecord:
    given = Contrast(
        fields=_CANONICAL,
        query=row.query,
        positives=row.positives,
        negatives=row.negatives,
        positive_scores=row.positive_scores,
        negative_scores=row.negative_scores,
        prompt=row.prompt,
        task_type=row.task_type,
        in_batch_negatives=row.in_batch_negatives,
        record_id=stated_id(row.record_id, place, "$.record_id"),
    )
    return _build(row, given, place, policy)


def _from_flag_embedding(row: FlagEmbeddingRow, _raw: object, place: Place, policy: ReadPolicy) -> RetrievalPairRecord:
    stem = place.source.rpartition("/")[2].partition(".")[0]
    alone = row.no_in_batch_neg or stem.endswith(NO_IN_BATCH) or place.folder.endswith(NO_IN_BATCH)
    given = Contrast(
        fields=_FLAG_EMBEDDING,
        query=row.query,
        positives=row.pos,
        negatives=row.neg,
        positive_scores=_scores(row.pos_scores, "$.pos_scores"),
        negative_scores=_scores(row.neg_scores, "$.neg_scores"),
        prompt=row.prompt,
        task_type=row.type,
        in_batch_negatives=not alone,
    )
    return _build(row, given, place, policy)


def _scores(scores: list[float | None] | None, path: str) -> list[float] | None:
    """Return scores; None for a list of nulls, which says that there are none. RowError where only some are null."""
    if scores is None or (scores and all(score is None for score in scores)):
        return None
    for n, score in enumerate(scores):
        if score is None:
            raise RowError("FT-PAIR-007", f"{path}[{n}]", "found null next to numbers, expected a number for each text")
    return cast("list[float]", scores)


def _from_anchor(row: AnchorRow, _raw: object, place: Place, policy: ReadPolicy) -> RetrievalPairRecord:
    named = [name for name in ("anchor", "query", "question") if getattr(row, name) is not None]
    if len(named) != 1:
        found = " and ".join(f"`{name}`" for name in named) or "none"
        raise RowError("FT-PAIR-001", "$.anchor", f"found {found}, expected one of `anchor`, `query`, `question`")
    numbered_negatives = [
        text for n in range(_MOST_NEGATIVES + 1) if (text := getattr(row, f"negative_{n}")) is not None
    ]
    negatives = [*_listed(row.negative), *numbered_negatives]
    given = Contrast(
        fields=Fields(named[0], "positive", "negative"),
        query=getattr(row, named[0]),
        positives=_listed(row.positive),
        negatives=negatives,
    )
    return _build(row, given, place, policy)


def _listed(texts: str | RawTexts | None) -> RawTexts:
    """Return a list of texts; of one text, or of none, too."""
    if texts is None:
        return []
    return [texts] if isinstance(texts, str) else texts


def _from_passages(row: PassagesRow, _raw: object, place: Place, policy: ReadPolicy) -> RetrievalPairRecord:
    given = Contrast(
        fields=_TEVATRON,
        query=row.query,
        positives=[_titled(passage) for passage in row.positive_passages],
        negatives=[_titled(passage) for passage in row.negative_passages or ()],
        record_id=stated_id(row.query_id, place, "$.query_id"),
    )
    return _build(row, given, place, policy)


def _titled(passage: Judged) -> str:
    """Return the text of a passage, below its title."""
    title, text = (passage.title or "").strip(), passage.text.strip()
    return f"{title}\n{text}" if title and text else text


def _from_triple(cells: list[str], _raw: object, place: Place, policy: ReadPolicy) -> RetrievalPairRecord:
    if len(cells) != 3:
        raise RowError("FT-PAIR-001", "$", f"found {len(cells)} columns, expected 3 (query, positive, negative)")
    given = Contrast(fields=_TRIPLE, query=cells[0], positives=[cells[1]], negatives=[cells[2]])
    return _build(Extras(), given, place, policy)


def _is_triple(row: Any) -> bool:
    return is_table_row(row, 3) and not any(is_bare_id(cell) for cell in row)


def _from_statutes(row: StatutesRow, _raw: object, place: Place, policy: ReadPolicy) -> RetrievalPairRecord:
    given = Contrast(fields=_STARD, query=row.question, positives=list(row.statutes.values()))
    return _build(row, given, place, policy)


class Asked(Protocol):
    """A question in a record of another format."""

    @property
    def record_id(self) -> str: ...
    @property
    def question(self) -> str: ...
    @property
    def language(self) -> str: ...
    @property
    def group(self) -> str: ...
    @property
    def source(self) -> str: ...
    @property
    def line_no(self) -> int: ...


def pair_of(record: Asked, texts: Sequence[str]) -> RetrievalPairRecord:
    """Return a question with the text that answers it. RowError (FT-PAIR-003) unless `texts` is one text.

    Of several passages that come with a question it is not said which of them answers.
    """
    if len(texts) != 1:
        raise RowError(
            "FT-PAIR-003", "$", f"found {len(texts)} passages with the question, expected the one that answers it"
        )
    return RetrievalPairRecord(
        record_id=record.record_id,
        query=record.question,
        positives=list(texts),
        negatives=[],
        positive_scores=None,
        negative_scores=None,
        prompt="",
        task_type="",
        in_batch_negatives=True,
        language=record.language,
        group=record.group,
        source=record.source,
        line_no=record.line_no,
    )


def _keys(record: RetrievalPairRecord) -> Keys:
    texts = (comparison_key_of_clean(record.query), *record.positives, "", *record.negatives)
    return Keys(record.record_id, "$.record_id", hash(("retrieval_pair", *texts)))


RETRIEVAL_PAIR = Format(
    name="retrieval_pair",
    record=RetrievalPairRecord,
    wrong_type="FT-PAIR-001",
    keys=_keys,
    dialects=(
        Dialect(
            name="flag-embedding",
            marks=("query", "pos"),
            extra_marks=("neg", "pos_scores", "neg_scores", "prompt", "type"),
            row=FlagEmbeddingRow,
            convert=_from_flag_embedding,
        ),
        Dialect(
            name="sentence-transformers",
            marks=("anchor|query|question", "positive"),
            extra_marks=("negative", "negative_1"),
            row=MinedRow,
            convert=_from_anchor,
        ),
        Dialect(
            name="tevatron",
            marks=("query", "positive_passages"),
            extra_marks=("negative_passages", "query_id"),
            row=PassagesRow,
            convert=_from_passages,
        ),
        Dialect(
            name="msmarco-triples",
            marks=(),
            suits=_is_triple,
            file_names=("triple",),
            only_named=True,
            row=list[str],
            convert=_from_triple,
        ),
        Dialect(
            name="stard",
            marks=("query_id", "问题", "相关法规"),
            row=StatutesRow,
            convert=_from_statutes,
        ),
        Dialect(
            name="retrieval_pair",
            marks=("query", "positives"),
            extra_marks=("negatives", "positive_scores", "negative_scores", "in_batch_negatives"),
            row=RetrievalPairRow,
            convert=_from_canonical,
            canonical=True,
        ),
    ),
)
