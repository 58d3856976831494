"""Rows that parsers should not accept are rejected, each on its own line, and the rows around them are read."""

from __future__ import annotations

import gzip
import hashlib
import json
import unicodedata
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from expectations.formats.recognise import recognise
from expectations.reading import RawRow, Rejected, Source, read_raw_rows
from expectations.reading.decode import _USUAL, decode_json, decode_row
from expectations.reading.rows import Unreadable
from expectations.text.cleaning import clean, find_control_character
from expectations.violations import Refused

GOOD = b'{"a": 1}'


def _read(path: Path, **options: int) -> list[RawRow | Rejected]:
    return list(read_raw_rows(path, **options))


def _bad(path: Path, **options: int) -> list[tuple[int, str]]:
    return [(row.line, row.code) for row in _read(path, **options) if isinstance(row, Rejected)]


PLANTED = {
    "bad UTF-8": (b'{"a": "\xff"}', "FT-ROW-001"),
    "bad UTF-8 in a key nobody asks for": (b'{"a": 1, "z": "\xc3\x28"}', "FT-ROW-001"),
    "GBK": ('{"a": "密码"}'.encode("gbk"), "FT-ROW-001"),
    "a BOM in the middle": (b'\xef\xbb\xbf{"a": 1}', "FT-ROW-015"),
    "not JSON": (b"{'a': 1}", "FT-ROW-018"),
    "cut in the middle": (b'{"a": ', "FT-ROW-016"),
    "text after the value": (b'{"a": 1} {"a": 2}', "FT-ROW-016"),
    "a raw control character": (b'{"a": "\x01"}', "FT-ROW-002"),
    "an integer of 5000 digits": (b'{"a": ' + b"9" * 5000 + b"}", "FT-ROW-002"),
    "a duplicate key": (b'{"a": 1, "a": 2}', "FT-ROW-003"),
    "a duplicate key by escape": (b'{"a": 1, "\\u0061": 2}', "FT-ROW-003"),
    "a duplicate key inside": (b'{"a": [{"b": 1, "b": 1}]}', "FT-ROW-003"),
    "NaN": (b'{"a": NaN}', "FT-ROW-004"),
    "Infinity": (b'{"a": -Infinity}', "FT-ROW-004"),
    "1e400": (b'{"a": 1e400}', "FT-ROW-004"),
    "depth 100": (b'{"a": ' + b"[" * 100 + b"]" * 100 + b"}", "FT-ROW-005"),
    "depth 100000": (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "FT-ROW-005"),
    "a lone surrogate": (b'{"a": "\\ud800"}', "FT-ROW-009"),
    "a lone surrogate in a key": (b'{"\\udc00": 1}', "FT-ROW-009"),
    "too long": (b'{"a": "' + b"x" * 300_000 + b'"}', "FT-ROW-006"),
}


@pytest.mark.parametrize("defect", PLANTED)
def test_a_planted_line_is_rejected_on_its_line_and_its_neighbours_are_read(tmp_path: Path, defect: str) -> None:
    line, code = PLANTED[defect]
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n".join([GOOD, GOOD, line, GOOD]) + b"\n")
    rows = _read(path, max_line_bytes=250_000)
    assert [(row.line, row.code) for row in rows if isinstance(row, Rejected)] == [(3, code)]
    assert [(row.line, row.value) for row in rows if isinstance(row, RawRow)] == [
        (1, {"a": 1}),
        (2, {"a": 1}),
        (4, {"a": 1}),
    ]
    rejected = next(row for row in rows if isinstance(row, Rejected))
    assert rejected.offset == 2 * (len(GOOD) + 1)
    assert rejected.file_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert rejected.reason
    assert rejected.suggestion
    assert len(rejected.raw) <= 4 * 200
    assert rejected.raw.isprintable()


