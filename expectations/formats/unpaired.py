"""Format `unpaired_preference`: a question with one answer and the verdict on it, for KTO.

Dialects: every form in which an instruction row is written (prompt and completion as TRL writes them, Alpaca, messages,
ShareGPT, query and response …) with a verdict next to the answer, and the canonical form.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import msgspec

from expectations.formats.build import content_id
from expectations.formats.dialect import (
    DEFAULT_POLICY,
    Dialect,
    Format,
    Keys,
    Place,
    ReadPolicy,
    Record,
    RowError,
    Turn,
)
from expectations.formats.instruction import INSTRUCTION, InstructionRecord
from expectations.formats.keys import history_texts
from expectations.text.cleaning import comparison_key_of_clean as comparison_key

VERDICT_KEYS = ("desirable", "label", "kto_tag", "desired")
"""The names of the verdict: ours, TRL's and ms-swift's, LLaMA-Factory's, and one more."""
_SURE_KEYS = ("desirable", "kto_tag", "desired")  # a `label` may be that of anything
_NOT_UNPAIRED = ("ragas", "ragas-2")  # samples of an evaluation


class UnpairedPreferenceRecord(Record, frozen=True, kw_only=True, gc=False):
    """One answer to one question and whether it is a good one, as it is trained on."""

    record_id: str
    question: str
    context: list[str]
    """Retrieved passages that the answer was given with."""
    system: str
    history: list[Turn]
    """Earlier turns of the dialogue, oldest first."""
    answer: str
    """The answer, after its reasoning in <think> tags where it has some."""
    desirable: bool
    """True for an answer to make more likely, false for one to make less likely."""
    evidence: list[str]
    """Ids of the passages or documents that hold the answer."""
    group: str
    """Rows of one group (answers to one question) never fall into different splits; empty when alone."""
    language: str
    source: str
    line_no: int


def read_verdict(value: object) -> bool | None:
    """Return the verdict that a value states: true or false, 1 or 0, also as text in any case; None for another one."""
    if isinstance(value, bool):
        return value
    if type(value) in (int, float) and value in (0, 1):
        return value == 1
    return {"true": True, "false": False}.get(value.strip().lower()) if isinstance(value, str) else None


def _has_verdict(value: Any) -> bool:
    """True if a row has a verdict on its answer: a value under a name that means nothing else, or a `label` of two."""
    row = cast("dict[str, object]", value) if isinstance(value, dict) else {}
    return any(row.get(key) is not None for key in _SURE_KEYS) or read_verdict(row.get("label")) is not None


def _find_verdict(row: object) -> bool:
    """Return the verdict of a typed row. RowError: FT-KTO-002 for none or another value, FT-KEY-010 for two."""
    found: dict[str, bool] = {}
    for key in VERDICT_KEYS:
        given: object = getattr(row, key)
        if given is None:
            continue
        verdict = read_verdict(given)
        if verdict is None:
            raise RowError("FT-KTO-002", f"$.{key}", f"found {str(given)[:40]!r}, expected true or false")
        found[key] = verdict
    if not found:
        raise RowError("FT-KTO-002", "$", f"none of {', '.join(f'`{key}`' for key in VERDICT_KEYS)} has a value")
    first, *others = found
    for key in others:
        if found[key] != found[first]:
            raise RowError("FT-KEY-010", f"$.{key}", f"`{first}` and `{key}` state different verdicts")
    return found[first]


def _converter(of: Dialect[Any]) -> Callable[[Any, Any, Place, ReadPolicy], UnpairedPreferenceRecord]:
    """Return the function that makes a record of a row whose question and answer are written as in this dialect."""

    def convert(row: Any, raw: Any, place: Place, policy: ReadPolicy) -> UnpairedPreferenceRecord:
        desirable = _find_verdict(row)
        kept = msgspec.structs.replace(policy, thinking=DEFAULT_POLICY.thinking)
        try:
            answered = cast("InstructionRecord", of.convert(row, raw, place, kept))
        except RowError as error:
            code = "FT-KTO-001" if error.code == INSTRUCTION.wrong_type else error.code
            raise RowError(code, error.path, error.reason) from error
        reasoning = f"<think>\n{answered.reasoning}\n</think>\n\n" if answered.reasoning else ""
        record_id = answered.record_id
        if row.id in (None, "") and getattr(row, "record_id", None) in (None, ""):
            record_id = content_id("unpaired_preference", record_id, str(desirable))
        return UnpairedPreferenceRecord(
            record_id=record_id,
            question=answered.question,
            context=answered.context,
            system=answered.system,
            history=answered.history,
            answer=f"{reasoning}{answered.answer}",
            desirable=desirable,
            evidence=answered.evidence,
            group=answered.group,
            language=answered.language,
            source=answered.source,
            line_no=answered.line_no,
        )

    return convert


def _dialect(of: Dialect[Any], name: str) -> Dialect[Any]:
    """Return a dialect of instruction rows, with a verdict next to the answer."""
    verdict = bool | int | float | str | None
    fields = [(key, verdict, None) for key in VERDICT_KEYS]
    canonical = name == "unpaired_preference"
    return Dialect(
        name=name,
        marks=(*of.marks, VERDICT_KEYS[0] if canonical else "|".join(VERDICT_KEYS[1:])),
        extra_marks=of.extra_marks,
        suits=_has_verdict,
        row=msgspec.defstruct(f"Unpaired{of.row.__name__}", fields, bases=(of.row,), kw_only=True),
        convert=_converter(of),
        canonical=canonical,
    )


def _keys(record: UnpairedPreferenceRecord) -> Keys:
    question, answer = comparison_key(record.question), comparison_key(record.answer)
    around = (*record.context, record.system, *history_texts(record.history))
    words = ("undesirable", "desirable")
    return Keys(
        record.record_id,
        "$.record_id",
        0,
        # Different answers to a question are normal; the same one judged both ways is not.
        hash(("unpaired_preference", question, around, answer)),
        int(record.desirable),
        record.question,
        f"{words[record.desirable]}: {record.answer}",
        f"{words[not record.desirable]}: {record.answer}",
    )


UNPAIRED_PREFERENCE = Format(
    name="unpaired_preference",
    record=UnpairedPreferenceRecord,
    wrong_type="FT-KTO-001",
    keys=_keys,
    trained=True,
    dialects=(
        *(
            _dialect(of, "kto-question-answer" if of.canonical else f"kto-{of.name}")
            for of in INSTRUCTION.dialects
            if of.name not in _NOT_UNPAIRED
        ),
        _dialect(INSTRUCTION.canonical, "unpaired_preference"),
    ),
)
