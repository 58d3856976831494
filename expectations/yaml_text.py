"""Load YAML that people write: plain values only, and no text that grows when its aliases are followed."""

from __future__ import annotations

import re
from typing import Any, cast

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

_MAX_GROWTH = 10
_ALWAYS_ALLOWED = 10_000
_MAX_OPEN = 500  # brackets; the parser's time grows with the square of their number


def load_yaml(text: str) -> object:
    """Return the document of a YAML text.

    Raises YAMLError: not YAML, nested too deeply, or a few aliases (`*name`) that stand for too many values. Nine lines
    of ten aliases each are a billion values, and printing or checking them would not end.
    """
    if _count_open(text) > _MAX_OPEN:
        raise YAMLError("nested too deeply")
    try:
        document = cast("Any", YAML(typ="safe", pure=True)).load(text)
    except RecursionError as error:
        raise YAMLError("nested too deeply") from error
    _refuse_growth(document)
    return document


def _count_open(text: str) -> int:
    """Return the largest number of brackets that are open at once; those in texts count too."""
    opened = most = 0
    for bracket in re.findall(r"[\[\]{}]", text):
        opened = opened + 1 if bracket in "[{" else max(0, opened - 1)
        most = max(most, opened)
    return most


def _refuse_growth(document: object) -> None:
    """Refuse a document with many more values than it has in the file, or that holds itself (YAMLError)."""
    sizes: dict[int, int] = {}
    opened: set[int] = set()
    waiting: list[tuple[object, bool]] = [(document, False)]
    while waiting:
        value, done = waiting.pop()
        inner = _inside(value)
        if inner is None or (id(value) in sizes and not done):
            continue
        if done:
            sizes[id(value)] = 1 + sum(sizes.get(id(part), 1) for part in inner)
            opened.discard(id(value))
            continue
        if id(value) in opened:
            raise YAMLError("an alias stands inside the value that it names")
        opened.add(id(value))
        waiting.append((value, True))
        waiting += [(part, False) for part in inner]
    total = sizes.get(id(document), 1)
    written = sum(len(_inside(value) or ()) for value in _each(document))
    if total > max(_ALWAYS_ALLOWED, _MAX_GROWTH * written):
        raise YAMLError(f"aliases make {written} values to {min(total, 10**12)}; write them out, or use fewer")


def _each(document: object) -> list[object]:
    """Return every mapping and list of a document once."""
    found: dict[int, object] = {}
    waiting = [document]
    while waiting:
        value = waiting.pop()
        inner = _inside(value)
        if inner is not None and id(value) not in found:
            found[id(value)] = value
            waiting += inner
    return list(found.values())


def _inside(value: object) -> list[object] | None:
    if isinstance(value, dict):
        return list(cast("dict[object, object]", value).values())
    return list(cast("list[object]", value)) if isinstance(value, list) else None
