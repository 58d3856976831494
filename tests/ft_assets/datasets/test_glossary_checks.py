"""Glossary terms of questions and answers are counted, and answers without the terms of their question are named."""

from __future__ import annotations

from typing import Any

import pytest

from ft_assets.datasets import glossary_checks
from ft_assets.graph.gates import Evidence, Verdict, build_checks, judge
from resources.releases import Releases
from tests.ft_assets.datasets.conftest import TOPICS, Project, failures, instruction, preference

pytestmark = pytest.mark.slow

MADE = ("corpus_settings", "dataset_settings", "passages", "glossary")
MADE += ("instruction_records", "preference_records", "unpaired_preference_records", "retrieval_records")
GLOSSARY = "分组密码: [block cipher]\n杂凑算法: [hash function]\n基本知识: []\n盲签名: []\n"


@pytest.fixture
def judged(project: Project) -> Any:
    (project.root / "terms.yaml").write_text(GLOSSARY, "utf-8")
    project.config["corpus"]["glossary"] = ["terms.yaml"]
    rows = [
        instruction("topic00", question="什么是分组密码？", answer="A block cipher works on blocks."),
        instruction("topic01", question="How long is the digest of a hash function?", answer="256 bits."),
        instruction("topic02", question="没有术语", answer="也没有"),
    ]
    project.instructions(rows)
    project.preferences([preference(topic) for topic in list(TOPICS)[:3]])

    def run(name: str, asset: str = "instruction_records") -> Verdict:
        result = project.run(*MADE)
        assert result.success, failures(result)
        gate = next(gate for gate in glossary_checks.GATES if (gate.name, gate.asset) == (name, asset))
        return judge(gate, Evidence(project.store, Releases(project.state / "releases"), None))  # pyright: ignore

    return run


def test_terms_are_counted_in_questions_answers_and_passages(judged: Any) -> None:
    verdict = judged("terms_are_covered")
    assert verdict.violations == []
    counts = {name: value for name, value in verdict.figures.items() if isinstance(value, int)}
    assert counts == {
        "terms": 4, "met_in_passages": 1, "met_in_instruction_questions": 2, "met_in_instruction_answers": 1,
        "met_in_preference_questions": 0, "met_in_preference_answers": 0, "met_in_unpaired_preference_questions": 0,
        "met_in_retrieval_questions": 0,
    }  # fmt: skip
    assert verdict.figures["terms_met"].startswith("| met in | terms |")
    assert f"| 基本知识 | {len(TOPICS)} |" in verdict.figures["terms_in_passages_but_in_no_question"]


def test_answers_that_lost_their_terms_are_named_above_the_share_that_is_allowed(judged: Any, project: Project) -> None:
    verdict = judged("answers_keep_their_terms")
    assert verdict.violations == []
    assert (verdict.figures["questions_with_terms"], verdict.figures["lost_share"]) == (2, 0.5)
    assert "| data/instruction.jsonl:2 | 杂凑算法 | 256 bits. |" in verdict.figures["first_lost"]
    project.config["datasets"]["max_lost_terms_share"] = 0.4
    (violation,) = judged("answers_keep_their_terms").violations
    assert (violation.code, violation.where) == ("FT-TERM-001", "data/instruction.jsonl:2")
    assert judged("answers_keep_their_terms", "preference_records").figures["questions_with_terms"] == 0


def test_a_glossary_that_no_question_speaks_of_is_named(judged: Any, project: Project) -> None:
    (project.root / "terms.yaml").write_text("同态加密: [FHE]\n", "utf-8")
    (violation,) = judged("terms_are_covered").violations
    assert violation.code == "FT-TERM-002"


def test_no_glossary_passes_and_an_unmade_one_does_not(project: Project) -> None:
    evidence = Evidence(project.store, Releases(project.state / "releases"), None)  # pyright: ignore
    project.run(*MADE, checks=False)
    assert not any(judge(gate, evidence).violations for gate in glossary_checks.GATES)
    fresh = Evidence(type(project.store)(project.root / "other"), evidence.releases, None)  # pyright: ignore
    assert all(judge(gate, fresh).violations for gate in glossary_checks.GATES)


def test_the_checks_wait_for_the_glossary_in_the_same_run() -> None:
    (spec, *_) = build_checks(glossary_checks.GATES)[0].check_specs
    assert {dep.asset_key.to_user_string() for dep in spec.additional_deps} >= {"glossary", "retrieval_records"}
