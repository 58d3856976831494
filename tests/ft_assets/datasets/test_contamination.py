from __future__ import annotations

from typing import Any

import pytest

from ft_assets.graph.gates import Evidence, judge
from tests.ft_assets.datasets.conftest import (
    GATES,
    TOPICS,
    Project,
    failures,
    instruction,
    preference,
    question,
)

pytestmark = pytest.mark.slow

QUOTE = "分组密码的每一个分组都在同一把密钥下独立加密，因此相同的明文分组总是得到相同的密文分组，这会泄露明文的结构"
SPLITS = ("instruction_splits", "preference_splits", "retrieval_splits")


def _topics(project: Project) -> tuple[str, str]:
    """Return one topic of train and one of test."""
    assert project.run(checks=False).success
    splits = project.splits()
    train, test = (next(t for t in TOPICS if splits[("instruction", f"i-{t}-0")] == s) for s in ("train", "test"))
    return train, test


def _judged(project: Project) -> tuple[dict[str, dict[str, Any]], str]:
    """Return asset -> the figures of its contamination check, and all failures."""
    result = project.run()
    shown = {
        evaluation.asset_key.to_user_string(): {name: value.value for name, value in evaluation.metadata.items()}
        for evaluation in result.get_asset_check_evaluations()
        if evaluation.check_name == "no_contamination"
    }
    return shown, failures(result)


def test_an_answer_of_test_that_training_sees_blocks_every_data_set_it_touches(project: Project):
    train, test = _topics(project)
    project.instructions([instruction(topic, answer=QUOTE if topic == test else "不同的答案") for topic in TOPICS])
    chosen = QUOTE.replace("，", " , ") + "。"
    project.preferences([preference(topic, chosen=chosen if topic == train else "好 0") for topic in TOPICS])
    shown, broken = _judged(project)
    assert "FT-SPLIT-014" in broken and "FT-SPLIT-012" in broken
    assert [shown[asset]["hits"] for asset in SPLITS] == [1, 1, 0]
    line = list(TOPICS).index(test) + 1
    assert f"the answer of instruction record i-{test}-0 (data/instruction.jsonl:{line})" in broken
    assert f"the chosen of preference record p-{train}-0 (data/preference.jsonl:" in broken
    assert "相同的明文分组总是得到相同的密文分组" in broken
    project.config["datasets"]["split"]["templates"] = [QUOTE]
    shown, broken = _judged(project)
    assert (
        "FT-SPLIT-012" not in broken
        and shown["instruction_splits"]["hits"] == 0 < shown["instruction_splits"]["boilerplate_runs"]
    )


def test_a_passage_that_training_saw_counts_unless_config_lets_records_share_passages(project: Project):
    train, test = _topics(project)
    project.document(train, f"# 章\n\n## Basics\n\n{QUOTE}。\n")
    project.instructions([instruction(topic, answer=QUOTE if topic == test else "答") for topic in TOPICS])
    shown, broken = _judged(project)
    assert "FT-SPLIT-012" in broken and f"docs/{train}.md" in broken
    assert shown["instruction_splits"]["hits"] == 1
    project.config["datasets"]["split"] |= {"group_by": ["question"], "key": "apart"}
    shown, broken = _judged(project)
    assert "FT-SPLIT-012" not in broken and shown["instruction_splits"]["hits"] == 0


def test_a_context_that_training_was_given_counts(project: Project):
    train, test = _topics(project)
    project.preferences([preference(t, context=[f"资料：{QUOTE}"] if t == train else []) for t in TOPICS])
    project.instructions([instruction(topic, answer=QUOTE if topic == test else "答") for topic in TOPICS])
    shown, broken = _judged(project)
    assert "the context of preference record" in broken
    assert shown["preference_splits"]["hits"] == shown["instruction_splits"]["hits"] == 1


def test_a_passage_to_find_in_test_that_nearly_is_one_of_training_blocks_retrieval(project: Project):
    train, test = _topics(project)
    project.document(train, f"# 章\n\n## Basics\n\n{QUOTE}。\n")
    project.document(test, f"# 章\n\n## Basics\n\n引言不同。{QUOTE}！\n")
    shown, broken = _judged(project)
    assert "the passage of retrieval record" in broken and f"docs/{test}.md, character" in broken
    assert [shown[asset]["hits"] for asset in SPLITS] == [0, 0, 1]


def _held(project: Project, asset: str, column: str) -> set[str]:
    return {row[column] for split in ("validation", "test") for row in project.rows(asset, f"{split}.parquet")}


