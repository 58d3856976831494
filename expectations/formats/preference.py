"""Format `preference`: a question with a better and a worse answer, for DPO.

Dialects: DDR as UltraRAG and as RAG-DDR write it, TRL's preference rows, and the canonical form.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

import msgspec

from expectations.formats.build import (
    choose_language,
    content_id,
    history_json,
    numbered,
    refuse_empty,
    refuse_label,
    refuse_residue,
    refuse_special_tokens,
    simplified,
    stated_id,
    texts_around,
    tidy,
    tidy_all,
    tidy_each,
    tidy_turns,
)
from expectations.formats.dialect import Dialect, Extras, Format, Keys, Place, ReadPolicy, Record, RowError, Turn
from expectations.formats.instruction import InstructionRecord, Message, add_history, read_dialogue
from expectations.formats.keys import history_texts
from expectations.text.cleaning import comparison_key_of_clean as comparison_key

AUGMENTED = 5
"""Passages that DDR gives with the question: the first five."""
DDR_KEYS = (
    *("*_score", "score", "type", "temperature", "loop", "context", "file_index", "chunk_index", "ground_truth"),
    *("keypoints", "raw_input", "augment_input", "cot", "answer", "error_passage"),
)
"""Keys of DDR's rows besides those of the typed rows: scores, and how the candidates were made."""
_EMPTY = ("FT-PREF-008", "FT-PREF-002", "FT-PREF-002")
_RawDdr = Mapping[str, Mapping[str, object]]
"""A row of DDR as JSON: the scores are in the objects `chosen` and `rejected`."""
_TRL_PATHS = ("$.prompt", "$.chosen", "$.rejected")


class PreferenceRecord(Record, frozen=True, kw_only=True, gc=False):
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


class PreferenceRow(Extras, kw_only=True):
    """The canonical form."""

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


class AnswerPair(msgspec.Struct, kw_only=True, gc=False):
    """A question and its two answers as a dialect gives them, not yet cleaned."""

    paths: tuple[str, str, str]
    """JSON paths of the question, of the chosen and of the rejected answer."""
    question: str
    chosen: str
    rejected: str
    scores: tuple[float | None, float | None]
    """Of the chosen and of the rejected answer."""
    context: Sequence[str] = ()
    system: str | None = None
    history: Sequence[Turn] = ()
    record_id: str = ""
    group: str = ""


def _build(row: Extras, pair: AnswerPair, place: Place, policy: ReadPolicy) -> PreferenceRecord:
    """Return the record of a comparison; RowError when it breaks a rule. The rules are the same in every dialect."""
    question, chosen, rejected = tidy_each((pair.question, pair.chosen, pair.rejected), pair.paths, place)
    context = tidy_all(pair.context, "$.context", place)
    _refuse_answers(pair, question, chosen, rejected)
    system = tidy(pair.system, "$.system", place) if pair.system else ""
    history = tidy_turns(pair.history, "$.history", place) if pair.history else []
    if not place.plain:
        texts = list(zip(pair.paths, (question, chosen, rejected), strict=True))
        refuse_special_tokens("FT-PREF-007", [*texts, *texts_around(context, system, history)])
        refuse_residue([*texts, *numbered("$.context", context)])
    margin = _margin(pair.scores, policy.min_margin)
    record_id = pair.record_id or content_id(
        "preference", question, context, *([system] if system else []), *history_json(history), chosen, rejected
    )
    if policy.traditional != "keep":
        question, chosen, rejected = (simplified(text, policy) for text in (question, chosen, rejected))
        context, system = simplified(context, policy), simplified(system, policy)
        history = simplified(history, policy)
    return PreferenceRecord(
        record_id=record_id,
        question=question,
        context=context,
        system=system,
        history=history,
        chosen=chosen,
        rejected=rejected,
        chosen_score=pair.scores[0],
        rejected_score=pair.scores[1],
        margin=margin,
        evidence=row.evidence or [],
        group=(tidy(row.group, "$.group", place) if row.group else "") or pair.group,
        language=choose_language(row.language, question),
        source=place.source,
        line_no=place.line,
    )


