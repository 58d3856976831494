"""The gates on what serves now: the alias, the served collection and the record of releases, after every release.

They judge the released artifacts, not the current candidate. The sensor `served_state` (ft_assets/served.py) and
`ft gate --served` run them by themselves.
"""

from __future__ import annotations

import time

import msgspec

from expectations.lexical.bm25 import FREQUENCIES_KEY, frequencies_are_of_contract
from expectations.rules import retrieval as rules
from expectations.violations import Refused, Violation, violation
from ft_assets.graph.gates import Evidence, Gate, Verdict
from ft_assets.retrieval.audit import audit, audit_sample, point_violations
from ft_assets.retrieval.checks import judge_consumers
from ft_assets.retrieval.collection import FLOOR_KEY, inspect, stored_contract
from ft_assets.retrieval.jobs import CandidateScores, VectorsSummary
from ft_assets.retrieval.release import settle, without_record
from ft_assets.retrieval.rerank import require_here
from ft_assets.retrieval.vectors import contract_of
from resources.artifacts import Artifact, ArtifactStore
from resources.engines.protocol import VectorClient
from resources.files import file_stamp
from resources.memo import Memo
from resources.qdrant import QdrantEngine, aliased, other_engine_serves
from resources.releases import Intent, Release, ReleaseBook, require_kept

ASSET = "released_collection"
QUICK_SAMPLE = 256
_MOVE_SECONDS, _POLL_SECONDS = 10.0, 0.2
"""Seconds for which a move of another process is waited for; it is a few writes."""
_verified = Memo[list[Violation]](size=4)
"""Violations of the released encoder's files, by path, version, stamps and hour."""


def release_serves(evidence: Evidence) -> Verdict:
    """The current release serves: the record is whole, the alias names its collection, the stored fusion and
    contract are the released ones, and the points are those of the released artifacts (the texts of all of them)."""
    return judge_served(evidence, quick=False)


def judge_served(evidence: Evidence, *, quick: bool) -> Verdict:
    """Judge what serves. `quick`: compare a sample of the points, other ones every hour, in place of all of them.

    Another process may release at the same time: a fault that is found in the middle of its move is looked for again.
    """
    deadline = time.monotonic() + _MOVE_SECONDS
    while True:
        with evidence.collections() as client:
            _settle(evidence, client)
            book, intent = _moves(evidence)
            verdict = _judge(evidence, client, quick=quick)
            is_still = intent is None and _moves(evidence) == (book, None)
        if is_still or not verdict.violations or time.monotonic() > deadline:
            return verdict
        time.sleep(_POLL_SECONDS)


def _moves(evidence: Evidence) -> tuple[ReleaseBook | None, Intent | None]:
    """Return the record of moves, and the one that has begun."""
    return evidence.releases.book("collection"), evidence.releases.announced("collection")


def _judge(evidence: Evidence, client: VectorClient, *, quick: bool) -> Verdict:
    release, name = evidence.releases.current("collection"), aliased(client, evidence.qdrant.alias)
    if release is None:
        return Verdict(without_record(evidence.qdrant.alias, name), {"version": "none"})
    figures: dict[str, object] = {"version": release.version, "collection": release.details["collection"]}
    if name is None or name != release.details["collection"]:
        return Verdict([_other_collection(evidence.qdrant, name, release)], figures)
    require_kept(evidence.store, release)
    damaged = _damage(evidence.store, release, quick=quick)
    if damaged:  # what is read below would be refused for it
        return Verdict(damaged, figures)
    vectors = evidence.store.find("passage_vectors", release.artifacts["passage_vectors"])
    passages = _passages_of(evidence.store, vectors) if vectors else None
    if vectors is None or passages is None:
        return Verdict([_gone(release)], figures)
    violations = _changed_configuration(client, name, release, vectors)
    stored = inspect(client, name)
    points = vectors.summary_as(VectorsSummary).passages
    violations += rules.collection_is_complete(name, points, stored.points, stored.dense, stored.sparse)
    fusion = stored.contract.fusion
    if fusion and fusion.rerank:
        try:
            require_here(fusion.rerank, evidence.store.root.parent)
        except Refused as refusal:
            violations += refusal.violations
    if not client.metadata(name).get("whole"):
        violations.append(violation("FT-COL-001", where=name, field="whole", found="", expected="a whole build"))
    if quick:
        audited = audit_sample(client, name, vectors, passages, stored.contract, QUICK_SAMPLE)
    else:
        audited = audit(client, name, vectors, passages, stored.contract)
    figures |= {"points": stored.points, "points_read": len(audited.versions)}
    return Verdict([*violations, *point_violations(name, audited)], figures)


