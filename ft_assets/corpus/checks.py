"""Gates on the corpus: few sections are lost; passages fit their suite, have unique ids, and match their sources."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec

from expectations.canonical import file_digest
from expectations.formats.column_map import NO_MAP, ColumnMap
from expectations.reading import Rejected
from expectations.rules import passages as rules
from expectations.text.documents import read_document
from expectations.text.traditional import Traditional
from expectations.violations import Violation
from ft_assets.config.from_artifact import settings_of
from ft_assets.corpus.collect import PASSAGES, PassagesSummary
from ft_assets.corpus.cut import SAME_TEXT, passage_text
from ft_assets.corpus.shards import PassageShard
from ft_assets.graph.gates import Evidence, Gate, Verdict, whole_gate
from ft_assets.graph.quarantine import QUARANTINE, read_quarantine
from ft_assets.graph.source_files import FILES
from ft_assets.graph.table_gate import table_fits
from resources.kept import KeptParts
from resources.parquet import distinct_texts, has_unique_ids, read_columns, read_rows, row_count


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
    used = {_document_of(source, files) for source in _sources_of(artifact.table(PASSAGES))}
    sections, missed = 0, set[str]()
    for row in read_quarantine(artifact.file(QUARANTINE)):
        if row.code == SAME_TEXT:
            used.add(row.file)
        else:
            sections += 1
            missed.add(row.file)
    lost = {
        "sections": (sections, sections + row_count(artifact.table(PASSAGES))),
        "files": (len(missed - used), len(files)),
    }
    figures = {f"{kind}_lost": count for kind, (count, _) in lost.items()}
    return Verdict(rules.few_are_quarantined("passages", lost, most), {**figures, "most": most})


def _sources_of(files: Sequence[Path]) -> set[str]:
    return set(chain.from_iterable(distinct_texts(files, "source")))


def _document_of(source: str, documents: Container[str]) -> str:
    """Return the document that a source is: itself, or the file of rows that it is a line of."""
    return source if source in documents else source.rpartition(":")[0]


def _ids_are_unique(evidence: Evidence) -> Verdict:
    """Every passage has its own id."""
    path = evidence.store.require("passages").table(PASSAGES)
    # only if something may be wrong all ids are held and compared
    ids = [] if has_unique_ids(path, "passage_id") else read_columns(path, ["passage_id"])["passage_id"]
    return Verdict(rules.ids_are_unique("passages", ids), {"passages": row_count(path)})


class _Compared(msgspec.Struct, frozen=True):
    """The passages of one file, compared with their sources."""

    sources: int
    changed: int
    """Sources that were changed since: nothing is compared with them."""
    violations: list[Violation]


_compared = KeptParts("passage_offsets", _Compared)
"""By the hashes of a file of passages and of its sources."""


def _offsets_point_at_the_text(evidence: Evidence) -> Verdict:
    """Each passage is the text of its source between its offsets; only unchanged sources are compared.

    Of a corpus in shards, a shard that did not change since it was compared is not compared again.
    """
    artifact = evidence.store.require("passages")
    root = Path(artifact.summary_as(PassagesSummary).root)
    inventory: dict[str, list[dict[str, Any]]] = {}
    for row in artifact.json(FILES):
        inventory.setdefault(row["document"], []).append(row)
    places = {name: place for place, name in enumerate(inventory)}
    settings = artifact.manifest.recipe.settings
    maps = msgspec.convert(settings.get("maps", {}), dict[str, ColumnMap])
    names = artifact.table_parts(PASSAGES)
    sources = [shard.files for shard in artifact.shards(PASSAGES, PassageShard)] or [""]
    parts = {
        f"{artifact.manifest.files[name].sha256} {files}": name for name, files in zip(names, sources, strict=True)
    }

    def compare(part: str) -> _Compared:
        path = artifact.file(parts[part])
        mine = {_document_of(source, inventory) for source in _sources_of([path])} if len(names) > 1 else inventory
        documents = sorted(mine, key=places.__getitem__)
        same = [name for name in documents if all(_is_same(root / r["file"], r["sha256"]) for r in inventory[name])]
        rows = read_rows(path, ["passage_id", "text", "source", "start", "end"])
        pairs = _pairs(rows, root, {name: maps.get(name, NO_MAP) for name in same}, settings["traditional"])
        violations = rules.offsets_point_at_the_text("passages", pairs)
        return _Compared(len(same), len(documents) - len(same), violations)

    found = _compared.get(
        evidence.store.root.absolute().parent,
        {"root": str(root), "settings": settings, "rules": file_digest(Path(__file__))},
        list(parts),
        compare,
        keep=lambda compared: not compared.changed and not compared.violations,
    )
    figures = {"sources": sum(one.sources for one in found), "sources_changed_since": sum(one.changed for one in found)}
    return Verdict([*chain.from_iterable(one.violations for one in found)], figures)


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
