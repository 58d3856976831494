"""Facts of the tables of vectors and passages that gates ask for: one streaming pass answers several rules.

A guard and a check of one process ask about the same tables again and again: facts are kept by the tables' hashes.
"""

# pyright: basic
# pyarrow has no type information.
from __future__ import annotations

from collections import Counter
from itertools import chain, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from expectations.canonical import file_digest
from expectations.rules import retrieval as rules
from expectations.violations import Violation
from ft_assets.corpus.collect import PASSAGES
from ft_assets.retrieval.vectors import VECTORS_FILE
from resources.artifacts import Artifact
from resources.kept import KeptParts
from resources.memo import Memo
from resources.parquet import column_blocks, has_unique_ids, read_columns, row_count

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


_UNEQUAL = -1
_equal_rows = KeptParts("equal_rows", int)
"""By the hashes of a file of vectors and one of passages: the number of rows, `_UNEQUAL` if they differ."""
_part_facts = KeptParts("vector_numbers", NumberFacts)
"""By the hash of a file."""
_text_facts = Memo[TextFacts](size=8)
"""By asset and the hashes of both tables."""
_number_facts = Memo[NumberFacts](size=8)
"""By the hash of the table."""


def text_facts(vectors: Artifact, passages: Artifact) -> TextFacts:
    """Return the facts of FT-VEC-001 and FT-VEC-004, from ids and content hashes."""
    key = (vectors.asset, vectors.table_version(VECTORS_FILE), passages.table_version(PASSAGES))
    return _text_facts.get(key, lambda: _compare_texts(vectors, passages))


def number_facts(vectors: Artifact) -> NumberFacts:
    """Return the facts of FT-VEC-002, FT-VEC-003 and FT-VEC-005."""
    return _number_facts.get(vectors.table_version(VECTORS_FILE), lambda: _count_all(vectors))


def _compare_texts(vectors: Artifact, passages: Artifact) -> TextFacts:
    """Compare both tables row by row: they are in the same order, unless something is wrong."""
    rows, texts = vectors.table(VECTORS_FILE), passages.table(PASSAGES)
    equal = _count_equal(vectors, passages)
    if equal is not None and has_unique_ids(texts, "passage_id"):
        return TextFacts(equal, equal, [], [])
    made, now = read_columns(rows, _TEXTS), read_columns(texts, _TEXTS)
    by_id = [dict(zip(*columns.values(), strict=True)) for columns in (now, made)]
    return TextFacts(
        passages=row_count(texts),
        rows=row_count(rows),
        one_row=rules.one_vector_a_passage(vectors.asset, now["passage_id"], made["passage_id"]),
        same_texts=rules.vectors_match_texts(vectors.asset, *by_id),
    )


def _count_equal(vectors: Artifact, passages: Artifact) -> int | None:
    """Return the number of rows if both tables have the same ids and texts, row by row and file by file; else None."""
    names, texts = vectors.table_parts(VECTORS_FILE), passages.table_parts(PASSAGES)
    if len(names) != len(texts):
        return None
    pairs = {f"{_sha(vectors, one)} {_sha(passages, two)}": (one, two) for one, two in zip(names, texts, strict=True)}

    def count(pair: str) -> int:
        one, two = pairs[pair]
        rows = column_blocks(vectors.file(one), _TEXTS)
        equal = all(
            row is not None and text is not None and all(map(_equals, row, text))
            for row, text in zip_longest(rows, column_blocks(passages.file(two), _TEXTS))
        )
        return row_count(passages.file(two)) if equal else _UNEQUAL

    counts = _equal_rows.get(_state_of(vectors), _key(vectors), list(pairs), count, keep=_UNEQUAL.__ne__)
    return None if _UNEQUAL in counts else sum(counts)


def _sha(artifact: Artifact, name: str) -> str:
    return artifact.manifest.files[name].sha256


def _key(vectors: Artifact) -> dict[str, object]:
    return {"asset": vectors.asset, "rules": file_digest(Path(__file__))}  # a checkout changes them within one version


def _state_of(artifact: Artifact) -> Path:
    return artifact.path.absolute().parents[2]


def _equals(left: pa.Array, right: pa.Array) -> bool:
    return left.equals(right)


def _count_all(vectors: Artifact) -> NumberFacts:
    names = vectors.table_parts(VECTORS_FILE)
    parts = {_sha(vectors, name): name for name in names}
    facts = _part_facts.get(
        _state_of(vectors),
        _key(vectors),
        [_sha(vectors, name) for name in names],
        lambda part: _count(vectors.file(parts[part])),
        keep=lambda fact: not fact.non_finite,
    )
    shown = Counter[int]()
    widths: list[tuple[str, int]] = []
    for name, width in chain.from_iterable(fact.widths for fact in facts):
        shown[width] += 1
        if shown[width] <= _SHOWN:
            widths.append((name, width))
    return NumberFacts(
        rows=sum(fact.rows for fact in facts),
        empty=sum(fact.empty for fact in facts),
        widths=widths,
        non_finite=[*chain.from_iterable(fact.non_finite for fact in facts)][:_SHOWN],
    )


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
