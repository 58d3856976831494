"""Judged questions: the judge is judged, each rule sets its own rows aside, and a threshold costs no call."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ft_assets.generation.jobs import VerifiedSummary
from ft_assets.generation.kbalign_checks import GATES
from ft_assets.graph.gates import judge
from ft_assets.kbalign.jobs import VERDICTS_FILE

from .conftest import HELD_OUT, LONG_QUESTION, PumpProject, names_in, read_answer, write_question

pytestmark = pytest.mark.slow

MADE = ("kbalign_splits", "kbalign_short", "kbalign_long", "kbalign_records", "kbalign_verified")


def summary(pumps: PumpProject) -> VerifiedSummary:
    return pumps.artifact("kbalign_verified").summary_as(VerifiedSummary)


def failed(pumps: PumpProject) -> set[str]:
    """Return the codes of the gates on the verified rows that fail."""
    codes: set[str] = set()
    for gate in GATES:
        codes |= {violation.code for violation in judge(gate, pumps.evidence).violations}
    return codes


def make(pumps: PumpProject) -> None:
    """Make all assets of the stage; blocking checks may fail."""
    for name in MADE:
        pumps.run(name, raise_on_error=False)


def test_verified_rows_are_training_rows_with_their_way(pumps: PumpProject):
    make(pumps)
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
    assert failed(pumps) == {"FT-KBA-026"}, "author and judge are one prompted model"
    found = summary(pumps)
    assert found.judged == found.train + found.quarantined
    assert (found.judge_right, found.judge_recall, found.judge_false_accept) == (2, 1.0, 0.0)
    assert found.judge_wrong > 0
    assert sum(row["kind"] == "cloze" for row in rows) <= 0.4 * len(rows)


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
    assert failed(pumps) >= {"FT-KBA-021", "FT-KBA-025"}
    filters = {"Cedra": "F-71", "Fenna": "F-71"}  # answers of other questions
    pumps.script.judge = lambda passages, question: next(
        (wrong for name, wrong in filters.items() if name in passages), read_answer(passages, question)
    )
    pumps.script.weights = "w2"
    pumps.configure(kbalign={"max_new_tokens": 49})
    pumps.run("kbalign_settings")
    make(pumps)
    assert "FT-KBA-024" in failed(pumps)


def test_a_changed_threshold_costs_no_call(pumps: PumpProject):
    make(pumps)
    before = pumps.artifact("kbalign_verified").recipe_id
    pumps.configure(kbalign={"agree_f1": 0.9, "found_in_top": 3, "min_judge_recall": 0.5, "closed_book": "quarantine"})

    def again() -> None:
        pumps.run("kbalign_settings")
        make(pumps)

    assert pumps.calls_of(again) == 0
    assert pumps.artifact("kbalign_verified").recipe_id != before


def test_twins_of_hand_written_questions_and_copies_of_held_out_ones_are_set_aside(pumps: PumpProject):
    copied = LONG_QUESTION.split(", if", maxsplit=1)[0]
    written = {
        "F-76": "What filter cleans the oil of the Gorim pump?",
        "F-77": f"{copied} or when engineers clean the Hadra pump after many hours without new oil in service?",
    }

    def author(prompt: str) -> str:
        return next(
            (text for answer, text in written.items() if f"Answer: {answer}\n" in prompt), write_question(prompt)
        )

    pumps.script.author = author
    pumps.script.judge = lambda passages, question: (
        "F-77" if "Hadra pump after" in question and "F-77" in passages else read_answer(passages, question)
    )
    pumps.configure(kbalign={"found_in_top": 9, "max_tries": 4, "short_per_passage": 5})
    pumps.run("kbalign_settings")
    make(pumps)
    merged = pumps.artifact("kbalign_records").path / "quarantine.jsonl"
    assert "Gorim pump?" in merged.read_text("utf-8")
    verdicts = {row["code"]: row["reason"] for row in pumps.rows("kbalign_verified", VERDICTS_FILE)}
    assert "of the question of instruction record i2" in verdicts["FT-KBA-009"]


def test_the_page_shows_rows_next_to_their_passages(pumps: PumpProject):
    make(pumps)
    pumps.configure(retrieval={"bm25_k1": 1.3})
    page = pumps.run("retrieval_settings", "kbalign_verified", raise_on_error=False)["kbalign_verified"]
    assert page["funnel"].startswith("![candidates left after each step]")
    assert "| verified |" in page["samples"] and "parts**" in page["samples"]
    assert page["passages_with_rows"] > 0


def test_author_questions_and_judge_with_a_real_model(prepared: Path, tmp_path: Path):
    """A tiny random model asks nothing useful: all candidates have a code, and the gates refuse the table."""
    shutil.copytree(prepared, tmp_path / "pumps")
    pumps = PumpProject(tmp_path / "pumps")
    pumps.configure(
        kbalign={"author": "tuned", "judge": "author", "author_steps": 2, "max_passages": 3, "max_new_tokens": 8,
                 "max_tries": 1},
    )  # fmt: skip
    pumps.run("kbalign_settings", raise_on_error=False)
    pumps.run("kbalign_splits", "kbalign_author", raise_on_error=False)
    assert pumps.artifact("kbalign_author").summary["steps"] == 2
    make(pumps)
    found = summary(pumps)
    assert found.judge_right == 2
    assert {"FT-KBA-021", "FT-KBA-025"} <= failed(pumps)
    again = pumps.run(*MADE, raise_on_error=False)
    assert all(values["reused"] for values in again.values())
