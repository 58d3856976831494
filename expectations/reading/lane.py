"""The quick lane for a file whose rows have one shape: a decoder for exactly this shape, learned from its first rows.

Where every key of a row is required and no other is allowed, a count of the keys in the text shows that none is there
twice, and the row need not be decoded to dictionaries first. A row that does not fit goes the general way.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, Literal, cast, get_args

import msgspec

_Scalar = str | int | float | bool | None


class Lane:
    """The place where a file's reader finds the decoder; `decoder` is None until one was learned."""

    def __init__(self) -> None:
        self.decoder: msgspec.json.Decoder[Any] | None = None
        self.keys = self.objects = 0
        """The numbers of keys and objects in every row of the shape, at any depth."""

    def learn(self, row: Any, samples: Sequence[Any], fixed: Mapping[str, int]) -> None:
        """Open the lane for a typed row if most samples have one shape: the same keys, and no list of objects.

        `fixed`: keys that decide how the row is read, each with the one value that the typed row is for.
        """
        if not (isinstance(row, type) and issubclass(row, msgspec.Struct)):
            return
        rows = [cast("dict[str, Any]", sample) for sample in samples if isinstance(sample, dict)]
        if not rows:
            return
        usual = Counter(frozenset(row) for row in rows).most_common(1)[0][0]
        self.keys = self.objects = 0
        if shaped := self._shape(row, [row for row in rows if row.keys() == usual], fixed):
            self.decoder = msgspec.json.Decoder(shaped, strict=True)

    def _shape(
        self, struct: type[msgspec.Struct], rows: Sequence[dict[str, Any]], fixed: Mapping[str, int]
    ) -> type[msgspec.Struct] | None:
        """Return a subclass of `struct` with exactly the keys of `rows`, all required; None without one shape."""
        keys = list(rows[0])
        if any(row.keys() != rows[0].keys() for row in rows):
            return None
        self.keys += len(keys)
        self.objects += 1
        known = {field.encode_name: field for field in msgspec.structs.fields(struct)}
        fields: list[tuple[str, Any]] = []
        names: dict[str, str] = {}
        for n, key in enumerate(keys):
            stated: Any = known[key].type if key in known else None
            kind: Any = Literal[fixed[key]] if key in fixed else self._kind(stated, [row[key] for row in rows])
            if kind is None:
                return None
            name = known[key].name if key in known else key if key.isidentifier() else f"key{n}"
            names[name] = key
            fields.append((name, kind))
        if len(names) < len(keys):  # a key with the name of another key's field
            return None
        return msgspec.defstruct(
            struct.__name__, fields, bases=(struct,), rename=names, kw_only=True, forbid_unknown_fields=True
        )

    def _kind(self, stated: Any, values: Sequence[Any]) -> Any:
        """Return the type of a key's values in this shape; None if it has objects with keys that cannot be counted."""
        for part in (stated, *get_args(stated)):
            if isinstance(part, type) and issubclass(part, msgspec.Struct):
                objects = [cast("dict[str, Any]", value) for value in values if isinstance(value, dict)]
                if not objects:  # of `text or object`, texts alone: a row with an object has more keys
                    continue
                return self._shape(part, objects, {}) if len(objects) == len(values) else None
        listed = all(isinstance(value, list) for value in values)
        parts = list(chain.from_iterable(values)) if listed else values
        if not all(isinstance(part, _Scalar) for part in parts):
            return None
        return stated or (list[_Scalar] if listed else _Scalar)
