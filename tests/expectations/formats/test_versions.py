"""Rows of an older version are migrated to what the golden files hold; newer ones are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from expectations.formats.dialect import Format
from expectations.formats.registry import FORMATS
from expectations.formats.schemas import FOLDER, schema_text
from expectations.reading import Rejected
from expectations.records.read import read_records

Write = Callable[..., Path]

GOLDEN = Path(__file__).parent / "golden"
NAMES = list(FORMATS)


def _versions_before(format: Format[Any]) -> list[tuple[str, int]]:
    return [(format.name, version) for version in range(1, format.version)]


STEPS = list(chain.from_iterable(map(_versions_before, FORMATS.values())))


def _golden(kind: str, version: int) -> dict[str, Any]:
    return json.loads((GOLDEN / f"{kind}.v{version}.json").read_text("utf-8"))


def _read(path: Path, kind: str) -> Any:
    (record,) = read_records(path, cast(Any, kind))
    return record


@pytest.mark.parametrize(("kind", "version"), STEPS)
def test_every_migration_gives_what_its_golden_file_says(kind: str, version: int) -> None:
    old, new = _golden(kind, version), _golden(kind, version + 1)
    assert FORMATS[kind].migrations[version - 1](old) | {"format_version": version + 1} == new


@pytest.mark.parametrize(("kind", "version"), STEPS)
def test_a_row_of_an_older_version_becomes_the_current_record(write: Write, kind: str, version: int) -> None:
    record = _read(write("old.jsonl", [_golden(kind, version)]), kind)
    expected = _golden(kind, FORMATS[kind].version) | {"line_no": 1}
    del expected["format_version"]
    assert msgspec.to_builtins(record) == expected


@pytest.mark.parametrize("kind", ["instruction", "preference", "passage", "query", "qrels"])
def test_a_row_without_a_version_is_of_the_current_one(write: Write, kind: str) -> None:
    row = _golden(kind, FORMATS[kind].version)
    assert _read(write("a.jsonl", [row]), kind) == _read(
        write("a.jsonl", [{key: value for key, value in row.items() if key != "format_version"}]), kind
    )


@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.parametrize("ahead", [1, 40])
def test_a_newer_version_is_refused_with_both_numbers(write: Write, kind: str, ahead: int) -> None:
    newer = FORMATS[kind].version + ahead
    canonical = FORMATS[kind].canonical
    refused = _read(write("new.jsonl", [dict.fromkeys(canonical.marks, "1") | {"format_version": newer}]), kind)
    assert isinstance(refused, Rejected)
    assert (refused.code, refused.path) == ("FT-VERSION-001", "$.format_version")
    assert str(newer) in refused.reason
    assert f"1 to {FORMATS[kind].version}" in refused.reason


@pytest.mark.parametrize("version", [0, -1, "2", 1.0, True, None])
def test_what_is_no_version_is_refused(write: Write, version: Any) -> None:
    refused = _read(write("odd.jsonl", [_golden("passage", 2) | {"format_version": version}]), "passage")
    assert refused.code == "FT-VERSION-001"


def test_a_migration_leaves_the_row_it_is_given_as_it_was() -> None:
    row = _golden("instruction", 1)
    before = json.dumps(row)
    FORMATS["instruction"].migrate(row)
    assert json.dumps(row) == before


@pytest.mark.parametrize("kind", NAMES)
def test_the_published_schema_is_fresh_and_names_its_version(kind: str) -> None:
    published = (FOLDER / f"{kind}.json").read_text("utf-8")
    assert published == schema_text(kind)
    assert f"urn:ft-assets:{kind}:{FORMATS[kind].version}" in published


def test_no_schema_is_published_that_is_of_no_format() -> None:
    assert {path.stem for path in FOLDER.glob("*.json")} == set(NAMES)
