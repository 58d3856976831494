"""From one format to another: a preference read as an instruction, question and answer with references as either."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from expectations.formats.dialect import Turn
from expectations.formats.instruction import InstructionRecord
from expectations.formats.preference import PreferenceRecord
from expectations.formats.qa import QaRecord

Bridge = Callable[[Any], Any]


def _preference_to_instruction(record: PreferenceRecord) -> InstructionRecord:
    """The chosen answer is what is trained on."""
    return _instruction(record, record.chosen, record.context, record.system, record.history)


def _qa_to_instruction(record: QaRecord) -> InstructionRecord:
    """The references are given with the question, the golden one is not. Of a verification the right answer stays."""
    return _instruction(record, record.answer, record.references)


def _instruction(
    record: PreferenceRecord | QaRecord, answer: str, context: list[str], system: str = "", history: Sequence[Turn] = ()
) -> InstructionRecord:
    return InstructionRecord(
        record_id=record.record_id,
        question=record.question,
        context=context,
        system=system,
        history=list(history),
        reasoning="",
        answer=answer,
        difficulty=None,
        language=record.language,
        evidence=record.evidence,
        group=record.group,
        source=record.source,
        line_no=record.line_no,
    )


_BRIDGES: dict[tuple[str, str], Bridge] = {
    ("preference", "instruction"): _preference_to_instruction,
    ("qa", "instruction"): _qa_to_instruction,
}
_READ_AS: dict[str, tuple[str, ...]] = {"instruction": ("qa",)}


def sources_of(kind: str) -> tuple[str, ...]:
    """The formats whose files a data set of this kind reads as well."""
    return _READ_AS.get(kind, ())


def find_bridge(kind: str, to: str) -> Bridge | None:
    """How a record of `kind` becomes one of `to`; None where that makes no sense."""
    return _BRIDGES.get((kind, to))
