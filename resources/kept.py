"""Results that a state keeps, so that no later process has to compute them again: `<state>/kept/<name>/<key>.json`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
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

    The key must name everything that the result depends on. A file has the key, the result and the seal of a manifest
    (artifacts.py): one that is damaged, or not signed where FT_SEAL_KEY is set, is computed again. Where a state may
    not be written, nothing is kept.
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
            with contextlib.suppress(OSError, ValueError, RecursionError):  # msgspec's errors are ValueErrors
                content = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
                if has_seal(content) and content.get("key") == name:
                    return msgspec.convert(content["value"], self._kind)
            value = compute()
            if keep(value):
                with contextlib.suppress(OSError, ValueError):  # a read-only state; a NaN
                    self._write(path, name, value)
            return value

        return self._memo.get((state, name), find)

    def _write(self, path: Path, key: str, value: Value) -> None:
        content = cast("dict[str, Any]", msgspec.to_builtins({"key": key, "value": value}))
        write_json(path, sign(content))
        keep_newest(path.parent, "[!.]*.json", self._size)
