"""The keys of a row that its dialect does not read: refused where they change the row's meaning, named everywhere else.

`MEANINGS` is the one table of keys that change what a row means. msgspec drops unknown keys without a word, so that a
row of KTO data, a call of a tool or the passages of a question would be lost, and the rest would be trained on.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from itertools import chain
from operator import attrgetter
from typing import Any, NamedTuple, cast

import msgspec
from msgspec import inspect

from expectations.formats.dialect import (
    PASSAGE_KEYS,
    REASONING_KEYS,
    SYSTEM_KEYS,
    TEXT_KEYS,
    Dialect,
    RowError,
    TrainingExtras,
)
from expectations.formats.unpaired import VERDICT_KEYS, read_verdict

_OF_PASSAGE = re.compile(rf"\$\.(?:{'|'.join(PASSAGE_KEYS)})\b")
Tree = dict[str, Any]
"""Key that is read -> the tree of the keys below it; None where nothing below it has keys."""

_TYPO_RATIO = 0.75  # of difflib: `inptu` is 0.8 to `input`
_TYPO_CHARS = 4  # a shorter key is near too many others


class Unread(NamedTuple):
    """A key that is not read, with its value and the JSON path of the object that it is in."""

    path: str
    key: str
    value: object
    last: bool
    """True if its object is the row itself, or the last one of a list: the answer that is learned."""

    @property
    def name(self) -> str:
        """The key with the path of its object, without numbers: `messages[].weight`."""
        path = "".join("[" if char == "[" else char for char in self.path if not char.isdigit())
        return f"{path.removeprefix('$').removeprefix('.')}.{self.key}".lstrip(".")


class ShapeKey(NamedTuple):
    """A key that is not read, in all rows of one shape (see lane.py)."""

    path: str
    key: str
    name: str
    get: Callable[[Any], object]
    """Returns its value in a typed row."""
    matters: bool
    """True if some value of it changes what a row means."""


class Meaning(NamedTuple):
    """A key that changes what a row means: the rule that it breaks, and the values for which it does."""

    code: str
    matters: Callable[[object], bool]
    training_only: bool = True
    """True if it matters only in rows that a generator is trained on."""
    row_only: bool = False
    """True if it matters only as a key of the row itself: `context` of a message or of a candidate may be anything."""


def _is_filled(value: object) -> bool:
    return value not in (None, "", [], {}, False)


def _is_verdict(value: object) -> bool:
    """Return whether a value is true or false, as KTO's label: text and other numbers are labels of another kind."""
    return read_verdict(value) is not None


def _is_given(value: object) -> bool:
    return value is not None


def _is_off(value: object) -> bool:
    return value is False or (type(value) in (int, float) and value == 0)


_KTO = Meaning("FT-KEY-001", _is_verdict)
_OFF = Meaning("FT-KEY-002", _is_off)
_TOOLS = Meaning("FT-KEY-003", _is_filled)
_MEDIA = Meaning("FT-KEY-004", _is_filled, training_only=False)
_PREFERENCE = Meaning("FT-KEY-005", _is_filled, row_only=True)
_PASSAGES = Meaning("FT-KEY-006", _is_filled, row_only=True)
_SYSTEM = Meaning("FT-KEY-007", _is_filled, row_only=True)
_REASONING = Meaning("FT-KEY-008", _is_filled)
_SCORES = Meaning("FT-KEY-009", _is_given, row_only=True)

MEANINGS: dict[str, Meaning] = {
    **dict.fromkeys(VERDICT_KEYS, _KTO),
    **dict.fromkeys(("weight", "train", "loss", "training"), _OFF),
    **dict.fromkeys(("tool_calls", "function_call", "tools", "functions", "tool_call_id"), _TOOLS),
    **dict.fromkeys(("images", "image", "videos", "video", "audios", "audio"), _MEDIA),
    **dict.fromkeys(("rejected", "rejected_response", "rejected_messages", "chosen", "chosen_response"), _PREFERENCE),
    **dict.fromkeys(("rejected_answer", "rejected_output", "non_preferred_output", "preferred_output"), _PREFERENCE),
    **dict.fromkeys(PASSAGE_KEYS, _PASSAGES),
    **dict.fromkeys(("retrieved_passages", "retrieved_documents", "retrieval_result", "docs"), _PASSAGES),
    **dict.fromkeys((*SYSTEM_KEYS, "system_message"), _SYSTEM),
    **dict.fromkeys((*REASONING_KEYS, "complex_cot"), _REASONING),
    **dict.fromkeys(("chosen_score", "rejected_score", "score_chosen", "score_rejected", "margin"), _SCORES),
}
"""Key -> what it would change. A key that a dialect reads is not looked up here. See also `*_rating` below."""


