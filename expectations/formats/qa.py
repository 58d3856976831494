"""Format `qa`: a question and its answer made from a knowledge base, for SFT with and without references (KBAlign).

Dialects: KBAlign's file of questions a chunk, its flat and merged forms, the form of BMTrain (`data: [user,
assistant]`), verification records in any of these containers, SQuAD's documents (CMRC 2018, DRCD), RAGEval's samples,
and the canonical form. Where KBAlign wrote a whole prompt, question and references are taken out of it again, so
that one template, ours, is trained on.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, Literal, TypeVar, cast

import msgspec

from expectations.formats.dialect import (
    Dialect,
    Extras,
    Place,
    Policy,
    RowError,
    choose_language,
    content_id,
    explain,
    refuse_empty,
    refuse_label,
    refuse_residue,
    refuse_special_tokens,
    simplified,
    stated_id,
    tidy,
)
from expectations.formats.instruction import Message, take_apart
from expectations.formats.versions import VERSIONS
from expectations.text.cleaning import find_lost_number

FORMAT = "qa"
VERSION = VERSIONS[FORMAT]

_T = TypeVar("_T")
Verdict = Literal["correct", "wrong"]
Dependency = Literal["short", "long"]


class QaRecord(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One question and answer, with what it was made from."""

    record_id: str
    question: str
    answer: str
    references: list[str]
    """Texts given along with the question."""
    golden_reference: str | None
    """The text the question was made from: not given to the model."""
    student_answer: str | None
    """In a verification: what a model answered, to be compared with `answer`."""
    verdict: Verdict | None
    explanation: str | None
    """Why the verdict is so."""
    dependency: Dependency | None
    """Whether one chunk holds the answer, or several together."""
    evidence: list[str]
    """Ids of the passages or documents that hold the answer."""
    group: str
    """Rows of one group (questions on one text) never fall into different splits; empty when alone."""
    language: str
    source: str
    line_no: int


class CanonicalRow(Extras, kw_only=True):
    question: str
    answer: str
    references: list[str] | None = None
    record_id: str | None = None
    golden_reference: str | None = None
    student_answer: str | None = None
    verdict: Verdict | None = None
    explanation: str | None = None
    dependency: Dependency | None = None


class ChunkRow(msgspec.Struct, kw_only=True):
    """KBAlign's file of questions: one chunk of the knowledge base a row."""

    content: str
    questions: list[str]
    answers: list[str]
    references: list[str | list[str]] | None = None
    id: str | int | None = None


class Conversation(msgspec.Struct, kw_only=True):
    messages: list[Message]


class FlatRow(Extras, kw_only=True):
    data: Conversation
    golden_reference: str | None = None


class MergedRow(Extras, kw_only=True):
    messages: list[Message]
    golden_reference: str | None = None


class BmRow(Extras, kw_only=True):
    data: tuple[str, str]
    golden_reference: str | None = None


class Span(msgspec.Struct, kw_only=True):
    text: str


class SquadQuestion(msgspec.Struct, kw_only=True):
    question: str
    answers: list[Span]
    id: str | int | None = None


class SquadParagraph(msgspec.Struct, kw_only=True):
    context: str
    qas: list[SquadQuestion]


class SquadDocument(msgspec.Struct, kw_only=True):
    paragraphs: list[SquadParagraph]


class SquadFile(msgspec.Struct, kw_only=True):
    data: list[SquadDocument]


class RagEvalQuery(msgspec.Struct, kw_only=True):
    content: str
    query_id: str | int | None = None


class RagEvalTruth(msgspec.Struct, kw_only=True):
    content: str
    doc_ids: list[str | int] | None = None
    references: list[str] | None = None


class RagEvalRow(Extras, kw_only=True):
    query: RagEvalQuery
    ground_truth: RagEvalTruth


class Prompt(msgspec.Struct, frozen=True):
    """What a prompt of KBAlign was made of."""

    question: str
    references: list[str]
    dependency: Dependency | None


# Every pattern looks at a place once: prompts may be as long as a row may be.
_USER = re.compile(r"(?:User|用户)[:：]")
_ASSISTANT = re.compile(r"(?:Assistant|助手)[:：]$")
_KB_TAG = re.compile(r"<KB\d{1,9}>")
_LEAD_IN = re.compile(r"Now the question is ?[:：]|现在的?问题是 ?[:：]")
_REQUEST = re.compile(
    r"(?:Please answer this question\.|Please provide a detailed answer to the question\."
    r"|请你回答这个问题。|请直接回答，不要有多余的内容。)$"
)
_REFERENCES = re.compile(r"(?:References|参考内容)[:：]")
_ITEM = re.compile(r"^[ \t]*(?P<number>\d{1,3})\.\s", re.MULTILINE)
_LONG = re.compile(r"who has read|现在的问题是")
_SHORT = re.compile(r"who have read|现在问题是")
_MATERIAL = re.compile(r"^[ \t]*(?P<label>Reference|Question|Golden Answer|Student Response):", re.MULTILINE)
_VERIFY = re.compile(r"^[ \t]*Please generate your verification\b", re.MULTILINE)
_VERDICT = re.compile(
    r"The student response is (?P<verdict>correct|wrong)\b[\s,.:]*(?:because\b)?[\s,:]*(?P<explanation>.*)",
    re.DOTALL | re.IGNORECASE,
)


