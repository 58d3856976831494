"""The glossary: terms with their other names, and how much of the corpus speaks of each."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import msgspec
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from expectations.violations import Refused, Violation

_NEVER = re.compile(r"(?!)")


class Term(msgspec.Struct, frozen=True):
    """A row of glossary.parquet."""

    term: str
    names: list[str]
    """Other names, in any language."""
    passages: int
    """Passages that hold the term or one of its names."""
    occurrences: int


def load_terms(files: Sequence[Path]) -> dict[str, list[str]]:
    """term -> other names, from YAML mappings. Refused (FT-GLOSS-001, 002) for else or a name of two terms."""
    terms: dict[str, list[str]] = {}
    violations: list[Violation] = []
    owner: dict[str, str] = {}
    for path in files:
        for term, names in _read(path, violations).items():
            for name in dict.fromkeys([term, *names]):
                first = owner.setdefault(fold(name), term)
                if first != term:
                    violations.append(
                        Violation(
                            code="FT-GLOSS-002", where=str(path), message="one name stands for two terms.", field=name,
                            found=[first, term], expected="one term", mend="take the name out of one of them",
                        )
                    )  # fmt: skip
            terms[term] = list(dict.fromkeys([*terms.get(term, []), *names]))
    if violations:
        raise Refused("reading the glossary", violations)
    return terms


def count_terms(terms: dict[str, list[str]], texts: Iterable[str]) -> list[Term]:
    """How many of the texts hold each term under any of its names, and how often."""
    owner = {fold(name): term for term, names in terms.items() for name in (term, *names)}
    pattern = term_pattern(list(owner))
    passages: Counter[str] = Counter()
    occurrences: Counter[str] = Counter()
    for text in texts:
        found = [owner[match] for match in pattern.findall(fold(text))]
        occurrences.update(found)
        passages.update(set(found))
    return [Term(term, names, passages[term], occurrences[term]) for term, names in terms.items()]


def term_pattern(names: Sequence[str]) -> re.Pattern[str]:
    """Finds the longest name at each place of a folded text; a Latin name only as whole words (ECC, not ECCENTRIC)."""
    if not names:
        return _NEVER
    longest_first = sorted(names, key=len, reverse=True)
    return re.compile("|".join(_bounded(name) for name in longest_first))


def fold(text: str) -> str:
    """Text as terms are looked up in it: NFKC, casefolded."""
    return unicodedata.normalize("NFKC", text).casefold()


def _bounded(name: str) -> str:
    before = r"(?<![a-z0-9])" if _is_latin(name[0]) else ""
    after = r"(?![a-z0-9])" if _is_latin(name[-1]) else ""
    return before + re.escape(name) + after


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
        found=found, expected="term: [name, …]", mend="write it that way",
    )  # fmt: skip