def test_a_few_records_that_training_saw_leave_the_held_out_files_and_are_listed(project: Project):
    train, test = _topics(project)
    clean = project.store.require("retrieval_splits")
    project.config["datasets"]["split"]["max_contaminated_share"] = 0.2
    project.instructions([instruction(topic, answer=QUOTE if topic == test else "不同的答案") for topic in TOPICS])
    project.preferences([preference(topic, chosen=QUOTE if topic == train else "好 0") for topic in TOPICS])
    shown, broken = _judged(project)
    assert "FT-SPLIT-01" not in broken, broken
    assert [(shown[asset]["hits"], shown[asset]["left_out"]) for asset in SPLITS] == [(1, 1), (1, 0), (0, 0)]
    splits = project.store.require("instruction_splits")
    assert splits.summary["left_out"] == 1
    assert sum(splits.summary[split] for split in ("train", "validation", "test")) == len(TOPICS) - 1
    assert f"i-{test}-0" not in _held(project, "instruction_splits", "record_id")
    (line,) = project.quarantine("instruction_splits")
    place = ("data/instruction.jsonl", list(TOPICS).index(test) + 1, "FT-SPLIT-012")
    assert (line["file"], line["line"], line["code"]) == place and line["raw"] == QUOTE
    assert f"in the chosen of preference record p-{train}-0 (data/preference.jsonl:" in line["reason"]
    # where nothing is left out, the artifact is the one of a project without such a row
    assert project.store.require("retrieval_splits").recipe_id == clean.recipe_id
    project.preferences([preference(topic) for topic in TOPICS])
    shown, broken = _judged(project)
    assert "FT-SPLIT-01" not in broken and shown["instruction_splits"]["left_out"] == 0
    assert f"i-{test}-0" in _held(project, "instruction_splits", "record_id")
    assert project.store.require("instruction_splits").manifest.recipe.settings == {}


def test_files_that_still_hold_what_training_saw_are_refused(project: Project):
    train, test = _topics(project)
    project.config["datasets"]["split"]["max_contaminated_share"] = 0.2
    project.instructions([instruction(topic, answer=QUOTE if topic == test else "不同的答案") for topic in TOPICS])
    assert project.run().success
    project.preferences([preference(topic, chosen=QUOTE if topic == train else "好 0") for topic in TOPICS])
    project.run("preference_files", "preference_records")
    gate = next(g for g in GATES if (g.asset, g.name) == ("instruction_splits", "splits_follow_the_ledger"))
    artifacts = project.resources()["artifacts"]
    (violation,) = judge(gate, Evidence(artifacts.store(), artifacts.releases(), None)).violations  # pyright: ignore[reportArgumentType]
    assert violation.code == "FT-SPLIT-008" and f"i-{test}-0" in str(violation)


def test_every_query_that_should_find_a_seen_passage_is_left_out(project: Project):
    train, test = _topics(project)
    project.config["datasets"]["split"]["max_contaminated_share"] = 0.5
    project.document(train, f"# 章\n\n## Basics\n\n{QUOTE}。\n")
    project.document(test, f"# 章\n\n## Basics\n\n引言不同。{QUOTE}！\n")
    queries = {f"q-{topic}": (question(topic), [topic]) for topic in TOPICS}
    project.retrieval(queries | {"q-again": (question("again"), [test])})
    shown, broken = _judged(project)
    assert "FT-SPLIT-01" not in broken and shown["retrieval_splits"]["left_out"] == 2
    assert _held(project, "retrieval_splits", "query_id").isdisjoint({f"q-{test}", "q-again"})
    assert {line["line"] for line in project.quarantine("retrieval_splits")} == {list(TOPICS).index(test) + 1, 25}


def test_strata_are_shown_and_an_unusual_one_is_reported_without_blocking(project: Project):
    project.instructions([instruction(topic, difficulty="hard" if n % 2 else None) for n, topic in enumerate(TOPICS)])
    result = project.run()
    assert result.success, failures(result)
    (shown,) = [
        str(evaluation.metadata["strata"].value)
        for evaluation in result.get_asset_check_evaluations()
        if evaluation.check_name == "strata_are_alike" and "instruction" in str(evaluation.asset_key)
    ]
    assert "| source | data/instruction.jsonl | 24 |" in shown
    assert "| difficulty | not stated | 12 |" in shown and "| difficulty | hard | 12 |" in shown
    # by its questions alone, a hundred of one difficulty that all share a passage are one draw: no finding
    splits = project.splits()
    train = next(t for t in TOPICS if splits[("instruction", f"i-{t}-0")] == "train")
    rows = [instruction(topic) for topic in TOPICS]
    project.instructions([*rows, *(instruction(train, n, difficulty="new") for n in range(1, 100))])
    assert "FT-SPLIT-011" not in failures(project.run())
