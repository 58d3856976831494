from __future__ import annotations

import json
from itertools import product
from typing import Any

from tests.ft_assets.datasets.conftest import CONFIG, TOPICS, Project, ddr, failures, instruction, preference, question

RECORDS = ("dataset_settings", "corpus_settings", "passages", "retrieval_records")


def test_every_planted_defect_is_quarantined_with_file_and_line_and_good_rows_are_untouched(project: Project):
    good = [ddr(f"{question(topic)} 第{n}问", chunk=topic) for n, topic in enumerate(TOPICS)]
    missing = {key: value for key, value in good[0].items() if key != "chosen"} | {"query": "缺少字段的问题"}
    empty = ddr("空答案的问题", chosen={"text": "  ", "rouge_score": 0.9})
    same = ddr("两个答案相同的问题", chosen={"text": "错的答案", "rouge_score": 0.9})
    rows: list[Any] = [good[0], missing, *good[1:10], empty, same, *good[10:], good[3], '{"query": "截断']
    project.preferences(rows)
    project.instructions(
        [instruction(topic) for topic in TOPICS] + [instruction("topic00", 1) | {"record_id": "i-topic00-0"}]
    )
    names = ["dataset_settings", "corpus_settings", "preference_records", "instruction_records"]
    result = project.run(*names)
    assert result.success, failures(result)
    found = [(r["file"], r["line"], r["code"], r["path"]) for r in project.quarantine("preference_records")]
    assert found == [
        ("data/preference.jsonl", 2, "FT-PREF-001", "$.chosen"),
        ("data/preference.jsonl", 12, "FT-PREF-002", "$.chosen.text"),
        ("data/preference.jsonl", 13, "FT-PREF-003", "$.rejected.text"),
        ("data/preference.jsonl", len(rows) - 1, "FT-DUP-002", "$"),
        ("data/preference.jsonl", len(rows), "FT-ROW-016", "$"),
    ]
    kept = project.rows("preference_records", "records.parquet")
    assert [row["question"] for row in kept] == [row["query"] for row in good]
    assert {row["source"] for row in kept} == {"data/preference.jsonl"}
    (duplicate,) = project.quarantine("instruction_records")
    assert (duplicate["line"], duplicate["code"]) == (len(TOPICS) + 1, "FT-DUP-001")
    assert duplicate["file_sha256"]
    shown = result.asset_materializations_for_node("preference_records")[0].metadata
    assert shown["dagster/row_count"].value == len(good)
    assert "data/preference.jsonl:12 | FT-PREF-002" in shown["quarantine"].value
    assert len(shown["quarantined_by_code"].value) < 1000


def test_too_many_quarantined_rows_block_and_name_the_setting(project: Project):
    project.config["datasets"]["max_quarantined_share"] = 0.01
    project.preferences([preference(topic) for topic in TOPICS] + ["not json"])
    result = project.run("dataset_settings", "preference_records")
    text = failures(result)
    assert not result.success
    assert "FT-DATA-001" in text and "datasets.max_quarantined_share" in text and "'0.04'" in text


def test_judgements_without_a_query_or_passage_are_quarantined_and_counted(project: Project):
    queries = {"q1": (question("topic01"), ["topic01", "topic02#basics"]), "q2": ("谁也不回答的问题", ["nowhere"])}
    project.retrieval(queries)
    project.config["datasets"]["max_quarantined_share"] = 0.9
    path = project.root / "data/qrels.tsv"
    path.write_text(path.read_text() + "q9\ttopic01\t1\nq1\ttopic03\t0\nq1\ttopic01\t2\nq2\ttopic04\t0\n")
    result = project.run(*RECORDS)
    assert result.success, failures(result)
    (row,) = project.rows("retrieval_records", "records.parquet")
    assert (row["positive_ids"], row["scores"], row["negative_ids"]) == (
        ["topic01", "topic02#basics"],
        [1, 1],
        ["topic03"],
    )
    found = [(r["file"], r["line"], r["code"]) for r in project.quarantine("retrieval_records")]
    assert sorted(found) == [
        ("data/qrels.tsv", 4, "FT-LINK-002"), ("data/qrels.tsv", 5, "FT-LINK-001"),
        ("data/qrels.tsv", 7, "FT-QREL-004"), ("data/qrels.tsv", 8, "FT-LINK-004"),
        ("data/queries.jsonl", 2, "FT-LINK-003"),
    ]  # fmt: skip
    summary = project.store.require("retrieval_records").summary
    assert summary["rows_read"] == 9 == summary["lines_kept"] + summary["quarantined"]


def test_a_data_set_without_files_is_an_empty_artifact_that_passes_and_is_marked(project: Project):
    project.config["datasets"] = {}
    result = project.run()
    assert result.success, failures(result)
    assert not project.store.require("preference_records").summary["configured"]
    assert project.rows("preference_splits", "train.parquet") == []
    shown = {e.check_name: e.metadata for e in result.get_asset_check_evaluations() if "preference" in str(e.asset_key)}
    assert shown["few_rows_are_quarantined"]["configured"].value is False


def test_a_policy_changes_only_its_own_data_set(project: Project):
    project.run("dataset_settings", "instruction_records", "preference_records", checks=False)
    project.config["datasets"] = json.loads(json.dumps(CONFIG["datasets"]))
    project.config["datasets"]["preference"]["min_margin"] = 0.1
    result = project.run("dataset_settings", "instruction_records", "preference_records", checks=False)
    reused = {
        name: result.asset_materializations_for_node(name)[0].metadata["reused"].value
        for name in ("instruction_records", "preference_records")
    }
    assert reused == {"instruction_records": True, "preference_records": False}


