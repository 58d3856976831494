"""The glossary: terms with their other names, how much text speaks of each, and answers that lose their question's."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import msgspec
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from expectations.violations import Refused, Violation

_BETWEEN_SCRIPTS = re.compile(r"(?<=[\u3400-\u9fff]) ?(?=[a-z0-9])|(?<=[a-z0-9]) ?(?=[\u3400-\u9fff])")
_JOINS = "-\u2010\u2012\u2013\u2014\u2212\n\t\r"
_SHOWN = 20
_LEAST_PLURAL = 3  # letters of a name that may take an s: MACs, not AEs


class Term(msgspec.Struct, frozen=True):
    """A row of glossary.parquet."""

    term: str
    names: list[str]
    """Other names, in any language."""
    passages: int
    """Passages that hold the term or one of its names."""
    occurrences: int


class LostTerm(msgspec.Struct, frozen=True):
    """An answer that names none of the terms its question names."""

    where: str
    """`file:line`."""
    terms: tuple[str, ...]
    answer: str


class Coverage(msgspec.Struct):
    """How many rows of a data set, and of them how many questions and answers, name each term."""

    rows: int = 0
    naming: int = 0
    """Questions that name a term."""
    asked: Counter[str] = msgspec.field(default_factory=Counter[str])
    answered: Counter[str] = msgspec.field(default_factory=Counter[str])
    lost: list[LostTerm] = msgspec.field(default_factory=list[LostTerm])

    @property
    def lost_share(self) -> float:
        """Of the questions that name a term, the share whose answer names none of theirs."""
        return len(self.lost) / self.naming if self.naming else 0.0


class TermFinder:
    """Finds terms under any of their names: the longest name at each place, a Latin one only as whole words.

    Upper and lower case, hyphens and spaces, and a space between scripts do not matter; a Latin name may be a plural.
    """

    def __init__(self, terms: Mapping[str, Sequence[str]]) -> None:
        """`terms`: term -> other names. Refused (FT-CORPUS-007) when ahocorasick-rs is not installed."""
        self._owner = {
            variant: term for term, names in terms.items() for name in (term, *names) for variant in _variants(name)
        }
        self._names = list(self._owner)
        self._automaton = _automaton(self._names) if self._names else None

    def find(self, text: str) -> list[str]:
        """The terms of a text in the order of their places, each as often as it is there."""
        if self._automaton is None:
            return []
        folded = fold(text)
        found: list[str] = []
        free = 0
        matches = self._automaton.find_matches_as_indexes(folded, overlapping=True)
        for start, end, index in sorted((start, -end, index) for index, start, end in matches):
            if start >= free and _stands_alone(folded, start, -end):
                found.append(self._owner[self._names[index]])
                free = -end
        return found


def load_terms(files: Sequence[Path]) -> dict[str, list[str]]:
    """term -> other names, from YAML mappings; a file may give more names to a term of an earlier one.

    Refused for anything else (FT-GLOSS-001), and for one name of two terms (FT-GLOSS-002).
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
                        Violation(
                            code="FT-GLOSS-002", where=str(path), message="one name stands for two terms.", field=name,
                            found=[first, term], expected="one term", fix="take the name out of one of them",
                        )
                    )  # fmt: skip
            more = [*terms.get(term, []), *([written] if written != term else []), *names]
            terms[term] = [name for name in dict.fromkeys(more) if name != term]
    if violations:
        raise Refused("reading the glossary", violations)
    return terms


def count_terms(terms: Mapping[str, list[str]], texts: Iterable[str]) -> list[Term]:
    """How many of the texts hold each term under any of its names, and how often."""
    finder = TermFinder(terms)
    passages: Counter[str] = Counter()
    occurrences: Counter[str] = Counter()
    for text in texts:
        found = finder.find(text)
        occurrences.update(found)
        passages.update(set(found))
    return [Term(term, names, passages[term], occurrences[term]) for term, names in terms.items()]


def cover(finder: TermFinder, rows: Iterable[tuple[str, str, str]]) -> Coverage:
    """What questions and answers speak of; `rows`: (`file:line`, question, answer, empty where there is none).

    An answer keeps its question's terms when it names one of them, under any name.
    """
    coverage = Coverage()
    for where, question, answer in rows:
        wanted, given = list(dict.fromkeys(finder.find(question))), set(finder.find(answer))
        coverage.rows += 1
        coverage.naming += bool(wanted)
        coverage.asked.update(wanted)
        coverage.answered.update(given)
        if wanted and answer and given.isdisjoint(wanted):
            coverage.lost.append(LostTerm(where, tuple(wanted), answer[:80]))
    return coverage


def answers_keep_their_terms(asset: str, coverage: Coverage, most: float) -> list[Violation]:
    """FT-TERM-001: no larger share than `most` of the questions with a term has lost it in the answer; the first 20."""
    if coverage.lost_share <= most:
        return []
    share = f"{coverage.lost_share:.0%}"
    return [
        Violation(
            code="FT-TERM-001", where=row.where, field="answer", found=row.answer, expected=" or ".join(row.terms[:5]),
            message=f"the answer names none of its question's terms, like {share} of those in {asset}.",
            fix=f"name the term in the answer, or raise datasets.max_lost_terms_share (now {most:g})",
        )
        for row in coverage.lost[:_SHOWN]
    ]  # fmt: skip


def questions_name_terms(asset: str, coverage: Coverage, terms: int) -> list[Violation]:
    """FT-TERM-002: where there are questions and a glossary, at least one question names a term of it."""
    if not coverage.rows or not terms or coverage.naming:
        return []
    return [
        Violation(
            code="FT-TERM-002", where=asset, field="question", found=0, expected=f"one of {terms} terms",
            message=f"none of {coverage.rows} questions names a term of the glossary.",
            fix="give corpus.glossary the terms of these questions, or check which files datasets names",
        )
    ]  # fmt: skip


def fold(text: str) -> str:
    """Text as terms are looked up in it: NFKC, casefolded, hyphens and line breaks as spaces."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    for join in _JOINS:  # translate() takes ten times as long
        folded = folded.replace(join, " ")
    return folded


def _variants(name: str) -> set[str]:
    """A folded name with and without spaces between Chinese and Latin: SM2 算法, SM2算法."""
    folded = fold(name)
    return {folded, _BETWEEN_SCRIPTS.sub("", folded), _BETWEEN_SCRIPTS.sub(" ", folded)}


def _automaton(names: Sequence[str]) -> Any:
    try:
        from ahocorasick_rs import AhoCorasick, MatchKind
    except ImportError as error:
        raise Refused(
            "finding terms",
            [
                Violation(
                    code="FT-CORPUS-007", where="ahocorasick-rs", message="terms are found with ahocorasick-rs.",
                    fix='pip install "ft-assets[platform]"',
                )
            ],
        ) from error  # fmt: skip
    return AhoCorasick(names, matchkind=MatchKind.Standard)  # the only kind that gives overlapping matches


def _stands_alone(text: str, start: int, end: int) -> bool:
    """Whether `text[start:end]` is no part of a Latin word: ECC, not ECCENTRIC; but MACs and hashes."""
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
        document = cast("Any", YAML(typ="safe", pure=True)).load(path.read_text("utf-8"))
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
    return Violation(
        code="FT-GLOSS-001", where=str(path), message="a glossary maps each term to a list of its other names.",
        found=found, expected="term: [name, …]", fix="write it that way",
    )  # fmt: skip
