"""Facts of the tables of vectors and passages that gates ask for: one streaming pass answers several rules.

A guard and a check of one process ask about the same tables again and again: facts are kept by the tables' hashes.
"""

# pyright: basic
# pyarrow has no type information.
from __future__ import annotations

from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from expectations.rules import retrieval as rules
from expectations.violations import Violation
from ft_assets.corpus.collect import PASSAGES
from ft_assets.retrieval.vectors import VECTORS_FILE
from resources.artifacts import Artifact
from resources.memo import Memo
from resources.parquet import IdKeys, column_blocks, read_columns

if TYPE_CHECKING:
    import pyarrow as pa

_SHOWN = 20  # rows of one kind that are kept: as many as a rule lists
_TEXTS = ["passage_id", "content_sha256"]


class TextFacts(NamedTuple):
    """The rows of vectors, compared with the passages that they should belong to."""

    passages: int
    rows: int
    one_row: list[Violation]
    same_texts: list[Violation]


class NumberFacts(NamedTuple):
    """The numbers in the vectors."""

    rows: int
    empty: int
    """Rows without any lexical weight."""
    widths: list[tuple[str, int]]
    """Passage id and number of dense values, of the first rows of each width."""
    non_finite: list[str]
    """The first passages with NaN or an infinity."""


_text_facts = Memo[TextFacts](size=8)
"""By asset and the hashes of both tables."""
_number_facts = Memo[NumberFacts](size=8)
"""By the hash of the table."""


def text_facts(vectors: Artifact, passages: Artifact) -> TextFacts:
    """Return the facts of FT-VEC-001 and FT-VEC-004, from ids and content hashes."""
    rows, texts = vectors.file(VECTORS_FILE), passages.file(PASSAGES)
    key = (vectors.asset, vectors.manifest.files[VECTORS_FILE].sha256, passages.manifest.files[PASSAGES].sha256)
    return _text_facts.get(key, lambda: _compare_texts(vectors.asset, rows, texts))


def number_facts(vectors: Artifact) -> NumberFacts:
    """Return the facts of FT-VEC-002, FT-VEC-003 and FT-VEC-005."""
    path = vectors.file(VECTORS_FILE)
    return _number_facts.get(vectors.manifest.files[VECTORS_FILE].sha256, lambda: _count(path))


def _compare_texts(where: str, rows: Path, texts: Path) -> TextFacts:
    """Compare both tables row by row: they are in the same order, unless something is wrong."""
    keys = IdKeys()
    counts = [0, 0]
    equal = True
    for row, text in zip_longest(column_blocks(rows, _TEXTS), column_blocks(texts, _TEXTS), fillvalue=None):
        counts = [count + len(block[0]) if block else count for count, block in zip(counts, (row, text), strict=True)]
        equal = equal and row is not None and text is not None and all(map(_equals, row, text))
        if equal and row:
            keys.add(row[0])
    if equal and keys.are_unique():
        return TextFacts(counts[1], counts[0], [], [])
    made, now = read_columns(rows, _TEXTS), read_columns(texts, _TEXTS)
    by_id = [dict(zip(*columns.values(), strict=True)) for columns in (now, made)]
    return TextFacts(
        passages=counts[1],
        rows=counts[0],
        one_row=rules.one_vector_a_passage(where, now["passage_id"], made["passage_id"]),
        same_texts=rules.vectors_match_texts(where, *by_id),
    )


def _equals(left: pa.Array, right: pa.Array) -> bool:
    return left.equals(right)


def _count(path: Path) -> NumberFacts:
    rows = empty = 0
    shown: dict[int, list[tuple[int, str]]] = {}
    non_finite: list[str] = []
    for ids, dense, indices, values in column_blocks(path, ["passage_id", "dense", "sparse_indices", "sparse_values"]):
        widths = _lengths(dense)
        for width in np.unique(widths).tolist():
            kept = shown.setdefault(width, [])
            found = np.flatnonzero(widths == width)[: _SHOWN - len(kept)].tolist()
            kept += [(rows + row, ids[row].as_py()) for row in found]
        if len(non_finite) < _SHOWN:
            non_finite += [ids[row].as_py() for row in _not_finite(dense, values)]
        empty += int((_lengths(indices) == 0).sum())
        rows += len(ids)
    firsts = sorted((row, name, width) for width, found in shown.items() for row, name in found)
    return NumberFacts(rows, empty, [(name, width) for _, name, width in firsts], non_finite[:_SHOWN])


def _not_finite(*columns: pa.Array) -> list[int]:
    """Return the rows with a number that is NaN or an infinity."""
    rows: set[int] = set()
    for column in columns:
        finite = np.isfinite(column.flatten().to_numpy(zero_copy_only=False))
        if not finite.all():
            rows.update(np.repeat(np.arange(len(column)), _lengths(column))[~finite].tolist())
    return sorted(rows)


def _lengths(column: pa.Array) -> np.ndarray:
    return column.value_lengths().to_numpy(zero_copy_only=False)
