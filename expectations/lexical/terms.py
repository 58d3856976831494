"""Terms of a text: stemmed words without stop words, and pairs of characters where a script has no spaces.

A term is stored as a number, a hash of its text, so that no vocabulary has to be kept and no word is unknown.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from hashlib import blake2b
from itertools import chain, pairwise
from typing import NamedTuple

from expectations.canonical import digest
from expectations.lexical import libraries
from expectations.violations import Refused, violation

NO_LANGUAGE = "none"
"""Language of texts whose words are neither stemmed nor stop words."""

# Han, Kana (with ー and half-width forms), Hangul; Thai, Lao, Burmese and Khmer, which write words without spaces
_UNSPACED = (
    "\u3005-\u3007\u3041-\u3096\u30a1-\u30fa\u30fc\u31f0-\u31ff\uff66-\uff9f"
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f"
    "\u1100-\u11ff\u3130-\u318f\uac00-\ud7a3"
    "\u0e01-\u0e4e\u0e80-\u0edf\u1000-\u109f\u1780-\u17d3"
)
_KEPT_TERMS = 1_000_000  # numbers of terms that are kept in memory

# One text in several scripts: whatever changes the terms of a usual text changes some of these.
_PROBE = (
    "The refurbished pumps' warranties, running for 24 months: error E-4102 after firmware 3.8.1! Größe, naïve café "
    "Straßen. Договоры подписаны вчера. 年假没有休完可以折算成工资吗？"
    "ＡＥＳ－ＧＣＭ 設備の点検 カメラ 안전 점검표 ภาษาไทย हिन्दी"
)


class PlacedTerm(NamedTuple):
    """A term and the characters of the text, from `start` to before `end`, that it comes from."""

    term: str
    start: int
    end: int


class Terms:
    """The terms of texts in one language.

    >>> Terms("english", ["the", "is"]).of("The pump is running: 年假规定")
    ['pump', 'run', '年假', '假规', '规定']

    Raises Refused (FT-LEX-001) for a language without a stemmer.
    """

    def __init__(self, language: str, stop_words: Iterable[str]) -> None:
        self.language = language
        self.stop_words = sorted(set(stop_words))
        self._stop = {word for text in self.stop_words for word in _words(_folded(text))}
        self._stemmer = _stemmer(language)
        self._stems: dict[str, str] = {}
        self._numbers: dict[str, int] = {}

    def of(self, text: str) -> list[str]:
        """Return the terms of a text in their order."""
        terms: list[str] = []
        for match in _pattern().finditer(_folded(text)):
            terms += self._terms(*match.groups())
        return terms

    def placed(self, text: str) -> list[PlacedTerm]:
        """Return the terms of a text with their places; without those that have none because folding moved them."""
        folded, places = _folded_with_places(text)
        found: list[PlacedTerm] = []
        for match in _pattern().finditer(folded) if places else ():
            first, last = match.span()
            width = 2 if match.group(2) is None else last - first
            for start, term in enumerate(self._terms(*match.groups()), first):
                found.append(PlacedTerm(term, places[start], places[min(start + width, last) - 1] + 1))
        return found

    def _terms(self, unspaced: str, word: str | None) -> Iterable[str]:
        if word is not None:
            return () if word in self._stop else (self._stem(word),)
        return (unspaced,) if len(unspaced) == 1 else map("".join, pairwise(unspaced))

    def numbers(self, terms: Sequence[str]) -> list[int]:
        """Return the number of each term, from 0 to 2³¹ - 1."""
        numbers = self._numbers
        if len(numbers) > _KEPT_TERMS:
            numbers.clear()
        for term in terms:
            if term not in numbers:
                numbers[term] = term_number(term)
        return [numbers[term] for term in terms]

    @property
    def fingerprint(self) -> str:
        """The sha256 of the terms of a fixed text: another version of a library may give others."""
        terms = self.of(_PROBE)
        return digest([terms, self.numbers(terms)])

    def _stem(self, word: str) -> str:
        if self._stemmer is None:
            return word
        stem = self._stems.get(word)
        if stem is None:
            if len(self._stems) > _KEPT_TERMS:
                self._stems.clear()
            stem = self._stems[word] = self._stemmer.stemWord(word)
        return stem


def term_number(term: str) -> int:
    """Return the number of a term: the first 31 bits of its hash."""
    return int.from_bytes(blake2b(term.encode("utf-8", "surrogatepass"), digest_size=4).digest(), "big") >> 1


def usual_stop_words(language: str) -> list[str]:
    """Return the stop words of a language; none where there is no list of them."""
    return libraries.stop_words(language) if language in libraries.listed_languages() else []


def detect_language(texts: Iterable[str], least: float = 0.1) -> str:
    """Return the language whose stop words are the largest share of the words, `none` if that is below `least`."""
    languages = sorted(set(libraries.stemmed_languages()) & set(libraries.listed_languages()))
    lists = {language: set(libraries.stop_words(language)) for language in languages}
    counts = Counter(chain.from_iterable(_words(_folded(text)) for text in texts))
    found = {language: sum(counts[word] for word in stop_words) for language, stop_words in lists.items()}
    best = max(found, key=lambda language: found[language])
    return best if counts and found[best] >= least * counts.total() else NO_LANGUAGE


def _words(text: str) -> list[str]:
    return [word for _, word in _pattern().findall(text) if word]


def _folded(text: str) -> str:
    """Return a text without differences of width and case."""
    return unicodedata.normalize("NFKC", text).casefold()


def _folded_with_places(text: str) -> tuple[str, Sequence[int]]:
    """Return a text as `_folded` does, and for each of its characters the place of the one that it comes from.

    No places where the text cannot be folded character by character.
    """
    folded = _folded(text)
    if text.isascii():
        return folded, range(len(text))
    places: list[int] = []
    pieces: list[str] = []
    start = 0
    for end in range(1, len(text) + 1):
        if end == len(text) or not unicodedata.combining(text[end]):  # marks are folded with their letter
            pieces.append(_folded(text[start:end]))
            places += [start] * len(pieces[-1])
            start = end
    return folded, places if "".join(pieces) == folded else []


@cache
def _pattern() -> re.Pattern[str]:
    """Return the pattern of a run of characters without spaces between words (group 1), or of a word (group 2)."""
    # Python's \w lacks the marks that are a part of words in Hindi, Tamil and others
    marks = "".join(chr(code) for code in range(0x300, 0x10000) if unicodedata.category(chr(code)) in ("Mn", "Mc"))
    letters = rf"[^\W_{_UNSPACED}]"
    return re.compile(rf"([{_UNSPACED}]+)|({letters}+(?:[{marks}]+{letters}*)*)")


def _stemmer(language: str) -> libraries.WordStemmer | None:
    if language == NO_LANGUAGE:
        return None
    if language not in (known := libraries.stemmed_languages()):
        expected = [NO_LANGUAGE, *known]
        unknown = violation("FT-LEX-001", where="terms", field="language", found=language, expected=expected)
        raise Refused("reading terms", [unknown])
    return libraries.stemmer(language)
