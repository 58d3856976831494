"""Repetitions and contradictions within a data set, found while its records pass by."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping

import msgspec

from expectations.formats.codes import CODES
from expectations.formats.instruction import InstructionRecord
from expectations.formats.passage import PassageRecord
from expectations.formats.preference import PreferenceRecord
from expectations.formats.retrieval import QrelRecord, QueryRecord
from expectations.reading import Rejected, escape
from expectations.records import Record
from expectations.text import comparison_key, matching_key

_PREVIEW_CHARS = 80


class Conflict(msgspec.Struct, kw_only=True):
    """One question with different answers (FT-DUP-003). None is dropped for that; a person decides."""

    question: str
    lines: list[str]
    """`file:line` of each row that disagrees with one before it, the first one included."""
    answers: list[str]
    """The start of the answer on each of these lines."""


class _Answer(msgspec.Struct, frozen=True):
    place: str
    key: bytes
    preview: str


class Duplicates:
    """Fed record by record; holds 16-byte keys and short previews, never the texts.

    An id used twice (FT-DUP-001), a row that says the same twice (FT-DUP-002) and a query-passage pair judged twice
    with different scores (FT-QREL-004) are rejected, the first one stays. Different answers to one question, or a pair
    preferred both ways, are kept and listed in `conflicts`. Questions match by `matching_key`, rows by the gentler
    `comparison_key` (their contexts as they are): only what says the same is thrown away.
    """

    def __init__(self, file_sha256: Mapping[str, str] | None = None) -> None:
        """`file_sha256`: the hashes of the files by name, for the quarantine lines."""
        self.conflicts: list[Conflict] = []
        self._hashes = file_sha256 or {}
        self._ids: dict[bytes, str] = {}
        self._rows: dict[bytes, str] = {}
        self._answers: dict[bytes, _Answer] = {}
        self._disputed: dict[bytes, tuple[Conflict, set[bytes]]] = {}

    def sift(self, records: Iterable[Record | Rejected]) -> Iterator[Record | Rejected]:
        """The same stream, with repetitions turned into `Rejected`."""
        for record in records:
            if not isinstance(record, Rejected):
                yield self.feed(record) or record
                continue
            if record.question:  # in the quarantine for another reason, but it contradicts all the same
                self._note(
                    _key("answer", matching_key(record.question), ""),
                    record.question,
                    record.answer,
                    f"{record.file}:{record.line}",
                )
            yield record

    def feed(self, record: Record) -> Rejected | None:
        """Takes note of a record; a `Rejected` when it repeats an earlier one."""
        place = f"{record.source}:{record.line_no}"
        row = _key(*_content_of(record))
        if first := self._rows.get(row):
            return self._reject(record, "FT-DUP-002", "$", f"says the same as {first}")
        name, path = _id_of(record)
        id_key = _key(type(record).__name__, name)
        if first := self._ids.get(id_key):
            if isinstance(record, QrelRecord):
                return self._reject(record, "FT-QREL-004", path, f"the pair is judged otherwise in {first}")
            return self._reject(record, "FT-DUP-001", path, f"the id `{escape(name)}` is that of {first}")
        self._ids[id_key] = self._rows[row] = place
        if isinstance(record, InstructionRecord | PreferenceRecord):
            self._note_answer(record, place)
        return None

    def _note_answer(self, record: InstructionRecord | PreferenceRecord, place: str) -> None:
        context = "\n".join(record.context)
        if isinstance(record, InstructionRecord):
            question = _key("answer", matching_key(record.question), context)
            text = record.answer
        else:  # different chosen texts are normal; the same two texts preferred both ways are not
            pair = sorted((comparison_key(record.chosen), comparison_key(record.rejected)))
            question = _key("pair", matching_key(record.question), context, *pair)
            text = record.chosen
        self._note(question, record.question, text, place)

    def _note(self, question: bytes, asked: str, text: str, place: str) -> None:
        answer = _Answer(place, _key(comparison_key(text)), escape(text[:_PREVIEW_CHARS]))
        first = self._answers.setdefault(question, answer)
        if question not in self._disputed:
            if answer.key == first.key:
                return
            conflict = Conflict(question=asked, lines=[first.place], answers=[first.preview])
            self.conflicts.append(conflict)
            self._disputed[question] = conflict, {first.key}
        conflict, known = self._disputed[question]
        if answer.key not in known:
            known.add(answer.key)
            conflict.lines.append(answer.place)
            conflict.answers.append(answer.preview)

    def _reject(self, record: Record, code: str, path: str, reason: str) -> Rejected:
        return Rejected(
            file=record.source,
            file_sha256=self._hashes.get(record.source, ""),
            line=record.line_no,
            offset=-1,
            code=code,
            path=path,
            reason=reason,
            raw=escape(msgspec.json.encode(record).decode()),
            suggestion=CODES[code].mend,
        )


def _id_of(record: Record) -> tuple[str, str]:
    """The id and its JSON path."""
    match record:
        case InstructionRecord() | PreferenceRecord():
            return record.record_id, "$.record_id"
        case QueryRecord():
            return record.query_id, "$.query_id"
        case PassageRecord():
            return record.document_id, "$.document_id"
        case QrelRecord():
            return f"{record.query_id}\t{record.passage_id}", "$"


def _content_of(record: Record) -> list[str]:
    """What a row says, without its place; queries and passages with their id, since judgements name it."""
    match record:
        case InstructionRecord():
            texts, context = [record.question, record.system, record.reasoning, record.answer], record.context
        case PreferenceRecord():
            texts, context = [record.question, record.chosen, record.rejected], record.context
        case QueryRecord():
            return ["query", record.query_id, comparison_key(record.query)]
        case PassageRecord():
            return ["passage", record.document_id, comparison_key(record.title), comparison_key(record.text)]
        case QrelRecord():
            return ["qrel", record.query_id, record.passage_id, str(record.score)]
    return [type(record).__name__, *(comparison_key(text) for text in texts), *context]


def _key(*parts: str) -> bytes:
    return hashlib.blake2b(msgspec.json.encode(parts), digest_size=16).digest()