def consumers_accept(evidence: Evidence) -> Verdict:
    """Every consumer accepts what serves: a contract that was changed after the release is judged against it."""
    release = evidence.releases.current("collection")
    if release is None:
        return Verdict([], {"version": "none"})
    require_kept(evidence.store, release)
    with evidence.collections() as client:
        contract = stored_contract(client, release.details["collection"])
    evaluation = evidence.store.find("retrieval_evaluation", release.artifacts["retrieval_evaluation"])
    recall = evaluation.summary_as(CandidateScores).candidate_fused_recall_at_10 if evaluation else 0.0
    verdict = judge_consumers(contract, recall)
    return Verdict(verdict.violations, {"version": release.version, **verdict.figures})


def _settle(evidence: Evidence, client: VectorClient) -> None:
    """Finish or withdraw a move that was interrupted, unless another process is in the middle of it."""
    if evidence.releases.announced("collection") is None:
        return
    try:
        with evidence.releases.exclusive("collection", wait=False):
            settle(client, evidence.releases, evidence.qdrant.alias)
    except OSError:  # another process has it, or the state cannot be written
        return


def _other_collection(engine: QdrantEngine, name: str | None, release: Release) -> Violation:
    fix = other_engine_serves(engine) if name is None else ""
    return violation(
        "FT-REL-005",
        where=engine.alias,
        field="collection",
        found=name or "none",
        expected=release.details["collection"],
        fix=fix or f"Find out who moved it, then run `ft rollback collection --to {release.version}`.",
    )


def _changed_configuration(client: VectorClient, name: str, release: Release, vectors: Artifact) -> list[Violation]:
    """Return violations where the stored contract, the fusion or the engine's configuration is not the released one."""
    stored = stored_contract(client, name)
    wanted = contract_of(vectors).served(stored.serving, stored.fusion) if stored.serving else stored
    pairs: dict[str, tuple[object, object]] = {
        "fusion": (msgspec.to_builtins(stored.fusion), release.details["fusion"]),
        "index_fp": (stored.index_fp, release.details["index_fp"]),
        FLOOR_KEY: (client.metadata(name).get(FLOOR_KEY) or None, release.details.get(FLOOR_KEY)),
    }
    changed = [
        violation(
            "FT-REL-006",
            where=name,
            field=field,
            found=found,
            expected=expected,
            fix=f"Run `ft rollback collection --to {release.version}`: it writes the fusion that was judged.",
        )
        for field, (found, expected) in pairs.items()
        if found != expected
    ]
    return [
        *changed,
        *rules.collection_matches_contract(name, stored, wanted, client.serving(name)),
        *frequencies_are_of_contract(name, stored.lexical, client.metadata(name).get(FREQUENCIES_KEY)),
    ]


def _damage(store: ArtifactStore, release: Release, *, quick: bool) -> list[Violation]:
    """Return the violations of files of the released artifacts: a search reads those of the encoder.

    `quick`: those of the encoder alone, read again if a file has changed, and every hour.
    """
    if not quick:
        every = (store.find(asset, recipe) for asset, recipe in release.artifacts.items())
        return [found for artifact in every if artifact for found in artifact.verify()]
    encoder = store.find("embedding_model", release.artifacts["embedding_model"])
    if encoder is None:
        return []
    stamps = tuple(file_stamp(encoder.path / name) for name in encoder.manifest.files)
    key = (encoder.path, encoder.data_version, stamps, time.time() // 3600)
    return _verified.get(key, lambda: encoder.verify(fetch=False))


def _passages_of(store: ArtifactStore, vectors: Artifact) -> Artifact | None:
    """Return the passages that the vectors were made from."""
    version = vectors.manifest.recipe.inputs["passages"]
    return store.find_version("passages", version)


def _gone(release: Release) -> Violation:
    where = f"release {release.version}"
    return violation("FT-REL-002", where=where, field="artifacts", found="not all of them", expected="all of them")


GATES = [Gate(ASSET, "release_serves", release_serves), Gate(ASSET, "consumers_accept_what_serves", consumers_accept)]
