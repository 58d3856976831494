"""Resolve evidence names: a passage, a section that was cut into pieces, or a whole document."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from itertools import chain

from ft_assets.corpus.collect import ALIASES, PASSAGES
from ft_assets.corpus.cut import Alias, names_above
from resources.artifacts import Artifact
from resources.parquet import read_rows


class PassageIndex:
    """Passages by their id, their section and their document, and by those of their aliases."""

    def __init__(self, passages: Iterable[tuple[str, str]], aliases: Collection[Alias] = ()) -> None:
        """`passages`: (passage_id, document_id), in the order of the corpus."""
        self.document = dict(passages)
        self._documents = set(self.document.values())
        self._named: dict[str, list[str]] = {}
        self._kept: dict[str, str] = {}
        self.disputed = {alias.alias for alias in aliases if not alias.passage_id}
        """Ids that two documents of the corpus have: they mean none of them."""
        for passage_id, document_id in self.document.items():
            self._name(passage_id, document_id, passage_id)
        for alias in aliases:  # they follow the document's own passages
            if alias.passage_id:
                self._kept[alias.alias] = alias.passage_id
                self._name(alias.alias, alias.document_id, alias.passage_id)

    def resolve(self, name: str) -> list[str]:
        """Return the passages that `name` means (for an alias, the passage with its text); none if it is unknown."""
        if name in self.disputed:
            return []
        # the name of a section, or of a piece that was cut again, means all of its pieces: the first has no name of
        # its own
        if name in self._named:
            return self._named[name]
        name = self.kept(name)
        return [name] if name in self.document else []

    def is_long_document(self, name: str) -> bool:
        """Return whether `name` means a document of more than one passage."""
        return name in self._documents and len(self.resolve(name)) > 1

    def kept(self, name: str) -> str:
        """Return the passage id of an alias; return any other name unchanged."""
        return self._kept.get(name, name)

    def section(self, name: str) -> str:
        """Return the section of an evidence name: that of a piece, of the passage kept for an alias, or the name."""
        kept = self.kept(name)
        return section_of(kept, self.document.get(kept, ""))

    def _name(self, passage_id: str, document_id: str, kept: str) -> None:
        for name in dict.fromkeys((passage_id, *names_above(passage_id, document_id), document_id)):
            if name in self._documents and name not in {passage_id, document_id}:
                continue  # a document that is named like a piece of this one
            passages = self._named.setdefault(name, [])
            if kept not in passages[-1:]:
                passages.append(kept)


def read_index(passages: Artifact) -> PassageIndex:
    """Return the index of a `passages` artifact."""
    rows = read_rows(passages.table(PASSAGES), ["passage_id", "document_id"])
    return PassageIndex(((row["passage_id"], row["document_id"]) for row in rows), read_aliases(passages))


def read_aliases(passages: Artifact) -> list[Alias]:
    """Return the aliases of a `passages` artifact."""
    return [Alias(**row) for row in read_rows(passages.file(ALIASES))]


def resolve_passages(ids: Iterable[str], index: PassageIndex) -> list[str]:
    """Return the passage ids that these names mean, each once, in order; unknown names mean none."""
    return list(dict.fromkeys(chain.from_iterable(map(index.resolve, ids))))


def section_of(passage_id: str, document_id: str = "") -> str:
    """Return the section of a piece of this document: `aes#rounds~2` -> `aes#rounds`."""
    return [passage_id, *names_above(passage_id, document_id)][-1]


def document_of(name: str, index: PassageIndex) -> str:
    """Return the document of an evidence name; for a name that the corpus does not have, the part before `#`."""
    passages = index.resolve(name)
    return index.document[passages[0]] if passages else section_of(name).split("#", 1)[0]
