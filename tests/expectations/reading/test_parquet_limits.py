"""Parquet files that grow out of proportion, and columns of bytes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from expectations.verify import Report, verify_file

pa: Any = pytest.importorskip("pyarrow")


# the most memory of a process; ru_maxrss would begin with that of the process which started it
_MEASURE = """
import re, sys
from pathlib import Path
from expectations.verify import verify_file
report = verify_file(Path(sys.argv[1]))
peak = re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1]
print(report.unreadable_code, report.clean, int(peak) >> 10)
"""


def _write(folder: Path, columns: dict[str, Any]) -> Path:
    import pyarrow.parquet as pq

    path = folder / "rows.parquet"
    pq.write_table(pa.table(columns), path, compression="zstd")
    assert path.stat().st_size < 2 << 20
    return path


def _verify(folder: Path, columns: dict[str, Any]) -> Report:
    return verify_file(_write(folder, columns))


def _repeated(text: str, rows: int) -> Any:
    return pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), [text])


@pytest.mark.parametrize(
    "columns",
    [
        {"question": ["b" * (80 << 20)], "answer": ["x"]},
        {"question": _repeated("b" * (1 << 20), 3000), "answer": ["x"] * 3000},
        {"question": ["x"], "context": [["b" * (1 << 19)] * 400], "answer": ["y"]},
        {"question": pa.nulls(20_000_000, pa.string())},
        {f"column{number}": ["x"] for number in range(2500)},
    ],
    ids=["cell", "dictionary", "list", "rows", "columns"],
)
def test_a_small_file_that_holds_gigabytes_is_refused_before_it_is_read(
    tmp_path: Path, columns: dict[str, Any]
) -> None:
    path = _write(tmp_path, columns)
    command = [sys.executable, "-c", _MEASURE, str(path)]
    code, clean, megabytes = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert (code, clean) == ("FT-ROW-010", "0")
    assert int(megabytes) < 400


def test_a_text_that_every_row_repeats_is_no_bomb(tmp_path: Path) -> None:
    rows = 3000
    columns: dict[str, Any] = {
        "instruction": [f"Which letter has the number {n}?" for n in range(rows)],
        "output": [f"The one with the number {n}." for n in range(rows)],
        "system": _repeated("You know the letters of the alphabet. " * 50, rows),
    }
    assert _verify(tmp_path, columns).clean == rows


def test_a_row_longer_than_allowed_is_rejected_alone(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"question": ["Which?", "b" * 3000, "And?"], "answer": ["Alpha.", "x", "Beta."]}), path)
    report = verify_file(path, max_line_bytes=2000)
    assert (report.clean, report.counts, report.rejected[0].line) == (2, {"FT-ROW-006": 1}, 2)


IMAGE = {"bytes": b"\x89PNG", "path": "a.png"}


@pytest.mark.parametrize(
    ("value", "is_refused"),
    [
        (b"\x89PNG", True),
        (IMAGE, True),
        ([IMAGE], True),
        ({"bytes": None, "path": "a.png"}, True),
        ([[{"inner": b"x"}]], True),
        ([], False),
    ],
)
def test_a_column_of_bytes_is_refused_with_its_name(tmp_path: Path, value: Any, is_refused: bool) -> None:
    columns = {"question": ["Which?"], "answer": ["Alpha."], "scan": [value]}
    report = _verify(tmp_path, columns)
    assert report.clean == (0 if is_refused else 1)
    if is_refused:
        assert report.unreadable_code == "FT-ROW-020"
        assert "`scan`" in report.unreadable
