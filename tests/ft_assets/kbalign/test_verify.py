"""Judged questions: the judge is judged, each rule sets its own rows aside, and a threshold costs no call."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from expectations.formats.instruction import InstructionRecord
from expectations.records.read import read_records
from expectations.violations import Refused
from ft_assets.cli import cli
from ft_assets.generation.jobs import VerifiedSummary
from ft_assets.generation.kbalign_checks import GATES
from ft_assets.graph.gates import judge
from ft_assets.graph.quarantine import QUARANTINE, read_quarantine
from ft_assets.kbalign.jobs import VERDICTS_FILE

from .conftest import (
    HELD_OUT,
    KBALIGN,
    LONG_QUESTION,
    TWIN,
    PumpProject,
    names_in,
    read_answer,
    write_question,
)

pytestmark = pytest.mark.slow


def summary(pumps: PumpProject) -> VerifiedSummary:
    return pumps.artifact("kbalign_verified").summary_as(VerifiedSummary)


def failed(pumps: PumpProject) -> set[str]:
    """Return the codes of the gates on the verified rows that fail."""
    codes: set[str] = set()
    for gate in GATES:
        codes |= {violation.code for violation in judge(gate, pumps.evidence).violations}
    return codes


def make(pumps: PumpProject) -> None:
    """Make all assets of the stage, after the settings; blocking checks of the last one may fail."""
    pumps.run("kbalign_settings", "retrieval_settings", *KBALIGN, raise_on_error=False)


def test_verified_rows_are_training_rows_with_their_way(made: PumpProject):
    pumps = made
    rows = pumps.rows("kbalign_verified", "train.parquet")
    assert rows and pumps.rows("kbalign_verified", "validation.parquet") == []
    instruction = pumps.rows("instruction_splits", "train.parquet")[0]
    assert set(instruction) <= set(rows[0])
    contents = {row["passage_id"]: row["content"] for row in pumps.rows("passages", "passages.parquet")}
    for row in rows:
        assert contents[row["passage_ids"][0]] in row["context"]
        assert not names_in(row["context"]) & set(HELD_OUT)
        assert row["judge"] and row["rules"] and row["judge_key"] and row["found_at"] >= 1
        assert row["evidence"] == row["passage_ids"] and row["source"].startswith("kbalign_")
    assert {len(row["context"]) for row in rows} > {1}
    assert failed(pumps) == set()
    found = summary(pumps)
    assert found.judge_is_author, "both are the prompted generator, and the page says so"
    assert found.judged == found.train + found.quarantined
    assert (found.judge_right, found.judge_recall, found.judge_false_accept) == (2, 1.0, 0.0)
    assert found.judge_wrong > 0
    assert sum(row["kind"] == "cloze" for row in rows) <= 0.4 * len(rows)


def test_exported_rows_are_read_back_as_they_are(
    made: PumpProject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(made.root)
    monkeypatch.setenv("FT_STATE_DIR", str(made.root / "state"))
    file = tmp_path / "rows.jsonl"
    run = CliRunner().invoke
    exported = run(cli, ["export", "kbalign", "--to", str(file)])
    assert exported.exit_code == 0, exported.output
    verified = run(cli, ["verify", str(file), "--format", "instruction"])
    assert verified.exit_code == 0, verified.output
    fields = ("question", "context", "answer", "evidence", "group", "language")
    rows = {row["record_id"]: row for row in made.rows("kbalign_verified", "train.parquet")}
    read = [one for one in read_records(file, "instruction") if isinstance(one, InstructionRecord)]
    assert {one.record_id: [getattr(one, name) for name in fields] for one in read} == {
        record_id: [row[name] for name in fields] for record_id, row in rows.items()
    }
    assert "--dialect is for ddr" in run(cli, ["export", "kbalign", "--to", "other", "--dialect", "ultrarag"]).output


def test_a_question_that_the_judge_answers_otherwise_is_set_aside(pumps: PumpProject):
    pumps.script.judge = lambda passages, question: (
        "99 parts" if "parts" in question else read_answer(passages, question)
    )
    make(pumps)
    verdicts = [row for row in pumps.rows("kbalign_verified", VERDICTS_FILE) if row["student_answer"] == "99 parts"]
    assert verdicts and {row["code"] for row in verdicts} == {"FT-KBA-005"}
    assert "parts" not in str([row["answer"] for row in pumps.rows("kbalign_verified", "train.parquet")])


def test_a_judge_that_cannot_tell_right_from_wrong_is_refused(pumps: PumpProject):
    pumps.script.judge = lambda passages, question: "no idea"
    make(pumps)
    assert failed(pumps) >= {"FT-KBA-020", "FT-KBA-024"}
    filters = {"Cedra": "F-71", "Fenna": "F-71"}  # answers of other questions
    pumps.script.judge = lambda passages, question: next(
        (wrong for name, wrong in filters.items() if name in passages), read_answer(passages, question)
    )
    pumps.script.weights = "w2"
    pumps.configure(kbalign={"max_new_tokens": 49})
    make(pumps)
    assert "FT-KBA-023" in failed(pumps)


def test_a_released_judge_that_is_not_there_is_refused_by_its_gate(pumps: PumpProject):
    pumps.configure(kbalign={"judge": "released"})
    with pytest.raises(Refused, match="FT-ADP-003"):
        pumps.run("kbalign_settings", *KBALIGN)


def test_a_changed_threshold_costs_no_call(pumps: PumpProject):
    make(pumps)
    before = pumps.artifact("kbalign_verified").recipe_id
    pumps.configure(kbalign={"agree_f1": 0.9, "found_in_top": 3, "min_judge_recall": 0.5, "closed_book": "quarantine"})
    assert pumps.calls_of(lambda: make(pumps)) == 0
    assert pumps.artifact("kbalign_verified").recipe_id != before


def test_a_twin_of_a_hand_written_question_is_set_aside(made: PumpProject):
    twins = list(read_quarantine(made.artifact("kbalign_records").file(QUARANTINE)))
    assert any(line.code == "FT-KBA-008" and TWIN in line.reason for line in twins)
    assert TWIN not in str(made.rows("kbalign_verified", "train.parquet"))


def test_a_copy_of_a_held_out_question_is_set_aside(pumps: PumpProject):
    copied = LONG_QUESTION.split(", if", maxsplit=1)[0]
    question = f"{copied} or when engineers clean the Hadra pump after many hours without new oil in service?"
    pumps.script.author = lambda prompt: question if "Answer: F-77\n" in prompt else write_question(prompt)
    pumps.script.judge = lambda passages, asked: (
        "F-77" if asked == question and "F-77" in passages else read_answer(passages, asked)
    )
    pumps.configure(kbalign={"found_in_top": 9, "short_per_passage": 5})
    make(pumps)
    verdicts = {row["code"]: row["reason"] for row in pumps.rows("kbalign_verified", VERDICTS_FILE)}
    assert "of the question of instruction record i2" in verdicts["FT-KBA-009"]


def test_the_page_shows_rows_next_to_their_passages(pumps: PumpProject):
    page = pumps.run(*KBALIGN, raise_on_error=False)["kbalign_verified"]
    assert page["funnel"].startswith("| after the step | candidates left |")
    assert "| verified |" in page["samples"] and "parts**" in page["samples"]
    assert page["passages_with_rows"] > 0


def test_a_vague_question_and_one_known_by_heart_are_set_aside(pumps: PumpProject):
    vague = "How many parts has a pump that engineers of Halverstad built?"
    pumps.script.author = lambda prompt: vague if "parts\n" in prompt else write_question(prompt)
    pumps.script.by_heart = lambda question: "900 小时" if "河图" in question else "no idea"
    pumps.configure(kbalign={"found_in_top": 1, "closed_book": "quarantine"})
    make(pumps)
    verdicts = pumps.rows("kbalign_verified", VERDICTS_FILE)
    by_code = {row["code"]: row for row in verdicts}
    assert by_code["FT-KBA-006"]["closed_answer"] == "900 小时"
    assert "is not among the first 1" in by_code["FT-KBA-007"]["reason"]
