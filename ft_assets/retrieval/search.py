"""Searches the released collection as a user does: by its alias, with its contract and the model that made it."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from expectations.contracts.embedding import EmbeddingContract, Fusion, Probe, Serving, guard
from expectations.lexical.bm25 import FREQUENCIES_KEY
from expectations.violations import Refused, violation
from ft_assets.embedding.lexical import query_side, with_lexical_arm
from ft_assets.retrieval.collection import FLOOR_KEY, stored_contract
from ft_assets.retrieval.jobs import ScoreFloor
from ft_assets.retrieval.query import Reranking, arm_scores, ask
from ft_assets.retrieval.questions import QueryTerm, explain_terms, read_questions
from ft_assets.retrieval.rerank import load_reranker
from ft_assets.retrieval.vectors import contract_of
from ft_assets.retrieval.where import payload_fields, read_conditions
from resources.artifacts import Artifact, ArtifactStore
from resources.engines.protocol import Arm, OpenJson, Scored, TokenWeights, VectorClient
from resources.qdrant import QdrantEngine, aliased, other_engine_serves
from resources.releases import Release, Releases

if TYPE_CHECKING:
    from ft_assets.embedding.model import HybridEncoder

_ARMS: tuple[Arm, ...] = ("dense", "sparse")
_NO_TERM = "no term of the question has a lexical weight: only its dense vector finds passages"


class Hit(msgspec.Struct, frozen=True, kw_only=True):
    """A passage that was found. `score` is that of the ranking that was asked for, before any rerank model; `dense`
    and `sparse` are the raw scores of the two arms."""

    passage_id: str
    document_id: str
    content: str
    score: float
    dense: float
    sparse: float
    rerank: float | None = None
    """The score of the rerank model, which decided the place; None for a passage that it did not read."""
    payload: OpenJson = {}
    """The fields that `corpus.payload` names."""
    terms: list[QueryTerm] = []
    """The terms of the question with their weights, where an explanation was asked for."""


class SearchAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The passages that were found for one question."""

    question: str
    """As it was encoded."""
    hits: list[Hit]
    found: bool = True
    """False if there is no hit, or none whose fused score reaches the collection's floor (`score_floor`)."""
    notes: list[str] = []
    """The parts of the question that the search could not use, and why."""


class LoadedEncoder(NamedTuple):
    """An encoder with the vectors that it gives the probe texts."""

    encoder: HybridEncoder
    probes: list[Probe]


def load_encoder(model: Artifact) -> LoadedEncoder:
    """Return the encoder of a model artifact."""
    from ft_assets.embedding.model import HybridEncoder

    encoder = HybridEncoder.load(model.folder())
    return LoadedEncoder(encoder, encoder.probe())


