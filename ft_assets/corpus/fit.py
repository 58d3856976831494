"""Whether a table of an artifact fits its Great Expectations suite."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from expectations.canonical import file_digest
from expectations.tables import Table, slim_frame, suite_of, validate
from expectations.violations import Violation
from resources.artifacts import Artifact


def table_fits(artifact: Artifact, file: str, table: Table) -> list[Violation]:
    """What does not hold in a table by its suite; none means it fits. Judged once for each table and suite."""
    path = artifact.file(file)
    return list(_judged(path, artifact.manifest.files[file].sha256, table, file_digest(suite_of(table))))


@lru_cache(maxsize=64)
def _judged(path: Path, _sha256: str, table: Table, _suite_sha256: str) -> tuple[Violation, ...]:
    # every consumer's guard asks again, and Great Expectations takes a second to answer
    return tuple(validate(slim_frame(path, table), suite_of(table)))