def _refuse_answers(pair: AnswerPair, question: str, chosen: str, rejected: str) -> None:
    """Refuse cleaned texts that are empty, begin with a label, or do not differ (RowError)."""
    if not (question and chosen and rejected):
        for code, path, text in zip(_EMPTY, pair.paths, (question, chosen, rejected), strict=True):
            refuse_empty(code, path, text)
    refuse_label(pair.paths[0], question)
    refuse_label(pair.paths[1], chosen)
    if _are_equal(chosen, rejected):
        how = "are the same" if pair.chosen == pair.rejected else "are the same after normalisation"
        raise RowError("FT-PREF-003", pair.paths[2], f"chosen and rejected {how}")


def _are_equal(left: str, right: str) -> bool:
    """True if two answers are equal under `comparison_key`. In most pairs the first or the last letter differs."""
    for end in (-1, 0):
        ours, theirs = left[end].casefold()[end], right[end].casefold()[end]
        if ours != theirs and ours.isalnum() and theirs.isalnum():
            return False
    return comparison_key(left) == comparison_key(right)


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


def _from_canonical(row: PreferenceRow, _raw: object, place: Place, policy: ReadPolicy) -> PreferenceRecord:
    pair = AnswerPair(
        paths=("$.question", "$.chosen", "$.rejected"),
        question=row.question,
        chosen=row.chosen,
        rejected=row.rejected,
        scores=(row.chosen_score, row.rejected_score),
        context=row.context or (),
        system=row.system,
        history=row.history or (),
        record_id=stated_id(row.record_id or row.id, place),
    )
    return _build(row, pair, place, policy)


def _from_trl(row: TrlRow, _raw: object, place: Place, policy: ReadPolicy) -> PreferenceRecord:
    scores = (row.score_chosen, row.score_rejected)
    record_id = stated_id(row.id, place)
    if isinstance(row.prompt, str) and isinstance(row.chosen, str) and isinstance(row.rejected, str):
        pair = AnswerPair(
            paths=_TRL_PATHS,
            question=row.prompt,
            chosen=row.chosen,
            rejected=row.rejected,
            scores=scores,
            record_id=record_id,
        )
        return _build(row, pair, place, policy)
    if isinstance(row.prompt, str) or isinstance(row.chosen, str) or isinstance(row.rejected, str):
        raise RowError("FT-PREF-001", "$.prompt", "prompt, chosen and rejected must all be texts, or all messages")
    better = read_dialogue([*(row.prompt or []), *row.chosen], "$.chosen")
    worse = read_dialogue([*(row.prompt or []), *row.rejected], "$.rejected")
    if (better.system, better.history, better.question) != (worse.system, worse.history, worse.question):
        raise RowError("FT-PREF-001", "$.rejected", "chosen and rejected answer different conversations")
    pair = AnswerPair(
        paths=_TRL_PATHS,
        question=better.question,
        chosen=better.answer,
        rejected=worse.answer,
        scores=scores,
        system=better.system,
        history=better.history,
        record_id=record_id,
    )
    return _build(row, pair, place, policy)


def _from_ddr(row: DdrRow, raw: _RawDdr | None, place: Place, policy: ReadPolicy) -> PreferenceRecord:
    pair = AnswerPair(
        paths=("$.query", "$.chosen.text", "$.rejected.text"),
        question=row.query,
        chosen=row.chosen.text,
        rejected=row.rejected.text,
        scores=_ddr_scores(row.chosen, row.rejected, raw),
        context=row.retrieval_result,
        # DDR's own numeric `id` is a line number: two files use the same ones for different questions.
        record_id=stated_id(row.id, place) if isinstance(row.id, str) else "",
        group=content_id("chunk", row.chunk.strip()) if row.chunk and row.chunk.strip() else "",
    )
    return _build(row, pair, place, policy)


