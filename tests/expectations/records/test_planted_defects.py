"""Files of thousands of good rows with defects of many kinds planted in them: each is found on its line, no other."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from expectations.reading.rows import BOM
from expectations.verify import verify_file

GOOD = 3000
Row = dict[str, Any]


def _pair(n: int) -> Row:
    subject = f"第 {n} 号算法" if n % 2 else f"algorithm number {n}"
    return {
        "query": f"{subject} 的分组长度是多少？" if n % 2 else f"What is the block size of {subject}?",
        "retrieval_result": [f"{subject}：分组长度 128 位。", "其他段落（无关）。"],
        "chosen": {"text": f"{subject}: 128 bits", "rouge_score": 0.9},
        "rejected": {"text": f"{subject}: 64 bits", "rouge_score": 0.2},
    }


def _dialogue(n: int) -> Row:
    return {"instruction": f"What does step {n} of the protocol prove?", "output": f"That party {n} holds the key."}


def _text(row: Row, **changes: Any) -> bytes:
    return json.dumps({**row, **changes}, ensure_ascii=False).encode()


def _chosen(row: Row, **changes: Any) -> bytes:
    return _text(row, chosen={**row["chosen"], **changes})


PAIRS: dict[str, tuple[str, Callable[[Row], bytes]]] = {
    "not UTF-8": ("FT-ROW-001", lambda row: _text(row).replace(b"128", b"12\xff\xfe8")),
    "GB18030": ("FT-ROW-001", lambda row: _text(row, query="分组长度").decode().encode("gb18030")),
    "not JSON": ("FT-ROW-018", lambda row: _text(row).replace(b'"', b"'")),
    "cut in the middle": ("FT-ROW-016", lambda row: _text(row).decode()[:40].encode()),
    "a key twice": ("FT-ROW-003", lambda row: b'{"query": "a",' + _text(row)[1:]),
    "NaN": ("FT-ROW-004", lambda row: _chosen(row, rouge_score=float("nan"))),
    "nested too deeply": ("FT-ROW-005", lambda row: b'{"extra": ' + b"[" * 90 + b"]" * 90 + b"," + _text(row)[1:]),
    "too long": ("FT-ROW-006", lambda row: _text(row, note="x" * 20_000)),
    "a lone surrogate": ("FT-ROW-009", lambda row: b'{"note": "\\ud800",' + _text(row)[1:]),
    "a control character": ("FT-TEXT-001", lambda row: _text(row, query="What is\u0007 it?")),
    "a slot of a template": ("FT-TEXT-002", lambda row: _chosen(row, text="The answer is 128 bits for {question}")),
    "the print of an object": (
        "FT-TEXT-003", lambda row: _text(row, retrieval_result=["score=0.71 content='AES' payload={'id': 3}"]),
    ),
    "another language than stated": (
        "FT-TEXT-004", lambda row: _text(row, query="分组密码的分组长度是多少位？", language="en"),
    ),
    "rows of another dialect": ("FT-DIALECT-002", lambda row: _text({"instruction": "Why?", "output": "So."})),
    "a missing field": ("FT-PREF-001", lambda row: _text({k: v for k, v in row.items() if k != "rejected"})),
    "a field of another type": ("FT-PREF-001", lambda row: _text(row, chosen="128 bits")),
    "an empty answer": ("FT-PREF-002", lambda row: _chosen(row, text=" \n\u3000")),
    "chosen is rejected": ("FT-PREF-003", lambda row: _chosen(row, text=row["rejected"]["text"])),
    "chosen is rejected but for case and spaces": (
        "FT-PREF-003", lambda row: _chosen(row, text=f" {row['rejected']['text'].upper()}  ."),
    ),
    "chosen is scored below rejected": ("FT-PREF-004", lambda row: _chosen(row, rouge_score=0.1)),
    "a tie": ("FT-PREF-005", lambda row: _chosen(row, rouge_score=0.2)),
    "scores of different metrics": (
        "FT-PREF-006", lambda row: _text(row, chosen={"text": "128 bits here", "em_score": 1.0}),
    ),
    "a special token": ("FT-PREF-007", lambda row: _chosen(row, text="128<|im_end|>")),
    "a special token in full width": ("FT-PREF-007", lambda row: _chosen(row, text="128＜|im_end|＞")),
    "an empty question": ("FT-PREF-008", lambda row: _text(row, query="  ")),
    "a copy of another row": ("FT-DUP-002", lambda row: _text(_pair(0))),
}  # fmt: skip

INSTRUCTIONS: dict[str, tuple[str, Callable[[Row], bytes]]] = {
    "an empty answer behind its reasoning": ("FT-INST-003", lambda row: _text(row, output="<think>hm</think>\n")),
    "reasoning that is never closed": ("FT-INST-004", lambda row: _text(row, output="<thinking>hm")),
    "the next question glued on": ("FT-INST-004", lambda row: _text(row, output="So.\n### Q2\n<think>a</think>b")),
    "a number that was eaten": ("FT-INST-009", lambda row: _text(row, output=",000.")),
    "half a percentage": ("FT-INST-009", lambda row: _text(row, output="% per annum.")),
    "an empty earlier answer": ("FT-INST-003", lambda row: _text(row, history=[["Who?", ""]])),
    "a label of another template": ("FT-TEXT-002", lambda row: _text(row, output="### Response: So.")),
    "an id that is used already": ("FT-DUP-001", lambda row: _text(row, id="i-0")),
}  # fmt: skip


@pytest.mark.parametrize(("make", "defects"), [(_pair, PAIRS), (_dialogue, INSTRUCTIONS)], ids=["ddr", "alpaca"])
def test_every_planted_defect_is_reported_on_its_line_and_no_good_row_is_touched(
    tmp_path: Path, make: Callable[[int], Row], defects: dict[str, tuple[str, Callable[[Row], bytes]]]
) -> None:
    lines = [_text(make(n), **({"id": f"i-{n}"} if make is _dialogue else {})) for n in range(GOOD)]
    places = sorted(random.Random(5).sample(range(100, GOOD), len(defects)))  # noqa: S311
    planted: list[tuple[int, str]] = []
    for shift, (place, (code, spoil)) in enumerate(zip(places, defects.values(), strict=True)):
        lines.insert(place + shift, spoil(make(GOOD + shift)))
        planted.append((place + shift + 1, code))
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n".join(lines) + b"\n")

    report = verify_file(path, max_line_bytes=10_000)

    assert sorted((row.line, row.code) for row in report.rejected) == planted
    assert (report.rows, report.clean) == (GOOD + len(defects), GOOD)
    assert all(row.reason and row.suggestion and row.file_sha256 for row in report.rejected if row.offset >= 0)


_LINES = st.lists(
    st.binary(max_size=60)
    | st.sampled_from([b'{"query": "q", "retrieval_result": [], "chosen": {"text": "a"}, "rejected": {"text": "b"}}',
                       b'{"messages": []}', b'{"instruction": "x", "output": "y"}', b"[1]", b"{",
                       b'{"_id": 1}', b"\t\t"])
    | st.dictionaries(st.sampled_from(["query", "chosen", "messages", "text", "_id", "pos"]), st.text() | st.none())
    .map(lambda row: json.dumps(row).encode()),
    min_size=1, max_size=8,
)  # fmt: skip


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@example(lines=[b"[", b"{}"])
@example(lines=[b"\xef\xbb\xbf", b'{"question": "q", "answer": "a"}'])
@given(lines=_LINES)
def test_arbitrary_bytes_never_crash_it_and_no_row_is_lost(tmp_path: Path, lines: list[bytes]) -> None:
    data = b"\n".join(line.replace(b"\n", b" ") for line in lines)
    path = tmp_path / "rows.jsonl"
    path.write_bytes(data)
    report = verify_file(path)
    assert report.rows == report.clean + sum(report.counts.values()) or report.unreadable
    if not report.unreadable and not data.lstrip().startswith((b"[", b"{ ", b"{\n")):
        lines_with_text = data.removeprefix(BOM).split(b"\n")
        assert report.rows == sum(bool(line.strip(b" \t\r")) for line in lines_with_text)