class Retriever:
    """Searches the collection behind the alias with the model that made it."""

    def __init__(
        self,
        client: VectorClient,
        name: str,
        contract: EmbeddingContract,
        encoder: HybridEncoder,
        *,
        state: Path,
        note: str = "",
    ) -> None:
        """`state`: the state folder, for the rerank model that the contract may name (FT-RET-015 without it)."""
        self.name = name
        self.contract = contract
        self.note = note
        """The reason why nothing proves that this collection was released; empty where the record names it."""
        self.fields = payload_fields(client.metadata(name))
        """Payload fields that conditions may name, with their types."""
        floor = client.metadata(name).get(FLOOR_KEY)
        self.floor = msgspec.convert(floor, ScoreFloor) if floor else None
        """The fused score below which the best passage hardly answers the question; None where none is known."""
        self._client = client
        self._encoder = encoder
        self._state = state
        rerank = contract.fusion.rerank if contract.fusion else None
        self._reranker = load_reranker(rerank, state) if rerank else None
        self._bm25 = query_side(contract, client.metadata(name).get(FREQUENCIES_KEY), name)

    @classmethod
    @contextmanager
    def open(
        cls, store: ArtifactStore, releases: Releases, engine: QdrantEngine, *, unreleased: bool = False
    ) -> Generator[Retriever]:
        """Yield a retriever after checking that the collection is the released one and that its model made the index.

        `unreleased`: search what the alias names, also if it is not what was released. Where the record of releases is
        missing or damaged, the search works, and `note` gives the reason.

        Raises Refused: FT-RET-006 nothing is released, FT-REL-005 and FT-REL-006 the collection or its fusion is not
        the released one, FT-RET-007 no model in the store made this index, FT-EMB-002 the contracts differ, FT-COL-003
        the collection is not built as its metadata says, FT-RET-015 the rerank model of the release is not here.
        """
        # loaded before the engine is opened, so that others wait for it less; `serving` takes it from memory
        for release in _recorded(releases)[0]:
            if rerank := msgspec.convert(release.details["fusion"], Fusion).rerank:
                load_reranker(rerank, store.root.parent)
        with engine.open() as client:
            yield cls.serving(client, store, releases, engine, unreleased=unreleased)

    @classmethod
    def serving(
        cls,
        client: VectorClient,
        store: ArtifactStore,
        releases: Releases,
        engine: QdrantEngine,
        *,
        unreleased: bool = False,
        load: Callable[[Artifact], LoadedEncoder] | None = None,
    ) -> Retriever:
        """Return a retriever on what the alias names, as `open` does, with a client that is open. `load`: see `on`."""
        alias = engine.alias
        name = aliased(client, alias)
        if name is None:
            fix = other_engine_serves(engine)
            nothing = violation("FT-RET-006", where=alias, field="collection", expected="one", fix=fix)
            raise Refused(f"opening {alias}", [nothing])
        recorded, note = _recorded(releases)
        if recorded and not unreleased:
            _require_released(alias, name, stored_contract(client, name), recorded)
        return cls.on(client, name, store, recorded, note, load=load)

    @classmethod
    def on(
        cls,
        client: VectorClient,
        name: str,
        store: ArtifactStore,
        recorded: Sequence[Release] = (),
        note: str = "",
        *,
        load: Callable[[Artifact], LoadedEncoder] | None = None,
    ) -> Retriever:
        """Return a retriever on one collection.

        `load`: as `load_encoder`, for a caller that keeps encoders in memory.
        """
        contract = stored_contract(client, name)
        loaded = (load or load_encoder)(_model_of(store, recorded, name, contract))
        _guard(name, contract, client.serving(name), loaded)
        return cls(client, name, contract, loaded.encoder, state=store.root.parent, note=note)

    def weighing(self, fusion: Fusion) -> Retriever:
        """Return this retriever with another fusion. Nothing that is served changes; the floor is that of the served
        fusion and no longer applies."""
        changed = msgspec.structs.replace(self.contract, fusion=fusion)
        weighed = Retriever(self._client, self.name, changed, self._encoder, state=self._state, note=self.note)
        weighed.floor = self.floor if fusion == self.contract.fusion else None
        return weighed

    def search(self, queries: Sequence[str], k: int, where: Sequence[str] = ()) -> list[list[Hit]]:
        """Return the `k` best passages for each query, as `answer` finds them."""
        return [answer.hits for answer in self.answer(queries, k, where)]

    def answer(
        self, queries: Sequence[str], k: int, where: Sequence[str] = (), *, arm: Arm = "fused", explain: bool = False
    ) -> list[SearchAnswer]:
        """Return the `k` best passages for each query, best first, with the scores of both arms.

        `where`: conditions that each passage meets, such as `tenant=a` or `year>=2020`. `arm`: the ranking of one arm
        alone. `explain`: with the weights of the query's terms in each passage. Raises Refused: FT-RET-009 a condition
        that names no payload field, or a value of another type; FT-RET-012 and FT-RET-013 a query with nothing to
        search for, or with characters that no text has.
        """
        conditions = read_conditions(where, self.fields, self.name)
        questions = read_questions(queries, self._encoder, self.name)
        if not questions:
            return []
        texts = [question.text for question in questions]
        encoded = with_lexical_arm(self._encoder.encode(texts, "query"), texts, self._bm25)
        names = ("passage_id", "document_id", "content", *self.fields)
        fusion = self.contract.fusion
        # the floor is one of the best fused score, which a rerank model may put behind the first k
        depth = max(k, fusion.rerank.top_n) if fusion and fusion.rerank and arm == "fused" else k
        deep = ask(
            self._client,
            self.name,
            self.contract,
            encoded,
            arm,
            limit=depth,
            payload=names,
            where=conditions,
            reranking=Reranking(self._reranker, texts) if self._reranker else None,
        )
        answers = [points[:k] for points in deep]
        ids = [[point.id for point in points] for points in answers]
        dense, sparse = (arm_scores(self._client, self.name, self.contract, encoded, arm, ids=ids) for arm in _ARMS)
        found: list[SearchAnswer] = []
        for n, (question, points) in enumerate(zip(questions, answers, strict=True)):
            terms = self._explain(question.text, encoded.sparse[n], ids[n]) if explain else {}
            hits = [_hit(point, dense[n], sparse[n], self.fields, terms.get(point.id, [])) for point in points]
            notes = [*question.notes, *([] if len(encoded.sparse[n][0]) else [_NO_TERM])]
            best = max((point.score for point in deep[n]), default=0.0)
            low = self.floor if arm == "fused" and self.floor and hits and best < self.floor.score else None
            notes += [_nothing_found(best, low)] if low else []
            found.append(SearchAnswer(question=question.text, hits=hits, found=bool(hits) and not low, notes=notes))
        return found

    def _explain(self, question: str, query: TokenWeights, ids: Sequence[str]) -> dict[str, list[QueryTerm]]:
        """Return the terms of a query with their weights in each of these points, by point id."""
        points = self._client.retrieve(self.name, ids)
        if self._bm25:
            names = {found.number: found.term for found in self._bm25.weights(question)}
        else:
            terms = [int(term) for term in query[0]]
            names = dict(zip(terms, self._encoder.tokenizer.convert_ids_to_tokens(terms), strict=True))
        return {
            point: explain_terms(query, weights, names)
            for point, weights in zip(points.ids, points.sparse, strict=True)
        }


