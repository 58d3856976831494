"""Format `qa`: a question and its answer made from a knowledge base, for SFT with and without references (KBAlign).

Dialects: KBAlign's file of questions a chunk, its flat and merged forms, the form of BMTrain (`data: [user,
assistant]`), verification records in any of these containers, SQuAD's documents (CMRC 2018, DRCD) and its rows on the
hub, UltraRAG's questions with golden answers, RAGEval's samples, and the canonical form. Where KBAlign wrote a whole
prompt, question and references are taken out of it again, so that one template, ours, is trained on.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, Literal, cast

import msgspec

from expectations.formats.build import (
    PathText,
    choose_language,
    content_id,
    numbered,
    refuse,
    refuse_label,
    refuse_residue,
    refuse_special_tokens,
    simplified,
    stated_id,
    tidy,
    tidy_required,
)
from expectations.formats.dialect import (
    Dialect,
    Extras,
    Format,
    Keys,
    Place,
    ReadPolicy,
    Record,
    RowError,
    convert_row,
)
from expectations.formats.instruction import InstructionRecord, Message, read_dialogue
from expectations.formats.kbalign import Dependency, parse_prompt, parse_verification, split_references
from expectations.formats.keys import question_key
from expectations.formats.pairs import RetrievalPairRecord, pair_of
from expectations.text.cleaning import comparison_key_of_clean as comparison_key
from expectations.text.cleaning import find_lost_number

StudentVerdict = Literal["correct", "wrong"]
_VERDICT = re.compile(
    r"The student response is (?P<verdict>correct|wrong)\b[\s,.:]*(?:because\b)?[\s,:]*(?P<explanation>.*)",
    re.DOTALL | re.IGNORECASE,
)


class QaRecord(Record, frozen=True, kw_only=True, gc=False):
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
    verdict: StudentVerdict | None
    explanation: str | None
    """Why the verdict is so."""
    dependency: Dependency | None
    evidence: list[str]
    """Ids of the passages or documents that hold the answer."""
    group: str
    """Rows of one group (questions on one text) never fall into different splits; empty when alone."""
    language: str
    source: str
    line_no: int


class QaRow(Extras, kw_only=True):
    question: str
    answer: str
    references: list[str] | None = None
    record_id: str | None = None
    golden_reference: str | None = None
    student_answer: str | None = None
    verdict: StudentVerdict | None = None
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


SQUAD_KEYS = ("version", "title", "id", "answer_start", "is_impossible", "plausible_answers")
"""Keys of SQuAD's files that only describe a text or an answer."""


class SquadFile(msgspec.Struct, kw_only=True):
    data: list[SquadDocument]


class HubAnswers(msgspec.Struct, kw_only=True):
    """The answers of a row on the hub: other cuts of the same text, without any where the context does not answer."""

    text: list[str]
    answer_start: list[int] | None = None


class HubSquadRow(Extras, kw_only=True):
    question: str
    context: str
    answers: HubAnswers
    title: str | None = None


class GoldenRow(Extras, kw_only=True):
    question: str
    golden_answers: list[str] | str


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


class Answered(msgspec.Struct, kw_only=True, gc=False):
    """A question, its answer and what belongs to them as a dialect gives them, not yet cleaned."""

    paths: tuple[str, str]
    """JSON paths of the question and of the answer."""
    question: str
    answer: str
    references: Sequence[str] = ()
    references_path: str = ""
    """The list of references; empty when they were part of the question's text."""
    golden_reference: str | None = None
    student_answer: str | None = None
    verdict: StudentVerdict | None = None
    explanation: str | None = None
    dependency: Dependency | None = None
    record_id: str = ""
    evidence: Sequence[str] = ()