def _from_rag_ddr(row: RagDdrRow, raw: _RawDdr | None, place: Place, policy: ReadPolicy) -> PreferenceRecord:
    better, worse = row.chosen, row.rejected
    if isinstance(better, str) or isinstance(worse, str):
        if (better, worse) in (("YES", "NO"), ("NO", "YES")):
            raise RowError("FT-PREF-009", "$.chosen", f"found {better} on a passage, expected an answer")
        path = "$.chosen" if isinstance(better, str) else "$.rejected"
        raise RowError("FT-PREF-001", path, "found text, expected an object")
    pair = AnswerPair(
        paths=("$.question", "$.chosen.text", "$.rejected.text"),
        question=row.question,
        chosen=better.text,
        rejected=worse.text,
        scores=_ddr_scores(better, worse, raw),
        context=[passage.segment for passage in (row.rerank_passage or row.passage)[:AUGMENTED]],
        record_id=stated_id(row.id, place) if isinstance(row.id, str) else "",
    )
    return _build(row, pair, place, policy)


def _ddr_scores(better: DdrAnswer, worse: DdrAnswer, raw: _RawDdr | None) -> tuple[float | None, float | None]:
    """Return the scores of the first metric that both candidates have; RowError when they have none in common."""
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
    """Return the field of the first metric that candidates of these shapes have in common; empty without one."""
    left, right = (
        {field.encode_name: field.name for field in msgspec.structs.fields(kind)} for kind in (chosen, rejected)
    )
    return next((left[key] for key in _metrics(left) if left[key] == right.get(key)), "")


def _metrics(candidate: Mapping[str, object]) -> list[str]:
    """Return the keys of a candidate's scores, sorted."""
    keys = [key for key in candidate if key.endswith("score") and candidate[key] is not None]
    return sorted(key for key in keys if key == "score" or key.endswith("_score")) if keys else keys


def _score(raw: _RawDdr, name: str, metrics: list[str]) -> float | None:
    if not metrics:
        return None
    score = raw[name][metrics[0]]
    if isinstance(score, bool) or not isinstance(score, int | float):
        raise RowError("FT-PREF-001", f"$.{name}.{metrics[0]}", f"found {score!r}, expected a number")
    return float(score)


def _keys(record: PreferenceRecord) -> Keys:
    question = comparison_key(record.question)
    chosen, rejected = comparison_key(record.chosen), comparison_key(record.rejected)
    around = (*record.context, record.system, *history_texts(record.history))
    # Different chosen texts are normal; the same two texts preferred both ways are not.
    pair = (chosen, rejected) if chosen < rejected else (rejected, chosen)
    return Keys(
        record.record_id,
        "$.record_id",
        0,
        hash((question, around, pair)),
        hash(chosen),
        record.question,
        record.chosen,
        record.rejected,
    )


def _to_instruction(record: PreferenceRecord) -> InstructionRecord:
    """Return the question with its chosen answer."""
    return InstructionRecord(
        record_id=record.record_id,
        question=record.question,
        context=record.context,
        system=record.system,
        history=list(record.history),
        reasoning="",
        answer=record.chosen,
        difficulty=None,
        language=record.language,
        evidence=record.evidence,
        group=record.group,
        source=record.source,
        line_no=record.line_no,
    )


PREFERENCE = Format(
    name="preference",
    record=PreferenceRecord,
    wrong_type="FT-PREF-001",
    keys=_keys,
    migrations=(add_history,),
    bridges={"instruction": _to_instruction},
    trained=True,
    dialects=(
        Dialect(
            name="ddr",
            marks=("query", "retrieval_result", "chosen", "rejected"),
            also_has=DDR_KEYS,
            row=DdrRow,
            convert=_from_ddr,
        ),
        Dialect(
            name="rag-ddr",
            marks=("question", "chosen", "rejected", "data_type"),
            extra_marks=("passage", "rerank_passage"),
            also_has=DDR_KEYS,
            row=RagDdrRow,
            convert=_from_rag_ddr,
        ),
        Dialect(
            name="trl",
            marks=("chosen", "rejected"),
            extra_marks=("prompt",),
            row=TrlRow,
            convert=_from_trl,
        ),
        Dialect(
            name="preference",
            marks=("question", "chosen", "rejected"),
            extra_marks=("chosen_score", "context"),
            row=PreferenceRow,
            convert=_from_canonical,
            canonical=True,
        ),
    ),
)
