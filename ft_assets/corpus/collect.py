"""Read the documents into passages.parquet, aliases.parquet and quarantine.jsonl, as one stream."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import msgspec

from expectations.canonical import digest
from expectations.formats.column_map import NO_MAP, ColumnMap
from expectations.reading import Rejected
from expectations.records.read import write_quarantine
from expectations.text.documents import Section, read_document
from ft_assets.config.model import CorpusSettings
from ft_assets.corpus.cut import Alias, Passage, PassageWithPayload, Twin, cut_sections
from ft_assets.corpus.payload import PayloadFields
from ft_assets.corpus.seen import Seen
from ft_assets.corpus.shards import (
    ALIASES,
    PASSAGES,
    Inventory,
    PassageShard,
    ShardSource,
    found_key,
    group_files,
    seen_file,
    table_file,
)
from ft_assets.corpus.token_limit import TokenLimit
from ft_assets.graph.quarantine import QUARANTINE
from ft_assets.graph.source_files import shown_path
from resources.artifacts import write_shards
from resources.engines.protocol import PayloadType
from resources.parquet import TableWriter, arrow_schema, write_table

GLOSSARY = "glossary.parquet"


class PayloadSummary(msgspec.Struct, frozen=True, kw_only=True):
    """The part of the summary of `passages` on their payload."""

    payload: dict[str, PayloadType] = {}
    """Field of `corpus.payload` -> the type of its values, if any document has it."""


class PassagesSummary(PayloadSummary, frozen=True, kw_only=True):
    """Summary of `passages`."""

    root: str
    """The folder of the project, which the names of the sources are relative to."""
    files: int
    documents: int
    passages: int
    quarantined: int
    aliases: int
    codes: dict[str, int]
    """Code of a rule -> quarantined passages."""
    languages: dict[str, int]
    """Language -> passages."""
    mean_chars: float
    max_tokens: int | None = None
    """Tokens of a passage, at most; None if they are not counted."""
    parts: int = 0
    """Passages that there are more because of this limit."""


def collect_passages(
    files: Sequence[Path],
    root: Path,
    settings: CorpusSettings,
    folder: Path,
    maps: Mapping[Path, ColumnMap] = MappingProxyType({}),
    *,
    limit: TokenLimit | None = None,
    source: ShardSource | None = None,
) -> PassagesSummary:
    """Cut `files` into passages below `folder`; return the summary.

    `maps`: of files whose columns have other names; `limit`: the tokens of a passage, None for any number. With a
    `source`, many files are cut into shards, and shards that did not change are taken from there.
    """
    collector = _Collector(root, settings, maps, limit)
    groups = group_files(source.inventory) if source else []
    if source and len(groups) > 1:
        rejected = collector.collect_shards(groups, source)
    else:
        rejected = collector.cut(files, folder / PASSAGES, collector.total)
        if source:
            source.read += files
    write_quarantine(folder / QUARANTINE, rejected)
    total = collector.total
    write_table(folder / ALIASES, arrow_schema(Alias), total.aliases)
    return PassagesSummary(
        root=str(root),
        files=len(files),
        documents=len(total.documents),
        passages=total.rows,
        aliases=sum(alias.passage_id != "" for alias in total.aliases),
        quarantined=total.codes.total(),
        codes=dict(total.codes),
        languages=dict(total.languages),
        mean_chars=round(total.chars / total.rows, 1) if total.rows else 0.0,
        payload=collector.fields.types if collector.fields else {},
        max_tokens=limit.tokens if limit else None,
        parts=total.parts,
    )


@dataclass
class _Counts:
    """Counts of some files, their documents and aliases."""

    rows: int = 0
    chars: int = 0
    parts: int = 0
    codes: Counter[str] = field(default_factory=Counter[str])
    languages: Counter[str] = field(default_factory=Counter[str])
    documents: set[str] = field(default_factory=set[str])
    aliases: list[Alias] = field(default_factory=list[Alias])

    def add(self, other: _Counts) -> None:
        """Add what came of other files."""
        self.rows += other.rows
        self.chars += other.chars
        self.parts += other.parts
        self.codes.update(other.codes)
        self.languages.update(other.languages)
        self.documents |= other.documents
        self.aliases += other.aliases


class _Collector:
    """Cuts files one after the other, each knowing the passages of those before it."""

    def __init__(
        self, root: Path, settings: CorpusSettings, maps: Mapping[Path, ColumnMap], limit: TokenLimit | None
    ) -> None:
        self.total = _Counts()
        self.fields = PayloadFields() if settings.payload else None
        self._root, self._settings, self._maps, self._limit = root, settings, maps, limit
        self._seen = Seen()

    def cut(self, files: Sequence[Path], table: Path, counts: _Counts) -> Iterator[Rejected]:
        """Write the passages of files to a table; yield what is quarantined."""
        settings, limit = self._settings, self._limit
        parts = limit.parts if limit else 0
        with TableWriter(table, arrow_schema(PassageWithPayload if self.fields else Passage)) as writer:
            for item in cut_sections(
                _sections(files, self._root, settings.payload, self._maps),
                settings.max_chars,
                settings.min_chars,
                settings.traditional,
                fields=self.fields,
                limit=limit,
                seen=self._seen,
            ):
                if isinstance(item, Passage):
                    writer.add(item)
                    counts.languages[item.language] += 1
                    counts.documents.add(item.document_id)
                    counts.chars += len(item.text)
                    continue
                if isinstance(item, Twin):
                    counts.aliases.append(item.alias)
                rejected = item.rejected if isinstance(item, Twin) else item
                counts.codes[rejected.code] += 1
                yield rejected
        counts.rows += writer.rows
        counts.parts += limit.parts - parts if limit else 0

    def collect_shards(self, groups: Sequence[Inventory], source: ShardSource) -> Iterator[Rejected]:
        """Write a table of passages for each group of files, and their list; yield what is quarantined."""
        shards: list[PassageShard] = []
        folder = source.staging.path
        (folder / table_file("")).parent.mkdir()
        for group in groups:
            files = source.files_key(group)
            types = dict(self.fields.types) if self.fields else {}
            if known := source.find(files, self._seen, types):
                shard, asked = known
                rejected, aliases = source.take(shard)
                counts = _Counts(shard.rows, shard.chars, shard.parts, Counter(shard.codes), Counter(shard.languages))
                counts.documents, counts.aliases = self._seen.adopt(asked), aliases
                if self.fields:
                    self.fields.types = dict(shard.types)
            else:
                shard, counts, rejected = self._cut_shard(files, group, types, source)
            yield from rejected
            shards.append(shard)
            self.total.add(counts)
        write_shards(folder, PASSAGES, shards)

    def _cut_shard(
        self, files: str, group: Inventory, types: Mapping[str, PayloadType], source: ShardSource
    ) -> tuple[PassageShard, _Counts, list[Rejected]]:
        counts = _Counts()
        folder = source.staging.path
        paths = [self._root / name for name in dict.fromkeys(row["document"] for row in group)]
        source.read += paths
        self._seen.begin_shard()
        rejected = list(self.cut(paths, folder / table_file("new"), counts))
        found = found_key(self._seen.end_shard(folder / seen_file("new")), types)
        name = digest([files, found])[:16]
        for file_of in (table_file, seen_file):
            (folder / file_of("new")).rename(folder / file_of(name))
        shard = PassageShard(
            name=name,
            files=files,
            found=found,
            rows=counts.rows,
            chars=counts.chars,
            parts=counts.parts,
            aliases=len(counts.aliases),
            codes=dict(counts.codes),
            languages=dict(counts.languages),
            types=dict(self.fields.types) if self.fields else {},
        )
        return shard, counts, rejected


def _sections(
    files: Sequence[Path], root: Path, payload: Sequence[str], maps: Mapping[Path, ColumnMap]
) -> Iterator[Section | Rejected]:
    for path in files:
        yield from read_document(path, shown_path(path, root), payload, maps.get(path, NO_MAP))