def test_the_same_defects_inside_a_json_array_are_rejected_on_the_line_their_element_starts_on(tmp_path: Path) -> None:
    for defect, (element, code) in PLANTED.items():
        if defect in ("cut in the middle", "too long"):
            continue
        path = tmp_path / "rows.json"
        path.write_bytes(b"[\n" + b",\n".join([GOOD, element, b'{\n "a":\n 1}', GOOD]) + b"\n]\n")
        rows = _read(path)
        assert [(row.line, isinstance(row, RawRow)) for row in rows] == [(2, True), (3, False), (4, True), (7, True)], (
            defect
        )
        assert rows[1].code == code, defect  # pyright: ignore


def test_gbk_is_named_as_such(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes('{"问题": "密码"}\n'.encode("gbk"))
    (row,) = _read(path)
    assert isinstance(row, Rejected)
    assert "GB18030" in row.reason


def test_bom_crlf_blank_lines_and_a_missing_last_line_end_are_fine(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD + b"\r\n\r\n" + GOOD + b"\r\n  \n" + GOOD)
    assert [(row.line, row.offset) for row in _read(path)] == [(1, 0), (3, 15), (5, 28)]
    assert all(isinstance(row, RawRow) for row in _read(path))


def test_line_separators_inside_texts_do_not_split_a_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(json.dumps({"a": "x\u2028y\u0085z"}, ensure_ascii=False).encode() + b"\n" + GOOD + b"\n")
    assert [row.line for row in _read(path) if isinstance(row, RawRow)] == [1, 2]


def test_a_large_integer_stays_an_integer_and_a_surrogate_pair_is_a_character(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a": 1180591620717411303424, "b": "\\ud83d\\ude00"}\n')
    (row,) = _read(path)
    assert isinstance(row, RawRow)
    assert row.value == {"a": 2**70, "b": "😀"}


def test_a_truncated_last_line_is_named_as_truncated(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(GOOD + b"\n" + b'{"a": "text that en')
    assert _bad(path) == [(2, "FT-ROW-007")]


def test_a_long_line_does_not_shift_the_lines_after_it(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    long = b'"' + b"x" * 1_000_000 + b'"'
    path.write_bytes(b"\n".join([long, GOOD, long, b"nonsense", GOOD]))
    assert _bad(path, max_line_bytes=1000) == [(1, "FT-ROW-006"), (3, "FT-ROW-006"), (4, "FT-ROW-002")]
    assert [row.offset for row in _read(path, max_line_bytes=1000) if row.line == 5] == [2 * (len(long) + 1) + 9 + 9]


def test_a_line_of_exactly_the_limit_is_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(GOOD + b"\n" + GOOD)
    assert _bad(path, max_line_bytes=len(GOOD)) == []
    assert _bad(path, max_line_bytes=len(GOOD) - 1) == [(1, "FT-ROW-006"), (2, "FT-ROW-006")]


def test_a_100_mb_line_is_read_past_in_bounded_memory(tmp_path: Path) -> None:
    import tracemalloc

    path = tmp_path / "rows.jsonl"
    with path.open("wb") as stream:
        for _ in range(100):
            stream.write(b"x" * (1 << 20))
        stream.write(b"\n" + GOOD)
    tracemalloc.start()
    rows = [(row.line, isinstance(row, RawRow)) for row in read_raw_rows(path, max_line_bytes=1 << 20)]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert rows == [(1, False), (2, True)]
    assert peak < 16 << 20


class TestArray:
    def test_an_array_named_jsonl_is_read_with_its_lines(self, tmp_path: Path) -> None:
        path = tmp_path / "part2_verify.jsonl"
        path.write_text(json.dumps([{"a": "x[1], {2}\\"}, {"a": '“”"}'}, {"a": [1, [2]]}], indent=4))
        assert [(row.line, row.value) for row in _read(path) if isinstance(row, RawRow)] == [
            (2, {"a": "x[1], {2}\\"}),
            (5, {"a": '“”"}'}),
            (8, {"a": [1, [2]]}),
        ]

    def test_elements_that_cross_the_reading_blocks_are_whole(self, tmp_path: Path) -> None:
        rows = [{"n": n, "text": '\\"密码,]}' * (n * 11 % 700)} for n in range(300)]
        path = tmp_path / "rows.json"
        for text in (json.dumps(rows), json.dumps(rows, ensure_ascii=False, indent=1)):
            path.write_text(text, encoding="utf-8")
            read = _read(path)
            assert [row.value for row in read if isinstance(row, RawRow)] == rows
            data = path.read_bytes()
            assert all(data[row.offset : row.offset + 1] == b"{" for row in read)
            assert all(data.count(b"\n", 0, row.offset) + 1 == row.line for row in read)

    def test_an_overlong_element_is_rejected_and_the_next_is_read(self, tmp_path: Path) -> None:
        path = tmp_path / "rows.json"
        path.write_bytes(b'[{"a": "' + b"x" * 600_000 + b'"},\n' + GOOD + b"]")
        assert [(row.line, isinstance(row, RawRow)) for row in _read(path, max_line_bytes=1000)] == [
            (1, False),
            (2, True),
        ]

    @pytest.mark.parametrize(
        ("data", "expected"),
        [
            (b"[]", []),
            (b" [ \n ] \n", []),
            (b"[1, 2", [(1, "FT-ROW-007")]),
            (b"[1,\n", [(1, "FT-ROW-007")]),
            (b"[1,\n,2]", [(2, "FT-ROW-013")]),
            (b"[1,]", [(1, "FT-ROW-013")]),
            (b"[1,\n2]\n\nx", [(4, "FT-ROW-013")]),
            (b"[{}}, 1]", [(1, "FT-ROW-002")]),
        ],
    )
    def test_a_broken_array_is_rejected_where_it_breaks(
        self, tmp_path: Path, data: bytes, expected: list[tuple[int, str]]
    ) -> None:
        path = tmp_path / "rows.json"
        path.write_bytes(data)
        if expected and expected[0][1] == "FT-ROW-007":
            assert [code for _, code in _bad(path)] == ["FT-ROW-007"]
        else:
            assert _bad(path) == expected

    def test_jsonl_whose_first_row_is_an_array_is_no_array(self, tmp_path: Path) -> None:
        path = tmp_path / "rows.jsonl"
        path.write_bytes(b"[1, 2]\n" + GOOD + b"\n")
        assert [row.value for row in _read(path) if isinstance(row, RawRow)] == [[1, 2], {"a": 1}]


class TestCompressed:
    def test_gzip_is_read(self, tmp_path: Path) -> None:
        path = tmp_path / "rows.jsonl.gz"
        path.write_bytes(gzip.compress(GOOD + b"\n" + GOOD))
        assert [row.line for row in _read(path) if isinstance(row, RawRow)] == [1, 2]

    @pytest.mark.parametrize("damage", ["cut", "flipped", "not gzip"])
    def test_a_damaged_file_gives_no_row_at_all(self, tmp_path: Path, damage: str) -> None:
        whole = bytearray(gzip.compress(b"\n".join(b'{"a": %d}' % n for n in range(50_000))))
        if damage == "cut":
            del whole[-len(whole) // 3 :]
        elif damage == "flipped":
            whole[len(whole) // 2] ^= 0x10
        else:
            whole = bytearray(b"plain text")
        path = tmp_path / "rows.jsonl.gz"
        path.write_bytes(whole)
        assert [(type(row), row.code) for row in _read(path)] == [(Rejected, "FT-ROW-008")]  # pyright: ignore

    def test_a_bomb_gives_no_row_at_all(self, tmp_path: Path) -> None:
        path = tmp_path / "rows.jsonl.gz"
        with gzip.open(path, "wb") as stream:
            for _ in range(80):
                stream.write(b"0" * (1 << 20))
        assert _bad(path) == [(0, "FT-ROW-010")]

    def test_a_kind_of_file_that_is_not_read_says_so(self, tmp_path: Path) -> None:
        path = tmp_path / "rows.jsonl"
        path.write_bytes(b"PK\x03\x04 an archive under another name")
        assert _bad(path) == [(0, "FT-ROW-011")]


class TestZstd:
    def _write(self, path: Path, rows: int = 50_000) -> bytearray:
        pa = pytest.importorskip("pyarrow")
        with pa.CompressedOutputStream(str(path), "zstd") as stream:
            stream.write(b"\n".join(b'{"a": %d}' % n for n in range(rows)))
        return bytearray(path.read_bytes())

    def test_rows_are_read(self, tmp_path: Path) -> None:
        path = tmp_path / "rows.jsonl.zst"
        self._write(path)
        assert [row.value["a"] for row in _read(path)] == list(range(50_000))  # pyright: ignore

    def test_a_cut_file_gives_no_row_at_all(self, tmp_path: Path) -> None:
        path = tmp_path / "rows.jsonl.zst"
        whole = self._write(path)
        path.write_bytes(whole[: len(whole) * 2 // 3])
        assert _bad(path) == [(0, "FT-ROW-008")]

    def test_a_bomb_gives_no_row_at_all(self, tmp_path: Path) -> None:
        path = tmp_path / "rows.jsonl.zst"
        pa = pytest.importorskip("pyarrow")
        with pa.CompressedOutputStream(str(path), "zstd") as stream:
            for _ in range(80):
                stream.write(b"0" * (1 << 20))
        assert _bad(path) == [(0, "FT-ROW-010")]


class TestTables:
    def test_parquet_rows_have_their_number_and_a_nan_is_rejected(self, tmp_path: Path) -> None:
        pa = pytest.importorskip("pyarrow")
        import pyarrow.parquet as pq

        path = tmp_path / "rows.parquet"
        pq.write_table(pa.table({"a": ["x", None, "z"], "b": [1.0, 2.0, float("nan")]}), path)
        assert [(row.line, row.value) for row in _read(path) if isinstance(row, RawRow)] == [
            (1, {"a": "x", "b": 1.0}), (2, {"b": 2.0}),
        ]  # fmt: skip
        assert _bad(path) == [(3, "FT-ROW-004")]

    def test_a_null_is_a_missing_key_but_a_column_of_nulls_is_a_key_of_every_row(self, tmp_path: Path) -> None:
        pa = pytest.importorskip("pyarrow")
        import pyarrow.parquet as pq

        path = tmp_path / "rows.parquet"
        turns = [[{"role": "user", "content": "？"}, {"role": "assistant", "content": "。"}]] * 2
        pq.write_table(pa.table({"messages": turns, "golden_reference": [None, None], "id": ["1", None]}), path)
        assert [sorted(row.value) for row in _read(path) if isinstance(row, RawRow)] == [
            ["golden_reference", "id", "messages"], ["golden_reference", "messages"],
        ]  # fmt: skip
        assert recognise(path).name == "kbalign-merged"

    def test_a_damaged_parquet_file_gives_no_row_at_all(self, tmp_path: Path) -> None:
        pa = pytest.importorskip("pyarrow")
        import pyarrow.parquet as pq

        path = tmp_path / "rows.parquet"
        pq.write_table(pa.table({"a": [f"text {n}" for n in range(5000)]}), path)
        path.write_bytes(path.read_bytes()[:-100])
        assert _bad(path) == [(0, "FT-ROW-008")]

    def test_a_folder_of_the_datasets_library_is_read(self, tmp_path: Path) -> None:
        datasets = pytest.importorskip("datasets")
        folder = tmp_path / "saved"
        parts = {"train": datasets.Dataset.from_list([{"a": "x"}, {"a": "y"}]),
                 "test": datasets.Dataset.from_list([{"a": "z"}])}  # fmt: skip
        datasets.DatasetDict(parts).save_to_disk(str(folder))
        rows = [(row.line, row.value) for row in _read(folder) if isinstance(row, RawRow)]
        assert rows == [(1, {"a": "x"}), (2, {"a": "y"}), (3, {"a": "z"})]
        next(folder.glob("*/data-*.arrow")).unlink()
        assert _bad(folder) == [(0, "FT-ROW-008")]


def test_one_pretty_printed_object_is_one_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps({"data": [1, 2]}, indent=2), "utf-8")
    assert [(row.line, row.value) for row in _read(path)] == [(1, {"data": [1, 2]})]  # pyright: ignore


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


@given(value=_JSON, ascii=st.booleans(), spaced=st.sampled_from([":", ": ", " :", "\t: "]))
def test_what_any_writer_writes_is_read_as_it_was_written(value: object, ascii: bool, spaced: str) -> None:
    text = json.dumps(value, ensure_ascii=ascii, separators=(",", spaced))
    row = decode_row(Source(Path("rows.jsonl")), 1, 0, text.encode())
    assert isinstance(row, RawRow)
    assert row.value == value


@given(key=st.text(max_size=3), value=_JSON, spaced=st.sampled_from([":", ": ", " :", " \t:"]), deep=st.booleans())
def test_a_key_given_twice_is_always_found(key: str, value: object, spaced: str, deep: bool) -> None:
    name, inner = json.dumps(key), json.dumps(value, ensure_ascii=False)
    text = f'{{{name}{spaced}{inner},"other":"\\":",{name}:1}}'
    if deep:
        text = f'[{{"x": {text}}}]'
    with pytest.raises(Unreadable, match="appears 2 times" if key != "other" else "times"):
        decode_json(text, text.encode(), whole=True)


def test_tsv_rows_are_objects_under_a_header_and_else_lists_of_cells(tmp_path: Path) -> None:
    path = tmp_path / "qrels.tsv"
    path.write_bytes(b"\xef\xbb\xbfquery-id\tcorpus-id\tscore\r\nq1\td1\t1\r\n\xff\td1\t1\n")
    assert [row.value for row in _read(path) if isinstance(row, RawRow)] == [
        {"query-id": "q1", "corpus-id": "d1", "score": 1}
    ]
    assert _bad(path) == [(3, "FT-ROW-001")]
    path.write_bytes(b"q1\td1\t1\r\n\xff\td1\t1\n")
    assert [row.value for row in _read(path) if isinstance(row, RawRow)] == [["q1", "d1", "1"]]
    assert _bad(path) == [(2, "FT-ROW-001")]


@pytest.mark.parametrize("name", [".", "missing.jsonl"])
def test_what_is_no_file_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(Refused, match="FT-ROW-012"):
        _read(tmp_path / name)


_LINES = st.one_of(
    st.binary(max_size=60),
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=10),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    ).map(lambda value: json.dumps(value).encode()),
    st.integers(min_value=1, max_value=3000).map(lambda depth: b"[" * depth),
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(_LINES, max_size=6), st.sampled_from(["rows.jsonl", "rows.tsv"]))
def test_arbitrary_bytes_never_crash_it_and_every_line_is_accounted_for(
    tmp_path: Path, lines: list[bytes], name: str
) -> None:
    data = b"\n".join([GOOD, *lines])
    path = tmp_path / name
    path.write_bytes(data)
    rows = _read(path, max_line_bytes=2000)
    physical = data.split(b"\n")
    assert [row.line for row in rows] == [n for n, line in enumerate(physical, 1) if line.strip(b" \t\r\n")]
    assert all(row.offset == len(b"\n".join(physical[: row.line - 1])) + (row.line > 1) for row in rows)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200), st.sampled_from(["rows.json", "rows.json.gz", "rows.tsv", "rows.csv", "rows.qrels"]))
def test_arbitrary_files_and_arrays_never_crash_it(tmp_path: Path, data: bytes, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    _read(path, max_line_bytes=100)
    path.write_bytes(b"[" + data)
    _read(path, max_line_bytes=100)


def test_what_passes_as_usual_chinese_is_changed_by_no_cleaning() -> None:
    usual = [chr(code) for code in range(0x80, 0x110000) if _USUAL.fullmatch(chr(code))]
    assert len(usual) > 20_000
    assert [c for c in usual if clean(c) != c or not unicodedata.is_normalized("NFC", "か" + c)] == []
    assert [c for c in usual if unicodedata.combining(c) or find_control_character(c)] == []