def meaning_of(key: str) -> Meaning | None:
    """Return what a key changes in a row; None for one that only describes it."""
    lower = key.lower()
    if fnmatchcase(lower, "*_rating") or fnmatchcase(lower, "rating_*"):
        return _SCORES
    return MEANINGS.get(lower)


class KeyReader:
    """The keys that one dialect reads, and the search of its rows for others."""

    def __init__(self, dialect: Dialect[Any]) -> None:
        row = dialect.outer or (None if dialect.parts else dialect.row)
        is_struct = isinstance(row, type) and issubclass(row, msgspec.Struct)
        self.tree: Tree | None = _tree(inspect.type_info(row)) if is_struct else None
        if self.tree is not None and isinstance(row, type) and issubclass(row, TrainingExtras):
            # passages may be objects, whose type is open; other keys of them are named, and change no meaning
            self.tree |= {key: dict.fromkeys((*TEXT_KEYS, "title")) for key in PASSAGE_KEYS}
        self._trained = dialect.format.trained or "instruction" in dialect.format.bridges
        self.has_turns = dialect.format.name == "instruction"
        self._exact = frozenset(key for key in dialect.also_has if "*" not in key)
        self._patterns = tuple(pattern for pattern in dialect.also_has if "*" in pattern)
        if self.tree is not None and dialect.canonical:
            # what a converted file keeps of its source is written by us, and recomputed from the file that is read
            self.tree |= dict.fromkeys(("format_version", *dialect.format.record.__struct_fields__))

    def find(self, value: object) -> list[Unread]:
        """Return the keys of a raw row that are not read and have a value."""
        return list(self._search(value, self.tree, "$", last=True)) if self.tree is not None else []

    def find_in_shape(self, shape: type[msgspec.Struct]) -> list[ShapeKey]:
        """Return the keys that are not read in the rows of a shape, those that may change a row's meaning first."""
        if self.tree is None:
            return []
        return sorted(self._search_shape(shape, self.tree, "$", ""), key=lambda key: not key.matters)

    def _search_shape(self, shape: type[msgspec.Struct], tree: Tree, path: str, at: str) -> Iterator[ShapeKey]:
        for field in msgspec.structs.fields(shape):
            key, inner = field.encode_name, cast("object", field.type)
            if not field.required:  # of the dialect, and not in these rows
                continue
            if key not in tree:
                if not self._is_ours(key, path):
                    name = Unread(path, key, None, last=True).name
                    yield ShapeKey(path, key, name, attrgetter(f"{at}{field.name}"), meaning_of(key) is not None)
            elif isinstance(inner, type) and issubclass(inner, msgspec.Struct) and (below := tree[key]) is not None:
                yield from self._search_shape(inner, below, f"{path}.{key}", f"{at}{field.name}.")

    def _is_ours(self, key: str, path: str) -> bool:
        """True if a key belongs to the dialect, although its typed row has no field for it."""
        return key in self._exact or (path != "$" and any(fnmatchcase(key, pattern) for pattern in self._patterns))

    def take_marks(self, unread: Sequence[Unread], unlearned: set[str]) -> list[Unread]:
        """Return the keys without the marks of messages that are or are not to be learned; note the paths of those."""
        kept: list[Unread] = []
        for found in unread:
            if meaning_of(found.key) is not _OFF or not found.path.endswith("]") or not _is_verdict(found.value):
                kept.append(found)
            elif _is_off(found.value):
                unlearned.add(found.path)
        return kept

    def refuse(self, unread: Sequence[Unread]) -> None:
        """Refuse a row with a key that changes its meaning (RowError FT-KEY-…)."""
        for found in unread:
            meaning = meaning_of(found.key)
            if meaning is None or not meaning.matters(found.value) or _OF_PASSAGE.match(found.path):
                continue
            if (meaning.training_only and not self._trained) or (meaning.row_only and found.path != "$"):
                continue
            if meaning is _OFF and not found.last:
                continue  # an earlier answer is history: it is not learned in any case
            raise RowError(meaning.code, f"{found.path}.{found.key}", f"found `{found.key}: {_shown(found.value)}`")

    def must_search(self, samples: Iterable[object]) -> bool:
        """Return whether the rows of a file must be searched one by one, judged by samples: the values decide."""
        return any(meaning_of(found.key) for found in chain.from_iterable(map(self.find, samples)))

    def likely_typo(self, name: str) -> str:
        """Return the key that is read and nearly has this name; empty where none is near."""
        tree: Tree | None = self.tree
        *parents, key = name.replace("[]", "").split(".")
        for parent in parents:
            tree = (tree or {}).get(parent)
        if tree is None or len(key) < _TYPO_CHARS or meaning_of(key):
            return ""
        return next(iter(get_close_matches(key.lower(), tree, 1, _TYPO_RATIO)), "")

    def _search(self, value: object, tree: Tree | None, path: str, *, last: bool) -> Iterator[Unread]:
        if tree is None:
            return
        if isinstance(value, list):
            items = cast("list[object]", value)
            for number, item in enumerate(items):
                yield from self._search(item, tree, f"{path}[{number}]", last=last and number == len(items) - 1)
        elif isinstance(value, dict):
            fields = cast("dict[str, object]", value)
            for key in fields.keys() - tree.keys():
                if fields[key] is not None and not self._is_ours(key, path):
                    yield Unread(path, key, fields[key], last)
            for key, below in tree.items():
                if below is not None and key in fields:
                    yield from self._search(fields[key], below, f"{path}.{key}", last=last)


