from __future__ import annotations

from typing import Any

import pytest

from tests.ft_assets.datasets.conftest import TOPICS, Project, failures, instruction, preference

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
    assert "FT-SPLIT-012" in broken
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
