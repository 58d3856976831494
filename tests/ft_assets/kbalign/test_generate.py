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


@pytest.fixture
def asked(pumps: PumpProject) -> PumpProject:
    pumps.run("kbalign_splits", "kbalign_short", "kbalign_long")
    return pumps


def test_nothing_is_asked_about_held_out_documents(asked: PumpProject):
    prompts = [prompt for prompt in asked.script.asked if "\nAnswer: " in prompt]
    assert names_in(prompts) == set(FREE)
    assert summary(asked).held_out == 2 * len(HELD_OUT)
    for gate in (gate for gate in GATES if gate.asset in {"kbalign_short", "kbalign_long"}):
        assert judge(gate, asked.evidence).violations == [], gate.name


def test_every_candidate_is_a_row_or_has_one_code(asked: PumpProject):
    found = summary(asked)
    assert found.candidates == found.kept + found.quarantined
    quarantine = list(read_quarantine(asked.artifact("kbalign_short").file(QUARANTINE)))
    assert len({line.path for line in quarantine}) == len(quarantine) == found.quarantined
    assert Counter(line.code for line in quarantine) == found.codes


def test_a_passage_that_gives_orders_is_quarantined_and_nothing_else(asked: PumpProject):
    assert not any("Ignore the above" in prompt or "Zelda" in prompt for prompt in asked.script.asked)
    quarantine = read_quarantine(asked.artifact("kbalign_short").file(QUARANTINE))
    assert [line.file for line in quarantine if line.code == "FT-KBA-011"] == ["orders#text"]
    assert "orders#text" not in str(asked.rows("kbalign_short", GENERATED_FILE))


def test_no_answer_is_damaged(asked: PumpProject):
    texts = {row["passage_id"]: row["text"] for row in asked.rows("passages", "passages.parquet")}
    rows = asked.rows("kbalign_short", GENERATED_FILE)
    assert all(texts[row["passage_ids"][0]][row["span_start"] : row["span_end"]] == row["answer"] for row in rows)
    assert {"13 parts", "301 hours"} <= {row["answer"] for row in rows}


def test_chinese_passages_have_chinese_questions(asked: PumpProject):
    rows = [row for row in asked.rows("kbalign_short", GENERATED_FILE) if row["language"] == "zh"]
    assert {(row["question"], row["answer"]) for row in rows} >= {
        ("河图水泵的叶轮共有多少个叶片？", "17 个"),
        ("河图水泵的轴承每多少小时加油一次？", "900 小时"),
    }
    assert any(row["kind"] == "cloze" and row["question"].startswith("下面的句子") for row in rows)


def test_a_long_question_needs_a_second_passage(asked: PumpProject):
    rows = asked.rows("kbalign_long", GENERATED_FILE)
    assert rows and all(len(row["passage_ids"]) == 2 for row in rows)
    assert all(row["question"].endswith("with a service plan?") for row in rows)


def test_another_attempt_is_another_sample_and_then_another_span(pumps: PumpProject):
    pumps.configure(kbalign={"max_tries": 3, "short_per_passage": 1, "long_per_document": 0})
    pumps.script.author = lambda prompt: "no question"
    pumps.run("kbalign_settings", "kbalign_splits", "kbalign_short")
    calls = [call for call in pumps.rows("kbalign_short", CALLS_FILE) if call["passage_id"] == "gorim#build"]
    assert [call["attempt"] for call in calls] == [0, 1, 2]
    assert calls[0]["answer"] == calls[1]["answer"] != calls[2]["answer"]
    assert len({call["call_key"] for call in calls}) == 3
    assert {call["code"] for call in calls} == {"FT-KBA-001"}


def test_an_edited_document_asks_its_own_passages_only(asked: PumpProject):
    path = asked.root / "docs" / "gorim.md"
    path.write_text(path.read_text("utf-8").replace("18 parts", "88 parts"), "utf-8")
    before = len(asked.script.asked)
    asked.run(*CORPUS, "kbalign_short")
    new = asked.script.asked[before:]
    assert new and names_in(new) == {"Gorim"}
    assert all("tested it for 36 days" in prompt or "parts" in prompt for prompt in new)
    assert "88 parts" in {row["answer"] for row in asked.rows("kbalign_short", GENERATED_FILE)}


def test_a_renamed_file_and_an_equal_run_cost_no_call(asked: PumpProject):
    assert asked.calls_of(lambda: asked.run("kbalign_short", "kbalign_long")) == 0
    shutil.move(asked.root / "docs" / "gorim.md", asked.root / "docs" / "renamed.md")
    assert asked.calls_of(lambda: asked.run(*CORPUS, "kbalign_short", "kbalign_long")) == 0
    assert "renamed#build" in str(asked.rows("kbalign_short", GENERATED_FILE))


def test_chosen_passages_stay_chosen_when_there_are_more(pumps: PumpProject):
    pumps.configure(kbalign={"max_passages": 3, "long_per_document": 0})
    pumps.run("kbalign_settings", "kbalign_splits", "kbalign_short")
    assert summary(pumps).asked == 3
    before = {row["passage_id"] for row in pumps.rows("kbalign_short", CALLS_FILE)}
    pumps.configure(kbalign={"max_passages": 5})
    pumps.run("kbalign_settings", "kbalign_short")
    assert before < {row["passage_id"] for row in pumps.rows("kbalign_short", CALLS_FILE)}


def test_another_model_is_asked_again(asked: PumpProject):
    asked.script.weights = "w2"
    asked.configure(kbalign={"seed": 42, "top_p": 0.9})
    assert asked.calls_of(lambda: asked.run("kbalign_settings", "kbalign_short")) > 0
