"""Read the documents into passages.parquet, aliases.parquet and quarantine.jsonl, as one stream."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import msgspec

from expectations.formats.column_map import NO_MAP, ColumnMap
from expectations.reading import Rejected
from expectations.records.read import write_quarantine
from expectations.text.documents import Section, read_document
from ft_assets.config.model import CorpusSettings
from ft_assets.corpus.cut import Alias, Passage, PassageWithPayload, Twin, cut_sections
from ft_assets.corpus.payload import PayloadFields
from ft_assets.corpus.token_limit import TokenLimit
from ft_assets.graph.quarantine import QUARANTINE, count_codes
from ft_assets.graph.source_files import shown_path
from resources.engines.protocol import PayloadType
from resources.parquet import TableWriter, arrow_schema, write_table

PASSAGES = "passages.parquet"
ALIASES = "aliases.parquet"
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
) -> PassagesSummary:
    """Cut `files` into passages below `folder`; return the summary.

    `maps`: of files whose columns have other names; `limit`: the tokens of a passage, None for any number.
    """
    codes: Counter[str] = Counter()
    languages: Counter[str] = Counter()
    documents: set[str] = set()
    aliases: list[Alias] = []
    chars = 0
    fields = PayloadFields() if settings.payload else None
    with TableWriter(folder / PASSAGES, arrow_schema(PassageWithPayload if fields else Passage)) as table:

        def write_kept() -> Iterator[Rejected]:
            """Write the passages to the table; yield the rejected ones."""
            nonlocal chars
            sections = _sections(files, root, settings.payload, maps)
            lengths = (settings.max_chars, settings.min_chars)
            for item in cut_sections(sections, *lengths, settings.traditional, fields=fields, limit=limit):
                if isinstance(item, Twin):
                    aliases.append(item.alias)
                    yield item.rejected
                    continue
                if isinstance(item, Rejected):
                    yield item
                    continue
                table.add(item)
                languages[item.language] += 1
                documents.add(item.document_id)
                chars += len(item.text)

        write_quarantine(folder / QUARANTINE, count_codes(write_kept(), codes))
    write_table(folder / ALIASES, arrow_schema(Alias), aliases)
    return PassagesSummary(
        root=str(root),
        files=len(files),
        documents=len(documents),
        passages=table.rows,
        aliases=sum(alias.passage_id != "" for alias in aliases),
        quarantined=codes.total(),
        codes=dict(codes),
        languages=dict(languages),
        mean_chars=round(chars / table.rows, 1) if table.rows else 0.0,
        payload=fields.types if fields else {},
        max_tokens=limit.tokens if limit else None,
        parts=limit.parts if limit else 0,
    )


def _sections(
    files: Sequence[Path], root: Path, payload: Sequence[str], maps: Mapping[Path, ColumnMap]
) -> Iterator[Section | Rejected]:
    for path in files:
        yield from read_document(path, shown_path(path, root), payload, maps.get(path, NO_MAP))