def take_out(user: str) -> Prompt:
    """Question and references of a cleaned prompt of KBAlign; the whole text is the question when it is no such one."""
    text = _without_roles(user)
    leads = list(_LEAD_IN.finditer(text))
    if not leads:
        return Prompt(_KB_TAG.sub("", text).strip(), [], None)
    lead = leads[-1]  # a reference may quote one before
    question = text[lead.end() :]
    if request := _REQUEST.search(question):
        question = question[: request.start()]
    before = text[: lead.start()]
    given = _REFERENCES.search(before)
    dependency: Dependency | None = "long" if _LONG.search(text) else "short" if _SHORT.search(text) else None
    return Prompt(question.strip(), split_references(before[given.end() :]) if given else [], dependency)


def _without_roles(prompt: str) -> str:
    """A prompt without the labels of the speakers around it."""
    text = prompt.strip()
    if user := _USER.match(text):
        text = text[user.end() :]
    return _ASSISTANT.sub("", text).strip()


class Trial(msgspec.Struct, frozen=True):
    """What a verification is about."""

    references: list[str]
    question: str
    answer: str
    student: str


def take_trial(user: str) -> Trial | None:
    """The materials of a prompt that asks for a verification; None when it asks for none.

    The references may hold such labels too: question and answer are the last ones before the student's response.
    """
    text = _without_roles(user)
    labels = list(_MATERIAL.finditer(text))
    places = {label["label"]: label for label in reversed(labels)}
    reference, student = places.get("Reference"), places.get("Student Response")
    if not reference or not student:
        return None
    before = {label["label"]: label for label in labels if reference.end() <= label.start() < student.start()}
    question, answer = before.get("Question"), before.get("Golden Answer")
    if not question or not answer or question.start() > answer.start():
        return None
    end = _VERIFY.search(text, student.end())
    return Trial(
        references=split_references(text[reference.end() : question.start()]),
        question=text[question.end() : answer.start()].strip(),
        answer=text[answer.end() : student.start()].strip(),
        student=text[student.end() : end.start() if end else len(text)].strip(),
    )


def split_references(text: str) -> list[str]:
    """The texts of a numbered list, `1. …\\n2. …`; numbers out of turn belong to the text they stand in."""
    starts: list[re.Match[str]] = []
    for item in _ITEM.finditer(text):
        if int(item["number"]) == len(starts) + 1:
            starts.append(item)
    if not starts:
        return [text.strip()] if text.strip() else []
    ends = [*(start.start() for start in starts[1:]), len(text)]
    parts = [text[start.end() : end].strip() for start, end in zip(starts, ends, strict=True)]
    return [part for part in parts if part]


def _build(
    row: Extras,
    place: Place,
    policy: Policy,
    *,
    paths: tuple[str, str],
    question: str,
    answer: str,
    references: Sequence[str] = (),
    references_path: str = "",
    golden_reference: str | None = None,
    student_answer: str | None = None,
    verdict: Verdict | None = None,
    explanation: str | None = None,
    dependency: Dependency | None = None,
    record_id: str = "",
    evidence: Sequence[str] | None = None,
) -> QaRecord:
    """The rules that hold for every dialect; `paths` are the JSON paths of the question and the answer."""
    asked = tidy(question, paths[0], place)
    refuse_empty("FT-QA-002", paths[0], asked)
    answered = tidy(answer, paths[1], place)
    refuse_empty("FT-QA-003", paths[1], answered)
    if lost := find_lost_number(answered):
        raise RowError("FT-QA-004", paths[1], f"the answer begins with {lost!r}: what stood before it is gone")
    refuse_label(paths[0], asked)
    refuse_label(paths[1], answered)
    shown = references_path or paths[0]
    given = [text for text in (tidy(text, shown, place) for text in references) if text]
    golden = tidy(golden_reference, "$.golden_reference", place)
    student, why = tidy(student_answer, paths[0], place), tidy(explanation, paths[1], place)
    if not place.plain:
        question_field, answer_field, references_field = paths[0][2:], paths[1][2:], shown[2:]
        for field, text in ((question_field, f"{asked}\n{student}"), (answer_field, f"{answered}\n{why}")):
            refuse_special_tokens("FT-QA-006", place, **{field: text})
        refuse_residue(place, **{question_field: asked})
        refuse_residue(place, **{answer_field: answered})
        for n, text in enumerate(given):
            field = f"{references_field}[{n}]" if references_path else references_field
            refuse_special_tokens("FT-QA-006", place, **{field: text})
            refuse_residue(place, **{field: text})
    name = record_id or content_id(FORMAT, asked, given, golden, answered, student, verdict or "", why)
    group = tidy(row.group, "$.group", place) or (content_id("chunk", golden) if golden else "")
    if policy.traditional != "keep":
        asked, answered, golden, student, why = (
            simplified(text, policy) for text in (asked, answered, golden, student, why)
        )
        given = [simplified(text, policy) for text in given]
    return QaRecord(
        record_id=name,
        question=asked,
        answer=answered,
        references=given,
        golden_reference=golden or None,
        student_answer=student or None,
        verdict=verdict,
        explanation=why or None,
        dependency=dependency,
        evidence=list(row.evidence or evidence or ()),
        group=group,
        language=choose_language(row.language, asked),
        source=place.source,
        line_no=place.line,
    )


