"""Gate of an artifact's table: apply its Great Expectations suite and write an HTML report."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec

from expectations.canonical import file_digest
from expectations.tables import gate
from expectations.tables.gate import Table, Validation, judge_frame, slim_frame, suite_of
from expectations.tables.report import render_markdown, render_report
from expectations.violations import Violation
from resources.artifacts import Artifact, ArtifactStore
from resources.files import keep_newest, write_text
from resources.kept import Kept

_REPORTS_KEPT = 20
_LIBRARIES = ("ft-assets", "great-expectations", "pandas", "pyarrow")


class _Judged(msgspec.Struct, frozen=True):
    validation: Validation
    at: float
    """Seconds since 1970."""


_judged = Kept("tables", _Judged)
"""By the hashes of table and rules: Great Expectations takes a second for each, and five to be imported."""


def table_fits(
    store: ArtifactStore, artifact: Artifact, file: str, table: Table
) -> tuple[list[Violation], dict[str, Any]]:
    """Return the violations of a table's suite (none: the table fits) and figures. A suite runs once on each table; a
    table that fits is known to do so in later processes too (kept.py).

    The figures are the number of rows, each rule with the observed value, and the path of the HTML report. Reports are
    written to `<state>/reports/<asset>/<recipe>-<suite>.html`, outside the store, because artifacts are immutable. The
    newest 20 of each asset are kept.
    """
    paths, suite_sha256 = artifact.table(file), file_digest(suite_of(table))
    versions = {name: metadata.version(name) for name in _LIBRARIES}
    key = {"table": artifact.table_version(file), "kind": table, "suite": suite_sha256, **versions}
    key |= {"rules": file_digest(Path(gate.__file__))}  # a checkout changes them within one version
    judged = _judged.get(
        store.root.absolute().parent,
        key,
        lambda: _Judged(_judge(paths, table), time.time()),
        keep=lambda found: not found.validation.violations,
    )
    validation = judged.validation
    report = store.root.absolute().with_name("reports") / artifact.asset
    report /= f"{artifact.recipe_id}-{suite_sha256[:8]}.html"
    if not report.is_file() or report.stat().st_mtime < judged.at:
        facts = {"artifact": f"{artifact.asset}/{artifact.recipe_id}", "suite's sha256": suite_sha256}
        _publish(report, render_report(validation, table, datetime.fromtimestamp(judged.at, UTC), facts | versions))
    figures = {
        "rows": validation.rows,
        "expectations": render_markdown(validation),
        # below the state folder, which may be moved; the companion page shows it (Reports)
        "report": report.relative_to(store.root.absolute().parent),
    }
    return validation.violations, figures


def _judge(paths: Sequence[Path], table: Table) -> Validation:
    return judge_frame(slim_frame(paths, table), suite_of(table))


def _publish(report: Path, page: str) -> None:
    """Write a report in one atomic step, and delete the oldest reports of its folder."""
    write_text(report, page)
    keep_newest(report.parent, "[!.]*.html", _REPORTS_KEPT)
