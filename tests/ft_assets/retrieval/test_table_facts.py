"""One streaming pass finds what comparing whole columns finds, and an equal question is answered once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from expectations.rules import retrieval as rules
from ft_assets.corpus.collect import PASSAGES
from ft_assets.retrieval import table_facts
from ft_assets.retrieval.table_facts import number_facts, text_facts
from ft_assets.retrieval.vectors import VECTORS_FILE, schema, vector_writer
from resources import parquet
from resources.artifacts import Artifact, ArtifactStore, Recipe
from resources.parquet import write_table

IDS = [f"段落 {n}" for n in range(23)]
TEXTS = pa.schema([("passage_id", pa.string()), ("content_sha256", pa.string())])
Rows = list[tuple[str, str]]
RIGHT: Rows = [(name, f"{n:064x}") for n, name in enumerate(IDS)]


def publish(tmp_path: Path, asset: str, file: str, write: Any) -> Artifact:
    store = ArtifactStore(tmp_path)
    recipe = Recipe(asset=asset, code_version="1", settings={"file": str(len(list(tmp_path.rglob("*"))))}, inputs={})
    with store.stage(recipe) as staging:
        write(staging.path / file)
        return staging.publish()


def passages(tmp_path: Path, rows: Rows = RIGHT) -> Artifact:
    cells = [{"passage_id": name, "content_sha256": sha} for name, sha in rows]
    return publish(tmp_path, "passages", PASSAGES, lambda path: write_table(path, TEXTS, cells))


def vectors(tmp_path: Path, rows: Rows = RIGHT, **wrong: np.ndarray) -> Artifact:
    def write(path: Path) -> None:
        with vector_writer(path, 4) as writer:
            for n, (name, sha) in enumerate(rows):
                dense = wrong.get(f"dense{n}", np.ones(4, np.float32))
                values = wrong.get(f"sparse{n}", np.ones(2, np.float32))
                cells = {"passage_id": [name], "document_id": ["d"], "heading": [""], "content_sha256": [sha]}
                sparse = {"sparse_indices": [np.arange(len(values), dtype=np.int32)], "sparse_values": [values]}
                writer.write_table(pa.table({**cells, "dense": [dense], **sparse}, schema=schema(4)))

    return publish(tmp_path, "passage_vectors", VECTORS_FILE, write)


def changed(number: int, row: tuple[str, str]) -> Rows:
    return [row if n == number else old for n, old in enumerate(RIGHT)]


CASES: dict[str, tuple[Rows, Rows]] = {
    "as it should be": (RIGHT, RIGHT),
    "another order": (RIGHT, RIGHT[::-1]),
    "a row is missing": (RIGHT, RIGHT[:9] + RIGHT[10:]),
    "the last rows are missing": (RIGHT, RIGHT[:8]),
    "a row without a passage": (RIGHT, [*RIGHT, ("new", "f" * 64)]),
    "a row twice": (RIGHT, [*RIGHT, RIGHT[3]]),
    "a passage twice, and its row": ([*RIGHT, RIGHT[3]], [*RIGHT, RIGHT[3]]),
    "another text": (RIGHT, changed(20, (IDS[20], "e" * 64))),
    "no row at all": (RIGHT, []),
}


@pytest.mark.parametrize("name", CASES)
def test_violations_are_those_of_whole_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(parquet, "BLOCK", 8)
    corpus, rows = CASES[name]
    facts = text_facts(vectors(tmp_path, rows), passages(tmp_path, corpus))
    assert (facts.passages, facts.rows) == (len(corpus), len(rows))
    wanted, found = [key for key, _ in corpus], [key for key, _ in rows]
    assert facts.one_row == rules.one_vector_a_passage("passage_vectors", wanted, found)
    assert facts.same_texts == rules.vectors_match_texts("passage_vectors", dict(corpus), dict(rows))


def test_numbers_that_are_not_finite_and_empty_rows_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "BLOCK", 8)
    nan, infinite = np.array([1, np.nan, 0, 0], np.float32), np.array([np.inf], np.float32)
    facts = number_facts(vectors(tmp_path, dense10=nan, sparse21=infinite, sparse3=np.empty(0, np.float32)))
    assert (facts.rows, facts.empty, facts.non_finite) == (23, 1, [IDS[10], IDS[21]])
    assert [width for _, width in facts.widths] == [4] * 20
    assert rules.one_dimension("passage_vectors", facts.widths, 4) == []
    assert len(rules.one_dimension("passage_vectors", facts.widths, 5)) == 20


def test_an_equal_question_is_answered_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, corpus = vectors(tmp_path), passages(tmp_path, [*RIGHT[:-1], ("the last one", "a" * 64)])
    first, numbers = text_facts(rows, corpus), number_facts(rows)
    monkeypatch.setattr(table_facts, "column_blocks", lambda *_: pytest.fail("read again"))
    assert text_facts(rows, corpus) is first
    assert number_facts(rows) is numbers


def test_ids_are_compared_whole_where_keys_meet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pandas.util.hash_array", lambda ids, **_: np.zeros(len(ids), np.uint64))
    facts = text_facts(vectors(tmp_path), passages(tmp_path))
    assert facts.one_row == [] and facts.same_texts == []
