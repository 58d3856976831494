"""Results that a state keeps, so that no later process has to compute them again: `<state>/kept/<name>/<key>.json`.

A file has the key, the result and the seal of a manifest (artifacts.py): one that is damaged, or not signed where
FT_SEAL_KEY is set, is computed again. Where a state may not be written, nothing is kept.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import msgspec

from expectations.canonical import digest
from resources.artifacts import has_seal, sign
from resources.files import keep_newest, write_json
from resources.memo import Memo

Value = TypeVar("Value")


class Kept(Generic[Value]):
    """The results of one computation by key, on the disk of a state and in this process.

    The key must name everything that the result depends on.
    """

    def __init__(self, name: str, kind: type[Value], size: int = 64) -> None:
        """`name`: of the folder; `kind`: what msgspec reads; `size`: the most files, the oldest go first."""
        self._name, self._kind, self._size = name, kind, size
        self._memo = Memo[Value](size)

    def get(
        self, state: Path, key: Mapping[str, object], compute: Callable[[], Value], *, keep: Callable[[Value], bool]
    ) -> Value:
        """Return the result of `key`. `keep`: whether a computed one is kept on the disk."""
        name = digest(key)

        def find() -> Value:
            path = state / "kept" / self._name / f"{name[:32]}.json"
            found = _read(path, name, self._kind)
            if found is not None:
                return found
            value = compute()
            if keep(value):
                _write(path, name, value)
                keep_newest(path.parent, "[!.]*.json", self._size)
            return value

        return self._memo.get((state, name), find)


class KeptParts(Generic[Value]):
    """The results of one computation on each part of a table, in one file of a state: only new parts are computed."""

    def __init__(self, name: str, kind: type[Value]) -> None:
        """`name`: of the folder; `kind`: what msgspec reads."""
        self._name = name
        self._kind = dict[str, kind]

    def get(
        self,
        state: Path,
        key: Mapping[str, object],
        parts: Sequence[str],
        compute: Callable[[str], Value],
        *,
        keep: Callable[[Value], bool] = lambda _: True,
    ) -> list[Value]:
        """Return the result of each part. A part is named by its content; `key` names all else that results depend on.

        Results of parts that are not asked for are forgotten. One part alone is always computed. `keep`: whether a
        computed result is kept.
        """
        if len(parts) == 1:
            return [compute(parts[0])]
        name = digest(key)
        path = state / "kept" / self._name / f"{name[:32]}.json"
        known = _read(path, name, self._kind) or {}
        found = {part: known[part] if part in known else compute(part) for part in dict.fromkeys(parts)}
        kept = {part: value for part, value in found.items() if part in known or keep(value)}
        if kept != known:
            _write(path, name, kept)
        return [found[part] for part in parts]


def _read(path: Path, key: str, kind: type[Value]) -> Value | None:
    with contextlib.suppress(OSError, ValueError, RecursionError):  # msgspec's errors are ValueErrors
        content = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
        if has_seal(content) and content.get("key") == key:
            return msgspec.convert(content["value"], kind)
    return None


def _write(path: Path, key: str, value: object) -> None:
    with contextlib.suppress(OSError, ValueError):  # a read-only state; a NaN
        content = cast("dict[str, Any]", msgspec.to_builtins({"key": key, "value": value}))
        write_json(path, sign(content))
