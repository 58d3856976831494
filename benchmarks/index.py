"""Indexing: writing passages and answering questions, by the platform and by raw calls of the same engine.

    python benchmarks/index.py [--rows 50000] [--engines edge local] [--rounds 2] [--out FILE]

Each way runs in a process of its own over the same generated Parquet files (384 dense values around a thousand centres,
57 token weights, 300 characters). Raw: rows are read with pyarrow, points are upserted in the same batches and indexed,
and the same hybrid query is run. The ways take turns, in reverse order in every second round. Reported: medians of wall
seconds and CPU seconds to ingest (reading, upserting, indexing) and to ask; our share is the part of the platform's
time that the raw way does not take. The raw way also asks with plain prefetches, in which an arm scores its own
candidates alone: reported are what the platform's query costs next to that, and the questions whose ten best are not
the exact ones. Then one document of five passages is changed, and the new collection is built; its time is reported as
a share of the full build. `local` waits for the disk at every point: TMPDIR on a RAM disk avoids that.
"""
# pyright: basic
# pyarrow, qdrant_client and qdrant_edge are loosely typed.

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import chain, product
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from expectations.contracts.embedding import Base, Dense, EmbeddingContract, Fusion, Serving, Sparse, Texts
from ft_assets.embedding.exact_search import lexical_scores, named
from ft_assets.embedding.model import Encoded
from ft_assets.retrieval.collection import BATCH, build, collection_name, point_id
from ft_assets.retrieval.query import ask
from ft_assets.retrieval.vectors import schema, vector_writer
from resources.artifacts import Artifact, ArtifactStore, Recipe
from resources.engines.fusion import fuse
from resources.files import write_json
from resources.qdrant import QdrantEngine

DIMENSION, WEIGHTS, VOCABULARY, CHUNK = 384, 57, 30_000, 1024
QUESTIONS, LIMIT = 64, 10
CENTRES = 1000
IN_A_DOCUMENT = 5
SERVING = Serving(dimension=DIMENSION, distance="cosine")
FUSION = Fusion(fusion="weighted_sum", dense_weight=1.0, sparse_weight=0.3, prefetch_limit=100)
CONTRACT = EmbeddingContract(
    weights_sha256="0" * 64,
    base=Base(name="random", version="1"),
    dense=Dense(dimensions=[DIMENSION], pooling="mean"),
    sparse=Sparse(head_sha256="1" * 64, tokenizer_sha256="2" * 64, vocabulary=VOCABULARY, masked_ids=[]),
    texts=Texts(query_prompt="", passage_prompt="", query_max_tokens=64, passage_max_tokens=256),
).served(SERVING, None)


def generate(root: Path, rows: int, *, changed: bool) -> tuple[Artifact, Artifact]:
    """Return `passage_vectors` and `passages`, in a store below `root`; `changed`: the first document differs."""
    store = ArtifactStore(root / "artifacts")
    recipes = [Recipe(asset=name, code_version=f"{rows} {changed}") for name in ("passage_vectors", "passages")]
    with store.stage(recipes[0]) as made, store.stage(recipes[1]) as texts:
        columns = ["passage_id", "document_id", "heading", "content_sha256"]
        text = pa.schema([(name, pa.string()) for name in [*columns, "content"]])
        with (
            vector_writer(made.path / "vectors.parquet", DIMENSION) as vectors,
            pq.ParquetWriter(texts.path / "passages.parquet", text, compression="zstd") as passages,
        ):
            for start in range(0, rows, CHUNK):
                numbers = range(start, min(start + CHUNK, rows))
                new = [changed and n < IN_A_DOCUMENT for n in numbers]
                names = {
                    "passage_id": [f"document{n // IN_A_DOCUMENT}#{n}" for n in numbers],
                    "document_id": [f"document{n // IN_A_DOCUMENT}" for n in numbers],
                    "heading": ["A heading"] * len(new),
                    "content_sha256": [f"{n:063x}{int(other)}" for n, other in zip(numbers, new, strict=True)],
                }
                encoded = _vectors(len(new), start + (10**9 if changed and start == 0 else 0))
                arms = {
                    "dense": list(encoded.dense),
                    "sparse_indices": [ids for ids, _ in encoded.sparse],
                    "sparse_values": [values for _, values in encoded.sparse],
                }
                vectors.write_table(pa.table({**names, **arms}, schema=schema(DIMENSION)))
                passages.write_table(pa.table({**names, "content": ["x" * 300] * len(new)}, schema=text))
        write_json(made.path / "contract.json", CONTRACT.to_json())
        return made.publish({"passages": rows, "dimension": DIMENSION}), texts.publish({"passages": rows})


