"""Rules on texts that a data set allows: their rows are used and counted, all other rules hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from expectations.codes import CODES
from expectations.formats.dialect import ALLOWABLE, ReadPolicy, explain_not_allowed
from expectations.verify import Report, verify_file
from expectations.verify_reports import report_json, report_markdown, report_table

Q = "How is a letter begun?"
BROKEN: dict[str, dict[str, Any]] = {
    "FT-TEXT-002": {"instruction": Q, "output": "{question}"},
    "FT-TEXT-003": {"instruction": Q, "output": "It prints Document(page_content='x')."},
    "FT-TEXT-005": {"instruction": Q, "output": "None"},
    "FT-TEXT-007": {"instruction": Q, "output": "He fÃ¤hrt home."},
    "FT-TEXT-008": {"instruction": Q, "output": "It is \u2067שלום\u2069 here."},
    "FT-TEXT-009": {"instruction": Q, "output": "See <image> above."},
    "FT-INST-009": {"instruction": Q, "output": "% of all."},
    "FT-QA-004": {"question": Q, "answer": "% of all.", "references": ["x"]},
}


def verify(folder: Path, *rows: object, allow: tuple[str, ...] = ()) -> Report:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return verify_file(path, policy=ReadPolicy(allow=allow))


def test_every_rule_that_can_be_allowed_is_tried() -> None:
    assert set(BROKEN) == set(ALLOWABLE) <= set(CODES)


@pytest.mark.parametrize("code", ALLOWABLE)
def test_a_row_that_breaks_an_allowed_rule_is_used_and_counted(tmp_path: Path, code: str) -> None:
    row = BROKEN[code]
    assert verify(tmp_path, row).counts == {code: 1}
    report = verify(tmp_path, row, allow=(code,))
    assert (report.clean, report.counts, report.allowed) == (1, {}, {code: 1})
    other = next(other for other in ALLOWABLE if other != code)
    assert verify(tmp_path, row, allow=(other,)).counts == {code: 1}


def test_other_rules_hold(tmp_path: Path) -> None:
    rows = [
        {"instruction": Q, "output": "{question}", "weight": 0},
        {"instruction": Q, "output": "{question} <|im_end|>"},
        {"instruction": "", "output": "{question}"},
    ]
    report = verify(tmp_path, *rows, allow=("FT-TEXT-002",))
    assert (report.clean, report.allowed) == (0, {})
    assert set(report.counts) == {"FT-KEY-002", "FT-INST-006", "FT-INST-002"}


def test_residue_that_rows_repeat_is_counted_once_a_row(tmp_path: Path) -> None:
    rows = [{"instruction": f"Case {n}?", "output": f"It says Name: {{{{ name }}}} in case {n}."} for n in range(5)]
    both = {"instruction": "{question}", "output": "It says Name: {{ name }} here."}
    assert verify(tmp_path, *rows).counts["FT-TEXT-002"] == 5
    report = verify(tmp_path, *rows, both, allow=("FT-TEXT-002",))
    assert (report.clean, report.allowed) == (6, {"FT-TEXT-002": 6})


def test_every_format_can_allow(tmp_path: Path) -> None:
    slot = "{question}"
    pair = {"prompt": slot, "chosen": "a", "rejected": "b"}
    triplet = {"query": slot, "pos": ["a text"], "neg": ["b text"]}
    chunk = {"content": "text", "questions": [slot, "Q2?"], "answers": ["a", "b"]}
    for row, rows in ((pair, 1), (triplet, 1), (chunk, 1)):
        assert verify(tmp_path, row, allow=("FT-TEXT-002",)).allowed == {"FT-TEXT-002": rows}, row


def test_reports_name_the_rule_and_the_rows(tmp_path: Path) -> None:
    rows = [BROKEN["FT-TEXT-002"] | {"instruction": f"Case {n}?"} for n in range(3)]
    report = verify(tmp_path, *rows, allow=("FT-TEXT-002",))
    assert "allowed: FT-TEXT-002 (3 rows)" in report_table(report)
    assert "allowed: FT-TEXT-002 (3 rows)" in report_markdown([report])
    assert report_json(report)["allowed"] == {"FT-TEXT-002": 3}


def test_a_rule_that_finds_a_fault_in_any_text_cannot_be_allowed() -> None:
    reason = explain_not_allowed(["FT-TEXT-002", "FT-INST-003", "FT-NONE-1"])
    assert reason.startswith("FT-INST-003 (The answer is empty), FT-NONE-1 cannot be allowed")
    assert explain_not_allowed(ALLOWABLE) == ""


def test_recipes_without_these_settings_stay_equal() -> None:
    assert ReadPolicy().recipe() == {"thinking": "allow_empty", "min_margin": 0.0, "traditional": "keep"}
    assert ReadPolicy(allow=("FT-TEXT-002",), turns="all").recipe().keys() >= {"allow", "turns"}
