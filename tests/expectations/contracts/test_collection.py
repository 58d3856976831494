"""The guard of a service: base install and qdrant-client, one line, and no incompatible collection is queried."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from qdrant_client import QdrantClient, models
from qdrant_client.http.exceptions import ResponseHandlingException

from expectations.contracts.collection import guard_collection
from expectations.contracts.embedding import (
    Base,
    Dense,
    EmbeddingContract,
    Fusion,
    Probe,
    Serving,
    Sparse,
    Texts,
)
from expectations.violations import Refused

PROBES = [
    Probe(text="什么是密钥", kind="query", dense=[1.0, 0.0, 0.0, 0.0], sparse={"3": 1.0}),
    Probe(text="a passage", kind="passage", dense=[0.0, 0.6, 0.8, 0.0], sparse={}),
]
MODEL = EmbeddingContract(
    weights_sha256="a" * 64,
    base=Base(name="tiny", version="1"),
    dense=Dense(dimensions=[4, 2], pooling="mean"),
    sparse=Sparse(head_sha256="b" * 64, tokenizer_sha256="c" * 64, vocabulary=10, masked_ids=[]),
    texts=Texts(query_prompt="问：", passage_prompt="", query_max_tokens=8, passage_max_tokens=8),
    probes=PROBES,
)
WEIGHTED = Fusion(fusion="weighted_sum", dense_weight=1.0, sparse_weight=0.3, prefetch_limit=100)
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"weights_sha256": "f" * 64}, "weights_sha256"),
    ({"texts": msgspec.structs.replace(MODEL.texts, query_prompt="query: ")}, "texts.query_prompt"),
    ({"dense": Dense(dimensions=[4, 2], pooling="cls")}, "dense.pooling"),
    ({"sparse": msgspec.structs.replace(MODEL.sparse, tokenizer_sha256="0" * 64)}, "sparse.tokenizer_sha256"),
    ({"probes": [msgspec.structs.replace(PROBES[0], dense=[0.0, 1.0, 0.0, 0.0]), PROBES[1]]}, "probes.0.dense"),
]


def test_a_missing_collection_is_refused_with_the_name_of_the_engine(tmp_path: Path) -> None:
    client = QdrantClient(path=str(tmp_path))
    with pytest.raises(Refused, match="FT-COL-008") as refusal:
        guard_collection(client, "passages", MODEL)
    assert "'passages'" in str(refusal.value) and str(tmp_path) in str(refusal.value)
    silent = QdrantClient(url="http://127.0.0.1:1", check_compatibility=False)
    with pytest.raises(ResponseHandlingException):  # a server that is down does not list its collections
        guard_collection(silent, "passages", MODEL)


def serving_collection(contract: EmbeddingContract | None, dimension: int = 4) -> QdrantClient:
    """A collection `c` under the alias `passages`, as a release leaves it."""
    client = QdrantClient(":memory:")
    client.create_collection(
        "c",
        vectors_config={"dense": models.VectorParams(size=dimension, distance=models.Distance.COSINE)},
        sparse_vectors_config={"sparse": models.SparseVectorParams()},
        metadata={"contract": contract.to_json()} if contract else None,
    )
    create = models.CreateAlias(collection_name="c", alias_name="passages")
    client.update_collection_aliases([models.CreateAliasOperation(create_alias=create)])
    return client


def served(dimension: int = 4) -> EmbeddingContract:
    return MODEL.served(Serving(dimension=dimension, distance="cosine"), WEIGHTED)


def encode_with(vectors: dict[str, list[float]]) -> Callable[[list[str], str], Sequence[Sequence[float]]]:
    return lambda texts, _kind: [vectors[text] for text in texts]


def test_the_model_that_made_the_collection_gets_its_contract_from_a_file_a_folder_or_memory(tmp_path: Path) -> None:
    client = serving_collection(served())
    path = tmp_path / "contract.json"
    path.write_text(json.dumps(MODEL.to_json()), "utf-8")
    for expected in (MODEL, MODEL.to_json(), path, str(tmp_path)):
        assert guard_collection(client, "passages", expected).fusion == WEIGHTED
    right = encode_with({probe.text: probe.dense for probe in PROBES})
    assert guard_collection(client, "passages", MODEL, encode=right) == served()


@pytest.mark.parametrize(("change", "field"), REFUSED, ids=[field for _, field in REFUSED])
def test_the_same_dimension_from_another_model_is_refused_with_the_field(change: dict[str, Any], field: str) -> None:
    with pytest.raises(Refused, match="FT-EMB-002") as refusal:
        guard_collection(serving_collection(served()), "passages", msgspec.structs.replace(MODEL, **change))
    assert any(str(v.field).startswith(field) for v in refusal.value.violations)


def test_another_model_behind_the_right_contract_is_found_by_its_probes() -> None:
    wrong = encode_with({PROBES[0].text: [0.0, 0.0, 1.0, 0.0], PROBES[1].text: PROBES[1].dense})
    with pytest.raises(Refused, match="什么是密钥") as refusal:
        guard_collection(serving_collection(served()), "passages", MODEL, encode=wrong)
    assert len(refusal.value.violations) == 1
    nothing = encode_with({probe.text: [float("nan")] * 4 for probe in PROBES})
    with pytest.raises(Refused, match="FT-EMB-002"):
        guard_collection(serving_collection(served()), "passages", MODEL, encode=nothing)


def test_a_cut_dimension_is_compared_as_it_is_served() -> None:
    client = serving_collection(served(2), 2)
    cut = encode_with({probe.text: probe.dense[:2] for probe in PROBES})
    assert guard_collection(client, "passages", MODEL, encode=cut).serving == Serving(dimension=2, distance="cosine")
    untrained = msgspec.structs.replace(MODEL, dense=Dense(dimensions=[4], pooling="mean"))
    with pytest.raises(Refused, match="FT-EMB-003"):
        guard_collection(client, "passages", untrained)


def test_a_collection_without_a_contract_or_built_otherwise_is_refused() -> None:
    with pytest.raises(Refused, match="FT-EMB-001"):
        guard_collection(serving_collection(None), "passages", MODEL)
    with pytest.raises(Refused, match="FT-COL-003"):
        guard_collection(serving_collection(served(4), 2), "passages", MODEL)


def test_the_guard_needs_the_base_install_alone(project: Path) -> None:
    code = (
        "import sys, expectations.contracts.collection\n"
        "print([m for m in ('qdrant_client', 'numpy', 'torch', 'dagster', 'pyarrow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=project, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
