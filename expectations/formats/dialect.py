"""The description of a record format and its dialects, and the decoding of a raw row into a typed row.

A format's own file (instruction.py, qa.py, …) builds one `Format`; registry.py lists them all.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, cast

import msgspec

from expectations.codes import CODES
from expectations.text.residue import Residues
from expectations.text.traditional import Traditional

Thinking = Literal["require", "allow_empty", "mask_empty", "strip"]
Turns = Literal["last", "all"]
ALLOWABLE = (
    *("FT-TEXT-002", "FT-TEXT-003", "FT-TEXT-005", "FT-TEXT-007", "FT-TEXT-008", "FT-TEXT-009"),
    *("FT-INST-009", "FT-QA-004"),
)
"""Rules that judge by the look of a text what it is: they can be wrong, so that a data set may allow them. The others
find what is wrong in any text (an empty answer, control characters, special tokens, lost characters)."""


def explain_not_allowed(codes: Iterable[str]) -> str:
    """Return why these codes cannot be allowed; empty when each can."""
    wrong = [f"{code} ({CODES[code].title})" if code in CODES else code for code in codes if code not in ALLOWABLE]
    if not wrong:
        return ""
    return f"{', '.join(wrong)} cannot be allowed; only rules that judge a text by its look can: {', '.join(ALLOWABLE)}"


class RowError(Exception):
    """A row that breaks a rule: the code, the JSON path, and a reason that a person understands."""

    def __init__(self, code: str, path: str, reason: str, *, question: str = "", answer: str = "") -> None:
        super().__init__(f"{code} {path}: {reason}")
        self.code = code
        self.path = path
        self.reason = reason
        self.question = question
        self.answer = answer


class RowNotes:
    """The notes that the reading of a row leaves next to its record, and their sums over the rows of files."""

    def __init__(self, policy: ReadPolicy) -> None:
        self.allow = frozenset(policy.allow)
        self.allowed: set[str] = set()
        """Allowed rules that the current row breaks."""
        self.allowed_rows: Counter[str] = Counter()
        """Code of an allowed rule -> rows that break it."""
        self.every_turn = policy.turns == "all"
        self.unlearned: set[str] = set()
        """JSON paths of the current row's messages that are marked as not to be learned."""
        self.earlier: list[Record] = []
        """The records of the current row's earlier answers, where every answer is learned."""
        self.skipped = 0
        """Answers that are marked as not to be learned, and were not."""
        self.their_path: Callable[[str], str] | None = None
        """That of the file's dialect."""

    def begin_row(self) -> None:
        """Clear the notes on the row before."""
        self.allowed.clear()
        self.unlearned.clear()
        self.earlier.clear()

    def end_row(self) -> None:
        """Count the row, which has a record."""
        self.allowed_rows.update(self.allowed)

    def is_learned(self, path: str) -> bool:
        """Return whether the answer at this path is in a message that is not marked."""
        message = path.rpartition(".")[0]
        return (self.their_path(message) if self.their_path else message) not in self.unlearned


class Place(msgspec.Struct, frozen=True, gc=False):
    """The place of a row: the file's name and the line, from 1; `plain` when its texts need no cleaning."""

    source: str
    line: int
    plain: bool = False
    folder: str = ""
    """The name of the folder that the file is in. FlagEmbedding's data uses it as a setting."""
    residues: Residues[Any] | None = None
    """Counts what is refused only when several rows of the file have it."""
    notes: RowNotes | None = None
    """None where the policy needs no notes."""


class ReadPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of a data set that decide how its rows are read."""

    thinking: Thinking = "allow_empty"
    min_margin: float = 0.0
    traditional: Traditional = "keep"
    """How traditional Chinese is converted to simplified, if at all: see text/traditional.py."""
    allow: tuple[str, ...] = ()
    """Codes of rules (`ALLOWABLE`) that a row may break."""
    turns: Turns = "last"
    """The answers of a dialogue that are learned. `all`: each becomes a record, with the turns before as history."""

    @property
    def needs_notes(self) -> bool:
        """True if the reading of a row leaves more than a record."""
        return bool(self.allow) or self.turns == "all"

    def recipe(self) -> dict[str, Any]:
        """Return the settings for a recipe: later keys only where they are set, so that recipes stay equal."""
        values: dict[str, Any] = msgspec.to_builtins(self)
        defaults: dict[str, Any] = msgspec.to_builtins(DEFAULT_POLICY)
        return {key: value for key, value in values.items() if key not in _LATER or value != defaults[key]}


_LATER = ("allow", "turns")
DEFAULT_POLICY = ReadPolicy()


class Turn(msgspec.Struct, frozen=True, gc=False):
    """One question and answer of a dialogue."""

    question: str
    answer: str


class Record(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The base of the records of every format. Each ends with the file and the line that it comes from."""

    if TYPE_CHECKING:  # fields of a base would come first in every record's JSON and table
        source: str
        line_no: int


SYSTEM_KEYS = ("system", "system_prompt")
PASSAGE_KEYS = ("context", "contexts", "documents", "passages", "references", "retrieved_contexts")
REASONING_KEYS = ("reasoning_content", "reasoning", "thinking")
"""The names that system texts, passages and reasoning have in the files that are read: fields of typed rows."""
Passages = str | list[str | dict[str, Any]] | None
"""Passages given along with a question, as people write them."""


class Extras(msgspec.Struct, kw_only=True, gc=False):
    """Optional keys that any instruction, preference or qa row may have."""

    id: str | int | None = None
    evidence: list[str] | None = None
    group: str | None = None
    language: str | None = None


class TrainingExtras(Extras, kw_only=True):
    """Optional keys that any row for training a generator may have; each has several names in the files people have."""

    system: str | None = None
    system_prompt: str | None = None
    context: Passages = None
    contexts: Passages = None
    documents: Passages = None
    passages: Passages = None
    references: Passages = None
    retrieved_contexts: Passages = None

    def find_passages(self) -> tuple[str, list[str]]:
        """Return (JSON path, texts) of the passages that the row gives along with its question.

        RowError (FT-KEY-010) where two keys hold different ones, or a passage has no text.
        """
        path, texts = "$.context", list[str]()
        for name in PASSAGE_KEYS:
            given: Passages = getattr(self, name)
            if not given:
                continue
            found = [_passage_text(f"$.{name}", one) for one in ([given] if isinstance(given, str) else given)]
            if texts and found != texts:
                raise RowError("FT-KEY-010", f"$.{name}", f"`{path[2:]}` and `{name}` hold different passages")
            path, texts = f"$.{name}", found
        return path, texts

    def find_system(self) -> str | None:
        """Return the row's own system text. RowError (FT-KEY-010) where two keys hold different ones."""
        if self.system and self.system_prompt and self.system != self.system_prompt:
            raise RowError("FT-KEY-010", "$.system_prompt", "`system` and `system_prompt` hold different texts")
        return self.system or self.system_prompt


TEXT_KEYS = ("text", "content", "contents", "page_content", "passage", "segment", "body")


def _passage_text(path: str, passage: str | dict[str, Any]) -> str:
    """Return the text of a passage: a text, or an object with one of the usual keys."""
    if isinstance(passage, str):
        return passage
    text = next((passage[key] for key in TEXT_KEYS if isinstance(passage.get(key), str)), None)
    if text is None:
        raise RowError("FT-KEY-010", path, f"a passage has none of the keys {', '.join(TEXT_KEYS)}")
    title = passage.get("title")
    return f"{title}\n{text}" if isinstance(title, str) and title.strip() and title not in text else text


class Keys(msgspec.Struct, gc=False):
    """The values that a record is compared by. The numbers are hashes, valid in this process only."""

    id: str
    id_path: str
    """JSON path of the id."""
    row: int
    """The hash of all texts; 0 where the question and the answer are all that a row has."""
    question: int = 0
    """Rows with an equal question must have equal answers; 0 when answers are not compared."""
    answer: int = 0
    question_text: str = ""
    answer_text: str = ""
    opposite_text: str = ""
    """The answer of a row that contradicts this one, where the question key implies it; else it must be stored."""


