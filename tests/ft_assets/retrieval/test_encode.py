"""The vectors of an earlier run, read from its file on request."""

from __future__ import annotations

from pathlib import Path

from expectations.canonical import text_digest
from ft_assets.corpus.collect import PASSAGES
from ft_assets.retrieval import encode_on_ray
from ft_assets.retrieval.earlier import Earlier
from ft_assets.retrieval.encode import EncodedPart, chunk_of
from ft_assets.retrieval.vectors import VECTORS_FILE, schema
from resources.artifacts import Artifact, ArtifactStore, Recipe
from resources.launcher import Job

TEXTS = [f"text {number}" for number in range(10)]


def vectors(root: Path, *, in_groups_of: int) -> Artifact:
    """Publish vectors: passage n has the dense vector [n, n] and the lexical weight n + 1 on token n."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    store = ArtifactStore(root)
    numbers = range(len(TEXTS))
    names = [str(n) for n in numbers]
    columns = {
        "passage_id": names, "document_id": names, "heading": names, "content_sha256": [text_digest(t) for t in TEXTS],
        "dense": [[float(n)] * 2 for n in numbers], "sparse_indices": [[n] for n in numbers],
        "sparse_values": [[float(n + 1)] for n in numbers],
    }  # fmt: skip
    with store.stage(Recipe(asset="passage_vectors", code_version="1")) as staging:
        pq.write_table(pa.table(columns, schema=schema(2)), staging.path / VECTORS_FILE, row_group_size=in_groups_of)
        return staging.publish()


def test_known_texts_are_found_in_any_group_and_order_and_no_others(tmp_path: Path) -> None:
    earlier = Earlier(vectors(tmp_path, in_groups_of=3))
    hashes = [text_digest(text) for text in ("text 9", "something new", "text 0", "text 4")]
    rows = {row["content_sha256"]: row for row in earlier.take(hashes).to_pylist()}
    assert set(rows) == {hashes[0], hashes[2], hashes[3]}
    for number, sha in ((9, hashes[0]), (0, hashes[2]), (4, hashes[3])):
        assert rows[sha]["dense"] == [number, number]
        assert (rows[sha]["sparse_indices"], rows[sha]["sparse_values"]) == ([number], [number + 1])


def test_a_hash_with_the_same_first_64_bits_is_not_a_known_text(tmp_path: Path) -> None:
    known = text_digest(TEXTS[3])
    earlier = Earlier(vectors(tmp_path, in_groups_of=4))
    assert len(earlier.take([known[:16] + "0" * 48])) == 0
    assert earlier.take([known]).column("content_sha256").to_pylist() == [known]


def test_without_an_earlier_artifact_nothing_is_known() -> None:
    assert Earlier(None).take([text_digest("text 1")]) is None


def test_a_chunk_is_read_wherever_row_groups_end(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {name: [f"{name} {n}" for n in range(10)] for name in ("passage_id", "document_id", "heading",
               "content_sha256", "content")}  # fmt: skip
    store = ArtifactStore(tmp_path)
    with store.stage(Recipe(asset="passages", code_version="1")) as staging:
        pq.write_table(pa.table(columns), staging.path / PASSAGES, row_group_size=4)
        passages = staging.publish()
    for start, end in ((0, 4), (0, 10), (3, 5), (4, 8), (8, 10), (9, 10), (0, 1)):
        assert chunk_of(passages, start, end).column("content").to_pylist() == columns["content"][start:end]


def test_parts_that_are_whole_are_read_again_and_stay_until_they_are_removed(tmp_path: Path) -> None:
    import pyarrow as pa

    made = Recipe(asset="base_vectors", code_version="1")
    job = Job(recipe=made, store=str(tmp_path / "artifacts"), run_dir=str(tmp_path / "run"), params={})
    folder, other = tmp_path / "run/parts-new", tmp_path / "run/parts-old"
    for path in (folder, other):
        path.mkdir(parents=True)
    spans = [(0, 2), (2, 3)]
    for start, end in spans:
        table = pa.table({"n": list(range(start, end))})
        encode_on_ray._write(encode_on_ray._path(folder, (start, end)), EncodedPart(table, [], end - start))
    parts = list(encode_on_ray.encode_parts(job, "new", spans))  # nothing is missing: no cluster is asked
    assert [part.table.column("n").to_pylist() for part in parts] == [[0, 1], [2]]
    assert folder.is_dir() and not other.exists()
    cut = encode_on_ray._path(folder, spans[0])
    cut.write_bytes(cut.read_bytes()[:-20])
    assert [encode_on_ray._is_whole(encode_on_ray._path(folder, span)) for span in spans] == [False, True]
    encode_on_ray.remove_parts(job)
    assert not folder.exists()
