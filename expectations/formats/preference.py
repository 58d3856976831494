"""Format `preference`: a question with a better and a worse answer, for DPO.

Dialects: DDR as UltraRAG and as RAG-DDR write it, TRL's preference rows, and the canonical form.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import msgspec

from expectations.formats.dialect import (
    Dialect,
    Extras,
    Place,
    Policy,
    RowError,
    Turn,
    choose_language,
    content_id,
    refuse_empty,
    refuse_label,
    refuse_residue,
    refuse_special_tokens,
    simplified,
    stated_id,
    tidy,
    tidy_all,
)
from expectations.formats.instruction import Message, take_apart
from expectations.formats.versions import VERSIONS
from expectations.text.cleaning import comparison_key_of_clean

FORMAT = "preference"
VERSION = VERSIONS[FORMAT]
AUGMENTED = 5
"""Passages that DDR gives with the question: the first five."""
_EMPTY = ("FT-PREF-008", "FT-PREF-002", "FT-PREF-002")
_TRL_PATHS = ("$.prompt", "$.chosen", "$.rejected")


class PreferenceRecord(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One pair of answers to one question, as it is trained on."""

    record_id: str
    question: str
    context: list[str]
    """Retrieved passages that the answers were given with."""
    system: str
    history: list[Turn]
    """Earlier turns of the dialogue, oldest first."""
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
    system: str | None = None
    history: list[Turn] | None = None
    chosen_score: float | None = None
    rejected_score: float | None = None


class TrlRow(Extras, kw_only=True):
    """`prompt` may be missing where chosen and rejected are conversations that begin with the same turns."""

    chosen: str | list[Message]
    rejected: str | list[Message]
    prompt: str | list[Message] | None = None
    score_chosen: float | None = None
    score_rejected: float | None = None


class DdrAnswer(msgspec.Struct, kw_only=True, gc=False):
    """A candidate; its score is under `<metric>_score` or `score`, so it is read from the raw object."""

    text: str


class DdrRow(Extras, kw_only=True):
    query: str
    retrieval_result: list[str]
    chosen: DdrAnswer
    rejected: DdrAnswer
    chunk: str | None = None
    """The chunk the question was made from: questions on one chunk form a group."""


class Segment(msgspec.Struct, kw_only=True):
    segment: str


class RagDdrRow(Extras, kw_only=True):
    """`chosen` and `rejected` are texts, YES and NO, in the rows that train RAG-DDR's judge of passages."""

    question: str
    chosen: DdrAnswer | str
    rejected: DdrAnswer | str
    passage: list[Segment] = msgspec.field(default_factory=list[Segment])
    rerank_passage: list[Segment] = msgspec.field(default_factory=list[Segment])