def _build(row: Extras, given: Answered, place: Place, policy: ReadPolicy) -> QaRecord:
    """Return the record of a question and its answer; RowError when it breaks a rule, the same in every dialect."""
    asked_at, answered_at = given.paths
    question = tidy_required("FT-QA-002", given.question, asked_at, place)
    answer = tidy_required("FT-QA-003", given.answer, answered_at, place)
    if lost := find_lost_number(answer):
        refuse("FT-QA-004", answered_at, f"the answer begins with {lost!r}: the text before it is missing", place)
    refuse_label(asked_at, question, place)
    refuse_label(answered_at, answer, place)
    references_at = given.references_path or asked_at
    references = [text for text in (tidy(text, references_at, place) for text in given.references) if text]
    golden = tidy(given.golden_reference, "$.golden_reference", place)
    student, explanation = tidy(given.student_answer, asked_at, place), tidy(given.explanation, answered_at, place)
    if not place.plain:
        texts = [(asked_at, f"{question}\n{student}"), (answered_at, f"{answer}\n{explanation}")]
        refuse_special_tokens("FT-QA-006", texts)
        refuse_residue([(asked_at, question), (answered_at, answer)], place)
        _refuse_markup_in_references(given, references, place)
    verdict = given.verdict
    record_id = given.record_id or content_id(
        "qa", question, references, golden, answer, student, verdict or "", explanation
    )
    group = tidy(row.group, "$.group", place) or (content_id("chunk", golden) if golden else "")
    if policy.traditional != "keep":
        question, answer, golden, student, explanation = (
            simplified(text, policy) for text in (question, answer, golden, student, explanation)
        )
        references = simplified(references, policy)
    return QaRecord(
        record_id=record_id,
        question=question,
        answer=answer,
        references=references,
        golden_reference=golden or None,
        student_answer=student or None,
        verdict=verdict,
        explanation=explanation or None,
        dependency=given.dependency,
        evidence=list(row.evidence or given.evidence),
        group=group,
        language=choose_language(row.language, question),
        source=place.source,
        line_no=place.line,
    )


def _refuse_markup_in_references(given: Answered, references: Sequence[str], place: Place) -> None:
    """Refuse a reference with a special token or the residue of a template (RowError)."""
    texts: list[PathText] = (
        numbered(given.references_path, references)
        if given.references_path
        else [(given.paths[0], text) for text in references]
    )
    for text in texts:
        refuse_special_tokens("FT-QA-006", [text])
        refuse_residue([text], place, may_repeat=False)


def _build_exchange(
    row: BmRow | FlatRow | MergedRow,
    exchange: tuple[str, str],
    paths: tuple[str, str],
    place: Place,
    policy: ReadPolicy,
) -> QaRecord:
    """Return the record of a prompt and its answer: a question, or the verification of a student's answer."""
    user, assistant = tidy(exchange[0], paths[0], place), exchange[1]
    verification = parse_verification(user)
    if verification is None:
        prompt = parse_prompt(user)
        given = Answered(
            paths=paths,
            question=prompt.question,
            answer=assistant,
            references=prompt.references,
            golden_reference=row.golden_reference,
            dependency=prompt.dependency,
        )
        return _build(row, given, place, policy)
    verdict = _VERDICT.match(tidy(assistant, paths[1], place))
    if verdict is None:
        raise RowError("FT-QA-007", paths[1], f"found {assistant.strip()[:60]!r}, no verdict")
    given = Answered(
        paths=paths,
        question=verification.question,
        answer=verification.answer,
        references=verification.references,
        golden_reference=row.golden_reference,
        student_answer=verification.student,
        verdict=cast(StudentVerdict, verdict["verdict"].lower()),
        explanation=verdict["explanation"],
    )
    return _build(row, given, place, policy)