def _nothing_found(score: float, floor: ScoreFloor) -> str:
    shares = f"{floor.lost:.0%} of the judged questions, and {floor.caught:.0%} of them without their answer"
    return f"nothing found: the best score is {score:.4f}; below {floor.score:.4f} lie {shares}"


def _hit(
    point: Scored, dense: dict[str, float], sparse: dict[str, float], fields: Iterable[str], terms: list[QueryTerm]
) -> Hit:
    return Hit(
        passage_id=point.payload["passage_id"],
        document_id=point.payload["document_id"],
        content=point.payload["content"],
        score=point.score,
        dense=dense.get(point.id, 0.0),
        sparse=sparse.get(point.id, 0.0),
        rerank=point.rerank,
        payload={name: point.payload.get(name) for name in fields},
        terms=terms,
    )


def _recorded(releases: Releases) -> tuple[list[Release], str]:
    """Return the releases that may serve now, and a note where there is none.

    They are the current one, and one that is announced: its alias may have moved a moment ago.
    """
    announced = None
    with suppress(Refused):  # damaged: the record still counts, and the gate and `ft status` name it
        announced = releases.announced("collection")
    try:
        current = releases.current("collection")
    except Refused as damaged:
        return [], f"the record of releases cannot be read, so nothing proves what serves: {damaged.violations[0]}"
    recorded = [*([current] if current else []), *([announced.release] if announced else [])]
    return recorded, "" if recorded else "there is no record of releases, so nothing proves what serves"


def _require_released(alias: str, name: str, contract: EmbeddingContract, recorded: Sequence[Release]) -> None:
    """Refuse a collection, or a fusion, that is not a recorded release's (FT-REL-005, FT-REL-006)."""
    fusion = msgspec.to_builtins(contract.fusion)
    of_collection = [release for release in recorded if release.details["collection"] == name]
    if any(release.details["fusion"] == fusion for release in of_collection):
        return
    expected = recorded[0].details
    if of_collection:
        code, where, field, found = "FT-REL-006", name, "fusion", fusion
    else:
        code, where, field, found = "FT-REL-005", alias, "collection", name
    fix = f"ft rollback collection --to {recorded[0].version} (or search it all the same: --unreleased)"
    refusal = violation(code, where=where, field=field, found=found, expected=expected[field], fix=fix)
    raise Refused(f"opening {alias}", [refusal])


def _model_of(store: ArtifactStore, recorded: Sequence[Release], name: str, contract: EmbeddingContract) -> Artifact:
    """Return the model artifact that makes these vectors: the released one if it does, else any in the store."""
    released = [store.find("embedding_model", release.artifacts["embedding_model"]) for release in recorded]
    for artifact in [*filter(None, released), *store.versions("embedding_model")]:
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


def _guard(name: str, stored: EmbeddingContract, config: Serving | None, loaded: LoadedEncoder) -> None:
    """Refuse unless the engine is configured, and the model encodes the probe texts, as the contract records."""
    if stored.serving is None or config != stored.serving.form:
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
    now = msgspec.structs.replace(loaded.encoder.contract, probes=loaded.probes)
    guard(stored, now.as_in(stored), name)