def _vectors(count: int, seed: int) -> Encoded:
    dice = np.random.default_rng(seed)
    # around centres, as texts have topics: in pure noise all neighbours are equally far, and an index finds none
    centres = np.random.default_rng(0).normal(size=(CENTRES, DIMENSION))
    dense = (centres[dice.integers(0, CENTRES, count)] + dice.normal(size=(count, DIMENSION))).astype(np.float32)
    dense /= np.linalg.norm(dense, axis=1, keepdims=True)
    ids = [np.unique(dice.integers(0, VOCABULARY, WEIGHTS)).astype(np.int32) for _ in range(count)]
    return Encoded(dense, [(row, dice.uniform(0.05, 0.5, len(row)).astype(np.float32)) for row in ids], 0)


class Clock:
    """Measures wall seconds and CPU seconds since the last look."""

    def __init__(self) -> None:
        self._at = (time.perf_counter(), time.process_time())

    def look(self) -> dict[str, float]:
        before, self._at = self._at, (time.perf_counter(), time.process_time())
        wall, cpu = (now - then for now, then in zip(self._at, before, strict=True))
        return {"seconds": round(wall, 3), "processor": round(cpu, 3)}


def by_platform(kind: str, root: Path, place: Path) -> dict[str, Any]:
    """Time `build` and `ask`, then `build` again with one changed document."""
    artifacts = ArtifactStore(root / "artifacts")
    first, second = (_pair(artifacts, changed) for changed in (False, True))
    engine = QdrantEngine(kind, place, None, "passages", None, 60.0)
    questions = _vectors(QUESTIONS, 7)
    found: dict[str, Any] = {}
    with engine.open() as client:
        name, other = (collection_name("passages", CONTRACT, vectors.data_version) for vectors, _ in (first, second))
        clock = Clock()
        full = build(client, name, CONTRACT, *first)
        found["ingest"] = clock.look()
        answers = ask(client, name, CONTRACT.served(SERVING, FUSION), questions, "fused", limit=LIMIT)
        found["ask"] = clock.look()
        found["answers"] = [[point.id for point in points] for points in answers]
        clock.look()
        changed = build(client, other, CONTRACT, *second)
        found["one document"] = clock.look()
        assert (full.upserted, changed.upserted, changed.points) == (full.points, IN_A_DOCUMENT, full.points)
    return found


def _pair(store: ArtifactStore, changed: bool) -> tuple[Artifact, Artifact]:
    made = {
        asset: next(a for a in store.versions(asset) if a.manifest.recipe.code_version.endswith(f" {changed}"))
        for asset in ("passage_vectors", "passages")
    }
    return made["passage_vectors"], made["passages"]


def _rows(root: Path) -> Iterator[tuple[dict[str, list[Any]], list[str]]]:
    vectors, passages = _pair(ArtifactStore(root / "artifacts"), changed=False)
    blocks = pq.ParquetFile(vectors.file("vectors.parquet")).iter_batches(batch_size=BATCH)
    texts = pq.ParquetFile(passages.file("passages.parquet")).iter_batches(batch_size=BATCH, columns=["content"])
    for block, text in zip(blocks, texts, strict=True):
        yield block.to_pydict(), text.column(0).to_pylist()