def _from_canonical(row: QaRow, _raw: object, place: Place, policy: ReadPolicy) -> QaRecord:
    given = Answered(
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
    return _build(row, given, place, policy)


def _from_flat(row: FlatRow, _raw: object, place: Place, policy: ReadPolicy) -> QaRecord:
    return _from_messages(row, row.data.messages, "$.data.messages", place, policy)


def _from_merged(row: MergedRow, _raw: object, place: Place, policy: ReadPolicy) -> QaRecord:
    return _from_messages(row, row.messages, "$.messages", place, policy)


def _from_messages(
    row: FlatRow | MergedRow, messages: Sequence[Message], path: str, place: Place, policy: ReadPolicy
) -> QaRecord:
    dialogue = read_dialogue(messages, path, "FT-QA-001")
    if dialogue.system or dialogue.history:
        raise RowError("FT-INST-008", path, f"found {len(messages)} messages, expected one user and one assistant")
    question, answer = dialogue.question, dialogue.answer
    return _build_exchange(row, (question.text, answer.text), (question.path, answer.path), place, policy)


def _from_bm(row: BmRow, _raw: object, place: Place, policy: ReadPolicy) -> QaRecord:
    return _build_exchange(row, row.data, ("$.data[0]", "$.data[1]"), place, policy)


def _from_hub_squad(row: HubSquadRow, _raw: object, place: Place, policy: ReadPolicy) -> QaRecord:
    answered = bool(row.answers.text)
    given = Answered(
        paths=("$.question", "$.answers.text[0]" if answered else "$.answers.text"),
        question=row.question,
        answer=row.answers.text[0] if answered else "",
        references=[row.context],
        golden_reference=row.context,
        dependency="short",
        record_id=stated_id(row.id, place),
    )
    return _build(row, given, place, policy)


def _from_golden(row: GoldenRow, _raw: object, place: Place, policy: ReadPolicy) -> QaRecord:
    answers = [row.golden_answers] if isinstance(row.golden_answers, str) else row.golden_answers
    given = Answered(
        paths=("$.question", "$.golden_answers[0]" if answers else "$.golden_answers"),
        question=row.question,
        answer=answers[0] if answers else "",
        record_id=stated_id(row.id, place),
    )
    return _build(row, given, place, policy)


def _holds_answers(value: Any) -> bool:
    """True if `answers` is an object with texts, as `datasets` writes SQuAD's answers."""
    answers = cast("dict[str, Any]", value).get("answers") if isinstance(value, dict) else None
    return isinstance(answers, dict) and "text" in answers


def _from_rageval(row: RagEvalRow, _raw: object, place: Place, policy: ReadPolicy) -> QaRecord:
    given = Answered(
        paths=("$.query.content", "$.ground_truth.content"),
        question=row.query.content,
        answer=row.ground_truth.content,
        references=row.ground_truth.references or (),
        references_path="$.ground_truth.references",
        record_id=stated_id(row.query.query_id, place, "$.query.query_id"),
        evidence=[str(name) for name in row.ground_truth.doc_ids or ()],
    )
    return _build(row, given, place, policy)


class Part(Extras, kw_only=True):
    """One question of a row that holds several."""

    question: str
    answer: str
    references: list[str]
    golden_reference: str
    dependency: Dependency | None
    paths: tuple[str, str]


def _from_part(row: Part, _raw: object, place: Place, policy: ReadPolicy) -> QaRecord:
    given = Answered(
        paths=row.paths,
        question=row.question,
        answer=row.answer,
        references=row.references,
        golden_reference=row.golden_reference,
        dependency=row.dependency,
        record_id=stated_id(row.id, place),
    )
    return _build(row, given, place, policy)


def _chunk_parts(value: Any) -> Iterator[tuple[str, Part]]:
    """Yield the questions of a chunk, each with the answer and the reference of the same number."""
    row = convert_row(value, ChunkRow, "FT-QA-001")
    counts = {"questions": len(row.questions), "answers": len(row.answers)}
    if row.references:
        counts["references"] = len(row.references)
    if len(set(counts.values())) > 1:
        reason = ", ".join(f"{count} {name}" for name, count in counts.items())
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


def _squad_parts(value: Any) -> Iterator[tuple[str, Part]]:
    """Yield every question of a file in SQuAD's form."""
    for n, document in enumerate(convert_row(value, SquadFile, "FT-QA-001").data):
        yield from _paragraph_parts(document, f"$.data[{n}]")


def _squad_document_parts(value: Any) -> Iterator[tuple[str, Part]]:
    """Yield every question of one document."""
    yield from _paragraph_parts(convert_row(value, SquadDocument, "FT-QA-001"), "$")


def _paragraph_parts(document: SquadDocument, path: str) -> Iterator[tuple[str, Part]]:
    """Yield the questions on each paragraph, each with its first answer; the others are other cuts of the same text."""
    for n, paragraph in enumerate(document.paragraphs):
        for m, question in enumerate(paragraph.qas):
            within = f"{path}.paragraphs[{n}].qas[{m}]"
            part = Part(
                id=question.id,
                question=question.question,
                answer=question.answers[0].text if question.answers else "",
                references=[paragraph.context],  # what the answer is read from, in training too
                golden_reference=paragraph.context,
                dependency="short",
                paths=("$.question", "$.answers[0].text" if question.answers else "$.answers"),
            )
            yield within, part


def _holds_objects(value: Any) -> bool:
    """True if question and truth are objects: DDR's rows have the same two keys, with texts."""
    return isinstance(value, dict) and all(
        isinstance(cast("dict[str, Any]", value).get(key), dict) for key in ("query", "ground_truth")
    )


def _keys(record: QaRecord) -> Keys:
    given = (*record.references, record.golden_reference or "", record.student_answer or "")
    answer = hash(comparison_key(record.answer))
    explanation = comparison_key(record.explanation or "")
    return Keys(
        record.record_id,
        "$.record_id",
        hash(("qa", comparison_key(record.question), answer, given, record.verdict, explanation)),
        question_key(record.question, given),
        answer,
        record.question,
        record.answer,
    )


def _to_instruction(record: QaRecord) -> InstructionRecord:
    """Return the question with its references; the golden one is not given. A verification keeps the right answer."""
    return InstructionRecord(
        record_id=record.record_id,
        question=record.question,
        context=record.references,
        system="",
        history=[],
        reasoning="",
        answer=record.answer,
        difficulty=None,
        language=record.language,
        evidence=record.evidence,
        group=record.group,
        source=record.source,
        line_no=record.line_no,
    )


def _to_pair(record: QaRecord) -> RetrievalPairRecord:
    """Return the question with the text that it was made from; without one, with its only reference."""
    return pair_of(record, [record.golden_reference] if record.golden_reference else record.references)


QA = Format(
    name="qa",
    record=QaRecord,
    wrong_type="FT-QA-001",
    keys=_keys,
    bridges={"instruction": _to_instruction, "retrieval_pair": _to_pair},
    dialects=(
        Dialect(
            name="kbalign-chunks",
            marks=("content", "questions", "answers"),
            row=Part,
            convert=_from_part,
            parts=_chunk_parts,
            outer=ChunkRow,
        ),
        Dialect(
            name="kbalign-flat",
            marks=("index", "data", "golden_reference"),
            row=FlatRow,
            convert=_from_flat,
        ),
        Dialect(
            name="kbalign-merged",
            marks=("messages", "golden_reference"),
            extra_marks=("golden_reference",),
            row=MergedRow,
            convert=_from_merged,
        ),
        Dialect(
            name="kbalign-bm",
            marks=("id", "data"),
            row=BmRow,
            convert=_from_bm,
        ),
        Dialect(
            name="squad",
            marks=("version", "data"),
            row=Part,
            convert=_from_part,
            parts=_squad_parts,
            outer=SquadFile,
            also_has=SQUAD_KEYS,
        ),
        Dialect(
            name="squad-document",
            marks=("paragraphs",),
            row=Part,
            convert=_from_part,
            parts=_squad_document_parts,
            outer=SquadDocument,
            also_has=SQUAD_KEYS,
        ),
        Dialect(
            name="squad-hub",
            marks=("question", "context", "answers"),
            extra_marks=("id", "title"),
            suits=_holds_answers,
            row=HubSquadRow,
            convert=_from_hub_squad,
        ),
        Dialect(
            name="golden-answers",
            marks=("question", "golden_answers"),
            extra_marks=("golden_answers",),
            row=GoldenRow,
            convert=_from_golden,
        ),
        Dialect(
            name="rageval",
            marks=("query", "ground_truth"),
            extra_marks=("domain", "prediction"),
            suits=_holds_objects,
            row=RagEvalRow,
            convert=_from_rageval,
        ),
        Dialect(
            name="qa",
            marks=("question", "answer", "references"),
            extra_marks=("golden_reference", "student_answer", "verdict", "explanation", "dependency"),
            row=QaRow,
            convert=_from_canonical,
            canonical=True,
        ),
    ),
)
