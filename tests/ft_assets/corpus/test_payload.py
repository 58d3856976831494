"""Extra fields of rows and of front matter travel with their passages; one type a field in the whole corpus."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from expectations.text.documents import pick_fields
from ft_assets.config.model import CorpusSettings
from ft_assets.corpus.collect import PassagesSummary, collect_passages
from ft_assets.corpus.payload import PayloadFields, read_payload
from resources.parquet import column_names, read_rows

TEXT = "A passage about one thing, number {}, long enough to be kept."


def collect(
    folder: Path, rows: list[dict[str, Any]], payload: list[str], name: str = "corpus.jsonl"
) -> tuple[PassagesSummary, dict[str, dict[str, Any]], list[dict[str, Any]]]:
    """Return the summary, passage id -> payload, and the quarantine of a corpus of these rows."""
    lines = json.dumps(rows) if name.endswith(".json") else "\n".join(json.dumps(row) for row in rows)
    (folder / name).write_text(lines + "\n", "utf-8")
    files = sorted([folder / name, *folder.glob("*.md"), *folder.glob("*.txt"), *folder.glob("*.csv")])
    summary = collect_passages(files, folder, CorpusSettings(files=["*"], payload=payload), folder)
    found = {row["passage_id"]: read_payload(row["payload"]) for row in read_rows(folder / "passages.parquet")}
    out = [json.loads(line) for line in (folder / "quarantine.jsonl").read_text("utf-8").splitlines()]
    return summary, found, out


@pytest.mark.parametrize("name", ["corpus.jsonl", "corpus.json"])
def test_fields_come_from_the_row_or_its_metadata_and_are_null_where_it_has_none(tmp_path: Path, name: str):
    rows = [
        {"_id": "a", "text": TEXT.format(1), "url": "https://a.example/1", "metadata": {"tenant": "north", "url": "x"}},
        {"_id": "b", "text": "short"},
        {"_id": "c", "text": TEXT.format(2), "url": None, "tenant": " south ", "year": 2020, "tags": ["x", "y"]},
        {"_id": "d", "title": "no text"},
        *({"_id": f"n{n}", "text": TEXT.format(n), "year": n} for n in range(100, 200)),
    ]
    summary, found, out = collect(tmp_path, rows, ["url", "tenant", "year", "tags"], name)
    assert found["a"] == {"url": "https://a.example/1", "tenant": "north", "year": None, "tags": None}
    assert found["c"] == {"url": None, "tenant": "south", "year": 2020, "tags": ["x", "y"]}
    assert all(found[f"n{n}"]["year"] == n for n in range(100, 200))
    assert summary.payload == {"url": "text", "tenant": "text", "year": "whole", "tags": "texts"}
    assert [row["code"] for row in out] == ["FT-CORPUS-003", "FT-PSG-001"]


def test_front_matter_of_markdown_and_columns_of_a_table_count_and_other_documents_have_null(tmp_path: Path):
    (tmp_path / "a.md").write_text(f"---\ntenant: north\nday: 2024-05-01\n---\n# A\n\n{TEXT.format(1)}\n", "utf-8")
    (tmp_path / "b.md").write_text(f"# B\n\n{TEXT.format(2)}\n", "utf-8")
    (tmp_path / "c.txt").write_text(TEXT.format(3), "utf-8")
    (tmp_path / "t.csv").write_text(f"id,text,tenant\nrow1,{TEXT.format(4).replace(',', '')},west\n", "utf-8")
    (tmp_path / "x.md").write_text(f"---\ntenant: [a\n---\n# X\n\n{TEXT.format(5)}\n", "utf-8")
    _, found, out = collect(tmp_path, [{"_id": "r", "text": TEXT.format(6)}], ["tenant", "day"])
    assert found == {
        "a#a": {"tenant": "north", "day": "2024-05-01"},
        "b#b": {"tenant": None, "day": None},
        "c#1": {"tenant": None, "day": None},
        "row1": {"tenant": "west", "day": None},
        "r": {"tenant": None, "day": None},
    }
    assert [(row["file"], row["line"], row["code"]) for row in out] == [("x.md", 1, "FT-CORPUS-013")]


def test_a_value_of_another_type_is_refused_and_numbers_and_lists_of_texts_agree(tmp_path: Path):
    values = [2020, 2020.5, "2020", None, True, {"a": 1}, [1]]
    rows = [{"_id": f"d{n}", "text": TEXT.format(n), "year": value} for n, value in enumerate(values)]
    summary, found, out = collect(tmp_path, rows, ["year"])
    assert summary.payload == {"year": "number"} and list(found) == ["d0", "d1", "d3"]
    assert [(row["line"], row["code"]) for row in out] == [(n, "FT-CORPUS-013") for n in (3, 5, 6, 7)]
    assert "`year` is text here, and a number in earlier documents" in out[0]["reason"]
    fields = PayloadFields()
    for tags in ("one", ["one", "two"], []):
        fields.encode({"tags": tags})
    assert fields.types == {"tags": "texts"}


def test_equal_texts_of_two_tenants_are_two_passages(tmp_path: Path):
    rows = [{"_id": name, "text": TEXT.format(1), "tenant": name[0]} for name in ("a1", "b1", "a2")]
    summary, found, out = collect(tmp_path, rows, ["tenant"])
    assert list(found) == ["a1", "b1"] and summary.aliases == 1
    assert [(row["code"], row["path"]) for row in out] == [("FT-CORPUS-005", "a2")]


def test_without_the_setting_the_table_is_as_before(tmp_path: Path):
    (tmp_path / "corpus.jsonl").write_text(json.dumps({"_id": "a", "text": TEXT, "tenant": "x"}), "utf-8")
    collect_passages([tmp_path / "corpus.jsonl"], tmp_path, CorpusSettings(files=["*"]), tmp_path)
    assert "payload" not in dict(column_names(tmp_path / "passages.parquet"))


@pytest.mark.parametrize(
    ("names", "reason"),
    [(["content"], "every point has already"), (["a.b"], "a filter cannot name"), (["a", "a"], "twice")],
)
def test_a_name_that_cannot_be_a_field_is_refused(names: list[str], reason: str):
    with pytest.raises(ValidationError, match=reason):
        CorpusSettings(files=["*"], payload=names)


def test_a_row_that_is_no_object_has_no_fields():
    assert pick_fields(["a", "b"], ["url"]) == {"url": None}
    assert pick_fields({"metadata": "text"}, ["url"]) == {"url": None}
