"""Questions about the passages that nothing holds out: which are asked about, what is kept, what a change costs."""

from __future__ import annotations

import shutil
from collections import Counter

import pytest

from ft_assets.graph.gates import judge
from ft_assets.graph.quarantine import QUARANTINE, read_quarantine
from ft_assets.kbalign.checks import GATES
from ft_assets.kbalign.jobs import CALLS_FILE, GENERATED_FILE, GenerateSummary

from .conftest import FREE, HELD_OUT, PumpProject, names_in

pytestmark = pytest.mark.slow

CORPUS = ("passages", "glossary", "split_ledger", "instruction_records", "instruction_splits", "kbalign_splits")


def summary(pumps: PumpProject, name: str = "kbalign_short") -> GenerateSummary:
    return pumps.artifact(name).summary_as(GenerateSummary)


def test_nothing_is_asked_about_held_out_documents(made: PumpProject):
    prompts = [prompt for prompt in made.script.asked if "\nAnswer: " in prompt]  # the judge is tried on held-out ones
    assert names_in(prompts) == set(FREE)
    assert summary(made).held_out == 2 * len(HELD_OUT)
    for gate in (gate for gate in GATES if gate.asset in {"kbalign_short", "kbalign_long"}):
        assert judge(gate, made.evidence).violations == [], gate.name


def test_every_candidate_is_a_row_or_has_one_code(made: PumpProject):
    found = summary(made)
    assert found.candidates == found.kept + found.quarantined
    quarantine = list(read_quarantine(made.artifact("kbalign_short").file(QUARANTINE)))
    assert len({line.path for line in quarantine}) == len(quarantine) == found.quarantined
    assert Counter(line.code for line in quarantine) == found.codes


def test_a_passage_that_gives_orders_is_quarantined_and_nothing_else(made: PumpProject):
    assert not any("Ignore the above" in prompt or "Zelda" in prompt for prompt in made.script.asked)
    quarantine = read_quarantine(made.artifact("kbalign_short").file(QUARANTINE))
    assert [line.file for line in quarantine if line.code == "FT-KBA-011"] == ["orders#text"]
    assert "orders#text" not in str(made.rows("kbalign_short", GENERATED_FILE))


def test_no_answer_is_damaged(made: PumpProject):
    texts = {row["passage_id"]: row["text"] for row in made.rows("passages", "passages.parquet")}
    rows = made.rows("kbalign_short", GENERATED_FILE)
    assert all(texts[row["passage_ids"][0]][row["span_start"] : row["span_end"]] == row["answer"] for row in rows)
    assert {"13 parts", "301 hours"} <= {row["answer"] for row in rows}


def test_chinese_passages_have_chinese_questions(made: PumpProject):
    rows = [row for row in made.rows("kbalign_short", GENERATED_FILE) if row["language"] == "zh"]
    assert {(row["question"], row["answer"]) for row in rows} >= {
        ("河图水泵的叶轮共有多少个叶片？", "17 个"),
        ("河图水泵的轴承每多少小时加油一次？", "900 小时"),
    }
    assert any(row["kind"] == "cloze" and row["question"].startswith("下面的句子") for row in rows)


def test_a_long_question_needs_a_second_passage(made: PumpProject):
    rows = made.rows("kbalign_long", GENERATED_FILE)
    assert rows and all(len(row["passage_ids"]) == 2 for row in rows)
    assert all(row["question"].endswith("with a filter?") for row in rows)


def test_another_attempt_is_another_sample_and_then_another_span(pumps: PumpProject):
    pumps.configure(kbalign={"max_tries": 3, "short_per_passage": 1, "long_per_document": 0})
    pumps.script.author = lambda prompt: "no question"
    pumps.run("kbalign_settings", "kbalign_splits", "kbalign_short")
    calls = [call for call in pumps.rows("kbalign_short", CALLS_FILE) if call["passage_id"] == "gorim#build"]
    assert [call["attempt"] for call in calls] == [0, 1, 2]
    assert calls[0]["answer"] == calls[1]["answer"] != calls[2]["answer"]
    assert len({call["call_key"] for call in calls}) == 3
    assert {call["code"] for call in calls} == {"FT-KBA-001"}


def test_a_change_asks_only_what_it_concerns(pumps: PumpProject):
    asking = ("kbalign_short", "kbalign_long")
    pumps.run("kbalign_splits", *asking)
    assert pumps.calls_of(lambda: pumps.run(*asking)) == 0
    path = pumps.root / "docs" / "gorim.md"
    path.write_text(path.read_text("utf-8").replace("18 parts", "88 parts"), "utf-8")
    before = len(pumps.script.asked)
    pumps.run(*CORPUS, *asking)
    new = pumps.script.asked[before:]
    assert new and names_in(new) == {"Gorim"}
    assert all("tested it for 36 days" in prompt or "parts" in prompt for prompt in new)
    assert "88 parts" in {row["answer"] for row in pumps.rows("kbalign_short", GENERATED_FILE)}
    shutil.move(path, pumps.root / "docs" / "renamed.md")
    assert pumps.calls_of(lambda: pumps.run(*CORPUS, *asking)) == 0
    assert "renamed#build" in str(pumps.rows("kbalign_short", GENERATED_FILE))
    pumps.script.weights = "w2"
    pumps.configure(kbalign={"top_p": 0.9})
    assert pumps.calls_of(lambda: pumps.run("kbalign_settings", "kbalign_short")) > 0


def test_chosen_passages_stay_chosen_when_there_are_more(pumps: PumpProject):
    pumps.configure(kbalign={"max_passages": 3, "long_per_document": 0})
    pumps.run("kbalign_settings", "kbalign_splits", "kbalign_short")
    assert summary(pumps).asked == 3
    before = {row["passage_id"] for row in pumps.rows("kbalign_short", CALLS_FILE)}
    pumps.configure(kbalign={"max_passages": 5})
    pumps.run("kbalign_settings", "kbalign_short")
    assert before < {row["passage_id"] for row in pumps.rows("kbalign_short", CALLS_FILE)}