def _build_exchange(
    row: BmRow | FlatRow | MergedRow, exchange: tuple[str, str], paths: tuple[str, str], place: Place, policy: Policy
) -> QaRecord:
    """The record of a prompt and its answer: a question, or the verification of a student's answer."""
    asked, assistant, golden = tidy(exchange[0], paths[0], place), exchange[1], row.golden_reference
    trial = take_trial(asked)
    if trial is None:
        prompt = take_out(asked)
        return _build(
            row,
            place,
            policy,
            paths=paths,
            question=prompt.question,
            answer=assistant,
            references=prompt.references,
            golden_reference=golden,
            dependency=prompt.dependency,
        )
    judged = _VERDICT.match(tidy(assistant, paths[1], place))
    if judged is None:
        raise RowError("FT-QA-007", paths[1], f"found {assistant.strip()[:60]!r}, no verdict")
    return _build(
        row,
        place,
        policy,
        paths=paths,
        question=trial.question,
        answer=trial.answer,
        references=trial.references,
        golden_reference=golden,
        student_answer=trial.student,
        verdict=cast(Verdict, judged["verdict"].lower()),
        explanation=judged["explanation"],
    )


def _from_canonical(row: CanonicalRow, _raw: Any, place: Place, policy: Policy) -> QaRecord:
    return _build(
        row,
        place,
        policy,
        paths=("$.question", "$.answer"),
        question=row.question,
        answer=row.answer,
        references=row.references or (),
        references_path="$.references",
        golden_reference=row.golden_reference,
        student_answer=row.student_answer,
        verdict=row.verdict,
        explanation=row.explanation,
        dependency=row.dependency,
        record_id=stated_id(row.record_id or row.id, place),
    )


def _from_flat(row: FlatRow, _raw: Any, place: Place, policy: Policy) -> QaRecord:
    return _from_messages(row, row.data.messages, "$.data.messages", place, policy)


def _from_merged(row: MergedRow, _raw: Any, place: Place, policy: Policy) -> QaRecord:
    return _from_messages(row, row.messages, "$.messages", place, policy)


def _from_messages(
    row: FlatRow | MergedRow, messages: Sequence[Message], path: str, place: Place, policy: Policy
) -> QaRecord:
    dialogue = take_apart(messages, path)
    if dialogue.system or dialogue.history:
        raise RowError("FT-INST-008", path, f"found {len(messages)} messages, expected one user and one assistant")
    return _build_exchange(row, (dialogue.question, dialogue.answer), dialogue.paths, place, policy)


def _from_bm(row: BmRow, _raw: Any, place: Place, policy: Policy) -> QaRecord:
    return _build_exchange(row, row.data, ("$.data[0]", "$.data[1]"), place, policy)


def _from_rageval(row: RagEvalRow, _raw: Any, place: Place, policy: Policy) -> QaRecord:
    return _build(
        row,
        place,
        policy,
        paths=("$.query.content", "$.ground_truth.content"),
        question=row.query.content,
        answer=row.ground_truth.content,
        references=row.ground_truth.references or (),
        references_path="$.ground_truth.references",
        record_id=stated_id(row.query.query_id, place, "$.query.query_id"),
        evidence=[str(name) for name in row.ground_truth.doc_ids or ()],
    )


class Part(Extras, kw_only=True):
    """One question of a row that holds several."""

    question: str
    answer: str
    references: list[str]
    golden_reference: str
    dependency: Dependency | None
    paths: tuple[str, str]


