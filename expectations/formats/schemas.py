"""The JSON Schemas of the record formats, in schemas/; `python -m expectations.formats.schemas` writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec

from expectations.formats import instruction, pairs, passage, preference, qa, retrieval
from expectations.formats.versions import VERSIONS

FOLDER = Path(__file__).parent / "schemas"
RECORDS: dict[str, type[msgspec.Struct]] = {
    "instruction": instruction.InstructionRecord,
    "preference": preference.PreferenceRecord,
    "qa": qa.QaRecord,
    "retrieval_pair": pairs.RetrievalPairRecord,
    "query": retrieval.QueryRecord,
    "qrels": retrieval.QrelRecord,
    "passage": passage.PassageRecord,
}
FORMATS: dict[str, tuple[type[msgspec.Struct], int]] = {
    name: (record, VERSIONS[name]) for name, record in RECORDS.items()
}
"""Format -> its record and its version."""


def schema_of(name: str) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a format, with its version in `$id`."""
    record, version = FORMATS[name]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:ft-assets:{name}:{version}",
        **msgspec.json.schema(record),
    }


def schema_text(name: str) -> str:
    """The published file's text."""
    return json.dumps(schema_of(name), ensure_ascii=False, indent=2, sort_keys=True) + "\n"


def write_schemas(folder: Path = FOLDER) -> None:
    """Writes every schema file anew."""
    for name in FORMATS:
        (folder / f"{name}.json").write_text(schema_text(name), encoding="utf-8")


if __name__ == "__main__":
    write_schemas()
