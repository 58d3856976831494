"""Repetitions and contradictions within a data set, found while its records pass by."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping

import msgspec

from expectations.codes import CODES
from expectations.formats.dialect import Turn
from expectations.formats.instruction import InstructionRecord
from expectations.formats.pairs import RetrievalPairRecord
from expectations.formats.passage import PassageRecord
from expectations.formats.preference import PreferenceRecord
from expectations.formats.qa import QaRecord
from expectations.formats.retrieval import QrelRecord, QueryRecord
from expectations.reading import Rejected, escape
from expectations.records.read import Record, in_batches
from expectations.text.cleaning import comparison_key_of_clean as comparison_key
from expectations.text.cleaning import matching_key

_PREVIEW_CHARS = 80
_LINE_BITS = 40
_KEY_BITS = (1 << 60) - 1
"""A Python number of up to 60 bits takes 32 bytes, a longer one 48."""


class Conflict(msgspec.Struct, kw_only=True):
    """One question with different answers (FT-DUP-003). None is dropped for that; a person decides."""

    question: str
    lines: list[str]
    """`file:line` of each row that disagrees with one before it, the first one included."""
    answers: list[str]
    """The start of the answer on each of these lines."""


class _Keys(msgspec.Struct, gc=False):
    """What a record is compared by. Keys are hashes, good for this process alone."""

    name: str
    path: str
    """JSON path of the name."""
    row: int
    """0 where a question and its answer are all that a row says."""
    question: int = 0
    """Rows of one question must agree; 0 when that is not asked."""
    answer: int = 0
    asked: str = ""
    said: str = ""
    contrary: str = ""
    """What a row that contradicts this one says, where the question key tells; else it must be remembered."""


class Duplicates:
    """Fed record by record; holds 60-bit keys of what passed by, not the texts: about 200 bytes a row.

    An id used twice (FT-DUP-001), a row that says the same twice (FT-DUP-002) and a query-passage pair judged twice
    with different scores (FT-QREL-004) are rejected, the first one stays. Different answers to one question, or a pair
    preferred both ways, are kept and listed in `conflicts`. Questions match by `matching_key`, rows by the gentler
    `comparison_key` (their contexts as they are): only what says the same is thrown away. Among a million rows the
    chance that two different ones share a key is 1 in a million.
    """

    def __init__(self, file_sha256: Mapping[str, str] | None = None) -> None:
        """`file_sha256`: the hashes of the files by name, for the quarantine lines."""
        self.conflicts: list[Conflict] = []
        self._hashes = file_sha256 or {}
        self._files: list[str] = []
        self._file = ""  # the last of them
        self._begin = 0  # the place of its line 0
        # Whatever is fed has a number; here are, under each key, the number it came with first
        self._ids: dict[int, int] = {}
        self._rows: dict[int, int] = {}
        self._questions: dict[int, int] = {}
        self._places = array("Q")  # of each number: where it stands,
        self._answers = array("q")  # the key of its answer,
        self._previews: dict[int, str] = {}  # and how that begins, where a contrary row would not tell
        self._disputed: dict[int, tuple[Conflict, dict[int, int]]] = {}  # with the place of each answer

    def sift(self, records: Iterable[Record | Rejected]) -> Iterator[Record | Rejected]:
        """The same stream, with repetitions turned into `Rejected`."""
        for batch in in_batches(records):
            yield from [
                self._hear(record) if isinstance(record, Rejected) else self.feed(record) or record for record in batch
            ]

    def _hear(self, rejected: Rejected) -> Rejected:
        """In the quarantine for another reason, but it contradicts all the same."""
        if rejected.question:
            question, answer = _question_key(rejected.question, ()), hash(comparison_key(rejected.answer))
            keys = _Keys("", "$", 0, question, answer, rejected.question, rejected.answer)
            self._note(keys, self._number(rejected.file, rejected.line, answer))
        return rejected

    def feed(self, record: Record) -> Rejected | None:
        """Takes note of a record; a `Rejected` when it repeats an earlier one."""
        keys = _keys_of(record)
        number = self._number(record.source, record.line_no, keys.answer)
        first = _first(self._rows, keys.row, number) if keys.row else self._note(keys, number)
        if first is not None:
            return self._reject(record, "FT-DUP-002", "$", f"says the same as {self._show(first)}")
        first = _first(self._ids, hash((type(record), keys.name)), number)
        if first is not None:
            if type(record) is QrelRecord:
                reason = f"the pair is judged otherwise in {self._show(first)}"
                return self._reject(record, "FT-QREL-004", keys.path, reason)
            reason = f"the id `{escape(keys.name)}` is that of {self._show(first)}"
            return self._reject(record, "FT-DUP-001", keys.path, reason)
        if keys.question and keys.row:
            self._note(keys, number)
        return None

    def _note(self, keys: _Keys, number: int) -> int | None:
        """The number under which the question was answered the same before, if any; another answer is a conflict."""
        first = _first(self._questions, keys.question, number)
        if first is None:
            if not keys.contrary:
                self._previews[number] = _preview(keys.said)
            return None
        if first not in self._disputed:
            if keys.answer == self._answers[first]:
                return first
            preview = self._previews.get(first) or _preview(keys.contrary)
            conflict = Conflict(question=keys.asked, lines=[self._show(first)], answers=[preview])
            self.conflicts.append(conflict)
            self._disputed[first] = conflict, {self._answers[first]: first}
        conflict, known = self._disputed[first]
        if keys.answer in known:
            return known[keys.answer]
        known[keys.answer] = number
        conflict.lines.append(self._show(number))
        conflict.answers.append(_preview(keys.said))
        return None

    def _number(self, file: str, line: int, answer: int) -> int:
        """A number for what stands there."""
        if file != self._file:
            self._file = file
            self._files.append(file)
            self._begin = (len(self._files) - 1) << _LINE_BITS
        self._places.append(self._begin | line)
        self._answers.append(answer)
        return len(self._answers) - 1

    def _show(self, number: int) -> str:
        place = self._places[number]
        return f"{self._files[place >> _LINE_BITS]}:{place & ((1 << _LINE_BITS) - 1)}"

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
            suggestion=CODES[code].fix,
        )


def _first(numbers: dict[int, int], key: int, number: int) -> int | None:
    """The number that a key came with first; None when this is the first time."""
    first = numbers.setdefault(key & _KEY_BITS, number)
    return None if first == number else first


def _keys_of(record: Record) -> _Keys:
    """What a row says, without its place; queries and passages with their id, since judgements name it."""
    match record:
        case PreferenceRecord():
            asked = comparison_key(record.question)
            chosen, rejected = comparison_key(record.chosen), comparison_key(record.rejected)
            around = (*record.context, record.system)
            if record.history:
                around += tuple(text for turn in record.history for text in _texts(turn))
            # different chosen texts are normal; the same two texts preferred both ways are not
            pair = (chosen, rejected) if chosen < rejected else (rejected, chosen)
            question = hash((asked, around, pair))
            return _Keys(
                record.record_id,
                "$.record_id",
                0,
                question,
                hash(chosen),
                record.question,
                record.chosen,
                record.rejected,
            )
        case InstructionRecord():
            past = [text for turn in record.history for text in _texts(turn)]
            texts = [comparison_key(text) for text in (record.question, record.system, record.reasoning)]
            answer = hash(comparison_key(record.answer))
            row = hash(("instruction", *texts, answer, *record.context, *past))
            question = _question_key(record.question, (*record.context, *past))
            return _Keys(record.record_id, "$.record_id", row, question, answer, record.question, record.answer)
        case QaRecord():
            given = (*record.references, record.golden_reference or "", record.student_answer or "")
            answer = hash(comparison_key(record.answer))
            verdict = comparison_key(record.explanation or "")
            row = hash(("qa", comparison_key(record.question), answer, given, record.verdict, verdict))
            question = _question_key(record.question, given)
            return _Keys(record.record_id, "$.record_id", row, question, answer, record.question, record.answer)
        case _:
            return _keys_of_retrieval(record)


def _keys_of_retrieval(record: RetrievalPairRecord | QueryRecord | PassageRecord | QrelRecord) -> _Keys:
    """The same for what has no answer to disagree on."""
    match record:
        case RetrievalPairRecord():
            row = hash(("retrieval_pair", comparison_key(record.query), *record.positives, "", *record.negatives))
            return _Keys(record.record_id, "$.record_id", row)
        case QueryRecord():
            row = hash(("query", record.query_id, comparison_key(record.query)))
            return _Keys(record.query_id, "$.query_id", row)
        case PassageRecord():
            row = hash(("passage", record.document_id, comparison_key(record.title), comparison_key(record.text)))
            return _Keys(record.document_id, "$.document_id", row)
        case QrelRecord():
            row = hash(("qrels", record.query_id, record.passage_id, record.score))
            return _Keys(f"{record.query_id}\t{record.passage_id}", "$", row)


def _question_key(question: str, around: tuple[str, ...]) -> int:
    return hash((matching_key(question), around))


def _texts(turn: Turn) -> tuple[str, str]:
    return turn.question, turn.answer


def _preview(text: str) -> str:
    return escape(text[:_PREVIEW_CHARS])
