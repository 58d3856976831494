"""Passages and vectors without a model: a vector follows from the text's hash, so equal texts have equal vectors."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from expectations.contracts.embedding import Base, Dense, EmbeddingContract, Probe, Serving, Sparse, Texts
from ft_assets.corpus.payload import PayloadFields
from ft_assets.embedding.model import Encoded
from ft_assets.retrieval.vectors import schema
from resources.artifacts import Artifact, ArtifactStore, Recipe, write_json

DIMENSION = 16
SERVING = Serving(dimension=DIMENSION, distance="cosine")


def contract(weights: str = "0" * 64) -> EmbeddingContract:
    """Return the contract of a model that does not exist."""
    return EmbeddingContract(
        weights_sha256=weights,
        base=Base(name="none", version="1"),
        dense=Dense(dimensions=[DIMENSION, 8], pooling="mean"),
        sparse=Sparse(head_sha256="1" * 64, tokenizer_sha256="2" * 64, vocabulary=1000, masked_ids=[0]),
        texts=Texts(query_prompt="", passage_prompt="", query_max_tokens=64, passage_max_tokens=256),
        probes=[Probe(text="probe", kind="query", dense=[1.0] + [0.0] * 15, sparse={"3": 1.0})],
    )


def corpus(count: int, *, changed: Mapping[int, str] | None = None) -> dict[str, str]:
    """Return passage id -> text; `changed` holds other texts for some."""
    texts = {n: f"第 {n} 段的内容 text {n}" for n in range(count)} | dict(changed or {})
    return {f"文档{n // 4}#{n}": text for n, text in texts.items()}


def encode(texts: list[str]) -> Encoded:
    """Return a vector of unit length and twelve weights for each text."""
    generators = [np.random.default_rng(list(hashlib.sha256(text.encode()).digest())) for text in texts]
    dense = np.asarray([generator.normal(size=DIMENSION) for generator in generators], np.float32)
    dense /= np.linalg.norm(dense, axis=1, keepdims=True)
    sparse = [
        (np.sort(rng.choice(1000, 12, replace=False)).astype(np.int32), rng.uniform(0.1, 2, 12).astype(np.float32))
        for rng in generators
    ]
    return Encoded(dense, sparse, 0)


def publish(
    root: Path,
    texts: Mapping[str, str],
    made_by: EmbeddingContract | None = None,
    payloads: Mapping[str, Mapping[str, object]] | None = None,
) -> tuple[Artifact, Artifact]:
    """Return `passage_vectors` and `passages` of these texts, published once in the store below `root`.

    `payloads`: passage id -> the fields of `corpus.payload`.
    """
    store = ArtifactStore(root / "artifacts")
    hashes = [hashlib.sha256(text.encode()).hexdigest() for text in texts.values()]
    columns = {
        "passage_id": list(texts),
        "document_id": [passage.split("#")[0] for passage in texts],
        "heading": ["标题"] * len(texts),
        "content_sha256": hashes,
    }
    passages_recipe = _recipe("passages", [*texts.items(), payloads])
    passages = store.find("passages", passages_recipe.id)
    if passages is None:
        fields = PayloadFields()
        labels = [fields.encode(payloads[passage]) for passage in texts] if payloads else []
        with store.stage(passages_recipe) as staging:
            table = pa.table({**columns, "content": list(texts.values()), **({"payload": labels} if labels else {})})
            pq.write_table(table, staging.path / "passages.parquet", row_group_size=97)
            passages = staging.publish({"passages": len(texts), "payload": fields.types})
    vectors_recipe = _recipe("passage_vectors", [*texts.items()])
    vectors = store.find("passage_vectors", vectors_recipe.id)
    if vectors is None:
        encoded = encode(list(texts.values()))
        with store.stage(vectors_recipe) as staging:
            arms = {
                "dense": list(encoded.dense),
                "sparse_indices": [ids for ids, _ in encoded.sparse],
                "sparse_values": [values for _, values in encoded.sparse],
            }
            table = pa.table({**columns, **arms}, schema=schema(DIMENSION))
            pq.write_table(table, staging.path / "vectors.parquet", row_group_size=61)
            write_json(staging.path / "contract.json", (made_by or contract()).to_json())
            vectors = staging.publish({"passages": len(texts), "dimension": DIMENSION})
    store.point(passages)
    store.point(vectors)
    return vectors, passages


def _recipe(asset: str, content: list[object]) -> Recipe:
    return Recipe(asset=asset, code_version=hashlib.sha256(repr(content).encode()).hexdigest())