def _from_part(row: Part, _raw: Any, place: Place, policy: Policy) -> QaRecord:
    return _build(
        row,
        place,
        policy,
        paths=row.paths,
        question=row.question,
        answer=row.answer,
        references=row.references,
        golden_reference=row.golden_reference,
        dependency=row.dependency,
        record_id=stated_id(row.id, place),
    )


def _chunk_parts(value: Any) -> Iterator[tuple[str, Any]]:
    """The questions of a chunk, each with the answer and the reference of its number."""
    row = _typed(value, ChunkRow)
    found = {"questions": len(row.questions), "answers": len(row.answers)}
    if row.references:
        found["references"] = len(row.references)
    if len(set(found.values())) > 1:
        reason = ", ".join(f"{count} {name}" for name, count in found.items())
        raise RowError("FT-QA-005", "$.answers", f"found {reason}")
    for n, (question, answer) in enumerate(zip(row.questions, row.answers, strict=True)):
        given = row.references[n] if row.references else []
        yield (
            "$",
            Part(
                question=question,
                answer=answer,
                references=split_references(given) if isinstance(given, str) else given,
                golden_reference=row.content,
                dependency="short",
                paths=(f"$.questions[{n}]", f"$.answers[{n}]"),
            ),
        )


def _squad_parts(value: Any) -> Iterator[tuple[str, Any]]:
    """Every question of a file in SQuAD's form."""
    for n, document in enumerate(_typed(value, SquadFile).data):
        yield from _paragraph_parts(document, f"$.data[{n}]")


def _squad_document_parts(value: Any) -> Iterator[tuple[str, Any]]:
    yield from _paragraph_parts(_typed(value, SquadDocument), "$")


def _paragraph_parts(document: SquadDocument, path: str) -> Iterator[tuple[str, Any]]:
    """The questions on each paragraph, with the first of their answers, which others only cut differently."""
    for n, paragraph in enumerate(document.paragraphs):
        for m, asked in enumerate(paragraph.qas):
            within = f"{path}.paragraphs[{n}].qas[{m}]"
            part = Part(
                id=asked.id,
                question=asked.question,
                answer=asked.answers[0].text if asked.answers else "",
                references=[],
                golden_reference=paragraph.context,
                dependency="short",
                paths=("$.question", "$.answers[0].text" if asked.answers else "$.answers"),
            )
            yield within, part


def _typed(value: Any, row: type[_T]) -> _T:
    try:
        return msgspec.convert(value, row, strict=True)
    except msgspec.ValidationError as error:
        path, reason = explain(str(error))
        raise RowError("FT-QA-001", path, reason) from error


def _holds_objects(value: Any) -> bool:
    """Whether question and truth are objects: DDR's rows have the same two keys, with texts."""
    return isinstance(value, dict) and all(
        isinstance(cast("dict[str, Any]", value).get(key), dict) for key in ("query", "ground_truth")
    )


DIALECTS = (
    Dialect(
        name="kbalign-chunks",
        kind=FORMAT,
        marks=("content", "questions", "answers"),
        row=Part,
        convert=_from_part,
        parts=_chunk_parts,
    ),
    Dialect(
        name="kbalign-flat",
        kind=FORMAT,
        marks=("index", "data", "golden_reference"),
        row=FlatRow,
        convert=_from_flat,
    ),
    Dialect(
        name="kbalign-merged",
        kind=FORMAT,
        marks=("messages", "golden_reference"),
        tells=("golden_reference",),
        row=MergedRow,
        convert=_from_merged,
    ),
    Dialect(
        name="kbalign-bm",
        kind=FORMAT,
        marks=("id", "data"),
        row=BmRow,
        convert=_from_bm,
    ),
    Dialect(
        name="squad",
        kind=FORMAT,
        marks=("version", "data"),
        row=Part,
        convert=_from_part,
        parts=_squad_parts,
    ),
    Dialect(
        name="squad-document",
        kind=FORMAT,
        marks=("paragraphs",),
        row=Part,
        convert=_from_part,
        parts=_squad_document_parts,
    ),
    Dialect(
        name="rageval",
        kind=FORMAT,
        marks=("query", "ground_truth"),
        tells=("domain", "prediction"),
        suits=_holds_objects,
        row=RagEvalRow,
        convert=_from_rageval,
    ),
    Dialect(
        name="qa",
        kind=FORMAT,
        marks=("question", "answer", "references"),
        tells=("golden_reference", "student_answer", "verdict", "explanation", "dependency"),
        row=CanonicalRow,
        convert=_from_canonical,
        canonical=True,
    ),
)
