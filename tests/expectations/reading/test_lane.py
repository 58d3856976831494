"""The quick lane gives the same rows and the same refusals as the general way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from expectations.formats.dialect import DEFAULT_POLICY
from expectations.formats.recognise import recognise_rows
from expectations.reading import READ_BATCH, RawRow, Rejected, read_raw_rows
from expectations.records.read import OpenedFile, Record, convert_rows, read_records

SAMPLE = 2 * READ_BATCH
"""Rows that are decoded before the lane opens."""
DDR: dict[str, Any] = {
    "id": 1, "query": "AES 的分组多长？", "retrieval_result": ["一", "AES 的分组为 128 比特。"],
    "chosen": {"text": "128 比特", "temperature": 0.5, "rouge_score": 0.9},
    "rejected": {"text": "256 比特", "temperature": 0.9, "rouge_score": 0.1},
}  # fmt: skip


def _ddr(n: int, **changes: Any) -> dict[str, Any]:
    return {**DDR, "id": n, "query": f"AES-{n} 的分组多长？", **changes}


def _write(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path


def _many(count: int) -> list[str]:
    return [json.dumps(_ddr(n), ensure_ascii=False) for n in range(count)]


def _slowly(path: Path) -> list[Record | Rejected]:
    """The records by the general way: no lane is ever opened."""
    rows = list(read_raw_rows(path))
    found = recognise_rows(
        [row for row in rows[:100] if isinstance(row, RawRow)], name=path.name, formats=["preference"]
    )
    return list(convert_rows(path, rows, found and found.dialect, DEFAULT_POLICY, to="preference"))


def _typed(path: Path) -> list[bool]:
    """True for each row that was read by the lane."""
    opened = OpenedFile(path)
    found = recognise_rows(opened.read, name=path.name)
    assert found
    rest = [*opened.rows(found.dialect)][SAMPLE:]
    return [isinstance(row, RawRow) and row.typed is not None for row in rest]


def test_rows_of_one_shape_come_by_the_lane_and_become_the_same_records(tmp_path: Path) -> None:
    path = _write(tmp_path / "ddr.jsonl", _many(SAMPLE + 20))
    assert all(_typed(path))
    assert list(read_records(path, "preference")) == _slowly(path)


def test_a_row_of_another_shape_goes_the_general_way(tmp_path: Path) -> None:
    odd = [
        json.dumps(_ddr(200, note="x")),
        json.dumps({key: value for key, value in _ddr(201).items() if key != "id"}),
        json.dumps(_ddr(202, chosen=None)),
        json.dumps(_ddr(203, id={"a": 1})),
        json.dumps(_ddr(204, id=[[1]])),
    ]
    path = _write(tmp_path / "ddr.jsonl", [*_many(SAMPLE), *odd])
    assert _typed(path) == [False] * 5
    assert list(read_records(path, "preference")) == _slowly(path)


def test_a_key_given_twice_is_found_behind_a_hundred_good_rows(tmp_path: Path) -> None:
    good = json.dumps(_ddr(300), ensure_ascii=False)
    twice = [
        good.replace('"id": 300', '"query": "x"'),  # as many keys as its neighbours
        good.replace('"id": 300', '"id": 300, "id": 301'),
        good.replace('"temperature": 0.5', '"text": "zwei"'),
        good.replace('"id": 300', '"query" : "x"'),
        good.replace('"id": 300', r'"quer\u0079": "x"'),
    ]
    path = _write(tmp_path / "ddr.jsonl", [*_many(SAMPLE), *twice])
    found = [record for record in read_records(path, "preference") if isinstance(record, Rejected)]
    assert [(row.line, row.code) for row in found] == [(line, "FT-ROW-003") for line in range(SAMPLE + 1, SAMPLE + 6)]


def test_colons_and_quotes_in_texts_cost_the_lane_and_nothing_else(tmp_path: Path) -> None:
    texts = ['he said: "yes":', '":":":', "a : b", '{"query": 1}', "12:30", "https://a.b"]
    lines = [json.dumps(_ddr(400 + n, query=f"{text} {n}?"), ensure_ascii=False) for n, text in enumerate(texts)]
    path = _write(tmp_path / "ddr.jsonl", [*_many(SAMPLE), *lines])
    assert list(read_records(path, "preference")) == _slowly(path)


def test_a_first_row_that_fails_does_not_close_the_lane(tmp_path: Path) -> None:
    path = _write(
        tmp_path / "ddr.jsonl", [json.dumps(_ddr(500, chosen=None)), json.dumps({"query": 1}), *_many(SAMPLE + 20)]
    )
    assert all(_typed(path))


def test_rows_of_an_older_version_are_brought_up_to_date_behind_newer_ones(tmp_path: Path) -> None:
    rows = [
        {"format_version": 2, "question": f"问题 {n}？", "chosen": "好", "rejected": f"坏 {n}"} for n in range(SAMPLE)
    ]
    rows += [{**rows[0], "format_version": version, "question": f"版本 {version}？"} for version in (1, 2, 99)]
    path = _write(tmp_path / "preference.jsonl", [json.dumps(row, ensure_ascii=False) for row in rows])
    assert _typed(path) == [False, True, False]
    last = list(read_records(path, "preference"))[-1]
    assert isinstance(last, Rejected) and last.code == "FT-VERSION-001"


@settings(max_examples=60, deadline=None)
@given(
    st.fixed_dictionaries(
        {
            "query": st.text(min_size=1),
            "retrieval_result": st.lists(st.text(), max_size=3),
            "id": st.integers() | st.text(),
        }
    ),
    st.text(),
    st.text(),
    st.floats(allow_nan=False, allow_infinity=False) | st.none() | st.integers(),
)
def test_any_row_becomes_the_same_by_both_ways(
    tmp_path_factory: Any, changes: dict[str, Any], chosen: str, rejected: str, score: Any
) -> None:
    path = tmp_path_factory.mktemp("rows") / "ddr.jsonl"
    row = _ddr(
        1000,
        **changes,
        chosen={"text": chosen, "temperature": 0.1, "rouge_score": score},
        rejected={"text": rejected, "temperature": 0.1, "rouge_score": 0.1},
    )
    escaped = bool(len(chosen) % 2)
    _write(path, [*_many(SAMPLE), json.dumps(row, ensure_ascii=escaped).encode("utf-8", "replace").decode()])
    assert list(read_records(path, "preference")) == _slowly(path)
