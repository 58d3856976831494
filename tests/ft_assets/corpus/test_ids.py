"""Ids that collide are refused or kept apart: a judgement never means the passage of another document."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from expectations.formats.retrieval import QrelRecord, QueryRecord
from expectations.reading import Rejected
from ft_assets.config.model import CorpusSettings
from ft_assets.corpus.collect import collect_passages
from ft_assets.corpus.cut import Alias
from ft_assets.datasets.join_qrels import join_judgements
from ft_assets.datasets.passage_index import PassageIndex
from resources.parquet import read_rows

LONG = " ".join(f"Sentence number {n} of the long document is here." for n in range(6))
OTHER = "Another document, about something else, long enough to be kept."


def collect(folder: Path, rows: list[dict[str, str]], **documents: str) -> tuple[PassageIndex, list[dict[str, Any]]]:
    """Return the index of a corpus of these rows and documents, and its quarantine."""
    (folder / "corpus.jsonl").write_text("\n".join(json.dumps(row) for row in rows) + "\n", "utf-8")
    files = [folder / "corpus.jsonl"]
    for name, text in documents.items():
        files.append(folder / f"{name}.md")
        files[-1].write_text(text, "utf-8")
    collect_passages(files, folder, CorpusSettings(files=["*"], max_chars=120), folder)
    passages = [(row["passage_id"], row["document_id"]) for row in read_rows(folder / "passages.parquet")]
    aliases = [Alias(**row) for row in read_rows(folder / "aliases.parquet")]
    lines = (folder / "quarantine.jsonl").read_text("utf-8").splitlines()
    return PassageIndex(passages, aliases), [json.loads(line) for line in lines]


def judge(index: PassageIndex, name: str) -> list[str]:
    """Return the codes of the rejected judgements of one query that names this passage."""
    query = QueryRecord(query_id="q", query="What?", language="en", source="q.jsonl", line_no=1)
    qrel = QrelRecord(query_id="q", passage_id=name, score=1, source="qrels.tsv", line_no=2)
    return [row.code for row in join_judgements([query], [qrel], index) if isinstance(row, Rejected)]


def test_a_document_named_like_a_piece_is_no_piece_of_the_other(tmp_path: Path):
    index, out = collect(tmp_path, [{"_id": "7", "text": OTHER}, {"_id": "7~2", "text": OTHER + " Twice."}])
    assert out == []
    assert (index.resolve("7"), index.resolve("7~2")) == (["7"], ["7~2"])
    assert (index.section("7"), index.section("7~2")) == ("7", "7~2")


def test_a_document_named_like_a_piece_that_exists_is_refused_and_its_judgements_too(tmp_path: Path):
    index, out = collect(tmp_path, [{"_id": "7", "text": LONG}, {"_id": "7~2", "text": OTHER}])
    assert [(row["code"], row["file"], row["line"]) for row in out] == [("FT-CORPUS-004", "corpus.jsonl", 2)]
    assert "corpus.jsonl:1" in out[0]["reason"]
    assert index.resolve("7") == ["7", "7~2", "7~3"]
    assert index.resolve("7~2") == []
    assert judge(index, "7~2") == ["FT-LINK-002", "FT-LINK-003"] and judge(index, "7") == []


def test_a_piece_named_like_an_earlier_document_is_refused_and_the_document_keeps_its_name(tmp_path: Path):
    index, out = collect(tmp_path, [{"_id": "7~2", "text": OTHER}, {"_id": "7", "text": LONG}])
    assert [(row["code"], row["line"], row["path"]) for row in out] == [("FT-CORPUS-004", 2, "7~2")]
    assert index.resolve("7~2") == ["7~2"] and index.document["7~2"] == "7~2"
    assert index.resolve("7") == ["7", "7~3"]


@pytest.mark.parametrize("second", [unicodedata.normalize("NFD", "café"), " café ", "ｃａｆé"])
def test_ids_that_are_equal_once_they_are_clean_mean_neither_document(tmp_path: Path, second: str):
    index, out = collect(tmp_path, [{"_id": "café", "text": OTHER}, {"_id": second, "text": LONG}])
    assert [(row["code"], row["line"]) for row in out] == [("FT-CORPUS-004", 2)]
    assert "corpus.jsonl:1" in out[0]["reason"] and list(index.document) == ["café"]
    assert index.resolve("café") == [] and judge(index, "café") == ["FT-LINK-002", "FT-LINK-003"]


def test_a_row_that_is_there_twice_means_itself(tmp_path: Path):
    row = {"_id": "7", "text": OTHER}
    index, out = collect(tmp_path, [row, row, {"_id": "8", "text": OTHER}, {"_id": "8", "text": OTHER}])
    assert [entry["code"] for entry in out] == ["FT-CORPUS-005"] * 3
    assert index.resolve("7") == index.resolve("8") == ["7"]


def test_the_second_section_of_a_name_leaves_no_piece_in_the_first(tmp_path: Path):
    text = f"# Notes\n\n## Install\n\n{OTHER}\n\n## Install\n\n{LONG}\n"
    index, out = collect(tmp_path, [{"_id": "7", "text": LONG}], notes=text)
    assert [(row["code"], row["file"], row["line"]) for row in out] == [("FT-CORPUS-004", "notes.md", 7)]
    assert index.resolve("notes#install") == ["notes#install"]


def test_the_name_of_a_file_is_compared_as_judgements_are(tmp_path: Path):
    name = unicodedata.normalize("NFD", "café")
    index, out = collect(tmp_path, [{"_id": "7", "text": LONG}], **{name: f"# Menu\n\n{OTHER}\n"})
    assert not out and judge(index, "café#menu") == []
