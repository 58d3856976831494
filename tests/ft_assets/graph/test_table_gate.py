"""The verdict on a table has its rules and its report, and the report is outside of the immutable artifact."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from expectations.tables.gate import Table, Validation, judge_frame, slim_frame, suite_of
from expectations.violations import Violation
from ft_assets.graph import table_gate
from ft_assets.graph.gates import as_metadata
from ft_assets.graph.table_gate import table_fits
from resources.artifacts import Artifact, ArtifactStore, Recipe
from resources.kept import Kept

ROW = {
    "query_id": "q", "query": "什么是 SM2?", "positive_ids": ["p1"], "scores": [1], "negative_ids": [],
    "language": "zh", "source": "问题.jsonl", "line_no": 1,
}  # fmt: skip


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "state" / "artifacts")


def _publish(store: ArtifactStore, version: str = "1", **changes: Any) -> Artifact:
    with store.stage(Recipe(asset="retrieval_records", code_version=version)) as staging:
        second = {**ROW, "query_id": "q2", "line_no": 2, **changes}
        pq.write_table(pa.Table.from_pylist([ROW, second]), staging.path / "records.parquet")
        artifact = staging.publish()
    store.point(artifact)
    return artifact


def _reports(store: ArtifactStore) -> list[Path]:
    return sorted((store.root.parent / "reports" / "retrieval_records").iterdir())


def test_a_passing_table_shows_its_rules_and_links_its_report(store: ArtifactStore) -> None:
    violations, figures = table_fits(store, _publish(store), "records.parquet", "retrieval_records")
    assert violations == []
    shown = as_metadata(figures)
    assert isinstance(shown["expectations"], dg.MarkdownMetadataValue)
    assert isinstance(shown["report"], dg.PathMetadataValue)
    assert shown["rows"].value == 2
    (report,) = _reports(store)
    assert str(store.root.parent / str(shown["report"].value)) == str(report)
    assert "Passed" in report.read_text("utf-8")


def test_a_failing_table_names_its_lines_everywhere(store: ArtifactStore) -> None:
    violations, figures = table_fits(store, _publish(store, language="fr"), "records.parquet", "retrieval_records")
    (violation,) = violations
    (report,) = _reports(store)
    for text in (violation.message, figures["expectations"], report.read_text("utf-8")):
        assert "问题.jsonl:2" in text


def test_reports_stay_out_of_the_sealed_artifact(store: ArtifactStore) -> None:
    artifact = _publish(store)
    before = {path: path.stat().st_mtime_ns for path in artifact.path.rglob("*")}
    table_fits(store, artifact, "records.parquet", "retrieval_records")
    assert {path: path.stat().st_mtime_ns for path in artifact.path.rglob("*")} == before
    assert artifact.verify() == []
    assert store.versions("reports") == []


def test_a_report_that_was_deleted_comes_back(store: ArtifactStore) -> None:
    artifact = _publish(store)
    table_fits(store, artifact, "records.parquet", "retrieval_records")
    _reports(store)[0].unlink()
    table_fits(store, artifact, "records.parquet", "retrieval_records")
    assert len(_reports(store)) == 1


def test_the_newest_twenty_reports_are_kept(store: ArtifactStore) -> None:
    folder = store.root.parent / "reports" / "retrieval_records"
    folder.mkdir(parents=True)
    for age in range(1, 31):
        old = folder / f"{age:016}-00000000.html"
        old.write_text("old")
        os.utime(old, (1_000_000 - age, 1_000_000 - age))
    artifact = _publish(store)
    table_fits(store, artifact, "records.parquet", "retrieval_records")
    kept = _reports(store)
    assert len(kept) == 20
    assert any(path.name.startswith(artifact.recipe_id) for path in kept)
    assert folder / f"{1:016}-00000000.html" in kept
    assert folder / f"{20:016}-00000000.html" not in kept


def test_a_table_that_fits_is_not_judged_by_a_later_process_and_one_that_does_not_is(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitting, failing = _publish(store), _publish(store, "2", language="fr")
    judged: list[list[Path]] = []
    found = [_as_new_process(store, artifact, judged, monkeypatch) for artifact in (fitting, failing) * 2]
    assert judged == [[artifact.path / "records.parquet"] for artifact in (fitting, failing, failing)]
    assert found[0] == found[2] and found[1] == found[3] and not found[0][0] and found[1][0]


def _as_new_process(
    store: ArtifactStore, artifact: Artifact, judged: list[list[Path]], monkeypatch: pytest.MonkeyPatch
) -> tuple[list[Violation], dict[str, Any]]:
    def judge(path: Path, table: Table) -> Validation:
        judged.append(path)
        return judge_frame(slim_frame(path, table), suite_of(table))

    monkeypatch.setattr(table_gate, "_judge", judge)
    monkeypatch.setattr(table_gate, "_judged", Kept("tables", table_gate._Judged))
    return table_fits(store, artifact, "records.parquet", "retrieval_records")