def by_qdrant_client(root: Path, place: Path) -> dict[str, Any]:
    """Time `QdrantClient(path=…)`: create_collection, upsert, query_batch_points."""
    from qdrant_client import QdrantClient, models

    client = QdrantClient(path=str(place))
    clock = Clock()
    client.create_collection(
        "raw",
        vectors_config={"dense": models.VectorParams(size=DIMENSION, distance=models.Distance.COSINE)},
        sparse_vectors_config={"sparse": models.SparseVectorParams()},
    )
    for block, texts in _rows(root):
        columns = [block[name] for name in ("passage_id", "document_id", "dense", "sparse_indices", "sparse_values")]
        client.upsert(
            "raw",
            [
                models.PointStruct(
                    id=point_id(passage),
                    vector={"dense": dense, "sparse": models.SparseVector(indices=ids, values=values)},
                    payload={"passage_id": passage, "document_id": document, "content": text},
                )
                for passage, document, dense, ids, values, text in zip(*columns, texts, strict=True)
            ],
        )
    found: dict[str, Any] = {"ingest": clock.look()}
    questions = _vectors(QUESTIONS, 7)
    formula = models.SumExpression(
        sum=[models.MultExpression(mult=[1.0, "$score[0]"]), models.MultExpression(mult=[0.3, "$score[1]"])]
    )

    def ask_raw(*, union: bool) -> list[list[str]]:
        requests: list[models.QueryRequest] = []
        for dense, (ids, values) in zip(questions.dense.tolist(), questions.sparse, strict=True):
            lexical = models.SparseVector(indices=ids.tolist(), values=values.tolist())
            arms = [("dense", dense), ("sparse", lexical)]
            prefetch = [models.Prefetch(query=vector, using=name, limit=100) for name, vector in arms]
            if union:
                prefetch = [
                    models.Prefetch(prefetch=prefetch, query=vector, using=name, limit=200) for name, vector in arms
                ]
            payload = models.PayloadSelectorInclude(include=["passage_id"])
            fused = models.FormulaQuery(formula=formula, defaults={"$score[0]": 0.0, "$score[1]": 0.0})
            requests.append(models.QueryRequest(prefetch=prefetch, query=fused, limit=LIMIT, with_payload=payload))
        return [[str(point.id) for point in found.points] for found in client.query_batch_points("raw", requests)]

    clock.look()
    found["answers"] = ask_raw(union=True)
    found["ask"] = clock.look()
    found["plain answers"] = ask_raw(union=False)
    found["ask plain"] = clock.look()
    client.close()
    return found


def by_qdrant_edge(root: Path, place: Path) -> dict[str, Any]:
    """Time `EdgeShard`: create, upsert_points, optimize, query_batch."""
    import qdrant_edge as edge

    place.mkdir(parents=True)
    clock = Clock()
    shard = edge.EdgeShard.create(
        str(place),
        edge.EdgeConfig(
            vectors={"dense": edge.EdgeVectorParams(size=DIMENSION, distance=edge.Distance.Cosine)},
            sparse_vectors={"sparse": edge.EdgeSparseVectorParams()},
        ),
    )
    for block, texts in _rows(root):
        columns = [block[name] for name in ("passage_id", "document_id", "dense", "sparse_indices", "sparse_values")]
        shard.update(
            edge.UpdateOperation.upsert_points(
                [
                    edge.Point(
                        point_id(passage),
                        {"dense": dense, "sparse": edge.SparseVector(indices=ids, values=values)},
                        {"passage_id": passage, "document_id": document, "content": text},
                    )
                    for passage, document, dense, ids, values, text in zip(*columns, texts, strict=True)
                ]
            )
        )
    shard.optimize()
    shard.flush()
    found: dict[str, Any] = {"ingest": clock.look()}
    questions = _vectors(QUESTIONS, 7)
    e = edge.Expression
    formula = edge.Formula(
        e.Sum([e.Mult([e.Constant(1.0), e.Variable("$score[0]")]), e.Mult([e.Constant(0.3), e.Variable("$score[1]")])]),
        {"$score[0]": 0.0, "$score[1]": 0.0},
    )

    def ask_raw(*, union: bool) -> list[list[str]]:
        requests: list[edge.QueryRequest] = []
        for dense, (ids, values) in zip(questions.dense.tolist(), questions.sparse, strict=True):
            lexical = edge.SparseVector(indices=ids.tolist(), values=values.tolist())
            arms = [edge.Query.Nearest(dense, using="dense"), edge.Query.Nearest(lexical, using="sparse")]
            prefetches = [edge.Prefetch(limit=100, query=arm) for arm in arms]
            if union:
                prefetches = [edge.Prefetch(limit=200, query=arm, prefetches=prefetches) for arm in arms]
            requests.append(
                edge.QueryRequest(prefetches=prefetches, query=formula, limit=LIMIT, with_payload=["passage_id"])
            )
        return [[str(point.id) for point in points] for points in shard.query_batch(edge.QueryBatchRequest(requests))]

    clock.look()
    found["answers"] = ask_raw(union=True)
    found["ask"] = clock.look()
    found["plain answers"] = ask_raw(union=False)
    found["ask plain"] = clock.look()
    shard.close()
    return found


WAYS = {
    "edge raw": by_qdrant_edge,
    "edge ft-assets": lambda root, place: by_platform("edge", root, place),
    "local raw": by_qdrant_client,
    "local ft-assets": lambda root, place: by_platform("local", root, place),
}