def _build(
    row: Extras,
    place: Place,
    policy: Policy,
    *,
    paths: tuple[str, str, str],
    question: str,
    context: Sequence[str] = (),
    system: str | None = None,
    history: Sequence[Turn] = (),
    chosen: str,
    rejected: str,
    scores: tuple[float | None, float | None],
    record_id: str = "",
    group: str | None = None,
) -> PreferenceRecord:
    """The rules that hold for every dialect; `paths` are the JSON paths of the question and of the two answers."""
    if place.plain:
        asked, better, worse = question.strip(), chosen.strip(), rejected.strip()
        given = [text for text in map(str.strip, context) if text]
    else:
        texts = (question, chosen, rejected)
        asked, better, worse = (tidy(text, path, place) for text, path in zip(texts, paths, strict=True))
        given = tidy_all(context, "$.context", place)
    if not (asked and better and worse):
        for code, path, text in zip(_EMPTY, paths, (asked, better, worse), strict=True):
            refuse_empty(code, path, text)
    refuse_label(paths[0], asked)
    refuse_label(paths[1], better)
    if _say_the_same(better, worse):
        how = "are the same" if chosen == rejected else "are the same after normalisation"
        raise RowError("FT-PREF-003", paths[2], f"chosen and rejected {how}")
    instructed = tidy(system, "$.system", place) if system else ""
    turns: list[Turn] = []
    if history:
        turns = [
            Turn(tidy(turn.question, "$.history", place), tidy(turn.answer, "$.history", place)) for turn in history
        ]
    if not place.plain:
        past = "\n".join(f"{turn.question}\n{turn.answer}" for turn in turns)
        tidied = dict(zip((path[2:] for path in paths), (asked, better, worse), strict=True))
        around = {"context": "\n".join(given), "system": instructed, "history": past}
        refuse_special_tokens("FT-PREF-007", place, **tidied, **around)
        refuse_residue(place, **tidied, **{f"context[{n}]": text for n, text in enumerate(given)})
    margin = _margin(scores, policy.min_margin)
    if not record_id:
        around = [instructed] if instructed else []
        if turns:
            around.append(msgspec.json.encode(turns).decode())
        record_id = content_id(FORMAT, asked, given, *around, better, worse)
    if policy.traditional != "keep":
        asked, better, worse, instructed = (simplified(text, policy) for text in (asked, better, worse, instructed))
        given = [simplified(text, policy) for text in given]
        turns = [Turn(simplified(turn.question, policy), simplified(turn.answer, policy)) for turn in turns]
    return PreferenceRecord(
        record_id=record_id,
        question=asked,
        context=given,
        system=instructed,
        history=turns,
        chosen=better,
        rejected=worse,
        chosen_score=scores[0],
        rejected_score=scores[1],
        margin=margin,
        evidence=row.evidence or [],
        group=(row.group and tidy(row.group, "$.group", place)) or group or "",
        language=choose_language(row.language, asked),
        source=place.source,
        line_no=place.line,
    )


def _say_the_same(left: str, right: str) -> bool:
    """Whether two answers are equal under `comparison_key`; their first or last letter mostly tells."""
    for end in (-1, 0):
        ours, theirs = left[end].casefold()[end], right[end].casefold()[end]
        if ours != theirs and ours.isalnum() and theirs.isalnum():
            return False
    return comparison_key_of_clean(left) == comparison_key_of_clean(right)


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
        paths=("$.question", "$.chosen", "$.rejected"),
        question=row.question,
        context=row.context or (),
        system=row.system,
        history=row.history or (),
        chosen=row.chosen,
        rejected=row.rejected,
        scores=(row.chosen_score, row.rejected_score),
        record_id=stated_id(row.record_id or row.id, place),
    )


def _from_trl(row: TrlRow, _raw: Any, place: Place, policy: Policy) -> PreferenceRecord:
    scores = (row.score_chosen, row.score_rejected)
    record_id = stated_id(row.id, place)
    if isinstance(row.prompt, str) and isinstance(row.chosen, str) and isinstance(row.rejected, str):
        return _build(
            row,
            place,
            policy,
            paths=_TRL_PATHS,
            question=row.prompt,
            chosen=row.chosen,
            rejected=row.rejected,
            scores=scores,
            record_id=record_id,
        )
    if isinstance(row.prompt, str) or isinstance(row.chosen, str) or isinstance(row.rejected, str):
        raise RowError("FT-PREF-001", "$.prompt", "prompt, chosen and rejected must all be texts, or all messages")
    better = take_apart([*(row.prompt or []), *row.chosen], "$.chosen")
    worse = take_apart([*(row.prompt or []), *row.rejected], "$.rejected")
    if (better.system, better.history, better.question) != (worse.system, worse.history, worse.question):
        raise RowError("FT-PREF-001", "$.rejected", "chosen and rejected answer different conversations")
    return _build(
        row,
        place,
        policy,
        paths=_TRL_PATHS,
        question=better.question,
        system=better.system,
        history=better.history,
        chosen=better.answer,
        rejected=worse.answer,
        scores=scores,
        record_id=record_id,
    )