def test_damaged_passages_are_refused_by_name_when_records_are_made_alone(project: Project):
    project.run(*RECORDS, checks=False)
    path = project.store.require("passages").path / "passages.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    project.retrieval({"q": (question("topic01"), ["topic01"])})
    result = project.run("retrieval_records", checks=False)
    assert not result.success
    text = failures(result)
    assert "FT-ART-003" in text and "passages.parquet" in text and "retrieval_records refused" in text


def test_files_with_names_of_their_own_are_read_by_a_map_which_is_part_of_the_recipe(project: Project):
    rows = [instruction(topic) for topic in TOPICS]
    chats = [{"frage": row["question"], "antwort": row["answer"]} for row in rows[:12]]
    turns = [
        {"dialog": [{"role": "Kunde", "content": row["question"]}, {"role": "Dienst", "content": row["answer"]}]}
        for row in rows[12:]
    ]
    project.lines("chats.jsonl", chats)
    project.lines("turns.jsonl", turns)
    section = project.config["datasets"]["instruction"]
    section["files"] = [
        "data/[ct]*.jsonl",
        {
            "glob": "data/turns.jsonl",
            "columns": {"messages": "dialog"},
            "roles": {"Kunde": "user", "Dienst": "assistant"},
        },
    ]
    section["columns"] = {"question": "frage", "answer": "antwort"}
    result = project.run("dataset_settings", "instruction_records")
    assert result.success, failures(result)
    kept = project.rows("instruction_records", "records.parquet")
    assert [(row["question"], row["answer"]) for row in kept] == [(row["question"], row["answer"]) for row in rows]
    recipe = project.store.require("instruction_records").manifest.recipe
    assert recipe.settings["maps"]["data/turns.jsonl"]["columns"] == {"messages": "dialog"}
    assert recipe.settings["maps"]["data/chats.jsonl"]["columns"] == section["columns"]
    settings = project.store.require("dataset_settings").json("settings.json")
    assert settings["instruction"]["columns"] == section["columns"]


def test_a_recipe_without_a_map_allowed_rules_and_all_turns_is_that_of_earlier_releases(project: Project):
    assert project.run("dataset_settings", "instruction_records").success
    recipe = project.store.require("instruction_records").manifest.recipe
    assert recipe.settings == {
        "max_line_bytes": 8 * 2**20,
        "policy": {"thinking": "allow_empty", "min_margin": 0.0, "traditional": "keep"},
    }


def test_every_answer_of_a_dialogue_stays_in_one_split_and_allowed_rows_are_counted(project: Project):
    rows: list[dict[str, Any]] = []
    for topic in TOPICS:
        chat: list[dict[str, str]] = []
        for n in range(3):
            chat += [{"role": "user", "content": question(topic, n)}, {"role": "assistant", "content": f"{topic} {n}."}]
        rows.append({"id": topic, "messages": chat})
    rows[0]["messages"][-1]["content"] = "Dear {question}"
    project.instructions(rows)
    section = project.config["datasets"]
    section["instruction"]["turns"], section["allow"] = "all", ["FT-TEXT-002"]
    result = project.run()
    assert result.success, failures(result)
    records = project.store.require("instruction_records")
    summary = records.manifest.summary
    assert (summary["kept"], summary["allowed"]) == (3 * len(TOPICS), {"FT-TEXT-002": 1})
    assert records.manifest.recipe.settings["policy"]["turns"] == "all"
    shown = result.asset_materializations_for_node("instruction_records")[0].metadata
    assert shown["allowed"].value == {"FT-TEXT-002": 1}
    splits: dict[str, set[str]] = {}
    for (dataset, record), split in project.splits().items():
        if dataset == "instruction":
            splits.setdefault(record.partition("#")[0], set()).add(split)
    assert len(splits) == len(TOPICS) and all(len(found) == 1 for found in splits.values())


def test_answers_with_a_verdict_become_records_in_the_split_of_their_question(project: Project):
    rows: list[dict[str, Any]] = [
        {"question": question(topic), "answer": f"答案 {topic} {good}", "label": good}
        for topic, good in product(TOPICS, (True, False))
    ]
    rows += [rows[0] | {"label": False}, rows[1] | {"label": "maybe"}]
    project.lines("kto.jsonl", rows)
    project.config["datasets"]["unpaired_preference"] = {"files": ["data/kto.jsonl"]}
    result = project.run()
    assert result.success, failures(result)
    kept = project.rows("unpaired_preference_records", "records.parquet")
    assert [row["desirable"] for row in kept] == [True, False] * len(TOPICS) + [False]
    (bad,) = project.quarantine("unpaired_preference_records")
    assert (bad["line"], bad["code"]) == (len(rows), "FT-KTO-002")
    (conflict,) = project.store.require("unpaired_preference_records").json("conflicts.json")
    assert conflict["lines"] == ["data/kto.jsonl:1", f"data/kto.jsonl:{len(rows) - 1}"]
    splits = project.splits()
    by_question = {row["question"]: splits[("unpaired_preference", row["record_id"])] for row in kept}
    assert by_question == {question(topic): splits[("instruction", f"i-{topic}-0")] for topic in TOPICS}
    files = [f"{part}.parquet" for part in ("train", "validation", "test")]
    placed = [len(project.rows("unpaired_preference_splits", file)) for file in files]
    assert sum(placed) == len(kept) and min(placed) > 0
