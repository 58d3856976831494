"""Write generated rows as a file that `ft verify` and other tools read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, cast

import msgspec

from expectations.formats.registry import FORMATS
from ft_assets.datasets.split import split_file
from ft_assets.generation.jobs import PAIRS, VERIFIED
from resources.artifacts import Artifact
from resources.files import write_text
from resources.parquet import read_rows

EXPORTED = {"kbalign": (VERIFIED, "instruction"), "ddr": (PAIRS, "preference")}
"""Name on the command line -> the asset, and the format of its rows."""
RowsDialect = Literal["canonical", "ultrarag"]


def export_rows(artifact: Artifact, format: str, target: Path, dialect: RowsDialect = "canonical") -> int:
    """Write the training rows of a generated table as JSONL, in one atomic step; return their number.

    `ultrarag`: pairs as UltraRAG writes them (`query`, `retrieval_result`, `chosen.text`); it has no place for earlier
    turns.
    """
    as_row = _as_ultrarag(artifact) if dialect == "ultrarag" else _as_canonical(format)
    lines = [msgspec.json.encode(row).decode() + "\n" for row in map(as_row, _rows(artifact))]
    write_text(target, "".join(lines))
    return len(lines)


def _rows(artifact: Artifact) -> Iterator[dict[str, Any]]:
    return read_rows(artifact.file(split_file("train")))


def _as_canonical(format: str) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    fields = FORMATS[format].record.__struct_fields__
    version = FORMATS[format].version
    return lambda row: {"format_version": version, **{name: row[name] for name in fields}}


def _as_ultrarag(artifact: Artifact) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    score = f"{cast('str', artifact.manifest.recipe.settings['reward'])}_score"
    return lambda row: {
        "id": row["record_id"],
        "query": row["question"],
        "retrieval_result": row["context"],
        "chosen": {"text": row["chosen"], score: row["chosen_score"]},
        "rejected": {"text": row["rejected"], score: row["rejected_score"]},
        "evidence": row["evidence"],
        **({"system": row["system"]} if row["system"] else {}),
        **({"group": row["group"]} if row["group"] else {}),
    }