def _from_ddr(row: DdrRow, raw: Any, place: Place, policy: Policy) -> PreferenceRecord:
    return _build(
        row,
        place,
        policy,
        paths=("$.query", "$.chosen.text", "$.rejected.text"),
        question=row.query,
        context=row.retrieval_result,
        chosen=row.chosen.text,
        rejected=row.rejected.text,
        scores=_ddr_scores(row.chosen, row.rejected, raw),
        # DDR's own numeric `id` is a line number: two files use the same ones for different questions.
        record_id=stated_id(row.id, place) if isinstance(row.id, str) else "",
        group=content_id("chunk", row.chunk.strip()) if row.chunk and row.chunk.strip() else None,
    )


def _from_rag_ddr(row: RagDdrRow, raw: Any, place: Place, policy: Policy) -> PreferenceRecord:
    better, worse = row.chosen, row.rejected
    if isinstance(better, str) or isinstance(worse, str):
        if (better, worse) in (("YES", "NO"), ("NO", "YES")):
            raise RowError("FT-PREF-009", "$.chosen", f"found {better} on a passage, expected an answer")
        path = "$.chosen" if isinstance(better, str) else "$.rejected"
        raise RowError("FT-PREF-001", path, "found text, expected an object")
    return _build(
        row,
        place,
        policy,
        paths=("$.question", "$.chosen.text", "$.rejected.text"),
        question=row.question,
        context=[passage.segment for passage in (row.rerank_passage or row.passage)[:AUGMENTED]],
        chosen=better.text,
        rejected=worse.text,
        scores=_ddr_scores(better, worse, raw),
        record_id=stated_id(row.id, place) if isinstance(row.id, str) else "",
    )


def _ddr_scores(
    better: DdrAnswer, worse: DdrAnswer, raw: dict[str, dict[str, Any]] | None
) -> tuple[float | None, float | None]:
    """The scores of the first metric that both candidates have; RowError when they have none in common."""
    if raw is None:
        name = _first_metric(type(better), type(worse))
        scores = getattr(better, name, None), getattr(worse, name, None)
        if type(scores[0]) is float and type(scores[1]) is float:
            return scores
        raw = {"chosen": msgspec.to_builtins(better), "rejected": msgspec.to_builtins(worse)}
    chosen, rejected = _metrics(raw["chosen"]), _metrics(raw["rejected"])
    common = chosen if chosen == rejected else sorted(set(chosen) & set(rejected))
    if not common and chosen and rejected:
        reason = f"chosen has {', '.join(chosen)}, rejected has {', '.join(rejected)}"
        raise RowError("FT-PREF-006", "$.rejected", reason)
    return _score(raw, "chosen", common or chosen), _score(raw, "rejected", common or rejected)


@cache
def _first_metric(chosen: type[DdrAnswer], rejected: type[DdrAnswer]) -> str:
    """The field of the first metric that candidates of these shapes have in common; empty without one."""
    left, right = (
        {field.encode_name: field.name for field in msgspec.structs.fields(kind)} for kind in (chosen, rejected)
    )
    return next((left[key] for key in _metrics(left) if left[key] == right.get(key)), "")


def _metrics(candidate: dict[str, Any]) -> list[str]:
    """The keys of a candidate's scores, sorted."""
    keys = [key for key in candidate if key.endswith("score") and candidate[key] is not None]
    return sorted(key for key in keys if key == "score" or key.endswith("_score")) if keys else keys


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
    ),
    Dialect(
        name="rag-ddr",
        kind=FORMAT,
        marks=("question", "chosen", "rejected", "data_type"),
        tells=("passage", "rerank_passage"),
        row=RagDdrRow,
        convert=_from_rag_ddr,
    ),
    Dialect(
        name="trl",
        kind=FORMAT,
        marks=("chosen", "rejected"),
        tells=("prompt",),
        row=TrlRow,
        convert=_from_trl,
    ),
    Dialect(
        name="preference",
        kind=FORMAT,
        marks=("question", "chosen", "rejected"),
        tells=("chosen_score", "context"),
        row=CanonicalRow,
        convert=_from_canonical,
        canonical=True,
    ),
)