_Row = TypeVar("_Row")
_Record = TypeVar("_Record", bound=Record)
RowParts = Callable[[Any], Iterator[tuple[str, object]]]
"""A raw row that holds several records -> (JSON path, raw value) of each."""
RowMigration = Callable[[dict[str, Any]], dict[str, Any]]
"""A canonical row of one version -> the row of the next version."""


@dataclass(kw_only=True, eq=False, slots=True)
class Dialect(Generic[_Row]):
    """One way in which people write a format. A row belongs to the dialect of whose `marks` (keys) it has most."""

    name: str
    marks: tuple[str, ...]
    """Keys that a row has. A mark of several keys, `qid|query_id`, is one of them."""
    row: type[_Row]
    """The typed row: a msgspec Struct, or a list type for TSV."""
    convert: Callable[[_Row, Any, Place, ReadPolicy], Record]
    """(typed row, raw value, place, policy) -> record; raises RowError. A row of the quick lane has no raw value: every
    key of it is a field of the typed row."""
    extra_marks: tuple[str, ...] = ()
    """Optional keys that distinguish it from a dialect with the same marks."""
    parts: RowParts | None = None
    """For a row that holds several records: (JSON path, raw value) of each; raises RowError."""
    suits: Callable[[Any], bool] | None = None
    """A test of the values, where keys or the number of columns are not enough."""
    file_names: tuple[str, ...] = ()
    """Parts of a file's name that decide for this dialect where others fit equally well."""
    only_named: bool = False
    """True if the rows alone do not tell: the file's name, or the reader, must name it."""
    likely: Callable[[Any], float] | None = None
    """How probable it is, 0 to 1, that a row has this dialect and not another one that fits equally well."""
    headers: tuple[list[str], ...] = ()
    """First lines of a table that are no rows."""
    also_has: tuple[str, ...] = ()
    """Other keys that belong to the dialect: `convert` reads them from the raw value, or they only describe how the row
    was made. A pattern such as `*_score` counts in objects below the row."""
    outer: type[msgspec.Struct] | None = None
    """The raw row as a type, where it holds several records: its keys are the ones that are read."""
    note: str = ""
    """A note for the report of a file of this dialect."""
    canonical: bool = False
    """True for the format's own form, whose rows may state their version."""
    their_path: Callable[[str], str] | None = None
    """JSON path with our keys -> the one in the row, where a map renames columns (see column_map.py)."""
    format: Format[Any] = field(init=False, repr=False)
    """The format that the dialect belongs to; the format sets it."""

    def fit(self, value: Any) -> tuple[float, int]:
        """Return how well a raw value fits: its share of the marks, 0 to 1, and its number of marks and extra marks."""
        if self.suits and not self.suits(value):
            return 0.0, 0
        if isinstance(value, list):
            return float(not self.marks), int(self.suits is not None)
        if not isinstance(value, dict) or not self.marks:
            return 0.0, 0
        marks = sum(_has(cast("dict[str, Any]", value), mark) for mark in self.marks)
        return marks / len(self.marks), marks + sum(mark in value for mark in self.extra_marks)

    def decode(self, value: Any, place: Place, policy: ReadPolicy) -> Record:
        """Return the record of a raw value; RowError with the JSON path when a rule is broken."""
        if self.canonical and isinstance(value, dict) and "format_version" in value:
            value = self.format.migrate(cast("dict[str, Any]", value))
        return self.convert(self.type(cast("object", value)), value, place, policy)

    def type(self, value: object) -> _Row:
        """Return the typed row of a raw value; RowError where a field is missing or of another type."""
        return convert_row(value, self.row, self.format.wrong_type)


def _has(value: dict[str, Any], mark: str) -> bool:
    return mark in value or ("|" in mark and any(key in value for key in mark.split("|")))


