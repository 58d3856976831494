"""What must hold of the passages: each has its own id, and its text is what its source says at its offsets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from expectations.violations import Violation

_SHOWN = 20


def ids_are_unique(where: str, ids: Iterable[str]) -> list[Violation]:
    """FT-CORPUS-010: no two passages share an id."""
    return [
        Violation(
            code="FT-CORPUS-010", where=where, message=f"passage id {passage_id} is used {count} times.",
            field="passage_id", found=count, expected=1, fix=f"ft run --asset {where}",
        )
        for passage_id, count in Counter(ids).items() if count > 1
    ][:_SHOWN]  # fmt: skip


def offsets_point_at_the_text(where: str, pairs: Iterable[tuple[str, str, str]]) -> list[Violation]:
    """FT-CORPUS-011: `pairs` are (passage id, its text, the source between its offsets, cleaned) and agree."""
    return [
        Violation(
            code="FT-CORPUS-011", where=where, message=f"passage {passage_id} is not what its source says there.",
            field="text", found=text[:80], expected=source[:80], fix=f"ft run --asset {where}",
        )
        for passage_id, text, source in pairs if text != source
    ][:_SHOWN]  # fmt: skip
