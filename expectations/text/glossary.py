"""The glossary: terms with their other names, and how many texts name each."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import msgspec
from ruamel.yaml.error import YAMLError

from expectations.text.libraries import refuse_missing
from expectations.violations import Refused, Violation, violation
from expectations.yaml_text import load_yaml

_BETWEEN_SCRIPTS = re.compile(r"(?<=[\u3400-\u9fff]) ?(?=[a-z0-9])|(?<=[a-z0-9]) ?(?=[\u3400-\u9fff])")
_JOINS = "-\u2010\u2012\u2013\u2014\u2212\n\t\r"
_LEAST_PLURAL = 3  # letters of a name that may take an s: MACs, not AEs


class Term(msgspec.Struct, frozen=True):
    """One row of glossary.parquet."""

    term: str
    names: list[str]
    """Other names, in any language."""
    passages: int
    """The number of passages that hold the term or one of its names."""
    occurrences: int


class TermFinder:
    """A search for terms under any of their names: the longest name at each place, a Latin one only as whole words.

    Upper and lower case, hyphens and spaces, and a space between scripts do not matter; a Latin name may be a plural.
    """

    def __init__(self, terms: Mapping[str, Sequence[str]]) -> None:
        """`terms`: term -> other names. Refused (FT-CORPUS-007) when ahocorasick-rs is not installed."""
        self._owner: dict[str, str] = {}
        for term, names in terms.items():
            for name in (term, *names):
                self._owner |= dict.fromkeys(_variants(name), term)
        self._names = list(self._owner)
        self._automaton = _automaton(self._names) if self._names else None

    def find(self, text: str) -> list[str]:
        """Return the terms of a text in the order of their places, each as often as it is there."""
        return [term for _, _, term in self._search(fold(text))]

    def places(self, text: str) -> list[tuple[int, int]]:
        """Return [start, end) of the terms of a text; none where folding changes its length (`ß`), which is rare."""
        folded = fold(text)
        return [(start, end) for start, end, _ in self._search(folded)] if len(folded) == len(text) else []

    def _search(self, folded: str) -> Iterator[tuple[int, int, str]]:
        """Yield (start, end, term) for each place of a folded text."""
        if self._automaton is None:
            return
        free = 0  # the end of the last term
        matches = self._automaton.find_matches_as_indexes(folded, overlapping=True)
        for start, end, index in sorted((start, -end, index) for index, start, end in matches):
            if start >= free and _is_whole_word(folded, start, -end):
                yield start, -end, self._owner[self._names[index]]
                free = -end


def load_terms(files: Sequence[Path]) -> dict[str, list[str]]:
    """Return term -> other names from YAML mappings; a file may give more names to a term of an earlier one.

    Raises Refused: FT-GLOSS-001 a file is not such a mapping, FT-GLOSS-002 one name has two terms.
    """
    terms: dict[str, list[str]] = {}
    violations: list[Violation] = []
    owner: dict[str, str] = {}
    for path in files:
        earlier = dict(owner)
        for written, names in _read(path, violations).items():
            term = earlier.get(fold(written), written)  # a glossary of the other language writes its own name first
            for name in dict.fromkeys([written, *names]):
                first = owner.setdefault(fold(name), term)
                if first != term:
                    violations.append(
                        violation("FT-GLOSS-002", where=str(path), field=name, found=[first, term], expected="one term")
                    )
            more = [*terms.get(term, []), *([written] if written != term else []), *names]
            terms[term] = [name for name in dict.fromkeys(more) if name != term]
    if violations:
        raise Refused("reading the glossary", violations)
    return terms


def count_terms(terms: Mapping[str, list[str]], texts: Iterable[str]) -> list[Term]:
    """Return for each term how many of the texts hold it under any of its names, and how often."""
    finder = TermFinder(terms)
    passages: Counter[str] = Counter()
    occurrences: Counter[str] = Counter()
    for text in texts:
        named = finder.find(text)
        occurrences.update(named)
        passages.update(set(named))
    return [Term(term, names, passages[term], occurrences[term]) for term, names in terms.items()]


def fold(text: str) -> str:
    """Return the text in the form in which terms are searched: NFKC, casefolded, hyphens and line breaks as spaces."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    for join in _JOINS:  # translate() takes ten times as long
        folded = folded.replace(join, " ")
    return folded


def _variants(name: str) -> set[str]:
    """Return a folded name with and without spaces between Chinese and Latin: SM2 算法, SM2算法."""
    folded = fold(name)
    return {folded, _BETWEEN_SCRIPTS.sub("", folded), _BETWEEN_SCRIPTS.sub(" ", folded)}


def _automaton(names: Sequence[str]) -> Any:
    try:
        from ahocorasick_rs import AhoCorasick, MatchKind
    except ImportError as error:
        raise refuse_missing("finding terms", "ahocorasick-rs", "platform") from error
    return AhoCorasick(names, matchkind=MatchKind.Standard)  # the only kind that gives overlapping matches


def _is_whole_word(text: str, start: int, end: int) -> bool:
    """Return whether `text[start:end]` is not a part of a Latin word: ECC, not ECCENTRIC; but MACs and hashes."""
    if start and _is_latin(text[start]) and _is_latin(text[start - 1]):
        return False
    if end == len(text) or not (_is_latin(text[end - 1]) and _is_latin(text[end])):
        return True
    if not text[end - 1].isalpha() or end - start < _LEAST_PLURAL:
        return False
    plural = next((suffix for suffix in ("es", "s") if text.startswith(suffix, end)), "")
    after = end + len(plural)
    return bool(plural) and (after == len(text) or not _is_latin(text[after]))


def _is_latin(character: str) -> bool:
    return character.isascii() and character.isalnum()


def _read(path: Path, violations: list[Violation]) -> dict[str, list[str]]:
    try:
        document = load_yaml(path.read_text("utf-8"))
    except (YAMLError, UnicodeDecodeError) as error:
        violations.append(_malformed(path, " ".join(str(error).split())[:200]))
        return {}
    terms: dict[str, list[str]] = {}
    if not isinstance(document, dict):
        violations.append(_malformed(path, type(document).__name__))
        return {}
    for term, names in cast("dict[Any, Any]", document).items():
        listed = cast("list[Any]", names if isinstance(names, list) else [] if names is None else [None])
        if isinstance(term, str) and term.strip() and all(isinstance(name, str) and name.strip() for name in listed):
            terms[term] = cast("list[str]", listed)
        else:
            violations.append(_malformed(path, f"{term!r}: {names!r}"))
    return terms


def _malformed(path: Path, found: str) -> Violation:
    return violation("FT-GLOSS-001", where=str(path), found=found, expected="term: [name, …]")
