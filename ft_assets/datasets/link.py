"""What a record's evidence names: a passage, a section that was cut into pieces, or a whole document."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from resources.parquet import read_rows


class PassageIndex:
    """Passages by their id, by the section they are a piece of, and by their document."""

    def __init__(self, passages: Iterable[tuple[str, str]]) -> None:
        """`passages`: (passage_id, document_id), in the order of the corpus."""
        self.document: dict[str, str] = {}
        self._named: dict[str, list[str]] = {}
        for passage_id, document_id in passages:
            self.document[passage_id] = document_id
            for name in dict.fromkeys((section_of(passage_id), document_id)):
                self._named.setdefault(name, []).append(passage_id)

    def resolve(self, name: str) -> list[str]:
        """The passages that `name` means; none if the corpus does not know it."""
        if name in self._named:  # a section's name means all of its pieces, its first piece has no name of its own
            return self._named[name]
        return [name] if name in self.document else []


def read_index(passages: Path) -> PassageIndex:
    """The index of a passages.parquet."""
    rows = read_rows(passages, ["passage_id", "document_id"])
    return PassageIndex((row["passage_id"], row["document_id"]) for row in rows)


def resolve_passages(ids: Iterable[str], index: PassageIndex) -> list[str]:
    """The passage ids that these names mean, each once, in order; unknown names mean none."""
    return list(dict.fromkeys(passage for name in ids for passage in index.resolve(name)))


def section_of(passage_id: str) -> str:
    """`aes#rounds~2` -> `aes#rounds`: a piece belongs to its section."""
    section, mark, piece = passage_id.rpartition("~")
    return section if mark and piece.isdigit() else passage_id


def document_of(name: str, index: PassageIndex) -> str:
    """The document that an evidence name points into; for names the corpus does not know, what precedes `#`."""
    passages = index.resolve(name)
    return index.document[passages[0]] if passages else section_of(name).split("#", 1)[0]
