"""Each rule by one thing that breaks it, and the consumers' contracts."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import msgspec
import pytest
from pydantic import ValidationError

from expectations.contracts.consumer import (
    Consumer,
    RetrievalNeeds,
    broken_formats,
    broken_retrieval_needs,
    find_consumer,
    load_consumers,
)
from expectations.contracts.embedding import Base, Dense, EmbeddingContract, Fusion, Serving, Sparse, Texts
from expectations.rules import retrieval as rules
from expectations.rules.bootstrap import Interval
from expectations.violations import Refused, Violation

CONTRACT = EmbeddingContract(
    weights_sha256="a" * 64,
    base=Base(name="b", version="1"),
    dense=Dense(dimensions=[384, 192], pooling="mean"),
    sparse=Sparse(head_sha256="b" * 64, tokenizer_sha256="c" * 64, vocabulary=100, masked_ids=[0]),
    texts=Texts(query_prompt="", passage_prompt="", query_max_tokens=64, passage_max_tokens=256),
    serving=Serving(dimension=384, distance="cosine"),
    fusion=Fusion(fusion="weighted_sum", dense_weight=1.0, sparse_weight=0.3, prefetch_limit=100),
)


SERVED_OTHER = msgspec.structs.replace(CONTRACT, serving=Serving(dimension=192, distance="cosine"))
VIOLATIONS: list[tuple[str, str, list[Violation]]] = [
    ("FT-EMB-011", "nan", rules.losses_are_finite("m", [1.0, math.nan])),
    ("FT-EMB-012", "0.0", rules.model_changed("m", 0.0, 2)),
    ("FT-EMB-013", "0.75", rules.lexical_head_is_alive("m", 12, 16, 0.5)),
    ("FT-EMB-021", "-0.0500", rules.base_is_beaten("m", Interval(-0.05, -0.09, -0.01, 50))),
    ("FT-EMB-022", "learned", rules.lexical_head_is_there("m", "learned", False)),
    ("FT-EMB-015", "-0.2", rules.not_below_base("m", Interval(-0.2, -0.3, -0.1, 50))),
    ("FT-VEC-001", "'b' has 0", rules.one_vector_a_passage("v", ["a", "b"], ["a"])),
    ("FT-VEC-001", "'a' has 2", rules.one_vector_a_passage("v", ["a"], ["a", "a"])),
    ("FT-VEC-001", "not in the corpus", rules.one_vector_a_passage("v", ["a"], ["a", "x"])),
    ("FT-VEC-002", "'乙'", rules.one_dimension("v", [("甲", 384), ("乙", 192)], 384)),
    ("FT-VEC-003", "'a'", rules.vectors_are_finite("v", ["a"])),
    ("FT-VEC-004", "'a'", rules.vectors_match_texts("v", {"a": "1"}, {"a": "2"})),
    ("FT-VEC-005", "0.02", rules.lexical_head_is_alive("v", 2, 100, 0.01, "FT-VEC-005")),
    ("FT-VEC-010", "2 of 100 passages have more tokens than the encoder reads (256). Longest: a#b (900), c (300)",
     rules.nothing_is_cut("v", {"a#b": 900, "c": 300}, 100, 256, 0.01)),
    ("FT-EMB-020", "lacks 66 of 100 tokens of the questions",
     rules.tokens_are_known("s", "m", {"passages": (1, 100), "questions": (66, 100)}, 0.05)),
    ("FT-COL-001", "sparse", rules.collection_is_complete("c", 9, 9, 9, 8)),
    ("FT-COL-002", "dimension", rules.collection_matches_contract("c", CONTRACT, SERVED_OTHER, CONTRACT.serving)),
    ("FT-COL-003", "768", rules.collection_matches_contract("c", CONTRACT, CONTRACT, Serving(dimension=768, distance="cosine"))),  # noqa: E501
    ("FT-COL-004", "a (dense)", rules.stored_vectors_match("c", {"a (dense)": 0.5})),
    ("FT-RET-001", "sparse arm", rules.fused_not_below_arms("e", Interval(-0.022, -0.04, -0.001, 88), "sparse", 0.02)),
    ("FT-RET-019", "0.62", rules.served_finds_the_exact("e", 0.62)),
    ("FT-RET-010", "-0.0270", rules.served_is_exact("e", Interval(-0.027, -0.044, -0.012, 88))),
    ("FT-RET-002", "0.4", rules.recall_is_enough("e", 0.4, 0.5)),
    ("FT-RET-003", "-0.05", rules.not_worse_than_live("e", Interval(-0.05, -0.09, -0.01, 50), 0.02, "ndcg_at_10")),
    ("FT-RET-004", "fusion", rules.evaluation_is_current("e", {"fusion": 1}, {"fusion": 2})),
]  # fmt: skip


@pytest.mark.parametrize(("code", "named", "violations"), VIOLATIONS)
def test_each_rule_names_what_breaks_it_and_how_to_fix_it(code: str, named: str, violations: list[Violation]) -> None:
    assert violations
    assert {violation.code for violation in violations} == {code}
    assert named in str(violations[0])
    assert violations[0].fix


def test_good_values_pass_every_rule() -> None:
    assert rules.losses_are_finite("m", [1.0]) == []
    assert rules.model_changed("m", 0.0, 0) == []
    assert rules.not_below_base("m", Interval(-0.01, -0.03, 0.01, 50)) == []
    assert rules.one_vector_a_passage("v", ["a"], ["a"]) == []
    assert rules.nothing_is_cut("v", {"a#b": 900}, 100, 256, 0.01) == []
    assert rules.tokens_are_known("s", "m", {"passages": (5, 100), "questions": (0, 0)}, 0.05) == []
    assert rules.collection_matches_contract("c", CONTRACT, CONTRACT, CONTRACT.serving) == []
    assert rules.stored_vectors_match("c", {"a": 1e-6}) == []
    # a loss that may be chance, and one that is certain and small
    assert rules.fused_not_below_arms("e", Interval(-0.1, -0.21, 0.01, 20), "dense", 0.02) == []
    assert rules.fused_not_below_arms("e", Interval(-0.01, -0.015, -0.005, 9000), "dense", 0.02) == []
    assert rules.served_is_exact("e", Interval(-0.02, -0.05, 0.0, 20)) == []
    assert rules.served_finds_the_exact("e", 0.9) == []
    assert rules.served_is_exact("e", Interval(-0.001, -0.002, -0.0005, 9000)) == []
    assert rules.not_worse_than_live("e", Interval(0.03, -0.01, 0.05, 50), 0.02, "ndcg_at_10") == []
    # few questions: the interval is wide; nothing was lost, or the loss may be chance
    assert rules.not_worse_than_live("e", Interval(0.0, -0.1, 0.1, 20), 0.02, "ndcg_at_10") == []
    assert rules.not_worse_than_live("e", Interval(-0.05, -0.12, 0.02, 20), 0.02, "ndcg_at_10") == []
    # many questions: a loss that is certain, and small enough to be tolerated
    assert rules.not_worse_than_live("e", Interval(-0.01, -0.015, -0.005, 9000), 0.02, "ndcg_at_10") == []


def test_not_a_number_never_passes_as_close_enough() -> None:
    assert rules.stored_vectors_match("c", {"a": math.nan})


def needs(**values: Any) -> Consumer:
    return Consumer(name="ui", owner="team:ui", description="d", retrieval=RetrievalNeeds.model_validate(values))


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"dimensions": [768]}, "dimension"),
        ({"distances": ["euclid"]}, "distance"),
        ({"fusion": ["rrf"]}, "fusion"),
        ({"sparse_weight": {"least": 0.5}}, "sparse_weight"),
        ({"dense_weight": {"most": 0.9}}, "dense_weight"),
        ({"min_recall_at_10": 0.95}, "Recall@10"),
        ({"rerank": True}, "rerank"),
    ],
)
def test_a_candidate_that_a_consumer_cannot_use_is_named_with_its_owner(values: dict[str, Any], field: str) -> None:
    (violation,) = broken_retrieval_needs(needs(**values), CONTRACT, 0.9)
    assert (violation.code, violation.field) == ("FT-CON-002", field)
    assert "team:ui" in violation.fix


def test_a_format_in_another_version_is_named() -> None:
    consumer = Consumer(
        name="ddr", owner="team:ddr", description="d", writes={"preference": [2]}, reads={"passage": [1]}
    )
    (violation,) = broken_formats(consumer, {"preference": 1, "passage": 1})
    assert (violation.code, violation.field, violation.found) == ("FT-CON-003", "preference", 1)


def test_our_own_consumers_are_readable_and_accept_the_usual_release() -> None:
    from expectations.formats.schemas import FORMATS

    offered = {name: version for name, (_, version) in FORMATS.items()}
    known = load_consumers()
    assert {consumer.name for consumer in known} == {"ddr", "retrieval"}
    assert [v for c in known for v in (*broken_retrieval_needs(c, CONTRACT, 0.9), *broken_formats(c, offered))] == []


def test_every_error_of_every_consumer_file_is_reported_at_once(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("name: a\nowner: t\ndescription: d\nretreival: {}\n")
    (tmp_path / "b.yaml").write_text("name: [\n")
    with pytest.raises(Refused) as refusal:
        load_consumers(tmp_path)
    assert [Path(v.where).name for v in refusal.value.violations] == ["a.yaml", "b.yaml"]
    assert "retreival" in str(refusal.value)


def test_both_endings_are_contracts_and_another_file_is_refused_by_name(tmp_path: Path) -> None:
    for name in ("a.yaml", "b.yml"):
        (tmp_path / name).write_text(f"name: {name[0]}\nowner: t\ndescription: d\n")
    for name in (".DS_Store", "README", "NOTES.md"):
        (tmp_path / name).write_text("x")
    (tmp_path / "__pycache__").mkdir()
    assert [consumer.name for consumer in load_consumers(tmp_path)] == ["a", "b"]
    assert find_consumer("b", tmp_path).name == "b"
    for name in ("c.yaml.bak", "d.json"):
        (tmp_path / name).write_text("name: c\n")
    with pytest.raises(Refused) as refusal:
        load_consumers(tmp_path)
    assert [Path(v.where).name for v in refusal.value.violations] == ["c.yaml.bak", "d.json"]
    assert {v.code for v in refusal.value.violations} == {"FT-CON-001"}


def test_a_consumer_that_contradicts_its_type_is_refused() -> None:
    with pytest.raises(ValidationError):
        needs(min_recall_at_10=2)
