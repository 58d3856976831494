"""Format `instruction`: a question with its answer, for SFT. Dialects: Alpaca, messages, and the canonical form."""

from __future__ import annotations

import re
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

FORMAT = "instruction"
VERSION = 1


class InstructionRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One question and answer, as it is trained on."""

    record_id: str
    question: str
    context: list[str]
    """Texts given along with the question (Alpaca's `input`, retrieved passages)."""
    system: str
    reasoning: str
    """What the model thinks before it answers, without tags; empty when there is none."""
    answer: str
    difficulty: str | None
    language: str
    evidence: list[str]
    """Ids of the passages or documents that hold the answer."""
    group: str
    """Rows of one group (a dialogue, a source text) never fall into different splits; empty when alone."""
    source: str
    line_no: int


class CanonicalRow(Extras, kw_only=True):
    question: str
    answer: str
    record_id: str | None = None
    context: list[str] | None = None
    system: str | None = None
    reasoning: str | None = None
    difficulty: str | None = None


class AlpacaRow(Extras, kw_only=True):
    instruction: str
    output: str
    input: str | None = None
    system: str | None = None
    difficulty: str | None = None
    history: list[Any] | None = None
    reasoning_content: str | None = None


class Message(msgspec.Struct, kw_only=True):
    role: str
    content: str
    reasoning_content: str | None = None


class MessagesRow(Extras, kw_only=True):
    messages: list[Message]
    difficulty: str | None = None


_OPENED = re.compile(r"\s*<(think|thinking)>(.*?)</\1>", re.DOTALL | re.IGNORECASE)
_CLOSED = re.compile(r"(.*?)</(?:think|thinking)>", re.DOTALL | re.IGNORECASE)
_TAG = re.compile(r"</?(?:think|thinking)>", re.IGNORECASE)


def split_thinking(text: str, reasoning: str, path: str) -> tuple[str, str]:
    """(reasoning, answer) of a cleaned answer. Chat templates may have opened the tag, so a lone closing one counts.

    RowError when tags do not pair, or reasoning comes both in tags and in its own field.
    """
    found = _OPENED.match(text)
    if found:
        inside, answer = found.group(2), text[found.end() :]
    elif (closed := _CLOSED.match(text)) and not _TAG.search(closed.group(1)):
        inside, answer = closed.group(1), text[closed.end() :]
    else:
        inside, answer = "", text
    inside, answer = inside.strip(), answer.strip()
    for part in (reasoning, inside, answer):
        if tag := _TAG.search(part):
            reason = f"{tag.group()} stands inside the text; another question and its answer may have been glued on"
            raise RowError("FT-INST-004", path, reason)
    if inside and reasoning and inside != reasoning:
        raise RowError("FT-INST-004", path, "reasoning comes both in tags and in its own field, and the two differ")
    return reasoning or inside, answer


def _build(
    row: Extras,
    place: Place,
    policy: Policy,
    *,
    paths: tuple[str, str],
    question: str,
    answer: str,
    reasoning: str | None,
    context: list[str],
    system: str | None,
    difficulty: str | None,
    record_id: str | None = None,
) -> InstructionRecord:
    """The rules that hold for every dialect; `paths` are the JSON paths of the question and the answer."""
    asked = tidy(question, paths[0])
    refuse_empty("FT-INST-002", paths[0], asked)
    said = tidy(answer, paths[1])
    try:
        thought, answered = split_thinking(
            said, tidy(reasoning, "$.reasoning_content" if reasoning else paths[1]), paths[1]
        )
    except RowError as error:
        raise RowError(error.code, error.path, error.reason, question=asked, answer=said) from error
    refuse_empty("FT-INST-003", paths[1], answered)
    if policy.thinking == "require" and not thought:
        raise RowError("FT-INST-005", paths[1], "found no reasoning, and the policy is `require`")
    given = [text for text in (tidy(text, "$.context") for text in context) if text]
    instructed = tidy(system, "$.system")
    refuse_special_tokens(
        "FT-INST-006",
        **{
            paths[0][2:]: asked,
            paths[1][2:]: f"{thought}\n{answered}",
            "context": "\n".join(given),
            "system": instructed,
        },
    )
    return InstructionRecord(
        # The id is made before the policy applies: changing the policy moves no row to another split.
        record_id=stated_id(record_id or row.id) or content_id(FORMAT, asked, given, instructed, thought, answered),
        question=asked,
        context=given,
        system=instructed,
        reasoning="" if policy.thinking == "strip" else thought,
        answer=answered,
        difficulty=tidy(difficulty, "$.difficulty") or None,
        language=choose_language(row.language, asked),
        evidence=row.evidence or [],
        group=tidy(row.group, "$.group"),
        source=place.source,
        line_no=place.line,
    )


def _from_canonical(row: CanonicalRow, _raw: Any, place: Place, policy: Policy) -> InstructionRecord:
    return _build(
        row,
        place,
        policy,
        paths=("$.question", "$.answer"),
        question=row.question,
        answer=row.answer,
        reasoning=row.reasoning,
        context=row.context or [],
        system=row.system,
        difficulty=row.difficulty,
        record_id=row.record_id,
    )


def _from_alpaca(row: AlpacaRow, _raw: Any, place: Place, policy: Policy) -> InstructionRecord:
    if row.history:
        raise RowError("FT-INST-007", "$.history", f"found {len(row.history)} earlier turns")
    return _build(
        row,
        place,
        policy,
        paths=("$.instruction", "$.output"),
        question=row.instruction,
        answer=row.output,
        reasoning=row.reasoning_content,
        context=[row.input] if row.input else [],
        system=row.system,
        difficulty=row.difficulty,
    )


def _from_messages(row: MessagesRow, _raw: Any, place: Place, policy: Policy) -> InstructionRecord:
    roles = [message.role for message in row.messages]
    first = int(roles[:1] == ["system"])
    if roles[first:] != ["user", "assistant"]:
        turns = roles.count("assistant")
        if turns > 1:
            raise RowError("FT-INST-007", "$.messages", f"found {turns} answers in one conversation")
        raise RowError("FT-INST-008", "$.messages", f"found the roles {', '.join(roles) or 'none'}")
    question, answer = row.messages[first:]
    return _build(
        row,
        place,
        policy,
        paths=(f"$.messages[{first}].content", f"$.messages[{first + 1}].content"),
        question=question.content,
        answer=answer.content,
        reasoning=answer.reasoning_content,
        context=[],
        system=row.messages[0].content if first else None,
        difficulty=row.difficulty,
    )


DIALECTS = (
    Dialect(
        name="alpaca",
        kind=FORMAT,
        marks=("instruction", "output"),
        row=AlpacaRow,
        convert=_from_alpaca,
        type_code="FT-INST-001",
    ),
    Dialect(
        name="messages",
        kind=FORMAT,
        marks=("messages",),
        row=MessagesRow,
        convert=_from_messages,
        type_code="FT-INST-001",
    ),
    Dialect(
        name="instruction",
        kind=FORMAT,
        marks=("question", "answer"),
        row=CanonicalRow,
        convert=_from_canonical,
        type_code="FT-INST-001",
    ),
)
