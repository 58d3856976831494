"""The cost of a build and its result, on the embedded engines."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np
import pytest

from expectations.contracts.embedding import Fusion
from expectations.rules import retrieval as rules
from expectations.violations import Refused
from ft_assets.retrieval.audit import audit, audit_sample, point_violations
from ft_assets.retrieval.collection import (
    Built,
    build,
    collection_name,
    inspect,
    passage_versions,
    point_id,
    points_version,
)
from ft_assets.retrieval.query import ask
from ft_assets.retrieval.where import payload_fields, read_conditions
from resources.artifacts import Artifact
from resources.engines.protocol import Arm, VectorClient
from tests.ft_assets.retrieval.synthetic import SERVING, contract, corpus, encode, publish
from tests.resources.test_engines import EMBEDDED, engine

SIZE = 120
SERVED = contract().served(SERVING, None)
WEIGHTED = Fusion(fusion="weighted_sum", dense_weight=1.0, sparse_weight=0.3, prefetch_limit=200)


@pytest.fixture(params=EMBEDDED)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


def name_of(vectors: Artifact) -> str:
    return collection_name("passages", SERVED, vectors.data_version)


def is_whole(client: VectorClient, name: str, vectors: Artifact, passages: Artifact) -> bool:
    stored = inspect(client, name)
    total = vectors.summary["passages"]
    return not (
        rules.collection_is_complete(name, total, stored.points, stored.dense, stored.sparse)
        + rules.points_are_current(name, passage_versions(vectors, passages), client.field(name, "version"))
        + rules.collection_matches_contract(name, stored.contract, SERVED, stored.config)
        + point_violations(name, audit(client, name, vectors, passages, SERVED))
    )


def test_a_point_id_is_the_uuid5_of_the_passage() -> None:
    for passage in ("文档1#5", "a#b", ""):
        assert point_id(passage) == str(uuid.uuid5(uuid.UUID("6f0e4c3a-2d0b-5f0e-9d1f-0c7d5b7a4e21"), passage))


def test_a_first_build_writes_every_point_once_and_a_second_none(tmp_path: Path, kind: str) -> None:
    vectors, passages = publish(tmp_path, corpus(SIZE))
    name = name_of(vectors)
    steps: list[tuple[int, int]] = []
    with engine(tmp_path, kind).open() as client:
        built = build(client, name, SERVED, vectors, passages, progress=lambda *step: steps.append(step))
        assert built == Built(name, SIZE, SIZE, 0, 0)
        assert steps[-1] == (SIZE, SIZE)
        assert is_whole(client, name, vectors, passages)
        assert build(client, name, SERVED, vectors, passages) == Built(name, SIZE, 0, 0, 0)
        payload = client.retrieve(name, [point_id("文档1#5")]).payloads[0]
    assert payload["content"] == "第 5 段的内容 text 5"
    assert (payload["passage_id"], payload["document_id"], payload["heading"]) == ("文档1#5", "文档1", "标题")


def test_a_changed_document_costs_its_own_points_and_the_old_collection_stays_as_it_was(
    tmp_path: Path, kind: str
) -> None:
    before, passages = publish(tmp_path, corpus(SIZE))
    with engine(tmp_path, kind).open() as client:
        build(client, name_of(before), SERVED, before, passages)
        client.point("passages", name_of(before))
    texts = corpus(SIZE, changed={5: "第五段换了", SIZE: "新的一段"})
    del texts["文档20#80"]
    after, passages = publish(tmp_path, texts)
    with engine(tmp_path, kind).open() as client:
        built = build(client, name_of(after), SERVED, after, passages)
        assert built == Built(name_of(after), SIZE, 2, SIZE - 2, 1)
        assert is_whole(client, name_of(after), after, passages)
        assert is_whole(client, name_of(before), before, passages)
        assert client.aliases() == {"passages": name_of(before)}
        served = SERVED.served(SERVING, WEIGHTED)
        (found,) = ask(client, name_of(after), served, encode(["第五段换了"]), "fused", limit=1)
        assert found[0].payload["passage_id"] == "文档1#5"
        (found,) = ask(client, name_of(before), served, encode(["第五段换了"]), "dense", limit=1)
        assert found[0].score < 0.99, "the old collection does not know the new text"


def test_a_moved_passage_with_the_same_text_is_written_again(tmp_path: Path, kind: str) -> None:
    before, passages = publish(tmp_path, corpus(40))
    texts = {("文档9#3x" if key == "文档0#3" else key): text for key, text in corpus(40).items()}
    after, moved = publish(tmp_path, texts)
    with engine(tmp_path, kind).open() as client:
        build(client, name_of(before), SERVED, before, passages)
        built = build(client, name_of(after), SERVED, after, moved)
        assert (built.upserted, built.copied, built.deleted) == (1, 39, 1)
        assert is_whole(client, name_of(after), after, moved)


def test_a_corpus_with_little_in_common_is_not_built_from_a_copy(tmp_path: Path, kind: str) -> None:
    before, passages = publish(tmp_path, corpus(40))
    after, others = publish(tmp_path, corpus(40, changed={n: f"另一段 {n}" for n in range(25)}))
    with engine(tmp_path, kind).open() as client:
        build(client, name_of(before), SERVED, before, passages)
        assert build(client, name_of(after), SERVED, after, others) == Built(name_of(after), 40, 40, 0, 0)


def test_nothing_is_copied_from_another_model_dimension_or_distance(tmp_path: Path, kind: str) -> None:
    vectors, passages = publish(tmp_path, corpus(40))
    with engine(tmp_path, kind).open() as client:
        build(client, name_of(vectors), SERVED, vectors, passages)
        other = contract("9" * 64)
        for wanted in (
            other.served(SERVING, None),
            contract().served(msgspec.structs.replace(SERVING, dimension=8), None),
            contract().served(msgspec.structs.replace(SERVING, distance="dot"), None),
        ):
            name = collection_name("passages", wanted, vectors.data_version)
            assert build(client, name, wanted, vectors, passages).upserted == 40


def test_an_unfinished_collection_is_never_copied_and_is_continued(tmp_path: Path, kind: str) -> None:
    before, passages = publish(tmp_path, corpus(40))
    after, changed = publish(tmp_path, corpus(40, changed={1: "改了"}))
    with engine(tmp_path, kind).open() as client:
        build(client, name_of(before), SERVED, before, passages)
        client.delete(name_of(before), [point_id("文档0#2"), point_id("文档0#3")])
        client.set_metadata(name_of(before), {"whole": ""})
        assert build(client, name_of(after), SERVED, after, changed).upserted == 40
        assert build(client, name_of(before), SERVED, before, passages) == Built(name_of(before), 40, 2, 38, 0)
        assert is_whole(client, name_of(before), before, passages)


def test_a_copy_without_its_differences_is_not_whole(tmp_path: Path, kind: str) -> None:
    before, passages = publish(tmp_path, corpus(40))
    after, changed = publish(tmp_path, corpus(40, changed={1: "改了"}))
    with engine(tmp_path, kind).open() as client:
        build(client, name_of(before), SERVED, before, passages)
        client.copy(name_of(before), name_of(after), SERVING, {"contract": SERVED.to_json(), "whole": ""})
        # the number of points is right, but not the points: a check of counts alone would pass
        wanted, stored = passage_versions(after, changed), client.field(name_of(after), "version")
        assert [v.code for v in rules.points_are_current("c", wanted, stored)] == ["FT-COL-007"]
        assert build(client, name_of(after), SERVED, after, changed) == Built(name_of(after), 40, 1, 39, 0)
        assert is_whole(client, name_of(after), after, changed)


def test_a_point_without_a_vector_is_counted_and_differs(tmp_path: Path) -> None:
    from qdrant_client import models

    vectors, passages = publish(tmp_path, corpus(8))
    with engine(tmp_path).open() as client:
        build(client, name_of(vectors), SERVED, vectors, passages)
        bare = models.PointStruct(
            id=point_id("文档0#0"), vector={"sparse": models.SparseVector(indices=[1], values=[1])}
        )
        client.client.upsert(name_of(vectors), [bare])  # type: ignore[attr-defined]
        assert inspect(client, name_of(vectors)).dense == 7
        deviations = audit(client, name_of(vectors), vectors, passages, SERVED).deviations
        assert np.isnan(deviations["文档0#0 (dense)"])
        assert not is_whole(client, name_of(vectors), vectors, passages)


def test_a_collection_with_another_contract_is_not_overwritten(tmp_path: Path, kind: str) -> None:
    vectors, passages = publish(tmp_path, corpus(8))
    with engine(tmp_path, kind).open() as client:
        build(client, name_of(vectors), SERVED, vectors, passages)
        other = contract("9" * 64).served(SERVING, None)
        with pytest.raises(Refused, match="FT-COL-005"):
            build(client, name_of(vectors), other, vectors, passages)


def test_a_missing_collection_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    with engine(tmp_path, kind).open() as client, pytest.raises(Refused, match="FT-COL-006"):
        inspect(client, "passages__none")


@pytest.mark.parametrize(("name", "points", "codes"), [
    ("local", 20_000, []), ("local", 20_001, ["FT-QDR-004"]), ("edge", 10**6, []), ("server", 10**6, []),
])  # fmt: skip
def test_the_local_engine_is_reported_above_its_size(name: str, points: int, codes: list[str]) -> None:
    violations = rules.local_engine_is_enough("qdrant_collection", name, points)
    assert [violation.code for violation in violations] == codes
    assert all(violation.found == points and "ft migrate" in violation.fix for violation in violations)


def test_texts_of_another_run_are_refused(tmp_path: Path) -> None:
    vectors, _ = publish(tmp_path, corpus(8))
    _, others = publish(tmp_path, corpus(8, changed={2: "别的"}))
    with engine(tmp_path).open() as client, pytest.raises(Refused, match="FT-VEC-004"):
        build(client, name_of(vectors), SERVED, vectors, others)


def test_passages_in_another_order_are_refused(tmp_path: Path) -> None:
    vectors, _ = publish(tmp_path, corpus(8))
    _, reordered = publish(tmp_path, dict(reversed(corpus(8).items())))
    with engine(tmp_path).open() as client, pytest.raises(Refused, match="FT-VEC-007"):
        build(client, name_of(vectors), SERVED, vectors, reordered)


def _labelled(count: int, changed: Mapping[int, str] | None = None) -> dict[str, dict[str, object]]:
    """Return a payload for each passage of `corpus`: a tenant and a year."""
    tenants = {n: "north" if n % 4 else "south" for n in range(count)} | dict(changed or {})
    return {passage: {"tenant": tenants[n], "year": 2000 + n} for n, passage in enumerate(corpus(count))}


def test_a_changed_payload_is_written_alone_next_to_the_collection_that_serves(tmp_path: Path, kind: str) -> None:
    vectors, first = publish(tmp_path, corpus(40), payloads=_labelled(40))
    _, second = publish(tmp_path, corpus(40), payloads=_labelled(40, {3: "west", 8: "west"}))
    names = [collection_name("passages", SERVED, points_version(vectors, passages)) for passages in (first, second)]
    assert len({*names, name_of(vectors)}) == 3
    with engine(tmp_path, kind).open() as client:
        assert build(client, names[0], SERVED, vectors, first) == Built(names[0], 40, 40, 0, 0)
        before = client.retrieve(names[0], [point_id("文档0#3")])
        assert before.payloads[0] | {"version": ""} == {
            "passage_id": "文档0#3", "document_id": "文档0", "heading": "标题", "content": "第 3 段的内容 text 3",
            "version": "", "tenant": "north", "year": 2003,
        }  # fmt: skip
        assert build(client, names[1], SERVED, vectors, second) == Built(names[1], 40, 0, 38, 0, 2)
        assert is_whole(client, names[1], vectors, second) and is_whole(client, names[0], vectors, first)
        after = client.retrieve(names[1], [point_id("文档0#3")])
        assert after.payloads[0]["tenant"] == "west" and np.array_equal(after.dense, before.dense)
        assert client.metadata(names[1])["payload"] == {"tenant": "text", "year": "whole"}
        assert build(client, names[1], SERVED, vectors, second) == Built(names[1], 40, 0, 0, 0)


@pytest.mark.parametrize("fault", [{"tenant": "north"}, {"year": 1999}, {"content": "another text"}, {"heading": ""}])
def test_the_audit_finds_one_changed_value_of_one_point(tmp_path: Path, kind: str, fault: dict[str, object]) -> None:
    vectors, passages = publish(tmp_path, corpus(40), payloads=_labelled(40))
    name = collection_name("passages", SERVED, points_version(vectors, passages))
    with engine(tmp_path, kind).open() as client:
        build(client, name, SERVED, vectors, passages)
        assert point_violations(name, audit(client, name, vectors, passages, SERVED)) == []
        points = client.retrieve(name, [point_id("文档0#0")])
        client.upsert(name, dataclasses.replace(points, payloads=[{**points.payloads[0], **fault}]))
        (found,) = point_violations(name, audit(client, name, vectors, passages, SERVED))
        assert (found.code, found.found) == ("FT-COL-007", 1)
        sampled = audit_sample(client, name, vectors, passages, SERVED, size=40)
        assert [one.code for one in point_violations(name, sampled)] == ["FT-COL-007"]


def test_the_first_payload_and_none_again_encode_and_upsert_nothing(tmp_path: Path, kind: str) -> None:
    vectors, plain = publish(tmp_path, corpus(40))
    _, labelled = publish(tmp_path, corpus(40), payloads=_labelled(40))
    name = collection_name("passages", SERVED, points_version(vectors, labelled))
    with engine(tmp_path, kind).open() as client:
        build(client, name_of(vectors), SERVED, vectors, plain)
        assert build(client, name, SERVED, vectors, labelled) == Built(name, 40, 0, 0, 0, 40)
        client.drop(name_of(vectors))
        assert build(client, name_of(vectors), SERVED, vectors, plain) == Built(name_of(vectors), 40, 0, 0, 0, 40)
        assert "tenant" not in client.retrieve(name_of(vectors), [point_id("文档0#3")]).payloads[0]
        assert "payload" not in client.metadata(name_of(vectors))


@pytest.mark.parametrize("arm", ["dense", "sparse", "fused"])
def test_a_condition_limits_the_answers_of_every_arm(tmp_path: Path, kind: str, arm: Arm) -> None:
    vectors, passages = publish(tmp_path, corpus(40), payloads=_labelled(40))
    name = collection_name("passages", SERVED, points_version(vectors, passages))
    with engine(tmp_path, kind).open() as client:
        build(client, name, SERVED, vectors, passages)
        conditions = read_conditions(["tenant=south", "year>=2012"], payload_fields(client.metadata(name)), name)
        served = SERVED.served(SERVING, WEIGHTED)
        (found,) = ask(client, name, served, encode(["第 7 段的内容 text 7"]), arm, limit=40, where=conditions)
    wanted = {f"文档{n // 4}#{n}" for n in range(12, 40, 4)}
    names = {point.payload["passage_id"] for point in found}
    assert names == wanted if arm == "dense" else names <= wanted
