"""Gates on the corpus: few sections are lost; passages fit their suite, have unique ids, and match their sources."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from expectations.canonical import file_digest
from expectations.formats.column_map import NO_MAP, ColumnMap
from expectations.reading import Rejected
from expectations.rules import passages as rules
from expectations.text.documents import read_document
from expectations.text.traditional import Traditional
from ft_assets.config.from_artifact import settings_of
from ft_assets.corpus.collect import PASSAGES, PassagesSummary
from ft_assets.corpus.cut import SAME_TEXT, passage_text
from ft_assets.graph.gates import Evidence, Gate, Verdict, whole_gate
from ft_assets.graph.quarantine import QUARANTINE, read_quarantine
from ft_assets.graph.source_files import FILES
from ft_assets.graph.table_gate import table_fits
from resources.artifacts import Artifact
from resources.parquet import has_unique_ids, read_columns, read_rows, row_count


def _passages_fit(evidence: Evidence) -> Verdict:
    """The table fits its Great Expectations suite, which tests lengths, flags and counts."""
    return Verdict(*table_fits(evidence.store, evidence.store.require("passages"), PASSAGES, "passages"))


def _few_quarantined(evidence: Evidence) -> Verdict:
    """No more sections or files are lost to the quarantine than corpus.max_quarantined_share allows.

    A section whose text another passage has is not lost. A file is lost if no passage is made of it: one line of the
    quarantine may be a document of a thousand sections that could not be read.
    """
    artifact = evidence.store.require("passages")
    most = settings_of(evidence.store, "corpus").max_quarantined_share
    files = {row["document"] for row in artifact.json(FILES)}
    used = {source if source in files else source.rpartition(":")[0] for source in _sources_of(artifact)}
    sections, missed = 0, set[str]()
    for row in read_quarantine(artifact.file(QUARANTINE)):
        if row.code == SAME_TEXT:
            used.add(row.file)
        else:
            sections += 1
            missed.add(row.file)
    lost = {
        "sections": (sections, sections + row_count(artifact.file(PASSAGES))),
        "files": (len(missed - used), len(files)),
    }
    figures = {f"{kind}_lost": count for kind, (count, _) in lost.items()}
    return Verdict(rules.few_are_quarantined("passages", lost, most), {**figures, "most": most})


def _sources_of(passages: Artifact) -> Iterator[str]:
    return (row["source"] for row in read_rows(passages.file(PASSAGES), ["source"]))


def _ids_are_unique(evidence: Evidence) -> Verdict:
    """Every passage has its own id."""
    path = evidence.store.require("passages").file(PASSAGES)
    # only if something may be wrong all ids are held and compared
    ids = [] if has_unique_ids(path, "passage_id") else read_columns(path, ["passage_id"])["passage_id"]
    return Verdict(rules.ids_are_unique("passages", ids), {"passages": row_count(path)})


def _offsets_point_at_the_text(evidence: Evidence) -> Verdict:
    """Each passage is the text of its source between its offsets; only unchanged sources are compared."""
    artifact = evidence.store.require("passages")
    inventory: list[dict[str, Any]] = artifact.json(FILES)
    root = Path(artifact.summary_as(PassagesSummary).root)
    changed = {row["document"] for row in inventory if not _is_same(root / row["file"], row["sha256"])}
    documents = list(dict.fromkeys(row["document"] for row in inventory))
    unchanged = [name for name in documents if name not in changed]
    rows = read_rows(artifact.file(PASSAGES), ["passage_id", "text", "source", "start", "end"])
    settings = artifact.manifest.recipe.settings
    maps = msgspec.convert(settings.get("maps", {}), dict[str, ColumnMap])
    pairs = _pairs(rows, root, {name: maps.get(name, NO_MAP) for name in unchanged}, settings["traditional"])
    violations = rules.offsets_point_at_the_text("passages", pairs)
    return Verdict(violations, {"sources": len(unchanged), "sources_changed_since": len(changed)})


def _is_same(path: Path, sha256: str) -> bool:
    return path.is_file() and file_digest(path) == sha256


def _pairs(
    rows: Iterator[dict[str, Any]], root: Path, files: Mapping[str, ColumnMap], traditional: Traditional
) -> Iterator[tuple[str, str, str]]:
    """Yield (passage id, its text, the text of its source) for passages of `files`; both are in the same order."""
    sources = _sources(root, files)
    source, whole = "", ""
    for row in rows:
        if row["source"] not in files and row["source"].rpartition(":")[0] not in files:
            continue
        while source != row["source"]:
            source, whole = next(sources, (row["source"], ""))
        yield row["passage_id"], row["text"], passage_text(whole, row["start"], row["end"], traditional)


def _sources(root: Path, files: Mapping[str, ColumnMap]) -> Iterator[tuple[str, str]]:
    """Yield (source, its whole text), each once, in the order of the files."""
    last = ""
    for name, mapping in files.items():
        for section in read_document(root / name, name, mapping=mapping):
            if not isinstance(section, Rejected) and section.source != last:
                last = section.source
                yield section.source, section.whole


GATES: list[Gate] = [
    whole_gate("passages"),
    Gate("passages", "table_fits_its_suite", _passages_fit),
    Gate("passages", "few_sections_are_quarantined", _few_quarantined),
    Gate("passages", "ids_are_unique", _ids_are_unique),
    Gate("passages", "offsets_point_at_the_text", _offsets_point_at_the_text),
    whole_gate("glossary"),
]
