"""The libraries of stems and stop words, with types."""

# pyright: basic
# PyStemmer and stop-words have no type information.
from __future__ import annotations

from typing import Protocol


class WordStemmer(Protocol):
    """A stemmer of one language."""

    def stemWord(self, word: str) -> str:  # noqa: N802 - the library's name
        """Return the stem of a word."""
        ...


def stemmed_languages() -> list[str]:
    """Return the languages that have a stemmer."""
    import Stemmer

    return sorted(Stemmer.algorithms())


def stemmer(language: str) -> WordStemmer:
    """Return the Snowball stemmer of one of these languages."""
    import Stemmer

    return Stemmer.Stemmer(language)


def listed_languages() -> list[str]:
    """Return the languages that have a list of stop words."""
    from stop_words import AVAILABLE_LANGUAGES

    return sorted(AVAILABLE_LANGUAGES)


def stop_words(language: str) -> list[str]:
    """Return the stop words of one of these languages."""
    from stop_words import get_stop_words

    return sorted(set(get_stop_words(language)))
