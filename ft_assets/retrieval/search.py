"""Asks what serves, as a user of it does: the alias, its contract, and only the model that made it."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import msgspec

from expectations.contracts.embedding import EmbeddingContract, Serving, guard
from expectations.violations import Refused, Violation
from ft_assets.retrieval.collection import stored_contract
from ft_assets.retrieval.query import arm_scores, ask
from ft_assets.retrieval.vectors import contract_of
from resources.artifacts import Artifact, ArtifactStore
from resources.engines.protocol import Arm, VectorClient
from resources.qdrant import QdrantEngine, aliased
from resources.releases import Releases

if TYPE_CHECKING:
    from ft_assets.embedding.model import HybridEncoder


class Hit(msgspec.Struct, frozen=True, kw_only=True):
    """One passage found. `score` is the fused one; `dense` and `sparse` are the raw scores of the two arms."""

    passage_id: str
    document_id: str
    content: str
    score: float
    dense: float
    sparse: float


class Retriever:
    """Searches the collection behind the alias with the model that made it."""

    def __init__(self, client: VectorClient, name: str, contract: EmbeddingContract, encoder: HybridEncoder) -> None:
        self.name = name
        self.contract = contract
        self._client = client
        self._encoder = encoder

    @classmethod
    @contextmanager
    def open(cls, store: ArtifactStore, releases: Releases, engine: QdrantEngine) -> Generator[Retriever]:
        """A retriever whose index and model are proved to belong together. Raises Refused: FT-RET-006 nothing is
        released, FT-RET-007 no model in the store made this index, FT-EMB-002 the contracts differ, FT-COL-003 the
        collection is not built as its metadata says."""
        from ft_assets.embedding.model import HybridEncoder

        with engine.open() as client:
            name = aliased(client, engine.alias)
            if name is None:
                raise _refused("FT-RET-006", engine.alias, "nothing is released under this alias.", None, "one",
                               "ft run --asset released_collection")  # fmt: skip
            contract = stored_contract(client, name)
            encoder = HybridEncoder.load(_model_of(store, releases, name, contract).folder())
            _guard(name, contract, client.serving(name), encoder)
            yield cls(client, name, contract, encoder)

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """The `k` best passages for each query, best first, with the scores of both arms."""
        if not queries:
            return []
        encoded = self._encoder.encode(list(queries), "query")
        fields = ("passage_id", "document_id", "content")
        answers = ask(self._client, self.name, self.contract, encoded, "fused", limit=k, payload=fields)
        ids = [[point.id for point in points] for points in answers]
        dense, sparse = (arm_scores(self._client, self.name, self.contract, encoded, arm, ids=ids) for arm in _ARMS)
        return [
            [
                Hit(
                    passage_id=point.payload["passage_id"],
                    document_id=point.payload["document_id"],
                    content=point.payload["content"],
                    score=point.score,
                    dense=dense[row].get(point.id, 0.0),
                    sparse=sparse[row].get(point.id, 0.0),
                )
                for point in points
            ]
            for row, points in enumerate(answers)
        ]


_ARMS: tuple[Arm, ...] = ("dense", "sparse")


def _model_of(store: ArtifactStore, releases: Releases, name: str, contract: EmbeddingContract) -> Artifact:
    """The model artifact whose contract makes these vectors: the released one, else any in the store."""
    release = releases.current("collection")
    released = store.find("embedding_model", release.artifacts["embedding_model"]) if release else None
    for artifact in [*([released] if released else []), *store.versions("embedding_model")]:
        if contract_of(artifact).encode_fp == contract.encode_fp:
            return artifact
    made = {artifact.recipe_id: contract_of(artifact).encode_fp[:12] for artifact in store.versions("embedding_model")}
    raise _refused("FT-RET-007", name, "no model in the store made this index; an equal dimension is not enough.",
                   made, contract.encode_fp[:12], "ft run --group embedding --group retrieval")  # fmt: skip


def _guard(name: str, stored: EmbeddingContract, config: Serving | None, encoder: HybridEncoder) -> None:
    """Refuse unless the engine is configured, and the loaded model encodes the probes, as the contract records."""
    if config != stored.serving or stored.serving is None:
        raise _refused("FT-COL-003", name, "BROKEN: the engine's configuration is not what the contract says.",
                       str(config), str(stored.serving), "ft run --group retrieval")  # fmt: skip
    now = msgspec.structs.replace(encoder.contract, probes=encoder.probe())
    guard(stored, now.served(stored.serving, stored.fusion), name)


def _refused(code: str, where: str, message: str, found: Any, expected: Any, fix: str) -> Refused:  # noqa: PLR0917
    violation = Violation(
        code=code, where=where, message=message, field="collection", found=found, expected=expected, fix=fix
    )
    return Refused(f"opening {where}", [violation])
