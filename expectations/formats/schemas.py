"""The JSON Schemas of the record formats, in schemas/; `python -m expectations.formats.schemas` writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec

from expectations.formats import registry

FOLDER = Path(__file__).parent / "schemas"
FORMATS: dict[str, tuple[type[msgspec.Struct], int]] = {
    name: (format.record, format.version) for name, format in registry.FORMATS.items()
}
"""Format -> its record and its version."""


def schema_of(name: str) -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of a format, with its version in `$id`."""
    record, version = FORMATS[name]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:ft-assets:{name}:{version}",
        **msgspec.json.schema(record),
    }


def schema_text(name: str) -> str:
    """Return the text of the published file."""
    return json.dumps(schema_of(name), ensure_ascii=False, indent=2, sort_keys=True) + "\n"


def write_schemas(folder: Path = FOLDER) -> None:
    """Write every schema file again."""
    for name in FORMATS:
        (folder / f"{name}.json").write_text(schema_text(name), encoding="utf-8")


if __name__ == "__main__":
    write_schemas()