def exact_answers(rows: int) -> list[list[str]]:
    """Return the ids of the best points by the scores of every passage."""
    blocks = [_vectors(min(CHUNK, rows - start), start) for start in range(0, rows, CHUNK)]
    sparse = list(chain.from_iterable(block.sparse for block in blocks))
    corpus = Encoded(np.concatenate([block.dense for block in blocks]), sparse, 0)
    ids = [point_id(f"document{n // IN_A_DOCUMENT}#{n}") for n in range(rows)]
    asked = _vectors(QUESTIONS, 7)
    dense, lexical = asked.dense @ corpus.dense.T, lexical_scores(asked.sparse, corpus.sparse)
    ranked = np.argsort(-fuse(FUSION, dense, lexical), axis=1, kind="stable")[:, :LIMIT]
    return named(ranked, ids)


def compare(kind: str, rows: int, rounds: int) -> dict[str, Any]:
    """Return the figures of both ways of one engine on the same rows. They take turns, in changing order."""
    runs: dict[str, list[dict[str, Any]]] = {"raw": [], "ft-assets": []}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for changed in (False, True):
            generate(root, rows, changed=changed)
        for number in range(rounds):
            for way in ("raw", "ft-assets") if number % 2 == 0 else ("ft-assets", "raw"):
                command = [sys.executable, __file__, "--one", f"{kind} {way}", "--root", folder]
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                runs[way].append(json.loads(done.stdout.splitlines()[-1]))
                shutil.rmtree(root / f"{kind}-{way}")  # the next run must find nothing of this one
    raw, ours = _medians(runs["raw"]), _medians(runs["ft-assets"])
    pairs = list(zip(runs["raw"][0]["answers"], runs["ft-assets"][0]["answers"], strict=True))
    alike = sum(len(set(mine) & set(theirs)) for mine, theirs in pairs) / sum(len(mine) for mine, _ in pairs)
    exact = exact_answers(rows)
    found = {"plain": runs["raw"][0]["plain answers"], "union": runs["ft-assets"][0]["answers"]}
    wrong = {way: sum(a != b for a, b in zip(answers, exact, strict=True)) for way, answers in found.items()}
    share = {
        f"{step}, {unit}": round(1 - raw[step][unit] / ours[step][unit], 3)
        for step, unit in product(("ingest", "ask"), ("seconds", "processor"))
    }
    change, full = ours["one document"], ours["ingest"]
    cost = {unit: round(change[unit] / full[unit], 4) for unit in ("seconds", "processor")}
    return {
        "engine": kind,
        "rows": rows,
        "rounds": rounds,
        "raw": raw,
        "ft-assets": ours,
        "our share": share,
        "one document over a full build": cost,
        "same answers": round(alike, 4),
        "union over plain": {unit: round(ours["ask"][unit] / raw["ask plain"][unit], 2) for unit in cost},
        "questions without the exact ten": wrong,
    }


def _medians(runs: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Return the median over the runs of each step's seconds."""
    steps = [step for step in runs[0] if not step.endswith("answers")]
    return {
        step: {unit: round(median(run[step][unit] for run in runs), 3) for unit in ("seconds", "processor")}
        for step in steps
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--engines", nargs="+", choices=("edge", "local"), default=["edge", "local"])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results/index.json")
    parser.add_argument("--one", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        place = arguments.root / arguments.one.replace(" ", "-")
        print(json.dumps(WAYS[arguments.one](arguments.root, place)))
        return
    results: list[dict[str, Any]] = []
    for kind in arguments.engines:
        if kind == "edge" and find_spec("qdrant_edge") is None:
            print("edge: qdrant_edge is not installed")
            continue
        results.append(one := compare(kind, arguments.rows, arguments.rounds))
        print(f"{kind}, {arguments.rows} passages, median of {arguments.rounds} rounds", flush=True)
        for step in ("ingest", "ask"):
            raw, ours = one["raw"][step], one["ft-assets"][step]
            print(
                f"  {step:<8}raw {raw['seconds']:>8.2f} s ({raw['processor']:>7.2f} CPU)   ft-assets "
                f"{ours['seconds']:>8.2f} s ({ours['processor']:>7.2f})"
            )
        print(f"  our share: {one['our share']}; same answers {one['same answers']:.1%}")
        print(f"  candidates of both arms in both arms: {one['union over plain']} times the cost of plain prefetches;")
        print(f"  of {QUESTIONS} questions without the exact ten: {one['questions without the exact ten']}")
        print(f"  one document: {one['one document over a full build']} of a full build")
    write_json(arguments.out, results)
    print(f"written to {arguments.out}")


if __name__ == "__main__":
    main()
