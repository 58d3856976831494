"""Format `preference`: a question with a better and a worse answer, for DPO. Dialects: DDR, TRL, the canonical form."""

from __future__ import annotations

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
    refuse_special_tokens,
    stated_id,
    tidy,
)
from expectations.text import comparison_key

FORMAT = "preference"
VERSION = 1


class PreferenceRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One pair of answers to one question, as it is trained on."""

    record_id: str
    question: str
    context: list[str]
    """Retrieved passages that the answers were given with."""
    chosen: str
    rejected: str
    chosen_score: float | None
    rejected_score: float | None
    margin: float | None
    """chosen_score - rejected_score; null without scores."""
    evidence: list[str]
    """Ids of the passages or documents that hold the answer."""
    group: str
    """Rows of one group (questions on one chunk) never fall into different splits; empty when alone."""
    language: str
    source: str
    line_no: int


class CanonicalRow(Extras, kw_only=True):
    question: str
    chosen: str
    rejected: str
    record_id: str | None = None
    context: list[str] | None = None
    chosen_score: float | None = None
    rejected_score: float | None = None


class TrlRow(Extras, kw_only=True):
    prompt: str
    chosen: str
    rejected: str
    score_chosen: float | None = None
    score_rejected: float | None = None


class DdrAnswer(msgspec.Struct, kw_only=True):
    """A candidate; its score is under `<metric>_score`, so it is read from the raw object."""

    text: str


class DdrRow(Extras, kw_only=True):
    query: str
    retrieval_result: list[str]
    chosen: DdrAnswer
    rejected: DdrAnswer
    chunk: str | None = None
    """The chunk the question was made from: questions on one chunk form a group."""


def _build(
    row: Extras,
    place: Place,
    policy: Policy,
    *,
    question_field: str,
    text_suffix: str = "",
    question: str,
    context: list[str],
    chosen: str,
    rejected: str,
    scores: tuple[float | None, float | None],
    record_id: str = "",
    group: str | None = None,
) -> PreferenceRecord:
    """The rules that hold for every dialect."""
    asked = tidy(question, f"$.{question_field}")
    refuse_empty("FT-PREF-008", f"$.{question_field}", asked)
    texts = {"chosen": tidy(chosen, f"$.chosen{text_suffix}"), "rejected": tidy(rejected, f"$.rejected{text_suffix}")}
    for name, text in texts.items():
        refuse_empty("FT-PREF-002", f"$.{name}{text_suffix}", text)
    if comparison_key(texts["chosen"]) == comparison_key(texts["rejected"]):
        how = "are the same" if chosen == rejected else "are the same after normalisation"
        raise RowError("FT-PREF-003", f"$.rejected{text_suffix}", f"chosen and rejected {how}")
    given = [text for text in (tidy(text, "$.context") for text in context) if text]
    refuse_special_tokens(
        "FT-PREF-007",
        **{question_field: asked, "context": "\n".join(given)},
        **{f"{name}{text_suffix}": text for name, text in texts.items()},
    )
    margin = _margin(scores, policy.min_margin)
    return PreferenceRecord(
        record_id=record_id or content_id(FORMAT, asked, given, texts["chosen"], texts["rejected"]),
        question=asked,
        context=given,
        chosen=texts["chosen"],
        rejected=texts["rejected"],
        chosen_score=scores[0],
        rejected_score=scores[1],
        margin=margin,
        evidence=row.evidence or [],
        group=tidy(row.group, "$.group") or group or "",
        language=choose_language(row.language, asked),
        source=place.source,
        line_no=place.line,
    )


def _margin(scores: tuple[float | None, float | None], least: float) -> float | None:
    chosen, rejected = scores
    if chosen is None and rejected is None:
        return None
    if chosen is None or rejected is None:
        missing = "chosen" if chosen is None else "rejected"
        raise RowError("FT-PREF-006", f"$.{missing}", f"{missing} has no score, the other has")
    # Scores come in binary: 0.8 - 0.7 must count as 0.1, a margin just allowed or just refused on purpose.
    margin = round(chosen - rejected, 9)
    if margin < 0:
        raise RowError("FT-PREF-004", "$.chosen", f"chosen is scored {chosen:g}, rejected {rejected:g}")
    if margin <= least:
        reason = f"both are scored {chosen:g}" if margin == 0 else f"the margin {margin:g} is not above {least:g}"
        raise RowError("FT-PREF-005", "$.chosen", reason)
    return margin


def _from_canonical(row: CanonicalRow, _raw: Any, place: Place, policy: Policy) -> PreferenceRecord:
    return _build(
        row,
        place,
        policy,
        question_field="question",
        question=row.question,
        context=row.context or [],
        chosen=row.chosen,
        rejected=row.rejected,
        scores=(row.chosen_score, row.rejected_score),
        record_id=stated_id(row.record_id or row.id),
    )


def _from_trl(row: TrlRow, _raw: Any, place: Place, policy: Policy) -> PreferenceRecord:
    return _build(
        row,
        place,
        policy,
        question_field="prompt",
        question=row.prompt,
        context=[],
        chosen=row.chosen,
        rejected=row.rejected,
        scores=(row.score_chosen, row.score_rejected),
        record_id=stated_id(row.id),
    )


def _from_ddr(row: DdrRow, raw: Any, place: Place, policy: Policy) -> PreferenceRecord:
    return _build(
        row,
        place,
        policy,
        question_field="query",
        text_suffix=".text",
        question=row.query,
        context=row.retrieval_result,
        chosen=row.chosen.text,
        rejected=row.rejected.text,
        scores=_ddr_scores(raw),
        # DDR's own numeric `id` is a line number: two files use the same ones for different questions.
        record_id=stated_id(row.id) if isinstance(row.id, str) else "",
        group=content_id("chunk", row.chunk.strip()) if row.chunk and row.chunk.strip() else None,
    )


def _ddr_scores(raw: dict[str, dict[str, Any]]) -> tuple[float | None, float | None]:
    """The scores of the first metric that both candidates have; RowError when they have none in common."""
    metrics = [
        [key for key, score in raw[name].items() if (key.endswith("_score") or key == "score") and score is not None]
        for name in ("chosen", "rejected")
    ]
    common = sorted(set(metrics[0]) & set(metrics[1]))
    if not common:
        if metrics[0] and metrics[1]:
            reason = f"chosen has {', '.join(metrics[0])}, rejected has {', '.join(metrics[1])}"
            raise RowError("FT-PREF-006", "$.rejected", reason)
        return _score(raw, "chosen", metrics[0]), _score(raw, "rejected", metrics[1])
    return _score(raw, "chosen", common), _score(raw, "rejected", common)


def _score(raw: dict[str, dict[str, Any]], name: str, metrics: list[str]) -> float | None:
    if not metrics:
        return None
    score = raw[name][metrics[0]]
    if isinstance(score, bool) or not isinstance(score, int | float):
        raise RowError("FT-PREF-001", f"$.{name}.{metrics[0]}", f"found {score!r}, expected a number")
    return float(score)


DIALECTS = (
    Dialect(
        name="ddr",
        kind=FORMAT,
        marks=("query", "retrieval_result", "chosen", "rejected"),
        row=DdrRow,
        convert=_from_ddr,
        type_code="FT-PREF-001",
    ),
    Dialect(
        name="trl",
        kind=FORMAT,
        marks=("prompt", "chosen", "rejected"),
        row=TrlRow,
        convert=_from_trl,
        type_code="FT-PREF-001",
    ),
    Dialect(
        name="preference",
        kind=FORMAT,
        marks=("question", "chosen", "rejected"),
        row=CanonicalRow,
        convert=_from_canonical,
        type_code="FT-PREF-001",
    ),
)
