"""Searches the released collection as a user does: by its alias, with its contract and the model that made it."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec

from expectations.contracts.embedding import EmbeddingContract, Serving, guard
from expectations.violations import Refused, violation
from ft_assets.retrieval.collection import stored_contract
from ft_assets.retrieval.query import arm_scores, ask
from ft_assets.retrieval.vectors import contract_of
from ft_assets.retrieval.where import payload_fields, read_conditions
from resources.artifacts import Artifact, ArtifactStore
from resources.engines.protocol import Arm, OpenJson, Scored, VectorClient
from resources.qdrant import QdrantEngine, aliased
from resources.releases import Releases

if TYPE_CHECKING:
    from ft_assets.embedding.model import HybridEncoder

_ARMS: tuple[Arm, ...] = ("dense", "sparse")


class Hit(msgspec.Struct, frozen=True, kw_only=True):
    """A passage that was found. `score` is the fused score; `dense` and `sparse` are the raw scores of the two arms."""

    passage_id: str
    document_id: str
    content: str
    score: float
    dense: float
    sparse: float
    payload: OpenJson = {}
    """The fields that `corpus.payload` names."""


class Retriever:
    """Searches the collection behind the alias with the model that made it."""

    def __init__(self, client: VectorClient, name: str, contract: EmbeddingContract, encoder: HybridEncoder) -> None:
        self.name = name
        self.contract = contract
        self.fields = payload_fields(client.metadata(name))
        """Payload fields that conditions may name, with their types."""
        self._client = client
        self._encoder = encoder

    @classmethod
    @contextmanager
    def open(cls, store: ArtifactStore, releases: Releases, engine: QdrantEngine) -> Generator[Retriever]:
        """Yield a retriever after checking that its model made the index.

        Raises Refused: FT-RET-006 nothing is released, FT-RET-007 no model in the store made this index, FT-EMB-002 the
        contracts differ, FT-COL-003 the collection is not built as its metadata says.
        """
        from ft_assets.embedding.model import HybridEncoder

        with engine.open() as client:
            name = aliased(client, engine.alias)
            if name is None:
                nothing = violation("FT-RET-006", where=engine.alias, field="collection", expected="one")
                raise Refused(f"opening {engine.alias}", [nothing])
            contract = stored_contract(client, name)
            encoder = HybridEncoder.load(_model_of(store, releases, name, contract).folder())
            _guard(name, contract, client.serving(name), encoder)
            yield cls(client, name, contract, encoder)

    def search(self, queries: Sequence[str], k: int, where: Sequence[str] = ()) -> list[list[Hit]]:
        """Return the `k` best passages for each query, best first, with the scores of both arms.

        `where`: conditions that each passage meets, such as `tenant=a` or `year>=2020`. Raises Refused (FT-RET-009) for
        one that names no payload field, or a value of another type.
        """
        conditions = read_conditions(where, self.fields, self.name)
        if not queries:
            return []
        encoded = self._encoder.encode(list(queries), "query")
        names = ("passage_id", "document_id", "content", *self.fields)
        answers = ask(
            self._client, self.name, self.contract, encoded, "fused", limit=k, payload=names, where=conditions
        )
        ids = [[point.id for point in points] for points in answers]
        dense, sparse = (arm_scores(self._client, self.name, self.contract, encoded, arm, ids=ids) for arm in _ARMS)
        return [
            [_hit(point, dense_scores, sparse_scores, self.fields) for point in points]
            for points, dense_scores, sparse_scores in zip(answers, dense, sparse, strict=True)
        ]


def _hit(point: Scored, dense: dict[str, float], sparse: dict[str, float], fields: Iterable[str]) -> Hit:
    return Hit(
        passage_id=point.payload["passage_id"],
        document_id=point.payload["document_id"],
        content=point.payload["content"],
        score=point.score,
        dense=dense.get(point.id, 0.0),
        sparse=sparse.get(point.id, 0.0),
        payload={name: point.payload.get(name) for name in fields},
    )


def _model_of(store: ArtifactStore, releases: Releases, name: str, contract: EmbeddingContract) -> Artifact:
    """Return the model artifact that makes these vectors: the released one if it does, else any in the store."""
    release = releases.current("collection")
    released = store.find("embedding_model", release.artifacts["embedding_model"]) if release else None
    for artifact in [*([released] if released else []), *store.versions("embedding_model")]:
        if contract_of(artifact).encode_fp == contract.encode_fp:
            return artifact
    models = store.versions("embedding_model")
    unknown = violation(
        "FT-RET-007",
        where=name,
        field="collection",
        found={artifact.recipe_id: contract_of(artifact).encode_fp[:12] for artifact in models},
        expected=contract.encode_fp[:12],
    )
    raise Refused(f"opening {name}", [unknown])


def _guard(name: str, stored: EmbeddingContract, config: Serving | None, encoder: HybridEncoder) -> None:
    """Refuse unless the engine is configured, and the model encodes the probe texts, as the contract records."""
    if config != stored.serving or stored.serving is None:
        differs = violation(
            "FT-COL-003",
            where=name,
            message="BROKEN: the engine's configuration is not what the contract says.",
            field="collection",
            found=str(config),
            expected=str(stored.serving),
            fix="ft run --group retrieval",
        )
        raise Refused(f"opening {name}", [differs])
    now = msgspec.structs.replace(encoder.contract, probes=encoder.probe())
    guard(stored, now.served(stored.serving, stored.fusion), name)