def _tree(kind: inspect.Type) -> Tree | None:
    """Return the keys that a type reads, at any depth."""
    match kind:
        case inspect.StructType(fields=fields):
            return {field.encode_name: _tree(field.type) for field in fields}
        case inspect.CollectionType(item_type=item):
            return _tree(item)
        case inspect.UnionType(types=types):
            trees = [tree for tree in map(_tree, types) if tree is not None]
            merged: Tree = {}
            for tree in trees:
                merged |= tree
            return merged if trees else None
        case _:
            return None


class UnreadKeys:
    """The keys of files that were not read, each with its number of rows, and the key that was probably meant."""

    def __init__(self) -> None:
        self.rows: Counter[str] = Counter()
        self.typos: dict[str, str] = {}

    def count(self, unread: Sequence[Unread], reader: KeyReader) -> None:
        """Count one row with these keys."""
        for name in {found.name for found in unread}:
            self.count_name(name, reader)

    def count_name(self, name: str, reader: KeyReader) -> None:
        """Count one row with this key."""
        self.rows[name] += 1
        if name not in self.typos:
            self.typos[name] = reader.likely_typo(name)

    def sorted(self) -> dict[str, int]:
        """Return name -> rows, the most frequent first."""
        return dict(sorted(self.rows.items(), key=lambda item: (-item[1], item[0])))


def describe_unread(rows: Mapping[str, int], typos: Mapping[str, str]) -> str:
    """Return a line for people: "`category` (4 rows), `inptu` (1 row; did you mean `input`?)"."""
    parts: list[str] = []
    for name, count in rows.items():
        hint = f"; did you mean `{typos[name]}`?" if typos.get(name) else ""
        parts.append(f"`{name}` ({count} row{'' if count == 1 else 's'}{hint})")
    return ", ".join(parts)


def _shown(value: object) -> str:
    try:
        text = msgspec.json.encode(value).decode()
    except (TypeError, ValueError):  # a table may hold what JSON does not
        text = type(value).__name__
    return text if len(text) <= 60 else text[:59] + "…"