@dataclass(frozen=True, kw_only=True, eq=False)
class Format(Generic[_Record]):
    """One record format: everything that the rest of the project needs to know about it."""

    name: str
    record: type[_Record]
    wrong_type: str
    """Code of a field that is missing or of another type."""
    keys: Callable[[_Record], Keys]
    """Returns what a record is compared by in the search for repeated and contradicting rows."""
    dialects: tuple[Dialect[Any], ...]
    """Where two fit a row equally well, the first one is taken."""
    migrations: tuple[RowMigration, ...] = ()
    """The first brings a row of version 1 to version 2, the second one of version 2 to version 3, and so on."""
    bridges: Mapping[str, Callable[[_Record], Record]] = field(
        default_factory=cast("type[dict[str, Callable[[_Record], Record]]]", dict)
    )
    """Format name -> how a record of this format becomes one of that."""
    also_reads: tuple[str, ...] = ()
    """Other formats whose files a data set of this format reads; each needs a bridge to this one."""
    trained: bool = False
    """True if an adapter is trained on its records as they are."""
    same_id: tuple[str, str] = ("FT-DUP-001", "the id `{id}` is that of {place}")
    """The code and the reason for a second record with the id of an earlier one."""

    def __post_init__(self) -> None:
        for dialect in self.dialects:
            dialect.format = self

    @property
    def version(self) -> int:
        """The current version."""
        return 1 + len(self.migrations)

    @property
    def has_reasoning(self) -> bool:
        """True if its records have a field for reasoning."""
        return "reasoning" in self.record.__struct_fields__

    @property
    def canonical(self) -> Dialect[Any]:
        """The dialect that `ft convert` writes."""
        return next(dialect for dialect in self.dialects if dialect.canonical)

    def migrate(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return a canonical row that states its `format_version` as a row of the current version.

        RowError (FT-VERSION-001) for a newer version, or for what is no version: nothing is guessed.
        """
        version = row["format_version"]
        if type(version) is not int or not 1 <= version <= self.version:
            reason = f"found version {version!r} of the format `{self.name}`, supported are 1 to {self.version}"
            raise RowError("FT-VERSION-001", "$.format_version", reason)
        row = {key: value for key, value in row.items() if key != "format_version"}
        for step in self.migrations[version - 1 :]:
            row = step(row)
        return row


def rename_line(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row of version 1 with its field `line` renamed to `line_no` (the migration of several formats)."""
    line = {"line_no": row["line"]} if "line" in row else {}
    return {key: value for key, value in row.items() if key != "line"} | line


def convert_row(value: object, row: type[_Row], wrong_type: str) -> _Row:
    """Return a raw value as a typed row; RowError with the code `wrong_type` where a field does not fit."""
    try:
        return msgspec.convert(value, row, strict=True)
    except msgspec.ValidationError as error:
        path, reason = explain(str(error))
        raise RowError(wrong_type, path, reason) from error


_WORDS = {
    "str": "text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "object": "an object",
    "array": "a list",
    "null": "null",
}
_MISSING = re.compile(r"Object missing required field `(?P<field>[^`]*)`(?: - at `(?P<path>[^`]*)`)?$")
_TYPE = re.compile(r"Expected `(?P<expected>[^`]*)`, got `(?P<found>[^`]*)`(?: - at `(?P<path>[^`]*)`)?$")
_AT = re.compile(r" - at `(?P<path>[^`]*)`$")


def explain(message: str) -> tuple[str, str]:
    """Return a msgspec message as (JSON path, reason): ("$.chosen.text", "found null, expected text")."""
    if missing := _MISSING.match(message):
        return f"{missing['path'] or '$'}.{missing['field']}", f"the field `{missing['field']}` is missing"
    if wrong := _TYPE.match(message):
        expected = " or ".join(_WORDS.get(part.strip(), part.strip()) for part in wrong["expected"].split("|"))
        return wrong["path"] or "$", f"found {_WORDS.get(wrong['found'], wrong['found'])}, expected {expected}"
    at = _AT.search(message)
    reason = _AT.sub("", message)
    return (at["path"] if at else "$"), reason[:1].lower() + reason[1:]
