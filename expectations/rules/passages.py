"""Rules on the passages: few are lost, each has its own id, and its text is the source's text at its offsets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from expectations.violations import Violation, violation

_SHOWN = 20  # violations of one rule that are listed


def ids_are_unique(where: str, ids: Iterable[str]) -> list[Violation]:
    """FT-CORPUS-010: no two passages share an id."""
    return [
        violation(
            "FT-CORPUS-010",
            where=where,
            message=f"Passage id {passage_id} is used {count} times",
            field="passage_id",
            found=count,
            expected=1,
            fix=f"ft run --asset {where}",
        )
        for passage_id, count in Counter(ids).items()
        if count > 1
    ][:_SHOWN]


def few_are_quarantined(where: str, lost: Mapping[str, tuple[int, int]], most: float) -> list[Violation]:
    """FT-CORPUS-012: the share of lost parts is at most `most` (0 to 1). `lost`: kind of part -> (lost, all)."""
    return [
        violation(
            "FT-CORPUS-012",
            where=where,
            message=f"{count} of {total} {kind} are in the quarantine",
            field=f"quarantined share of the {kind}",
            found=round(count / total, 4),
            expected=f"at most {most}",
        )
        for kind, (count, total) in lost.items()
        if total and count / total > most
    ]


def fit_the_encoder(where: str, cut_for: int, read: int, parts: int) -> list[Violation]:
    """FT-CORPUS-014: passages are cut for as many tokens as the encoder reads. `parts`: passages made by that."""
    if cut_for == read:
        return []
    if cut_for < read:
        cost = f"the parts of longer passages, {parts} passages more than without a limit, change and are encoded again"
        keep = f", or {cut_for} to keep them"
    else:
        cost, keep = f"passages of more than {read} tokens become parts, which are encoded", ""
    return [
        violation(
            "FT-CORPUS-014",
            where=where,
            message=f"The encoder reads {read} tokens of a passage, and passages are cut for {cut_for}",
            field="tokens of a passage",
            found=cut_for,
            expected=read,
            fix=f"set corpus.max_tokens: {read} to cut them again ({cost}){keep}",
        )
    ]


def offsets_point_at_the_text(where: str, pairs: Iterable[tuple[str, str, str]]) -> list[Violation]:
    """FT-CORPUS-011: a passage's text is the source's. `pairs`: (passage id, text, cleaned source at its offsets)."""
    return [
        violation(
            "FT-CORPUS-011",
            where=where,
            message=f"Passage {passage_id} differs from its source",
            field="text",
            found=text[:80],
            expected=source[:80],
            fix=f"ft run --asset {where}",
        )
        for passage_id, text, source in pairs
        if text != source
    ][:_SHOWN]
